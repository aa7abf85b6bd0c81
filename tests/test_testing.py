"""The checks against parts that pass them, and parts that fail one: each check finds what it is there for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bad_parts
import numpy as np
import pytest
import torch
from many_levels import ManyLevels
from typer.testing import CliRunner

from codecdiff import Part, registry
from codecdiff.cli import console
from codecdiff.cli.main import app
from codecdiff.codecs import NormalizedCodec, ResidualCodec
from codecdiff.config import ConfigError, to_config
from codecdiff.errors import InvalidValue
from codecdiff.splitters import Parallel
from codecdiff.testing import (
    CHECKS,
    CodecChecks,
    ConditionerChecks,
    DenoiserChecks,
    EmbedderChecks,
    ExpectedFailure,
    PartChecks,
    Result,
    SplitterChecks,
    check_codec,
    check_conditioner,
    check_denoiser,
    check_embedder,
    check_splitter,
)
from codecdiff.testing.clips import clips
from codecdiff.testing.conditioners import example_prompts
from codecdiff.testing.runner import find_kind, start_checks

ROOT = Path(__file__).parent.parent
ASSERT: dict[str, Callable[[Any], list[Result]]] = {
    "codecs": lambda part: check_codec(part(), seconds=4.0),
    "splitters": lambda part: check_splitter(part()),
    "conditioners": lambda part: check_conditioner(part()),
    "denoisers": check_denoiser,
    "embedders": lambda part: check_embedder(part()),
}
GOOD: list[tuple[str, type]] = [
    ("codecs", bad_parts.Sound),
    ("splitters", bad_parts.Halves),
    ("conditioners", bad_parts.Letters),
    ("denoisers", bad_parts.Mixer),
    ("embedders", bad_parts.Levels),
    ("embedders", bad_parts.Literate),
]
BAD = [(kind, part) for kind, parts in bad_parts.BAD.items() for part in parts]


def named(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else value


@pytest.mark.parametrize(("kind", "part"), GOOD, ids=named)
def test_a_good_part_passes_every_check(kind: str, part: type) -> None:
    results = ASSERT[kind](part)
    assert [result.check.name for result in results] == list(CHECKS[kind].by_name)
    skipped = {result.check.name for result in results if result.state == "not applicable"}
    assert skipped <= {"prepare-for-sampling", "texts", "controls", "control-rates"}
    assert {result.state for result in results} <= {"passed", "not applicable"}


@pytest.mark.parametrize(("kind", "part"), BAD, ids=named)
def test_a_bad_part_fails_the_checks_it_should_and_no_other(kind: str, part: Any) -> None:
    with pytest.raises(AssertionError) as raised:
        ASSERT[kind](part)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{part.__name__} fails {len(part.fails)} of the {len(CHECKS[kind].by_name)} checks of {kind}:"
    assert {line.split(":")[0].strip() for line in lines[1:]} == part.fails


@pytest.mark.parametrize("kind", CHECKS)
def test_each_check_has_a_part_that_fails_it_alone(kind: str) -> None:
    alone = {check for part in bad_parts.BAD[kind] if len(part.fails) == 1 for check in part.fails}  # pyright: ignore
    assert alone == set(CHECKS[kind].by_name)


def test_names_are_kebab_case_and_each_check_has_a_text() -> None:
    for checks in CHECKS.values():
        for check in checks:
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", check.name)
            assert check.text.endswith(".")
            assert len(check.text.split()) > 5


def test_checks_leave_the_global_generators_where_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_denoiser(bad_parts.Mixer)
    with pytest.raises(AssertionError, match="of random, numpy"):
        check_codec(bad_parts.Seeding(), seconds=0.1)
    assert torch.equal(torch.rand(2), expected)


# Expected failures


class Excused(bad_parts.NarrowDecoder):
    expected_failures: Mapping[str, str] = {"chunked": "its decoder has far context"}


def test_an_expected_failure_warns_and_does_not_fail() -> None:
    with pytest.warns(ExpectedFailure, match="Excused is expected to fail chunked: its decoder has far context"):
        results = check_codec(Excused(), seconds=0.5)
    assert {result.check.name: result.state for result in results}["chunked"] == "expected failure"


@pytest.mark.filterwarnings("ignore::codecdiff.testing.ExpectedFailure")
def test_a_codec_around_another_has_its_expected_failures() -> None:
    check_codec(NormalizedCodec(Excused()), seconds=0.5)


def test_an_expected_failure_excuses_one_check() -> None:
    class Worse(bad_parts.Short):
        expected_failures = Excused.expected_failures

    with pytest.raises(AssertionError) as raised:
        check_codec(Worse(), seconds=0.5)
    assert "fails 2 of" in str(raised.value)
    text = "chunked: declared as an expected failure, but it passes: remove it from `expected_failures`."
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"chunks": "why"}, r"of 'chunks', which codecs do not have\. Their checks: facts, lengths"),
        ({"chunked": " "}, "must state a reason for its expected failures of: chunked"),
        ({"chunked"}, "must map names of checks to reasons"),
    ],
)
def test_invalid_expected_failures_are_refused(expected: Any, message: str) -> None:
    codec = bad_parts.Sound()
    codec.expected_failures = expected
    with pytest.raises(ValueError, match=message):
        check_codec(codec)


# Failing parts


def test_a_part_that_raises_fails_the_check_and_the_others_run() -> None:
    class Failing(bad_parts.Sound):
        def encode_continuous(self, audio: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of\n  luck")

    with pytest.raises(
        AssertionError, match=r"lengths: raised RuntimeError: out of luck \(\S*test_testing\.py:\d+\)\n"
    ) as raised:
        check_codec(Failing(), seconds=0.1)
    assert "codebook-vectors" not in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_codec_that_is_not_fitted_is_refused() -> None:
    class Unfitted(bad_parts.Sound):
        @property
        def is_fitted(self) -> bool:
            return False

    with pytest.raises(AssertionError, match="Unfitted is not fitted"):
        check_codec(Unfitted())


def test_duplicates_are_listed() -> None:
    class Twin(bad_parts.Undeclared):
        duplicate_codes = frozenset({(0, 5)})

    notes = {result.check.name: result.note for result in check_codec(Twin(), seconds=0.1)}
    assert notes["codebook-vectors"] == "1 duplicate vectors are declared: (0, 5) (codebook, code)"


class Sideways(ManyLevels):
    """Its features have another order of dimensions."""

    def encode_features(self, audio: torch.Tensor) -> torch.Tensor:
        return super().encode_features(audio).mT


class Halved(ManyLevels):
    """Its decoder returns half of the audio."""

    def decode_features(self, features: torch.Tensor) -> torch.Tensor:
        audio = super().decode_features(features)
        return audio[..., : audio.shape[-1] // 2]


class Broken(bad_parts.Sound):
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"no memory for {codes.numel()} codes")


class Untyped(bad_parts.Sound):
    def __init__(self, extra=1):
        super().__init__()
        self.extra = extra


class Required(bad_parts.Sound):
    def __init__(self, *, extra):
        super().__init__()


class Absent(bad_parts.Sound):
    def __init__(self) -> None:
        Path("weights.pt").read_bytes()


class Anything(bad_parts.Sound):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class Weighted(bad_parts.Sound):
    def __init__(self, *, weights: torch.Tensor | None = None) -> None:
        super().__init__()


class Short32(ManyLevels):
    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        return super().encode(audio).int()


class NoCodebooks(ResidualCodec):
    sample_rate, channels, hop_length, num_codebooks, codebook_size, codebook_dim = 800, 1, 8, 2, 16, 8

    def encode_features(self, audio: torch.Tensor) -> torch.Tensor:
        return audio.unflatten(2, (-1, 8))[:, 0].mT


def returning(value: Any) -> Any:
    """Return a codec whose `encode` returns this value."""
    part = type("Returning", (bad_parts.Sound,), {"encode": lambda self, audio: value})
    return part()


def failures(codec: Any) -> dict[str, str]:
    case = CodecChecks.case_class(codec, seconds=0.1)
    return {result.check.name: result.note for result in CHECKS["codecs"].run(codec, case) if result.state == "failed"}


@pytest.mark.parametrize(
    ("value", "name"), [(None, "None"), (True, "a bool"), ("codes", "a str"), (np.zeros((1, 2, 9)), "a ndarray")]
)
def test_a_method_that_returns_another_type_is_named_by_every_check_that_fails(value: Any, name: str) -> None:
    notes = failures(returning(value))
    note = notes["facts"]
    assert note.startswith(f"encode returned {name}, not a Tensor. See Codec.encode: Encode audio (b, ch, t)")
    assert [*notes.values()].count(note) > 10


def test_a_splitter_that_forgets_to_return_says_so() -> None:
    class Forgetting(bad_parts.Halves):
        def split(self, latents: torch.Tensor) -> Any:
            super().split(latents)

    with pytest.raises(
        AssertionError, match=r"inverse: split returned None, not a list\[Tensor\]\. See Splitter\.split"
    ):
        check_splitter(Forgetting())


def test_a_residual_codec_says_which_method_returns_another_shape() -> None:
    text = r"`project_in`, of Sideways returned \(1, \d+, \d+\); expected \(1, 4, l\) = \(1, d, l\)\."
    with pytest.raises(InvalidValue, match=text):
        Sideways().encode(torch.zeros(1, 1, 9 * Sideways.hop_length))


def test_a_residual_codec_says_that_its_decoder_returns_too_little() -> None:
    codec = Halved()
    expected = 9 * codec.hop_length
    text = rf"returned {expected // 2} samples for 9 frames; expected {expected}: hop_length is {codec.hop_length}\."
    with pytest.raises(InvalidValue, match=text):
        codec.decode(torch.zeros(1, codec.num_codebooks, 9, dtype=torch.long))


def test_failures_say_what_to_change() -> None:
    assert "these are not options that a model can save: ['extra']" in failures(Untyped())["save-and-load"]
    large = bad_parts.Sound()
    large.codebook_size += 1
    assert "but embed fails for code" in failures(large)["facts"]
    assert "constructor takes **options, which are not options" in failures(Anything())["save-and-load"]
    short, weighted = failures(Short32()), failures(Weighted(weights=torch.zeros(2)))
    assert "`weights` is a Tensor, which cannot be an option" in weighted["save-and-load"]
    assert short["facts"] == "encode returns torch.int32 codes: return int64 (torch.long), as by `codes.long()`."
    assert "Short32 overrides encode: override encode_with_continuous too." in short["one-pass"]
    assert "NoCodebooks has no `codebooks`: register a buffer of this name" in failures(NoCodebooks())["continuous"]
    lookup = failures(bad_parts.Summing())["codebook-vectors"]
    assert "`quantize` does not use the codec's own lookup" in lookup
    assert "duplicate_codes" not in lookup
    assert "Declare them in `duplicate_codes`" in failures(bad_parts.Undeclared())["codebook-vectors"]
    assert "encode_context_frames is too small" in failures(bad_parts.NarrowEncoder())["chunked"]


# By name


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print each row in one line."""
    monkeypatch.setattr(console.out, "width", 400)


