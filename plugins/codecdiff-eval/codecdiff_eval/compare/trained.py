"""Variants that are not trained: a model as it is, with adapters, and with options of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field

from codecdiff import config
from codecdiff.fingerprint import module_fingerprint
from codecdiff.pipeline import (
    GenerationConfig,
    Pipeline,
    find_model,
    parse_adapter,
    read_config,
    read_stage_config,
)

OF_THE_COMPARISON = {  # options that are the same for all variants, and what to do instead
    "audio_length_in_s": "set evaluation.seconds instead",
    "seed": "set evaluation.seed instead",
    "first_sample_index": "set evaluation.seed instead",
    "num_waveforms_per_prompt": "set evaluation.clips instead",
    "loudness": "leave it out, for clips are compared as they are decoded",
}


class TrainedModel(GenerationConfig):
    """What is set of a variant that is not trained, beside options of generation.

    model: a folder, an installed model or a hub id.
    adapters: FOLDER or FOLDER:WEIGHT each; an override `adapter=` adds one.
    controls: of evaluated tracks, which it is given; None for those of the comparison that it reads.
    allow_download, allow_local_parts: of `Pipeline.from_pretrained`.
    """

    model: str
    adapters: list[str] = Field(default_factory=list)
    controls: list[str] | None = None
    allow_download: bool = False
    allow_local_parts: bool = False

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> Self | None:
        """Return the model that the overrides of a variant name, as in [model=starter, quality=fast]; None if none.

        Raises ConfigError for what is not an option of generation, and for those that all variants have in common.
        """
        if not named_model(overrides):
            return None
        adapters = [each.removeprefix("adapter=") for each in overrides if each.startswith("adapter=")]
        options = [each for each in overrides if not each.startswith("adapter=")]
        try:
            data = config.override({"adapters": adapters}, cls, options)
        except config.ConfigError as error:
            raise config.ConfigError(f"{error} A variant with model=... is not trained, only sampled.") from error
        if common := sorted(OF_THE_COMPARISON.keys() & data.keys()):
            raise config.ConfigError(f"{common[0]} is the same for all variants: {OF_THE_COMPARISON[common[0]]}.")
        return cls.model_validate(data)

    def load(self, device: torch.device | str | None = None) -> Pipeline:
        """Return the model with its adapters, whose defaults are these options of generation."""
        allowed: Any = {"allow_download": self.allow_download, "allow_local_parts": self.allow_local_parts}
        pipeline = Pipeline.from_pretrained(self.model, device=device, **allowed)
        for adapter in self.adapters:
            pipeline.load_adapter(*parse_adapter(adapter))
        options: Any = self.model_dump(include=set(GenerationConfig.model_fields), exclude_unset=True)
        pipeline.generation_config = pipeline.generation_config.merge(**options)
        return pipeline


class IdentifiedModel(TrainedModel):
    """A trained model, and which one it is.

    fingerprint: of the model with its adapters.
    codec_fingerprint: of the weights of its codec.
    data_hash: of the music it was trained on; empty if that is not known.
    splits: the validation fraction and the seed of the split that each stage was trained with.
    """

    fingerprint: str
    codec_fingerprint: str
    data_hash: str = ""
    splits: list[tuple[float, int]] = Field(default_factory=list)

    @classmethod
    def of(cls, model: TrainedModel, pipeline: Pipeline) -> Self:
        """Identify a model by what was loaded."""
        facts = [stage.facts for stage in pipeline.stages]
        return cls(
            **model.model_dump(exclude_unset=True),
            fingerprint=pipeline.fingerprint or "",
            codec_fingerprint=module_fingerprint(getattr(pipeline.codec, "codec", pipeline.codec)),
            data_hash=str(pipeline.data.get("hash", "")),
            splits=[(each["validation_fraction"], each["split_seed"]) for each in facts if "split_seed" in each],
        )


def named_model(overrides: Sequence[str]) -> str:
    """Return the trained model that the overrides of a variant name; empty if there is none."""
    return next((each.removeprefix("model=") for each in map(str, overrides) if each.startswith("model=")), "")


def parts_of(model: str) -> dict[str, Any]:
    """Return the settings of an experiment that say what a model consists of; the denoiser is that of its first stage.

    Raises UserError if the model is not found or damaged.
    """
    folder = find_model(model)
    spec = read_config(folder)
    codec, parts = spec["codec"], {key: spec[key] for key in ("splitter", "conditioner", "target", "snap_context")}
    if codec["name"] == "normalized":
        codec, parts["normalize_latents"] = codec["codec"], codec["per"]
    return {**parts, "codec": codec, "denoiser": read_stage_config(folder / spec["stages"][0])["denoiser"]}
