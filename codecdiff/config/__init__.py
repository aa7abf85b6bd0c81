"""Configurations: parts by name and options, overrides of the command line, and the settings of an experiment."""

from codecdiff.config.overrides import load_config, override, parse_options, validate_config
from codecdiff.config.parts import (
    CodecSpec,
    ConditionerSpec,
    ConfigError,
    DenoiserSpec,
    EmbedderSpec,
    SplitterSpec,
    align_defaults,
    build,
    check_spec,
    merge_spec,
    part_options,
    to_config,
    with_defaults,
)
from codecdiff.config.schema import (
    Config,
    DataConfig,
    DiffusionConfig,
    ExperimentConfig,
    Guidance,
    SamplingConfig,
    TrainConfig,
)

__all__ = [
    "CodecSpec",
    "ConditionerSpec",
    "Config",
    "ConfigError",
    "DataConfig",
    "DenoiserSpec",
    "DiffusionConfig",
    "EmbedderSpec",
    "ExperimentConfig",
    "Guidance",
    "SamplingConfig",
    "SplitterSpec",
    "TrainConfig",
    "align_defaults",
    "build",
    "check_spec",
    "load_config",
    "merge_spec",
    "override",
    "parse_options",
    "part_options",
    "to_config",
    "validate_config",
    "with_defaults",
]
