"""Small parts that pass every check, and subclasses of each that fail some: what the checks are tested with.

The docstring of a bad part says what is wrong with it; `fails` names the checks that have to notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from small import noise
from torch import Tensor, nn
from torch.nn import functional

from codecdiff import (
    Codec,
    Condition,
    Conditioner,
    ConditionTokens,
    Denoiser,
    Prompt,
    Splitter,
    prompt_fields,
)
from codecdiff.denoisers import fill_nulls
from codecdiff.embedders import Windowed

BAD: dict[str, list[type]] = {kind: [] for kind in ("codecs", "splitters", "conditioners", "denoisers", "embedders")}


def fails(kind: str, *checks: str) -> Callable[[type], type]:
    """Mark a part as one that fails exactly these checks."""

    def marked(part: Any) -> type:
        part.fails = set(checks)
        BAD[kind].append(part)
        return part

    return marked


# Codecs


class Sound(Codec):
    """Two residual codebooks over frames of three hops, and audio that overlaps: local by one frame either way."""

    sample_rate, channels, hop_length = 800, 1, 8
    num_codebooks, codebook_size, codebook_dim = 2, 16, 4
    encode_context_frames: int | None = 1
    decode_context_frames: int | None = 1
    fails: ClassVar[set[str]] = set()
    filters: Tensor  # (d, 1, 3 * hop_length)
    codebooks: Tensor  # (k, codebook_size, d)

    def __init__(self, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("filters", noise(self.codebook_dim, 1, 3 * self.hop_length, seed=1))
        sizes = torch.tensor([1.0, 0.3])[:, None, None]
        self.register_buffer("codebooks", sizes * noise(2, self.codebook_size, self.codebook_dim, seed=2))

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        whole = functional.pad(self.heard(audio), (0, -audio.shape[-1] % self.hop_length))
        left = functional.conv1d(whole, self.filters, stride=self.hop_length, padding=self.hop_length)
        codes = []
        for codebook in self.codebooks:
            codes.append(nearest(left, codebook))
            left = left - codebook[codes[-1]].mT
        return torch.stack(codes, dim=1)

    def heard(self, audio: Tensor) -> Tensor:
        return audio

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        return torch.stack([book[row].mT for book, row in zip(self.codebooks, codes.unbind(1), strict=True)], dim=1)

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        return torch.stack([nearest(x, c) for x, c in zip(latents.unbind(1), self.codebooks, strict=True)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        hop, frames = self.hop_length, self.embed(codes).sum(1)
        return self.gain * functional.conv_transpose1d(frames, self.filters, stride=hop, padding=hop) / 20


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """(b, d, l) points, (m, d) codebook -> (b, l) index of the nearest entry."""
    return (points.mT[..., None, :] - codebook).square().sum(-1).argmin(-1)


@fails("codecs", "facts")
class FractionalRate(Sound):
    """Its rate is no whole number."""

    sample_rate = cast(int, 800.0)


@fails("codecs", "facts")
class TooFewLevels(Sound):
    """One level for two codebooks."""

    @property
    def levels(self) -> tuple[int, ...]:
        return (0,)


@fails("codecs", "facts")
class RefinesFiner(Sound):
    """Its coarse level refines the fine one."""

    @property
    def refines(self) -> tuple[int | None, ...]:
        return (1, None)


@fails("codecs", "lengths")
class Short(Sound):
    """Audio comes back a sample short, as from a network of odd strides."""

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes)[..., :-1]


@fails("codecs", "lengths")
class Normalising(Sound):
    """Projections are relative to the deviation of the clip, which a single sample has not."""

    @torch.no_grad()
    def encode_continuous(self, audio: Tensor) -> Tensor:
        variance = (audio - audio.mean()).square().sum() / (audio.numel() - 1)
        return super().encode_continuous(audio) + 0 * variance


@fails("codecs", "lengths", "chunked", "hop-length")
class WrongHop(Sound):
    """It says another hop length than its network has."""

    def encode(self, audio: Tensor) -> Tensor:
        self.hop_length, said = 8, self.hop_length
        try:
            return super().encode(audio)
        finally:
            self.hop_length = said

    def __init__(self) -> None:
        super().__init__()
        self.hop_length = 10

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        frames = self.embed(codes).sum(1)
        return functional.conv_transpose1d(frames, self.filters, stride=10, padding=7) / 20


@fails("codecs", "codes-in-range")
class Constant(Sound):
    """One code for everything."""

    def encode(self, audio: Tensor) -> Tensor:
        return super().encode(audio) * 0


@fails("codecs", "codes-in-range", "continuous", "extremes", "moves")
class OutOfRange(Sound):
    """Codes of all codebooks are numbered through."""

    def encode(self, audio: Tensor) -> Tensor:
        return super().encode(audio) + 16

    def embed(self, codes: Tensor) -> Tensor:
        return super().embed(codes % 16)


@fails("codecs", "codebook-vectors")
class Undeclared(Sound):
    """An entry is there twice, and it does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.codebooks[0, 5] = self.codebooks[0, 3]


