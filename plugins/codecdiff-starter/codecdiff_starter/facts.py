"""What is true of a track before it is written, and captions that say so in words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codecdiff.errors import InvalidValue
from codecdiff_starter.styles import STYLES, family, players, styles_of

CLASSES: dict[str, tuple[str, ...]] = {
    "lead": ("piano", "flute", "strings", "guitar", "organ", "trumpet", "clarinet", "vibraphone", "saxophone"),
    "accompaniment": ("none", "pad", "arpeggio", "chords"),
    "bass": ("none", "plucked", "synth"),
    "drums": ("none", "brushes", "kit"),
    "tempo": ("slow", "medium", "fast"),
    "meter": ("4/4", "3/4"),
    "key": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "mode": ("major", "minor"),
    "dynamics": ("soft", "loud", "swelling"),
    "style": tuple(STYLES),
}
PARTS = ("lead", "accompaniment", "bass", "drums")
BPM = {"slow": (60, 82), "medium": (94, 122), "fast": (138, 180)}  # beats per minute, both ends included


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The description of a track. Every field but `bpm` is one of its `CLASSES`; `bpm` lies in the range of `tempo`.

    The style suits the tempo, the meter and the drums.
    """

    lead: str
    accompaniment: str
    bass: str
    drums: str
    tempo: str
    bpm: int  # beats per minute
    meter: str
    key: str
    mode: str
    dynamics: str
    style: str

    def __post_init__(self) -> None:
        for name, classes in CLASSES.items():
            if getattr(self, name) not in classes:
                raise InvalidValue(f"No {name} {getattr(self, name)!r}. There are: {', '.join(classes)}.")
        slowest, fastest = BPM[self.tempo]
        if not slowest <= self.bpm <= fastest:
            raise InvalidValue(f"A {self.tempo} track has {slowest} to {fastest} beats per minute, not {self.bpm}.")
        available = styles_of(self.tempo, self.meter, self.drums)
        if self.style not in available:
            band = f"A {self.tempo} track in {self.meter} with drums {self.drums!r}"
            raise InvalidValue(f"{band} has no style {self.style!r}. There are: {', '.join(available)}.")

    @property
    def beats_per_bar(self) -> int:
        """Beats in a bar."""
        return int(self.meter[0])

    @property
    def players(self) -> dict[str, str]:
        """The instrument of every part that plays."""
        parts = {part: getattr(self, part) for part in PARTS}
        return players(**parts, style=self.style)

    @property
    def instruments(self) -> list[str]:
        """What the instruments that play are called in general, the lead first."""
        names = {"kit": "drums", "brushes": "drums"}
        return list(dict.fromkeys(names.get(player, family(player)) for player in self.players.values()))


def random_facts(rng: np.random.Generator) -> Facts:
    """Draw every fact uniformly and independently, except that the style is one of those that suit the others."""
    drawn = {name: str(rng.choice(classes)) for name, classes in CLASSES.items() if name != "style"}
    return _completed(drawn, rng)


def _completed(drawn: dict[str, str], rng: np.random.Generator) -> Facts:
    """Draw what follows from other facts: a style that suits them, and the beats per minute."""
    style = str(rng.choice(styles_of(drawn["tempo"], drawn["meter"], drawn["drums"])))
    return Facts(**drawn, style=style, bpm=int(rng.integers(*BPM[drawn["tempo"]], endpoint=True)))


def held_out(facts: Facts) -> bool:
    """Tell whether a combination of parts is kept from training: 36 of the 324, and every class equally often.

    Each accompaniment is held out with each lead exactly once, with a bass and drums that go round.
    """
    lead, accompaniment, bass, drums = (CLASSES[part].index(getattr(facts, part)) for part in PARTS)
    return bass == (accompaniment + lead) % 3 and drums == (2 * accompaniment + lead // 3 + 1) % 3


def training_facts(rng: np.random.Generator) -> Facts:
    """Draw facts that are not held out."""
    return next(facts for facts in iter(lambda: random_facts(rng), None) if not held_out(facts))


def held_out_facts(count: int, seed: int) -> list[Facts]:
    """Draw `count` held-out facts: every 36 in a row hold each combination once and each class equally often.

    Styles follow from the other facts.
    """
    blocks = (_held_out_block(np.random.default_rng([seed, block])) for block in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(blocks), count))


def _held_out_block(rng: np.random.Generator) -> list[Facts]:
    others = {"tempo": "slow", "bpm": 60, "meter": "4/4", "key": "C", "mode": "major", "dynamics": "soft"}
    products = (dict(zip(PARTS, parts, strict=True)) for parts in itertools.product(*(CLASSES[p] for p in PARTS)))
    combinations = [parts for parts in products if held_out(Facts(**parts, **others, style="ballad"))]
    shuffled = {
        name: rng.permutation(np.resize(classes, len(combinations))).tolist()
        for name, classes in CLASSES.items()
        if name not in (*PARTS, "style")
    }
    drawn = [parts | {name: values[i] for name, values in shuffled.items()} for i, parts in enumerate(combinations)]
    return [_completed(drawn[i], rng) for i in rng.permutation(len(drawn))]


PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "lead": {
        "piano": ("piano",),
        "flute": ("flute",),
        "strings": ("strings", "bowed strings"),
        "guitar": ("guitar",),
        "organ": ("organ",),
        "trumpet": ("trumpet",),
        "clarinet": ("clarinet",),
        "vibraphone": ("vibraphone",),
        "saxophone": ("saxophone", "tenor saxophone"),
    },
    "accompaniment": {
        "none": ("backing chords", "chordal backing"),
        "pad": ("a pad", "a synth pad", "sustained pad chords"),
        "arpeggio": ("arpeggios", "an arpeggio"),
        "chords": ("chords",),
    },
    "bass": {"none": ("bass",), "plucked": ("plucked bass",), "synth": ("synth bass", "a synth bass")},
    "drums": {
        "none": ("drums", "percussion"),
        "brushes": ("brushes", "brushed drums", "drums played with brushes"),
        "kit": ("drums", "a drum kit", "kick and snare drums"),
    },
    "tempo": {"slow": ("slow",), "medium": ("medium-tempo", "moderate"), "fast": ("fast", "quick")},
    "meter": {"4/4": ("4/4", "common time"), "3/4": ("3/4", "triple time")},
    "dynamics": {"soft": ("soft", "quiet"), "loud": ("loud",), "swelling": ("swelling",)},
}
COMPLETE = (  # these name the lead and the ensemble, and most of them how loud it is
    "a {dynamics} {tempo} {tune} in {key} on {lead} {ensemble}",
    "a {tempo} {tune} on {lead} {ensemble}",
    "{dynamics} {lead} {ensemble}, {tempo}, in {key}",
    "{tempo} {lead} music {ensemble}, {dynamics}",
    "a {dynamics} {lead} {tune} {ensemble}, {bpm} bpm",
    "a {dynamics} and {tempo} {tune} for {lead} {ensemble}, in {key}",
    "{lead} playing a {dynamics} {tempo} {tune} {ensemble}",
    "{key}, {meter}, {bpm} bpm, {dynamics} {lead} {ensemble}",
    "a {dynamics} {tune} in {meter} for {lead} {ensemble}",
    "{tempo} and {dynamics} {lead} {ensemble}, {key}, {meter}",
    "a {dynamics} instrumental in {key}, {lead} {ensemble}",
    "{lead} {ensemble}",
    "{style}: {dynamics} {lead} {ensemble}, {tempo}",
    "a {tempo} {style_tune} in {key} on {lead} {ensemble}",
    "a {dynamics} {style_tune} in {meter} on {lead} {ensemble}",
    "a {style_tune} at {bpm} bpm for {lead} {ensemble}, {dynamics}",
)
BRIEF = (  # these leave most facts open
    "{lead}",
    "{tempo} {lead}",
    "{dynamics} {lead} in {key}",
    "a {tempo} {tune} in {key}",
    "a {dynamics} {tune}, {meter}",
    "{key}, {bpm} bpm",
    "a {tempo} {style_tune}",
    "{style} on {lead}",
)


def captions(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Describe a track in four different ways, all true: three name the parts, the last leaves most facts open."""
    templates = [*rng.choice(COMPLETE, 3, replace=False), rng.choice(BRIEF)]
    return [_caption(str(template), facts, rng) for template in templates]


def _caption(template: str, facts: Facts, rng: np.random.Generator) -> str:
    words = {name: _phrase(facts, name, rng) for name in ("lead", "tempo", "meter", "dynamics")}
    words["tune"] = str(rng.choice(("tune", "piece", "melody", *(("waltz",) if facts.meter == "3/4" else ()))))
    words |= {"style": facts.style, "style_tune": str(rng.choice(STYLES[facts.style].tunes))}
    text = template.format(**words, ensemble=_ensemble(facts, rng), key=_key(facts, rng), bpm=facts.bpm)
    text = re.sub(r" +(?=[, ])| +$", "", text)  # an empty ensemble leaves a space behind
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _ensemble(facts: Facts, rng: np.random.Generator) -> str:
    """Say which parts accompany the lead, and most of the time which do not: "with drums but no bass"."""
    parts = [str(part) for part in rng.permutation(PARTS[1:])]
    present = [_phrase(facts, part, rng) for part in parts if getattr(facts, part) != "none"]
    absent = [_phrase(facts, part, rng) for part in parts if getattr(facts, part) == "none" and rng.random() < 0.8]
    if not present and rng.random() < 0.5:
        return str(rng.choice(("alone", "solo", "unaccompanied")))
    sides = [f"with {_listed(present, 'and')}"] if present else []
    if absent:
        without = f"without {_listed(absent, 'or')}"
        sides.append(str(rng.choice((without, f"but no {_listed(absent, 'or')}"))) if present else without)
    return " ".join(sides)


def _phrase(facts: Facts, name: str, rng: np.random.Generator) -> str:
    return str(rng.choice(PHRASES[name][getattr(facts, name)] + _player_phrases(facts, name)))


def _player_phrases(facts: Facts, name: str) -> tuple[str, ...]:
    """Return phrases that name the instrument which plays a part, where others may play it as well."""
    player = facts.players.get(name, "")
    kind = family(player) if player else ""
    if name == "lead" and kind == "guitar":
        return ("electric guitar",) if player == "electric guitar" else ("acoustic guitar",)
    if name == "accompaniment" and facts.accompaniment in ("arpeggio", "chords"):
        played = "arpeggios" if facts.accompaniment == "arpeggio" else "chords"
        strummed = ("strummed guitar",) if (kind, played) == ("guitar", "chords") else ()
        return (f"{kind} {played}", f"{kind} {played}", *strummed)
    if name == "bass" and facts.bass == "plucked":
        return (player, f"an {player}")
    return ()


def _key(facts: Facts, rng: np.random.Generator) -> str:
    spelled = facts.key[0] + {"#": " sharp", "b": " flat"}.get(facts.key[1:], "")
    return f"{rng.choice((facts.key, spelled))} {facts.mode}"


def _listed(phrases: Sequence[str], last: str) -> str:
    *others, final = phrases
    return f"{', '.join(others)} {last} {final}" if others else final
