"""What every shipped model generates from one prompt and seed: its codes, and how loud its audio is in bands.

`python tests/golden.py` writes golden.json again, after a model or its sampling was changed on purpose, and prints how
much has changed; `git log tests/golden.json` then says since when. tests/test_golden.py compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import codecdiff
from codecdiff import registry
from codecdiff.files import atomic_write_text

FILE = Path(__file__).with_suffix(".json")
PROMPT, SEED, SECONDS, STEPS = "a slow waltz for flute and piano", 7, 1.0, 2
BANDS, WINDOW, QUIET = 24, 1024, -100.0  # of the spectrum; samples; dB
OTHER_BACKEND = 0.02  # fraction of codes that another kind of processor may round to another


def shipped() -> list[str]:
    """Return the names of the models that installed packages contain."""
    return sorted(registry.entries("models"))


def golden(name: str) -> dict[str, Any]:
    """Return what a shipped model generates: codes (k, l), and the levels (bands, l') of its audio in dB."""
    with _one_thread(), torch.inference_mode():
        pipeline = codecdiff.load(name)
        options: Any = {"audio_length_in_s": SECONDS, "num_inference_steps": STEPS, "seed": SEED, "loudness": "off"}
        output = pipeline(PROMPT, **options)
        levels = band_levels(output.audios[0].mean(0))
    codes = [codes.tolist() for codes in output.codes[0]]
    backend = f"{pipeline.device.type} {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "backend": backend, "codes": codes, "levels": levels.tolist()}


def band_levels(audio: Tensor) -> Tensor:
    """(t,) -> the level in dB, to a tenth, of bands of equal width on a logarithmic scale, every quarter second."""
    spectrum = torch.stft(audio, WINDOW, window=torch.hann_window(WINDOW), return_complex=True).abs() ** 2
    edges = torch.logspace(0.5, torch.log10(torch.tensor(float(len(spectrum)))).item(), BANDS + 1).round().int()
    parts = spectrum.chunk(4, dim=1)
    bands = [[part[low : max(high, low + 1)].mean() for low, high in pairwise(edges.tolist())] for part in parts]
    return (10 * torch.tensor(bands).T.log10()).clamp(QUIET).mul(10).round() / 10


def drift(expected: dict[str, Any], result: dict[str, Any]) -> tuple[float, float]:
    """Return the fraction of codes that differ, 1 for other shapes, and the largest difference of levels in dB."""
    pairs = [(torch.tensor(expected[key]), torch.tensor(result[key])) for key in ("codes", "levels")]
    (codes, new_codes), (levels, new_levels) = pairs
    same_shape = codes.shape == new_codes.shape and levels.shape == new_levels.shape
    if not same_shape:
        return 1.0, float("inf")
    return float((codes != new_codes).float().mean()), float((levels - new_levels).abs().max())


@contextmanager
def _one_thread() -> Iterator[None]:
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def main() -> None:
    """Write golden.json, and print by how much each model has changed."""
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    results = {name: golden(name) for name in shipped()}
    for name, result in results.items():
        codes, decibels = drift(before[name], result) if name in before else (1.0, float("inf"))
        sys.stdout.write(f"{name}: {codes:.1%} of codes differ, levels by up to {decibels:.1f} dB\n")
    atomic_write_text(FILE, json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
