"""Small real parts for the tests of the core: a DAC of random weights, a U-Net of some thousand parameters, words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import UNET, lively, write_music

from codecdiff import Codec, Pipeline, config
from codecdiff.codecs import NormalizedCodec
from codecdiff.config import SamplingConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.metadata import find_tracks
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.pipeline.stage import Stage
from codecdiff.testing.tiny import write_tiny


@pytest.fixture(scope="session")
def dac_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("codecdiff_dac")
    return write_tiny("dac", tmp_path_factory.mktemp("dac"))


@pytest.fixture(scope="session")
def codec_spec(dac_folder: Path) -> dict[str, Any]:
    return {"name": "dac", "model": str(dac_folder)}


@pytest.fixture(scope="session")
def dac(codec_spec: dict[str, Any]) -> Codec:
    return config.build("codecs", codec_spec)


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_music(tmp_path_factory.mktemp("music"))


@pytest.fixture(scope="session")
def store(dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path_factory: pytest.TempPathFactory) -> CodeStore:
    return encode_tracks(find_tracks(music), tmp_path_factory.mktemp("stores") / "store", dac, codec_spec)[0]


@pytest.fixture(scope="session")
def normalized(dac: Codec, store: CodeStore) -> NormalizedCodec:
    codec = NormalizedCodec(dac)
    codec.measure(store.latents(dac))
    return codec


@pytest.fixture(scope="session")
def make_pipeline(normalized: NormalizedCodec) -> Callable[..., Pipeline]:
    """Give a function that builds a pipeline of this pattern with untrained stages."""

    def make(splitter: Any = "coarse-first", conditioner: Any = "words", **options: Any) -> Pipeline:
        pattern = config.build("splitters", splitter, num_codebooks=normalized.num_codebooks, levels=normalized.levels)
        words = config.build("conditioners", conditioner) if conditioner else None
        pipeline = Pipeline(normalized, pattern, words, [], **options)
        spec = {**UNET, "layers": ["none", "text" if words else "none"]}
        for i, name in enumerate(pipeline.stage_names):
            denoiser = lively(pipeline.new_denoiser(i, spec))
            sampling = SamplingConfig(scheduler="dpm++2m", num_inference_steps=3, guidance_scale=2.0)
            pipeline.stages.append(Stage(name, denoiser, training_scheduler(num_train_timesteps=100), sampling))
        return pipeline

    return make
