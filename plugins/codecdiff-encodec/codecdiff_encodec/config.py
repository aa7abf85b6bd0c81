"""Sizes of EnCodec: the released models, and each again tiny for tests; and what bandwidths mean.

Everything else is as transformers' defaults, which are the released models'. Bandwidths are in kbit/s.
"""

from typing import Any

from transformers import EncodecConfig, EncodecModel

from codecdiff.errors import InvalidValue
from codecdiff.huggingface import PretrainedModels

SIZES: dict[str, dict[str, Any]] = {
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

MODELS = PretrainedModels(
    "EnCodec", EncodecModel, {f"facebook/encodec_{size}": config for size, config in SIZES.items()}
)


def tiny(size: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Describe an EnCodec of random weights: a released size, or `tiny-24khz` (`tiny`), `tiny-32khz`, `tiny-48khz`.

    A tiny one has small widths, codebooks of one size and the two narrowest bandwidths.
    """
    config = dict(SIZES["24khz" if size == "tiny" else size.removeprefix("tiny-")])
    if size.startswith("tiny"):
        config |= {"num_filters": 2, "hidden_size": 16, "codebook_size": 1024}
        config["target_bandwidths"] = config["target_bandwidths"][:2]
    network = EncodecModel(EncodecConfig(**{**config, **changes}))
    return {"network": network, "gains": {"encoder": 1.3, "decoder": 0.8}}  # an ELU halves signals again


def codebooks_at(config: EncodecConfig, bandwidth: float | None, model: str) -> int:
    """Return how many codebooks fill a bandwidth, all for None: each takes frame rate x bits of a code.

    Raises ValueError, with the bandwidths of the model, for one that it was not trained for.
    """
    if bandwidth is None:
        return config.num_quantizers
    if bandwidth not in config.target_bandwidths:
        available = ", ".join(f"{each:g}" for each in config.target_bandwidths)
        raise InvalidValue(
            f"The EnCodec model {model!r} has no bandwidth of {bandwidth:g} kbit/s. It has: {available}."
        )
    return int(1000 * bandwidth // (config.frame_rate * config.codebook_nbits))
