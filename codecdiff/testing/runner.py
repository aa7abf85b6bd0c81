"""Parts that are installed, found by name and built to be tried: what stands behind `codecdiff check`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codecdiff import registry
from codecdiff.config import ConfigError, build, parse_options, part_options
from codecdiff.interfaces import Codec, Denoiser, Part, Prompt, Splitter
from codecdiff.testing import codecs, conditioners, denoisers, embedders, splitters
from codecdiff.testing.checks import Result
from codecdiff.testing.clips import clips
from codecdiff.testing.conditioners import FIELDS

# codebooks and their levels: few, many, and the two channels of a codec of three codebooks
PATTERNS: tuple[Sequence[int], ...] = (range(1), range(2), range(4), range(9), (0, 1, 2, 0, 1, 2))
# of conditions that a denoiser may read; the first with which it can be built are tried
WIDTHS: tuple[dict[str, int], ...] = ({"text": 16, "vector": 16}, {"text": 16}, {"vector": 16}, {})
RATE = 44_100  # Hz, of the files that are made


@dataclass(frozen=True)
class Examination:
    """A part that was found and built, with what there is to say of how it is tried; `results` come one by one."""

    kind: str
    name: str
    part: Part
    notes: Sequence[str]
    results: Iterator[Result]


def kind_of(name: str, kind: str = "") -> str:
    """Find the kind of the part called `name`, or `distribution:name`; `kind`, one of them or in the singular, chooses.

    Raises UnknownPart if no kind has it, or several have and none was chosen.
    """
    if kind:
        plural = f"{kind}s" if f"{kind}s" in registry.kinds() else kind
        registry.find(plural, name)
        return plural
    short = name.rpartition(":")[2]
    called = [plugin for plugin in registry.scan()[0] if plugin.kind in registry.kinds() and plugin.name == short]
    usable = [plugin for plugin in called if not plugin.obstacle] or called  # what cannot be used says why
    having = list(dict.fromkeys(plugin.kind for plugin in usable))
    if len(having) == 1:
        registry.find(having[0], name)
        return having[0]
    if having:
        told = " and ".join(f"a {kind[:-1]}" for kind in having)
        choices = " or ".join(f"--kind {kind}" for kind in having)
        raise registry.UnknownPart(f"'{name}' is the name of {told}. Say which: {choices}.")
    for (kind, known), package in registry.FIRST_PARTY.items():
        if known == name:
            raise registry.UnknownPart(f"No {kind[:-1]} '{name}' is installed. It comes with: pip install {package}.")
    names = sorted({plugin.name for kind in registry.kinds() for plugin in registry.installed(kind)})
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else " `codecdiff plugins` lists the parts there are."
    raise registry.UnknownPart(f"No part named '{name}' is installed.{hint}")


def examination(
    name: str,
    *,
    kind: str = "",
    assignments: Sequence[str] = (),
    seconds: float = 10.0,
    prompts: Sequence[Prompt] = (),
    folder: Path,
) -> Examination:
    """Find a part, build it with the `option=value` assignments, and make ready to try its laws.

    `seconds` is the longest clip that a codec is tried on; `prompts`, two at least, are for a conditioner that reads
    fields nobody else knows; audio that a part reads from a file is written into `folder`. A codec that has to be
    fitted is fitted to tones and noise.

    Raises LookupError for a part that there is not, ConfigError for options that it has not or needs, ValueError for
    a part that nothing here is known to try on, and what its constructor raises.
    """
    kind = kind_of(name, kind)
    spec = parse_options(kind, name, assignments)
    return TRYING.get(kind, _of_added_kind)(Asked(kind, name, spec, seconds, prompts, folder))


@dataclass(frozen=True)
class Asked:
    """What is asked of an examination."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    seconds: float
    prompts: Sequence[Prompt]
    folder: Path

    def build(self, **supplied: Any) -> Any:
        """Build the part; ConfigError, LookupError and OSError say which options it has.

        Raises ConfigError for whatever its constructor raises but the ValueError of one that refuses what is supplied.
        """
        try:
            return build(self.kind, self.spec, **supplied)
        except ConfigError as error:
            raise ConfigError(f"{error} {self.hint()}") from error
        except LookupError as error:
            raise LookupError(f"{error} {self.hint()}") from error
        except OSError as error:
            raise OSError(f"{error} {self.hint()}") from error
        except (ValueError, ImportError):
            raise
        except Exception as error:  # a stranger's code may fail in any way
            told = f"The {self.kind[:-1]} '{self.name}' cannot be built: {type(error).__name__}: {error}."
            raise ConfigError(f"{told} {self.hint()} `codecdiff --debug check` shows where.") from error

    def hint(self) -> str:
        """Say which options there are to set."""
        known = part_options(self.kind, self.name)
        return f"Options, by --set KEY=VALUE: {', '.join(known) or 'none'}."


def _codec(asked: Asked) -> Examination:
    codec = asked.build()
    notes = fitted(codec)
    trial = codecs.fitted_trial(codec, asked.seconds)
    return Examination(asked.kind, asked.name, codec, notes, codecs.LAWS.examine(codec, trial))


def fitted(codec: Codec) -> list[str]:
    """Fit a codec that has to be fitted to tones and noise, and say so."""
    if codec.is_fitted:
        return []
    made = clips(codec.sample_rate, codec.channels)
    try:
        codec.fit(made)
    except Exception as error:  # a stranger's code may fail in any way
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{type(codec).__name__} cannot be fitted to tones and noise; fit raised {told}") from error
    return [f"fitted to {len(made)} clips of tones and noise"]