@fails("codecs", "codebook-vectors")
class Summing(Sound):
    """It quantises the sum of all rows anew, as its encoder would, and not each row by its own codebook."""

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        left, codes = latents.sum(1), []
        for codebook in self.codebooks:
            codes.append(nearest(left, codebook))
            left = left - codebook[codes[-1]].mT
        return torch.stack(codes, dim=1)


@fails("codecs", "codebook-vectors")
class Overdeclared(Sound):
    """It declares a duplicate that is none."""

    duplicate_codes = frozenset({(1, 4)})


@fails("codecs", "distinct-vectors")
class Collapsed(Sound):
    """All entries but seven are one, and it says so; the law of entries would be empty."""

    duplicate_codes = frozenset((k, i) for k in range(2) for i in range(7, 16))

    def __init__(self) -> None:
        super().__init__()
        self.codebooks[:, 6:] = self.codebooks[:, 6:7]


@fails("codecs", "deterministic")
class Drifting(Sound):
    """Every other time, audio is a little louder."""

    calls = 0

    def decode(self, codes: Tensor) -> Tensor:
        self.calls += 1
        return super().decode(codes) + 1e-6 * (self.calls % 2)


@fails("codecs", "one-pass")
class TwoMinded(Sound):
    """In one pass it gives other projections."""

    def encode_with_continuous(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(audio), self.encode_continuous(audio) + 1


@fails("codecs", "continuous")
class Shuffled(Sound):
    """It projects the finer codebook first."""

    def encode_continuous(self, audio: Tensor) -> Tensor:
        return super().encode_continuous(audio).flip(1)


@fails("codecs", "every-codebook")
class CoarseAlone(Sound):
    """It decodes without its finer codebook."""

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes * torch.tensor([1, 0], device=codes.device)[:, None])


@fails("codecs", "batches")
class Levelled(Sound):
    """It divides by the peak of the batch. A whole clip is normalised, so it says that it is not local."""

    encode_context_frames = None

    def heard(self, audio: Tensor) -> Tensor:
        return audio / audio.abs().max().clamp(min=1e-6)


@fails("codecs", "batches")
class FirstRow(Sound):
    """It quantises the first row of a batch alone."""

    def quantize(self, latents: Tensor) -> Tensor:
        return super().quantize(latents[:1])


