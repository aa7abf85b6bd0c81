"""Suites: which judges hear the music, and by which scores they compare it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from codecdiff import measures
from codecdiff.embedded import Embedded
from codecdiff.interfaces import Embedder
from codecdiff.scores import Score

TEXT = "clap-score"  # the score that compares music with its captions, not with other music
ACCEPT_STATISTICS = ("fad", "fad-infinity", "fad-per-track")
COMPARISONS: Mapping[str, Callable[..., Score]] = {
    "fad": measures.fad,
    "fad-infinity": measures.fad_infinity,
    "fad-shrunk": measures.fad_shrunk,
    "fad-per-track": measures.fad_per_track,
    "kad": measures.kad,
    "density": measures.density_score,
    "coverage": measures.coverage_score,
}
SCORES = (*COMPARISONS, TEXT)
SETS = ("fad", "kad", "density", "coverage")


@dataclass(frozen=True)
class Suite:
    """A named set of judges, each the name of an embedder with its scores.

    about: what the suite is for, a sentence.
    seconds: of a clip, unless told otherwise.
    """

    name: str
    about: str
    judges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 10.0

    def wanted(self, embedders: Sequence[str] = (), scores: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Give the scores of each judge: those of the suite, or of `embedders` and `scores` where these are named.

        Raises LookupError for a score there is not.
        """
        if unknown := [name for name in scores if name not in SCORES]:
            raise LookupError(f"No score named '{unknown[0]}'. There are: {', '.join(SCORES)}.")
        return {name: tuple(scores) or self.judges.get(name, SETS) for name in embedders or self.judges}


SUITES = {
    suite.name: suite
    for suite in (
        Suite("smoke", "Needs no download.", {"logmel": ("fad", "fad-shrunk", "kad", "density", "coverage")}),
        Suite(
            "panel",
            "Judges that err differently; those that are not there are left out.",
            {"logmel": SETS, "codec": SETS, "clap-music": (*SETS, TEXT), "vggish": SETS, "mert": SETS},
        ),
        Suite(
            "paper",
            "As music from text is usually reported: FAD on VGGish at 16 kHz without PCA, and the CLAP score.",
            {"vggish": ("fad",), "clap-music": (TEXT,)},
        ),
    )
}


def suite_named(name: str) -> Suite:
    """Give a suite by name. Raises LookupError."""
    if name not in SUITES:
        raise LookupError(f"No suite named '{name}'. There are: {', '.join(SUITES)}.")
    return SUITES[name]


def with_captions(embedder: Embedder, judged: Embedded, seed: int) -> Score:
    """Compare clips with their captions. Raises ValueError if the embedder reads no text, or a clip has no caption."""
    texts = [str(dict(p).get("text", "")) if not isinstance(p, str) else p for p in judged.prompts]
    if not embedder.reads_text:
        raise ValueError(f"{type(embedder).__name__} reads no text, so it cannot compare music with captions.")
    if not texts or not all(text.strip() for text in texts):
        raise ValueError(f"{sum(not text.strip() for text in texts)} of {len(texts)} clips have no caption.")
    with torch.no_grad():
        vectors = embedder.embed_text(texts).cpu()
    return measures.clap_score(judged, vectors, seed=seed)
