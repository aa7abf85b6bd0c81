"""Clips as a judge hears them: their vectors, and the moments of these, on disk and merged."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codecdiff.files import replaced
from codecdiff.fingerprint import device_of
from codecdiff.gaussians import Moments
from codecdiff.interfaces import Embedder, Prompt
from codecdiff.protocols import Hearing, digest_of, flat, identity

FORMAT = 1
LEAST = 4  # recordings, of which halves tell something
START = re.compile(r"#t=(\d+\.\d+)$")  # of a clip, at the end of its name, as media fragments are written


def recording_of(clip: str) -> str:
    """Give the name of the recording that a clip was cut from."""
    return START.sub("", clip)


def start_of(clip: str) -> float:
    """Give where in its recording a clip starts, in seconds."""
    found = START.search(clip)
    return float(found[1]) if found else 0.0


def by_recording(clips: Sequence[str]) -> list[Tensor]:
    """Give the numbers of the clips of each recording, given the names of all: recordings in order of first clips."""
    numbers: dict[str, list[int]] = {}
    for number, clip in enumerate(clips):
        numbers.setdefault(recording_of(clip), []).append(number)
    return [torch.tensor(some) for some in numbers.values()]


@dataclass(frozen=True)
class Embedded:
    """The vectors of a set of clips, and what they were heard by. Clips may have different numbers of windows.

    names: of the clips, each its own.
    digests: hash of each clip's audio, which say what set this is.
    vectors: (m, e) of the windows of all clips, in order.
    lengths: (n,) windows of each clip.
    prompts: that the clips were made from, one each; none where they were not.
    seeds: of their generation, by name.
    """

    hearing: Hearing
    names: Sequence[str]
    digests: Sequence[str]
    vectors: Tensor
    lengths: Tensor
    prompts: Sequence[Prompt] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.names)
        if not (len(self.digests) == len(self.lengths) == n and int(self.lengths.sum()) == len(self.vectors)):
            raise ValueError("Embedded clips need one name, digest and number of windows each, and all their windows.")
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise ValueError(f"{len(repeated)} names, such as '{repeated[0]}', belong to several clips: rename.")
        if self.prompts and len(self.prompts) != n:
            raise ValueError(f"{n} clips were made from {len(self.prompts)} prompts: give one prompt each, or none.")
        if bad := [name for name, v in zip(self.names, self.by_clip(), strict=True) if not v.isfinite().all()]:
            raise ValueError(f"The vectors of {', '.join(bad[:3])} are not finite: listen to these clips.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def identity(self) -> str:
        """One hash of the set of clips, whatever their order."""
        return identity(self.digests)

    def by_clip(self) -> tuple[Tensor, ...]:
        """Give the vectors (w, e) of each clip."""
        return self.vectors.split(self.lengths.tolist())

    def recordings(self) -> list[Tensor]:
        """Give the numbers of the clips of each recording: what is resampled, for clips of one are not independent."""
        return by_recording(self.names)

    def means(self) -> Tensor:
        """Give the mean vector of each clip, (n, e) float64."""
        return torch.stack([vectors.double().mean(0) for vectors in self.by_clip()])

    def grid(self) -> Tensor:
        """Give the vectors as (n, w, e), as `codecdiff.metrics` takes them. Raises ValueError for unequal lengths."""
        if len(self.lengths.unique()) != 1:
            raise ValueError("Clips of different numbers of windows have no common grid: take clips of one length.")
        return self.vectors.unflatten(0, (len(self), -1))

    def select(self, clips: Sequence[int]) -> Embedded:
        """Give the set of these clips, by number."""
        parts = self.by_clip()
        return replace(
            self,
            names=[self.names[i] for i in clips],
            digests=[self.digests[i] for i in clips],
            vectors=torch.cat([parts[i] for i in clips]) if len(clips) else self.vectors[:0],
            lengths=self.lengths[list(clips)],
            prompts=[self.prompts[i] for i in clips] if self.prompts else (),
        )

    def drawn(self, clips: Tensor) -> Tensor:
        """Give the vectors (m, e) of the clips of these numbers (n,), a clip as often as it was drawn."""
        parts = self.by_clip()
        return torch.cat([parts[i] for i in clips.tolist()])

    def halves(self, seed: int = 0) -> tuple[Embedded, Embedded]:
        """Divide the recordings at random in two sets of about as many clips; no recording is in both.

        Raises ValueError for fewer than 4 recordings.
        """
        recordings = self.recordings()
        if len(recordings) < LEAST:
            raise ValueError(f"Halves of {len(recordings)} recordings tell nothing: take at least {LEAST}.")
        sides: tuple[list[int], list[int]] = ([], [])
        for i in torch.randperm(len(recordings), generator=torch.Generator().manual_seed(seed)).tolist():
            min(sides, key=len).extend(recordings[i].tolist())
        return self.select(sorted(sides[0])), self.select(sorted(sides[1]))

    @classmethod
    def cat(cls, parts: Sequence[Embedded]) -> Embedded:
        """Put sets together. Raises ValueError unless they were heard alike."""
        first = parts[0]
        for part in parts[1:]:
            require_alike(first.hearing, part.hearing)
        return replace(
            first,
            names=[name for part in parts for name in part.names],
            digests=[digest for part in parts for digest in part.digests],
            vectors=torch.cat([part.vectors for part in parts]),
            lengths=torch.cat([part.lengths for part in parts]),
            prompts=[prompt for part in parts for prompt in part.prompts],
        )

    def save(self, file: Path | str) -> None:
        """Write the set as one safetensors file, whole or not at all."""
        facts = {name: getattr(self, name) for name in ("names", "digests", "prompts", "seeds")}
        facts = {key: dict(v) if isinstance(v, Mapping) else list(v) for key, v in facts.items()}
        tensors = {"vectors": self.vectors.contiguous(), "lengths": self.lengths.contiguous()}
        _save(file, "embedded", tensors, {"hearing": asdict(self.hearing), **facts})

    @classmethod
    def load(cls, file: Path | str) -> Self:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if it is something else or damaged."""
        tensors, facts = _load(file, "embedded")
        return cls(hearing=Hearing.from_json(facts.pop("hearing")), **tensors, **facts)


