"""Each check of captioners notices the part that fails it, and no other does; the registry finds them by name."""

from __future__ import annotations

import random
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from codecdiff_datasets.captioner import Captioner, Usage
from codecdiff_datasets.testing import CHECKS, check_captioner
from typer.testing import CliRunner

from codecdiff import registry
from codecdiff.cli import check
from codecdiff.cli.main import app

ROOT = Path(__file__).parents[3]
BAD: list[type[Captioner]] = []


def fails(*checks: str) -> Callable[[type], type]:
    """Mark a captioner as one that fails exactly these checks."""

    def marked(part: Any) -> type:
        part.fails = set(checks)
        BAD.append(part)
        return part

    return marked


TRACKS = [{"track": "a", "title": "one"}, {"track": "b", "title": "two"}]


class Titles(Captioner):
    """The title of a track."""

    concurrency = 3
    fails: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def caption(self, track: Mapping[str, Any]) -> str:
        if not track.get("title"):
            raise LookupError("It has no title.")
        self.asked[track["title"]] = self.asked.get(track["title"], 0) + 1
        return f"Called {track['title']}"


@fails("options")
class Unfounded(Titles):
    """An option that it has not is incidental."""

    incidental = ("speed",)


@fails("estimate")
class Expensive(Titles):
    """To foresee the cost, it asks."""

    def usage(self) -> Usage:
        return Usage(requests=1)


@fails("one-line-of-text")
class Wordy(Titles):
    """Two lines."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return f"{super().caption(track)}\nby nobody"


@fails("tells-tracks-apart")
class Uniform(Titles):
    """One caption for all."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return super().caption(track)[:6]


@fails("deterministic")
class Twice(Titles):
    """The third time that it is called, it says so: the first two are the captions of the two tracks."""

    def caption(self, track: Mapping[str, Any]) -> str:
        said = super().caption(track)
        return f"{said} again" if sum(self.asked.values()) == 3 else said


@fails("threads")
class Threaded(Titles):
    """In a thread, it says something else."""

    def caption(self, track: Mapping[str, Any]) -> str:
        main = threading.current_thread() is threading.main_thread()
        return super().caption(track) + ("" if main else "!")


@fails("inputs-untouched")
class Marking(Titles):
    """It counts in the track itself."""

    def caption(self, track: Mapping[str, Any]) -> str:
        said = super().caption(track)
        cast(dict, track)["asked"] = self.asked[track["title"]]
        return said


@fails("unknown-track")
class Careless(Titles):
    """It captions what it knows nothing of."""

    def caption(self, track: Mapping[str, Any]) -> str:
        return f"Called {track.get('title')}"


@fails("no-global-randomness")
class Whimsical(Titles):
    """It draws from the global generator."""

    def caption(self, track: Mapping[str, Any]) -> str:
        random.random()
        return super().caption(track)


def test_a_good_captioner_passes_every_check() -> None:
    results = check_captioner(Titles(), deepcopy(TRACKS))
    assert [result.check.name for result in results] == list(CHECKS.by_name)
    assert {result.state for result in results} == {"passed"}


@pytest.mark.parametrize("part", BAD, ids=lambda part: part.__name__)
def test_a_bad_captioner_fails_the_checks_it_should_and_no_other(part: Any) -> None:
    with pytest.raises(AssertionError) as raised:
        check_captioner(part(), deepcopy(TRACKS))
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{part.__name__} fails {len(part.fails)} of the {len(CHECKS.by_name)} checks of captioners:"
    assert {line.split(":")[0].strip() for line in lines[1:]} == part.fails


def test_each_check_has_a_captioner_that_fails_it_alone() -> None:
    assert {check.name for check in CHECKS} == {check for part in BAD for check in cast(Any, part).fails}
    assert all(len(cast(Any, part).fails) == 1 for part in BAD)


@pytest.fixture
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install Titles and a bad captioner, as a third party's package would."""
    folder = tmp_path / "site" / "strange-1.0.dist-info"
    folder.mkdir(parents=True)
    lines = ["[codecdiff.captioners]", "titles = strange:Titles", "uniform = strange:Uniform"]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.setitem(sys.modules, "strange", sys.modules[__name__])
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(check.out, "width", 400)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


@pytest.mark.usefixtures("_registered")
def test_the_command_checks_a_captioner_by_its_name() -> None:
    result = CliRunner().invoke(app, ["check", "titles"])
    assert result.exit_code == 0, result.output
    assert "checked with 2 tracks" in result.output
    assert f"{len(CHECKS.by_name)} passed, 0 failed." in result.output
    result = CliRunner().invoke(app, ["check", "uniform"])
    assert result.exit_code == 1
    assert "All tracks have the same caption" in result.output


def test_the_page_lists_the_checks_as_they_are() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    section = page.split("\n### Captioners\n")[1].split("\n### ")[0].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, flags=re.M)
    assert rows == [(check.name, check.text) for check in CHECKS]


def test_the_kind_is_registered_by_its_entry_point() -> None:
    assert "captioners" in registry.kinds()
    assert registry.entries("kinds")["captioners"].distribution == "codecdiff-datasets"
    assert registry.interface("captioners") is Captioner
    for plugin in registry.installed("captioners"):
        assert issubclass(plugin.load(), Captioner)


def test_a_captioner_without_its_kind_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "strange-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[codecdiff.captioners]\ntitles = strange:Titles\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    registry.scan.cache_clear()
    try:
        (issue,) = registry.scan().issues
        assert issue.hint == registry.install_command("codecdiff-datasets")
        with pytest.raises(registry.UnknownPart, match="comes with codecdiff-datasets: pip install"):
            registry.find("captioners", "titles")
        answer = CliRunner().invoke(app, ["data", "stats"])
        assert "No command named 'data'" in answer.output
        assert "It comes with codecdiff-datasets: pip install" in answer.output
    finally:
        registry.scan.cache_clear()
