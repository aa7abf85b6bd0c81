"""The page of a listening test: one file that needs no network, with its audio inside.

Clips of an item are cut to the shortest of them and brought to one loudness. The order of items and clips is drawn in
the page, for each rater.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from scipy.signal import ellip, ellipord, sosfiltfilt
from torch import Tensor

from codecdiff.cli.console import out
from codecdiff.data.audio import open_streams, read_audio
from codecdiff.data.loudness import integrated_loudness, true_peak
from codecdiff.errors import FileExists, InvalidValue
from codecdiff.files import atomic_write_text
from codecdiff.rng import numpy_generator
from codecdiff_eval.listening.systems import ANCHOR, REFERENCE, Item, System, match_items, read_systems
from codecdiff_eval.report import render_template, require_own_report
from codecdiff_eval.results import hash_of

MAX_PEAK = -1.0  # dBTP
ANCHOR_HZ = 3_500  # the low anchor of ITU-R BS.1534-3
KICKER = "codecdiff · listening test"
Mode = Literal["ab", "mushra"]


@dataclass(frozen=True)
class ListeningTest:
    """A listening test. With a `reference`, which MUSHRA needs, it and its low-passed copy are rated as well.

    loudness: LUFS that clips are brought to; softer for an item if one of its clips would exceed -1 dBTP.
    """

    title: str
    mode: Mode
    systems: Sequence[System]
    reference: System | None = None
    loudness: float = -23.0

    def __post_init__(self):
        if self.mode == "ab" and len(self.systems) < 2:
            raise InvalidValue(f"An A/B test compares two systems or more, not {len(self.systems)}: name more folders.")
        if self.mode == "mushra" and self.reference is None:
            raise InvalidValue("A MUSHRA test rates against a reference: add --reference FOLDER, or use --mode ab.")

    def items(self, count: int | None = None, seed: int = 0) -> list[Item]:
        """Return the items, or `count` of them drawn by the seed. Raises InvalidValue for too many."""
        reference = [System(REFERENCE, self.reference.clips)] if self.mode == "mushra" and self.reference else []
        items = match_items([*self.systems, *reference])
        if count is None:
            return items
        if count > len(items):
            raise InvalidValue(f"Invalid --n {count}: there are {len(items)} items. Leave --n out for all of them.")
        drawn = numpy_generator("codecdiff_eval.listening.items", seed).permutation(len(items))[:count]
        return [items[i] for i in sorted(drawn)]

    def render(self, items: Sequence[Item]) -> str:
        """Return the page. Raises BadAudio for a clip that cannot be read."""
        rows: list[dict[str, Any]] = [{"name": item.name, "prompt": item.prompt, "clips": {}} for item in items]
        for row, item in zip(rows, items, strict=True):
            clips = {name: read_whole_clip(path) for name, path in item.files.items()}
            if self.mode == "mushra":
                audio, rate = clips[REFERENCE]
                clips[ANCHOR] = low_passed(audio, rate), rate
            row["clips"] = {name: data_uri(*clip) for name, clip in matched(clips, self.loudness).items()}
        data = {"mode": self.mode, "title": self.title, "systems": list(rows[0]["clips"]), "items": rows}
        data["test"] = hash_of(json.dumps(data, sort_keys=True).encode())[:16]
        return render_template("listening.html", data=data, mode=self.mode, title=self.title)


def read_whole_clip(file: Path) -> tuple[Tensor, int]:
    """Read a clip (ch, t) of one or two channels at its own sample rate, and that rate in Hz. Raises BadAudio."""
    sound = next(open_streams(file))
    rate, channels = sound.samplerate, min(2, sound.channels)
    return read_audio(file, rate, channels), rate


def low_passed(audio: Tensor, sample_rate: int) -> Tensor:
    """Return audio (ch, t) without what is above 3.5 kHz, with the phases as they are.

    As ITU-R BS.1534-3 requires, the pass band is flat within 0.1 dB and 4 kHz is attenuated by at least 25 dB, here by
    60; the filter runs forward and backward, with half of both each time.
    """
    edge = min(ANCHOR_HZ, 0.4 * sample_rate)
    order, edge = ellipord(edge, edge * 4 / 3.5, 0.05, 30, fs=sample_rate)
    sections = ellip(order, 0.05, 30, edge, fs=sample_rate, output="sos")
    filtered = sosfiltfilt(sections, audio.double().numpy(), axis=1, padlen=min(24, audio.shape[1] - 1))
    return torch.from_numpy(np.ascontiguousarray(filtered, np.float32))


def matched(clips: Mapping[str, tuple[Tensor, int]], loudness: float) -> dict[str, tuple[Tensor, int]]:
    """Cut clips (ch, t), with their rates in Hz, to the shortest, and bring them to one loudness in LUFS.

    It is lower than requested if the peaks of one of them would exceed -1 dBTP: no clip is limited. Silence stays.
    """
    seconds = min(audio.shape[1] / rate for audio, rate in clips.values())
    cut = {name: (audio[:, : max(1, round(seconds * rate))], rate) for name, (audio, rate) in clips.items()}
    levels = {name: integrated_loudness(audio, rate) for name, (audio, rate) in cut.items()}
    for name, (audio, _) in cut.items():
        if math.isfinite(levels[name]):
            headroom = MAX_PEAK - 20 * math.log10(float(true_peak(audio).max()))
            loudness = min(loudness, levels[name] + headroom)
    gains = {name: 10 ** ((loudness - level) / 20) if math.isfinite(level) else 1.0 for name, level in levels.items()}
    return {name: (gains[name] * audio, rate) for name, (audio, rate) in cut.items()}


def data_uri(audio: Tensor, sample_rate: int) -> str:
    """Return audio (ch, t) as the data URI of a WAV file: browsers cannot be relied on to seek in FLAC."""
    stream = io.BytesIO()
    soundfile.write(stream, audio.T.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(stream.getvalue()).decode()


def write_listening_test(
    folders: Sequence[Path],
    reference: Path | None,
    file: Path,
    n: int | None,
    seed: int,
    *,
    force: bool,
    **options: Any,
) -> None:
    """Write the page of a test of folders, with the options of `ListeningTest`, and print how long it is."""
    require_own_report(file, KICKER, force)
    systems, compared = read_systems(folders)
    if reference:
        if options["mode"] == "ab":
            raise InvalidValue("A test of pairs has no reference: leave --reference out, or choose --mode mushra.")
        variants, evaluated_on = read_systems([reference])
        compared = evaluated_on or System(REFERENCE, variants[0].clips)
    test = ListeningTest(systems=systems, reference=compared, **options)
    items = test.items(n, seed)
    html = test.render(items)
    if file.exists() and not force and file.read_bytes() != html.encode():
        raise FileExists(f"'{file}' exists already. Choose another name with -o, or overwrite it with --force.")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, html)
    rounds = len(items) * (math.comb(len(systems), 2) if test.mode == "ab" else 1)
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    out.print(f"{file}: {len(items)} items, {rounds} rounds, {size}. Open it in a browser.", soft_wrap=True)