@fails("codecs", "hop-length")
class Stretched(Sound):
    """Its network hops 7 samples where it says 8, and it stretches codes to as many frames as it promised."""

    decode_context_frames = None

    def heard(self, audio: Tensor) -> Tensor:
        return audio[..., (torch.arange(audio.shape[-1]) * 7) // 8]


@fails("codecs", "chunked")
class NarrowDecoder(Sound):
    """Its decoder reads a frame further than it says."""

    decode_context_frames = 0


@fails("codecs", "chunked", "hop-length")
class NarrowEncoder(Sound):
    """Its encoder reads a frame further than it says."""

    encode_context_frames = 0


@fails("codecs", "chunked", "hop-length")
class OwnChunks(Sound):
    """It encodes in chunks of its own, each at one loudness: where a chunk begins changes the latents."""

    def heard(self, audio: Tensor) -> Tensor:
        return torch.cat([piece / piece.abs().amax().clamp(min=1e-6) for piece in audio.split(52, dim=-1)], dim=-1)

    def encode(self, audio: Tensor) -> Tensor:
        return torch.cat([Sound.encode(self, row) for row in audio.split(1)])


@fails("codecs", "chunked")
class Windowing(Sound):
    """It encodes in windows of its own, a second long, which do not overlap."""

    def encode(self, audio: Tensor) -> Tensor:
        return torch.cat([Sound.encode(self, window) for window in audio.split(self.sample_rate, dim=-1)], dim=-1)


@fails("codecs", "extremes")
class Relative(Sound):
    """Projections are relative to the loudness, which silence has not."""

    @torch.no_grad()
    def encode_continuous(self, audio: Tensor) -> Tensor:
        return super().encode_continuous(audio) * (audio.square().mean() / audio.square().mean())


@fails("codecs", "inputs-untouched")
class Clipping(Sound):
    """It clips the audio where it lies."""

    def heard(self, audio: Tensor) -> Tensor:
        return audio.clamp_(-0.5, 0.5)


@fails("codecs", "no-gradient")
class Differentiable(Sound):
    """A gradient runs through its projections."""

    def encode_continuous(self, audio: Tensor) -> Tensor:
        return super().encode_continuous(audio) + 0 * audio.mean()


@fails("codecs", "no-gradient")
class Inferring(Sound):
    """Its latents are made in inference mode, and nothing can learn from them."""

    @torch.inference_mode()
    def embed(self, codes: Tensor) -> Tensor:
        return super().embed(codes)


@fails("codecs", "no-global-randomness")
class Rolling(Sound):
    """It draws from the global generator, though it uses nothing of it."""

    def embed(self, codes: Tensor) -> Tensor:
        torch.rand(1)
        return super().embed(codes)


@fails("codecs", "no-global-randomness")
class Seeding(Sound):
    """It seeds the generators of Python and numpy for everybody."""

    def decode(self, codes: Tensor) -> Tensor:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        return super().decode(codes)


# of a codec that encodes otherwise at every call
RANDOM = (
    *("deterministic", "one-pass", "continuous", "batches", "hop-length"),
    *("chunked", "no-global-randomness", "moves", "save-and-load"),
)


@fails("codecs", *RANDOM)
class Dithering(Sound):
    """It dithers codes by the global generator."""

    def encode(self, audio: Tensor) -> Tensor:
        codes = super().encode(audio)
        return (codes + torch.randint(2, codes.shape)) % 16


@fails("codecs", "moves")
class LeftBehind(Sound):
    """A window that is no buffer stays on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.window = torch.ones(1)

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes) * self.window


@fails("codecs", "moves")
class Listing(Sound):
    """Its networks stand in a list, where torch does not see them, and work in float32 whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = [nn.Conv1d(1, 1, 1, bias=False).requires_grad_(False)]
        nn.init.ones_(self.networks[0].weight)

    def heard(self, audio: Tensor) -> Tensor:
        return self.networks[0](audio.float()).to(audio.dtype)


@fails("codecs", "moves")
class FloatOnly(Sound):
    """It fails in another precision."""

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        if self.codebooks.dtype != torch.float32:
            raise TypeError("float32 only")
        return super().decode(codes)


@fails("codecs", "save-and-load")
class Forgetful(Sound):
    """Its gain is set after it was built, and is no option."""

    def __init__(self) -> None:
        super().__init__()
        Forgetful.built = self.gain = getattr(Forgetful, "built", 1.0) / 2

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes)


@fails("codecs", "frozen")
class Dropping(Sound):
    """Told to train, it does, and drops codes."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        nn.Module.train(self, False)

    def heard(self, audio: Tensor) -> Tensor:
        return self.drop(audio)

    def train(self, mode: bool = True) -> Self:
        return cast(Self, nn.Module.train(self, mode))


@fails("codecs", *RANDOM)
class LeftTraining(Sound):
    """Its constructor leaves it in train mode, in which it drops samples."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def heard(self, audio: Tensor) -> Tensor:
        return self.drop(audio)


@fails("codecs", "lengths", "batches", "chunked", "hop-length")
class BatchNormed(Sound):
    """Its constructor leaves batch normalisation in train mode: it normalises by the batch, and one sample fails."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)

    def heard(self, audio: Tensor) -> Tensor:
        return self.norm(audio)


@fails("codecs", "frozen")
class Learning(Sound):
    """A parameter of it could learn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


# Splitters


class Halves(Splitter):
    """The first codebook, then the others; the order can be turned, which is an option."""

    fails: ClassVar[set[str]] = set()

    def __init__(self, *, num_codebooks: int = 3, turned: bool = False) -> None:
        if num_codebooks < 2:
            raise ValueError("There is nothing to halve.")
        self.num_codebooks, self.turned = num_codebooks, turned

    def split(self, latents: Tensor) -> list[Tensor]:
        stages = [latents[:, :1].flatten(1, 2), latents[:, 1:].flatten(1, 2)]
        return [stage.flip(1) if self.turned else stage for stage in stages]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        whole = torch.cat([stage.flip(1) if self.turned else stage for stage in stages[:2]], dim=1)
        return whole.unflatten(1, (self.num_codebooks, -1))


