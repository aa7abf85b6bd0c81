"""The embedders of the core, and embeddings of files: laws, equality with the features they are, kills and resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small import noise, tone, write_music

from codecdiff import Codec, config
from codecdiff.codecs import NormalizedCodec
from codecdiff.data.audio import BadAudio, Track, find_tracks, read_audio, stream_audio
from codecdiff.data.code_store import fingerprint
from codecdiff.embedders import CodecEmbedder, LogMel, Windowed
from codecdiff.embeddings import Embeddings, embed_blocks, embed_file, embed_tracks, open_embeddings
from codecdiff.files import alone
from codecdiff.metrics import window_features
from codecdiff.testing import check_embedder

SPEC = {"name": "logmel", "sample_rate": 8000}


@pytest.fixture
def logmel() -> LogMel:
    return LogMel(sample_rate=8000)


@pytest.mark.parametrize("rate", [8000, 22_050])
def test_logmel_obeys_the_laws(rate: int) -> None:
    check_embedder(LogMel(sample_rate=rate))


@pytest.mark.integration
def test_a_codec_around_another_obeys_the_laws(standardized: NormalizedCodec) -> None:
    check_embedder(CodecEmbedder(standardized))


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


def test_embedders_are_built_from_configurations(codec_spec: dict) -> None:
    embedder = config.build("embedders", {"name": "codec", "codec": {"name": "normalized", "codec": codec_spec}})
    spec = config.to_config("embedders", embedder)
    assert (spec["name"], spec["codec"]["name"], spec["codec"]["codec"]["model"]) == (
        "codec",
        "normalized",
        codec_spec["model"],
    )
    assert fingerprint(config.build("embedders", spec)) == fingerprint(embedder)
    assert config.to_config("embedders", config.build("embedders", "logmel")) == {
        "name": "logmel",
        "sample_rate": 44_100,
    }


def test_a_codec_that_is_not_fitted_says_so() -> None:
    codec = config.build("codecs", "starter")
    with pytest.raises(ValueError, match="has to be fitted"):
        CodecEmbedder(codec).embed(torch.zeros(1, 44_100))


@pytest.mark.parametrize("shape", [(8000,), (1, 2, 8000), (1, 0)])
def test_clips_of_another_shape_are_refused(logmel: LogMel, dac: Codec, shape: tuple[int, ...]) -> None:
    for embedder in (logmel, CodecEmbedder(dac)):
        with pytest.raises(ValueError, match=r"mono clips, \(b, t\)"):
            embedder.embed(torch.zeros(shape))


class Loudness(Windowed):
    """The mean power of half-overlapped windows of ten samples, and the number of samples that are not silent."""

    sample_rate, window_seconds, hop_seconds, width = 10, 1.0, 0.5, 2

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([windows.square().mean(1), (windows != 0).sum(1).float()], dim=1)


@pytest.mark.parametrize(("keeps_rest", "counts"), [(False, [10, 10]), (True, [10, 10, 8])])
def test_what_is_behind_the_last_window_is_heard_only_where_it_is_kept(keeps_rest: bool, counts: list[int]) -> None:
    loudness = Loudness()
    loudness.keeps_rest = keeps_rest
    audio = torch.ones(1, 18)
    assert loudness.embed(audio)[0, :, 1].tolist() == counts
    assert loudness.embed(audio[:, :7])[0, :, 1].tolist() == [7]
    pieces = embed_blocks(torch.ones(18).split(4), loudness, seconds=0.5)
    assert pieces[:, 1].tolist() == counts


class Levelled(Loudness):
    """Wrong: a clip is divided by the loudest of its batch."""

    def embed(self, audio: torch.Tensor) -> torch.Tensor:
        return super().embed(audio / audio.abs().max().clamp(min=1e-6))


class Rising(Loudness):
    """Wrong: a vector depends on the windows before it, and no halo says so."""

    def embed(self, audio: torch.Tensor) -> torch.Tensor:
        return super().embed(audio).cumsum(1)


class Restless(Loudness):
    """Wrong: silence has fewer windows."""

    def embed(self, audio: torch.Tensor) -> torch.Tensor:
        return super().embed(audio if audio.any() else audio[:, :10])


class Learning(Loudness):
    """Wrong: it can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))


