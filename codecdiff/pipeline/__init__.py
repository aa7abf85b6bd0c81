"""A trained model: its stages, its folder, editing, provenance and the hub."""

from typing import TYPE_CHECKING

from codecdiff import lazy_exports

if TYPE_CHECKING:
    from codecdiff.pipeline.adapters import parse_adapter
    from codecdiff.pipeline.cascade import GenerationInterrupted, NonFiniteLatents
    from codecdiff.pipeline.checkpoint import (
        FORMAT,
        MODEL_FILE,
        config_differences,
        load_stage,
        read_config,
        write_parts,
    )
    from codecdiff.pipeline.editing import (
        AnyEdit,
        Edit,
        EditMask,
        Extend,
        Inpaint,
        Refine,
        Restore,
        Vary,
        levels_mask,
        outside_mask,
        parse_levels,
    )
    from codecdiff.pipeline.generation import GenerationConfig, GenerationOptions
    from codecdiff.pipeline.hub import find_model, push_to_hub
    from codecdiff.pipeline.model_card import write_model_card
    from codecdiff.pipeline.output import PipelineOutput
    from codecdiff.pipeline.pipeline import Pipeline, load
    from codecdiff.pipeline.provenance import GenerationRequest
    from codecdiff.pipeline.stage import Stage, stage_shapes
    from codecdiff.pipeline.stage_folder import read_stage_config, write_stage_config

__all__ = [
    "FORMAT",
    "MODEL_FILE",
    "AnyEdit",
    "Edit",
    "EditMask",
    "Extend",
    "GenerationConfig",
    "GenerationInterrupted",
    "GenerationOptions",
    "GenerationRequest",
    "Inpaint",
    "NonFiniteLatents",
    "Pipeline",
    "PipelineOutput",
    "Refine",
    "Restore",
    "Stage",
    "Vary",
    "config_differences",
    "find_model",
    "levels_mask",
    "load",
    "load_stage",
    "outside_mask",
    "parse_adapter",
    "parse_levels",
    "push_to_hub",
    "read_config",
    "read_stage_config",
    "stage_shapes",
    "write_model_card",
    "write_parts",
    "write_stage_config",
]

__getattr__, __dir__ = lazy_exports(__name__)
