"""CLAP score: how similar clips are to their captions in the space of an embedder that reads both."""

from __future__ import annotations

import torch
from torch import Tensor

from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Embedder, prompt_fields
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.metric import Metric, Statistic, mean_over_clips
from codecdiff_eval.metrics.bootstrap import permuted


def _clap_score(clips: ClipEmbeddings, captions: Tensor, *, seed: int) -> Statistic:
    """Mean over clips of the cosine between a clip's caption and its audio, captions (n, e) in the order of the clips.

    Of a clip of several windows the cosines are averaged. `chance` is the score with captions permuted among the clips.
    """
    if len(captions) != len(clips) or not clips.prompts:
        raise ValueError(
            f"A CLAP score compares each clip with its caption, but {len(clips)} clips have {len(captions)} captions "
            f"and {len(clips.prompts)} prompts: expected one of each for every clip."
        )
    audio = torch.nn.functional.normalize(clips.vectors.double(), dim=1)
    directions = torch.stack([windows.mean(0) for windows in audio.split(clips.lengths.tolist())])
    texts = torch.nn.functional.normalize(captions.double().cpu(), dim=1)
    chance = permuted(lambda dealt: float((directions * dealt).sum(1).mean()), texts, seed=seed)
    return mean_over_clips((directions * texts).sum(1), chance=chance)


def embed_captions(embedder: Embedder, clips: ClipEmbeddings) -> Tensor:
    """Return the vectors (n, e) of the captions of clips.

    Raises ValueError if the embedder reads no text, or a clip has no caption.
    """
    texts = [str(prompt_fields(prompt).get("text", "")) for prompt in clips.prompts]
    if not embedder.reads_text:
        raise InvalidValue(f"{type(embedder).__name__} reads no text, so it cannot compare music with captions.")
    if not texts or not all(text.strip() for text in texts):
        raise InvalidValue(f"{sum(not text.strip() for text in texts)} of {len(texts)} clips have no caption.")
    with torch.no_grad():
        return embedder.embed_text(texts).cpu()


MEANING = "mean cosine similarity of the CLAP embeddings of a clip and of its caption, -1 to 1"
clap_score = Metric("CLAP score", _clap_score, "higher", compares="captions", meaning=MEANING)
