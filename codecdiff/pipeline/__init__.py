"""A trained model: its stages, its folder, editing, provenance and the hub."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecdiff.pipeline.checkpoint import load_stage, model_fingerprint, read_config, read_stage_config
    from codecdiff.pipeline.editing import (
        AnyEdit,
        Edit,
        EditMask,
        Extend,
        Inpaint,
        Refine,
        Restore,
        Vary,
        first_stage_mask,
        first_stages_mask,
        levels_mask,
        outside_mask,
        parse_levels,
    )
    from codecdiff.pipeline.hub import load, push_to_hub
    from codecdiff.pipeline.model_card import add_model_index, write_model_card
    from codecdiff.pipeline.pipeline import GenerationConfig, Pipeline
    from codecdiff.pipeline.provenance import GenerationRequest
    from codecdiff.pipeline.stage import Stage, stage_shapes

__all__ = [
    "AnyEdit",
    "Edit",
    "EditMask",
    "Extend",
    "GenerationConfig",
    "GenerationRequest",
    "Inpaint",
    "Pipeline",
    "Refine",
    "Restore",
    "Stage",
    "Vary",
    "add_model_index",
    "first_stage_mask",
    "first_stages_mask",
    "levels_mask",
    "load",
    "load_stage",
    "model_fingerprint",
    "outside_mask",
    "parse_levels",
    "push_to_hub",
    "read_config",
    "read_stage_config",
    "stage_shapes",
    "write_model_card",
]

_MODULES = {
    "checkpoint": (
        "load_stage",
        "model_fingerprint",
        "read_config",
        "read_stage_config",
    ),
    "editing": (
        "AnyEdit",
        "Edit",
        "EditMask",
        "Extend",
        "Inpaint",
        "Refine",
        "Restore",
        "Vary",
        "first_stage_mask",
        "first_stages_mask",
        "levels_mask",
        "outside_mask",
        "parse_levels",
    ),
    "hub": (
        "load",
        "push_to_hub",
    ),
    "model_card": (
        "add_model_index",
        "write_model_card",
    ),
    "pipeline": (
        "GenerationConfig",
        "Pipeline",
    ),
    "provenance": ("GenerationRequest",),
    "stage": (
        "Stage",
        "stage_shapes",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
