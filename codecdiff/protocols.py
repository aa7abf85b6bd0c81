"""What a score was measured by, so that two are compared only where they mean the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, Self

from codecdiff import __version__
from codecdiff.data.code_store import fingerprint
from codecdiff.interfaces import Embedder

FREE = ("seeds", "sampling", "version", "windows")  # fields of a protocol that may differ between compared scores
AS_IT_IS = "as it is"
LOCATING = ("model", "revision", "weights")  # options that say where weights are loaded from


@dataclass(frozen=True)
class Hearing:
    """How audio became the vectors, or facts, that a score compares.

    embedder: the part as `{name, options...}`, or what else reads the audio.
    weights: hash of its weights, empty if it has none.
    clip_seconds: of audio taken of every file; None where files are heard whole.
    window_seconds, hop_seconds: of audio that one vector is about, and from one to the next; None for the whole clip.
    resampling: how audio came to `sample_rate`.
    mono: how channels became one.
    loudness: how loudness was made equal, if it was.
    windows: in words, what else the embedder does with length: how it pads, repeats or cuts.
    """

    embedder: Mapping[str, Any]
    weights: str
    sample_rate: int  # Hz
    clip_seconds: float | None
    window_seconds: float | None
    hop_seconds: float | None
    resampling: str = "soxr HQ"
    mono: str = "mean of channels"
    loudness: str = AS_IT_IS
    windows: str = ""

    @classmethod
    def of(
        cls,
        embedder: Embedder,
        spec: Mapping[str, Any],
        *,
        clip_seconds: float | None,
        loudness: str = AS_IT_IS,
        windows: str = "",
    ) -> Self:
        """Describe an embedder built from `spec` that hears audio as `codecdiff.data.audio.read_audio` reads it.

        Where there are weights, their hash tells the model, and options that say where they came from are left out
        (`locations`). Of another absolute path in `spec` the last name is kept: it belongs to this machine.
        """
        weights = fingerprint(embedder) if embedder.state_dict() else ""
        return cls(
            embedder=_plain(spec, leaving_out=LOCATING if weights else ()),
            weights=weights,
            sample_rate=embedder.sample_rate,
            clip_seconds=clip_seconds,
            window_seconds=embedder.window_seconds,
            hop_seconds=embedder.hop_seconds,
            loudness=loudness,
            windows=windows or embedder.policy,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take back what `dataclasses.asdict` and JSON made of one."""
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class Protocol:
    """Everything a score follows from but the music it judges.

    clips, windows: how many were judged.
    reference: identity of the reference clips (`identity`), empty for a score that needs none.
    prompts: `prompts_hash` of those that the judged clips were made from, empty if none.
    options: what the formula was told: neighbours, bandwidth, scale.
    seeds: of generation and of the interval, by name. They may differ between scores that are compared.
    sampling: steps and guidance of each stage of the model that made the judged clips. They belong to the music, not
        to how it is judged, and may differ too.
    version: of codecdiff. It may differ too.
    """

    hearing: Hearing
    clips: int
    windows: int
    reference: str = ""
    reference_clips: int = 0
    prompts: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    def differences(self, other: Protocol, *, ignoring: Iterable[str] = FREE) -> list[str]:
        """Name the fields in which two protocols differ, each with both values, but for those `ignoring` names."""
        mine, theirs = flat(asdict(self)), flat(asdict(other))
        free = set(ignoring)
        names = [name for name in dict.fromkeys([*mine, *theirs]) if name.split(".")[0] not in free]
        return [f"{n}: {_shown(mine, n)} and {_shown(theirs, n)}" for n in names if mine.get(n) != theirs.get(n)]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take back what `dataclasses.asdict` and JSON made of one."""
        known = _known(cls, values)
        return cls(**{**known, "hearing": Hearing.from_json(known["hearing"])})


def identity(digests: Iterable[str]) -> str:
    """Give one hash of a set of clips from the hash of each, whatever their order: a sum, so that sets can be merged.

    Digests are hexadecimal. `identity([*a, *b]) == identity([identity(a), identity(b)])`.
    """
    return f"{sum(int(digest, 16) for digest in digests) % 2**128:032x}"


def digest_of(content: bytes) -> str:
    """Give the hash of one clip's audio, 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def prompts_hash(prompts: Iterable[Any]) -> str:
    """Give a hash of a list of prompts, whatever its order; a prompt asked for twice counts twice. Empty for none.

    The SHA-256, 16 digits, of the JSON list of the prompts' own JSON texts, sorted.
    """
    texts = sorted(json.dumps(prompt, sort_keys=True, ensure_ascii=False) for prompt in prompts)
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:16] if texts else ""


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Give nested mappings as one, its keys joined by dots."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return rows


def locations(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of a specification that say where weights are loaded from, without the folders of this machine.

    They stand in no protocol: the same weights from another place are the same judge.
    """
    given = flat(_plain(spec))
    return {name: value for name, value in given.items() if name.split(".")[-1] in LOCATING and value is not None}


def _plain(spec: Any, leaving_out: Collection[str] = ()) -> Any:
    """Give a specification as JSON reads it back, without the folders of this machine and some options."""
    if isinstance(spec, Mapping):
        return {str(key): _plain(value, leaving_out) for key, value in spec.items() if key not in leaving_out}
    if isinstance(spec, list | tuple):
        return [_plain(value, leaving_out) for value in spec]
    if isinstance(spec, PurePath) or (isinstance(spec, str) and PurePath(spec).is_absolute()):
        return PurePath(spec).name if PurePath(spec).is_absolute() else str(spec)
    return spec


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a later version may have added."""
    names = {f.name for f in fields(cls)}
    return {key: value for key, value in values.items() if key in names}
