"""Captions of music by its tags, as musicnn finds them: a captioner of codecdiff-datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from codecdiff_datasets.captioner import Captioner
from codecdiff_datasets.captioners.describe import read_window
from codecdiff_datasets.captioners.tags import summarize_tags

from codecdiff.errors import InvalidValue
from codecdiff_musicnn.embedder import MusiCNNTags

SILENCE = 1e-4  # peak amplitude under which nothing is tagged: -80 dB

# Category -> tag as it is written -> the tags of both checkpoints that mean it. Decades and some words are left out.
CATEGORIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "genre": {
        "alternative": ("msd/alternative",),
        "alternative rock": ("msd/alternative rock",),
        "ambient": ("msd/ambient", "mtt/ambient", "mtt/new age"),
        "blues": ("msd/blues",),
        "classical": ("mtt/classical", "mtt/classic"),
        "country": ("msd/country", "mtt/country"),
        "dance": ("msd/dance", "mtt/dance"),
        "electronic": ("msd/electronic", "msd/electronica", "msd/electro", "mtt/electronic"),
        "experimental": ("msd/experimental", "mtt/weird"),
        "folk": ("msd/folk",),
        "funk": ("msd/funk",),
        "hard rock": ("msd/hard rock",),
        "hip-hop": ("msd/Hip-Hop",),
        "house": ("msd/House",),
        "indian": ("mtt/indian",),
        "indie": ("msd/indie", "msd/indie pop", "msd/indie rock"),
        "jazz": ("msd/jazz",),
        "metal": ("msd/metal", "msd/heavy metal", "mtt/metal"),
        "opera": ("mtt/opera",),
        "pop": ("msd/pop", "mtt/pop"),
        "progressive rock": ("msd/Progressive rock",),
        "punk": ("msd/punk",),
        "r&b": ("msd/rnb",),
        "rock": ("msd/rock", "msd/classic rock", "mtt/rock"),
        "soul": ("msd/soul",),
        "techno": ("mtt/techno",),
    },
    "instrument": {
        "cello": ("mtt/cello",),
        "choir": ("mtt/choir", "mtt/choral"),
        "drums": ("mtt/drums", "mtt/beat", "mtt/beats"),
        "female vocals": (
            *("msd/female vocalist", "msd/female vocalists"),
            *("mtt/female", "mtt/female vocal", "mtt/female voice", "mtt/woman"),
        ),
        "flute": ("mtt/flute",),
        "guitar": ("msd/guitar", "mtt/guitar"),
        "harp": ("mtt/harp",),
        "harpsichord": ("mtt/harpsichord",),
        "male vocals": ("msd/male vocalists", "mtt/male", "mtt/male vocal", "mtt/male voice", "mtt/man"),
        "piano": ("mtt/piano",),
        "sitar": ("mtt/sitar",),
        "strings": ("mtt/strings",),
        "synthesizer": ("mtt/synth",),
        "violin": ("mtt/violin",),
    },
    "mood/theme": {
        "acoustic": ("msd/acoustic",),
        "beautiful": ("msd/beautiful",),
        "calm": ("msd/chill", "msd/chillout", "msd/easy listening", "msd/Mellow"),
        "fast": ("mtt/fast",),
        "happy": ("msd/happy",),
        "loud": ("mtt/loud",),
        "party": ("msd/party",),
        "quiet": ("mtt/quiet", "mtt/soft"),
        "sad": ("msd/sad",),
        "slow": ("mtt/slow",),
    },
}


class TagsFromAudio(Captioner):
    """The tags that musicnn gives a track, in one line, as "Genre: classical; instruments: violin, strings".

    A tag counts if its mean probability over the track reaches `threshold`; the more probable come first. Where none
    does, the most probable genre and instrument are named. The form is that of the captioner `tags`.

    Args:
        threshold: Least probability of a tag; that of tags that mean the same is the largest of theirs.
        most: How many tags of a category are named.
        seconds: How much of the track is read, from its middle; a shorter one is read whole.

    Raises:
        ValueError: An option is out of range.

    """

    def __init__(self, *, threshold: float = 0.15, most: int = 3, seconds: float = 60.0) -> None:
        if not 0 < threshold < 1:
            raise InvalidValue(f"A threshold of a probability lies between 0 and 1, but threshold is {threshold}.")
        if most < 1:
            raise InvalidValue(f"A caption names at least one tag of a category, but most is {most}.")
        if seconds <= 0:
            raise InvalidValue(f"A caption needs some audio, but seconds is {seconds}.")
        self.threshold, self.most, self.seconds = threshold, most, seconds
        self.tagger = MusiCNNTags()

    def caption(self, track: Mapping[str, Any]) -> str:
        """Tag a track by its audio.

        Raises LookupError if it is missing, BadAudio if it cannot be read, and ValueError if it is silent.
        """
        if not track.get("present", True) or not track.get("file"):
            raise LookupError("Its audio is missing.")
        samples = read_window(track["file"], self.tagger.sample_rate, self.seconds)
        if abs(samples).max() <= SILENCE:
            raise ValueError("It is silent where it is read, in its middle.")
        probabilities = self.tagger.embed(torch.from_numpy(samples)[None])[0].mean(0)
        return summarize_tags(self.select_tags(dict(zip(self.tagger.names, probabilities.tolist(), strict=True))))

    def select_tags(self, probabilities: Mapping[str, float]) -> dict[str, list[str]]:
        """Return the tags to name by category, from the probabilities of musicnn's tags."""
        merged = {
            category: {tag: max(probabilities[name] for name in names) for tag, names in tags.items()}
            for category, tags in CATEGORIES.items()
        }
        ranked = {category: sorted(tags, key=lambda tag: -tags[tag]) for category, tags in merged.items()}
        selected = {
            category: [tag for tag in tags if merged[category][tag] >= self.threshold][: self.most]
            for category, tags in ranked.items()
        }
        if any(selected.values()):
            return selected
        return {category: ranked[category][:1] for category in ("genre", "instrument")}
