"""The four parts of a codec diffusion model, what passes between them, and the two that prepare and judge its music.

Shapes, everywhere in codecdiff:

    b batch        k codebook          d codebook dimension    l latent frame
    c channel      t audio sample      n token                 e embedding

Audio is float in [-1, 1]. Codes are integers. Latents keep an explicit codebook axis, (b, k, d, l).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

Prompt = str | Mapping[str, Any]


def prompt_fields(prompt: Prompt) -> dict[str, Any]:
    """Give a prompt as a mapping of fields; a string means `{"text": string}`."""
    return {"text": prompt} if isinstance(prompt, str) else dict(prompt)


class Part:
    """Something a configuration can name. It remembers the arguments it was built with, defaults included.

    `exceptions` names the laws of `codecdiff.testing` that a part does not keep, each with the reason: they are
    printed where the part is checked, and do not fail.
    """

    arguments: dict[str, Any]
    exceptions: Mapping[str, str] = {}  # law -> why it cannot be kept

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor's arguments before the constructor runs."""
        part = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(part, *args, **kwargs)
        bound.apply_defaults()
        named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        object.__setattr__(
            part, "arguments", {name: bound.arguments[name] for name in named[1:] if name in bound.arguments}
        )
        return part

    @classmethod
    def outline(cls, **options: Any) -> Self:
        """Build the part for its facts alone, with the constructor's options: nothing is fetched, and it need not work.

        The weights of what is built may be on the meta device. Unless overridden: the part itself.
        """
        return cls(**options)

    def recorded(self) -> Part:
        """Give the part that a model folder names in its place: itself, unless it is about this machine alone."""
        return self


