"""Statistics against scipy, numpy and the sum over all frames; their tables and pages say what the figures say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
from codecdiff_datasets import statistics
from codecdiff_datasets import statistics_report as reports
from codecdiff_datasets.codebook_usage import (
    LatentMoments,
    codebook_statistics,
    continuous_moments,
    corrected_entropy,
    count_codes,
    embedded_moments,
    entropy,
)
from small import write_music
from typer.testing import CliRunner

from codecdiff import Codec, config
from codecdiff.cli.main import app
from codecdiff.codecs import NormalizedCodec
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.encoding.job import EncodeConfig, fitting_clips
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import find_tracks

ELSEWHERE = {"name": "of-a-stranger"}


def write_store(
    folder: Path, tracks: Sequence[np.ndarray], codec: Any = ELSEWHERE, name: str = "{}.wav", **metadata: Any
) -> CodeStore:
    """Write a store of these codes (frames, 3), as a codec that is not here would have made it."""
    (folder / "shards").mkdir(parents=True)
    starts = np.cumsum([0, *map(len, tracks)])
    row = {"captions": ["one two"], "metadata": json.dumps(metadata), "licence": "", "source": "", "checksum": "0"}
    places = [{"shard": 0, "start": int(start), "frames": len(t)} for start, t in zip(starts, tracks, strict=False)]
    rows = [{"track": name.format(i), **row, "seconds": 1.5, "bytes": 1, **place} for i, place in enumerate(places)]
    if tracks:
        np.save(folder / "shards" / "00000.npy", np.concatenate(tracks).astype(np.uint16))
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    header = {"format": 1, "codec": codec, "weights": "0", "num_codebooks": 3, "frame_rate": 50.0}
    rest = {"tracks": len(rows), "shards": bool(tracks) + 0, "projections": False, "skipped": []}
    (folder / "header.json").write_text(json.dumps(header | rest))
    return CodeStore(folder)


@pytest.fixture(scope="module")
def projected(
    dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path_factory: pytest.TempPathFactory
) -> CodeStore:
    folder = tmp_path_factory.mktemp("projected") / "store"
    return encode_tracks(find_tracks(music), folder, dac, codec_spec, EncodeConfig(target="continuous"))[0]


# entropy and counts


@pytest.mark.parametrize("entries", [1, 2, 64, 1024])
def test_entropy_is_that_of_scipy(entries: int) -> None:
    counts = np.random.default_rng(entries).integers(1, 50, 2 * entries) * np.tile([0, 1], entries)
    assert entropy(counts) == pytest.approx(scipy.stats.entropy(counts, base=2), abs=1e-12)
    miller_madow = scipy.stats.entropy(counts) + (entries - 1) / (2 * counts.sum())
    assert corrected_entropy(counts) == pytest.approx(miller_madow / np.log(2))


def test_the_correction_brings_the_entropy_of_few_samples_nearer() -> None:
    draws = [np.bincount(np.random.default_rng(seed).integers(0, 64, 256), minlength=64) for seed in range(50)]
    plain, corrected = np.mean([entropy(c) for c in draws]), np.mean([corrected_entropy(c) for c in draws])
    assert plain < 5.85
    assert abs(corrected - 6) < 0.02


@pytest.mark.parametrize("block", [1, 7, 2**16])
def test_counts_are_exact_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("codecdiff_datasets.codebook_usage.BLOCK", block)
    rng = np.random.default_rng(0)
    tracks = [rng.integers(0, 5, (frames, 3)) for frames in (1, 20, 7, 14)] + [np.full((4, 3), 65535)]
    used = count_codes(write_store(tmp_path / "store", tracks))
    everything = np.concatenate(tracks)
    for k in range(3):
        assert used.counts[k].tolist() == np.bincount(everything[:, k], minlength=2**16).tolist()
    assert used.repeats.tolist() == np.sum([(np.diff(track, axis=0) == 0).sum(0) for track in tracks], 0).tolist()
    assert (used.frames, used.pairs) == (46, 41)


def test_a_codebook_with_one_used_entry(tmp_path: Path) -> None:
    tracks = [np.tile([[7, 0, frame % 2]], (1, 1)).repeat(10, 0) for frame in range(2)]
    figures = statistics.store_statistics(write_store(tmp_path / "store", tracks))
    one, _, two = figures["codebooks"]
    assert (one["used"], one["entropy"], one["corrected_entropy"], one["perplexity"]) == (1, 0, 0, 1)
    assert one["most_frequent"] == {"code": 7, "fraction": 1}
    assert (one["repeats"], one["repeats_by_chance"]) == (1, 1)
    assert (two["used"], two["entropy"], two["repeats"], two["repeats_by_chance"]) == (2, 1, 1, 0.5)
    assert "-0" not in reports.markdown("x", reports.tables(figures)).replace("--", "")


def test_a_store_without_frames(tmp_path: Path) -> None:
    figures = statistics.store_statistics(write_store(tmp_path / "store", []))
    assert (figures["tracks"], figures["frames"], figures["seconds"], figures["hours"]) == (0, 0, None, 0)
    assert {book["entropy"] for book in figures["codebooks"]} == {None}
    assert "The store holds no frames." in reports.html_report("x", reports.tables(figures))
    reports.write_statistics(figures, tmp_path / "out")


# latents


def check_entries(store: CodeStore, codec: Codec) -> None:
    every = torch.cat(list(store.latents(codec)), -1)[0].double()  # (k, d, frames)
    moments = embedded_moments(count_codes(store).counts, codec)
    assert moments.count == every.shape[-1]
    np.testing.assert_allclose(moments.mean, every.mean(-1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moments.variance, every.var(-1, correction=0), rtol=1e-9, atol=1e-12)
    measured = NormalizedCodec(codec)
    measured.measure(store.latents(codec))
    for book, mean, std in zip(moments.statistics(), measured.mean[:, 0, 0], measured.std[:, 0, 0], strict=True):
        assert book["mean"] == pytest.approx(float(mean), rel=1e-5, abs=1e-7)
        assert book["std"] == pytest.approx(float(std), rel=1e-5)
    assert moments.variance.min() > 0


def test_moments_from_counts_are_those_of_every_embedded_frame(store: CodeStore, dac: Codec) -> None:
    check_entries(store, dac)


def test_moments_of_a_fitted_codec(tmp_path: Path) -> None:
    pytest.importorskip("codecdiff_starter")
    tracks = find_tracks(write_music(tmp_path / "music", count=2, seconds=8.0))
    codec = config.build("codecs", "starter")
    codec.fit(fitting_clips(tracks, codec))
    store, _ = encode_tracks(tracks, tmp_path / "store", codec, config.to_config("codecs", codec))
    check_entries(store, codec)
    figures = statistics.store_statistics(CodeStore(store.folder))  # the codec is made again from the store alone
    assert figures["latents"] == embedded_moments(count_codes(store).counts, codec).statistics()
    assert figures["codebooks"][0]["size"] == codec.codebook_size


def test_moments_of_projections_are_those_of_every_frame(projected: CodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecdiff_datasets.codebook_usage.BLOCK", 5)
    every = np.concatenate([projected.continuous(i) for i in range(len(projected))]).astype(np.float64)
    moments = continuous_moments(projected)
    assert moments is not None
    assert moments.count == len(every)
    np.testing.assert_allclose(moments.mean, every.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, every.var(0), rtol=1e-10)
    figures = statistics.store_statistics(projected)
    stds = [book["std"] for book in figures["continuous"]]
    assert stds == pytest.approx(every.std((0, 2)).tolist())


def test_moments_lose_nothing_far_from_zero() -> None:
    values = 1e8 + np.random.default_rng(0).normal(size=(1000, 2, 3))
    merged = LatentMoments.of(values[:300]).merged(LatentMoments.of(values[300:]))
    np.testing.assert_allclose(merged.variance, values.var(0), rtol=1e-6)


def test_projections_that_are_infinite_are_null() -> None:
    with np.errstate(invalid="ignore"):
        book = LatentMoments.of(np.array([[[1.0, np.inf]], [[3.0, 2.0]]])).statistics()[0]
    assert (book["mean"], book["mean_per_dimension"], book["std_per_dimension"]) == (None, [2, None], [1, None])


def test_a_codec_that_cannot_be_had_leaves_the_latents_out(tmp_path: Path, store: CodeStore) -> None:
    tracks = [np.arange(30).reshape(10, 3)]
    figures = statistics.store_statistics(write_store(tmp_path / "a", tracks))
    assert figures["latents"] is None
    assert "of-a-stranger" in figures["latents_left_out"]
    assert "--allow-download" not in figures["latents_left_out"]
    assert {book["size"] for book in figures["codebooks"]} == {None}
    assert figures["codebooks"][0]["entropy"] == pytest.approx(np.log2(10))
    assert any(table.rows == [(figures["latents_left_out"],)] for table in reports.tables(figures))
    hub_id = {"name": "dac", "model": "nobody/none", "revision": None}
    assert (
        "--allow-download"
        in statistics.store_statistics(write_store(tmp_path / "b", tracks, hub_id))["latents_left_out"]
    )
    other = statistics.store_statistics(write_store(tmp_path / "c", tracks, store.header["codec"]))
    assert "made by 'dac' with other weights" in other["latents_left_out"]
    assert {book["size"] for book in other["codebooks"]} == {64}


def test_a_code_that_the_codec_does_not_have_is_told(tmp_path: Path, store: CodeStore) -> None:
    damaged = write_store(tmp_path / "store", [np.array([[1, 64, 2]])], store.header["codec"])
    with pytest.raises(ValueError, match="code 64 in codebook 1, but its codec has 64 codes"):
        statistics.store_statistics(damaged)


# collections

ROWS = [
    ManifestRow("a", present=True, seconds=30.0, tags={"genre": ["rock", "rock", "folk"]}, license="CC0", artist="x"),
    ManifestRow("b", seconds=3600.0, tags={"genre": ["rock"]}, captions=["one two three", "one"], artist="y"),
    ManifestRow("c", present=True, seconds=None, tags={"mood": []}, license="CC0", artist="x", split="test"),
    ManifestRow("d", seconds=float("nan"), split="train", artist="x"),
]


def test_a_manifest_with_unknown_durations(tmp_path: Path) -> None:
    figures = statistics.manifest_statistics(Manifest(tmp_path, ROWS, {"data set": "s"}), "m.parquet", top=1)
    expected = {"tracks": 4, "present": 2, "missing": 2, "without_seconds": 2, "without_tags": 2}
    assert {key: figures[key] for key in expected} == expected
    assert figures["hours"] == pytest.approx(3630 / 3600)
    assert figures["hours_present"] == pytest.approx(30 / 3600)
    assert figures["seconds"]["count"] == 2
    assert figures["seconds"]["mean"] == 1815
    assert [(g["name"], g["tracks"], g["hours"]) for g in figures["licenses"]] == [
        ("", 2, 1.0),
        ("CC0", 2, pytest.approx(30 / 3600)),
    ]
    genre, mood = figures["tags"]
    assert (genre["tracks"], genre["distinct"], len(genre["most"])) == (2, 2, 1)
    assert genre["most"][0] == {"name": "rock", "tracks": 2, "hours": pytest.approx(3630 / 3600)}
    assert (mood["tracks"], mood["distinct"]) == (0, 0)
    assert figures["captions"]["per_track"] == [
        {"captions": 0, "tracks": 3},
        {"captions": 2, "tracks": 1},
    ]
    assert figures["captions"]["words"]["quantiles"]["50%"] == 2
    assert figures["artists"]["distinct"] == 2
    assert figures["artists"]["in_several_splits"] == 1
    json.dumps(figures, allow_nan=False)


def test_a_manifest_without_recordings(tmp_path: Path) -> None:
    figures = statistics.manifest_statistics(Manifest(tmp_path, []), "m")
    assert (figures["seconds"], figures["captions"]["words"], figures["tags"]) == (None, None, [])
    assert [table.title for table in reports.tables(figures)] == ["Overview"]


def test_a_spread_is_that_of_numpy() -> None:
    values = [*np.random.default_rng(0).lognormal(5, 1, 500).tolist(), 30.0, 3600.0, 40000.0]
    spread = statistics.spread(values, statistics.DURATIONS)
    assert spread is not None
    counts = [part["count"] for part in spread["histogram"]]
    assert counts == np.histogram(values, [*statistics.DURATIONS, 1e9])[0].tolist()
    assert sum(counts) == spread["count"] == 503
    assert spread["histogram"][-1]["to"] is None
    assert counts[-1] >= 2
    assert spread["quantiles"]["95%"] == pytest.approx(np.percentile(values, 95))


def test_a_store_is_a_collection_too(store: CodeStore) -> None:
    figures = statistics.store_statistics(store)
    assert figures["hours"] == pytest.approx(sum(row["seconds"] for row in store.rows) / 3600)
    assert [(g["name"], g["tracks"]) for g in figures["licenses"]] == [("CC0", 6)]
    assert figures["captions"]["per_track"] == [{"captions": 1, "tracks": 6}]
    assert figures["frames"] == store.frames
    assert figures["missing"] == 0


def test_segments_of_one_track_are_one_recording(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [np.zeros((5, 3))] * 4, name="same.wav", tags="rock")
    figures = statistics.store_statistics(store)
    assert (figures["tracks"], figures["segments"], figures["frames"]) == (1, 4, 20)
    assert figures["seconds"]["mean"] == 6
    assert figures["segment_seconds"]["mean"] == 1.5
    assert figures["captions"]["captions"] == figures["tags"][0]["tracks"] == 1
    assert "Durations of the segments" in [table.title for table in reports.tables(figures)]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"genre": ["rock"], "key": "C"}, {"genre": "rock", "key": "C"}),
        (["rock", None], {"tag": "rock"}),
        ("rock", {"tag": "rock"}),
        (None, {}),
    ],
)
def test_tags_of_any_metadata_are_read(tmp_path: Path, tags: Any, found: dict[str, str]) -> None:
    store = write_store(tmp_path / "store", [np.zeros((2, 3))], tags=tags, split="train", artist=None)
    figures = statistics.store_statistics(store)
    assert {tag["category"]: tag["most"][0]["name"] for tag in figures["tags"]} == found
    assert figures["splits"][0]["name"] == "train"
    assert figures["artists"]["distinct"] == 0


# tables, pages and the command


class Page(HTMLParser):
    """Collects the tags and the texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.opened: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.opened.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_what_came_from_the_data_is_only_text(tmp_path: Path) -> None:
    evil = "<script>|alert()"
    recording = ManifestRow(evil, tags={evil: [evil]}, captions=["x"], license=evil, artist=evil, split=evil, seconds=2)
    figures = statistics.manifest_statistics(Manifest(tmp_path, [recording]), evil)
    found = reports.tables(figures)
    page = Page(reports.html_report(evil, found))
    assert "script" not in page.opened
    assert page.texts.count(evil) >= 4
    assert not re.search(r"(?:src|href)=|url\(|@import", reports.html_report(evil, found))
    rows = [line for line in reports.markdown(evil, found).splitlines() if line.startswith("| &lt;script>")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


def test_bars_are_as_long_as_their_values(tmp_path: Path) -> None:
    rows = [ManifestRow(str(i), split=split) for i, split in enumerate(("train", "train", "test", "train", "train"))]
    figures = statistics.manifest_statistics(Manifest(tmp_path, rows), "m")
    (splits,) = [table for table in reports.tables(figures) if table.title == "Splits"]
    assert (splits.rows, splits.bars) == ([("train", "4", "0.00"), ("test", "1", "0.00")], [1, 0.25])
    assert re.findall(r"width: ([\d.]+)%", reports.html_report("m", [splits])) == ["100.00", "25.00"]
    few = write_store(tmp_path / "store", [np.repeat([[0, 1, 2]], 8, 0), np.repeat([[1, 1, 2]], 8, 0)])
    books = codebook_statistics(count_codes(few), 16, None)
    found = reports.tables({**statistics.store_statistics(few), "codebooks": books})
    (entropies,) = [table for table in found if table.title == "Entropy of the codebooks"]
    assert entropies.bars == [0.25, 0, 0]  # bits, of the maximum of 4


def test_numbers_are_written_for_people() -> None:
    assert [reports.decimal(x, 1) for x in (None, -0.01, 1234.56)] == ["–", "0.0", "1,234.6"]
    assert [reports.duration(x) for x in (0, 29.6, 185, 3720)] == ["0:00", "0:30", "3:05", "1:02:00"]
    assert [reports.percentage(x) for x in (None, 0.1234)] == ["–", "12.3 %"]


def test_rows_of_one_level_say_which_it_is(tmp_path: Path) -> None:
    figures = statistics.store_statistics(write_store(tmp_path / "store", [np.zeros((50, 3))]))
    used = count_codes(CodeStore(tmp_path / "store"))
    found = reports.tables({**figures, "codebooks": codebook_statistics(used, 2, (0, 0, 1))})
    (use,) = [table for table in found if table.title == "Use of the codebooks"]
    assert [(row[0], row[2], row[3]) for row in use.rows] == [
        ("0", "1", "50.0 %"),
        ("1 (level 0)", "1", "50.0 %"),
        ("2 (level 1)", "1", "50.0 %"),
    ]


def test_few_frames_are_remarked_on(store: CodeStore, tmp_path: Path) -> None:
    few = write_store(tmp_path / "few", [np.arange(60).reshape(20, 3)])
    assert "Only 20 frames for 20 codes" in str(reports.tables(statistics.store_statistics(few)))
    assert "Only" not in str(reports.tables(statistics.store_statistics(store)))


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["data", "stats", *map(str, words)], env={"COLUMNS": "200"})


