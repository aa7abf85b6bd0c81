"""The base class of windowed embedders and the cache on disk: checks, equality with the whole, kills and resumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small import noise, tone, write_music

from codecdiff.data import CachedEmbedder, TrackEmbedding, embed_file
from codecdiff.data.audio import BadAudio, read_audio, stream_audio
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.embedders import Windowed, embed_blocks, embed_clips
from codecdiff.fingerprint import module_fingerprint
from codecdiff.testing import check_embedder


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


class Moments(Windowed):
    """Mean, mean power and largest difference of half-overlapped seconds at 8 kHz."""

    sample_rate, window_seconds, hop_seconds, width = 8000, 1.0, 0.5, 3

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        rows = windows.mean(1), windows.square().mean(1), windows.diff(dim=1).abs().amax(1)
        return torch.stack(rows, dim=1)


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
    ("part", "message"),
    [
        (Levelled, "depend on its batch"),
        (Rising, "context_seconds"),
        (Restless, "not always"),
        (Learning, "require a gradient"),
        (Logarithmic, "NaN or infinite"),
        (Guessing, "not deterministic"),
    ],
)
def test_the_checks_find_what_is_wrong(part: type[Loudness], message: str) -> None:
    check_embedder(Loudness())
    with pytest.raises(AssertionError, match=message):
        check_embedder(part())


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(44_100, 2, "wav"), (8000, 1, "flac"), (11_025, 2, "ogg")])
def test_a_file_in_blocks_is_the_file_at_once(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    file = tmp_path / f"clip.{suffix}"
    soundfile.write(file, np.stack([tone(3.3, 200 * (c + 1), rate) for c in range(channels)], axis=1), rate)
    at_once = read_audio(file, 8000, 1)[0]
    assert torch.equal(torch.cat(list(stream_audio(file, 8000, 1)), 1)[0], at_once)
    moments = Moments()
    torch.testing.assert_close(embed_file(file, moments), moments.embed(at_once[None])[0])


def test_one_sample_is_embedded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5, np.float32), 96_000)
    assert torch.cat(list(stream_audio(tmp_path / "one.wav", 8000, 1)), 1).shape == (1, 1)
    assert embed_file(tmp_path / "one.wav", Moments()).shape == (1, 3)


def test_a_long_file_is_embedded_in_bounded_memory() -> None:
    longest = 0

    class Watched(Moments):
        def embed(self, audio: torch.Tensor) -> torch.Tensor:
            nonlocal longest
            longest = max(longest, audio.shape[1])
            return super().embed(audio)

    blocks = [0.3 * noise(8000, seed=i) for i in range(50)]
    vectors = embed_blocks(iter(blocks), Watched(), seconds=5)
    assert longest < 8 * 8000
    torch.testing.assert_close(vectors, Moments().embed(torch.cat(blocks)[None])[0])


SPEC = {"name": "moments"}


def vectors_of(cache: CachedEmbedder, tracks: Sequence[Track]) -> dict[str, torch.Tensor]:
    """Read the vectors of tracks by name."""
    return {track.name: embedding.vectors for track, embedding in cache.read(tracks)}


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the batches that are embedded."""
    batches: list[int] = []
    embed = Moments.embed

    def counted(self: Moments, audio: torch.Tensor) -> torch.Tensor:
        batches.append(len(audio))
        return embed(self, audio)

    monkeypatch.setattr(Moments, "embed", counted)
    return batches