class Entry(NamedTuple):
    """One named condition: tokens (b, n, e) and a mask (b, n), True where a token is real."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told besides the context: named sequences of tokens, one row per sample.

    A vector is a sequence of length one. A row whose mask is False everywhere is *absent*: the denoiser
    puts its learned null there (`fill`). Methods return new conditions; nothing is changed in place.
    """

    entries: Mapping[str, Entry]

    def __getitem__(self, name: str) -> Entry:
        """Give the entry called `name`."""
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an entry called `name`."""
        return name in self.entries

    @property
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry."""
        return {name: entry.tokens.shape[-1] for name, entry in self.entries.items()}

    def map(self, function: Any) -> Condition:
        """Apply `function(name, entry) -> Entry` to every entry."""
        return Condition({name: Entry(*function(name, entry)) for name, entry in self.entries.items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Condition:
        """Move to a device; tokens, which are floating point, also to `dtype`."""
        return self.map(lambda _, e: (e.tokens.to(device=device, dtype=dtype or e.tokens.dtype), e.mask.to(device)))

    def rows(self, index: Tensor | slice | Sequence[int]) -> Condition:
        """Select rows of the batch, by slice, integer indices or a boolean mask."""
        return self.map(lambda _, e: (e.tokens[index], e.mask[index]))

    def drop(self, rows: Tensor, name: str) -> Condition:
        """Make the entry called `name` absent where `rows` (b,) is True."""
        return self.map(lambda key, e: (e.tokens, e.mask & ~rows[:, None]) if key == name else e)

    def null(self) -> Condition:
        """Make every entry absent in every row: the condition of an empty prompt."""
        return self.map(lambda _, e: (e.tokens, torch.zeros_like(e.mask)))

    def fill(self, nulls: Mapping[str, Tensor]) -> Condition:
        """Put the learned null (e,) of each name in `nulls` into the rows where that name is absent.

        A filled row has one real token, its null, however many it had room for: attention over it is defined, even in a
        row with the tokens of other entries, and the null gets a gradient. Rows with a real token are unchanged.
        """

        def filled(name: str, entry: Entry) -> tuple[Tensor, Tensor]:
            if name not in nulls:
                return entry
            absent = ~entry.mask.any(1, keepdim=True)
            first = torch.arange(entry.mask.shape[1], device=entry.mask.device) == 0
            null = nulls[name].to(entry.tokens.dtype)
            return torch.where(absent[..., None], null, entry.tokens), entry.mask | absent & first

        return self.map(filled)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stack conditions along the batch, padding each entry's tokens to the longest."""

        def stacked(name: str) -> Entry:
            entries = [condition[name] for condition in conditions]
            longest = max(entry.mask.shape[1] for entry in entries)
            pads = [longest - entry.mask.shape[1] for entry in entries]
            tokens = [nn.functional.pad(e.tokens, (0, 0, 0, pad)) for e, pad in zip(entries, pads, strict=True)]
            masks = [nn.functional.pad(e.mask, (0, pad)) for e, pad in zip(entries, pads, strict=True)]
            return Entry(torch.cat(tokens), torch.cat(masks))

        names = list(conditions[0].entries)
        if any(list(condition.entries) != names for condition in conditions):
            raise ValueError(
                f"Conditions with different entries cannot be stacked: {[list(c.entries) for c in conditions]}."
            )
        return Condition({name: stacked(name) for name in names})


def device_of(module: nn.Module) -> torch.device:
    """Give the device of a module's first parameter or buffer; the CPU when it has none."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def fingerprint(module: nn.Module) -> str:
    """Give a hash of a module's parameters and buffers: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Codec(Part, nn.Module, ABC):
    """A frozen neural codec with residual codebooks, coarse to fine.

    Law: `quantize(embed(codes)) == codes`, but for entries a codebook holds twice (`duplicate_entries`).

    A halo is the number of latent frames on either side of a frame that its result can depend on; None
    says that there is no such number, and the codec cannot work in chunks.
    """

    sample_rate: int  # Hz
    channels: int  # of audio
    hop_length: int  # audio samples per latent frame
    num_codebooks: int
    codebook_size: int  # entries per codebook
    codebook_dim: int
    encode_halo: int | None = None  # latent frames
    decode_halo: int | None = None  # latent frames
    duplicate_entries: frozenset[tuple[int, int]] = frozenset()  # (codebook, index) that quantise to another index

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of each row of codes, 0 coarsest; rows of one level are as fine as each other."""
        return tuple(range(self.num_codebooks))

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop_length

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, l) codes, l = ceil(t / hop_length), padded on the right; any t >= 1."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, k, d, l) latents: one table lookup."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Tensor:
        """(b, k, d, l) latents -> (b, k, l) codes, by the codec's own lookup rule."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(b, k, l) codes -> (b, ch, l * hop_length) audio."""

    def project(self, audio: Tensor) -> Tensor:
        """(b, ch, t) audio -> (b, k, d, l) latents before quantisation; the embedded codes unless overridden."""
        return self.embed(self.encode(audio))

    def encode_and_project(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(b, ch, t) audio -> what `encode` and `project` give; override it where one pass can give both."""
        return self.encode(audio), self.project(audio)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a codec never trains."""
        return super().train(False)

    @property
    def is_fitted(self) -> bool:
        """False while the codec still has to be fitted to music before it can encode."""
        return True

    def fit(self, clips: Iterable[Tensor], *, seed: int = 0) -> None:
        """Measure on clips of audio (ch, t) whatever this codec measures. Most codecs measure nothing."""

    def fitted_state(self) -> dict[str, Tensor]:
        """Give the tensors that were fitted, to be kept with the model; empty if there are none."""
        return {}

    def load_fitted_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `fitted_state` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no fitted state, but was given {sorted(state)}.")


class Splitter(Part, ABC):
    """A generation pattern: which numbers are made together, and in which order. It moves numbers, never mixes them.

    Law: `merge(split(latents)) == latents`, and `split(1 + arange)` holds every number exactly once, zeros elsewhere.
    """

    num_codebooks: int

    @abstractmethod
    def split(self, latents: Tensor) -> list[Tensor]:
        """(b, k, d, l) latents -> one (b, c, l') tensor per stage, coarsest first, padded with zeros."""

    @abstractmethod
    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        """The stages of `split` -> (b, k, d, l) latents: its exact inverse."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        """Give what stage `i` sees of the stages before it, (b, c', l') at its own length; None for the first.

        Only the numbers of `stages[:i]` are read: `stages[i:]` are there for their shapes. Unless overridden: the
        channels of those before, concatenated.
        """
        return torch.cat(list(stages[:i]), dim=1) if i else None


class Conditioner(Part, nn.Module, ABC):
    """Turns prompts into fixed features. Frozen: whatever learns belongs to the denoiser."""

    fields: tuple[str, ...]  # of a prompt that are read

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Embedding width of every entry of the condition it gives."""

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        """N prompts -> a condition of n rows. An empty prompt gives absent entries; a row never depends on another."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Fields of a prompt that every entry follows from; all that are read, unless overridden."""
        return dict.fromkeys(self.widths, self.fields)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Be told of prompts that training may ask for, any number of times before it; nothing, unless overridden."""

    def release(self) -> None:
        """Let go of what only prompts that were not prepared need; nothing, unless overridden."""

    def key(self, prompt: Prompt) -> str:
        """Give a text that prompts share only if their features are equal: the fields that are read, as JSON.

        Override it for fields that are not JSON, or that name something which may change, as a file does.
        """
        fields = prompt_fields(prompt)
        read = {name: fields[name] for name in self.fields if fields.get(name) not in (None, "")}
        return json.dumps(read, sort_keys=True, ensure_ascii=False)

    def fingerprint(self) -> str:
        """Hash everything that features depend on beside the prompt: what features are kept under.

        Unless overridden: the class, its options and its weights. Override it where there is more, as a tokenizer.
        """
        options = json.dumps(self.arguments, sort_keys=True, default=str)
        told = f"{type(self).__module__}.{type(self).__qualname__} {options} {fingerprint(self)}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a conditioner never trains."""
        return super().train(False)


class Denoiser(Part, nn.Module, ABC):
    """The network of one stage, the only part that learns. It pads to its own multiple of frames and crops again."""

    channels: int  # of the stage's latents
    context_channels: int  # 0 for a stage without context
    condition_widths: Mapping[str, int]

    @abstractmethod
    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        """(b, c, l) noisy latents, (b,) steps, (b, c', l) context or None, condition -> (b, c, l) prediction."""

    def prepared(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        """Give an equal of this denoiser that may be faster for these `timesteps` (n,) and this `condition`."""
        return self


class Embedder(Part, nn.Module, ABC):
    """Turns music into the vectors that a judge compares. Frozen, and it hears one channel.

    Law: the vectors of a clip never depend on the clips beside it, and their number depends on its length alone.
    Windows of one length start `hop_seconds` apart, so that long audio can be embedded in blocks of them.
    """

    sample_rate: int  # Hz
    window_seconds: float  # of audio that one vector is about
    hop_seconds: float  # from one window to the next: a whole number of samples
    halo_seconds: float = 0.0  # of audio on either side of its window that a vector depends on too
    width: int  # of a vector
    policy: str = ""  # in words: how it pads, repeats or cuts audio that is no whole number of windows, and long texts
    reads_text: bool = False  # whether texts have vectors in the same space

    @abstractmethod
    def embed(self, audio: Tensor) -> Tensor:
        """(b, t) mono audio, t >= 1 -> (b, w, e) float32 vectors of its windows, in order; a short clip has one."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (n, e) float32 vectors. Raises TypeError where `reads_text` is False."""
        raise TypeError(f"{type(self).__name__} does not read text. Choose an embedder that does, such as clap-music.")

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a judge never trains."""
        return super().train(False)


KINDS: dict[str, type[Part]] = {
    "codecs": Codec,
    "splitters": Splitter,
    "conditioners": Conditioner,
    "denoisers": Denoiser,
    "embedders": Embedder,
}
