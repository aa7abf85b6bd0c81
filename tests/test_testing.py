"""The kit against parts that keep the laws, and parts that break one: each law finds what it is there for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faulty
import pytest
import torch
from typer.testing import CliRunner

from codecdiff import Part, registry
from codecdiff.cli import console
from codecdiff.cli.main import app
from codecdiff.codecs import NormalizedCodec
from codecdiff.config import ConfigError
from codecdiff.splitters import Parallel
from codecdiff.testing import (
    LAWS,
    ExpectedFailure,
    Result,
    check_codec,
    check_conditioner,
    check_denoiser,
    check_embedder,
    check_splitter,
)
from codecdiff.testing.clips import clips
from codecdiff.testing.runner import examination, example_prompts, kind_of

ROOT = Path(__file__).parent.parent
CHECKS: dict[str, Callable[[Any], list[Result]]] = {
    "codecs": lambda part: check_codec(part(), seconds=4.0),
    "splitters": lambda part: check_splitter(part()),
    "conditioners": lambda part: check_conditioner(part()),
    "denoisers": check_denoiser,
    "embedders": lambda part: check_embedder(part()),
}
GOOD: list[tuple[str, type]] = [
    ("codecs", faulty.Sound),
    ("splitters", faulty.Halves),
    ("conditioners", faulty.Letters),
    ("denoisers", faulty.Mixer),
    ("embedders", faulty.Levels),
    ("embedders", faulty.Literate),
]
BAD = [(kind, part) for kind, parts in faulty.FAULTY.items() for part in parts]


def named(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else value


@pytest.mark.parametrize(("kind", "part"), GOOD, ids=named)
def test_a_good_part_keeps_every_law(kind: str, part: type) -> None:
    results = CHECKS[kind](part)
    assert [result.law.name for result in results] == list(LAWS[kind].laws)
    beside = {result.law.name for result in results if result.state == "does not apply"}
    assert beside <= {"prepare-for-sampling", "texts"}
    assert {result.state for result in results} <= {"kept", "does not apply"}


@pytest.mark.parametrize(("kind", "part"), BAD, ids=named)
def test_a_faulty_part_breaks_the_laws_it_should_and_no_other(kind: str, part: Any) -> None:
    with pytest.raises(AssertionError) as raised:
        CHECKS[kind](part)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{part.__name__} breaks {len(part.breaks)} of the {len(LAWS[kind].laws)} laws of {kind}:"
    assert {line.split(":")[0].strip() for line in lines[1:]} == part.breaks


@pytest.mark.parametrize("kind", LAWS)
def test_each_law_has_a_part_that_breaks_it_alone(kind: str) -> None:
    alone = {law for part in faulty.FAULTY[kind] if len(part.breaks) == 1 for law in part.breaks}  # pyright: ignore
    assert alone == set(LAWS[kind].laws)


def test_names_are_kebab_case_and_each_law_says_what_it_asks() -> None:
    for laws in LAWS.values():
        for law in laws:
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", law.name)
            assert law.text.endswith(".")
            assert len(law.text.split()) > 5


def test_laws_leave_the_global_generators_where_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_denoiser(faulty.Mixer)
    with pytest.raises(AssertionError, match="of random, numpy"):
        check_codec(faulty.Seeding(), seconds=0.1)
    assert torch.equal(torch.rand(2), expected)


# Exceptions


class Excused(faulty.NarrowDecoder):
    expected_failures: Mapping[str, str] = {"chunked": "its decoder listens far"}


def test_a_declared_exception_is_told_and_does_not_fail() -> None:
    with pytest.warns(ExpectedFailure, match="Excused declares an exception from chunked: its decoder listens far"):
        results = check_codec(Excused(), seconds=0.5)
    assert {result.law.name: result.state for result in results}["chunked"] == "exception"


@pytest.mark.filterwarnings("ignore::codecdiff.testing.ExpectedFailure")
def test_a_codec_around_another_has_its_exceptions() -> None:
    check_codec(NormalizedCodec(Excused()), seconds=0.5)


def test_an_exception_excuses_one_law_alone() -> None:
    class Worse(faulty.Short):
        expected_failures = Excused.expected_failures

    with pytest.raises(AssertionError) as raised:
        check_codec(Worse(), seconds=0.5)
    assert "breaks 2 of" in str(raised.value)
    assert "chunked: declared an exception, but kept: take it out of `expected_failures`." in str(raised.value)


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [
        ({"chunks": "why"}, r"from 'chunks', which codecs have not\. Their laws: facts, lengths"),
        ({"chunked": " "}, "gives no reason for its exceptions from: chunked"),
        ({"chunked"}, "is a mapping of a law's name to the reason"),
    ],
)
def test_exceptions_that_cannot_be_are_refused(exceptions: Any, message: str) -> None:
    codec = faulty.Sound()
    codec.expected_failures = exceptions
    with pytest.raises(ValueError, match=message):
        check_codec(codec)


# Failing parts


def test_a_part_that_raises_breaks_the_law_and_the_others_go_on() -> None:
    class Failing(faulty.Sound):
        def encode_continuous(self, audio: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of\n  luck")

    with pytest.raises(AssertionError, match="lengths: raised RuntimeError: out of luck\n") as raised:
        check_codec(Failing(), seconds=0.1)
    assert "entries" not in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_codec_that_is_not_fitted_is_told() -> None:
    class Unfitted(faulty.Sound):
        @property
        def is_fitted(self) -> bool:
            return False

    with pytest.raises(AssertionError, match="Unfitted is not fitted"):
        check_codec(Unfitted())


def test_duplicates_are_listed() -> None:
    class Twin(faulty.Undeclared):
        duplicate_codes = frozenset({(0, 5)})

    notes = {result.law.name: result.note for result in check_codec(Twin(), seconds=0.1)}
    assert notes["entries"] == "1 duplicate entries are declared: (0, 5) (codebook, index)"


# By name


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is printed in one line each."""
    monkeypatch.setattr(console.out, "width", 400)


