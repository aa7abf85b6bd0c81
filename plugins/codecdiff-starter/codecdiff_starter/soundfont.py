"""Read SoundFont 2 files: the samples of a preset, and how its keys play them.

    font = SoundFont.read("FluidR3_GM.sf2")
    audio = font.play(bank=0, program=73, key=74, seconds=2.0)  # (t,) at 44.1 kHz

Read after the SoundFont Technical Specification 2.04. Of the generators, what shapes a note's pitch and level is
applied (tuning, loops, the volume envelope, attenuation), and filters and modulators are not; of stereo pairs the left
channel is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from codecdiff.errors import InvalidValue, UnknownName

Audio = NDArray[np.float32]
SAMPLE_RATE = 44_100  # Hz, of what is played
RECORDS = {  # lists of the file -> layout of a record
    "phdr": "<20sHHHIII",
    "pbag": "<HH",
    "pgen": "<Hh",
    "inst": "<20sH",
    "ibag": "<HH",
    "igen": "<Hh",
    "shdr": "<20sIIIIIBbHH",
}
RIGHT, LINKED = 2, 8  # types of samples that accompany another
ATTACK, HOLD, DECAY, SUSTAIN = 34, 35, 36, 37  # generators of the volume envelope
INSTRUMENT, KEYS, ATTENUATION, COARSE_TUNE, FINE_TUNE = 41, 43, 48, 51, 52
SAMPLE, SAMPLE_MODES, ROOT_KEY = 53, 54, 58
SHORTEST = -12_000  # timecents
SILENT = 100.0  # dB: the volume envelope decays by so much in its decay time


class Header(NamedTuple):
    """Where a sample lies in the file, in samples, and its pitch."""

    name: str
    start: int
    end: int
    loop_start: int
    loop_end: int
    sample_rate: int  # Hz
    root: int  # MIDI pitch
    correction: int  # cents
    type: int


@dataclass(frozen=True)
class Zone:
    """A sample as one range of keys plays it."""

    sample: Header
    low: int
    high: int
    generators: dict[int, int]

    @property
    def pitch(self) -> float:
        """MIDI pitch at which the sample sounds as it was recorded."""
        root = self.generators.get(ROOT_KEY, -1)
        tuning = self.generators.get(COARSE_TUNE, 0) + self.generators.get(FINE_TUNE, 0) / 100
        return (root if root >= 0 else self.sample.root) - tuning - self.sample.correction / 100


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield (name, start, size) of the chunks of a RIFF file between two places."""
    while start < end:
        name, size = struct.unpack_from("<4sI", data, start)
        yield name.decode("latin1"), start + 8, size
        start += 8 + size + size % 2


