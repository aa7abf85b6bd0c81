"""The checks of embedders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codecdiff.embedders import embed_blocks
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Embedder
from codecdiff.testing import assertions
from codecdiff.testing.assertions import Call, assert_same, assert_that, build_again, white_noise
from codecdiff.testing.checks import CheckFailed, Checks, NotApplicable, PartChecks, Result
from codecdiff.testing.clips import fit_to_clips
from codecdiff.testing.runner import CheckRequest, CheckRun

TEXTS = ("a slow tune for piano", "loud drums")


@dataclass
class EmbedderCase:
    """An embedder, and two different texts for one that reads text."""

    part: Embedder
    texts: Sequence[str] = TEXTS

    @cached_property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.part.window_seconds * self.part.sample_rate)

    @cached_property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(self.part.hop_seconds * self.part.sample_rate)

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Numbers of samples: four of one window, then more."""
        window, hop = self.window, self.hop
        lengths = (1, window // 2, window - 1, window, window + 1, window + hop, 2 * window + 2 * hop - 1)
        return [max(1, samples) for samples in lengths]

    @cached_property
    def clips(self) -> Tensor:
        """(3, t) a loud clip, a quiet one and silence, of more than two windows."""
        levels = torch.tensor([[1.0], [0.1], [0.0]])
        return (0.3 * white_noise(3, 2 * self.window + self.hop, seed=1) * levels).to(device_of(self.part))

    @cached_property
    def vectors(self) -> Tensor:
        """(3, w, e) embeddings of the clips."""
        return self.part.embed(self.clips)

    @property
    def scale(self) -> float:
        """The largest number in the embeddings, which tolerances are relative to."""
        return float(self.vectors.abs().max())

    @cached_property
    def embeddings(self) -> list[dict[str, Tensor]]:
        """The embeddings of noise, silence and clipping, for each of the lengths."""
        return [{name: self.part.embed(clip) for name, clip in self.extremes(t).items()} for t in self.lengths]

    def extremes(self, samples: int) -> dict[str, Tensor]:
        """Noise, silence and clipping, each (1, samples)."""
        full = torch.ones(1, samples, device=device_of(self.part))
        hiss = white_noise(1, samples).to(full)
        return {"noise": 0.3 * hiss, "silence": 0 * full, "full scale": full, "clipped noise": hiss.sign()}

    def calls(self) -> Iterator[Call]:
        """Yield `embed` with loud noise, and `embed_text` if it reads text."""
        yield Call("embed", self.part.embed, (white_noise(2, 2 * self.window, seed=5).to(device_of(self.part)),))
        if self.part.reads_text:
            yield Call("embed_text", self.part.embed_text, (self.texts,))


CHECKS: Checks[EmbedderCase] = Checks("embedders")


def check_embedder(embedder: Embedder, texts: Sequence[str] = TEXTS) -> list[Result]:
    """Run every check of an embedder on noise, silence and clipping, and on two different `texts` if it reads text.

    Raises AssertionError that lists the checks it fails.
    """
    return CHECKS.assert_all(embedder, EmbedderCase(embedder, texts))


def run_checks(request: CheckRequest) -> CheckRun:
    """Build an embedder, fit the codec in it if it has one, and run its checks."""
    embedder = request.build()
    codecs = [value for value in embedder.arguments.values() if isinstance(value, Codec)]
    notes = [note for codec in codecs for note in fit_to_clips(codec)]
    return CheckRun(embedder, notes, CHECKS.run(embedder, EmbedderCase(embedder)))


@CHECKS.check
def check_facts(case: EmbedderCase) -> None:
    """sample_rate and width are integers, a window has samples, and hop_seconds is a whole number of them."""
    embedder = case.part
    integers = {"sample_rate": embedder.sample_rate, "width": embedder.width}
    wrong = {name: value for name, value in integers.items() if type(value) is not int or value < 1}
    assert_that(not wrong, f"These must be integers of at least 1: {wrong}.")
    assert_that(case.window > 0 and case.hop > 0, f"A window has {case.window} samples, a hop {case.hop}.")
    exact = abs(case.hop / embedder.sample_rate - embedder.hop_seconds) < 1e-9
    assert_that(exact, "hop_seconds is not a whole number of samples.")
    assert_that(embedder.context_seconds >= 0, f"context_seconds is {embedder.context_seconds}.")


@CHECKS.check
def check_windows(case: EmbedderCase) -> None:
    """A clip of up to one window has one float32 vector of `width`, longer ones have more, whatever they contain."""
    counts = []
    for samples, embeddings in zip(case.lengths, case.embeddings, strict=True):
        shapes = {name: tuple(vectors.shape) for name, vectors in embeddings.items()}
        counts.append(embeddings["noise"].shape[1])
        expected = (1, counts[-1], case.part.width)
        assert_that(set(shapes.values()) == {expected}, f"{samples} samples have {shapes}, not always {expected}.")
        others = {vectors.dtype for vectors in embeddings.values()} - {torch.float32}
        assert_that(not others, f"embed returns {others}, not float32.")
    short = f"Clips of up to one window have one vector, but {case.lengths[:4]} samples: {counts[:4]}."
    assert_that(counts[:4] == [1] * 4, short)
    rising = counts == sorted(counts) and counts[-1] > 1
    assert_that(rising, f"Longer clips have more vectors, but {case.lengths}: {counts}.")


@CHECKS.check
def check_extremes(case: EmbedderCase) -> None:
    """Silence, full scale and clipped noise, short and long, have embeddings without NaN and infinite values."""
    for samples, embeddings in zip(case.lengths, case.embeddings, strict=True):
        for name, vectors in embeddings.items():
            assert_that(vectors.isfinite().all(), f"{samples} samples of {name} have NaN or infinite values.")


@CHECKS.check
def check_no_gradient(case: EmbedderCase) -> None:
    """Embeddings carry no gradient, not even those of audio that requires one."""
    vectors = case.part.embed(case.clips[:1].clone().requires_grad_())
    assert_that(not vectors.requires_grad, "embed carries a gradient; use torch.no_grad in a frozen part.")


CHECKS.check(assertions.check_deterministic)


@CHECKS.check
def check_tells_clips_apart(case: EmbedderCase) -> None:
    """Two different clips have different embeddings."""
    assert_that(not torch.allclose(case.vectors[0], case.vectors[1]), "Two different clips have the same embeddings.")


@CHECKS.check
def check_batches(case: EmbedderCase) -> None:
    """The embeddings of a clip do not depend on the clips beside it."""
    alone = torch.cat([case.part.embed(row) for row in case.clips.split(1)])
    assert_same(alone / case.scale, case.vectors / case.scale, "The embeddings of a clip depend on its batch.", 1e-4)


@CHECKS.check
def check_blocks(case: EmbedderCase) -> None:
    """Embedded in blocks with `context_seconds` around them, a long clip has the embeddings of the whole."""
    samples = 2 * case.window + 5 * case.hop + case.hop // 3
    audio = 0.3 * white_noise(samples, seed=2)
    whole = case.part.embed(audio[None].to(device_of(case.part)))[0].cpu()
    vectors = embed_blocks(audio.split(max(1, samples // 7)), case.part, seconds=case.part.hop_seconds)
    assert_that(vectors.shape == whole.shape, f"In blocks there are {len(vectors)} windows, at once {len(whole)}.")
    scale = float(whole.abs().max())
    assert_same(vectors / scale, whole / scale, "Embeddings in blocks differ from the whole: context_seconds?", 1e-4)


@CHECKS.check
def check_texts(case: EmbedderCase) -> None:
    """If it reads text, each has one finite float32 vector of `width` that no neighbor changes, and two different texts
    have different ones; if it does not, `embed_text` raises TypeError.
    """
    embedder, prompts = case.part, [*case.texts, ""]
    if not embedder.reads_text:
        try:
            embedder.embed_text(case.texts)
        except TypeError:
            raise NotApplicable("it does not read text, and says so") from None
        raise CheckFailed("embed_text must raise TypeError where reads_text is False.")
    together = embedder.embed_text(prompts)
    expected = (len(prompts), embedder.width)
    shaped = together.shape == expected and together.dtype == torch.float32
    assert_that(shaped, f"embed_text does not return {expected} float32.")
    valid = together.isfinite().all() and not together.requires_grad
    assert_that(valid, "Embeddings of texts are not finite, or carry a gradient.")
    assert_that(embedder.embed_text([]).shape == (0, embedder.width), "No texts must have no vectors.")
    for row, text in enumerate(prompts):
        alone = embedder.embed_text([text])
        assert_same(alone, together[row : row + 1], f"{text!r} depends on its neighbors.", 1e-4)
    different = not torch.allclose(together[0], together[1], atol=1e-5)
    assert_that(different, f"{prompts[0]!r} and {prompts[1]!r} have one vector.")


for shared in (assertions.check_inputs_untouched, assertions.check_no_global_randomness):
    CHECKS.check(shared)


@CHECKS.check
def check_save_and_load(case: EmbedderCase) -> None:
    """Rebuilt from its options as JSON, it has the same embeddings."""
    again = build_again("embedders", case.part).to(device_of(case.part))
    vectors, others = (embedder.embed(case.clips[:1]) for embedder in (case.part, again))
    assert_same(others / case.scale, vectors / case.scale, "Rebuilt, the embedder differs.", 1e-4)


CHECKS.check(assertions.check_frozen)


class EmbedderChecks(PartChecks, checks=CHECKS, case=EmbedderCase):
    """The checks of an embedder as a pytest class: subclass it, and define `part`."""

    texts: Sequence[str] = TEXTS  # two different ones, for one that reads text