@pytest.fixture
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the parts, as a stranger's package would."""
    folder = tmp_path / "site" / "strange-1.0.dist-info"
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, str]] = {
        "codecs": {"sound": "Sound", "drifting": "Drifting", "letters": "Sound", "narrow": "Excused"},
        "splitters": {"halves": "Halves", "evens": "Evens", "unbuilt": "Unbuilt"},
        "splitters.2": {"late": "Halves"},
        "conditioners": {"letters": "Letters"},
        "denoisers": {"mixer": "Mixer", "unread": "Unread"},
        "embedders": {"levels": "Levels"},
    }
    lines = []
    for kind, names in parts.items():
        lines.append(f"[codecdiff.{kind}]")
        for name, part in names.items():
            home = __name__ if part in ("Excused", "Unread", "Evens", "Unbuilt") else "faulty"
            lines.append(f"{name} = {home}:{part}")
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder.parent)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


class Evens(Parallel):
    """Asks for the levels alone, and needs them."""

    def __init__(self, *, levels: Sequence[int]):
        super().__init__(num_codebooks=len(levels))


class Unbuilt(faulty.Halves):
    """Its constructor fails."""

    def __init__(self, *, num_codebooks: int, turned: bool = False):
        raise RuntimeError("no weights")


class Unread(faulty.Mixer):
    """Reads text alone."""

    def __init__(self, *, channels: int, context_channels: int, condition_widths: dict[str, int], width: int = 48):
        read = {name: width for name, width in condition_widths.items() if name == "text"}
        super().__init__(channels=channels, context_channels=context_channels, condition_widths=read, width=width)
        self.condition_widths = condition_widths

    def forward(self, noisy: Any, timestep: Any, context: Any, condition: Any) -> torch.Tensor:
        told = {name: entry for name, entry in condition.items() if name == "text"}
        return super().forward(noisy, timestep, context, type(condition)(told))


def check(*words: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, words)], env={"COLUMNS": "160"})


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sound", "--seconds", "0.5"], "19 kept, 0 broken."),
        (["halves"], "tried with 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks on 3 levels; not with 1 codebook"),
        (["evens"], "tried with 1 codebook, 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks on 3 levels."),
        (["letters", "--kind", "conditioner"], "13 kept, 0 broken."),
        (["mixer", "--set", "width=32"], "of text, vector it reads: text, vector"),
        (["unread"], "of text, vector it reads: text."),
        (["strange:levels"], "12 kept, 0 broken, 1 does not apply."),
        (["narrow", "--seconds", "0.5"], "18 kept, 0 broken, 1 declared exception."),
        (["parallel"], "tried with 1 codebook, 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks"),
        (["grouped", "--set", "stages=0|1-3"], "tried with 4 codebooks; not with 1 codebook,"),
    ],
)
def test_the_command_tries_a_part_by_its_name(words: list[str], told: str) -> None:
    result = check(*words)
    assert result.exit_code == 0, result.output
    assert told in result.output.replace("\n", " ")