@dataclass(frozen=True)
class Statistics:
    """The moments of the vectors of a set of clips: all that a Fréchet distance needs of a reference, and small.

    `+` merges those of two sets, gathered by one process or several.
    """

    hearing: Hearing
    moments: Moments
    clips: int
    identity: str = identity([])

    @classmethod
    def of(cls, embedded: Embedded) -> Statistics:
        """Gather the statistics of a set."""
        return cls(embedded.hearing, Moments.of(embedded.vectors), len(embedded), embedded.identity)

    def __len__(self) -> int:
        return self.clips

    def __add__(self, other: Statistics) -> Statistics:
        require_alike(self.hearing, other.hearing)
        both = identity([self.identity, other.identity])
        return Statistics(self.hearing, self.moments + other.moments, self.clips + other.clips, both)

    def save(self, file: Path | str) -> None:
        """Write the statistics as one safetensors file, whole or not at all."""
        tensors = {"mean": self.moments.mean, "scatter": self.moments.scatter}
        facts = {"count": self.moments.count, "clips": self.clips, "identity": self.identity}
        _save(file, "statistics", tensors, {"hearing": asdict(self.hearing), **facts})

    @classmethod
    def load(cls, file: Path | str) -> Self:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if it is something else or damaged."""
        tensors, facts = _load(file, "statistics")
        moments = Moments(facts["count"], tensors["mean"], tensors["scatter"])
        return cls(Hearing.from_json(facts["hearing"]), moments, facts["clips"], facts["identity"])


def require_alike(a: Hearing, b: Hearing) -> None:
    """Raise ValueError, naming the fields that differ, unless two sets were heard alike."""
    mine, theirs = flat(asdict(a)), flat(asdict(b))
    names = [name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)]
    if names:
        told = "; ".join(f"{name}: {mine.get(name)!r} and {theirs.get(name)!r}" for name in names)
        raise ValueError(f"The two sets were not heard alike ({told}). Embed one of them again.")


def embed(
    embedder: Embedder,
    hearing: Hearing,
    clips: Iterable[tuple[str, Tensor]],
    *,
    prompts: Sequence[Prompt] = (),
    seeds: Mapping[str, int] | None = None,
    batch_size: int = 8,
) -> Embedded:
    """Let a judge hear clips: each a name and mono audio (t,) at the embedder's rate, cut as `hearing` says.

    Clips of one length that follow each other are heard together; only their vectors are kept. Raises ValueError for a
    clip without samples, or where there is none.
    """
    names, digests, vectors = [], [], []
    for batch in _batches(clips, batch_size):
        audio = torch.stack([samples for _, samples in batch])
        with torch.no_grad():
            heard = embedder.embed(audio.to(device_of(embedder))).cpu()
        vectors += list(heard)
        names += [name for name, _ in batch]
        digests += [digest_of(samples.float().cpu().numpy().tobytes()) for _, samples in batch]
    if not names:
        raise ValueError("There are no clips to embed.")
    lengths = torch.tensor([len(v) for v in vectors])
    return Embedded(hearing, names, digests, torch.cat(vectors), lengths, prompts, seeds or {})


def _batches(clips: Iterable[tuple[str, Tensor]], size: int) -> Iterator[list[tuple[str, Tensor]]]:
    batch: list[tuple[str, Tensor]] = []
    for name, audio in clips:
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"Clip '{name}' has shape {tuple(audio.shape)}: give mono audio (t,) with samples.")
        if batch and (len(batch) == size or len(batch[0][1]) != len(audio)):
            yield batch
            batch = []
        batch.append((name, audio))
    if batch:
        yield batch


def _save(file: Path | str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"format": FORMAT, "kind": kind, **facts}, ensure_ascii=False)
    with replaced(file) as temporary:
        save_file(dict(tensors), temporary, metadata={"codecdiff": header})


def _load(file: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no file '{file}' of {kind} clips.")
    try:
        with safe_open(file, "pt") as stream:
            facts = json.loads((stream.metadata() or {}).get("codecdiff", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it has no iterator
    except SafetensorError as error:
        raise ValueError(f"'{file}' is damaged: {error}. Make it again.") from error
    if (facts.pop("kind", None), facts.pop("format", None)) != (kind, FORMAT):
        raise ValueError(f"'{file}' holds no {kind} clips of format {FORMAT}. Make it again.")
    return tensors, facts