def _name(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin1")


def _header(row: tuple[Any, ...]) -> Header:
    name, start, end, loop_start, loop_end, rate, root, correction, _, kind = row
    return Header(_name(name), start, end, loop_start, loop_end, rate, root, correction, kind)


class SoundFont:
    """A SoundFont 2 file in memory."""

    def __init__(self, samples: NDArray[np.int16], records: dict[str, list[tuple[Any, ...]]]) -> None:
        self.samples, self._records = samples, records
        self._headers = [_header(row) for row in records["shdr"]]

    @classmethod
    def read(cls, file: str | Path) -> SoundFont:
        """Read a file; raises `ValueError` if it is not a SoundFont with 16-bit samples."""
        data = Path(file).read_bytes()
        if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
            raise InvalidValue(f"{file} is not a SoundFont 2 file (.sf2): it does not begin as one.")
        lists: dict[str, tuple[int, int]] = {}
        for name, start, size in _chunks(data, 12, len(data)):
            if name == "LIST":
                lists |= {inner: (at, length) for inner, at, length in _chunks(data, start + 4, start + size)}
        if missing := {"smpl", *RECORDS} - set(lists):
            raise InvalidValue(
                f"{file} is a SoundFont without its {', '.join(sorted(missing))}: expected a whole file."
            )
        records = {
            name: list(struct.iter_unpack(layout, data[lists[name][0] : sum(lists[name])]))
            for name, layout in RECORDS.items()
        }
        start, size = lists["smpl"]
        return cls(np.frombuffer(data, "<i2", size // 2, start), records)

    def _bags(self, kind: str, first: int, last: int) -> Iterator[dict[int, int]]:
        bags, generators = self._records[f"{kind}bag"], self._records[f"{kind}gen"]
        for bag in range(first, last):
            yield dict(generators[bags[bag][0] : bags[bag + 1][0]])

    def zones(self, bank: int, program: int) -> list[Zone]:
        """Return the zones of a preset: all its samples, except for right channels; `LookupError` without one."""
        presets, instruments, zones = self._records["phdr"], self._records["inst"], []
        for here, after in pairwise(presets):
            if (here[2], here[1]) != (bank, program):
                continue
            for outer in self._bags("p", here[3], after[3]):
                if INSTRUMENT in outer:
                    first, last = (instruments[outer[INSTRUMENT] + i][1] for i in (0, 1))
                    zones += self._instrument_zones(outer, first, last)
        if not zones:
            raise UnknownName(f"The SoundFont has no program {program} in bank {bank}: expected General MIDI.")
        return zones

    def _instrument_zones(self, outer: dict[int, int], first: int, last: int) -> Iterator[Zone]:
        common: dict[int, int] = {}
        for inner in self._bags("i", first, last):
            if SAMPLE not in inner:
                common = inner
                continue
            sample = self._headers[inner[SAMPLE] & 0xFFFF]
            if sample.type in (RIGHT, LINKED):
                continue
            generators = common | inner
            for tuning in (COARSE_TUNE, FINE_TUNE):
                generators[tuning] = generators.get(tuning, 0) + outer.get(tuning, 0)
            keys = generators.get(KEYS, 127 << 8) & 0xFFFF
            yield Zone(sample, keys & 0xFF, keys >> 8, generators)

    def zone(self, bank: int, program: int, key: int, name: str = "") -> Zone:
        """Return the first zone of a preset that plays a key, and whose sample's name begins with `name`."""
        for zone in self.zones(bank, program):
            if zone.low <= key <= zone.high and zone.sample.name.startswith(name):
                return zone
        raise UnknownName(f"Program {program} of bank {bank} has no sample {name}* for key {key}.")

    def play(self, zone: Zone, key: float, seconds: float) -> Audio:
        """Play a key of a zone for some seconds, held -> (t,) audio at 44.1 kHz."""
        sample, rate = zone.sample, zone.sample.sample_rate * 2 ** ((key - zone.pitch) / 12)
        count = round(seconds * rate) + 1
        places = np.arange(count) + sample.start
        if zone.generators.get(SAMPLE_MODES, 0) & 1:
            length = sample.loop_end - sample.loop_start
            beyond = places >= sample.loop_end
            places[beyond] = sample.loop_start + (places[beyond] - sample.loop_start) % length
        places = places[places < sample.end]
        audio = self.samples[places].astype(np.float32) / 32768
        audio *= self._envelope(zone, np.arange(len(audio)) / rate)
        audio *= np.float32(10 ** (-zone.generators.get(ATTENUATION, 0) / 200))
        return soxr.resample(audio, rate, SAMPLE_RATE)[: round(seconds * SAMPLE_RATE)]

    def _envelope(self, zone: Zone, t: NDArray[np.float64]) -> Audio:
        """Return attack, hold, and decay to the sustained level of a held note, at the times t in seconds."""
        attack, hold, decay = (2 ** (zone.generators.get(g, SHORTEST) / 1200) for g in (ATTACK, HOLD, DECAY))
        fall = np.clip((t - attack - hold) / decay * SILENT, 0, zone.generators.get(SUSTAIN, 0) / 10)
        return (np.minimum(1, t / attack) * 10 ** (-fall / 20)).astype(np.float32)