def test_embeddings_are_computed_once(tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks, cache, done = find_tracks(music), CachedEmbedder(Moments(), SPEC, tmp_path), []
    assert not vectors_of(cache, tracks)
    assert not cache.fill(tracks, done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    found = vectors_of(cache, tracks)
    assert list(found) == [track.name for track in tracks]
    for name, vectors in found.items():
        assert torch.equal(vectors, embed_file(music / name, Moments()))
    batches = counting(monkeypatch)
    again = CachedEmbedder(Moments(), SPEC, tmp_path)
    assert not again.fill(tracks)
    assert not batches
    assert all(torch.equal(vectors, found[name]) for name, vectors in vectors_of(again, tracks).items())
    assert list(vectors_of(again, tracks[2:3])) == ["2.wav"]


def test_the_configuration_says_all_that_vectors_follow_from(tmp_path: Path, music: Path) -> None:
    class Learned(Moments):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("weight", torch.tensor(value))

    one, other = (CachedEmbedder(Learned(value), SPEC, tmp_path) for value in (1.0, 2.0))
    assert one.config["weights"] == module_fingerprint(one.embedder) != other.config["weights"]
    assert (one.config["resampler"], one.config["mono"]) == ("soxr HQ", "mean of channels")
    assert (one.config["sample_rate"], one.config["window_seconds"], one.config["width"]) == (8000, 1.0, 3)
    one.fill(find_tracks(music))
    assert not vectors_of(other, find_tracks(music))  # vectors of another embedder are never mixed
    other.fill(find_tracks(music))
    assert len(list(tmp_path.glob("moments-*/config.json"))) == 2
    assert not vectors_of(CachedEmbedder(Learned(1.0), {**SPEC, "layer": 3}, tmp_path), find_tracks(music))


def test_a_run_that_is_killed_resumes(tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecdiff.data.embedding_cache.SHARD_TRACKS", 2)
    tracks, cache = find_tracks(music), CachedEmbedder(Moments(), SPEC, tmp_path / "e")

    def killed(count: int) -> None:
        if count == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(tracks, killed)
    assert len(list((cache.folder / "shards").iterdir())) == 3  # two full ones and the rest
    batches = counting(monkeypatch)
    resumed = CachedEmbedder(Moments(), SPEC, tmp_path / "e")
    resumed.fill(tracks)
    assert len(batches) == 1
    whole = CachedEmbedder(Moments(), SPEC, tmp_path / "whole")
    whole.fill(tracks)
    found = vectors_of(resumed, tracks)
    assert len(found) == 6
    assert all(torch.equal(vectors, found[name]) for name, vectors in vectors_of(whole, tracks).items())


def test_a_file_that_changed_is_embedded_again_and_one_that_moved_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_music(tmp_path / "music", count=2)
    cache = CachedEmbedder(Moments(), SPEC, tmp_path / "e")
    cache.fill(find_tracks(folder))
    old = vectors_of(cache, find_tracks(folder))
    soundfile.write(folder / "0.wav", tone(1.0, 999), 8000)  # as many bytes as before
    (folder / "1.wav").rename(folder / "2.wav")
    batches = counting(monkeypatch)
    cache.fill(find_tracks(folder))
    new = vectors_of(cache, find_tracks(folder))
    assert len(batches) == 1
    assert list(new) == ["0.wav", "2.wav"]
    assert torch.equal(new["2.wav"], old["1.wav"])
    assert torch.equal(new["0.wav"], embed_file(folder / "0.wav", Moments()))
    assert not torch.equal(new["0.wav"], old["0.wav"])


def test_a_file_is_known_by_its_size_and_date_without_reading_it(
    tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CachedEmbedder(Moments(), SPEC, tmp_path).fill(find_tracks(music))
    monkeypatch.setattr("codecdiff.data.embedding_cache.cached_checksum", pytest.fail)
    again = CachedEmbedder(Moments(), SPEC, tmp_path)
    assert not again.fill(find_tracks(music))
    assert len(vectors_of(again, find_tracks(music))) == 6


def test_two_processes_may_write_at_once(tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = find_tracks(music)
    one, other = (CachedEmbedder(Moments(), SPEC, tmp_path) for _ in range(2))
    one.fill(tracks[:4])
    other.fill(tracks[4:])
    batches = counting(monkeypatch)
    assert not one.fill(tracks)  # what the other wrote meanwhile is found
    assert not batches
    assert len(vectors_of(one, tracks)) == 6


def test_a_damaged_shard_is_named(tmp_path: Path, music: Path) -> None:
    cache = CachedEmbedder(Moments(), SPEC, tmp_path)
    cache.fill(find_tracks(music))
    (shard,) = (cache.folder / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"safetensors' is damaged: .*Delete it, then fetch or make it again"):
        CachedEmbedder(Moments(), SPEC, tmp_path).fill(find_tracks(music))


def test_bad_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = write_music(tmp_path / "music", count=2)
    (folder / "bad.mp3").write_text("no music")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    tracks, cache = (
        [*find_tracks(folder), Track(folder / "gone.wav", "gone.wav")],
        CachedEmbedder(Moments(), SPEC, tmp_path),
    )
    for _ in range(2):  # they are named again by the next run
        skipped = cache.fill(tracks)
        assert set(vectors_of(cache, tracks)) == {"0.wav", "1.wav"}
        assert len(skipped) == 4
        for name, line in zip(("bad.mp3", "empty.wav", "gone.wav", "nan.wav"), sorted(skipped), strict=True):
            assert name in line
    with pytest.raises(BadAudio, match=r"nan\.wav"):
        embed_file(folder / "nan.wav", Moments())


class Halves:
    """Cuts a track into clips of half a second."""

    def __repr__(self) -> str:
        return "Halves"

    def clips(self, track: Track, sample_rate: int) -> list[tuple[float, torch.Tensor]]:
        audio = read_audio(track.file, sample_rate, 1)[0]
        return [
            (0.5 * i, clip) for i, clip in enumerate(audio.split(sample_rate // 2)) if len(clip) == sample_rate // 2
        ]


def test_clips_of_several_tracks_share_batches_and_are_kept_by_track(
    tmp_path: Path, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks, batches = find_tracks(music), counting(monkeypatch)
    cache = CachedEmbedder(Moments(), SPEC, tmp_path, Halves())
    cache.fill(tracks)
    assert batches == [8, 5]  # two or three clips of each of six tracks
    for track, embedding in cache.read(tracks):
        clips = Halves().clips(track, 8000)
        found = list(embed_clips(Moments(), ((start, clip) for start, clip in clips)))
        assert isinstance(embedding, TrackEmbedding)
        assert list(embedding.starts) == [start for start, _, _ in found]
        assert list(embedding.hashes) == [digest for _, digest, _ in found]
        assert list(embedding.lengths) == [1] * len(found)
        torch.testing.assert_close(embedding.vectors, torch.cat([vectors for _, _, vectors in found]))
    assert not vectors_of(CachedEmbedder(Moments(), SPEC, tmp_path), tracks)  # whole tracks are another thing
