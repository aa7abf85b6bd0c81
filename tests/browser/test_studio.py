"""The studio in a browser, as people use it: by mouse and keyboard, on a phone, in the dark, with broken files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pages import DESKTOP, PHONE, SCREENSHOTS, overflow, screenshot, serious
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser
NewPage = Callable[..., Page]
NASTY = "piano <img src=x onerror=alert(1)>"
TABS = ("Generate", "Edit", "Compare", "Model")
RATE = 44_100


def found(page: Page) -> list[str]:
    """Return the violations that axe-core finds on the page, except those of Gradio that docs/studio.md lists."""
    return [line for line in serious(page) if not (line.startswith("nested-interactive") and "toast-header" in line)]


def write_audio(file: Path, seconds: float = 2.0) -> Path:
    times = np.arange(round(seconds * RATE)) / RATE
    chords = sum(np.sin(2 * np.pi * hertz * times) for hertz in (220, 277, 330))
    soundfile.write(file, 0.2 * chords * np.exp(-2 * (times % 0.5)), RATE)
    return file


def open_tab(page: Page, studio: str, name: str) -> Locator:
    """Open the studio and one of its tabs; return what is in it."""
    page.goto(studio)
    page.get_by_role("tab", name=name).click()
    panel = page.get_by_role("tabpanel", name=name)
    return panel if panel.count() else page.locator("[role=tabpanel]:visible")


def set_steps(panel: Locator, number: int = 2) -> None:
    """Ask for so few steps that tests are quick."""
    for accordion in panel.get_by_role("button", name="Sampling").all():
        accordion.click()
    expect(panel.get_by_label("Steps of every stage").first).to_be_visible()  # it is made as it opens
    for field in panel.get_by_label("Steps of every stage").all():
        field.fill(str(number))
        field.blur()


def generate(page: Page, studio: str, prompt: str, length: int = 1, steps: int = 2) -> Locator:
    panel = open_tab(page, studio, "Generate")
    panel.get_by_label("Prompt", exact=True).fill(prompt)
    seconds = panel.get_by_role("spinbutton", name=re.compile("Seconds"))
    seconds.fill(str(length))
    seconds.blur()
    set_steps(panel, steps)
    panel.get_by_role("button", name="Generate", exact=True).click()
    expect(panel.locator("#generate-status")).to_contain_text(f"1 take of {length}.0 s, seed")
    expect(panel.locator(".studio-spectrogram img")).to_be_visible()
    return panel


def test_music_is_generated_played_and_its_command_shown(new_page: NewPage, studio: str) -> None:
    page = new_page()
    panel = generate(page, studio, NASTY)
    expect(panel.get_by_label("Seed")).to_have_value("")  # a new one
    expect(panel.locator(".cm-content")).to_contain_text("codecdiff generate")
    command = panel.locator(".cm-content").inner_text()
    assert re.match(r"codecdiff generate 'piano <img src=x onerror=alert\(1\)>' --model starter --seed \d+", command)
    assert "--seconds 1 --num-inference-steps 2" in command.replace("\n", " ")
    assert page.locator("img[src='x']").count() == 0  # no text became an element
    play = panel.get_by_role("button", name="Play", exact=True)
    play.click()
    expect(panel.locator("#time, time").first).not_to_have_text("0:01")
    expect(panel.get_by_role("button", name="Play", exact=True)).to_be_visible()  # it has played to its end
    assert found(page) == []


def test_a_region_is_edited_compared_with_the_original_and_undone(
    new_page: NewPage, studio: str, tmp_path: Path
) -> None:
    page = new_page(DESKTOP, 1200)
    panel = open_tab(page, studio, "Edit")
    panel.locator("input[type=file]").first.set_input_files(write_audio(tmp_path / "a & <b>.wav"))
    codes = panel.locator(".codes")
    expect(codes).to_be_visible()
    expect(panel.get_by_label("To (s)")).to_have_value("1.333")
    box = codes.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.9 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.4 * box["height"], steps=4)
    page.mouse.up()
    expect(panel.get_by_label("From (s)")).to_have_value(re.compile(r"0\.5|0\.49"))
    expect(panel.get_by_label("To (s)")).to_have_value(re.compile(r"1\.5|1\.49"))
    expect(panel.get_by_label("First level")).to_have_value("0")
    expect(panel.get_by_label("Last level")).to_have_value("5")
    panel.get_by_label("Prompt", exact=True).fill("piano")
    set_steps(panel)
    panel.get_by_role("button", name="Apply").click()
    expect(panel.locator("#edit-status")).to_contain_text("2.00 s, 1 edit.")
    expect(panel.locator(".cm-content")).to_contain_text("codecdiff inpaint")
    command = panel.locator(".cm-content").inner_text().replace("\n", " ")
    assert re.match(r"codecdiff inpaint '?a.*\.wav'? --from 0\.(5|49)", command)
    assert "--levels 0,1,2,3,4,5 --prompt piano" in command
    assert found(page) == []
    screenshot(page, "studio-edit.png", full_page=True)
    play_versions(page, panel)
    panel.get_by_role("button", name="Undo").click()
    expect(panel.locator("#edit-status")).to_contain_text("2.00 s, 0 edits.")
    expect(panel.locator("#versions audio")).to_have_count(1)
    expect(panel.get_by_role("button", name="Undo")).to_be_disabled()
    panel.get_by_label("Extend").click()
    expect(panel.get_by_label("Seconds to append")).to_be_visible()
    expect(panel.get_by_label("From (s)")).to_be_hidden()
    panel.get_by_label("Seconds to append").fill("0.5")
    panel.get_by_label("Seconds to append").blur()
    panel.get_by_role("button", name="Apply").click()
    expect(panel.locator("#edit-status")).to_contain_text(re.compile(r"2\.5\d s, 1 edit\."))
    panel.get_by_role("button", name="Apply").click()
    expect(panel.locator("#edit-status")).to_contain_text(re.compile(r"3\.0\d s, 2 edits\."))
    expect(panel.locator("#versions button")).to_have_text(["A: original", "Before the last edit", "B: result"])


def play_versions(page: Page, panel: Locator) -> None:
    """Listen to the original and the result of an edit, which goes on from the same position, by mouse and keyboard."""
    original, result = (panel.get_by_role("button", name=name) for name in ("A: original", "B: result"))
    state = "[...document.querySelectorAll('#versions audio')].map(each => [each.paused, each.currentTime])"
    page.evaluate("document.querySelectorAll('#versions audio').forEach(each => each.playbackRate = 0.25)")
    original.click()
    page.wait_for_function(f"{state}[0][1] > 0.2")
    expect(original).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("document.querySelector('.playhead').style.display") == "block"
    before = page.evaluate(state)[0][1]
    result.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"!{state}[1][0]")
    (first_paused, _), (_, position) = page.evaluate(state)
    assert first_paused
    assert before <= position < before + 0.5
    expect(result).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")  # the button of what plays pauses it
    expect(result).to_have_attribute("aria-pressed", "false")
    slider = panel.get_by_role("slider", name="Position in seconds")
    slider.fill("1.5")
    assert page.evaluate(state) == [[True, 1.5], [True, 1.5]]
    with page.expect_download() as download:
        panel.get_by_role("link", name="Download starter").click()
    assert soundfile.info(download.value.path()).duration == pytest.approx(2, abs=0.05)


def test_a_generated_waveform_is_opened_for_editing(new_page: NewPage, studio: str) -> None:
    page = new_page()
    generate(page, studio, "piano").get_by_role("button", name="Edit", exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    expect(panel.locator(".codes")).to_be_visible()
    expect(panel.locator("#edit-status")).to_contain_text("1.00 s, 0 edits.")
    expect(panel.get_by_label("Prompt", exact=True)).to_have_value("piano")


def test_progress_counts_the_steps_of_each_stage_and_a_run_can_be_stopped(new_page: NewPage, studio: str) -> None:
    page = new_page()
    panel = open_tab(page, studio, "Generate")
    seconds = panel.get_by_role("spinbutton", name=re.compile("Seconds"))
    seconds.fill("1")
    seconds.blur()
    set_steps(panel, 30)
    page.evaluate(
        r"""window.seen = []; new MutationObserver(() => {
            const text = document.querySelector('[role=tabpanel]').innerText;
            const match = text.match(/(\d+)\/60 steps[^]*Stage (\w+)/);
            if (match) seen.push([Number(match[1]), match[2]]);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });"""
    )
    panel.get_by_role("button", name="Generate", exact=True).click()
    expect(panel.locator("#generate-status")).to_contain_text("1 take")
    seen = page.evaluate("seen")
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert {stage for step, stage in seen if step <= 30} == {"primary"}
    assert {stage for step, stage in seen if step > 30} == {"secondary"}
    assert len({step for step, _ in seen}) > 10
    panel.get_by_label("Steps of every stage").fill("200")
    panel.get_by_label("Steps of every stage").blur()
    panel.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(r"/\d+\/400 steps/.test(document.body.innerText)")
    panel.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("was interrupted in stage")).first).to_be_visible()
    expect(page.get_by_text(re.compile("Without a prompt, the model decides")).first).to_be_visible()
    assert not page.get_by_text("Error", exact=True).all()


def test_two_settings_are_compared_at_one_seed(new_page: NewPage, studio: str) -> None:
    page = new_page(DESKTOP, 1200)
    panel = open_tab(page, studio, "Compare")
    panel.get_by_label("Prompt", exact=True).fill("drums")
    seconds = panel.get_by_role("spinbutton", name=re.compile("Seconds"))
    seconds.fill("1")
    seconds.blur()
    panel.get_by_label("Seed").fill("7")
    panel.get_by_label("Seed").blur()
    set_steps(panel)
    panel.get_by_label("Steps of every stage").nth(1).fill("3")
    panel.get_by_label("Steps of every stage").nth(1).blur()
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator("#compare-status")).to_contain_text("same prompt and seed")
    expect(panel.locator(".studio-spectrogram img")).to_have_count(2)
    expect(panel.locator(".cm-content")).to_have_count(2)
    commands = [each.inner_text().replace("\n", " ") for each in panel.locator(".cm-content").all()]
    assert [re.sub(r"\s+", " ", command).split("--num-inference-steps ")[1] for command in commands] == ["2", "3"]
    assert all("--seed 7" in command for command in commands)
    for title in ("A: starter, num inference steps 2", "B: starter, num inference steps 3"):
        expect(panel.get_by_text(title, exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.wav", b"RIFF of nothing" * 100, "cannot be read as audio"),
        ("<img src=x onerror=alert(1)>.wav", b"no audio", "cannot be read as audio"),
        ("long.wav", None, "is longer than the 4 s"),
        ("cut.flac", b"fLaC", "cannot be read as audio"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_the_page_goes_on(
    new_page: NewPage, studio: str, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    page = new_page()
    panel = open_tab(page, studio, "Edit")
    file = tmp_path / name
    if content is None:
        write_audio(file, 9.0)
    else:
        file.write_bytes(content)
    upload = panel.locator("input[type=file]").first
    upload.set_input_files(file)
    expect(page.get_by_text(re.compile(said)).first).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    page.reload()
    panel = open_tab(page, studio, "Edit")
    panel.locator("input[type=file]").first.set_input_files(write_audio(tmp_path / "good.wav", 0.5))
    expect(panel.locator(".codes")).to_be_visible()


def test_oversized_requests_are_refused_with_a_sentence(new_page: NewPage, studio: str) -> None:
    page = new_page()
    panel = open_tab(page, studio, "Generate")
    set_steps(panel, 100_000)
    panel.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text(re.compile("the studio allows at most 200")).first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_studio_fits_a_phone_in_light_and_dark(new_page: NewPage, studio: str, tmp_path: Path, scheme: str) -> None:
    page = new_page(PHONE, 844, color_scheme=scheme)
    for name in TABS:
        open_tab(page, studio, name)
        page.wait_for_timeout(300)
        assert overflow(page) == 0, name
        assert found(page) == [], name
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 200
    assert is_dark == (scheme == "dark"), background
    panel = open_tab(page, studio, "Edit")
    panel.locator("input[type=file]").first.set_input_files(write_audio(tmp_path / "a.wav", 1.0))
    expect(panel.locator(".codes")).to_be_visible()
    assert overflow(page) == 0
    assert found(page) == []
    panel.locator(".codes").scroll_into_view_if_needed()
    if scheme == "dark":
        screenshot(page, "studio-phone-dark.png")


def test_everything_is_reached_by_keyboard(new_page: NewPage, studio: str) -> None:
    page = new_page()
    page.goto(studio)
    prompt = page.get_by_label("Prompt", exact=True).first
    expect(prompt).to_be_visible()

    def tab_to(target: Locator, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if target.evaluate("each => each === document.activeElement"):
                return
        raise AssertionError(f"{target} is not reached by Tab.")

    tab_to(prompt)
    page.keyboard.type("a tune on flute")
    seconds = page.get_by_role("spinbutton", name=re.compile("Seconds")).first
    tab_to(seconds)
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    tab_to(page.get_by_role("button", name="Sampling").first)
    page.keyboard.press("Enter")
    tab_to(page.get_by_label("Steps of every stage").first)
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    tab_to(page.get_by_role("button", name="Generate", exact=True))
    page.keyboard.press("Enter")
    expect(page.locator("#generate-status")).to_contain_text("1 take of 1.0 s")
    page.reload()
    expect(prompt).to_be_visible()
    tab_to(page.get_by_role("tab", name="Edit"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("Audio to edit").first).to_be_visible()


def test_the_model_is_described(new_page: NewPage, studio: str) -> None:
    page = new_page(DESKTOP, 1200)
    panel = open_tab(page, studio, "Model")
    expect(panel.get_by_text("The starter model of codecdiff")).to_be_visible()
    expect(panel.locator(".cm-content")).to_contain_text("coarse-first: primary, secondary")
    expect(panel.get_by_text("license of the training data").first).to_be_visible()


@pytest.mark.skipif(not SCREENSHOTS, reason="for the documentation")
def test_the_first_screen_is_pictured(new_page: NewPage, studio: str) -> None:
    page = new_page(DESKTOP, 800)
    generate(page, studio, "a slow waltz in A minor on piano", 4, 20)
    screenshot(page, "studio-generate.png", full_page=True)
