import json
import math
import re
from html.parser import HTMLParser

import pytest
import soundfile
import torch
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, NOISE
from codecdiff_eval.report import write_report
from codecdiff_eval.results import Estimate, TargetResult
from codecdiff_starter.evaluation import COMPARED, COMPOSED, DEMO, ORACLE, SHIPPED, DemoExample, loss_targets
from codecdiff_starter.report import (
    SHIPPED_PROMPTS,
    demo_report,
    shipped_players,
    target_text,
    targets_table,
    write_players,
)

from codecdiff.training import read_logs

RATE = 44_100
NASTY = "<script>alert(\"1\")</script> & 'so on'"


def estimate(value):
    return Estimate(value, 0.9 * value, 1.1 * value)


def tone(hertz):
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)


@pytest.fixture
def examples():
    return example_clips()


@pytest.fixture
def details():
    return example_details()


def example_clips():
    names = (COMPOSED, CODEC_RECONSTRUCTION, ORACLE, GENERATED)
    clips = {name: tone(440)[None] for name in names}
    return [DemoExample(NASTY, True, clips), DemoExample("", False, {NOISE: tone(99)[None]})]


def example_details():
    """What an evaluation measured, of a model of two stages."""
    parts = {"chance": 0.25, "accuracy": 0.5, "upper bound": 0.75, "score": estimate(0.5)}
    nearest = {"to training clips": 3.0, "to fresh clips": 3.1, "ratio": estimate(0.97)}
    logs = {
        stage: [
            {"step": s, "loss": 1 / s, "validation_loss": 2 / s, "zero_predictor_loss": 2.0, "seconds": s}
            for s in (1, 2, 4)
        ]
        for stage in ("primary", "<b>secondary")
    }
    probes = ("all", "unseen combinations", "seen combinations", "permuted")
    distances = (*COMPARED, "generated ratio", "noise ratio")
    return {
        "composer version": 1,
        "options": {"clips": 64, "seconds": 5.0, "seed": 7, "steps": None, "guidance": None},
        "frechet distance": {name: estimate(10.0 + i) for i, name in enumerate(distances)},
        "probes": {"parts": {"drums": parts}, **{name: estimate(0.5) for name in probes}},
        "memorization": {GENERATED: nearest, CODEC_RECONSTRUCTION: nearest},
        "evaluation_seconds": {"decoding": 12.0},
        "memory": 1.5,
        "logs": logs,
    }


def write_page(folder, details, examples):
    players, targets = write_players(folder, examples, RATE), loss_targets(details["logs"], DEMO)
    report = demo_report(targets, details, players, "python -m codecdiff_starter.demo 'runs/<demo>'")
    return write_report(report, folder).read_text(encoding="utf-8")


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


def test_prompts_stages_and_commands_are_escaped(tmp_path, details, examples):
    text = write_page(tmp_path, details, examples)
    elements = Elements(text)
    assert len(elements.of("script")) == 1
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; &#39;so on&#39;" in text
    assert "&lt;b&gt;secondary" in text
    assert "runs/&lt;demo&gt;" in text


def test_the_page_opens_with_the_shipped_model_and_says_so(tmp_path, details, examples):
    players, shipped = write_players(tmp_path, examples, RATE), shipped_players(tmp_path, SHIPPED_PROMPTS[:1], 0.5)
    page = write_report(demo_report([], details, players, "command", shipped), tmp_path).read_text(encoding="utf-8")
    elements = Elements(page)
    first = elements.of("audio")[0]
    assert first["src"] == "samples/shipped-00.wav"
    assert SHIPPED_PROMPTS[0] in first["aria-label"]
    assert soundfile.info(tmp_path / first["src"]).duration == pytest.approx(0.5, abs=1e-3)
    assert page.index("The model that comes with codecdiff") < page.index("The model trained here")
    assert "shipped with the package" in page


def test_every_example_has_a_player_whose_file_exists(tmp_path, details, examples):
    players = Elements(write_page(tmp_path, details, examples)).of("audio")
    assert len(players) == sum(len(example.clips) for example in examples)
    assert {player["src"] for player in players} == {f"samples/{f.name}" for f in (tmp_path / "samples").iterdir()}
    for player in players:
        audio, rate = soundfile.read(tmp_path / player["src"])
        assert (len(audio), rate) == (RATE, RATE)


def test_the_page_loads_nothing_from_elsewhere(tmp_path, details, examples):
    text = write_page(tmp_path, details, examples)
    assert not re.search(r"https?://|url\(|@import", text)
    assert {image["src"][:22] for image in Elements(text).of("img")} == {"data:image/png;base64,"}


def test_a_page_of_a_model_with_one_stage_and_no_logs_is_written_too(tmp_path, details, examples):
    details["logs"] = {}
    del details["frechet distance"][ORACLE]
    examples = [each._replace(clips={n: c for n, c in each.clips.items() if n != ORACLE}) for each in examples]
    Elements(write_page(tmp_path, details, examples))


def test_samples_are_named_by_number_and_set_alone(tmp_path, examples):
    players = [player for card in write_players(tmp_path, examples, RATE) for player in card.players]
    assert [player.path for player in players] == [
        "samples/00-generated.wav",
        "samples/00-oracle-first-stage.wav",
        "samples/00-codec-reconstruction.wav",
        "samples/00-composed.wav",
        "samples/01-noise.wav",
    ]
    assert [player.generated for player in players] == [True, False, False, False, False]


def test_bounds_and_intervals_are_written_for_people():
    result = TargetResult("f", 1.0, 0.5, 2.0, at_least=0.9, at_most=3.0)
    assert targets_table([result]).rows[0][:4] == ("f", "1.00", "0.500 to 2.00", "0.900 to 3.00")
    assert target_text(TargetResult("f", 1.0, at_most=3.0)) == "≤ 3.00"
    assert target_text(TargetResult("f", 1.0, at_least=3.0)) == "≥ 3.00"
    assert target_text(TargetResult("f", 1.0)) == ""


def test_a_result_passes_between_its_bounds_and_nan_never_does():
    assert TargetResult("f", 1.0, at_least=1.0, at_most=1.0).passed
    assert not TargetResult("f", 0.9, at_least=1.0).passed
    assert not TargetResult("f", 1.1, at_most=1.0).passed
    assert not TargetResult("f", math.nan, at_most=1.0).passed
    assert TargetResult("f", 5.0).passed is None


def test_the_last_validation_loss_of_each_stage_is_compared_with_its_target(tmp_path):
    lines = [
        {"step": 1, "validation_loss": 1.0, "zero_predictor_loss": 1.0},
        {"step": 2, "validation_loss": 0.75, "zero_predictor_loss": 1.0},
    ]
    for stage in ("primary", "secondary"):
        (tmp_path / stage).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3, "loss": 0.1, "validation_loss": None}])
        (tmp_path / stage / "log.jsonl").write_text(text)
    logs = read_logs(tmp_path, ["primary", "secondary", "never-trained"])
    assert [result.value for result in loss_targets(logs, DEMO)] == [0.75, 0.75]
    assert [result.passed for result in loss_targets(logs, DEMO)] == [False, True]
    assert SHIPPED.probe_score > DEMO.probe_score