class Logarithmic(Loudness):
    """Wrong: silence is minus infinity."""

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        return super().embed_windows(windows).log()


class Guessing(Loudness):
    """Wrong: it rolls dice."""

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        return super().embed_windows(windows) + torch.rand(1)


@pytest.mark.parametrize(
    ("part", "law"),
    [
        (Levelled, "depend on its batch"),
        (Rising, "halo_seconds"),
        (Restless, "whatever is heard"),
        (Learning, "require a gradient"),
        (Logarithmic, "NaN or infinite"),
        (Guessing, "not deterministic"),
    ],
)
def test_the_laws_find_what_is_wrong(part: type[Loudness], law: str) -> None:
    check_embedder(Loudness())
    with pytest.raises(AssertionError, match=law):
        check_embedder(part())


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(44_100, 2, "wav"), (8000, 1, "flac"), (11_025, 2, "ogg")])
def test_a_file_in_blocks_is_the_file_at_once(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    file = tmp_path / f"clip.{suffix}"
    soundfile.write(file, np.stack([tone(3.3, 200 * (c + 1), rate) for c in range(channels)], axis=1), rate)
    at_once = read_audio(file, 8000, 1)[0]
    assert torch.equal(torch.cat(list(stream_audio(file, 8000, 1)), 1)[0], at_once)
    logmel = LogMel(sample_rate=8000)
    torch.testing.assert_close(embed_file(file, logmel), logmel.embed(at_once[None])[0])


def test_one_sample_is_heard(tmp_path: Path, logmel: LogMel) -> None:
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5, np.float32), 96_000)
    assert torch.cat(list(stream_audio(tmp_path / "one.wav", 8000, 1)), 1).shape == (1, 1)
    assert embed_file(tmp_path / "one.wav", logmel).shape == (1, 64)