@fails("splitters", "inverse")
class Swapping(Halves):
    """It puts the codebooks back in another order."""

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        return super().merge(stages).flip(1)


@fails("splitters", "every-number-once")
class Repeating(Halves):
    """A third stage makes the first again."""

    def split(self, latents: Tensor) -> list[Tensor]:
        first, second = super().split(latents)
        return [first, second, first]


@fails("splitters", "every-number-once", "padding")
class Mixing(Halves):
    """It adds the stages up, instead of moving numbers."""

    def split(self, latents: Tensor) -> list[Tensor]:
        first, second = super().split(latents)
        return [first + second[:, :1] / 4, second]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        return super().merge([stages[0] - stages[1][:, :1] / 4, stages[1]])


@fails("splitters", "padding")
class Trimming(Halves):
    """A frame more where every number is the same: the mask has another shape than what it masks."""

    def split(self, latents: Tensor) -> list[Tensor]:
        stages = super().split(latents)
        constant = latents.device.type != "meta" and bool((latents == latents.flatten()[0]).all())
        return [functional.pad(stage, (0, 1)) for stage in stages] if constant and latents.numel() > 9 else stages


@fails("splitters", "batches")
class Crowded(Halves):
    """In a batch, stages are turned in time."""

    def split(self, latents: Tensor) -> list[Tensor]:
        return super().split(latents.flip(-1) if len(latents) > 1 else latents)

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        merged = super().merge(stages)
        return merged.flip(-1) if len(merged) > 1 else merged


@fails("splitters", "shapes")
class Unplanned(Halves):
    """Shapes alone are split into other shapes."""

    def split(self, latents: Tensor) -> list[Tensor]:
        stages = super().split(latents)
        return stages[::-1] if latents.device.type == "meta" else stages


@fails("splitters", "shapes")
class Growing(Halves):
    """All frames of a stage are channels of one: how many there are depends on the music."""

    def split(self, latents: Tensor) -> list[Tensor]:
        return [stage.flatten(1)[..., None] for stage in super().split(latents)]

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        return super().merge([stages[0].unflatten(1, (3, -1))[..., 0], stages[1].unflatten(1, (6, -1))[..., 0]])

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        return None


@fails("splitters", "shapes")
class Rooted(Halves):
    """It merges on the CPU, wherever the stages are."""

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        merged = super().merge(stages)
        whole = torch.zeros(merged.shape, dtype=merged.dtype)
        whole[:] = merged
        return whole


@fails("splitters", "context-length")
class RootedContext(Halves):
    """Its context begins with a frame of zeros, on the CPU."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        before = stages[0]
        start = torch.zeros(*before.shape[:2], 1, dtype=before.dtype, device="cpu")
        return torch.cat([start, before[..., 1:].cpu()], dim=-1) if i and not before.is_meta else start if i else None


@fails("splitters", "context-length")
class ShortContext(Halves):
    """Its context has a frame more than the stage."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        return functional.pad(stages[0], (0, 1)) if i else None


@fails("splitters", "context-length")
class EarlyContext(Halves):
    """The first stage has a context."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        return stages[0] * 0 if i == 0 else super().context(stages, i)


@fails("splitters", "context-order")
class Peeking(Halves):
    """The context of a stage is the stage."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        return stages[i] if i else None


@fails("splitters", "inputs-untouched")
class Overwriting(Halves):
    """Merging counts the stages up."""

    def merge(self, stages: Sequence[Tensor]) -> Tensor:
        merged = super().merge(stages)
        for stage in stages:
            if not stage._is_view():
                stage.add_(1)
        return merged


@fails("splitters", "inputs-untouched")
class Scaling(Halves):
    """The context is the stage before, scaled where it lies."""

    def context(self, stages: Sequence[Tensor], i: int) -> Tensor | None:
        return stages[0].mul_(0.5) if i else None


@fails("splitters", "no-global-randomness")
class Dicing(Halves):
    """It draws from the global generator."""

    def split(self, latents: Tensor) -> list[Tensor]:
        random.random()
        return super().split(latents)


