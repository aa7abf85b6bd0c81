"""The laws of denoisers, on small U-Nets."""

from functools import partial
from typing import Any

import pytest
from codecdiff_unet import UNet

from codecdiff.testing import check_denoiser

TINY: dict[str, Any] = {
    "width": 16,
    "multipliers": (1, 2),
    "heads": 2,
    "head_dim": 8,
    "linear_heads": 2,
    "linear_head_dim": 4,
    "groups": 4,
}


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        pytest.param({"layers": ("linear", "text")}, {"text": 6, "vector": 5}, marks=pytest.mark.integration),
        ({"layers": ("none", "text"), "text_layers": 1, "vector": "text", "patch": 2}, {"text": 6}),
        pytest.param(
            {"layers": ("none",), "vector": "[text, key]", "waves": "beat", "frame_rate": 10.0},
            {"text": 6, "key": 5, "beat": 9},
            marks=pytest.mark.integration,
        ),
        (
            {"layers": ("none",), "vector": "text", "controls": ("chroma", "beats"), "patch": 2},
            {"text": 6, "chroma": 12, "beats": 3},
        ),
    ],
)
def test_unet_keeps_the_laws(options: dict[str, Any], widths: dict[str, int]):
    check_denoiser(partial(UNet, **TINY, **options), widths=widths)