@pytest.fixture
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the parts, as a third-party package would."""
    folder = tmp_path / "site" / "strange-1.0.dist-info"
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, str]] = {
        "codecs": {
            "sound": "Sound",
            "drifting": "Drifting",
            "letters": "Sound",
            "narrow": "Excused",
            "untyped": "Untyped",
            "broken": "Broken",
            "absent": "Absent",
            "required": "Required",
            "weighted": "Weighted",
        },
        "splitters": {"halves": "Halves", "evens": "Evens", "unbuilt": "Unbuilt"},
        "splitters.2": {"late": "Halves"},
        "conditioners": {"letters": "Letters"},
        "denoisers": {"mixer": "Mixer", "unread": "Unread"},
        "embedders": {"levels": "Levels"},
        "metrics": {"far": "Sound"},
    }
    lines = []
    for kind, names in parts.items():
        lines.append(f"[codecdiff.{kind}]")
        for name, part in names.items():
            home = __name__ if part in globals() else "bad_parts"
            lines.append(f"{name} = {home}:{part}")
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder.parent)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


class Evens(Parallel):
    """Takes the levels alone, and needs them."""

    def __init__(self, *, levels: Sequence[int]):
        super().__init__(num_codebooks=len(levels))


class Unbuilt(bad_parts.Halves):
    """Its constructor fails."""

    def __init__(self, *, num_codebooks: int, turned: bool = False):
        raise RuntimeError("no weights")


class Unread(bad_parts.Mixer):
    """Reads text alone."""

    def __init__(self, *, channels: int, context_channels: int, condition_widths: dict[str, int], width: int = 48):
        read = {name: width for name, width in condition_widths.items() if name == "text"}
        super().__init__(channels=channels, context_channels=context_channels, condition_widths=read, width=width)
        self.condition_widths = condition_widths

    def forward(self, noisy: Any, timestep: Any, context: Any, condition: Any) -> torch.Tensor:
        text = {name: entry for name, entry in condition.items() if name == "text"}
        return super().forward(noisy, timestep, context, type(condition)(text))


def check(*words: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, words)], env={"COLUMNS": "160"})


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sound", "--seconds", "0.5"], "19 passed, 0 failed."),
        (
            ["halves"],
            "checked with 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks on 3 levels; not with 1 codebook",
        ),
        (["evens"], "checked with 1 codebook, 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks on 3 levels."),
        (["letters", "--kind", "conditioner"], "13 passed, 0 failed, 1 not applicable."),
        (["mixer", "--set", "width=32"], "of text, vector, control it reads: text, vector, control"),
        (["unread"], "of text, vector, control it reads: text."),
        (["strange:levels"], "12 passed, 0 failed, 1 not applicable."),
        (["narrow", "--seconds", "0.5"], "18 passed, 0 failed, 1 expected failure."),
        (["parallel"], "checked with 1 codebook, 2 codebooks, 4 codebooks, 9 codebooks, 6 codebooks"),
        (["grouped", "--set", "stages=0|1-3"], "checked with 4 codebooks; not with 1 codebook,"),
    ],
)
def test_the_command_checks_a_part_by_its_name(words: list[str], message: str) -> None:
    result = check(*words)
    assert result.exit_code == 0, result.output
    assert message in result.output.replace("\n", " ")


@pytest.mark.usefixtures("_registered")
def test_the_command_ends_with_status_1_if_a_check_fails() -> None:
    result = check("drifting", "--seconds", "0.5")
    assert result.exit_code == 1
    assert "decode is not deterministic" in result.output
    assert "Expected: The same input has exactly the same result" in result.output
    assert "18 passed, 1 failed." in result.output
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("_registered")
def test_an_error_that_repeats_is_shown_once_and_debug_shows_where() -> None:
    result = CliRunner().invoke(app, ["--debug", "check", "broken", "--seconds", "0.5"])
    error = "raised RuntimeError: no memory for "
    assert result.output.count(error) == 1
    assert result.output.count("the same error as in facts") > 5
    assert result.output.count("RuntimeError: no memory for ") > 6
    assert "--debug" not in result.output
    assert "`codecdiff --debug check broken` shows the traceback." in check("broken", "--seconds", "0.5").output


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["letters"], "'letters' is the name of a codec and a conditioner. Choose one: --kind codecs or --kind cond"),
        (["lettres"], "No part named 'lettres' is installed. Did you mean 'letters'?"),
        (
            ["xyzzy"],
            "Install a package of your own with `pip install -e FOLDER`, and again after its entry points change.",
        ),
        (["late"], "The splitter 'late' of strange 1.0 was built for version 2 of the splitter interface"),
        (["unbuilt"], "RuntimeError: no weights ("),
        (["absent"], "cannot be built: FileNotFoundError: [Errno 2] No such file or directory: 'weights.pt' ("),
        (["absent"], "). It has no options. `codecdiff --debug check absent` shows the traceback."),
        (["required"], "'required' cannot be built: its constructor requires 'extra', which needs a type annotation"),
        (["far"], "'far' is a metric of strange. Only parts have checks: "),
        ([], "Name a part to check, as in `codecdiff check parallel`."),
        (["letters", "--kind", "denoisers"], "No denoiser named 'letters'"),
        (["sound", "--kind", "sounds"], "No kind named 'sounds'"),
        (["sound", "--set", "gian=2"], "has no option 'gian'. It has: gain. Did you mean 'gain'?"),
        (["grouped"], "needs a value for: stages. Its options, set with --set KEY=VALUE: stages."),
        (["sound", "--set", "gain=loud"], "gain = 'loud': expected a number"),
        (["stereo", "--set", "codec=normalized"], "codec.codec: The codec 'normalized' needs a value for: codec. Its "),
        (["untyped", "--set", "extra=2"], "It has no options. 'extra' has no type annotation, so it is not an option."),
        (["grouped", "--set", "stages=0|1-11"], "can be built for none of"),
        (["letters", "--kind", "conditioners", "--prompts", "FILE"], "line 2 is not a prompt"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_arguments(words: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "a"}\n7\n')
    result = check(*(str(file) if word == "FILE" else word for word in words))
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_a_part_that_is_not_installed_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.install_hints()["codecs"], "gone", "codecdiff-gone")
    with pytest.raises(registry.UnknownPart, match=r"pip install \./plugins/codecdiff-gone in a checkout of codecdiff"):
        find_kind("gone")


def test_prompts_have_the_fields_that_are_read(tmp_path: Path) -> None:
    first, second, third = example_prompts(("text", "tempo", "audio", "mood"), tmp_path)
    assert set(first) == set(second) == {"text", "tempo", "audio"}
    assert all(first[field] != second[field] for field in ("text", "tempo", "audio"))  # pyright: ignore
    assert set(third) == {"text"}
    with pytest.raises(ValueError, match=r"fields it reads \(mood\).*--prompts"):
        example_prompts(("mood",), tmp_path)


@pytest.mark.usefixtures("_registered")
def test_prompts_of_a_file_are_used(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, ("one", {"text": "two"}))))
    result = check("letters", "--kind", "conditioners", "--prompts", file)
    assert result.exit_code == 0, result.output
    assert "'one', {'text': 'two'}" in result.output


def test_options_that_a_part_needs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a value for: codec\. Its options, set with --set KEY=VALUE: codec"):
        start_checks("normalized", folder=tmp_path)


@pytest.mark.usefixtures("_registered")
def test_a_part_with_a_tensor_as_an_option_cannot_be_saved() -> None:
    with pytest.raises(
        ConfigError, match=r"codec\.weights is a Tensor, which cannot be an option: a model cannot be saved"
    ):
        to_config("codecs", Weighted(weights=torch.zeros(2)))


def test_clips_are_audible_and_always_the_same() -> None:
    music = clips(8000, 2, count=3, seconds=0.5)
    assert [tuple(clip.shape) for clip in music] == [(2, 4000)] * 3
    assert all(0.01 < float(clip.square().mean().sqrt()) < 0.5 and float(clip.abs().max()) <= 1 for clip in music)
    assert all(map(torch.equal, music, clips(8000, 2, count=3, seconds=0.5)))
    assert not torch.equal(music[0], music[1])


# Pytest classes


class TestSound(CodecChecks):
    seconds = 0.5

    def part(self) -> bad_parts.Sound:
        return bad_parts.Sound()


class TestExcused(CodecChecks):
    seconds = 0.5

    def part(self) -> Excused:
        return Excused()


class TestHalves(SplitterChecks):
    def part(self) -> bad_parts.Halves:
        return bad_parts.Halves()


class TestLetters(ConditionerChecks):
    def part(self) -> bad_parts.Letters:
        return bad_parts.Letters()


class TestMixer(DenoiserChecks):
    def make(self, **sizes: Any) -> bad_parts.Mixer:
        return bad_parts.Mixer(**sizes)


class TestLevels(EmbedderChecks):
    def part(self) -> bad_parts.Levels:
        return bad_parts.Levels()


@pytest.mark.parametrize("cls", [TestSound, TestHalves, TestLetters, TestMixer, TestLevels])
def test_a_class_has_a_test_for_every_check(cls: type[PartChecks]) -> None:
    tests = [name.removeprefix("test_").replace("_", "-") for name in dir(cls) if name.startswith("test_")]
    assert sorted(tests) == sorted(cls.checks.by_name)


def test_a_class_fails_by_the_check_that_fails() -> None:
    class Checks(CodecChecks):
        def part(self) -> bad_parts.Drifting:
            return bad_parts.Drifting()

    with pytest.raises(AssertionError, match="deterministic: decode is not deterministic"):
        Checks().test_deterministic()  # pyright: ignore[reportAttributeAccessIssue]
    Checks().test_facts()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_class_skips_what_does_not_apply_and_expects_declared_failures() -> None:
    with pytest.raises(pytest.skip.Exception, match="it does not read text"):
        TestLevels().test_texts()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(pytest.xfail.Exception, match="its decoder has far context"):
        TestExcused().test_chunked()  # pyright: ignore[reportAttributeAccessIssue]


# The page


def test_the_page_lists_the_checks_as_they_are() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    for kind, checks in CHECKS.items():
        section = page.split(f"\n### {kind.capitalize()}\n")[1].split("\n### ")[0].split("\n## ")[0]
        rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, flags=re.M)
        assert rows == [(check.name, check.text) for check in checks], kind


def test_every_kind_of_part_has_checks() -> None:
    assert set(CHECKS) <= set(registry.entries("checks"))
    assert set(registry.entries("checks")) == set(registry.kinds())
    assert all(isinstance(part, type) and issubclass(part, Part) for _, part in [*GOOD, *BAD])
    assert partial(check_denoiser, widths={"text": 6, "mood": 4})(bad_parts.Mixer)
