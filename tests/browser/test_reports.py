"""Reports and the listening page in a browser: readable on a phone and a desktop, in light and dark, by anyone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from codecdiff_eval.listening.votes import VoteAnalysis, read_votes
from codecdiff_eval.report import write_report
from pages import DESKTOP, PHONE, overflow, screenshot, serious
from playwright.sync_api import Page
from test_demo_report import example_clips, example_details, write_page
from test_report import EXAMPLES, write_tones
from typer.testing import CliRunner

from codecdiff.cli.main import app

pytestmark = pytest.mark.browser
NewPage = Callable[..., Page]


def write_example(example: Callable, folder: Path) -> Path:
    return write_report(example(folder), folder)


def evaluated(folder: Path) -> Path:
    """Run `codecdiff evaluate` on tones."""
    for name, first in (("made", 1), ("music", 3)):
        write_tones(folder / name, *(f"{i}.wav" for i in range(first, first + 6)))
    words = [folder / "made", "--reference", folder / "music", "--seconds", 1, "-o", folder / "report"]
    result = CliRunner().invoke(app, ["evaluate", *map(str, words), "--metric", "fad", "--metric", "density"])
    assert result.exit_code == 0, result.output
    return folder / "report" / "index.html"


def demo(folder: Path) -> Path:
    write_page(folder, example_details(), example_clips())
    return folder / "index.html"


def votes(folder: Path) -> Path:
    """The report of a listening test of many raters with long names."""
    for r in range(7):
        own = [
            {"item": f"item {i} with a long name", "systems": ["coarse-first", "parallel"], "preferred": "parallel"}
            for i in range(r, 9)
        ]
        file = {"format": 1, "test": "t", "title": "Which is better?", "mode": "ab", "rater": f"rater-{r}"}
        (folder / f"{r}.json").write_text(json.dumps({**file, "systems": ["coarse-first", "parallel"], "votes": own}))
    analysis = VoteAnalysis(read_votes(sorted(folder.glob("*.json"))))
    return write_report(analysis.report(), folder / "report", analysis.to_json())


MAKERS = [*EXAMPLES, evaluated, demo, votes]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_report_can_be_read_by_anyone(make: Callable, new_page: NewPage, tmp_path: Path) -> None:
    file = make(tmp_path) if make in (evaluated, demo, votes) else write_example(make, tmp_path)
    for width in (PHONE, DESKTOP):
        for scheme in ("light", "dark"):
            page = new_page(width, color_scheme=scheme)
            page.goto(file.as_uri())
            assert overflow(page) == 0, (width, scheme)
            assert serious(page) == [], (width, scheme)


def test_players_have_names_and_play_one_at_a_time(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page()
    page.goto(write_example(EXAMPLES[1], tmp_path).as_uri())
    names = [each.get_attribute("aria-label") for each in page.locator("audio").all()]
    assert len(set(names)) == len(names) > 2
    for i in (0, 1):
        page.locator(".spectrogram").nth(i).click()
        page.wait_for_function("i => document.querySelectorAll('audio')[i].currentTime > 0.05", arg=i)
        # a click sets the time at once, and others are paused a moment later
        playing = "i => [...document.querySelectorAll('audio')].every((each, j) => each.paused === (i !== j))"
        page.wait_for_function(playing, arg=i)


def test_legends_are_not_cut_and_large_enough_on_a_phone(new_page: NewPage, tmp_path: Path) -> None:
    for make in EXAMPLES:
        page = new_page(PHONE)
        page.goto(write_example(make, tmp_path / make.__name__).as_uri())
        sizes = page.evaluate(
            """[...document.querySelectorAll('.plot svg text')].map(text =>
                parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""
        )
        assert min(sizes, default=9) >= 8.5
        outside = page.evaluate(
            """[...document.querySelectorAll('.plot svg')].flatMap(svg => {
                const box = svg.parentElement.getBoundingClientRect();
                return [...svg.querySelectorAll('text')].filter(text => {
                    const own = text.getBoundingClientRect();
                    return own.left < box.left - 1 || own.right > box.right + 1;
                }).map(text => text.textContent);
            })"""
        )
        assert outside == []


# The listening page.


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for k, name in enumerate(("one", "other", "music")):
        (tmp_path / name).mkdir()
        for i in range(2):
            times = np.arange(16_000) / 16_000
            soundfile.write(
                tmp_path / name / f"{i}.wav", 0.1 * (k + 1) * np.sin(2 * np.pi * 220 * (i + k + 1) * times), 16_000
            )
    return [tmp_path / name for name in ("one", "other", "music")]