def test_a_long_file_is_embedded_in_bounded_memory(logmel: LogMel) -> None:
    longest = 0

    class Watched(LogMel):
        def embed(self, audio: torch.Tensor) -> torch.Tensor:
            nonlocal longest
            longest = max(longest, audio.shape[1])
            return super().embed(audio)

    blocks = [0.3 * noise(8000, seed=i) for i in range(50)]
    vectors = embed_blocks(iter(blocks), Watched(sample_rate=8000), seconds=5)
    assert longest < 8 * 8000
    torch.testing.assert_close(vectors, logmel.embed(torch.cat(blocks)[None])[0])


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the windows that logmel embeds."""
    heard: list[int] = []
    embed = LogMel.embed

    def counted(self: LogMel, audio: torch.Tensor) -> torch.Tensor:
        heard.append(audio.shape[1])
        return embed(self, audio)

    monkeypatch.setattr(LogMel, "embed", counted)
    return heard


def test_embeddings_are_kept_and_heard_once(
    tmp_path: Path, logmel: LogMel, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = find_tracks(music)
    embeddings, skipped = embed_tracks(tracks, tmp_path / "e", logmel, SPEC)
    assert not skipped
    assert len(embeddings) == 6
    for name, vectors in Embeddings(tmp_path / "e").vectors():
        assert torch.equal(vectors, embed_file(music / name, logmel))
        assert embeddings.rows[name]["windows"] == len(vectors)
        assert embeddings.rows[name]["seconds"] == pytest.approx(1 + 0.1 * int(name[0]))
    heard = counting(monkeypatch)
    embed_tracks(tracks, tmp_path / "e", logmel, SPEC)
    assert not heard
    assert [name for name, _ in embeddings.vectors({"2.wav"})] == ["2.wav"]


def test_the_header_says_all_that_vectors_follow_from(tmp_path: Path, dac: Codec) -> None:
    embedder = CodecEmbedder(dac)
    header = open_embeddings(tmp_path / "e", embedder, {"name": "codec"}).header
    assert header["weights"] == fingerprint(embedder)
    assert (header["resampler"], header["mono"]) == ("soxr HQ", "mean of channels")
    assert (header["sample_rate"], header["window_seconds"], header["width"]) == (dac.sample_rate, 1.0, embedder.width)


def test_a_run_that_is_killed_goes_on(
    tmp_path: Path, logmel: LogMel, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecdiff.embeddings.SHARD_TRACKS", 2)
    tracks = find_tracks(music)

    def killed(count: int) -> None:
        if count == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_tracks(tracks, tmp_path / "e", logmel, SPEC, progress=killed)
    assert len(list((tmp_path / "e" / "shards").iterdir())) == 3  # two full ones and what was held
    heard = counting(monkeypatch)
    embeddings, _ = embed_tracks(tracks, tmp_path / "e", logmel, SPEC)
    assert len(heard) == 1
    assert {name for name, _ in embeddings.vectors()} == {track.name for track in tracks}
    whole, _ = embed_tracks(tracks, tmp_path / "whole", logmel, SPEC)
    resumed = dict(embeddings.vectors())
    assert all(torch.equal(vectors, resumed[name]) for name, vectors in whole.vectors())


def test_a_file_that_changed_is_heard_again_and_one_that_moved_is_not(
    tmp_path: Path, logmel: LogMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_music(tmp_path / "music", count=2)
    before, _ = embed_tracks(find_tracks(folder), tmp_path / "e", logmel, SPEC)
    old = dict(before.vectors())
    soundfile.write(folder / "0.wav", tone(1.0, 999), 8000)  # as many bytes as before
    (folder / "1.wav").touch()
    heard = counting(monkeypatch)
    after, _ = embed_tracks(find_tracks(folder), tmp_path / "e", logmel, SPEC)
    new = dict(after.vectors())
    assert len(heard) == 1
    assert len(after) == 2
    assert torch.equal(new["1.wav"], old["1.wav"])
    assert torch.equal(new["0.wav"], embed_file(folder / "0.wav", logmel))
    assert not torch.equal(new["0.wav"], old["0.wav"])
    assert len(list(Embeddings(tmp_path / "e").vectors())) == 2


def test_one_process_writes_at_a_time(tmp_path: Path, logmel: LogMel, music: Path) -> None:
    with alone(tmp_path / "e"), pytest.raises(OSError, match=r"e' is being written by another run"):
        embed_tracks(find_tracks(music), tmp_path / "e", logmel, SPEC)
    assert len(embed_tracks(find_tracks(music), tmp_path / "e", logmel, SPEC)[0]) == len(find_tracks(music))


def test_embeddings_of_another_embedder_are_refused(tmp_path: Path, logmel: LogMel, music: Path) -> None:
    tracks = find_tracks(music)
    embed_tracks(tracks, tmp_path / "e", logmel, SPEC)
    with pytest.raises(ValueError, match=r"made otherwise: its embedder is .*8000.* not .*16000"):
        embed_tracks(tracks, tmp_path / "e", LogMel(sample_rate=16_000), {"name": "logmel", "sample_rate": 16_000})
    open_embeddings(tmp_path / "empty", LogMel(), {"name": "logmel"})
    assert open_embeddings(tmp_path / "empty", logmel, SPEC).header["embedder"] == SPEC
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no embeddings"):
        open_embeddings(tmp_path / "other", logmel, SPEC)
    with pytest.raises(FileNotFoundError, match="holds no embeddings"):
        Embeddings(tmp_path / "none")


def test_bad_files_are_named_and_the_rest_goes_on(tmp_path: Path, logmel: LogMel) -> None:
    folder = write_music(tmp_path / "music", count=2)
    (folder / "bad.mp3").write_text("no music")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    gone = Track(folder / "gone.wav", "gone.wav")
    embeddings, skipped = embed_tracks([*find_tracks(folder), gone], tmp_path / "e", logmel, SPEC)
    assert set(embeddings.rows) == {"0.wav", "1.wav"}
    for name, line in zip(("bad.mp3", "empty.wav", "nan.wav", "gone.wav"), skipped, strict=True):
        assert name in line
    with pytest.raises(BadAudio, match=r"nan\.wav"):
        embed_file(folder / "nan.wav", logmel)


def test_text_is_refused_with_an_embedder_that_reads_it(logmel: LogMel) -> None:
    with pytest.raises(TypeError, match=r"LogMel does not read text.*clap-music"):
        logmel.embed_text(["piano"])
