"""The laws of parts, to be called from the tests of whoever writes one:

    from codecdiff.testing import check_codec

    def test_laws():
        check_codec(MyCodec(), seconds=1.0)

A law that does not hold raises AssertionError, which says which.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from math import ceil
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from codecdiff.captioning import one_line
from codecdiff.codecs import Chunked
from codecdiff.embeddings import embed_blocks
from codecdiff.interfaces import (
    Bill,
    Captioner,
    Codec,
    Condition,
    Conditioner,
    Denoiser,
    Embedder,
    Entry,
    Prompt,
    Splitter,
)

PROMPTS: tuple[Prompt, ...] = ("a slow piece for piano", "drums", {"text": "a fast tune in G major, with a flute"})


def _law(holds: object, text: str) -> None:
    if not holds:
        raise AssertionError(text)


def _same(a: Tensor, b: Tensor, text: str, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda difference: f"{text}\n{difference}")


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _randomness_untouched(part: object) -> Iterator[None]:
    def states() -> tuple[Any, ...]:
        # the global state is what is watched here, so the legacy call is meant
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

    before = states()
    yield
    _law(states() == before, f"{type(part).__name__} draws from the global generators; give it one of its own.")


def _check_frozen(part: nn.Module) -> None:
    name = type(part).__name__
    _law(not any(module.training for module in part.train().modules()), f"{name}.train() leaves evaluation mode.")
    learns = [key for key, parameter in part.named_parameters() if parameter.requires_grad]
    _law(not learns, f"{name} is frozen, but these of its parameters require a gradient: {learns}.")


def check_codec(codec: Codec, *, seconds: float = 1.0) -> None:
    """Check every law of a codec, fitted if it needs to be, on up to `seconds` of noise, silence and clipping."""
    _law(codec.is_fitted, f"{type(codec).__name__} is not fitted: call fit(clips) before checking it.")
    with _randomness_untouched(codec):
        _check_frozen(codec)
        hop = codec.hop_length
        for samples in (1, hop - 1, hop, hop + 1, ceil(seconds * codec.sample_rate)):
            _check_shapes(codec, 0.3 * _noise(1, codec.channels, max(1, samples)))
        _check_entries(codec)
        _check_batches(codec, round(seconds * codec.sample_rate))
        _check_extremes(codec, 3 * hop + 1)
        _check_state(codec)
        if codec.encode_halo is not None and codec.decode_halo is not None:
            _check_halos(codec, round(seconds * codec.frame_rate))


def _check_shapes(codec: Codec, audio: Tensor) -> None:
    b, t = len(audio), audio.shape[-1]
    k, d, frames = codec.num_codebooks, codec.codebook_dim, ceil(t / codec.hop_length)
    codes = codec.encode(audio)
    latents, projected, heard = codec.embed(codes), codec.project(audio), codec.decode(codes)
    _law(len(codec.levels) == k, f"levels {codec.levels} are not one for each of {k} codebooks.")
    _law(not codes.is_floating_point() and not codes.is_complex(), f"encode gives {codes.dtype}, not integers.")
    _law(codes.shape == (b, k, frames), f"encode of {t} samples gives {tuple(codes.shape)}, not {(b, k, frames)}.")
    _law(int(codes.min()) >= 0 and int(codes.max()) < codec.codebook_size, "encode gives codes outside the codebook.")
    for name, tensor in (("embed", latents), ("project", projected)):
        _law(tensor.is_floating_point(), f"{name} gives {tensor.dtype}, not floating point.")
        _law(tensor.shape == (b, k, d, frames), f"{name} gives {tuple(tensor.shape)}, not {(b, k, d, frames)}.")
    wanted = (b, codec.channels, frames * codec.hop_length)
    _law(heard.shape == wanted, f"decode of {frames} frames gives {tuple(heard.shape)}, not {wanted}.")


def _check_entries(codec: Codec) -> None:
    codes = torch.arange(codec.codebook_size).expand(1, codec.num_codebooks, -1)
    latents = codec.embed(codes)
    moved = {(k, index) for _, k, index in (codec.quantize(latents).cpu() != codes).nonzero().tolist()}
    _law(
        moved == codec.duplicate_entries,
        "quantize(embed(codes)) == codes must hold but for `duplicate_entries`. Moved and not declared: "
        f"{sorted(moved - codec.duplicate_entries)[:9]}; declared and not moved: "
        f"{sorted(codec.duplicate_entries - moved)[:9]} (codebook, index).",
    )
    for k, entries in enumerate(latents[0]):
        distinct = len(entries.T.unique(dim=0))
        _law(
            distinct > codec.codebook_size / 2, f"Codebook {k} has only {distinct} different entries: the law is empty."
        )


def _check_batches(codec: Codec, samples: int) -> None:
    audio = (0.3 * _noise(2, codec.channels, samples, seed=1)).requires_grad_()
    codes, projected = codec.encode_and_project(audio)
    heard = codec.decode(codes)
    for name, tensor in (("project", projected), ("embed", codec.embed(codes)), ("decode", heard)):
        _law(not tensor.requires_grad, f"{name} carries a gradient; a codec is frozen.")
    _same(codec.encode(audio), codes, "encode is not deterministic, or encode_and_project gives other codes.")
    _same(codec.project(audio), projected, "project is not deterministic, or encode_and_project gives others.", 1e-4)
    _same(codec.decode(codes), heard, "decode is not deterministic.")
    rows = [audio[i : i + 1] for i in (0, 1)]
    _same(codes, torch.cat([codec.encode(row) for row in rows]), "The codes of a row depend on its batch.")
    _same(projected, torch.cat([codec.project(row) for row in rows]), "Projections depend on the batch.", 1e-4)
    _same(heard, torch.cat([codec.decode(row) for row in codes.split(1)]), "Decoded rows depend on the batch.", 1e-5)


def _check_extremes(codec: Codec, samples: int) -> None:
    full = torch.ones(1, codec.channels, samples)
    for name, audio in (("silence", 0 * full), ("full scale", full), ("clipped noise", _noise(*full.shape).sign())):
        codes = codec.encode(audio)
        for tensor in (codec.project(audio), codec.embed(codes), codec.decode(codes)):
            _law(tensor.isfinite().all(), f"{name} gives NaN or infinite values.")


def _check_state(codec: Codec) -> None:
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in codec.fitted_state().items()}
    again = type(codec)(**codec.arguments)
    again.load_fitted_state(load(save(state)))
    _law(again.is_fitted, "load_fitted_state(fitted_state()) leaves a codec that is not fitted.")
    audio = 0.3 * _noise(1, codec.channels, 9 * codec.hop_length, seed=2)
    codes = codec.encode(audio)
    _same(again.encode(audio), codes, "Built again from its arguments and fitted state, the codec encodes otherwise.")
    _same(again.embed(codes), codec.embed(codes), "Built again, the codec embeds otherwise.")
    _same(again.decode(codes), codec.decode(codes), "Built again, the codec decodes otherwise.", 1e-5)


def _check_halos(codec: Codec, frames: int) -> None:
    chunked = Chunked(codec, frames=max(1, frames // 3))
    audio = 0.3 * _noise(1, codec.channels, frames * codec.hop_length, seed=3)
    codes = codec.encode(audio)
    differ = (chunked.encode(audio) != codes).float().mean()
    _law(differ < 0.01, f"{differ:.1%} of the codes change when encoding in pieces: encode_halo is too small.")
    _same(
        chunked.decode(codes), codec.decode(codes), "Decoded in pieces, audio differs: decode_halo is too small.", 1e-5
    )


def check_splitter(splitter: Splitter, *, dim: int = 3, frames: int = 7) -> None:
    """Check every law of a generation pattern, on latents of `dim` dimensions with 1 and with `frames` frames."""
    for length in (1, frames):
        shape = (1, splitter.num_codebooks, dim, length)
        marks = 1 + torch.arange(splitter.num_codebooks * dim * length, dtype=torch.float64).view(shape)
        latents = torch.cat([marks, _noise(*shape).double()])
        stages, marked = splitter.split(latents), splitter.split(marks)
        _same(splitter.merge(stages), latents, "merge(split(latents)) == latents must hold exactly.")
        held = torch.cat([stage.flatten() for stage in marked])
        _same(held[held != 0].sort().values, marks.flatten(), "split must hold every number once, and zeros elsewhere.")
        for stage, numbers, mask in zip(stages, marked, splitter.split(torch.ones_like(marks)), strict=True):
            _same(stage[:1], numbers, "A row's stages depend on its batch.")
            _same(
                mask,
                (numbers != 0).double(),
                "split(ones) must be 1 where there is music and 0 where there is padding.",
            )
        shapes = [tuple(stage.shape) for stage in splitter.split(torch.empty(*latents.shape, device="meta"))]
        _law(shapes == [tuple(stage.shape) for stage in stages], f"A meta tensor is split into other shapes: {shapes}.")
        for i, stage in enumerate(stages):
            _check_context(splitter, stages, i, stage.shape[-1])


def _check_context(splitter: Splitter, stages: Sequence[Tensor], i: int, length: int) -> None:
    context = splitter.context(stages, i)
    if context is None:
        return
    _law(i > 0, "The first stage has nothing before it: its context is None.")
    _law(context.shape[::2] == (2, length), f"Stage {i} has {length} frames; its context is {tuple(context.shape)}.")
    unread = [*stages[:i], *(torch.full_like(stage, torch.nan) for stage in stages[i:])]
    again = splitter.context(unread, i)
    _law(again is not None and torch.equal(again, context), f"The context of stage {i} reads stages that come later.")


def check_conditioner(conditioner: Conditioner, prompts: Sequence[Prompt] = PROMPTS) -> None:
    """Check every law of a conditioner, on at least two `prompts` that differ in a field it reads."""
    with _randomness_untouched(conditioner):
        _check_frozen(conditioner)
        together, blank = conditioner.encode(prompts), conditioner.encode(["", {}, prompts[0]])
        _law(together.widths == conditioner.widths, f"widths are {conditioner.widths}, entries {together.widths}.")
        for name, (tokens, mask) in together.entries.items():
            _law(mask.dtype == torch.bool, f"The mask of '{name}' is {mask.dtype}, not bool.")
            _law(
                tokens.is_floating_point() and tokens.isfinite().all(), f"The tokens of '{name}' are not finite floats."
            )
            _law(not tokens.requires_grad, f"'{name}' carries a gradient; a conditioner is frozen.")
            _law(mask.shape == tokens.shape[:2] and len(mask) == len(prompts), f"'{name}' is not (b, n, e) and (b, n).")
            _law(not blank[name].mask[:2].any(), f"An empty prompt leaves real tokens in '{name}'.")
        _law(any(entry.mask[0].any() for entry in together.entries.values()), f"{prompts[0]!r} is read as empty.")
        for row, prompt in enumerate(prompts):
            alone = conditioner.encode([prompt])
            _same_rows(alone, together.rows([row]), f"{prompt!r} depends on its neighbours.")
            _same_rows(alone, conditioner.encode([prompt]), "encode is not deterministic.")
        _same_rows(blank.rows([2]), together.rows([0]), "A prompt depends on empty neighbours.")
        both = (together.rows([0]), together.rows([1]))
        told = [torch.cat([e.tokens[e.mask].flatten() for e in c.entries.values()]) for c in both]
        _law(not torch.equal(*told), f"{prompts[0]!r} and {prompts[1]!r} give the same features.")


def _same_rows(a: Condition, b: Condition, text: str) -> None:
    for name in a.entries:
        shorter = min(a[name].mask.shape[1], b[name].mask.shape[1])
        rest = [entry.mask[:, shorter:].any() for entry in (a[name], b[name])]
        _law(not any(rest), text)
        _same(a[name].mask[:, :shorter], b[name].mask[:, :shorter], text)
        _same(a[name].tokens[a[name].mask], b[name].tokens[b[name].mask], text, 1e-4)


def check_denoiser(
    make: Callable[..., Denoiser],
    *,
    widths: Mapping[str, int] | None = None,
    channels: int = 4,
    context_channels: int = 3,
    lengths: Sequence[int] = (1, 7, 16, 33),
) -> None:
    """Check every law of a denoiser.

    `make(channels=, context_channels=, condition_widths=)` builds a small one; its weights are moved a little, so
    that a layer that starts at zero cannot hide anything. `widths` are those of the conditions it can read.
    """
    widths = {"text": 6} if widths is None else widths
    supplied: dict[str, Any] = {"channels": channels, "context_channels": context_channels, "condition_widths": widths}
    denoiser = _moved(make(**supplied))
    timestep, condition, length = torch.tensor([3, 40, 90]), _condition(widths), max(lengths)
    inputs = (
        _noise(3, channels, length),
        timestep,
        _noise(3, context_channels, length, seed=1) if context_channels else None,
    )

    def run(condition: Condition, network: Denoiser = denoiser, rows: slice = slice(None)) -> Tensor:
        noisy, steps, context = inputs
        return network(noisy[rows], steps[rows], None if context is None else context[rows], condition)

    for frames in lengths:
        context = None if inputs[2] is None else inputs[2][..., :frames]
        shape = denoiser(inputs[0][..., :frames], timestep, context, condition).shape
        _law(shape == (3, channels, frames), f"{frames} frames become {tuple(shape)}, not {(3, channels, frames)}.")

    plain = run(condition)
    _law(plain.isfinite().all() and plain.abs().max() > 0, "The prediction is zero or not finite.")
    plain.square().sum().backward()
    silent = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    _law(not silent, f"No gradient reaches {silent}.")

    with torch.no_grad():
        garbage = condition.map(lambda _, e: (torch.where(e.mask[..., None], e.tokens, 100 + e.tokens), e.mask))
        _same(run(garbage), plain, "Masked tokens change the prediction.", 1e-4)
        longer = Condition.cat([condition, _condition(widths, tokens=9)]).rows(slice(3))
        _same(run(longer), plain, "Padding the tokens changes the prediction.", 1e-4)
        for row in range(3):
            one = slice(row, row + 1)
            _same(run(condition.rows(one), rows=one), plain[one], "A row depends on its neighbours.", 1e-4)
        for name in widths:
            dropped, null = run(condition.drop(torch.ones(3, dtype=torch.bool), name)), _without(condition, name)
            _same(dropped, run(null), f"'{name}' dropped is not the learned null of '{name}'.", 1e-4)
            _law(not torch.allclose(dropped, plain, atol=1e-5), f"'{name}' changes nothing.")
        _check_responses(denoiser, inputs, condition, plain)
        prepared = denoiser.prepared(timestep, condition)
        _same(run(condition, prepared), plain, "prepared differs from the plain denoiser.", 1e-4)
        again = _moved(make(**supplied), seed=8)
        again.load_state_dict(load(save({name: t.contiguous() for name, t in denoiser.state_dict().items()})))
        _same(run(condition, again.eval()), plain, "Loaded from its state dict, the denoiser differs.", 1e-5)


def _check_responses(
    denoiser: Denoiser, inputs: tuple[Tensor, Tensor, Tensor | None], told: Condition, plain: Tensor
) -> None:
    noisy, steps, context = inputs
    others = {"noisy latents": (noisy + 1, steps, context), "timestep": (noisy, steps + 7, context)}
    if context is not None:
        others["context"] = (noisy, steps, context + 1)
    for name, other in others.items():
        _law(not torch.allclose(denoiser(*other, told), plain, atol=1e-5), f"The {name} changes nothing.")


def _moved(denoiser: Denoiser, seed: int = 7) -> Denoiser:
    with torch.no_grad():
        for number, parameter in enumerate(denoiser.parameters()):
            parameter.add_(0.1 * _noise(*parameter.shape, seed=seed + 1000 * number))
    return denoiser.eval()


def _condition(widths: Mapping[str, int], tokens: int = 5) -> Condition:
    mask = torch.arange(tokens) < torch.tensor([[tokens], [2], [0]])  # the last row is absent
    return Condition({name: Entry(_noise(3, tokens, e, seed=e), mask) for name, e in widths.items()})


def _without(condition: Condition, name: str) -> Condition:
    entry = condition[name]
    absent = Entry(torch.zeros_like(entry.tokens[:, :1]), torch.zeros_like(entry.mask[:, :1]))
    return Condition({**condition.entries, name: absent})


def check_embedder(embedder: Embedder, texts: Sequence[str] = ("a slow piece for piano", "loud drums")) -> None:
    """Check every law of an embedder on noise, silence and clipping, and on two different `texts` if it reads any."""
    with _randomness_untouched(embedder):
        _check_frozen(embedder)
        window, hop = (round(s * embedder.sample_rate) for s in (embedder.window_seconds, embedder.hop_seconds))
        _law(
            abs(hop / embedder.sample_rate - embedder.hop_seconds) < 1e-9, "hop_seconds is no whole number of samples."
        )
        _check_windows(
            embedder, (1, window // 2, window - 1, window, window + 1, window + hop, 2 * window + 2 * hop - 1)
        )
        _check_clips(embedder, 2 * window + hop)
        _check_blocks(embedder, 2 * window + 5 * hop + hop // 3)
        _check_texts(embedder, texts)


def _check_windows(embedder: Embedder, lengths: Sequence[int]) -> None:
    counts = []
    for samples in lengths:
        full = torch.ones(1, max(1, samples))
        clips = {"noise": 0.3 * _noise(*full.shape), "silence": 0 * full, "full scale": full}
        clips["clipped noise"] = _noise(*full.shape).sign()
        found = {name: embedder.embed(audio) for name, audio in clips.items()}
        for name, vectors in found.items():
            _law(vectors.dtype == torch.float32, f"embed gives {vectors.dtype}, not float32.")
            _law(vectors.isfinite().all(), f"{samples} samples of {name} give NaN or infinite values.")
        shapes = {name: tuple(vectors.shape) for name, vectors in found.items()}
        counts.append(found["noise"].shape[1])
        wanted = (1, counts[-1], embedder.width)
        _law(set(shapes.values()) == {wanted}, f"{samples} samples give {shapes}, not {wanted} whatever is heard.")
    _law(counts[:4] == [1] * 4, f"Clips of up to one window have one vector, but {lengths[:4]} samples: {counts[:4]}.")
    _law(counts == sorted(counts) and counts[-1] > 1, f"Longer clips have more vectors, but {lengths}: {counts}.")


def _check_clips(embedder: Embedder, samples: int) -> None:
    audio = (0.3 * _noise(3, samples, seed=1) * torch.tensor([[1.0], [0.1], [0.0]])).requires_grad_()
    together = embedder.embed(audio)
    _law(not together.requires_grad, "embed carries a gradient; a judge is frozen.")
    _same(embedder.embed(audio), together, "embed is not deterministic.")
    scale = float(together.abs().max())
    alone = torch.cat([embedder.embed(row) for row in audio.split(1)])
    _same(alone / scale, together / scale, "The vectors of a clip depend on its batch.", 1e-4)
    again = type(embedder)(**embedder.arguments)
    _same(again.embed(audio[:1]) / scale, together[:1] / scale, "Built again, the embedder differs.", 1e-4)
    _law(not torch.allclose(together[0], together[1]), "Two different clips have the same vectors.")


def _check_blocks(embedder: Embedder, samples: int) -> None:
    audio = 0.3 * _noise(samples, seed=2)
    whole = embedder.embed(audio[None])[0]
    pieces = embed_blocks(audio.split(max(1, samples // 7)), embedder, seconds=embedder.hop_seconds)
    _law(pieces.shape == whole.shape, f"In blocks there are {len(pieces)} windows, at once {len(whole)}.")
    scale = float(whole.abs().max())
    _same(pieces / scale, whole / scale, "Vectors in blocks are not those of the whole: halo_seconds?", 1e-4)


def _check_texts(embedder: Embedder, texts: Sequence[str]) -> None:
    if not embedder.reads_text:
        try:
            embedder.embed_text(texts)
        except TypeError:
            return
        _law(False, "embed_text has to raise TypeError where reads_text is False.")
    together = embedder.embed_text([*texts, ""])
    wanted = (len(texts) + 1, embedder.width)
    _law(together.shape == wanted and together.dtype == torch.float32, f"embed_text does not give {wanted} float32.")
    _law(together.isfinite().all() and not together.requires_grad, "Vectors of texts are not finite, or not frozen.")
    _law(embedder.embed_text([]).shape == (0, embedder.width), "No texts have to give no vectors.")
    for row, text in enumerate([*texts, ""]):
        _same(embedder.embed_text([text]), together[row : row + 1], f"{text!r} depends on its neighbours.", 1e-4)
    _law(not torch.allclose(together[0], together[1], atol=1e-5), f"{texts[0]!r} and {texts[1]!r} have one vector.")


def check_captioner(captioner: Captioner, tracks: Sequence[Mapping[str, Any]]) -> None:
    """Check every law of a captioner, on at least two tracks that it gives different captions. It stays open."""
    name, before = type(captioner).__name__, deepcopy(list(tracks))
    unknown = set(captioner.incidental) - captioner.arguments.keys()
    _law(not unknown, f"{name} has no options {sorted(unknown)}, which it says are incidental.")
    with _randomness_untouched(captioner):
        _law(isinstance(captioner.estimate(tracks), Bill), "estimate does not give a Bill.")
        _law(captioner.bill() == Bill(), "estimate asks a server, or the captioner was used before.")
        captions = [captioner.caption(track) for track in tracks]
        for caption in captions:
            _law(isinstance(caption, str) and caption, f"{caption!r} is no caption: it is text, and not empty.")
            _law(caption == one_line(caption), f"{caption!r} is not one line of printable text.")
        _law(len(set(captions)) > 1, "All tracks have the same caption: the law is empty.")
        _law([captioner.caption(track) for track in tracks] == captions, "A track has another caption the second time.")
        with ThreadPoolExecutor(captioner.concurrency) as pool:
            together = list(pool.map(captioner.caption, list(tracks) * 4))
        _law(together == captions * 4, f"In {captioner.concurrency} threads, tracks have other captions.")
    _law(list(tracks) == before, "caption changes the track that it is given.")
    try:
        said = captioner.caption({"track": "x", "file": "", "present": False, "tags": {}, "captions": []})
    except (LookupError, ValueError):
        return
    raise AssertionError(f"A track of which nothing is known has the caption {said!r}: raise LookupError.")
