"""Spectrograms and codes as images, the figure of codes in which a region is selected, and a player of versions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib.image import imsave
from matplotlib.mlab import specgram

DYNAMIC_RANGE_DB = 70
ROWS, COLUMNS = 128, 1200  # of a spectrogram, at most
LOWEST_HZ = 40
TICKS = 4  # of the times below codes, after 0


def plot_spectrogram(audio: np.ndarray, sample_rate: int, file: Path) -> None:
    """Write the spectrogram of audio (ch, t) as a PNG, logarithmic in frequency, low at the bottom."""
    size = min(2048, audio.shape[1])
    step = max(size // 4, audio.shape[1] // COLUMNS)
    samples, overlap = np.pad(audio.mean(0), (0, 1)), max(0, size - step)  # a window's length alone is warned of
    power, frequencies = map(np.asarray, specgram(samples, size, sample_rate, noverlap=overlap, mode="psd")[:2])
    rows = np.searchsorted(frequencies, np.geomspace(LOWEST_HZ, sample_rate / 2, ROWS)).clip(0, len(frequencies) - 1)
    levels = 10 * np.log10(power[rows[::-1]] + 1e-20)
    levels = levels.repeat(-(-COLUMNS // levels.shape[1]), axis=1)
    imsave(file, levels, cmap="magma", vmin=levels.max() - DYNAMIC_RANGE_DB, vmax=max(levels.max(), -100))


def codes_figure(
    codes: np.ndarray, levels: Sequence[int], codebook_size: int, seconds: float, region: tuple[Any, Any, Any, Any]
) -> str:
    """Return codes (k, l) as HTML: rows of codebooks, coarse at the bottom, by time, with the selected region.

    levels: those of the codebooks, which label the rows.
    region: start and stop in seconds, first and last codebook.
    """
    stream = BytesIO()
    imsave(stream, codes[::-1], cmap="viridis", vmin=0, vmax=codebook_size - 1, format="png")
    image = base64.b64encode(stream.getvalue()).decode()
    start, stop, low, high = (float(value or 0) for value in region)
    count = len(codes)
    style = (
        f"left:{100 * start / seconds:.3f}%;width:{100 * max(0, stop - start) / seconds:.3f}%;"
        f"bottom:{100 * low / count:.3f}%;height:{100 * max(0, high + 1 - low) / count:.3f}%"
    )
    label = escape(f"Codes of {count} codebooks over {seconds:.2f} seconds, the coarsest at the bottom")
    rows = "".join(f"<span>{level}</span>" for level in reversed(levels))
    times = "".join(f"<span>{seconds * i / TICKS:.2f}</span>" for i in range(TICKS + 1))
    return (
        f'<div class="figure" style="height:{max(120, 22 * count)}px"><p class="levels" aria-hidden="true">{rows}</p>'
        f'<div class="codes" data-count="{count}" data-seconds="{seconds:.6f}">'
        f'<img alt="{label}" src="data:image/png;base64,{image}" draggable="false"><i style="{style}"></i>'
        f'<b class="playhead"></b></div></div><p class="times" aria-hidden="true">{times}</p>'
        '<p class="axes">Levels, 0 is the coarsest, over seconds. Drag to select a region.</p>'
    )


def player(versions: Mapping[str, Path], seconds: float) -> str:
    """Return a player of several versions of a track as HTML, by title, which switches between them as they play.

    The last one can be downloaded. `static/player.js` operates it.
    """
    urls = [f"gradio_api/file={quote(file.as_posix())}" for file in versions.values()]
    buttons = "".join(f'<button type="button" aria-pressed="false">{escape(title)}</button>' for title in versions)
    audios = "".join(f'<audio src="{url}" preload="auto"></audio>' for url in urls)
    name = escape([*versions.values()][-1].name)
    return (
        f'<div class="versions" role="group" aria-label="Listen to the versions">{audios}<p>{buttons}'
        f'<a href="{urls[-1]}" download="{name}">Download {name}</a></p>'
        f'<p><input type="range" min="0" max="{seconds:.3f}" step="0.01" value="0" aria-label="Position in seconds">'
        f"<output>0.0 s</output></p></div>"
    )
