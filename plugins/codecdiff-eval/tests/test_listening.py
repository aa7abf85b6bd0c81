"""Listening tests: clips are matched and brought to one loudness, the page is blind, votes are counted right."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_eval.listening.builder import ListeningTest, low_passed, matched
from codecdiff_eval.listening.systems import REFERENCE, System, match_items, read_systems
from codecdiff_eval.listening.votes import VoteAnalysis, crossed_interval, read_votes
from codecdiff_eval.report import Report, write_report
from scipy.stats import binomtest
from scipy.stats import t as student_t
from torch import Tensor
from typer.testing import CliRunner

from codecdiff.cli.main import app
from codecdiff.data.audio import write_audio
from codecdiff.data.loudness import integrated_loudness, true_peak
from codecdiff.errors import InvalidValue
from codecdiff.pipeline import GenerationRequest

RATE = 16_000


def sound(seed: int, seconds: float = 1.5, level: float = 0.1) -> Tensor:
    noise = torch.randn((1, round(seconds * RATE)), generator=torch.Generator().manual_seed(seed))
    return level * noise / noise.abs().max()


def write_clips(folder: Path, prompts: dict[str, str], level: float = 0.1) -> Path:
    """Write a clip for each name as `generate` does, with its prompt in its comment."""
    folder.mkdir(parents=True)
    for i, (name, prompt) in enumerate(prompts.items()):
        request = GenerationRequest(codecdiff="0.1.0", model="", prompt={"text": prompt})
        write_audio(folder / name, sound(i, 1.5 + 0.1 * i, level), RATE, comment=request.comment())
    return folder


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["listen", *map(str, words)])
    assert "Traceback" not in result.output, result.output
    return " ".join(result.output.split())


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def audio_of(uri: str) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.split(",")[1])), dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate


# Which clips belong together.


def test_files_of_one_name_are_one_item_and_others_are_left_out(tmp_path: Path) -> None:
    a = write_clips(tmp_path / "a", {"1.wav": "a waltz", "2.wav": "a tune", "3.wav": "drums"})
    b = write_clips(tmp_path / "b", {"1.flac": "a waltz", "2.flac": "another tune"})
    items = match_items(read_systems([a, b])[0])
    assert [(item.name, item.prompt) for item in items] == [("1", "a waltz"), ("2", "")]
    assert items[0].files == {"a": a / "1.wav", "b": b / "1.flac"}


def test_files_of_other_names_are_matched_by_prompt(tmp_path: Path) -> None:
    a = write_clips(tmp_path / "a", {"waltz-1.wav": "a waltz", "waltz-2.wav": "a waltz", "tune-4.wav": "a tune"})
    b = write_clips(tmp_path / "b", {"x.wav": "a tune", "y.wav": "a waltz", "z.wav": "a waltz"})
    items = {item.name: item.files for item in match_items(read_systems([a, b])[0])}
    assert items == {
        "a tune": {"a": a / "tune-4.wav", "b": b / "x.wav"},
        "a waltz": {"a": a / "waltz-1.wav", "b": b / "y.wav"},
        "a waltz (2)": {"a": a / "waltz-2.wav", "b": b / "z.wav"},
    }


def test_folders_of_one_name_are_told_apart_and_unrelated_ones_are_refused(tmp_path: Path) -> None:
    a = write_clips(tmp_path / "one" / "clips", {"1.wav": "a waltz"})
    b = write_clips(tmp_path / "two" / "clips", {"1.wav": "a waltz"})
    assert [system.name for system in read_systems([a, b])[0]] == ["one/clips", "two/clips"]
    c = write_clips(tmp_path / "c", {"9.wav": "drums"})
    with pytest.raises(InvalidValue, match="no clip in common"):
        match_items(read_systems([a, c])[0])
    with pytest.raises(InvalidValue, match="Two systems"):
        read_systems([a, a])


def test_the_report_of_a_folder_has_no_clips(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text('{"rows": []}')
    with pytest.raises(InvalidValue, match="is the report of a folder of audio: name that folder instead"):
        read_systems([tmp_path / "report"])


# The page.


def test_clips_of_an_item_have_one_loudness_and_length_and_no_peak_over_full_scale() -> None:
    spiky = sound(1, 2.0, 0.02)
    spiky[0, 100] = 0.9
    clips = {"soft": (sound(2, 3.0, 0.01), RATE), "spiky": (spiky, RATE), "fast": (sound(3, 2.5, 0.3), 2 * RATE)}
    clips["silent"] = (torch.zeros(1, 3 * RATE), RATE)
    result = matched(clips, -16)
    assert {round(audio.shape[1] / rate, 6) for audio, rate in result.values()} == {1.25}
    levels = [integrated_loudness(*result[name]) for name in ("soft", "spiky", "fast")]
    assert max(levels) - min(levels) < 0.1
    assert max(levels) < -16.5  # the spike leaves no room for more
    assert all(float(true_peak(audio).max()) <= 10 ** (-1 / 20) + 1e-4 for audio, _ in result.values())
    assert not result["silent"][0].any()
    louder = matched({"soft": clips["soft"], "fast": clips["fast"]}, -23)
    assert [integrated_loudness(*each) for each in louder.values()] == pytest.approx([-23, -23], abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_the_anchor_lacks_what_is_above_3500_hz(rate: int) -> None:
    times = torch.arange(rate) / rate
    for hertz in (100, 1000, 3000, 3150, *((3400, 4000, 4500, 6000) if rate > 8000 else ())):
        tone = torch.sin(2 * torch.pi * hertz * times)
        filtered = low_passed(tone[None], rate)[0, rate // 4 : -rate // 4]
        change_db = 20 * math.log10(float(filtered.std() / tone.std()))
        assert abs(change_db) < 0.11 if hertz < 3500 else change_db < -25, (hertz, change_db)
        if hertz == 1000:  # phases stay
            assert torch.allclose(filtered, tone[rate // 4 : -rate // 4], atol=0.015)


def test_the_page_is_one_file_that_is_escaped_and_loads_nothing(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script> & 'x'"
    a = write_clips(tmp_path / "a", {"1.wav": nasty, "2.wav": "b"}, level=0.02)
    b = write_clips(tmp_path / "b", {"1.wav": nasty, "2.wav": "b"}, level=0.4)
    said = run(a, b, "-o", tmp_path / "test.html", "--title", "<b>Which?</b>")
    assert "2 items, 2 rounds" in said
    page = (tmp_path / "test.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>Which?" not in page
    assert not re.search(r"https?://|url\(|@import|src=", page)
    data = data_of(page)
    assert data["systems"] == ["a", "b"]
    assert [item["prompt"] for item in data["items"]] == [nasty, "b"]
    for item in data["items"]:
        levels = [integrated_loudness(*audio_of(uri)) for uri in item["clips"].values()]
        assert max(levels) - min(levels) < 0.1
    assert "2 items, 2 rounds" in run(a, b, "-o", tmp_path / "test.html", "--title", "<b>Which?</b>")  # the same test
    assert "exists already" in run(a, b, "-o", tmp_path / "test.html")
    same = tmp_path / "folder"
    run(a, b, "-o", same, "--title", "<b>Which?</b>")
    assert data_of((same / "index.html").read_text(encoding="utf-8"))["test"] == data["test"]
    run(a, b, "-o", same, "--force", "--n", 1)
    assert len(data_of((same / "index.html").read_text(encoding="utf-8"))["items"]) == 1


def test_mushra_has_a_hidden_reference_and_an_anchor(tmp_path: Path) -> None:
    a = write_clips(tmp_path / "a", {"1.wav": "b"})
    music = write_clips(tmp_path / "music", {"1.wav": "b"}, level=0.3)
    run(a, "--mode", "mushra", "--reference", music, "-o", tmp_path / "test.html")
    data = data_of((tmp_path / "test.html").read_text(encoding="utf-8"))
    assert data["systems"] == ["a", "reference", "anchor"]
    clips = {name: audio_of(uri)[0] for name, uri in data["items"][0]["clips"].items()}
    spectrum = {name: torch.fft.rfft(audio[0]).abs() for name, audio in clips.items()}
    cut = round(5000 / (RATE / 2) * len(spectrum["anchor"]))
    assert float(spectrum["anchor"][cut:].square().sum()) < 1e-3 * float(spectrum["reference"][cut:].square().sum())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "-o", "t.html"), "compares two systems or more"),
        (("a", "b", "--mode", "mushra", "-o", "t.html"), "add --reference FOLDER"),
        (("a", "b", "--mode", "abx", "-o", "t.html"), "is not one of 'ab', 'mushra'"),
        (("a", "b"), "Name the page to write"),
        (("a", "b", "-o", "t.html", "--n", "9"), "Invalid --n 9: there are 1 items"),
        (("a", "none", "-o", "t.html"), "does not exist"),
        (("--analyze", "none.json"), "'none.json' does not exist"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_clips(tmp_path / name, {"1.wav": "x"})
    assert said in run(*words)


# What the votes say.


def vote_files(folder: Path, mode: str, systems: list[str], votes: dict[str, list[dict[str, Any]]]) -> list[Path]:
    head = {"format": 1, "test": "t", "title": "Which <b>?", "mode": mode, "systems": systems}
    for rater, own in votes.items():
        (folder / f"{rater}.json").write_text(json.dumps({**head, "rater": rater, "votes": own}))
    return [folder / f"{rater}.json" for rater in votes]


def pair(item: str, preferred: str | None, order: tuple[str, str] = ("b", "a")) -> dict[str, Any]:
    return {"item": item, "systems": order, "preferred": preferred, "plays": [1, 2], "seconds": 3.5}


def test_win_rates_are_counted_by_rater_and_item(tmp_path: Path) -> None:
    votes = {
        "ann": [pair("1", "a"), pair("2", "b"), pair("3", None), pair("4", "a")],
        "bob": [pair("1", "a", ("a", "b")), pair("2", "a", ("a", "b"))],  # stopped early
    }
    analysis = VoteAnalysis(read_votes(vote_files(tmp_path, "ab", ["a", "b"], votes)))
    overall = analysis.overall()["a over b"]
    assert overall.value == pytest.approx((1 + 0 + 0.5 + 1 + 1 + 1) / 6)
    assert 0 <= overall.low < overall.value < overall.high <= 1
    result = analysis.to_json()
    assert isinstance(result["raters"], dict)
    assert isinstance(result["items"], dict)
    assert result["raters"]["ann"]["a over b"][0] == pytest.approx(2.5 / 4)
    agreed = result["raters"]["bob"]["a over b"]
    exact = binomtest(2, 2).proportion_ci(method="exact")  # two votes that agree do not prove that all would
    assert tuple(agreed) == pytest.approx((1, exact.low, exact.high))
    assert result["items"]["2"]["a over b"][0] == pytest.approx(0.5)
    assert "no preference shown" in str(analysis.overall_table().cells)


def test_many_raters_who_agree_show_a_preference(tmp_path: Path) -> None:
    votes = {f"r{r}": [pair(str(i), "a" if (i + r) % 8 else "b") for i in range(16)] for r in range(6)}
    analysis = VoteAnalysis(read_votes(vote_files(tmp_path, "ab", ["a", "b"], votes)))
    estimate = analysis.overall()["a over b"]
    assert estimate.value == pytest.approx(7 / 8)
    assert 0.75 < estimate.low < 7 / 8 < estimate.high < 1
    assert "the first is preferred" in str(analysis.overall_table().cells)


@pytest.mark.parametrize(("raters", "items"), [(3, 8), (8, 12), (12, 1), (1, 10)])
def test_intervals_hold_for_other_raters_and_items(raters: int, items: int) -> None:
    """95 % of intervals contain the mean over all raters and items that there could be, some of the votes missing."""
    random, hits = torch.Generator().manual_seed(1), []
    for _ in range(1000):
        effects = [torch.randn(shape, generator=random) for shape in ((raters, 1), (1, items), (raters, items))]
        of_raters, of_items = 8 * effects[0] * (raters > 1), 8 * effects[1] * (items > 1)
        values = 60 + of_raters + of_items + 10 * effects[2]
        values[torch.rand(values.shape, generator=random) < 0.1] = math.nan
        _, low, high = crossed_interval(values)
        hits.append(low <= 60 <= high)
    assert 0.935 < sum(hits) / len(hits) < 0.98


def test_an_interval_over_raters_or_over_items_is_that_of_student() -> None:
    scores = torch.tensor([55.0, 60, 72, 40, 66])
    half = student_t.ppf(0.975, 4) * float(scores.std()) / math.sqrt(5)
    expected = pytest.approx((58.6, 58.6 - half, 58.6 + half))
    assert tuple(crossed_interval(scores[None])) == expected
    assert tuple(crossed_interval(scores[:, None])) == expected
    assert tuple(crossed_interval(scores[:1, None])) == (55, -math.inf, math.inf)


def test_scores_of_two_systems_are_compared_by_their_differences(tmp_path: Path) -> None:
    def scores(rater: int, item: int) -> dict[str, Any]:
        base = 20 * item + 5 * rater  # raters and items differ much more than systems
        return {"item": str(item), "scores": {"a": base + 6 + (rater + item) % 3, "b": base, REFERENCE: 100}}

    votes = {f"r{r}": [scores(r, i) for i in range(4)] for r in range(3)}
    analysis = VoteAnalysis(read_votes(vote_files(tmp_path, "mushra", ["a", "b", REFERENCE], votes)))
    overall, difference = analysis.overall(), analysis.differences["a - b"]
    assert overall["a"].low < overall["b"].value
    assert difference.value == pytest.approx(7)
    assert 5 < difference.low < 7 < difference.high < 9
    assert list(analysis.differences) == ["a - b"]
    assert "a - b" in run("--analyze", *sorted(tmp_path.glob("*.json")))


def test_scores_have_intervals_and_careless_raters_are_named(tmp_path: Path) -> None:
    def scores(item: int, reference: float) -> dict[str, Any]:
        return {"item": str(item), "scores": {"a": 60 + item, REFERENCE: reference, "anchor": 20}}

    votes = {"ann": [scores(i, 100) for i in range(6)], "bob": [scores(i, 50 if i < 2 else 95) for i in range(6)]}
    files = vote_files(tmp_path, "mushra", ["a", REFERENCE, "anchor"], votes)
    said = run("--analyze", *files, "-o", tmp_path / "report")
    assert "bob scores the hidden reference below 90" in said
    assert "ann scores" not in said
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    value, low, high = report["overall"]["a"]
    assert value == pytest.approx(62.5)
    assert 60 < low < value < high < 65
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Which &lt;b&gt;?" in page
    assert "By rater" in page
    assert "Written" in run("--analyze", *files, "-o", tmp_path / "report")


def test_no_page_of_another_command_is_replaced(tmp_path: Path) -> None:
    files = vote_files(tmp_path, "ab", ["a", "b"], {"ann": [pair("1", "a")]})
    folders = [write_clips(tmp_path / name, {"1.wav": "x"}) for name in ("a", "b")]
    page = write_report(Report("mine", [], kicker="codecdiff · training run"), tmp_path / "run")
    before = {file: file.read_bytes() for file in page.parent.iterdir()}
    for words, own in (("--analyze", *files), "listen"), ((*folders,), "listening test"):
        assert f"of 'training run' that '{own}' would replace" in run(*words, "-o", page.parent)
        assert {file: file.read_bytes() for file in page.parent.iterdir()} == before
    run(*folders, "-o", page.parent, "--force")
    assert "of 'listening test' that 'listen' would replace" in run("--analyze", *files, "-o", page.parent)
    assert "Written" in run("--analyze", *files, "-o", page.parent, "--force")


def test_votes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (first,) = vote_files(tmp_path, "ab", ["a", "b"], {"ann": [pair("1", "a")]})
    again = tmp_path / "again.json"
    again.write_text(first.read_text())
    assert "Two files have votes of 'ann'" in run("--analyze", first, again)
    again.write_text(first.read_text().replace('"test": "t"', '"test": "u"').replace("ann", "bob"))
    assert "belongs to another listening test" in run("--analyze", first, again)
    again.write_text(first.read_text().replace('"ab"', '"abx"'))
    assert "cannot be used: mode" in run("--analyze", again)
    (many,) = vote_files(tmp_path, "ab", [str(i) for i in range(101)], {"eve": [pair("1", "a")]})
    assert "cannot be used: systems" in run("--analyze", many)
    (empty,) = vote_files(tmp_path, "ab", ["a", "b"], {"eve": []})
    assert "hold no votes" in run("--analyze", empty)
    again.write_text(first.read_text().replace('["a", "b"]', '["a", "b", "c"]').replace("ann", "bob"))
    assert "belongs to another listening test" in run("--analyze", first, again)


@pytest.mark.parametrize(
    ("mode", "systems", "vote", "said"),
    [
        ("ab", [], pair("2", "a"), "systems = []: expected at least 2 values"),
        ("ab", ["a"], pair("2", "a"), "systems = ['a']: expected at least 2 values"),
        ("ab", ["a", "a"], pair("2", "a"), "systems = ['a', 'a']: expected different names"),
        (
            "ab",
            ["a", "b"],
            pair("2", "q", ("zz", "yy")),
            "systems = ('zz', 'yy'): expected two different of ['a', 'b']",
        ),
        ("ab", ["a", "b"], pair("2", "a", ("a", "a")), "systems = ('a', 'a'): expected two different of ['a', 'b']"),
        ("ab", ["a", "b"], {"item": "2"}, "systems = None: expected two different of ['a', 'b']"),
        ("ab", ["a", "b"], pair("2", "q"), "preferred = 'q': expected one of the pair ('b', 'a'), or null"),
        ("ab", ["a", "b"], {"item": "2", "systems": ["a", "b"]}, "preferred = None: expected one of the pair"),
        ("ab", ["a", "b"], {"item": "2", "scores": {"a": 5}}, "scores are of mode mushra: expected systems and"),
        ("ab", ["a", "b"], pair("1", "b", ("a", "b")), " is on the same clips of '1' as votes.0: expected one vote"),
        ("mushra", ["a", "b"], pair("2", "a"), "systems and preferred are of mode ab: expected only scores"),
        ("mushra", ["a", "b"], {"item": "2"}, "scores = {}: expected scores of ['a', 'b']"),
        ("mushra", ["a", "b"], {"item": "2", "scores": {"a": 5, "q": 5}}, "expected scores of ['a', 'b']"),
        ("mushra", ["a", "b"], {"item": "1", "scores": {"a": 5}}, " is on the same clips of '1' as votes.0"),
        ("mushra", ["a", "b"], {"item": "2", "scores": {"a": -1}}, "scores.a = -1: expected at least 0"),
        ("mushra", ["a", "b"], {"item": "2", "scores": {"a": 101}}, "scores.a = 101: expected at most 100"),
        ("mushra", ["a", "b"], {"item": "2", "scores": {"a": math.nan}}, "scores.a = nan: expected a finite number"),
    ],
)
def test_a_vote_that_could_not_be_counted_is_refused(
    tmp_path: Path, mode: str, systems: list[str], vote: dict[str, Any], said: str
) -> None:
    counted = pair("1", "a") if mode == "ab" else {"item": "1", "scores": {"a": 60, "b": 40}}
    (file,) = vote_files(tmp_path, mode, systems, {"ann": [counted, vote]})
    result = run("--analyze", file, "-o", tmp_path / "report")
    assert f"{file} cannot be used: {'votes.1' if len(set(systems)) > 1 else 'systems'}" in result
    assert said in result
    assert not (tmp_path / "report").exists()


def test_a_test_needs_as_many_systems_as_its_mode() -> None:
    with pytest.raises(InvalidValue, match="two systems"):
        ListeningTest("t", "ab", [System("a", [])])