def test_the_command_measures_a_store_and_writes_a_folder(projected: CodeStore, tmp_path: Path) -> None:
    result = run(projected.folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Entropy of the codebooks" in result.output
    assert "Pre-quantization latents" in result.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["stats.html", "stats.json", "stats.md"]
    written = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert written == json.loads(json.dumps(statistics.store_statistics(projected)))
    page = Page((tmp_path / "out" / "stats.html").read_text())
    charts = [table for table in reports.tables(written) if table.bars]
    assert page.opened.count("i") == sum(len(table.bars) for table in charts)
    assert len(charts) == 6
    assert f"{written['frames']:,}" in page.texts
    assert run(projected.folder, "-o", tmp_path / "out").exit_code == 0  # the same again
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for force in ((), ("--force",)):
        again = run(projected.folder, "-o", tmp_path / "out", *force)
        assert again.exit_code == 1
        assert "not empty" in again.output
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_other_statistics_are_replaced_by_force(tmp_path: Path) -> None:
    for name, rows in (("one", ROWS), ("two", ROWS[:2])):
        Manifest(tmp_path / "audio", rows).write(tmp_path / f"{name}.parquet")
    assert run(tmp_path / "one.parquet", "-o", tmp_path / "out").exit_code == 0
    refused = run(tmp_path / "two.parquet", "-o", tmp_path / "out")
    assert refused.exit_code == 1
    assert "holds other statistics" in refused.output
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["tracks"] == 4
    assert run(tmp_path / "two.parquet", "-o", tmp_path / "out", "--force").exit_code == 0
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["tracks"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.parquet", "out", "two.parquet"]


def test_the_command_prints_json(store: CodeStore, tmp_path: Path) -> None:
    Manifest(tmp_path / "audio", ROWS).write(tmp_path / "m.parquet")
    printed = json.loads(run(tmp_path / "m.parquet", "--json").stdout)
    assert printed == json.loads(
        json.dumps(statistics.manifest_statistics(Manifest.read(tmp_path / "m.parquet"), "m.parquet"))
    )
    assert json.loads(run(store.folder, "--json").stdout)["frames"] == store.frames


def test_the_command_measures_a_manifest(tmp_path: Path) -> None:
    Manifest(tmp_path / "audio", ROWS).write(tmp_path / "m.parquet")
    result = run(tmp_path / "m.parquet", "--top", 1)
    assert result.exit_code == 0, result.output
    assert re.search(r"audio missing +│ +2\b", result.output)
    assert "Tags: genre" in result.output
    assert "2 different, in 2 tracks." in result.output


def test_the_command_refuses_what_is_neither(tmp_path: Path) -> None:
    assert "does not exist" in run(tmp_path / "none").output
    assert "is not a store of codes" in run(tmp_path).output
    (tmp_path / "songs.csv").write_text("track,file")
    assert "is not a manifest" in run(tmp_path / "songs.csv").output


def test_nothing_is_left_of_a_report_that_fails(tmp_path: Path) -> None:
    figures = statistics.manifest_statistics(Manifest(tmp_path, ROWS, {"worst": float("inf")}), "m")
    with pytest.raises(ValueError, match="JSON compliant"):
        reports.write_statistics(figures, tmp_path / "out")
    assert not list(tmp_path.iterdir())