@fails("splitters", "save-and-load")
class Turning(Halves):
    """Each one built is turned the other way than the one before, whatever its options say."""

    def __init__(self, *, num_codebooks: int = 3) -> None:
        super().__init__(num_codebooks=num_codebooks)
        Turning.last = self.turned = not getattr(Turning, "last", False)


# Conditioners


class Letters(Conditioner):
    """One token for each letter of the text: a fixed vector of it."""

    fields = ("text",)
    fails: ClassVar[set[str]] = set()
    table: Tensor  # (64, e)

    def __init__(self, *, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", noise(64, width))

    @property
    def widths(self) -> dict[str, int]:
        return {"letters": self.width}

    def text_of(self, prompt: Prompt) -> str:
        return prompt_fields(prompt).get("text") or ""

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        texts = [self.text_of(prompt) for prompt in prompts]
        longest = max([1, *map(len, texts)])
        letters = torch.tensor([[ord(c) % 64 for c in text.ljust(longest)] for text in texts])
        mask = torch.arange(longest) < torch.tensor([[len(text)] for text in texts])
        device = self.table.device
        return Condition({"letters": ConditionTokens(self.table[letters.to(device)], mask.to(device))})


@fails("conditioners", "control-rates")
class Wordy(Letters):
    """Its control has tokens for letters, and none for a file."""

    @property
    def control_rates(self) -> dict[str, float]:
        return {"letters": 10.0}


def tokens_of(condition: Condition, change: Callable[[Tensor, Tensor], Tensor]) -> Condition:
    """Change the tokens of a condition."""
    return condition.map(lambda _, entry: (change(entry.tokens, entry.mask), entry.mask))


@fails("conditioners", "facts")
class WrongWidth(Letters):
    """It says another width than its tokens have."""

    @property
    def widths(self) -> dict[str, int]:
        return {"letters": self.width + 1}


@fails("conditioners", "facts")
class Secretive(Letters):
    """It reads the tempo too, and does not say so."""

    def text_of(self, prompt: Prompt) -> str:
        tempo = prompt_fields(prompt).get("tempo")
        return super().text_of(prompt) + (f" at {tempo}" if tempo else "")


@fails("conditioners", "facts", "reads-prompts")
class Literal(Letters):
    """It reads strings alone."""

    def text_of(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else ""


@fails("conditioners", "condition-tokens")
class Unfinished(Letters):
    """Padding is NaN, which attention would spread."""

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        return tokens_of(super().encode(prompts), lambda tokens, mask: tokens.where(mask[..., None], torch.nan))


@fails("conditioners", "no-gradient")
class GradientBearing(Letters):
    """Its features ask for a gradient."""

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        return tokens_of(super().encode(prompts), lambda tokens, mask: tokens.clone().requires_grad_())


@fails("conditioners", "no-gradient", "cache")
class InferenceBorn(Letters):
    """Its features are made in inference mode: nothing can learn from them, or write over them."""

    @torch.inference_mode()
    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        return super().encode(prompts)


@fails("conditioners", "empty-prompt")
class Unset(Letters):
    """A text that is not set is read as the word None."""

    def text_of(self, prompt: Prompt) -> str:
        return str(prompt_fields(prompt).get("text", ""))


@fails("conditioners", "empty-prompt")
class EndToken(Letters):
    """An empty prompt has one real token, as T5 makes of an empty string."""

    def text_of(self, prompt: Prompt) -> str:
        return super().text_of(prompt) or "$"


@fails("conditioners", "reads-prompts")
class Deaf(Letters):
    """It reads another field than it says."""

    def text_of(self, prompt: Prompt) -> str:
        return "something" if super().text_of(prompt) else ""


@fails("conditioners", "deterministic")
class Wavering(Letters):
    """Every other time, features are a little larger."""

    calls = 0

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        self.calls += 1
        return tokens_of(super().encode(prompts), lambda tokens, mask: tokens + 1e-5 * (self.calls % 2))


@fails("conditioners", "neighbors")
class AttendsPadding(Letters):
    """Features depend on how far they are padded: attention without a mask."""

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        return tokens_of(super().encode(prompts), lambda tokens, mask: tokens / tokens.shape[1])


@fails("conditioners", "cache")
class Keeping(Letters):
    """It keeps what it gave, and gives it again, whatever was done to it since."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Condition] = {}

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        asked = str([self.text_of(prompt) for prompt in prompts])
        if asked not in self.kept:
            self.kept[asked] = super().encode(prompts)
        kept = self.kept[asked]
        return kept if len(prompts) == 3 and self.text_of(prompts[0]) else super().encode(prompts)


@fails("conditioners", "cache", "cache-key")
class Misfiled(Letters):
    """It names another field than it reads."""

    fields = ("title",)


@fails("conditioners", "cache-key")
class Worn(Letters):
    """Its fingerprint is another once it was asked, as that of a tokenizer which remembers how it last padded."""

    asked = False

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        self.asked = True
        return super().encode(prompts)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {self.asked}"


@fails("conditioners", "cache", "cache-key")
class OneKey(Letters):
    """All prompts have one key, so that what is kept of one is given to all."""

    def key(self, prompt: Prompt) -> str:
        return "prompt"


@fails("conditioners", "cache-key")
class Passing(Letters):
    """What its features are kept under is another every time."""

    def fingerprint(self) -> str:
        return str(id(self))


@fails("conditioners", "save-and-load")
class Colliding(Letters):
    """It keeps features by the first letter of a text: whichever prompt comes first is the one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}

    def text_of(self, prompt: Prompt) -> str:
        text = super().text_of(prompt)
        return self.first.setdefault(text[:1], text)


@fails("conditioners", "no-global-randomness")
class Gambling(Letters):
    """It draws from numpy's global generator."""

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        np.random.rand()  # noqa: NPY002
        return super().encode(prompts)


@fails("conditioners", "moves")
class Staying(Letters):
    """Its table is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        table = self.table
        del self.table
        self.table = table


@fails("conditioners", "moves")
class Layered(Letters):
    """Its networks stand in a list, where torch does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = [nn.Linear(6, 6, bias=False).requires_grad_(False)]
        nn.init.eye_(self.networks[0].weight)

    def encode(self, prompts: Sequence[Prompt]) -> Condition:
        return tokens_of(super().encode(prompts), lambda tokens, mask: self.networks[0](tokens))


@fails("conditioners", "save-and-load", "cache-key")
class Nameless(Letters):
    """Every one that is built has another table."""

    def __init__(self) -> None:
        super().__init__()
        Nameless.count = getattr(Nameless, "count", 0) + 1
        self.table.add_(Nameless.count)


@fails("conditioners", "frozen")
class Trainable(Letters):
    """It trains when told to."""

    def train(self, mode: bool = True) -> Self:
        return cast(Self, nn.Module.train(self, mode))


# Denoisers


class Mixer(Denoiser):
    """A convolution over context and noise, moved by the step and the mean token of each condition."""

    fails: ClassVar[set[str]] = set()

    def __init__(
        self, *, channels: int, context_channels: int, condition_widths: Mapping[str, int], width: int = 48
    ) -> None:
        super().__init__()
        self.channels, self.context_channels = channels, context_channels
        self.condition_widths = dict(condition_widths)
        self.input = nn.Conv1d(channels + context_channels, width, 7, padding=3)
        self.time = nn.Linear(2, width)
        self.told = nn.ModuleDict({name: nn.Linear(e, width) for name, e in condition_widths.items()})
        self.nulls = nn.ParameterDict({name: nn.Parameter(torch.randn(e)) for name, e in condition_widths.items()})
        self.output = nn.Conv1d(width, channels, 3, padding=1)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        read = context if self.context_channels and context is not None else noisy[:, :0]
        angles = timestep[:, None].to(noisy) * 0.05
        cue = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        for name, entry in fill_nulls(condition, dict(self.nulls.items())).items():
            cue = cue + self.told[name](self.summary(name, entry))
        hidden = self.input(torch.cat([read, noisy], dim=1)) + cue[..., None]
        return self.output(functional.silu(hidden))

    def summary(self, name: str, entry: ConditionTokens) -> Tensor:
        mask = entry.mask[..., None].to(entry.tokens)
        return (entry.tokens * mask).sum(1) / mask.sum(1)


@fails("denoisers", "facts")
class Boastful(Mixer):
    """It says more channels than it has."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.channels += 1


@fails("denoisers", "lengths")
class Impatient(Mixer):
    """A single frame is zero."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy, timestep, context, condition) * (noisy.shape[-1] > 1)


@fails("denoisers", "lengths")
class Placed(Mixer):
    """It learns a place for each of 1,024 frames, and knows no more."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.places = nn.Parameter(torch.randn(self.channels, 1024))

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy + self.places[:, : noisy.shape[-1]], timestep, context, condition)


@fails("denoisers", "deterministic")
class Sixth(Mixer):
    """Every sixth prediction is a little larger."""

    calls = 0

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        self.calls += 1
        return super().forward(noisy, timestep, context, condition) + 1e-6 * (self.calls % 6 == 0)


@fails("denoisers", "no-global-randomness")
class Throwing(Mixer):
    """It draws from the global generator in evaluation mode."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        torch.rand(1)
        return super().forward(noisy, timestep, context, condition)


@fails("denoisers", "inputs-untouched")
class InPlace(Mixer):
    """It clips the noisy latents where they lie."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy.clamp_(-2, 2), timestep, context, condition)


@fails("denoisers", "neighbors")
class Centred(Mixer):
    """The mean of the batch is taken off."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy - noisy.mean(0) / 2, timestep, context, condition)


@fails("denoisers", "neighbors")
class Standardising(Mixer):
    """It has batch normalisation: in training, a row depends on the others."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.norm = nn.BatchNorm1d(self.channels)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(self.norm(noisy), timestep, context, condition)


@fails("denoisers", "masked-tokens")
class Unmasked(Mixer):
    """It takes the mean of all tokens, those that are masked too."""

    def summary(self, name: str, entry: ConditionTokens) -> Tensor:
        return entry.tokens.mean(1)


@fails("denoisers", "dropped-condition")
class Counting(Mixer):
    """A condition of one token counts double, as a dropped one does not."""

    def summary(self, name: str, entry: ConditionTokens) -> Tensor:
        return super().summary(name, entry) * (2 if entry.mask.shape[1] == 1 else 1)


@fails("denoisers", "controls")
class Averaging(Mixer):
    """It says that it reads a condition frame by frame, and reads the mean."""

    controls = ("text",)


@fails("denoisers", "reads-conditions")
class Indifferent(Mixer):
    """Conditions count next to nothing."""

    def summary(self, name: str, entry: ConditionTokens) -> Tensor:
        return super().summary(name, entry) * 1e-8 + self.nulls[name] * (1 - 1e-8)


@fails("denoisers", "reads-inputs")
class Timeless(Mixer):
    """The step counts next to nothing."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy, timestep * 1e-8, context, condition)


@fails("denoisers", "fractional-steps")
class Tabular(Mixer):
    """It looks steps up in a table, which has whole ones alone."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.table = nn.Embedding(1000, self.channels)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy + self.table(timestep)[..., None], timestep, context, condition)


@fails("denoisers", "no-condition")
class NeedsConditions(Mixer):
    """It fails where there are no conditions."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        tokens = torch.cat([entry.tokens.flatten() for entry in condition.values()])
        return super().forward(noisy, timestep, context, condition) + 0 * tokens[0]


@fails("denoisers", "no-context")
class NeedsContext(Mixer):
    """It fails where there is no context."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        if context is None:
            raise TypeError("no context")
        return super().forward(noisy, timestep, context, condition)


@fails("denoisers", "no-context")
class Reading(Mixer):
    """It reads a context that it was not built for."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        rest = context.mean(1, keepdim=True) if context is not None and not self.context_channels else 0
        return super().forward(noisy + rest, timestep, context, condition)


@fails("denoisers", "gradients")
class Idle(Mixer):
    """A parameter of it does nothing."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.idle = nn.Parameter(torch.ones(3))


@fails("denoisers", "overfits")
class Numb(Mixer):
    """It predicts the same for every frame, so that it can learn no melody."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy, timestep, context, condition).mean(-1, keepdim=True).expand_as(noisy)


@fails("denoisers", "prepare-for-sampling")
class Hasty(Mixer):
    """What it prepares is a copy that forgot its condition."""

    def prepare_for_sampling(self, timesteps: Tensor, condition: Condition) -> Denoiser:
        fast = type(self)(
            channels=self.channels, context_channels=self.context_channels, condition_widths=self.condition_widths
        )
        return fast.eval()


@fails("denoisers", "adapters")
class Bypassed(Mixer):
    """It multiplies with the weights of a layer, so that what is added to the layer is not seen."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        ahead = functional.linear(timestep[:, None].to(noisy) * noisy.new_tensor([0.01, 0.02]), self.time.weight)
        return super().forward(noisy, timestep, context, condition) + ahead.mean(1)[:, None, None]


@fails("denoisers", "moves")
class Rounded(Mixer):
    """It computes in float32 whatever its weights are."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy.float(), timestep, context, condition)


@fails("denoisers", "moves")
class Homely(Mixer):
    """It makes a tensor on the CPU, wherever its inputs are."""

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy, timestep, context, condition) * torch.ones(1)


