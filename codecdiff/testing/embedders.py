"""The laws of embedders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codecdiff.embedders import embed_blocks
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Embedder
from codecdiff.testing.assertions import (
    noise,
    randomness_untouched,
    rebuilt,
    require,
    require_frozen,
    require_same,
    require_untouched,
)
from codecdiff.testing.checks import Checks, NotApplicable, Result

TEXTS = ("a slow piece for piano", "loud drums")


@dataclass
class Trial:
    """An embedder, and two different texts for one that reads any."""

    embedder: Embedder
    texts: Sequence[str] = TEXTS

    @cached_property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.embedder.window_seconds * self.embedder.sample_rate)

    @cached_property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(self.embedder.hop_seconds * self.embedder.sample_rate)

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Numbers of samples: four of one window, then more."""
        window, hop = self.window, self.hop
        found = (1, window // 2, window - 1, window, window + 1, window + hop, 2 * window + 2 * hop - 1)
        return [max(1, samples) for samples in found]

    @cached_property
    def clips(self) -> Tensor:
        """(3, t) a loud clip, a quiet one and silence, of more than two windows."""
        levels = torch.tensor([[1.0], [0.1], [0.0]])
        return (0.3 * noise(3, 2 * self.window + self.hop, seed=1) * levels).to(device_of(self.embedder))

    @cached_property
    def vectors(self) -> Tensor:
        """(3, w, e) of the clips."""
        return self.embedder.embed(self.clips)

    @property
    def scale(self) -> float:
        """The largest number in the vectors, which tolerances are relative to."""
        return float(self.vectors.abs().max())

    @cached_property
    def heard(self) -> list[dict[str, Tensor]]:
        """The vectors of noise, silence and clipping, for each of the lengths."""
        return [{name: self.embedder.embed(clip) for name, clip in self.extremes(t).items()} for t in self.lengths]

    def extremes(self, samples: int) -> dict[str, Tensor]:
        """Noise, silence and clipping, each (1, samples)."""
        full = torch.ones(1, samples, device=device_of(self.embedder))
        hiss = noise(1, samples).to(full)
        return {"noise": 0.3 * hiss, "silence": 0 * full, "full scale": full, "clipped noise": hiss.sign()}


LAWS: Checks[Trial] = Checks("embedders")


def check_embedder(embedder: Embedder, texts: Sequence[str] = TEXTS) -> list[Result]:
    """Check every law of an embedder on noise, silence and clipping, and on two different `texts` if it reads any.

    Raises AssertionError that lists the laws it breaks.
    """
    return LAWS.demand(embedder, Trial(embedder, texts))


@LAWS.law
def facts(trial: Trial) -> None:
    """sample_rate and width are whole numbers, a window has samples, and hop_seconds is a whole number of them."""
    embedder = trial.embedder
    whole = {"sample_rate": embedder.sample_rate, "width": embedder.width}
    wrong = {name: value for name, value in whole.items() if type(value) is not int or value < 1}
    require(not wrong, f"These have to be whole numbers of at least 1: {wrong}.")
    require(trial.window > 0 and trial.hop > 0, f"A window has {trial.window} samples, a hop {trial.hop}.")
    exact = abs(trial.hop / embedder.sample_rate - embedder.hop_seconds) < 1e-9
    require(exact, "hop_seconds is no whole number of samples.")
    require(embedder.context_seconds >= 0, f"context_seconds is {embedder.context_seconds}.")


@LAWS.law
def windows(trial: Trial) -> None:
    """A clip of up to one window has one float32 vector of `width`, longer ones have more, whatever is heard."""
    counts = []
    for samples, found in zip(trial.lengths, trial.heard, strict=True):
        shapes = {name: tuple(vectors.shape) for name, vectors in found.items()}
        counts.append(found["noise"].shape[1])
        wanted = (1, counts[-1], trial.embedder.width)
        require(set(shapes.values()) == {wanted}, f"{samples} samples give {shapes}, not {wanted} whatever is heard.")
        others = {vectors.dtype for vectors in found.values()} - {torch.float32}
        require(not others, f"embed gives {others}, not float32.")
    short = f"Clips of up to one window have one vector, but {trial.lengths[:4]} samples: {counts[:4]}."
    require(counts[:4] == [1] * 4, short)
    rising = counts == sorted(counts) and counts[-1] > 1
    require(rising, f"Longer clips have more vectors, but {trial.lengths}: {counts}.")


@LAWS.law
def extremes(trial: Trial) -> None:
    """Silence, full scale and clipped noise, short and long, give nothing that is NaN or infinite."""
    for samples, found in zip(trial.lengths, trial.heard, strict=True):
        for name, vectors in found.items():
            require(vectors.isfinite().all(), f"{samples} samples of {name} give NaN or infinite values.")


@LAWS.law
def no_gradient(trial: Trial) -> None:
    """Vectors carry no gradient, not even those of audio that asks for one."""
    vectors = trial.embedder.embed(trial.clips[:1].clone().requires_grad_())
    require(not vectors.requires_grad, "embed carries a gradient; a judge is frozen.")


@LAWS.law
def deterministic(trial: Trial) -> None:
    """The same clips have exactly the same vectors at every call."""
    require_same(trial.embedder.embed(trial.clips), trial.embedder.embed(trial.clips), "embed is not deterministic.")


@LAWS.law
def hears_differences(trial: Trial) -> None:
    """Two different clips have different vectors."""
    require(not torch.allclose(trial.vectors[0], trial.vectors[1]), "Two different clips have the same vectors.")


@LAWS.law
def batches(trial: Trial) -> None:
    """The vectors of a clip do not depend on the clips beside it."""
    alone = torch.cat([trial.embedder.embed(row) for row in trial.clips.split(1)])
    require_same(alone / trial.scale, trial.vectors / trial.scale, "The vectors of a clip depend on its batch.", 1e-4)


@LAWS.law
def blocks(trial: Trial) -> None:
    """Embedded in blocks with `context_seconds` around them, a long clip has the vectors of the whole."""
    samples = 2 * trial.window + 5 * trial.hop + trial.hop // 3
    audio = 0.3 * noise(samples, seed=2)
    whole = trial.embedder.embed(audio[None].to(device_of(trial.embedder)))[0].cpu()
    pieces = embed_blocks(audio.split(max(1, samples // 7)), trial.embedder, seconds=trial.embedder.hop_seconds)
    require(pieces.shape == whole.shape, f"In blocks there are {len(pieces)} windows, at once {len(whole)}.")
    scale = float(whole.abs().max())
    require_same(pieces / scale, whole / scale, "Vectors in blocks are not those of the whole: context_seconds?", 1e-4)


@LAWS.law
def texts(trial: Trial) -> None:
    """Where it reads text, each has one finite float32 vector of `width` that no neighbour changes, and two different
    texts have different ones; where it does not, `embed_text` raises TypeError.
    """
    embedder, asked = trial.embedder, [*trial.texts, ""]
    if not embedder.reads_text:
        try:
            embedder.embed_text(trial.texts)
        except TypeError:
            raise NotApplicable("it reads no text, and says so") from None
        require(False, "embed_text has to raise TypeError where reads_text is False.")
    together = embedder.embed_text(asked)
    wanted = (len(asked), embedder.width)
    shaped = together.shape == wanted and together.dtype == torch.float32
    require(shaped, f"embed_text does not give {wanted} float32.")
    settled = together.isfinite().all() and not together.requires_grad
    require(settled, "Vectors of texts are not finite, or not frozen.")
    require(embedder.embed_text([]).shape == (0, embedder.width), "No texts have to give no vectors.")
    for row, text in enumerate(asked):
        alone = embedder.embed_text([text])
        require_same(alone, together[row : row + 1], f"{text!r} depends on its neighbours.", 1e-4)
    different = not torch.allclose(together[0], together[1], atol=1e-5)
    require(different, f"{asked[0]!r} and {asked[1]!r} have one vector.")


@LAWS.law
def inputs_untouched(trial: Trial) -> None:
    """The audio it hears is not changed."""
    heard = noise(1, trial.window, seed=5).to(device_of(trial.embedder))
    require_untouched(trial.embedder.embed, heard, name="embed")


@LAWS.law
def no_global_randomness(trial: Trial) -> None:
    """The global generators of torch, numpy and random stand where they stood."""
    with randomness_untouched(trial.embedder):
        trial.embedder.embed(trial.clips)
        if trial.embedder.reads_text:
            trial.embedder.embed_text(trial.texts)


@LAWS.law
def save_and_load(trial: Trial) -> None:
    """Built again from its options as JSON, it gives the same vectors."""
    again = rebuilt("embedders", trial.embedder).to(device_of(trial.embedder))
    vectors, others = (embedder.embed(trial.clips[:1]) for embedder in (trial.embedder, again))
    require_same(others / trial.scale, vectors / trial.scale, "Built again, the embedder differs.", 1e-4)


@LAWS.law
def frozen(trial: Trial) -> None:
    """No parameter learns, and an embedder told to train stays in evaluation mode."""
    require_frozen(trial.embedder)
