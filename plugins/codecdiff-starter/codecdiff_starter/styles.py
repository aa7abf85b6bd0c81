"""Styles of music: what each part of a band plays in them, as patterns of one bar.

A pattern is a string of equal steps, as many as it has characters; every part reads its own letters:

- chords: C a chord that rings, c a short one, u an upstroke, B the root below, `.` goes on, `-` rests
- arpeggios: 0 to 5, tones of the chord from the root up
- bass: R 3 5 6 8 tones above the root, `a` a step that leads to the next root, `.` goes on, `-` rests
- drums: X loud, x, o soft; `.` nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Patterns = Mapping[str, tuple[str, ...]]  # by meter
Groove = Mapping[str, str]  # drum -> pattern
ALL_TEMPOS, ALL_METERS, ALL_DRUMS = ("slow", "medium", "fast"), ("4/4", "3/4"), ("none", "brushes", "kit")
WALKING = "walking"  # a bass line of quarter notes, written and not repeated

TRIPLE_ARPEGGIOS = ("023432", "012343", "034343", "021212")
ARPEGGIOS: Patterns = {"4/4": ("02343432", "01234321", "02320232", "03240324"), "3/4": TRIPLE_ARPEGGIOS}
SIMPLE_KIT: Mapping[str, tuple[Groove, ...]] = {
    "4/4": (
        {"kick": "x.......x.......", "snare": "....x.......x...", "closed hat": "x.o.x.o.x.o.x.o."},
        {"kick": "x.......x.x.....", "snare": "....x.......x...", "closed hat": "x.o.x.o.x.o.x.o."},
        {"kick": "x..x....x.......", "snare": "....x.......x..o", "closed hat": "x.o.x.o.x.o.x.x."},
    ),
    "3/4": (
        {"kick": "x.....", "snare": "..x.x.", "closed hat": "xoxoxo"},
        {"kick": "x....o", "snare": "....x.", "closed hat": "xoxoxo"},
    ),
}
SIMPLE_BRUSHES: Mapping[str, tuple[Groove, ...]] = {
    "4/4": (
        {"brush kick": "x...o...", "brush tap": "..x...x.", "brush swirl": "x.x.x.x."},
        {"brush kick": "x..ox...", "brush tap": ".oxo.oxo", "brush swirl": "x...x..."},
    ),
    "3/4": (
        {"brush kick": "x.....", "brush tap": "..x.x.", "brush swirl": "x.x.x."},
        {"brush kick": "x....o", "brush tap": "..o.xo", "brush swirl": "x..x.."},
    ),
}


@dataclass(frozen=True)
class Style:
    """What suits a style, and the patterns of its parts by meter."""

    tempos: tuple[str, ...]
    meters: tuple[str, ...]
    drums: tuple[str, ...]
    tunes: tuple[str, ...]  # what a track in this style is called
    harmony: str  # which progressions
    rhythm: str  # of melodies
    guitar: str  # which of the guitars is "guitar"
    upright: bool  # whether the plucked bass is an upright one
    comping: tuple[str, ...]  # instruments that play chords, the first that is unlike the lead
    picking: tuple[str, ...]  # instruments that play arpeggios, likewise
    chords: Patterns
    bass: Patterns
    kit: Mapping[str, tuple[Groove, ...]]
    brushes: Mapping[str, tuple[Groove, ...]] = field(default_factory=lambda: SIMPLE_BRUSHES)
    arpeggios: Patterns = field(default_factory=lambda: ARPEGGIOS)
    swing: float = 0.5  # where the second half of a swung unit begins
    swung: float = 0.5  # beats from a straight note to a swung one
    sevenths: bool = False


STYLES: dict[str, Style] = {
    "ballad": Style(
        ("slow",), ALL_METERS, ALL_DRUMS, ("ballad",), "song", "lyrical", "nylon guitar", False,
        ("piano", "nylon guitar"), ("piano", "nylon guitar"),
        chords={
            "4/4": ("C...C...C...C...", "C.......C...C...", "C...c.C.C...c.C."),
            "3/4": ("C...C...C...", "C.......C..."),
        },
        bass={
            "4/4": ("R.....R.5.......", "R.......5.....a.", "R.....5.8......."),
            "3/4": ("R.......5...", "R..........."),
        },
        kit=SIMPLE_KIT,
        arpeggios={
            "4/4": ("0234343202343432", "0232423202324232", "0123432101234321"),
            "3/4": ("023432343234", "012343234321"),
        },
    ),
    "pop": Style(
        ("medium", "fast"), ("4/4",), ALL_DRUMS, ("pop tune", "pop instrumental"), "song", "syncopated",
        "steel guitar", False,
        ("piano", "steel guitar"), ("electric guitar", "piano"),
        chords={"4/4": ("C..C..C.C..C..C.", "C...C..C..C.C...", "C.c.C.c.C.c.C.c.")},
        bass={"4/4": ("R.RRR.RR", "R..R..R.", "R..RR.5.", "R.R.R.Ra")},
        kit={"4/4": (
            {"kick": "x.....x.x.......", "snare": "....X.......X...", "closed hat": "x.o.x.o.x.o.x.o."},
            {"kick": "x..x..x...x.....", "snare": "....X.......X...", "closed hat": "xoxoxoxoxoxoxoxo"},
            {"kick": "x...x...x...x...", "snare": "....X.......X...", "tambourine": "..x...x...x...x."},
        )},
    ),
    "rock": Style(
        ("medium", "fast"), ("4/4",), ("kit",), ("rock tune", "rock instrumental"), "song", "even",
        "electric guitar", False,
        ("electric guitar", "organ"), ("electric guitar", "organ"),
        chords={"4/4": ("C.c.C.c.C.c.C.c.", "C..C..C.C..CC.C.", "C...C.C...C.C.C.")},
        bass={"4/4": ("RRRRRRRR", "R.RR.RRa", "RR.RR.RR", "RRRR55RR")},
        kit={"4/4": (
            {"kick": "x.......x.x.....", "snare": "....X.......X...", "closed hat": "X.x.X.x.X.x.X.x."},
            {"kick": "x.x.....x..x....", "snare": "....X.......X...", "closed hat": "X.x.X.x.X.x.X.x."},
            {"kick": "x.....x...x.....", "snare": "....X.......X...", "ride": "X.x.X.x.X.x.X.x."},
        )},
    ),
    "folk": Style(
        ALL_TEMPOS, ALL_METERS, ALL_DRUMS, ("folk tune", "folk melody"), "song", "even", "steel guitar", True,
        ("steel guitar", "piano"), ("steel guitar", "piano"),
        chords={"4/4": ("C.Cu.uCu", "C.C.CuCu", "B.CuB.Cu"), "3/4": ("C.CuCu", "B.C.Cu", "B.CuC.")},
        bass={"4/4": ("R...5...", "R.R.5.5.", "R...5.a."), "3/4": ("R.....", "R...5.")},
        kit=SIMPLE_KIT,
    ),
    "country": Style(
        ("medium", "fast"), ("4/4",), ALL_DRUMS, ("country tune",), "song", "even", "steel guitar", False,
        ("steel guitar", "piano"), ("steel guitar", "piano"),
        chords={"4/4": ("B.c.B.c.", "B.CuB.Cu", "B.cuB.cu")},
        bass={"4/4": ("R.-.5.-.", "R...5...", "R.-.5.Ra")},
        kit={"4/4": (
            {"kick": "x.......x.......", "snare": "oxoxXxoxoxoxXxox", "foot hat": "....x.......x..."},
            {"kick": "x.......x.......", "rim": "....x.......x...", "closed hat": "x.x.x.x.x.x.x.x."},
        )},
        brushes={"4/4": (
            {"brush kick": "x...x...", "brush tap": "oxXxoxXx"},
            {"brush kick": "x...x...", "brush tap": "..X...X.", "brush swirl": "x.x.x.x."},
        )},
    ),
    "jazz": Style(
        ALL_TEMPOS, ALL_METERS, ALL_DRUMS, ("jazz tune", "jazz number"), "jazz", "swing", "electric guitar", True,
        ("piano", "electric guitar"), ("vibraphone", "piano"),
        chords={"4/4": ("C..c....", "..c...c.", "C..c..c.", ".c..C.c."), "3/4": ("C..c..", "..c.c.", "C...c.")},
        bass={"4/4": (WALKING,), "3/4": (WALKING,)},
        kit={
            "4/4": (
                {"ride": "x.Xox.Xo", "foot hat": "..x...x.", "kick": "o.o.o.o.", "snare": "...o...."},
                {"ride": "x.Xox.Xo", "foot hat": "..x...x.", "kick": "o...o...", "rim": "......x."},
            ),
            "3/4": ({"ride": "x.Xox.", "foot hat": "..x...", "kick": "x.....", "snare": ".....o"},),
        },
        brushes={
            "4/4": ({"brush swirl": "x.x.x.x.", "brush tap": "..Xo..Xo", "brush kick": "o...o..."},),
            "3/4": ({"brush swirl": "x.x.x.", "brush tap": "..Xo..", "brush kick": "o....."},),
        },
        swing=0.65, sevenths=True,
    ),
    "blues": Style(
        ("slow", "medium"), ("4/4",), ALL_DRUMS, ("blues",), "blues", "swing", "electric guitar", False,
        ("organ", "piano"), ("piano", "electric guitar"),
        chords={"4/4": ("C..cC..c", "c.c.c.c.", "C..c..c.")},
        bass={"4/4": ("RR556655", "R.3.5.6.", "R.RR5.55", WALKING)},
        kit={"4/4": (
            {"kick": "x...x..x", "snare": "..X...X.", "closed hat": "x.xox.xo"},
            {"kick": "x..xx...", "snare": "..X...X.", "ride": "x.xox.xo"},
        )},
        swing=0.66,
    ),
    "bossa nova": Style(
        ("medium", "fast"), ("4/4",), ALL_DRUMS, ("bossa nova",), "jazz", "syncopated", "nylon guitar", True,
        ("nylon guitar", "piano"), ("vibraphone", "nylon guitar"),
        chords={"4/4": ("C..C..C.", "c.cc.c.c", "C.c..c.c")},
        bass={"4/4": ("R..55..R", "R..5R..5", "R..R5..a")},
        kit={"4/4": (
            {"kick": "x..ox..o", "rim": "x..x..x.", "closed hat": "XoxoXoxo"},
            {"kick": "x..ox..o", "rim": "..x..x..", "shaker": "XoxoXoxo"},
        )},
        brushes={"4/4": (
            {"brush kick": "x..ox..o", "brush tap": "x..x..x.", "brush swirl": "x...x..."},
            {"brush kick": "x..ox..o", "brush tap": "..x..x..", "shaker": "XoxoXoxo"},
        )},
        sevenths=True,
    ),
    "funk": Style(
        ("medium",), ("4/4",), ("none", "kit"), ("funk tune", "funk groove"), "vamp", "syncopated",
        "electric guitar", False,
        ("electric guitar", "electric piano"), ("electric piano", "electric guitar"),
        chords={"4/4": ("c..c..c...c.c...", "..c.c...c..c..c.", "c..c....c.c..c..")},
        bass={"4/4": ("R..R..8-R.8-5.8-", "R.-R-.8-..R.5.a.", "RR-.8-R-.R-.5-8-")},
        kit={"4/4": (
            {"kick": "x..x....o.x.....", "snare": "....X..o.o..X..o", "closed hat": "xoxoxoxoxoxoxoxo"},
            {"kick": "x.x....x..x..x..", "snare": "....X.o..o..X...", "closed hat": "x.xxx.xxx.xxx.x."},
        )},
        arpeggios={"4/4": ("0.2.3.4.0.2.4.3.", "0..3..4.0..3..2.")},
        swing=0.54, swung=0.25, sevenths=True,
    ),
    "disco": Style(
        ("medium",), ("4/4",), ("kit",), ("disco tune", "dance track"), "song", "syncopated", "electric guitar", False,
        ("electric piano", "electric guitar"), ("celesta", "electric piano"),
        chords={"4/4": (".c.c.c.c", "..c...c...c...c.", "c..c..c.c..c..c.")},
        bass={"4/4": ("R8R8R8R8", "R.8.R.8R", "-.R8-.R8", "RR8RRR8R")},
        kit={"4/4": (
            {"808 kick": "x...x...x...x...", "clap": "....x.......x...", "open hat": "..x...x...x...x."},
            {"kick": "x...x...x...x...", "snare": "....x.......x...", "open hat": "..x...x...x...x."},
            {"808 kick": "x...x...x...x...", "808 snare": "....x.......x...", "closed hat": "xox.xox.xox.xox."},
        )},
        arpeggios={"4/4": ("0234023402340234", "0.3.4.3.0.3.4.5.", "0324032403240324")},
    ),
    "reggae": Style(
        ("slow", "medium"), ("4/4",), ("kit",), ("reggae tune",), "song", "even", "electric guitar", False,
        ("electric guitar", "organ"), ("organ", "electric piano"),
        chords={"4/4": ("-c-c-c-c", "--c---c-", "-cc--cc-")},
        bass={"4/4": ("R.-R3.5.", "R..R5.3.", "RR-R8.5.", "R.3.5.-a")},
        kit={"4/4": (
            {"kick": "....x...", "rim": "....X...", "closed hat": "xoxoxoxo"},
            {"kick": "..x...x.", "rim": "..X...X.", "closed hat": "xxoxxxox"},
        )},
        swing=0.54, swung=0.25,
    ),
    "classical": Style(
        ALL_TEMPOS, ALL_METERS, ("none",), ("classical melody",), "classical", "lyrical", "nylon guitar", True,
        ("strings", "piano"), ("piano", "nylon guitar"),
        chords={"4/4": ("C...C...", "c.c.c.c.", "C...c.c."), "3/4": ("C.....", "C.c.c.", "c.c.c.")},
        bass={"4/4": ("R...5...", "R.3.5.3.", "R...R.5."), "3/4": ("R.....", "R.3.5.", "R...5.")},
        kit=SIMPLE_KIT,
        arpeggios={"4/4": ("02120212", "02320232", "02343432"), "3/4": ("021212", "023432", "023232")},
    ),
    "waltz": Style(
        ("medium", "fast"), ("3/4",), ALL_DRUMS, ("waltz",), "classical", "lyrical", "nylon guitar", True,
        ("piano", "nylon guitar"), ("celesta", "piano"),
        chords={"3/4": ("-cc", "BCC", "Bcc")},
        bass={"3/4": ("R..", "R-5", "R..")},
        kit={"3/4": (
            {"kick": "x.....", "snare": "..o.o.", "closed hat": "..x.x."},
            {"kick": "x.....", "rim": "..x.x.", "ride": "x.x.x."},
        )},
        arpeggios={"3/4": TRIPLE_ARPEGGIOS},
    ),
}  # fmt: skip


def styles_of(tempo: str, meter: str, drums: str) -> list[str]:
    """Return the styles that suit a tempo, a meter and drums."""
    return [
        name
        for name, style in STYLES.items()
        if tempo in style.tempos and meter in style.meters and drums in style.drums
    ]


LEADS = {  # lead -> instrument, where the style does not choose it
    "piano": "piano",
    "flute": "flute",
    "strings": "strings",
    "organ": "organ",
    "trumpet": "trumpet",
    "clarinet": "clarinet",
    "vibraphone": "vibraphone",
    "saxophone": "saxophone",
}


def family(instrument: str) -> str:
    """Return what an instrument is called in general: all guitars are a guitar, and a celesta sounds as a bell."""
    return {"celesta": "bell", "electric piano": "piano"}.get(instrument, instrument.split()[-1])


def players(*, lead: str, accompaniment: str, bass: str, drums: str, style: str) -> dict[str, str]:
    """Return the instrument of every part that plays; the lead's is never that of the accompaniment."""
    manner = STYLES[style]
    band = {"lead": LEADS.get(lead, manner.guitar)}
    if accompaniment == "pad":
        band["accompaniment"] = "pad"
    elif accompaniment != "none":
        available = manner.comping if accompaniment == "chords" else manner.picking
        band["accompaniment"] = next(name for name in available if family(name) != lead)
    if bass != "none":
        band["bass"] = "synth bass" if bass == "synth" else "upright bass" if manner.upright else "electric bass"
    if drums != "none":
        band["drums"] = drums
    return band