@fails("denoisers", "save-and-load")
class Fourier(Mixer):
    """Random frequencies that are no part of its state."""

    phase: Tensor

    def __init__(self, **supplied: Any) -> None:
        super().__init__(**supplied)
        self.register_buffer("phase", torch.rand(1), persistent=False)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: Condition) -> Tensor:
        return super().forward(noisy, timestep + 10 * self.phase, context, condition)


# Embedders


class Levels(Windowed):
    """Mean, deviation and mean size of half a second."""

    sample_rate, window_seconds, hop_seconds, width = 40, 0.5, 0.5, 3
    fails: ClassVar[set[str]] = set()

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def embed_windows(self, windows: Tensor) -> Tensor:
        facts = [windows.mean(1), windows.std(1, correction=0), windows.abs().mean(1)]
        return self.scale * torch.stack(facts, dim=1)


@fails("embedders", "facts")
class FractionalHop(Levels):
    """A hop is no whole number of samples, by a little."""

    hop_seconds = 0.5001


@fails("embedders", "windows")
class ConstantWindows(Levels):
    """A constant has one window, however long it is."""

    def embed(self, audio: Tensor) -> Tensor:
        return super().embed(audio[:, :10] if (audio == 1).all() else audio)


@fails("embedders", "extremes")
class Logarithmic(Levels):
    """The logarithm of silence."""

    def embed_windows(self, windows: Tensor) -> Tensor:
        loud = windows.any(1, keepdim=True)
        return torch.where(loud | (windows.shape[0] > 1), super().embed_windows(windows), -torch.inf)


