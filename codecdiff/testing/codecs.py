"""The laws of codecs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from codecdiff.codecs import ChunkedCodec
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec
from codecdiff.testing.assertions import (
    lengths_around,
    noise,
    randomness_untouched,
    rebuilt,
    require,
    require_frozen,
    require_frozen_tensor,
    require_other_device,
    require_other_precision,
    require_same,
    require_untouched,
    training_of,
)
from codecdiff.testing.checks import Checks, NotApplicable, Result

TIES = 0.01  # share of codes that may differ where sums are taken in another order
FACTS = ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim")


@dataclass
class Trial:
    """A codec, and the audio that it is tried on."""

    codec: Codec
    seconds: float = 1.0  # of the longest clip

    def noise(self, samples: int, *, rows: int = 1, seed: int = 0) -> Tensor:
        """(rows, ch, samples) noise that seldom clips, where the codec is."""
        return 0.3 * noise(rows, self.codec.channels, samples, seed=seed).to(device_of(self.codec))

    @cached_property
    def pair(self) -> Tensor:
        """(2, ch, t) a loud clip and a quiet one, of a second at most."""
        samples = round(min(self.seconds, 1.0) * self.codec.sample_rate)
        return self.noise(samples, rows=2, seed=1) * torch.tensor([1.0, 0.2]).to(device_of(self.codec))[:, None, None]

    @cached_property
    def short(self) -> Tensor:
        """(1, ch, t) nine frames."""
        return self.noise(9 * self.codec.hop_length, seed=2)

    @cached_property
    def every_entry(self) -> Tensor:
        """(1, k, codebook_size) codes, each entry of each codebook once, in an order of its own."""
        generator, size = torch.Generator().manual_seed(0), self.codec.codebook_size
        rows = [torch.randperm(size, generator=generator) for _ in range(self.codec.num_codebooks)]
        return torch.stack(rows)[None].to(device_of(self.codec))


LAWS: Checks[Trial] = Checks("codecs")


def check_codec(codec: Codec, *, seconds: float = 1.0) -> list[Result]:
    """Check every law of a codec, fitted if it needs to be, on up to `seconds` of noise, silence and clipping.

    Raises AssertionError that lists the laws it breaks.
    """
    return LAWS.demand(codec, fitted_trial(codec, seconds))


def fitted_trial(codec: Codec, seconds: float) -> Trial:
    """Give the trial of a codec. Raises AssertionError if it has to be fitted first."""
    if not codec.is_fitted:
        raise AssertionError(f"{type(codec).__name__} is not fitted: call fit(clips) before checking it.")
    return Trial(codec, seconds)


@LAWS.law
def facts(trial: Trial) -> None:
    """Facts are whole numbers, frame_rate is sample_rate / hop_length, levels count from 0, and tensors fit them."""
    codec = trial.codec
    values = {name: getattr(codec, name, None) for name in FACTS}
    wrong = {name: value for name, value in values.items() if type(value) is not int or value < 1}
    require(not wrong, f"These have to be whole numbers of at least 1: {wrong}.")
    halos = {name: getattr(codec, name) for name in ("encode_context_frames", "decode_context_frames")}
    wrong = {name: halo for name, halo in halos.items() if halo is not None and (type(halo) is not int or halo < 0)}
    require(not wrong, f"A halo is a whole number of frames, or None: {wrong}.")
    require(
        codec.frame_rate == codec.sample_rate / codec.hop_length, f"frame_rate is {codec.frame_rate}, not rate / hop."
    )
    k, d = codec.num_codebooks, codec.codebook_dim
    require(len(codec.levels) == k, f"levels {codec.levels} are not one for each of {k} codebooks.")
    present = sorted(set(codec.levels))
    require(present == list(range(len(present))), f"levels {codec.levels} do not count from 0, the coarsest.")
    codes = codec.encode(trial.noise(3 * codec.hop_length))
    require(codes.shape[:2] == (1, k), f"encode gives {tuple(codes.shape)}, not (1, {k}, l).")
    for name, tensor in (
        ("embed", codec.embed(codes)),
        ("encode_continuous", codec.encode_continuous(trial.noise(3 * codec.hop_length))),
    ):
        require(tensor.is_floating_point(), f"{name} gives {tensor.dtype}, not floating point.")
        require(tensor.shape[:3] == (1, k, d), f"{name} gives {tuple(tensor.shape)}, not {(1, k, d, codes.shape[-1])}.")
    heard = codec.decode(codes)
    require(heard.is_floating_point(), f"decode gives {heard.dtype}, not floating point.")
    require(heard.shape[:2] == (1, codec.channels), f"decode gives {tuple(heard.shape)}, not (1, {codec.channels}, t).")


@LAWS.law
def lengths(trial: Trial) -> None:
    """Audio of t samples, t >= 1, has ceil(t / hop_length) frames in codes and projections; l frames decode to
    l * hop_length samples, none of them NaN or infinite.
    """
    codec, hop = trial.codec, trial.codec.hop_length
    for t in lengths_around(1, hop - 1, hop, hop + 1, 5 * hop, ceil(trial.seconds * codec.sample_rate)):
        audio, frames = trial.noise(t), ceil(t / hop)
        codes = codec.encode(audio)
        found = {"encode": codes, "encode_continuous": codec.encode_continuous(audio), "embed": codec.embed(codes)}
        for name, tensor in found.items():
            shape = tuple(tensor.shape)
            require(shape[-1] == frames, f"{name} of {t} samples gives {shape}: {shape[-1]} frames, not {frames}.")
            require(tensor.isfinite().all(), f"{name} of {t} samples gives NaN or infinite values.")
        heard = codec.decode(codes)
        wanted, got = frames * hop, heard.shape[-1]
        require(got == wanted, f"decode of {frames} frames gives {got} samples, not {wanted}.")
        require(heard.isfinite().all(), f"decode of {frames} frames gives NaN or infinite values.")


@LAWS.law
def codes_in_range(trial: Trial) -> None:
    """Codes are integers from 0 to codebook_size - 1, and music does not have one code alone."""
    codec = trial.codec
    codes = codec.encode(trial.pair)
    require_codes(codec, codes)
    require(len(codes.unique()) > 1, f"All codes of noise are {int(codes.flatten()[0])}.")


def require_codes(codec: Codec, codes: Tensor) -> None:
    """Raise CheckFailed unless codes are integers within the codebook."""
    require(not codes.is_floating_point() and not codes.is_complex(), f"encode gives {codes.dtype}, not integers.")
    lowest, highest = int(codes.min()), int(codes.max())
    inside = lowest >= 0 and highest < codec.codebook_size
    require(inside, f"encode gives codes from {lowest} to {highest}, outside the codebook of {codec.codebook_size}.")


@LAWS.law
def entries(trial: Trial) -> str | None:
    """`quantize(embed(codes)) == codes` for every entry of every codebook, but for exactly the `duplicate_codes`."""
    codec, codes = trial.codec, trial.every_entry
    again = codec.quantize(codec.embed(codes))
    moved = {(k, int(codes[0, k, place])) for _, k, place in (again != codes).nonzero().tolist()}
    declared = {*codec.duplicate_codes}
    silent, kept = sorted(moved - declared), sorted(declared - moved)
    require(
        moved == declared,
        f"quantize(embed(codes)) == codes must hold but for `duplicate_codes`. {len(silent)} of {codes.numel()} "
        f"entries come back as another and are not declared: {silent[:9]}; declared and kept: {kept[:9]} "
        "(codebook, index).",
    )
    if not declared:
        return None
    more = ", ..." if len(declared) > 9 else ""
    told = ", ".join(map(str, sorted(declared)[:9]))
    return f"{len(declared)} duplicate entries are declared: {told}{more} (codebook, index)"


@LAWS.law
def distinct_entries(trial: Trial) -> None:
    """More than half of the entries of every codebook differ from each other, or the law of entries would be empty."""
    codec = trial.codec
    for k, latents in enumerate(codec.embed(trial.every_entry)[0]):
        distinct = len(latents.T.unique(dim=0))
        require(distinct > codec.codebook_size / 2, f"Codebook {k} has only {distinct} different entries: it is empty.")


@LAWS.law
def deterministic(trial: Trial) -> None:
    """The same input gives the same codes, projections, latents and audio at every call."""
    codec = trial.codec
    codes = codec.encode(trial.short)
    for name, call, given in _methods(codec, trial.short, codes):
        require_same(call(given), call(given), f"{name} is not deterministic.{training_of(codec)}")


def _methods(codec: Codec, audio: Tensor, codes: Tensor) -> list[tuple[str, Callable[[Tensor], Tensor], Tensor]]:
    """Every method with something to call it with."""
    return [
        ("encode", codec.encode, audio),
        ("encode_continuous", codec.encode_continuous, audio),
        ("embed", codec.embed, codes),
        ("quantize", codec.quantize, codec.embed(codes)),
        ("decode", codec.decode, codes),
    ]


@LAWS.law
def one_pass(trial: Trial) -> None:
    """`encode_with_continuous` gives what `encode` and `encode_continuous` give."""
    codes, projected = trial.codec.encode_with_continuous(trial.short)
    require_same(codes, trial.codec.encode(trial.short), "encode_with_continuous gives other codes than encode.")
    require_same(
        projected, trial.codec.encode_continuous(trial.short), "encode_with_continuous gives others than project.", 1e-4
    )


@LAWS.law
def projections(trial: Trial) -> None:
    """`quantize(project(audio))` gives the codes of `encode`, but for ties: a level is what those before it left."""
    codec = trial.codec
    differ = _share_of_changes(codec.quantize(codec.encode_continuous(trial.short)), codec.encode(trial.short))
    require(differ < TIES, f"{differ:.1%} of the codes that projections are nearest to are not those of encode.")


@LAWS.law
def every_codebook(trial: Trial) -> None:
    """Other codes in any one row change the audio that is decoded."""
    codec = trial.codec
    codes = codec.encode(trial.short)
    heard = codec.decode(codes)
    for row in range(codec.num_codebooks):
        others = codes.clone()
        others[:, row] = (others[:, row] + 1) % codec.codebook_size
        require(not torch.equal(codec.decode(others), heard), f"decode does not read row {row} of the codes.")


@LAWS.law
def batches(trial: Trial) -> None:
    """A batch of two, one loud and one quiet, gives what two batches of one give."""
    codec, codes = trial.codec, trial.codec.encode(trial.pair)
    tolerances = {"encode_continuous": 1e-4, "decode": 1e-5}
    for name, call, given in _methods(codec, trial.pair, codes):
        alone = torch.cat([call(row) for row in given.split(1)])
        text = f"What {name} gives of a row depends on its batch."
        require_same(call(given), alone, text, tolerances.get(name, 0.0))


@LAWS.law
def hop_length(trial: Trial) -> None:
    """Audio k * hop_length samples later has its codes k frames later. Asked where encode_context_frames is set."""
    codec, later = trial.codec, 5  # frames
    if codec.encode_context_frames is None:
        raise NotApplicable("encode_context_frames is None: any frame may depend on all of them")
    halo = codec.encode_context_frames
    frames = 2 * halo + 4 * later
    audio = trial.noise((frames + later) * codec.hop_length, seed=4)
    late = codec.encode(audio)[..., later + halo : frames + later - halo]
    soon = codec.encode(audio[..., later * codec.hop_length :])[..., halo : frames - halo]
    differ = _share_of_changes(late, soon)
    require(differ < TIES, f"{differ:.1%} of the codes change when audio moves by {later} frames of hop_length.")


def _share_of_changes(codes: Tensor, others: Tensor) -> float:
    require(codes.shape == others.shape, f"There are codes {tuple(codes.shape)} and {tuple(others.shape)}.")
    return float((codes != others).float().mean())


@LAWS.law
def chunked(trial: Trial) -> None:
    """In pieces, each with the halos that are declared, codes and audio are those of the whole."""
    codec = trial.codec
    if codec.encode_context_frames is None or codec.decode_context_frames is None:
        raise NotApplicable("encode_context_frames or decode_context_frames is None: it does not work in pieces")
    halo = max(codec.encode_context_frames, codec.decode_context_frames)
    frames = max(round(trial.seconds * codec.frame_rate), 4 * halo + 3)
    short = min(frames, max(round(codec.frame_rate), 4 * halo + 3))
    pieces = ChunkedCodec(codec, frames=max(1, short // 3))
    audio = trial.noise(frames * codec.hop_length, seed=3)
    codes = codec.encode(audio)
    differ = _share_of_changes(pieces.encode(audio), codes)
    why = "is too small, or should be None: a frame depends on more of the clip"
    text = f"{differ:.2%} of the codes change when encoding in pieces: encode_context_frames {why}."
    require(differ <= min(TIES, max(0.001, 1 / frames)), text)  # the codes of one frame, or a thousandth
    text = f"Decoded in pieces, audio differs: decode_context_frames {why}."
    require_same(pieces.decode(codes), codec.decode(codes), text, 1e-5)


@LAWS.law
def extremes(trial: Trial) -> None:
    """Silence, full scale and clipped noise give codes in range, and nothing that is NaN or infinite."""
    codec = trial.codec
    samples = 3 * codec.hop_length + 1
    full = torch.ones_like(trial.noise(samples))
    for name, audio in (("silence", 0 * full), ("full scale", full), ("clipped noise", trial.noise(samples).sign())):
        codes = codec.encode(audio)
        require_codes(codec, codes)
        for method, tensor in (
            ("encode_continuous", codec.encode_continuous(audio)),
            ("embed", codec.embed(codes)),
            ("decode", codec.decode(codes)),
        ):
            require(tensor.isfinite().all(), f"{method} of {name} gives NaN or infinite values.")


@LAWS.law
def inputs_untouched(trial: Trial) -> None:
    """No method changes the tensor that it is given."""
    codec, samples = trial.codec, 9 * trial.codec.hop_length
    codes = codec.encode(trial.noise(samples, seed=2))
    for name, call, given in _methods(codec, trial.noise(samples, seed=5), codes):
        require_untouched(call, given.clone(), name=name)


@LAWS.law
def no_gradient(trial: Trial) -> None:
    """Nothing that it gives carries a gradient, not even of audio that asks for one; a denoiser can learn from it."""
    codec, audio = trial.codec, trial.short.clone().requires_grad_()
    codes = codec.encode(audio)
    for name, call, given in _methods(codec, audio, codes):
        require_frozen_tensor(call(given), f"What {name} gives")


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """The global generators of torch, numpy and random stand where they stood."""
    codec = trial.codec
    with randomness_untouched(codec):
        codes = codec.encode(trial.short)
        for _, call, given in _methods(codec, trial.short, codes):
            call(given)


@LAWS.law
def moves(trial: Trial) -> str:
    """A deep copy moved to float64 takes such audio and gives codes and finite audio, and moved back it gives the same
    codes; every tensor in it moves to another device, and it works on the GPU if there is one.
    """

    def run(codec: Codec, dtype: torch.dtype, device: str) -> Tensor:
        codes = codec.encode(trial.short.to(device, dtype))
        require_codes(codec, codes)
        heard = codec.decode(codes)
        at = f"Moved to {dtype} on {device},"
        require(heard.isfinite().all(), f"{at} decode gives NaN or infinite values.")
        for name, tensor in (("encode", codes), ("embed", codec.embed(codes)), ("decode", heard)):
            require(tensor.device.type == torch.device(device).type, f"{at} {name} answers on {tensor.device}.")
        return codes

    def same(before: Tensor, after: Tensor) -> None:
        require_same(after, before, "Moved to float64 and back, the codec encodes otherwise.")

    require_other_precision(trial.codec, run, same)
    return require_other_device(trial.codec, run)


@LAWS.law
def save_and_load(trial: Trial) -> None:
    """Built again from its options as JSON, and given its fitted state from a file, it does the same."""
    codec, audio = trial.codec, trial.short
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in codec.fitted_state().items()}
    again: Any = rebuilt("codecs", codec).to(device_of(codec))
    again.load_fitted_state(load(save(state)))
    require(again.is_fitted, "load_fitted_state(fitted_state()) leaves a codec that is not fitted.")
    codes = codec.encode(audio)
    require_same(again.encode(audio), codes, "Built again from its options and fitted state, it encodes otherwise.")
    require_same(again.embed(codes), codec.embed(codes), "Built again, it embeds otherwise.")
    require_same(again.decode(codes), codec.decode(codes), "Built again, it decodes otherwise.", 1e-5)
    same = again.duplicate_codes == codec.duplicate_codes
    require(same, "Built again, it declares other duplicate_codes.")


@LAWS.law
def frozen(trial: Trial) -> None:
    """No parameter learns, and a codec told to train, by itself or inside a model, stays in evaluation mode.

    Tried last: the other laws are asked of a codec as its constructor leaves it.
    """
    require_frozen(trial.codec)
