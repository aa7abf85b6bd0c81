"""Suites: which embedders and which metrics an evaluation uses.

A suite is an entry point of the group `codecdiff.suites` that names a `Suite`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codecdiff import registry
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff_eval.metric import load_metric

__all__ = ["Suite", "load_suite"]

DISTANCES = ("fad", "kad", "density", "coverage")
PANEL = ("fad", "fad-infinity", "kad", "density", "coverage")


@dataclass(frozen=True)
class Suite:
    """A set of embedders by name, each with its metrics.

    description: what the suite is for, a sentence.
    seconds: of a clip, unless specified.
    codec_quality: whether to compare what the model's codec makes of music with that music, clip by clip.
    """

    description: str
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 10.0
    codec_quality: bool = False

    def __post_init__(self) -> None:
        for embedder, metrics in self.metrics.items():
            if isinstance(metrics, str):
                raise InvalidValue(
                    f"The metrics of '{embedder}' are {metrics!r}. Expected a tuple, as in ({metrics!r},)."
                )

    def select(self, embedders: Sequence[str] = (), metrics: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Return the metrics of each embedder: those of the suite, or of `embedders` and `metrics` where specified.

        Raises UnknownPart for a metric that is not installed.
        """
        for name in metrics:
            load_metric(name)
        return {name: tuple(metrics) or self.metrics.get(name, DISTANCES) for name in embedders or self.metrics}


def load_suite(name: str) -> Suite:
    """Return an installed suite by name. Raises UnknownPart or BrokenPlugin."""
    suite = registry.load_entry("suites", name)
    if not isinstance(suite, Suite):
        raise BrokenPlugin(f"The suite '{name}' is {suite!r}: expected a codecdiff_eval.suites.Suite.")
    return suite


smoke = Suite("Needs no download.", {"logmel": ("fad", "fad-shrunk", "kad", "density", "coverage")})
panel = Suite(
    "Embedders that err differently; those that are not there are left out.",
    {
        "logmel": PANEL,
        "codec": PANEL,
        "clap-music": (*PANEL, "clap-score"),
        "vggish": PANEL,
        "mert": PANEL,
        "musicnn": PANEL,
    },
)
paper = Suite(
    "As music from text is usually reported: FAD on VGGish at 16 kHz without PCA, and the CLAP score.",
    {"vggish": ("fad",), "clap-music": ("clap-score",)},
)
