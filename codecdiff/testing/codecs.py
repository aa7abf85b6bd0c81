"""The checks of codecs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from codecdiff.codecs import ChunkedCodec
from codecdiff.errors import ConfigError
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec
from codecdiff.testing import assertions
from codecdiff.testing.assertions import (
    Call,
    assert_other_device,
    assert_other_precision,
    assert_same,
    assert_that,
    build_again,
    lengths_around,
    require_tensors,
    white_noise,
)
from codecdiff.testing.checks import CheckFailed, Checks, NotApplicable, PartChecks, Result
from codecdiff.testing.clips import fit_to_clips
from codecdiff.testing.runner import CheckRequest, CheckRun

TIES = 0.01  # fraction of codes that may differ where sums are computed in another order
INT64 = "return int64 (torch.long), as by `codes.long()`."
TOO_SMALL = "is too small, or should be None: a frame depends on more of the clip"
FACTS = ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim")


@dataclass
class CodecCase:
    """A codec, and the audio that it is checked on."""

    part: Codec
    seconds: float = 1.0  # of the longest clip
    encodes: bool = True  # or whether it is only to decode

    def __post_init__(self) -> None:
        """Raise AssertionError for a codec that has to be fitted first."""
        if not self.part.is_fitted:
            raise AssertionError(f"{type(self.part).__name__} is not fitted: call fit(clips) before checking it.")

    def noise(self, samples: int, *, rows: int = 1, seed: int = 0) -> Tensor:
        """(rows, ch, samples) noise that seldom clips, on the device of the codec."""
        return 0.3 * white_noise(rows, self.part.channels, samples, seed=seed).to(device_of(self.part))

    @cached_property
    def pair(self) -> Tensor:
        """(2, ch, t) a loud clip and a quiet one, of a second at most."""
        samples = round(min(self.seconds, 1.0) * self.part.sample_rate)
        return self.noise(samples, rows=2, seed=1) * torch.tensor([1.0, 0.2]).to(device_of(self.part))[:, None, None]

    @property
    def short(self) -> Tensor:
        """(1, ch, t) nine frames, the same at every call."""
        return self.noise(9 * self.part.hop_length, seed=2)

    @cached_property
    def every_code(self) -> Tensor:
        """(1, k, codebook_size) codes: each vector of each codebook once, in random order."""
        generator, size = torch.Generator().manual_seed(0), self.part.codebook_size
        rows = [torch.randperm(size, generator=generator) for _ in range(self.part.num_codebooks)]
        return torch.stack(rows)[None].to(device_of(self.part))

    def calls(self) -> Iterator[Call]:
        """Yield every method with short audio, or with its codes and latents."""
        return self.calls_on(self.short)

    def calls_on(self, audio: Tensor) -> Iterator[Call]:
        """Yield every method with audio, or with its codes and latents."""
        codec, codes = self.part, self.part.encode(audio.clone())
        yield Call("encode", codec.encode, (audio.clone(),))
        yield Call("encode_continuous", codec.encode_continuous, (audio,))
        yield Call("embed", codec.embed, (codes,))
        yield Call("quantize", codec.quantize, (codec.embed(codes),))
        yield Call("decode", codec.decode, (codes,))


CHECKS: Checks[CodecCase] = Checks("codecs")


def check_codec(codec: Codec, *, seconds: float = 1.0) -> list[Result]:
    """Run every check of a codec, fitted if it needs to be, on up to `seconds` of noise, silence and clipping.

    Raises AssertionError that lists the checks it fails.
    """
    return CHECKS.assert_all(codec, CodecCase(codec, seconds))


def run_checks(request: CheckRequest) -> CheckRun:
    """Build a codec, fit it if it has to be fitted, and run its checks."""
    codec = request.build()
    notes = fit_to_clips(codec)
    return CheckRun(codec, notes, CHECKS.run(codec, CodecCase(codec, request.seconds)))


def require_working(codec: Codec, name: str, *, encodes: bool = True) -> None:
    """Run the check `facts`, which takes a moment, on a codec to train with, called `name` in configurations.

    Raises ConfigError if it fails. A codec whose codes are in a store need not encode.
    """
    result = next(CHECKS.run(codec, CodecCase(codec, encodes=encodes)))
    if result.state == "failed" and result.check.name not in codec.expected_failures:
        text = f"The codec '{name}' does not work: {result.note.rstrip('.')}."
        raise ConfigError(
            f"{text} Correct it before training: `codecdiff check {name}` runs all checks."
        ) from result.cause


@CHECKS.check
def check_facts(case: CodecCase) -> None:
    """The attributes of the codec are integers, its levels count from 0 and refine coarser ones, and what its methods
    return has the shapes and types that follow.
    """
    codec = case.part
    values = {name: getattr(codec, name, None) for name in FACTS}
    wrong = {name: value for name, value in values.items() if type(value) is not int or value < 1}
    assert_that(not wrong, f"These must be integers of at least 1: {wrong}.")
    context = {name: getattr(codec, name) for name in ("encode_context_frames", "decode_context_frames")}
    wrong = {name: n for name, n in context.items() if n is not None and (type(n) is not int or n < 0)}
    assert_that(not wrong, f"Context frames are integers from 0, or None: {wrong}.")
    assert_that(
        codec.frame_rate == codec.sample_rate / codec.hop_length,
        f"frame_rate is {codec.frame_rate}, not sample_rate / hop_length.",
    )
    k = codec.num_codebooks
    assert_that(len(codec.levels) == k, f"levels {codec.levels} are not one for each of {k} codebooks.")
    present = sorted(set(codec.levels))
    assert_that(present == list(range(len(present))), f"levels {codec.levels} do not count from 0, the coarsest.")
    is_coarser = [refined is None or refined in present[:i] for i, refined in enumerate(codec.refines)]
    text = f"refines {codec.refines} does not name a coarser level, or None, for each of {len(present)} levels."
    assert_that(len(is_coarser) == len(present) and all(is_coarser), text)
    try:
        codec.embed(torch.full_like(case.every_code[..., :1], codec.codebook_size - 1))
    except IndexError as error:
        raise CheckFailed(
            f"codebook_size is {codec.codebook_size}, but embed fails for code {codec.codebook_size - 1}: {error}."
        ) from error
    assert_results(case)


def assert_results(case: CodecCase) -> None:
    """Raise CheckFailed unless what methods return for a few frames has the right shape and type."""
    codec = case.part
    k, d, ch = codec.num_codebooks, codec.codebook_dim, codec.channels
    frames = 4 if k == 3 else 3  # another number than k
    audio = case.noise(frames * codec.hop_length)
    codes = codec.encode(audio) if case.encodes else torch.zeros_like(case.every_code[..., :1]).expand(-1, -1, frames)
    require_tensors(codes)
    continuous = {"encode_continuous": codec.encode_continuous(audio)} if case.encodes else {}
    assert_that(codes.shape[:2] == (1, k), f"encode returns {tuple(codes.shape)}, not (1, {k}, l) = (b, k, l).")
    assert_that(codes.dtype == torch.int64, f"encode returns {codes.dtype} codes: {INT64}")
    for name, tensor in {"embed": codec.embed(codes), **continuous}.items():
        assert_that(tensor.is_floating_point(), f"{name} returns {tensor.dtype}, not floating point.")
        expected = f"(1, {k}, {d}, {codes.shape[-1]}) = (b, k, d, l)"
        assert_that(tensor.shape[:3] == (1, k, d), f"{name} returns {tuple(tensor.shape)}, not {expected}.")
    decoded = codec.decode(codes)
    assert_that(decoded.is_floating_point(), f"decode returns {decoded.dtype}, not floating point.")
    expected = f"(1, {ch}, t) = (b, ch, t)"
    assert_that(decoded.shape[:2] == (1, ch), f"decode returns {tuple(decoded.shape)}, not {expected}.")


@CHECKS.check
def check_lengths(case: CodecCase) -> None:
    """Audio of t samples, t >= 1, has ceil(t / hop_length) frames in codes and continuous latents; l frames decode to
    l * hop_length samples, none of them NaN or infinite.
    """
    codec, hop = case.part, case.part.hop_length
    for t in lengths_around(1, hop - 1, hop, hop + 1, 5 * hop, ceil(case.seconds * codec.sample_rate)):
        audio, frames = case.noise(t), ceil(t / hop)
        codes = codec.encode(audio)
        results = {"encode": codes, "encode_continuous": codec.encode_continuous(audio), "embed": codec.embed(codes)}
        for name, tensor in results.items():
            shape = tuple(tensor.shape)
            assert_that(
                shape[-1] == frames, f"{name} of {t} samples returns {shape}: {shape[-1]} frames, not {frames}."
            )
            assert_that(tensor.isfinite().all(), f"{name} of {t} samples returns NaN or infinite values.")
        decoded = codec.decode(codes)
        expected, samples = frames * hop, decoded.shape[-1]
        assert_that(samples == expected, f"decode of {frames} frames returns {samples} samples, not {expected}.")
        assert_that(decoded.isfinite().all(), f"decode of {frames} frames returns NaN or infinite values.")


@CHECKS.check
def check_codes_in_range(case: CodecCase) -> None:
    """Codes are integers from 0 to codebook_size - 1, and noise has more than one."""
    codec = case.part
    codes = codec.encode(case.pair)
    assert_codes(codec, codes)
    assert_that(len(codes.unique()) > 1, f"All codes of noise are {int(codes.flatten()[0])}.")


def assert_codes(codec: Codec, codes: Tensor) -> None:
    """Raise CheckFailed unless codes are integers within the codebook."""
    assert_that(codes.dtype == torch.int64, f"encode returns {codes.dtype} codes: {INT64}")
    lowest, highest = int(codes.min()), int(codes.max())
    inside = lowest >= 0 and highest < codec.codebook_size
    assert_that(
        inside, f"encode returns codes from {lowest} to {highest}, outside the codebook of {codec.codebook_size}."
    )


@CHECKS.check
def check_codebook_vectors(case: CodecCase) -> str | None:
    """`quantize(embed(codes)) == codes` for every code of every codebook, except for exactly the `duplicate_codes`."""
    codec, codes = case.part, case.every_code
    again = codec.quantize(latents := codec.embed(codes))
    moved = {(k, int(codes[0, k, place])): place for _, k, place in (again != codes).nonzero().tolist()}
    declared = {*codec.duplicate_codes}
    undeclared, wrong = sorted(moved.keys() - declared), sorted(declared - moved.keys())
    for k, code in undeclared:
        place, vectors = moved[k, code], latents[0, k].T
        other = int(again[0, k, place])
        assert_that(
            (vectors[codes[0, k] == other] == vectors[place]).all(-1).any(),
            f"quantize(embed({code})) of codebook {k} returns {other}, and {len(undeclared)} of {codes.numel()} "
            "vectors in all come back as another: `quantize` does not use the codec's own lookup.",
        )
    text = f"{len(undeclared)} vectors equal another. Declare them in `duplicate_codes`, as (codebook, code):"
    assert_that(not undeclared, f"{text} {undeclared[:9]}.")
    assert_that(not wrong, f"`duplicate_codes` has (codebook, code) that are not duplicates: {wrong[:9]}.")
    if not declared:
        return None
    more = ", ..." if len(declared) > 9 else ""
    first = ", ".join(map(str, sorted(declared)[:9]))
    return f"{len(declared)} duplicate vectors are declared: {first}{more} (codebook, code)"


@CHECKS.check
def check_distinct_vectors(case: CodecCase) -> None:
    """More than half of the vectors of every codebook are distinct; else `codebook-vectors` would check nothing."""
    codec = case.part
    for k, latents in enumerate(codec.embed(case.every_code)[0]):
        distinct = len(latents.T.unique(dim=0))
        text = (
            f"has {distinct} distinct vectors of {codec.codebook_size}" if distinct > 1 else "is empty: all are equal"
        )
        assert_that(distinct > codec.codebook_size / 2, f"Codebook {k} {text}.")


CHECKS.check(assertions.check_deterministic)


@CHECKS.check
def check_one_pass(case: CodecCase) -> None:
    """`encode_with_continuous` returns what `encode` and `encode_continuous` return."""
    codec = case.part
    names = ("encode", "encode_continuous", "encode_with_continuous")
    classes = {name: next(cls for cls in type(codec).__mro__ if name in vars(cls)) for name in names}
    whole = classes["encode_with_continuous"]
    alone = [name for name in names[:2] if classes[name] is not whole and issubclass(classes[name], whole)]
    hint = f" {classes[alone[0]].__name__} overrides {alone[0]}: override encode_with_continuous too." if alone else ""
    codes, latents = codec.encode_with_continuous(case.short)
    assert_same(codes, codec.encode(case.short), f"encode_with_continuous returns other codes than encode.{hint}")
    text = f"encode_with_continuous returns other latents than encode_continuous.{hint}"
    assert_same(latents, codec.encode_continuous(case.short), text, 1e-4)


@CHECKS.check
def check_continuous(case: CodecCase) -> None:
    """`quantize(encode_continuous(audio))` equals the codes of `encode`, except for ties: each level is a residual."""
    codec = case.part
    differ = _fraction_changed(codec.quantize(codec.encode_continuous(case.short)), codec.encode(case.short))
    assert_that(differ < TIES, f"{differ:.1%} of the codes nearest to continuous latents are not those of encode.")


@CHECKS.check
def check_every_codebook(case: CodecCase) -> None:
    """Other codes in any row change the decoded audio."""
    codec = case.part
    codes = codec.encode(case.short)
    audio = codec.decode(codes)
    for row in range(codec.num_codebooks):
        others = codes.clone()
        others[:, row] = (others[:, row] + 1) % codec.codebook_size
        assert_that(not torch.equal(codec.decode(others), audio), f"decode does not read row {row} of the codes.")


@CHECKS.check
def check_batches(case: CodecCase) -> None:
    """A batch of two clips, one loud and one quiet, has the results of two batches of one."""
    tolerances = {"encode_continuous": 1e-4, "decode": 1e-5}
    for name, method, (rows,) in case.calls_on(case.pair):
        alone = torch.cat([method(row) for row in rows.split(1)])
        text = f"The result of {name} for a row depends on its batch."
        assert_same(method(rows), alone, text, tolerances.get(name, 0.0))


@CHECKS.check
def check_hop_length(case: CodecCase) -> None:
    """Audio k * hop_length samples later has its codes k frames later, k a multiple of chunk_multiple; checked where
    encode_context_frames is set.
    """
    codec, later = case.part, 5 * case.part.chunk_multiple  # frames
    if codec.encode_context_frames is None:
        raise NotApplicable("encode_context_frames is None: any frame may depend on all of them")
    context = codec.encode_context_frames
    frames = 2 * context + 4 * later
    audio = case.noise((frames + later) * codec.hop_length, seed=4)
    late = codec.encode(audio)[..., later + context : frames + later - context]
    soon = codec.encode(audio[..., later * codec.hop_length :])[..., context : frames - context]
    differ = _fraction_changed(late, soon)
    text = f"{differ:.1%} of the codes change when audio moves by {later} frames: hop_length is wrong, or"
    assert_that(differ < TIES, f"{text} encode_context_frames {TOO_SMALL}.")


def _fraction_changed(codes: Tensor, others: Tensor) -> float:
    assert_that(codes.shape == others.shape, f"There are codes {tuple(codes.shape)} and {tuple(others.shape)}.")
    return float((codes != others).float().mean())


@CHECKS.check
def check_chunked(case: CodecCase) -> None:
    """In chunks, each with the declared context frames, codes and audio are those of the whole clip."""
    codec = case.part
    if codec.encode_context_frames is None or codec.decode_context_frames is None:
        raise NotApplicable("encode_context_frames or decode_context_frames is None: it does not work in chunks")
    context = max(codec.encode_context_frames, codec.decode_context_frames)
    frames = max(round(case.seconds * codec.frame_rate), 4 * context + 3)
    short = min(frames, max(round(codec.frame_rate), 4 * context + 3))
    chunks = ChunkedCodec(codec, frames=max(1, short // 3))
    audio = case.noise(frames * codec.hop_length, seed=3)
    codes = codec.encode(audio)
    differ = _fraction_changed(chunks.encode(audio), codes)
    text = f"{differ:.2%} of the codes change when encoding in chunks: encode_context_frames {TOO_SMALL}."
    assert_that(differ <= min(TIES, max(0.001, 1 / frames)), text)  # the codes of one frame, or a thousandth
    text = f"Decoded in chunks, audio differs: decode_context_frames {TOO_SMALL}."
    assert_same(chunks.decode(codes), codec.decode(codes), text, 1e-5)


@CHECKS.check
def check_extremes(case: CodecCase) -> None:
    """Silence, full scale and clipped noise have codes in range, and no result is NaN or infinite."""
    codec = case.part
    samples = 3 * codec.hop_length + 1
    full = torch.ones_like(case.noise(samples))
    for name, audio in (("silence", 0 * full), ("full scale", full), ("clipped noise", case.noise(samples).sign())):
        codes = codec.encode(audio)
        assert_codes(codec, codes)
        for method, tensor in (
            ("encode_continuous", codec.encode_continuous(audio)),
            ("embed", codec.embed(codes)),
            ("decode", codec.decode(codes)),
        ):
            assert_that(tensor.isfinite().all(), f"{method} of {name} returns NaN or infinite values.")


for shared in (assertions.check_inputs_untouched, assertions.check_no_gradient, assertions.check_no_global_randomness):
    CHECKS.check(shared)


@CHECKS.check
def check_moves(case: CodecCase) -> str:
    """A deep copy moved to float64 encodes and decodes such audio, and moved back it has the same codes; every tensor
    in it moves to another device, and it works on the GPU if there is one.
    """

    def run(codec: Codec, dtype: torch.dtype, device: str) -> Tensor:
        codes = codec.encode(case.short.to(device, dtype))
        assert_codes(codec, codes)
        audio = codec.decode(codes)
        at = f"Moved to {dtype} on {device},"
        assert_that(audio.isfinite().all(), f"{at} decode returns NaN or infinite values.")
        for name, tensor in (("encode", codes), ("embed", codec.embed(codes)), ("decode", audio)):
            assert_that(
                tensor.device.type == torch.device(device).type, f"{at} {name} returns tensors on {tensor.device}."
            )
        return codes

    def same(before: Tensor, after: Tensor) -> None:
        assert_same(after, before, "Moved to float64 and back, the codec encodes differently.")

    assert_other_precision(case.part, run, same)
    return assert_other_device(case.part, run)


@CHECKS.check
def check_save_and_load(case: CodecCase) -> None:
    """Rebuilt from its options as JSON, with its fitted state from a file, it has the same results."""
    codec, audio = case.part, case.short
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in codec.fitted_state().items()}
    again: Any = build_again("codecs", codec).to(device_of(codec))
    again.load_fitted_state(load(save(state)))
    assert_that(again.is_fitted, "load_fitted_state(fitted_state()) leaves a codec that is not fitted.")
    codes = codec.encode(audio)
    assert_same(again.encode(audio), codes, "Rebuilt from its options and fitted state, it encodes differently.")
    assert_same(again.embed(codes), codec.embed(codes), "Rebuilt, it embeds differently.")
    assert_same(again.decode(codes), codec.decode(codes), "Rebuilt, it decodes differently.", 1e-5)
    same = again.duplicate_codes == codec.duplicate_codes
    assert_that(same, "Rebuilt, it declares other duplicate_codes.")


CHECKS.check(assertions.check_frozen)


class CodecChecks(PartChecks, checks=CHECKS, case=CodecCase):
    """The checks of a codec as a pytest class: subclass it, and define `part`."""

    seconds = 1.0  # of the longest clip
