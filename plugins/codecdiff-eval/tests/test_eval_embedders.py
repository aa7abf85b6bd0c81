"""The embedders that need no download: checks, and equality with the features they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from codecdiff_eval.audio_features import window_features
from codecdiff_eval.embedders import CodecEmbedder, LogMel
from codecdiff_eval.embeddings import ClipEmbeddings
from small import noise

from codecdiff import Codec, config
from codecdiff.codecs import NormalizedCodec
from codecdiff.embedders import embed_blocks
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder


@pytest.fixture
def logmel() -> LogMel:
    return LogMel(sample_rate=8000)


@pytest.mark.parametrize("rate", [8000, 22_050])
def test_logmel_obeys_the_laws(rate: int) -> None:
    check_embedder(LogMel(sample_rate=rate))


@pytest.mark.integration
def test_a_codec_around_another_passes_the_checks(normalized: NormalizedCodec) -> None:
    check_embedder(CodecEmbedder(normalized))


def test_logmel_is_the_features_of_the_metrics(logmel: LogMel) -> None:
    audio = 0.3 * noise(2, 20_000)
    assert torch.equal(logmel.embed(audio), window_features(audio, 8000).float())
    assert LogMel().sample_rate == 44_100
    padded = torch.cat([audio[:, :3000], torch.zeros(2, 5000)], dim=1)
    assert torch.equal(logmel.embed(audio[:, :3000]), logmel.embed(padded))


def test_a_codec_s_vectors_are_moments_of_its_projections(dac: Codec) -> None:
    audio = 0.3 * noise(1, 2 * dac.sample_rate + 5)
    latents = dac.encode_continuous(audio[:, None, : dac.sample_rate])[0].flatten(0, 1)
    vectors = CodecEmbedder(dac).embed(audio)
    assert vectors.shape == (1, 2, 2 * dac.num_codebooks * dac.codebook_dim)
    expected = torch.cat([latents.mean(1), latents.std(1, correction=0)])
    torch.testing.assert_close(vectors[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_embedders_are_built_from_configurations(codec_spec: dict[str, Any]) -> None:
    embedder = config.build("embedders", {"name": "codec", "codec": {"name": "normalized", "codec": codec_spec}})
    spec = config.to_config("embedders", embedder)
    assert (spec["name"], spec["codec"]["name"], spec["codec"]["codec"]["model"]) == (
        "codec",
        "normalized",
        codec_spec["model"],
    )
    assert module_fingerprint(config.build("embedders", spec)) == module_fingerprint(embedder)
    assert config.to_config("embedders", config.build("embedders", "logmel")) == {
        "name": "logmel",
        "sample_rate": 44_100,
    }


def test_a_codec_that_is_not_fitted_says_so() -> None:
    codec = config.build("codecs", "starter")
    with pytest.raises(ValueError, match="has to be fitted"):
        CodecEmbedder(codec).embed(torch.zeros(1, 44_100))
    pytest.importorskip("librosa")
    benchmark = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "codec_quality.py"))
    with pytest.raises(SystemExit, match=r"starter has to be fitted .* use --model FOLDER"):
        benchmark["read_codec"](None, "starter", [])


@pytest.mark.parametrize("shape", [(8000,), (1, 2, 8000), (1, 0)])
def test_clips_of_another_shape_are_refused(logmel: LogMel, dac: Codec, shape: tuple[int, ...]) -> None:
    for embedder in (logmel, CodecEmbedder(dac)):
        with pytest.raises(ValueError, match=r"mono clips, \(b, t\)"):
            embedder.embed(torch.zeros(shape))


def test_blocks_of_log_mel_windows_are_those_of_the_whole(logmel: LogMel) -> None:
    blocks = [0.3 * noise(8000, seed=i) for i in range(50)]
    vectors = embed_blocks(iter(blocks), logmel, seconds=5)
    torch.testing.assert_close(vectors, logmel.embed(torch.cat(blocks)[None])[0])


def test_audio_in_memory_is_mixed_and_resampled(logmel: LogMel) -> None:
    audio = 0.3 * noise(10, 2, 16_000)
    vectors = ClipEmbeddings.of_audio(logmel, audio, 8000).grid()
    torch.testing.assert_close(vectors, logmel.embed(audio.mean(1)), rtol=1e-4, atol=1e-4)
    assert ClipEmbeddings.of_audio(logmel, audio, 16_000).grid().shape == (10, 1, 64)


def test_text_is_refused_with_an_embedder_that_reads_it(logmel: LogMel) -> None:
    with pytest.raises(TypeError, match=r"LogMel does not read text.*clap-music"):
        logmel.embed_text(["piano"])
