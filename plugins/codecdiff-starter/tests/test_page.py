import json
import math
import re
from html.parser import HTMLParser

import pytest
import soundfile
import torch
from codecdiff_starter.demo import finite, write_samples
from codecdiff_starter.evaluation import DEMO, SHIPPED, Example, Figure, loss_figures
from codecdiff_starter.page import interval, target, write_page

from codecdiff.pictures import number
from codecdiff.training.trainer import read_logs

RATE = 44_100
NASTY = "<script>alert(\"1\")</script> & 'so on'"


def estimate(value):
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def tone(hertz):
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)


@pytest.fixture
def folder(tmp_path):
    """The demo's folder, without a page yet, and its report."""
    kinds = ("composed", "held_out", "true_primary", "generated")
    examples = [Example(NASTY, kind, True, tone(440)) for kind in kinds] + [Example("", "noise", False, tone(99))]
    parts = {"chance": 0.25, "accuracy": 0.5, "ceiling": 0.75, "score": estimate(0.5)}
    near = {"nearest_training": 3.0, "nearest_fresh": 3.1, "ratio": estimate(0.97)}
    logs = {
        stage: [
            {"step": s, "loss": 1 / s, "validation_loss": 2 / s, "zero_predictor_loss": 2.0, "seconds": s}
            for s in (1, 2, 4)
        ]
        for stage in ("primary", "<b>secondary")
    }
    probes = ("mean", "least", "unseen_combinations", "seen_combinations", "shuffled")
    distances = ("held_out", "true_primary", "generated", "noise", "generated_ratio", "noise_ratio")
    report = {
        "command": "python -m codecdiff_starter.demo 'runs/<demo>'",
        "composer_version": 1,
        "seed": 7,
        "clips": 64,
        "seconds": 5.0,
        "steps": None,
        "guidance": None,
        "figures": [figure.row() for figure in loss_figures(logs, DEMO)],
        "frechet_distance": {name: estimate(10.0 + i) for i, name in enumerate(distances)},
        "probes": {"parts": {"drums": parts}, **{name: estimate(0.5) for name in probes}},
        "memorising": {"generated": near, "held_out": near},
        "evaluation_seconds": {"decoding": 12.0},
        "peak_memory": 1.5,
        "samples": write_samples(tmp_path, examples, RATE),
        "logs": logs,
    }
    return tmp_path, report


class Elements(HTMLParser):
    """The elements of a page, with a check that they are properly nested."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_prompts_stages_and_commands_are_escaped(folder):
    text = write_page(*folder).read_text(encoding="utf-8")
    elements = Elements(text)
    assert len(elements.of("script")) == 1
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#x27;so on&#x27;" in text
    assert "&lt;b&gt;secondary" in text
    assert "runs/&lt;demo&gt;" in text


def test_every_sample_has_a_player_whose_file_exists(folder):
    path, report = folder
    players = Elements(write_page(path, report).read_text(encoding="utf-8")).of("audio")
    assert sorted(player["src"] for player in players) == sorted(sample["path"] for sample in report["samples"])
    for player in players:
        audio, rate = soundfile.read(path / player["src"])
        assert (len(audio), rate) == (RATE, RATE)


def test_the_page_loads_nothing_from_elsewhere(folder):
    text = write_page(*folder).read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    assert {image["src"][:22] for image in Elements(text).of("img")} == {"data:image/png;base64,"}


def test_a_page_of_a_model_with_one_stage_and_no_logs_is_written_too(folder):
    path, report = folder
    report["logs"] = {}
    del report["frechet_distance"]["true_primary"]
    report["samples"] = [sample for sample in report["samples"] if sample["kind"] != "true_primary"]
    Elements(write_page(path, report).read_text(encoding="utf-8"))


def test_samples_are_named_by_number_and_kind_alone(folder):
    _, report = folder
    assert [sample["path"] for sample in report["samples"]] == [
        "samples/00-composed.wav",
        "samples/00-held_out.wav",
        "samples/00-true_primary.wav",
        "samples/00-generated.wav",
        "samples/01-noise.wav",
    ]


def test_numbers_bounds_and_intervals_are_written_for_people():
    assert [number(v) for v in (1289.6, 2.4178, -0.1, -0.001, None)] == ["1,290", "2.42", "−0.10", "0.00", "–"]
    figure = Figure("f", 1.0, 0.5, 2.0, at_least=0.9, at_most=3.0).row()
    assert (interval(figure), target(figure)) == ("0.50 to 2", "0.90 to 3")
    assert target(Figure("f", 1.0, at_most=3.0).row()) == "≤ 3"
    assert target(Figure("f", 1.0, at_least=3.0).row()) == "≥ 3"


def test_a_figure_passes_between_its_bounds_and_nan_never_does():
    assert Figure("f", 1.0, at_least=1.0, at_most=1.0).passed
    assert not Figure("f", 0.9, at_least=1.0).passed
    assert not Figure("f", 1.1, at_most=1.0).passed
    assert not Figure("f", math.nan, at_most=1.0).passed
    assert Figure("f", 5.0).passed is None


def test_the_last_held_out_loss_of_each_stage_is_held_to_its_target(tmp_path):
    lines = [
        {"step": 1, "held_out": 1.0, "held_out_baseline": 1.0},
        {"step": 2, "held_out": 0.75, "held_out_baseline": 1.0},
    ]
    for stage in ("primary", "secondary"):
        (tmp_path / stage).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3, "loss": 0.1, "held_out": None}])
        (tmp_path / stage / "log.jsonl").write_text(text)
    logs = read_logs(tmp_path, ["primary", "secondary", "never-trained"])
    assert [figure.value for figure in loss_figures(logs, DEMO)] == [0.75, 0.75]
    assert [figure.passed for figure in loss_figures(logs, DEMO)] == [False, True]
    assert SHIPPED.probe_mean > DEMO.probe_mean


def test_a_report_holds_no_number_that_json_does_not_know():
    assert finite({"a": [math.nan, 1.0, {"b": math.inf}], "c": "nan"}) == {"a": [None, 1.0, {"b": None}], "c": "nan"}