def listening_page(folders: list[Path], *words: str) -> Path:
    file = folders[0].parent / "test.html"
    result = CliRunner().invoke(app, ["listen", *map(str, folders[:2]), "-o", str(file), *words])
    assert result.exit_code == 0, result.output
    return file


def exported(page: Page, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Export votes").click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def test_votes_are_cast_by_keyboard_kept_and_exported(new_page: NewPage, folders: list[Path], tmp_path: Path) -> None:
    file, page = listening_page(folders), new_page()
    page.goto(file.as_uri())
    assert serious(page) == []
    page.keyboard.press("Tab")
    page.keyboard.type("ann <b>")
    page.keyboard.press("Enter")
    assert page.locator("#progress").text_content() == "1 of 2"
    assert page.locator("body").text_content() != ""
    assert not {"one", "other"} & set(page.locator("main").inner_text().split())
    page.keyboard.press("Enter")
    assert "Play A, B first" in (page.locator("#missing").text_content() or "")
    page.keyboard.press("a")
    page.wait_for_function("players[0].audio.currentTime > 0.2")
    page.keyboard.press("b")
    page.wait_for_function("players[0].audio.paused && players[1].audio.currentTime > 0.15")  # from the same position
    page.wait_for_function("!players[1].audio.paused")
    assert page.locator("#missing").text_content() == ""
    page.keyboard.press(" ")
    page.wait_for_function("players.every(each => each.audio.paused)")
    page.keyboard.press("Enter")
    assert "Select which you prefer" in (page.locator("#missing").text_content() or "")
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("B", exact=True).is_checked()
    assert page.locator("#missing").text_content() == ""
    assert serious(page) == []
    screenshot(page, "listening.png")
    preferred = page.evaluate("rounds[0].systems[1]")
    item = page.evaluate("rounds[0].item.name")
    page.keyboard.press("Enter")
    assert page.locator("#progress").text_content() == "2 of 2"
    page.reload()  # votes stay
    assert page.locator("#rater").input_value() == "ann <b>"
    page.get_by_role("button", name="Begin").click()
    assert page.locator("#progress").text_content() == "2 of 2"
    for key in ("a", "b", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.get_by_role("heading", name="Thank you").is_visible()
    votes_file = exported(page, tmp_path)
    (ann,) = read_votes([votes_file])
    assert (ann.rater, ann.mode) == ("ann <b>", "ab")
    assert {vote.item: vote.preferred for vote in ann.votes}[item] == preferred
    assert {vote.item for vote in ann.votes} == {"0", "1"}
    assert [vote.preferred for vote in ann.votes].count(None) == 1
    result = CliRunner().invoke(app, ["listen", "--analyze", str(votes_file)])
    assert "one over other" in result.output
    assert "0.75" in result.output or "0.25" in result.output


def test_scores_are_given_with_a_hidden_reference(new_page: NewPage, folders: list[Path], tmp_path: Path) -> None:
    page = new_page(PHONE, color_scheme="dark")
    page.goto(listening_page(folders, "--mode", "mushra", "--reference", str(folders[2])).as_uri())
    page.get_by_label("Your name").fill("bob")
    page.get_by_role("button", name="Begin").click()
    for _ in range(2):
        assert overflow(page) == 0
        assert serious(page) == []
        for key in "r1234":
            page.keyboard.press(key)
        hidden = page.evaluate("rounds[state.position].systems.indexOf('reference')")
        sliders = page.get_by_role("slider")
        assert sliders.count() == 4
        sliders.nth(hidden).press("End")
        page.get_by_role("button", name="Next").click()
    (bob,) = read_votes([exported(page, tmp_path)])
    assert [vote.scores["reference"] for vote in bob.votes] == [100, 100]
    assert all(vote.scores.keys() == {"one", "other", "reference", "anchor"} for vote in bob.votes)
    analysis = VoteAnalysis([bob])
    assert analysis.overall()["reference"].value == 100
    assert not any("hidden reference" in line for line in analysis.warnings())


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_listening_page_fits(new_page: NewPage, folders: list[Path], width: int) -> None:
    page = new_page(width)
    page.goto(listening_page(folders, "--title", "A very long title " * 4).as_uri())
    assert overflow(page) == 0
    page.get_by_label("Your name").fill("eve")
    page.get_by_role("button", name="Begin").click()
    assert overflow(page) == 0
