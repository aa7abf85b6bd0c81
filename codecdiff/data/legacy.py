"""What version 0.1 wrote, brought to the current format in memory: the only place that knows the old names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {"standardized": "normalized", "reduced": "pca", "numbers": "numeric"}  # names of codecs and conditioners
LOG_KEYS = {
    "held_out": "validation_loss",
    "held_out_baseline": "zero_predictor_loss",
    "held_out_ratio": "normalized_validation_loss",
}
STAGE_KEYS = {
    "scheduler": "train_scheduler",
    "sampler": "scheduler",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "spacing": "timestep_spacing",
    "stop_at": "final_timestep_fraction",
}
STAGE_DEFAULTS = {"timestep_spacing": "even", "final_timestep_fraction": 0.0, "noise_color": 0.0}  # absent at first
TRAINING_KEYS = {
    "warmup": "warmup_steps",
    "schedule": "lr_scheduler",
    "clip_norm": "max_grad_norm",
    "context_noise": "context_noise_std",
    "high_noise": "timestep_bias",
    "min_snr": "snr_gamma",
    "batch_size": "train_batch_size",
    "seconds": "crop_seconds",
}
DATA_KEYS = {"licences": "licenses", "licence_hours": "license_hours"}
GENERATION_KEYS = {
    "negative": "negative_prompt",
    "seed": "seed",
    "seconds": "audio_length_in_s",
    "take": "first_sample_index",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
}


def _renamed(mapping: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in mapping.items()}


def upgrade_part(spec: Any) -> Any:
    """Rename parts in the description of a part, and in those inside it."""
    if isinstance(spec, list):
        return [upgrade_part(each) for each in spec]
    if not isinstance(spec, Mapping):
        return spec
    options = {key: upgrade_part(value) for key, value in spec.items()}
    return {**options, "name": PARTS.get(str(spec["name"]), spec["name"])} if "name" in spec else options


def upgrade_store(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header of a store of version 0.1 in the current format."""
    return {**header, "codec": upgrade_part(header.get("codec")), "continuous": header.get("projections", False)}


def upgrade_rows(rows: Any) -> Any:
    """Return the table of rows of a store of version 0.1, whose first had no segments, in the current format."""
    import pyarrow as pa

    from codecdiff.data.shards import BASE_ROWS, in_memory

    if not rows.num_rows:  # it may have no columns either
        return in_memory(BASE_ROWS).empty_table()
    rows = rows.rename_columns(["license" if name == "licence" else name for name in rows.column_names])
    for name, value in {"split": "", "segment": 0, "offset": 0.0}.items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows


def upgrade_model(spec: Any) -> Any:
    """Return the contents of a codecdiff.json in the current format; of another version, unchanged."""
    if not isinstance(spec, Mapping) or spec.get("format") != 1:
        return spec
    upgraded = {**spec, "format": 2}
    upgraded |= {kind: upgrade_part(spec[kind]) for kind in ("codec", "conditioner") if kind in spec}
    if spec.get("target") == "projections":
        upgraded["target"] = "continuous"
    if isinstance(spec.get("data"), Mapping):
        upgraded["data"] = _renamed(spec["data"], DATA_KEYS)
    return upgraded


def upgrade_stage(spec: Any) -> Any:
    """Return the contents of a stage.json in the current format; of anything else, unchanged."""
    if not isinstance(spec, Mapping) or "sampler" not in spec:
        return spec
    if not all(isinstance(spec.get(key), Mapping) for key in ("training", "scheduler")):
        return spec
    upgraded = {**STAGE_DEFAULTS, **_renamed(spec, STAGE_KEYS), "training": _renamed(spec["training"], TRAINING_KEYS)}
    if isinstance(start := upgraded["training"].get("start_from"), Mapping):
        upgraded["training"]["start_from"] = _renamed(start, {"taken": "copied", "of": "total"})
    upgraded["train_scheduler"] = {"class": "DDPMScheduler", **upgraded["train_scheduler"]}
    return upgraded


def upgrade_log_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a training log with the current keys."""
    return _renamed(row, LOG_KEYS)


def upgrade_request(request: Any) -> Any:
    """Return the metadata of a generated audio file in the current format."""
    if not isinstance(request, Mapping) or not isinstance(request.get("generation", {}), Mapping):
        return request
    generation = {new: request[old] for old, new in GENERATION_KEYS.items() if old in request}
    others = {key: value for key, value in request.items() if key not in GENERATION_KEYS}
    return {**others, "generation": {"loudness": "off", **generation, **request.get("generation", {})}}