def _splitter(asked: Asked) -> Examination:
    trials: list[splitters.Trial] = []
    refused: dict[str, Exception] = {}
    for levels in PATTERNS:
        count, distinct = len(levels), len(set(levels))
        label = f"{count} codebook{'s' * (count > 1)}{f' on {distinct} levels' if distinct < count else ''}"
        try:
            splitter: Splitter = asked.build(num_codebooks=count, levels=list(levels))
        except ConfigError:
            raise
        except ValueError as error:  # stages that name the levels of another number of codebooks
            refused[label] = error
        else:
            trials.append(splitters.Trial(splitter, label=label))
    if not trials:
        told = "\n".join(f"  {label}: {error}" for label, error in refused.items())
        raise ValueError(f"'{asked.name}' can be built for none of:\n{told}\n{asked.hint()}")
    notes = [f"tried with {', '.join(trial.label for trial in trials)}"]
    notes += [f"not with {', '.join(refused)}, which it refuses"] if refused else []
    part = trials[0].splitter
    return Examination(asked.kind, asked.name, part, notes, splitters.LAWS.examine(part, *trials))


def _conditioner(asked: Asked) -> Examination:
    conditioner = asked.build()
    prompts = asked.prompts or example_prompts(conditioner.fields, asked.folder)
    trial = conditioners.Trial(conditioner, prompts)
    notes = [f"tried with the prompts {', '.join(map(repr, prompts[:2]))}"]
    return Examination(asked.kind, asked.name, conditioner, notes, conditioners.LAWS.examine(conditioner, trial))


def example_prompts(fields: Sequence[str], folder: Path) -> list[Prompt]:
    """Make three prompts of the fields that are known here: two with other values in each, and one more.

    Raises ValueError if none is known.
    """
    known = {field: FIELDS[field] for field in fields if field in FIELDS}
    if "audio" in fields:
        first, second = example_audio(folder)
        known["audio"] = (str(first), str(second))
    if not known:
        raise ValueError(
            f"Nothing here has the fields it reads ({', '.join(fields)}). Give prompts that have, a line each, by "
            "--prompts FILE.jsonl."
        )
    whole = [{field: values[i] for field, values in known.items()} for i in (0, 1)]
    first_field = next(iter(known))
    return [*whole, {first_field: whole[0][first_field]}]


def example_audio(folder: Path) -> tuple[Path, Path]:
    """Write two different clips of three seconds, mono."""
    files = folder / "first.wav", folder / "second.wav"
    for file, clip in zip(files, clips(RATE, 1, count=2, seconds=3.0), strict=True):
        soundfile.write(file, np.asarray(clip.T), RATE)
    return files


def _denoiser(asked: Asked) -> Examination:
    make, widths = buildable(asked)
    trial = denoisers.Trial(make, widths, label="with context" if widths else "")
    read = [name for name in widths if reads(trial, name)]
    trials = [
        denoisers.Trial(make, {name: widths[name] for name in read}, context_channels=count, label=label)
        for count, label in ((3, "with context"), (0, "without context"))
    ]
    denoiser = trials[0].build()
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    notes = [
        f"{size:,} parameters: smaller ones, by --set, are tried sooner" if size > 10**7 else f"{size:,} parameters",
        f"of {', '.join(WIDTHS[0])} it reads: {', '.join(read) or 'none'}",
    ]
    return Examination(asked.kind, asked.name, denoiser, notes, denoisers.LAWS.examine(denoiser, *trials))


def buildable(asked: Asked) -> tuple[Callable[..., Denoiser], dict[str, int]]:
    """Give the function that builds a denoiser, and the first of `WIDTHS` with which it can be built.

    Raises what the last try raised if there are none.
    """

    def make(**supplied: Any) -> Denoiser:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of conditions it does not read: that is told
            return asked.build(**supplied)

    for widths in WIDTHS[:-1]:
        try:
            make(channels=4, context_channels=3, condition_widths=widths)
        except ConfigError:
            raise
        except ValueError:
            continue
        return make, widths
    make(channels=4, context_channels=3, condition_widths=WIDTHS[-1])
    return make, WIDTHS[-1]


def reads(trial: denoisers.Trial, name: str) -> bool:
    """Tell whether a condition changes what a denoiser predicts; one that fails is told so by the laws."""
    try:
        return not denoisers.ignores(trial, name)
    except Exception:  # a stranger's code may fail in any way
        return True


def _embedder(asked: Asked) -> Examination:
    embedder = asked.build()
    inside = [value for value in embedder.arguments.values() if isinstance(value, Codec)]
    notes = [note for codec in inside for note in fitted(codec)]
    trial = embedders.Trial(embedder)
    return Examination(asked.kind, asked.name, embedder, notes, embedders.LAWS.examine(embedder, trial))


def _of_added_kind(asked: Asked) -> Examination:
    part = asked.build()
    return Examination(asked.kind, asked.name, part, [], iter(registry.check_of(asked.kind)(part)))


TRYING: dict[str, Callable[[Asked], Examination]] = {
    "codecs": _codec,
    "splitters": _splitter,
    "conditioners": _conditioner,
    "denoisers": _denoiser,
    "embedders": _embedder,
}
