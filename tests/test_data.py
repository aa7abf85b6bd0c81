"""Audio files and captions in, exact codes in the store, and crops that are functions of a seed alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from small import RATE, tone, write_music

from codecdiff import Codec, config
from codecdiff.codecs import ChunkedCodec, CodecWrapper, PCACodec, StereoCodec
from codecdiff.data.audio import BadAudio, read_audio, write_audio
from codecdiff.data.audio_prompt import audio_prompt_key, load_audio_prompt
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import TrainingCrops, dropped_conditions, split_tracks
from codecdiff.data.encoding.encode import encode_tracks, open_store
from codecdiff.data.encoding.job import EncodeConfig, fitting_clips
from codecdiff.data.metadata import find_tracks
from codecdiff.data.segments import SegmentConfig
from codecdiff.data.shards import ROWS
from codecdiff.files import checksum
from codecdiff.fingerprint import module_fingerprint
from codecdiff.rng import numpy_generator


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_format_and_rate_is_read(tmp_path: Path, suffix: str, rate: int) -> None:
    file = tmp_path / f"a.{suffix}"
    soundfile.write(file, tone(1.0, 440, rate), rate)
    audio = read_audio(file, RATE, 1)
    assert audio.dtype == torch.float32
    assert audio.shape[0] == 1
    assert abs(audio.shape[1] - RATE) < 0.02 * RATE
    heard = audio[0, : RATE // 2].numpy()
    correlation = np.corrcoef(heard, tone(1.0, 440)[: len(heard)])[0, 1]
    assert correlation > 0.9


def test_channels_are_mixed_down_or_repeated(tmp_path: Path) -> None:
    left, right = tone(0.1, 440), tone(0.1, 300)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", left, RATE, subtype="FLOAT")
    both = torch.from_numpy(np.stack([left, right]))
    torch.testing.assert_close(read_audio(tmp_path / "stereo.wav", RATE, 2), both)
    torch.testing.assert_close(read_audio(tmp_path / "stereo.wav", RATE, 1), both.mean(0, keepdim=True))
    torch.testing.assert_close(read_audio(tmp_path / "mono.wav", RATE, 2), both[:1].repeat(2, 1))


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_one_sample_is_audio(tmp_path: Path, rate: int, dac: Codec) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), rate)
    audio = read_audio(tmp_path / "a.wav", RATE, 1)
    assert audio.shape == (1, 1)
    assert dac.encode(audio[None]).shape[-1] == 1


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([3.0, -3.0, 0.25]), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav", RATE, 1).tolist() == [[1.0, -1.0, 0.25]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan.wav", "holds NaN or infinite samples"),
        ("inf.wav", "holds NaN or infinite samples"),
        ("empty.wav", "holds no samples"),
        ("text.mp3", "cannot be read as audio: .*[^.]\\.$"),
        ("bytes.wav", "cannot be read as audio"),
        ("nothing.wav", "cannot be read as audio"),
        ("absent.wav", "cannot be read as audio"),
        *((f"cut.{suffix}", "cut short|cannot be read as audio") for suffix in ("wav", "flac", "ogg", "mp3")),
    ],
)
def test_what_is_not_whole_audio_is_refused_by_name(bad: Path, name: str, message: str) -> None:
    with pytest.raises(BadAudio, match=rf"{name}'.*({message})"):
        read_audio(bad / name, RATE, 1)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan]), RATE, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.1, np.inf]), RATE, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    (folder / "text.mp3").write_text("This is no music, but a text of some length.\n" * 40)
    (folder / "bytes.wav").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "nothing.wav").write_bytes(b"")
    for suffix in ("wav", "flac", "ogg", "mp3"):
        file = folder / f"cut.{suffix}"
        soundfile.write(file, tone(4.0, 440, 44100), 44100)
        file.write_bytes(file.read_bytes()[: int(0.6 * file.stat().st_size)])
    return folder


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match=r"holds no audio\. Files that are read: \.wav, \.flac"):
        find_tracks(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_tracks(tmp_path / "nowhere")


def captions(folder: Path) -> dict[str, tuple[str, ...]]:
    return {track.name: track.captions for track in find_tracks(folder, lambda issue: None)}


def silent(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(8), RATE)


def test_captions_come_from_jsonl(tmp_path: Path) -> None:
    silent(tmp_path, "a.wav", "sub/b.wav", "sub/c.wav")
    rows: list[Any] = [
        {"file_name": "a.wav", "text": " one ", "license": "CC0", "key": "G"},
        {"file_name": "./sub/b.wav", "caption": "two", "captions": ["three", "two", ""]},
        {"file_name": "/elsewhere/x.wav", "text": "not ours"},
        {"file_name": "gone.wav", "text": "not there"},
        {"text": "no name"},
        "not a row",
    ]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    (tmp_path / "sub" / "metadata.jsonl").write_text(json.dumps({"file_name": "c.wav", "text": "four"}))
    assert captions(tmp_path) == {"a.wav": ("one",), "sub/b.wav": ("two", "three"), "sub/c.wav": ("four",)}
    assert find_tracks(tmp_path, lambda issue: None)[0].metadata == {"license": "CC0", "key": "G"}


def test_captions_come_from_csv_from_text_files_or_not_at_all(tmp_path: Path) -> None:
    silent(tmp_path, "a.wav", "b.wav", "c.wav")
    with (tmp_path / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file_name", "text"], ["a.wav", 'a "quoted", one'], ["c.wav", ""]])
    (tmp_path / "b.txt").write_text("first\n\n  second  \nfirst\n")
    assert captions(tmp_path) == {"a.wav": ('a "quoted", one',), "b.wav": ("first", "second"), "c.wav": ()}


def test_metadata_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    silent(tmp_path, "a.wav")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav"}\n{"file_name": \n')
    with pytest.warns(UserWarning, match=r"metadata\.jsonl, line 2: It is not valid JSON"):
        assert len(find_tracks(tmp_path)) == 1


def test_audio_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = torch.zeros(1, 8)
    with pytest.raises(ValueError, match=r"unknown audio format.*Use \.wav, \.flac"):
        write_audio(tmp_path / "a.xyz", audio, RATE)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_audio(tmp_path / "file" / "a.wav", audio, RATE)
    write_audio(tmp_path / "a.wav", audio + 0.5, RATE)

    def fail(*_: Any) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(OSError, match=r"a\.wav' cannot be written"):
        write_audio(tmp_path / "a.wav", audio, RATE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.wav", "file"]
    assert read_audio(tmp_path / "a.wav", RATE, 1).mean() > 0.4


def test_the_store_holds_exactly_the_codes(store: CodeStore, music: Path, dac: Codec) -> None:
    assert len(store) == 6
    for i, track in enumerate(find_tracks(music)):
        codes = dac.encode(read_audio(track.file, dac.sample_rate, 1)[None])[0].T
        assert store.codes(i).dtype == np.uint16
        assert np.array_equal(store.codes(i), codes)
        assert store.captions(i) == [f"tone {i}"]
        assert store.rows[i]["seconds"] == pytest.approx(1 + 0.1 * i)
    for latents, i in zip(store.latents(dac), range(6), strict=True):
        assert torch.equal(dac.quantize(latents)[0].T, torch.from_numpy(store.codes(i).astype(np.int64)))
    assert store.frames == sum(len(store.codes(i)) for i in range(6))
    hours = pytest.approx(7.5 / 3600, abs=1e-3)
    assert store.summary() == {"tracks": 6, "hours": hours, "licenses": ["CC0"], "license_hours": {"CC0": hours}}


def test_shards_are_cut_between_tracks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, music: Path, dac: Codec, store: CodeStore
) -> None:
    monkeypatch.setattr("codecdiff.data.encoding.job.SHARD_FRAMES", 500)
    small, _ = encode_tracks(find_tracks(music), tmp_path / "store", dac, {})
    assert small.header["shards"] == 4
    assert all(np.array_equal(small.codes(i), store.codes(i)) for i in range(6))


def test_what_a_killed_process_left_of_a_draft_is_deleted_when_its_store_is_opened(
    tmp_path: Path, music: Path, dac: Codec
) -> None:
    folder = tmp_path / "store"
    open_store(folder, music, dac, {"name": "dac"})
    whole = sorted(tmp_path.rglob("*"))
    (folder / "tasks").mkdir()
    for leftover in (folder / "tasks/00000.parquet", folder / "plan.json", tmp_path / "..store.part.lock"):
        leftover.touch()
    assert len(open_store(folder, None, dac, {"name": "dac"})) == 6
    assert sorted(tmp_path.rglob("*")) == whole
    (tmp_path / "..store.part.lock").touch()
    open_store(folder, None, dac, {"name": "dac"})
    assert sorted(tmp_path.rglob("*")) == whole


def test_a_store_is_made_once_and_opened_again(tmp_path: Path, music: Path, dac: Codec) -> None:
    made = open_store(tmp_path / "store", music, dac, {"name": "dac"})
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*")}
    again = open_store(tmp_path / "store", music, dac, {"name": "dac"})
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*")}
    assert made.rows == again.rows == open_store(tmp_path / "store", None, dac, {"name": "dac"}).rows
    said: list[str] = []
    elsewhere = open_store(tmp_path / "store", tmp_path / "gone", dac, {"name": "dac"}, report=said.append)
    assert (elsewhere.rows, elsewhere.audio) == (made.rows, None)
    assert said == [
        f"'{tmp_path / 'gone'}' does not exist: '{tmp_path / 'store'}' is used without comparing it with its music."
    ]


def test_a_store_from_before_an_option_existed_is_of_the_same_codec(store: CodeStore, dac: Codec) -> None:
    spec = config.to_config("codecs", dac)
    assert spec.keys() > store.header["codec"].keys()
    store.check_codec(dac, spec)
    with pytest.raises(ValueError, match=r"its codec is .*'transformers'.*, not .*'descript'"):
        store.check_codec(dac, spec | {"backend": "descript"})


def test_a_store_of_another_codec_is_refused(store: CodeStore, dac: Codec, codec_spec: dict[str, Any]) -> None:
    store.check_codec(dac, codec_spec)
    with pytest.raises(ValueError, match=r"made by another codec: its codec is .*Choose another store or"):
        store.check_codec(dac, {"name": "starter"})
    other = CodecWrapper(dac)
    other.register_buffer("more", torch.ones(3))
    with pytest.raises(ValueError, match=r"made by 'dac' with other weights \(\w{6}\.\.\., now"):
        store.check_codec(other, codec_spec)


def test_codes_are_shared_by_all_that_leaves_them_as_they_are(
    store: CodeStore, dac: Codec, codec_spec: dict[str, Any]
) -> None:
    reduced = {"name": "pca", "dims": 3, "codec": codec_spec}
    for codec, spec in (
        (PCACodec(dac, 3), reduced),
        (ChunkedCodec(PCACodec(dac, 3)), {"name": "chunked", "frames": 512, "codec": reduced}),
    ):
        store.check_codec(codec, spec)
        assert next(iter(store.latents(codec))).shape[:3] == (1, 4, 3)
    for codec, spec in (
        (StereoCodec(dac), {"name": "stereo", "codec": codec_spec}),
        (PCACodec(StereoCodec(dac), 3), {**reduced, "codec": {"name": "stereo", "codec": codec_spec}}),
    ):
        with pytest.raises(ValueError, match="made by another codec: its codec is"):
            store.check_codec(codec, spec)
    with pytest.raises(ValueError, match="holds no latents before quantization"):
        store.check_codec(PCACodec(dac, 3), reduced, "continuous")


def test_a_store_of_other_files_is_refused(store: CodeStore, dac: Codec, codec_spec: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"made from other files or captions: .* more differ\. Choose another output="):
        open_store(store.folder, write_music(tmp_path, 2), dac, codec_spec)


def test_a_store_whose_captions_were_corrected_since_is_refused(tmp_path: Path, dac: Codec) -> None:
    music = write_music(tmp_path / "music", 2)
    open_store(tmp_path / "store", music, dac, {})
    table = music / "metadata.jsonl"
    table.write_text(table.read_text().replace("tone 1", "a better caption"))
    with pytest.raises(ValueError, match=r"other files or captions: 1\.wav"):
        open_store(tmp_path / "store", music, dac, {})


def test_a_store_whose_music_was_replaced_since_is_refused(tmp_path: Path, dac: Codec) -> None:
    music = write_music(tmp_path / "music", 2)
    open_store(tmp_path / "store", music, dac, {})
    for file in (first := music / "0.wav", music / "1.wav"):  # copied: other times, but the same music
        shutil.copy(file, tmp_path / "copy.wav")
        (tmp_path / "copy.wav").replace(file)
    open_store(tmp_path / "store", music, dac, {})
    status, contents = first.stat(), first.read_bytes()
    first.write_bytes(contents[:-2] + bytes(each ^ 1 for each in contents[-2:]))
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync does
    with pytest.raises(ValueError, match=r"other files or captions: 0\.wav and 0 more"):
        open_store(tmp_path / "store", music, dac, {})
    first.write_bytes(contents)
    open_store(tmp_path / "store", music, dac, {})


def test_what_is_no_store_is_refused(tmp_path: Path, dac: Codec, music: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a store of codes\. Make one from .*: codecdiff encode"):
        CodeStore(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"The store .* does not exist.*data\.audio is not set"):
        open_store(tmp_path / "store", None, dac, {})
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not a store of codes"):
        encode_tracks(find_tracks(music), tmp_path, dac, {})
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_store_of_version_0_1_is_read(dac: Codec, music: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", music, dac, {}, target="continuous")
    latents = [store.continuous(i).copy() for i in range(len(store))]
    table = pq.read_table(store.folder / "manifest.parquet")
    names = [{"license": "licence"}.get(name, name) for name in table.column_names]
    pq.write_table(table.rename_columns(names), store.folder / "manifest.parquet")
    header = {key: value for key, value in store.header.items() if key != "continuous"}
    (store.folder / "header.json").write_text(json.dumps({**header, "format": 1, "projections": True}))
    for file in (store.folder / "shards").glob("*.continuous.npy"):
        file.rename(file.with_name(file.name.replace("continuous", "projections")))
    old = open_store(store.folder, music, dac, {}, target="continuous")
    assert old.summary() == store.summary()
    assert all(np.array_equal(old.continuous(i), each) for i, each in enumerate(latents))
    first = table.rename_columns(names).drop_columns(["split", "segment", "offset"])  # before there were segments
    pq.write_table(first, store.folder / "manifest.parquet")
    assert CodeStore(store.folder).rows == old.rows
    codec = {"name": "reduced", "dims": 3, "codec": {"name": "standardized", "codec": {"name": "dac"}}}
    (store.folder / "header.json").write_text(json.dumps({**header, "codec": codec, "format": 1, "projections": True}))
    renamed = {"name": "pca", "dims": 3, "codec": {"name": "normalized", "codec": {"name": "dac"}}}
    assert CodeStore(store.folder).header["codec"] == renamed


def test_a_store_of_another_format_is_refused(store: CodeStore, tmp_path: Path) -> None:
    (tmp_path / "header.json").write_text(json.dumps({**store.header, "format": 99}))
    with pytest.raises(ValueError, match="has format 99; this codecdiff reads 1 to 2"):
        CodeStore(tmp_path)


def test_bad_files_are_named_counted_and_skipped(tmp_path: Path, bad: Path, dac: Codec) -> None:
    folder, lines = write_music(tmp_path / "music", 2), []
    for name in ("text.mp3", "nan.wav", "cut.wav"):
        (folder / name).write_bytes((bad / name).read_bytes())
    store = open_store(tmp_path / "store", folder, dac, {}, report=lines.append)
    assert [row["track"] for row in store.rows] == ["0.wav", "1.wav"]
    assert sorted(store.header["skipped"]) == ["cut.wav", "nan.wav", "text.mp3"]
    assert all(any(name in line for line in lines) for name in ("text.mp3", "nan.wav", "cut.wav"))
    assert lines[-1] == "Skipped 3 of 5 files; 2 are in the store."
    assert len(open_store(tmp_path / "store", folder, dac, {})) == 2


def test_nothing_but_bad_files_is_an_error(tmp_path: Path, bad: Path, dac: Codec) -> None:
    with pytest.raises(BadAudio, match=r"(?s)None of the audio files could be read:.*nan\.wav.*text\.mp3"):
        open_store(tmp_path / "store", bad, dac, {})
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_no_half_store(tmp_path: Path, music: Path, dac: Codec) -> None:
    class Crashing(CodecWrapper):
        count = 0

        def encode(self, audio: torch.Tensor) -> torch.Tensor:
            self.count += 1
            if self.count == 4:
                raise MemoryError
            return self.codec.encode(audio)

    with pytest.raises(MemoryError):
        encode_tracks(find_tracks(music), tmp_path / "store", Crashing(dac), {})
    assert not list(tmp_path.iterdir())
    assert len(encode_tracks(find_tracks(music), tmp_path / "store", dac, {})[0]) == 6


def test_clips_are_from_the_middle(music: Path, dac: Codec) -> None:
    whole = read_audio(music / "5.wav", dac.sample_rate, 1)
    last = list(fitting_clips(find_tracks(music), dac, seconds=0.5, max_clips=6))[-1]
    assert torch.equal(last, whole[:, 4000:8000])
    assert len(list(fitting_clips(find_tracks(music), dac, max_clips=2))) == 2


def test_a_fingerprint_is_of_names_and_values(dac: Codec) -> None:
    layer = torch.nn.Linear(2, 2)
    before = module_fingerprint(layer)
    assert module_fingerprint(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1e-6
    assert module_fingerprint(layer) != before


def test_every_epoch_is_a_permutation_of_the_same_places(store: CodeStore) -> None:
    crops = TrainingCrops(store, range(6), 30)
    expected = {i: round(store.rows[i]["frames"] / 30) for i in range(6)}
    assert len(crops) == sum(expected.values())
    orders = [[crops.sample(n)[0] for n in range(e * len(crops), (e + 1) * len(crops))] for e in range(3)]
    assert all(Counter(order) == expected for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_sample_is_a_function_of_seed_and_number(store: CodeStore) -> None:
    numbers = [3, 40, 7, 100, 3]
    first, again, other = (TrainingCrops(store, range(6), 30, seed=seed) for seed in (0, 0, 1))
    backwards = again.batch(numbers[::-1])
    batch = first.batch(numbers)
    assert torch.equal(batch.codes, backwards.codes.flip(0))
    assert batch.prompts == backwards.prompts[::-1]
    assert torch.equal(batch.codes[0], batch.codes[-1])
    assert not torch.equal(batch.codes, other.batch(numbers).codes)


def test_samples_drawn_at_once_are_those_of_the_generator_of_each_number(store: CodeStore, tmp_path: Path) -> None:
    """Of rows without captions, with one and with several, some shorter than a crop, in batches over two epochs."""
    rows = [{**row, "captions": [f"{i}{c}" for c in "abcd"[:i]]} for i, row in enumerate(store.rows)]
    shutil.copytree(store.folder, tmp_path / "store")
    pq.write_table(pa.Table.from_pylist(rows, ROWS), tmp_path / "store/manifest.parquet")
    header = {key: value for key, value in store.header.items() if key not in ("files", "sha256")}
    (tmp_path / "store/header.json").write_text(json.dumps({**header, "format": 2}))
    crops = TrainingCrops(CodeStore(tmp_path / "store"), range(6), 250, seed=4)
    order = [n for epoch in range(4) for n in _order("train", 4, epoch, crops)]
    for step in range(4):
        batch = crops.batch(crops.sample_indices(step, 3, rank=1, world_size=2))
        assert batch.sample_indices == [6 * step + 3, 6 * step + 4, 6 * step + 5]
        for n, codes, mask, prompt in zip(
            batch.sample_indices, batch.codes, batch.valid_mask, batch.prompts, strict=True
        ):
            i, random = order[n], numpy_generator("codecdiff.data.crop", "train", 4, n)
            start = int(random.integers(0, max(1, rows[i]["frames"] - 250 + 1)))
            text = rows[i]["captions"][int(random.integers(len(rows[i]["captions"])))] if rows[i]["captions"] else ""
            expected = np.zeros((250, store.header["num_codebooks"]), np.uint16)
            expected[: rows[i]["frames"] - start] = store.codes(i, start, 250)
            assert codes.dtype == torch.uint16
            assert np.array_equal(codes.T, expected)
            assert mask.tolist() == [float(start + frame < rows[i]["frames"]) for frame in range(250)]
            assert prompt == store.prompt(i, text, start / store.header["frame_rate"])
            assert crops.sample(n) == (i, start, text)


def _order(subset: str, seed: int, epoch: int, crops: TrainingCrops) -> list[int]:
    assert len(crops) == 6  # each row is of about a crop
    return numpy_generator("codecdiff.data.order", subset, seed, epoch).permutation(6).tolist()


def test_a_crop_is_a_piece_of_its_track_with_its_caption(store: CodeStore, dac: Codec) -> None:
    crops = TrainingCrops(store, range(6), 30)
    starts = set()
    for number in range(200):
        i, start, caption = crops.sample(number)
        assert caption == f"tone {i}"
        batch = crops.batch([number])
        assert np.array_equal(batch.codes[0].T, store.codes(i)[start : start + 30])
        timing = {"start": start / dac.frame_rate, "seconds": pytest.approx(1 + 0.1 * i)}
        assert batch.prompts == [{"text": caption, "license": "CC0", **timing}]
        assert batch.valid_mask.all()
        starts.add((i, start))
    longest = [start for i, start in starts if i == 5]
    assert min(longest) < 40
    assert max(longest) > 300 - 30 - 40


def test_prompts_name_the_audio_where_the_recordings_are_known(dac: Codec, music: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", music, dac, {})
    assert [prompt["text"] for prompt in store.prompts()] == [f"tone {i}" for i in range(6)]
    for prompt, row in zip(store.prompts(), store.rows, strict=True):
        assert prompt["audio"] == {"file": str(music / row["track"]), "checksum": checksum(music / row["track"])}
    assert TrainingCrops(store, range(6), 30).batch([0]).prompts[0]["audio"]["checksum"]
    assert "audio" not in open_store(tmp_path / "store", None, dac, {}).prompt(0)


def test_a_segment_is_a_part_of_a_file(dac: Codec, music: Path, tmp_path: Path) -> None:
    config = EncodeConfig(segments=SegmentConfig(segment=0.5))
    store, _ = encode_tracks(find_tracks(music)[:1], tmp_path / "store", dac, {}, config)
    store.audio = music
    parts = [store.prompt(i)["audio"] for i in range(len(store))]
    assert [(part["start"], part["seconds"]) for part in parts] == [(0.0, 0.5), (0.5, 0.5)]
    assert all(load_audio_prompt(part, RATE).shape == (RATE // 2,) for part in parts)
    assert audio_prompt_key(parts[0]) != audio_prompt_key(parts[1])


def test_latents_before_quantization_are_stored_beside_the_codes(dac: Codec, music: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", music, dac, {}, target="continuous")
    audio = read_audio(music / "2.wav", dac.sample_rate, 1)
    row = next(i for i, row in enumerate(store.rows) if row["track"] == "2.wav")
    wanted = dac.encode_continuous(audio[None])[0].permute(2, 0, 1).numpy()
    np.testing.assert_allclose(store.continuous(row), wanted, rtol=1e-3, atol=1e-3)

    crops = TrainingCrops(store, range(6), 30, target="continuous")
    batch = crops.batch([4, 0, 11])
    assert batch.continuous is not None
    for codes, latents, index in zip(batch.codes, batch.continuous, batch.sample_indices, strict=True):
        i, start, _ = crops.sample(index)
        assert np.array_equal(latents, store.continuous(i)[start : start + 30].transpose(1, 2, 0))
        assert (
            dac.quantize(latents[None])[0] == codes.long()
        ).float().mean() > 0.98  # float16 moves a few to a neighbor
    latents = list(store.latents(dac, "continuous"))
    assert [latent.shape[-1] for latent in latents] == [row["frames"] for row in store.rows]
    assert np.array_equal(latents[row][0], store.continuous(row).transpose(1, 2, 0))


def test_a_store_of_codes_alone_is_refused_for_projections(
    store: CodeStore, dac: Codec, codec_spec: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="holds no latents before quantization"):
        open_store(store.folder, None, dac, codec_spec, target="continuous")


def test_rows_are_columns_and_dicts_on_request(store: CodeStore) -> None:
    table = pq.read_table(store.folder / "manifest.parquet")
    assert list(store.rows) == [store.rows[i] for i in range(len(store))] == table.to_pylist()
    assert store.rows[-1] == store.rows[len(store) - 1]
    assert store.rows == CodeStore(store.folder).rows
    assert store.rows.array("frames").tolist() == [row["frames"] for row in store.rows]
    assert [store.rows.value("captions", i) for i in range(len(store))] == [row["captions"] for row in store.rows]
    values, index = store.rows.categories("license")
    assert [values[i] for i in index] == [row["license"] for row in store.rows]
    assert len(values) == len({row["license"] for row in store.rows})


def test_many_rows_share_their_texts(store: CodeStore, tmp_path: Path) -> None:
    """A caption of 1 kB and metadata of 1 kB for each of 100,000 segments are not 200 MB: a track has 100."""
    count = 100_000
    row = {**store.rows[0], "captions": [], "crc32": None, "continuous_crc32": None, "frames": 0, "start": 0}
    columns = {name: [value] * count for name, value in row.items()}
    columns["track"] = [f"{i}.wav" for i in range(count)]
    columns["metadata"] = [json.dumps({"title": f"{i // 100:01000}"}) for i in range(count)]
    shutil.copytree(store.folder, tmp_path / "store")
    pq.write_table(pa.table(columns, schema=ROWS), tmp_path / "store/manifest.parquet")
    header = {key: value for key, value in store.header.items() if key not in ("files", "sha256")}
    (tmp_path / "store/header.json").write_text(json.dumps({**header, "format": 2}))
    made = CodeStore(tmp_path / "store")
    assert made.rows.table.nbytes < 20e6
    assert made.metadata(99_999) == {"title": f"{999:01000}"}


def test_ranks_together_take_what_one_alone_takes(store: CodeStore) -> None:
    crops = TrainingCrops(store, range(6), 30)
    for step in (0, 3):
        alone = crops.sample_indices(step, 8)
        assert [n for rank in range(4) for n in crops.sample_indices(step, 2, rank, 4)] == alone
    assert crops.sample_indices(1, 8)[0] == crops.sample_indices(0, 8)[-1] + 1


def test_a_short_track_is_padded_and_says_so(store: CodeStore) -> None:
    batch = TrainingCrops(store, [0], 250).batch([0])
    assert batch.valid_mask.sum() == 200
    assert batch.valid_mask[0, :200].all()
    assert not batch.codes[..., 200:].any()
    assert torch.equal(batch.codes[0, :, :200].T, torch.from_numpy(np.array(store.codes(0))))


def test_crops_need_tracks_and_frames(store: CodeStore) -> None:
    with pytest.raises(ValueError, match="No tracks"):
        TrainingCrops(store, [], 30)
    with pytest.raises(ValueError, match="A crop of 0 frames"):
        TrainingCrops(store, [0], 0)


def test_tracks_are_divided_for_good(store: CodeStore) -> None:
    training, held = split_tracks(store, 0.34)
    assert (len(training), len(held)) == (4, 2)
    assert sorted(training + held) == list(range(6))
    assert split_tracks(store, 0.34) == (training, held)
    assert len({tuple(split_tracks(store, 0.34, seed)[1]) for seed in range(9)}) > 1
    assert split_tracks(store, 0)[1] == []
    assert len(split_tracks(store, 0.001)[1]) == 1
    assert len(split_tracks(store, 0.999)[0]) == 1


def test_tracks_with_the_same_content_fall_on_one_side(tmp_path: Path, dac: Codec) -> None:
    for i in range(10):
        soundfile.write(tmp_path / f"{i}.wav", tone(0.05, 200 + 50 * (i // 2)), RATE)
    store = open_store(tmp_path / "store", tmp_path, dac, {})
    for seed in range(5):
        training, held = split_tracks(store, 0.3, seed)
        assert not {store.rows[i]["checksum"] for i in training} & {store.rows[i]["checksum"] for i in held}
        assert len(held) in (3, 4)


def test_tracks_that_are_all_the_same_cannot_be_divided(tmp_path: Path, dac: Codec) -> None:
    silent(tmp_path, "a.wav", "b.wav")
    assert split_tracks(open_store(tmp_path / "store", tmp_path, dac, {}), 0.5) == ([0, 1], [])


def test_conditions_are_dropped_independently_with_their_probability() -> None:
    numbers = range(4000)
    rows = dropped_conditions(0, numbers, ["text", "tempo"], 0.25)
    text, tempo = rows["text"].float(), rows["tempo"].float()
    assert abs(text.mean() - 0.25) < 0.03
    assert abs((text * tempo).mean() - 0.25**2) < 0.02
    assert torch.equal(dropped_conditions(0, [7, 9], ["text"], 0.25)["text"], rows["text"][[7, 9]])
    assert not torch.equal(dropped_conditions(1, numbers, ["text"], 0.25)["text"], rows["text"])
    each = dropped_conditions(0, numbers, ["text", "tempo"], {"tempo": 0.25})
    assert torch.equal(each["tempo"], rows["tempo"])
    assert not each["text"].any()


def test_clips_for_fitting_are_spread_over_few_long_tracks(tmp_path: Path, dac: Codec) -> None:
    ramp = np.linspace(-0.9, 0.9, 8 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", ramp, RATE)
    taken = list(fitting_clips(find_tracks(tmp_path), dac, seconds=1.0, max_clips=4))
    levels = [float(clip.mean()) for clip in taken]
    assert levels == sorted(levels)
    assert np.allclose(np.diff(levels), 1.8 * 7 / 8 / 4, atol=0.01)


def test_a_codec_is_not_fitted_to_nothing(tmp_path: Path, dac: Codec) -> None:
    (tmp_path / "text.mp3").write_text("no audio")
    with pytest.raises(BadAudio, match=r"text\.mp3"):
        list(fitting_clips(find_tracks(tmp_path), dac))


def test_captions_survive_a_byte_order_mark_and_odd_line_ends(tmp_path: Path) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(0.1, 300), RATE)
    (tmp_path / "metadata.csv").write_text("\ufefffile_name,text\na.wav,from a spreadsheet\n", encoding="utf-8")
    line = json.dumps({"file_name": "b.wav", "text": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + line + "\n", encoding="utf-8")
    assert [track.captions for track in find_tracks(tmp_path)] == [("from a spreadsheet",), ("one\u2028two",)]


def test_a_long_ogg_is_written_whole_and_a_cut_aiff_is_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "long.ogg", torch.zeros(1, 100 * 44100), 44100)
    assert read_audio(tmp_path / "long.ogg", 44100, 1).shape == (1, 100 * 44100)
    soundfile.write(tmp_path / "cut.aiff", tone(1.0, 300), RATE)
    whole = (tmp_path / "cut.aiff").read_bytes()
    (tmp_path / "cut.aiff").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadAudio, match="cut short"):
        read_audio(tmp_path / "cut.aiff", RATE, 1)
