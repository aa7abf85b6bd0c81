"""Shapes of EnCodec networks: those that are released, and each again in small for tests; what bandwidths mean.

The rest is as transformers' defaults, which are the released models'. Bandwidths are in kbit/s.
"""

from typing import Any, Literal

from transformers import EncodecConfig

from codecdiff.huggingface import known_shape

Size = Literal["24khz", "32khz", "48khz", "tiny-24khz", "tiny-32khz", "tiny-48khz"]

_RELEASED: dict[str, dict[str, Any]] = {
    "24khz": {
        "sampling_rate": 24000,
        "upsampling_ratios": [8, 5, 4, 2],
        "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
        "use_causal_conv": True,
    },
    "32khz": {
        "sampling_rate": 32000,
        "upsampling_ratios": [8, 5, 4, 4],
        "target_bandwidths": [2.2],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "num_filters": 64,
        "codebook_size": 2048,
    },
    "48khz": {
        "sampling_rate": 48000,
        "audio_channels": 2,
        "upsampling_ratios": [8, 5, 4, 2],
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "use_causal_conv": False,
        "norm_type": "time_group_norm",
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
    },
}


def _tiny(shape: dict[str, Any]) -> dict[str, Any]:
    """Give a shape again with small widths, codebooks of one size and the two narrowest bandwidths."""
    small = {"num_filters": 2, "hidden_size": 16, "codebook_size": 1024}
    return {**shape, **small, "target_bandwidths": shape["target_bandwidths"][:2]}


SHAPES: dict[str, dict[str, Any]] = {
    **_RELEASED,
    **{f"tiny-{size}": _tiny(shape) for size, shape in _RELEASED.items()},
}

RELEASED = {f"facebook/encodec_{size}": size for size in _RELEASED}


def shape_of(model: str, revision: str | None) -> EncodecConfig:
    """Give the shape of a model without a network: of a local folder, a released one, or one fetched before.

    Raises LookupError if it is none of these.
    """
    released = {name: SHAPES[size] for name, size in RELEASED.items()}
    return known_shape("EnCodec", model, revision, EncodecConfig, released)


def codebooks_at(config: EncodecConfig, bandwidth: float | None, model: str) -> int:
    """Give how many codebooks fill a bandwidth, all of them for None: each takes frame rate x bits of an entry.

    Raises ValueError, with the bandwidths of the model, for one that it was not trained for.
    """
    if bandwidth is None:
        return config.num_quantizers
    if bandwidth not in config.target_bandwidths:
        known = ", ".join(f"{known:g}" for known in config.target_bandwidths)
        raise ValueError(f"The EnCodec model {model!r} has no bandwidth of {bandwidth:g} kbit/s. It has: {known}.")
    return int(1000 * bandwidth // (config.frame_rate * config.codebook_nbits))