@pytest.mark.usefixtures("_registered")
def test_the_command_ends_with_status_1_if_a_law_is_broken() -> None:
    result = check("drifting", "--seconds", "0.5")
    assert result.exit_code == 1
    assert "decode is not deterministic" in result.output
    assert "Asked: The same input gives the same codes" in result.output
    assert "18 kept, 1 broken." in result.output


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["letters"], "'letters' is the name of a codec and a conditioner. Say which: --kind codecs or --kind cond"),
        (["lettres"], "No part named 'lettres' is installed. Did you mean 'letters'?"),
        (["xyzzy"], "`codecdiff plugins` lists"),
        (["late"], "The splitter 'late' of strange 1.0 was built for version 2 of the splitter interface"),
        (["unbuilt"], "'unbuilt' cannot be built: RuntimeError: no weights. Options, by --set KEY=VALUE: turned."),
        (["letters", "--kind", "denoisers"], "No denoiser named 'letters'"),
        (["sound", "--kind", "sounds"], "No kind of part is called 'sounds'"),
        (["sound", "--set", "gian=2"], "has no option 'gian'. It has: gain. Did you mean 'gain'?"),
        (["grouped"], "needs a value for: stages. Options, by --set KEY=VALUE: stages."),
        (["grouped", "--set", "stages=0|1-11"], "can be built for none of"),
        (["letters", "--kind", "conditioners", "--prompts", "FILE"], "line 2 is no prompt"),
    ],
)
def test_the_command_says_what_is_wrong_with_what_was_asked(words: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "a"}\n7\n')
    result = check(*(str(file) if word == "FILE" else word for word in words))
    assert result.exit_code == 1
    assert told in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_a_part_that_is_not_installed_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FIRST_PARTY, ("codecs", "gone"), "codecdiff-gone")
    with pytest.raises(registry.UnknownPart, match="pip install codecdiff-gone"):
        kind_of("gone")


def test_prompts_have_the_fields_that_are_read(tmp_path: Path) -> None:
    first, second, third = example_prompts(("text", "tempo", "audio", "mood"), tmp_path)
    assert set(first) == set(second) == {"text", "tempo", "audio"}
    assert all(first[field] != second[field] for field in ("text", "tempo", "audio"))  # pyright: ignore
    assert set(third) == {"text"}
    with pytest.raises(ValueError, match=r"fields it reads \(mood\).*--prompts"):
        example_prompts(("mood",), tmp_path)


@pytest.mark.usefixtures("_registered")
def test_prompts_of_a_file_are_tried(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, ("one", {"text": "two"}))))
    result = check("letters", "--kind", "conditioners", "--prompts", file)
    assert result.exit_code == 0, result.output
    assert "'one', {'text': 'two'}" in result.output


def test_options_that_a_part_needs_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a value for: codec\. Options, by --set KEY=VALUE: codec"):
        examination("normalized", folder=tmp_path)


def test_clips_are_music_of_a_sort_and_always_the_same() -> None:
    made = clips(8000, 2, count=3, seconds=0.5)
    assert [tuple(clip.shape) for clip in made] == [(2, 4000)] * 3
    assert all(0.01 < float(clip.square().mean().sqrt()) < 0.5 and float(clip.abs().max()) <= 1 for clip in made)
    assert all(map(torch.equal, made, clips(8000, 2, count=3, seconds=0.5)))
    assert not torch.equal(made[0], made[1])


# The page


def test_the_page_lists_the_laws_as_they_are() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    for kind, laws in LAWS.items():
        section = page.split(f"\n### {kind.capitalize()}\n")[1].split("\n### ")[0].split("\n## ")[0]
        rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, flags=re.M)
        assert rows == [(law.name, law.text) for law in laws], kind


def test_every_kind_of_part_has_laws() -> None:
    assert set(LAWS) == set(registry.KINDS)
    assert all(isinstance(part, type) and issubclass(part, Part) for _, part in [*GOOD, *BAD])
    assert partial(check_denoiser, widths={"text": 6, "mood": 4})(faulty.Mixer)