@fails("embedders", "no-gradient")
class Tracked(Levels):
    """A gradient runs through its vectors."""

    def embed(self, audio: Tensor) -> Tensor:
        return super().embed(audio) + 0 * audio.mean()


@fails("embedders", "deterministic")
class Flickering(Levels):
    """Every other time, vectors are a little larger."""

    calls = 0

    def embed(self, audio: Tensor) -> Tensor:
        self.calls += 1
        return super().embed(audio) + 1e-6 * (self.calls % 2)


@fails("embedders", "tells-clips-apart")
class Deafened(Levels):
    """One vector for all."""

    def embed_windows(self, windows: Tensor) -> Tensor:
        return torch.ones_like(super().embed_windows(windows))


@fails("embedders", "batches")
class Sociable(Levels):
    """Vectors are relative to the mean of the batch."""

    def embed(self, audio: Tensor) -> Tensor:
        vectors = super().embed(audio)
        return vectors - vectors.mean(0) if len(audio) > 1 else vectors


@fails("embedders", "blocks")
class Rising(Levels):
    """A vector depends on the windows before it, and no halo says so."""

    def embed(self, audio: Tensor) -> Tensor:
        return super().embed(audio).cumsum(1)


@fails("embedders", "texts")
class Pretending(Levels):
    """It gives vectors of text that it says it does not read."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), self.width)


class Literate(Levels):
    """It reads text too: how long it is, how many words, whether there is any."""

    reads_text = True

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[len(t), len(t.split()), bool(t)] for t in texts]).float().reshape(-1, 3)


@fails("embedders", "texts")
class Comparing(Literate):
    """The vector of a text is relative to those beside it."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        vectors = super().embed_text(texts)
        return vectors / vectors.amax(0, keepdim=True).clamp(min=1) if len(texts) else vectors


@fails("embedders", "inputs-untouched")
class Clamping(Levels):
    """It clips the audio where it lies."""

    def embed(self, audio: Tensor) -> Tensor:
        with torch.no_grad():
            return super().embed(audio.clamp_(-0.9, 0.9))


@fails("embedders", "no-global-randomness")
class Drawing(Levels):
    """It draws from the global generator."""

    def embed(self, audio: Tensor) -> Tensor:
        torch.rand(1)
        return super().embed(audio)


@fails("embedders", "save-and-load")
class Renewed(Levels):
    """Every one that is built has another scale."""

    def __init__(self) -> None:
        super().__init__()
        Renewed.last = self.scale = getattr(Renewed, "last", 1.0) + 1


@fails("embedders", "frozen")
class Student(Levels):
    """It can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
