"""Linear probes: what can be read off the embeddings of a clip, against chance and against real music."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue

__all__ = ["Probe", "ProbeReading", "balanced_accuracy", "probe_score"]


class Probe(NamedTuple):
    """A linear classifier of clips: normalize each feature, weigh, and average the scores of a clip's windows."""

    mean: Tensor  # (p,)
    deviation: Tensor  # (p,)
    weights: Tensor  # (p, classes)
    bias: Tensor  # (classes,)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, *, penalty: float = 0.003) -> Probe:
        """Fit (n, w, p) features to (n,) labels 0, 1, ...: multinomial logistic regression (Cox 1966) by L-BFGS.

        Every window is a sample with its clip's label, every class has the same total weight, and the loss is the
        weighted mean cross entropy plus `penalty / 2 |weights|^2`: convex, so the fit does not depend on a seed.
        """
        counts = torch.bincount(labels)
        if len(counts) < 2 or not counts.all():
            raise InvalidValue(
                f"A probe needs clips of at least two classes and of every class, but has {counts.tolist()}."
            )
        windows = features.flatten(0, 1).double()
        mean, deviation = windows.mean(0), windows.std(0).clamp(min=1e-6)
        x, y = (windows - mean) / deviation, labels.repeat_interleave(features.shape[1])
        weights = torch.zeros(x.shape[1], len(counts), dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            entropy = torch.nn.functional.cross_entropy(x @ weights + bias, y, weight=1 / counts.double())
            objective = entropy + penalty / 2 * weights.square().sum()
            objective.backward()
            return objective

        with torch.enable_grad():
            optimizer.step(loss)  # pyright: ignore[reportArgumentType]  # L-BFGS takes a closure that returns a tensor
        return cls(mean, deviation, weights.detach(), bias.detach())

    def predict(self, features: Tensor) -> Tensor:
        """(n, w, p) features -> (n,) labels, one per clip."""
        scores = (features.double() - self.mean) / self.deviation @ self.weights + self.bias
        return scores.mean(1).argmax(1)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Mean over the classes present in `labels` (n,) of the fraction of their clips that is predicted right."""
    right = predicted == labels
    return float(torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean())


def probe_score(accuracy: float, upper_bound: float, chance: float) -> float:
    """How much of what a probe can read is there: (accuracy - chance) / (upper_bound - chance).

    The upper bound is the same probe's accuracy on real clips; 0 is chance, 1 as legible as the real ones.
    NaN when the upper bound does not exceed chance, for then the probe cannot tell.
    """
    return (accuracy - chance) / (upper_bound - chance) if upper_bound > chance else math.nan


@dataclass(frozen=True)
class ProbeReading:
    """What a probe read off clips: classes (n,), and -1 in `truth` where the true one is not known.

    reconstructed: read off real clips of the same captions that the codec encoded and decoded, the upper bound.
    """

    truth: Tensor
    generated: Tensor
    reconstructed: Tensor
    num_classes: int

    @classmethod
    def of(cls, probe: Probe, generated: Tensor, reconstructed: Tensor, truth: Tensor) -> ProbeReading:
        """Read embeddings (n, w, p) of clips with a probe."""
        return cls(truth, probe.predict(generated), probe.predict(reconstructed), len(probe.bias))

    @property
    def chance(self) -> float:
        """The balanced accuracy of guessing."""
        return 1 / self.num_classes

    def accuracies(self, drawn: Tensor, requested: Tensor | None = None) -> tuple[float, float]:
        """Return the balanced accuracies of generated and reconstructed clips, of the clips with these indices.

        `requested`: indices of the clips whose classes count as the truth of the generated ones, instead of their own.
        """
        generated = balanced_accuracy(self.generated[drawn], self.truth[drawn if requested is None else requested])
        return generated, balanced_accuracy(self.reconstructed[drawn], self.truth[drawn])

    def score(self, drawn: Tensor) -> float:
        """Return the `probe_score` of the clips with these indices; NaN if the truth of none is known."""
        labeled = drawn[self.truth[drawn] >= 0]
        return probe_score(*self.accuracies(labeled), self.chance) if len(labeled) else math.nan
