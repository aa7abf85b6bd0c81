"""Prompt adherence by tags: whether the instruments that prompts name are those that musicnn finds.

For each instrument, the area under the ROC curve of its tag's probability: how often a clip whose prompt names the
instrument has a higher one than a clip whose prompt does not. Half is chance. It needs no threshold, and no music that
says what is played in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Statistic
from codecdiff_eval.metrics.adherence import agreement_with_prompts, labels_compared, requested_instruments
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff_musicnn.embedder import MusiCNNTags

INSTRUMENTS: Mapping[str, str] = {  # tag of MagnaTagATune -> a pattern of the words that name it
    "piano": r"pianos?",
    "guitar": r"guitars?",
    "flute": r"flutes?",
    "strings": r"strings?|violins?|violas?|cellos?|orchestra",
    "drums": r"drums?|drum ?kit|percussion",
    "harp": r"harps?",
    "harpsichord": r"harpsichords?",
    "sitar": r"sitars?",
    "choir": r"choirs?|choral",
}
NEGATED = re.compile(r"\b(?:no|without)\b(?:(?!\b(?:with|but|in|at|for|on)\b)[^.;:!?])*", re.IGNORECASE)  # "no x or y"
MIN_CLIPS = 2  # with an instrument, and without it


def named_instruments(prompt: Prompt) -> frozenset[str] | None:
    """Return the instruments of `INSTRUMENTS` that a prompt names; None if it names none.

    They are in its field `instruments` or in its text; "without drums" does not name drums.
    """
    text = NEGATED.sub(" ", str(prompt_fields(prompt).get("text", "")))
    words = ", ".join([text, *(requested_instruments(prompt) or ())])
    named = {tag for tag, pattern in INSTRUMENTS.items() if re.search(rf"\b(?:{pattern})\b", words, re.IGNORECASE)}
    return frozenset(named) or None


def area_under_curve(scores: Tensor, wanted: Tensor) -> float:
    """(n,) scores and labels 0 or 1 -> the area under the ROC curve, NaN where all labels are the same.

    The fraction of pairs of a clip with the label and one without in which the first scores higher; ties count half
    (Mann & Whitney 1947).
    """
    with_label, without = scores[wanted == 1].contiguous(), scores[wanted == 0].sort().values
    lower, not_higher = (torch.searchsorted(without, with_label, right=right) for right in (False, True))
    return float((lower + not_higher).double().mean() / 2 / len(without)) if len(without) else math.nan


def mean_area(scores: Tensor, wanted: Tensor) -> float:
    """(n, k) scores and labels -> the mean area under the ROC curve of the labels that differ; 0.5 if none does."""
    areas = [area_under_curve(*columns) for columns in zip(scores.T, wanted.T, strict=True)]
    areas = [area for area in areas if not math.isnan(area)]
    return sum(areas) / len(areas) if areas else 0.5


def instrument_scores(clips: ClipEmbeddings) -> tuple[Tensor, Tensor]:
    """Return the mean probability of each instrument's tag, and whether the prompt names it: (n, k) each.

    The instruments are those of `INSTRUMENTS`, and the vectors of the clips are those of `MusiCNNTags`.
    """
    columns = [MusiCNNTags.names.index(f"mtt/{tag}") for tag in INSTRUMENTS]
    named = [named_instruments(prompt) or () for prompt in clips.prompts]
    return clips.means()[:, columns], torch.tensor([[tag in tags for tag in INSTRUMENTS] for tags in named]).long()


def _tag_auc(clips: ClipEmbeddings, reference: ClipEmbeddings | None = None, *, seed: int) -> Statistic:
    """Mean area under the ROC curve of the instruments that some prompts name and others do not."""
    named = [tags for prompt in clips.prompts if (tags := named_instruments(prompt))]
    counts = [sum(tag in tags for tags in named) for tag in INSTRUMENTS]
    mixed = [i for i, count in enumerate(counts) if MIN_CLIPS <= count <= len(named) - MIN_CLIPS]
    if len(named) > 1 and not mixed:
        raise InvalidValue(
            f"No instrument is named in at least {MIN_CLIPS} prompts and absent from as many others: vary the prompts. "
            f"Instruments that can be found: {', '.join(INSTRUMENTS)}."
        )
    return agreement_with_prompts(
        clips,
        reference,
        seed=seed,
        requested=named_instruments,
        compared=labels_compared(instrument_scores, mixed, mean_area),
        is_mean=False,
        options={"instruments": [list(INSTRUMENTS)[i] for i in mixed]},
    )


tag_auc = Metric(
    "instruments by musicnn tags, AUC",
    _tag_auc,
    "higher",
    compares="prompts",
    embedder=MusiCNNTags,
    requested=named_instruments,
    meaning="how often a clip whose prompt names an instrument is tagged with it more than one whose prompt does not, "
    "the area under the ROC curve: 0.5 is chance, 1 is always",
)
