"""Ranking by likelihood: equal to scipy's, stable where that is not, kept and compared as it says."""

from __future__ import annotations

import csv
import errno
import math
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from codecdiff_datasets.ranking import (
    Gaussian,
    Ranking,
    agreement,
    num_selected,
    rank_manifests,
    ranked_tracks,
    read_likelihoods,
    selected_manifest,
    track_means,
    write_ranking_report,
)
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import multivariate_normal, spearmanr
from sklearn.covariance import ledoit_wolf
from small import RATE, noise, tone
from typer.testing import CliRunner

from codecdiff import Embedder, config
from codecdiff.cli.main import app
from codecdiff.data import CachedEmbedder, embed_file
from codecdiff.data.manifest import Manifest, ManifestRow
from codecdiff.data.metadata import Issue
from codecdiff.errors import InvalidValue

SPEC = {"name": "logmel", "sample_rate": RATE}
run = CliRunner().invoke


def logmel() -> Embedder:
    pytest.importorskip("codecdiff_eval")
    return config.build("embedders", SPEC)


def cached(folder: Path) -> CachedEmbedder:
    return CachedEmbedder(logmel(), SPEC, folder)


def scipy_s(samples: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    covariance: Any = ledoit_wolf(samples.double().numpy())[0]
    return multivariate_normal(samples.double().mean(0).numpy(), covariance).logpdf(others.numpy())


def test_log_likelihoods_are_scipy_s() -> None:
    mixing = noise(6, 6, seed=1).double()
    samples, others = noise(400, 6).double() @ mixing + 3, noise(50, 6, seed=2).double() @ mixing
    gaussian = Gaussian.fit(samples)
    expected = scipy_s(samples, others)
    np.testing.assert_allclose(gaussian.log_likelihood(others).numpy(), expected, rtol=1e-10)


def test_fewer_tracks_than_dimensions_are_ranked_with_a_warning() -> None:
    samples = noise(10, 40) * torch.logspace(0, -3, 40)
    with pytest.warns(UserWarning, match="10 tracks cannot show how 40 dimensions vary"):
        gaussian = Gaussian.fit(samples)
    near, far = gaussian.log_likelihood(torch.stack([samples.mean(0), samples.mean(0) + 5]))
    assert math.isfinite(near)
    assert math.isfinite(far)
    assert near > far
    expected = scipy_s(samples, samples)
    np.testing.assert_allclose(gaussian.log_likelihood(samples).numpy(), expected, rtol=1e-6)


def test_directions_without_any_variance_stay_finite() -> None:
    two = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]])  # no shrinkage: singular
    with pytest.warns(UserWarning, match="2 tracks"):
        gaussian = Gaussian.fit(two)
    inside, outside = gaussian.log_likelihood(torch.tensor([[0.5, 2.0, 3.0], [0.5, 2.1, 3.0]]))
    assert math.isfinite(inside)
    assert math.isfinite(outside)
    assert inside > outside
    with (
        pytest.warns(UserWarning, match="3 tracks"),
        pytest.raises(ValueError, match="All 3 tracks have the same embedding"),
    ):
        Gaussian.fit(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("keep", "count", "selected"),
    [("20%", 10, 2), ("20%", 5, 1), ("20%", 2, 1), ("100%", 7, 7), ("3", 10, 3), ("30", 10, 10)],
)
def test_how_many_are_selected(keep: str, count: int, selected: int) -> None:
    assert num_selected(keep, count) == selected


@pytest.mark.parametrize("keep", ["0%", "120%", "0", "-3", "a few", "0.2", "nan%", "inf%"])
def test_shares_that_are_none_are_refused(keep: str) -> None:
    with pytest.raises(ValueError, match="20%, or a number such as 500"):
        num_selected(keep, 10)


def test_ranks_fall_with_likelihood_and_equals_stand_by_name() -> None:
    rows = ranked_tracks(["d", "a", "c", "b", "e"], [1.0, -5.0, 2.0, 1.0, -math.inf], "40%")
    assert [row.track for row in rows] == ["c", "b", "d", "a", "e"]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert [row.percentile for row in rows] == [100, 80, 60, 40, 20]
    assert [row.selected for row in rows] == [True, True, False, False, False]


def collection(folder: Path, pitches: list[float], *, seconds: float = 2.0) -> Manifest:
    """Write tones and their manifest; 'gone' has no file."""
    (folder / "audio").mkdir(parents=True)
    recordings = [ManifestRow("gone", "gone.wav")]
    for i, hertz in enumerate(pitches):
        soundfile.write(folder / "audio" / f"{i:06d}.wav", tone(seconds, hertz), RATE)
        about = {"title": f"<Tone {i}>", "tags": {"genre": ["noise"]}, "license": "CC0", "metadata": {"hertz": hertz}}
        recordings.append(ManifestRow(str(i), f"{i:06d}.wav", True, seconds, **about))
    manifest = Manifest(folder / "audio", recordings, {"name": "tones"})
    manifest.write(folder / "manifest.parquet")
    return manifest


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return collection(tmp_path_factory.mktemp("like"), [200 + 3 * i for i in range(12)])


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return collection(tmp_path_factory.mktemp("of"), [1500, 210, 2500, 225, 900])


@pytest.fixture(scope="module")
def ranking(like: Manifest, of: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Ranking:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rank_manifests(like, of, cached(tmp_path_factory.mktemp("e")), keep="40%")[0]


def test_tracks_like_the_others_come_first(ranking: Ranking, of: Manifest, tmp_path: Path) -> None:
    assert {row.track for row in ranking.selected} == {"1", "3"}
    assert ranking.facts["reference"] == len(ranking.reference) == 12
    kept = selected_manifest(ranking, of)
    kept.write(tmp_path / "kept.parquet")
    again = Manifest.read(tmp_path / "kept.parquet")
    assert {recording.track for recording in again.rows} == {"1", "3"}
    first = again.rows[0]
    assert (first.metadata["rank"], first.license, first.tags) == (1, "CC0", {"genre": ["noise"]})
    assert again.file_of(first).is_file()
    assert again.facts["ranking"]["embedder"] == SPEC


def test_a_track_is_the_mean_of_its_windows(like: Manifest, of: Manifest, tmp_path: Path) -> None:
    cache = cached(tmp_path / "e")
    with pytest.warns(UserWarning, match="12 tracks"):
        result, skipped = rank_manifests(like, of, cache)
    assert not skipped
    means = [torch.stack([embed_file(t.file, cache.embedder).double().mean(0) for t in m.tracks()]) for m in (like, of)]
    with pytest.warns(UserWarning, match="12 tracks"):
        expected = Gaussian.fit(means[0]).log_likelihood(means[1])
    found = {row.track: row.log_likelihood for row in result.rows}
    np.testing.assert_allclose([found[str(i)] for i in range(5)], expected.numpy(), rtol=1e-4)


def test_the_report_shows_both_ends_and_loads_nothing(ranking: Ranking, of: Manifest, tmp_path: Path) -> None:
    write_ranking_report(tmp_path / "report.html", ranking, of, num_examples=1)
    page = (tmp_path / "report.html").read_text()
    shown = re.findall(r'<td class="text">(\w+)</td>', page)
    assert shown == [ranking.rows[i].track for i in (0, 1, 2, 4)]
    assert "&lt;Tone" in page
    assert "<Tone" not in page
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 4
    assert all((tmp_path / source).is_file() for source in sources)
    assert not re.search(r"""(?:href|src|url)[=(]["']?https?:|<script|<link""", page)  # namespaces of the plot aside


def test_the_histogram_counts_every_track_once(
    ranking: Ranking, of: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), savefig(self, *args, **kw)))
    write_ranking_report(tmp_path / "report.html", ranking, of)
    (axes,) = figures[0].axes
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [sum(heights[:40]), sum(heights[40:])] == pytest.approx([1, 1])
    assert len(heights) == 80
    (threshold,) = (float(np.asarray(line.get_xdata())[0]) for line in axes.lines)
    low, high = axes.get_xlim()
    assert threshold == ranking.selected[-1].log_likelihood
    assert low < high
    page = (tmp_path / "report.html").read_text()
    assert "threshold of the selection" in page
    assert page.count("<svg") == page.count("</svg>") == 1


def test_rankings_are_compared_by_spearman(ranking: Ranking, of: Manifest, tmp_path: Path) -> None:
    issues: list[Issue] = []
    theirs = {"000000": -3.0, "1": 5.0, "000002": -9.0, "3": 4.0, "77": 1.0}
    with (tmp_path / "rank.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("id", "CLAP-log-likelihood"), *theirs.items(), ("4", "unknown")])
    ours = {row.track: row.log_likelihood for row in ranking.rows}
    scipy_s: Any = spearmanr([ours[i] for i in "0123"], [-3.0, 5.0, -9.0, 4.0])
    published = read_likelihoods(tmp_path / "rank.csv", issues.append)
    assert agreement(ranking, of, *published) == (pytest.approx(scipy_s.statistic), 4)
    ranking.write(tmp_path / "ours.parquet")
    ours_again = read_likelihoods(tmp_path / "ours.parquet", issues.append)
    assert agreement(ranking, of, *ours_again) == (pytest.approx(1), 5)
    (tmp_path / "few.csv").write_text("id,log_likelihood\n99,1\n0,2\n")
    with pytest.raises(InvalidValue, match=r"Only 1 tracks .*'99' of theirs"):
        agreement(ranking, of, *read_likelihoods(tmp_path / "few.csv", issues.append))
    (tmp_path / "other.csv").write_text("song,score\na,1\n")
    with pytest.raises(ValueError, match=r"is not a ranking: it needs .* and has song, score"):
        read_likelihoods(tmp_path / "other.csv", issues.append)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_likelihoods(tmp_path / "none.csv", issues.append)
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="is not a parquet file"):
        read_likelihoods(tmp_path / "broken.parquet", issues.append)


@pytest.mark.filterwarnings("ignore:12 tracks cannot show")
def test_the_command_ranks_and_goes_on(
    like: Manifest, of: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of.audio / "bad.wav").write_text("no audio")
    recordings = [*of.rows, ManifestRow("bad", "bad.wav", True)]
    Manifest(of.audio, recordings).write(tmp_path / "of.parquet")
    words = [
        "data",
        "rank",
        "--like",
        str(like.audio.parent / "manifest.parquet"),
        "--of",
        str(tmp_path / "of.parquet"),
    ]
    words += ["-o", str(tmp_path / "ranked.parquet"), "--embedder", "logmel", "--set", f"sample_rate={RATE}"]
    part = type(logmel())
    embed, embedded = part.embed, []

    def failing(self: Embedder, audio: torch.Tensor) -> torch.Tensor:
        embedded.append(audio.shape[1])
        if len(embedded) == 8:
            raise OSError(errno.EIO, "the power failed")
        return embed(self, audio)

    monkeypatch.setattr(part, "embed", failing)
    stopped = run(app, words)
    assert stopped.exit_code == 1
    assert "the power failed" in stopped.output
    assert not (tmp_path / "ranked.parquet").exists()
    finished = run(app, [*words, "--keep", "2"])
    assert finished.exit_code == 0, finished.output
    assert len(embedded) == 18  # 12 and 5, and once more what failed
    assert "bad.wav" in finished.output
    assert "2 of 5 tracks selected" in finished.output.replace("\n", " ")
    rows = pq.read_table(tmp_path / "ranked.parquet").to_pylist()
    with (tmp_path / "ranked.csv").open() as stream:
        assert [row["track"] for row in csv.DictReader(stream)] == [row["track"] for row in rows]
    assert {r.track for r in Manifest.read(tmp_path / "ranked-selected.parquet").rows} == {"1", "3"}
    assert "# Attribution" in (tmp_path / "ranked-selected.attribution.md").read_text()
    shutil.copy(tmp_path / "ranked.csv", tmp_path / "theirs.csv")
    assert "is complete" in run(app, [*words, "--keep", "2"]).output
    compared = [*words, "--compare", str(tmp_path / "theirs.csv")]
    assert "exists already" in run(app, compared).output
    again = run(app, [*compared, "--force"])
    assert "Spearman 1.0000" in again.output
    assert "5 tracks matched" in again.output.replace("\n", " ")
    assert len(embedded) == 18
    elsewhere = ["-o", str(tmp_path / "new" / "r.parquet"), "--embeddings", str(tmp_path / "ranked-embeddings")]
    assert run(app, [*words, *elsewhere]).exit_code == 0
    selected = "ranked-selected.parquet"
    assert (tmp_path / "new" / "r-selected.parquet").is_file()
    assert len(embedded) == 18
    for option, name in (("--compare", "ranked.csv"), ("--of", selected), ("--like", selected)):
        refused = run(app, [*words, option, str(tmp_path / name)])
        assert refused.exit_code == 1
        assert "would be overwritten" in refused.output.replace("\n", " ")
    (tmp_path / "mine.parquet").write_text("mine")
    refused = run(app, [*words, "-o", str(tmp_path / "mine.parquet")])
    assert refused.exit_code == 1
    assert "exists already" in refused.output.replace("\n", " ")
    assert "has to end in .parquet" in run(app, [*words, "-o", "ranked.csv"]).output


def test_data_sets_without_audio_are_explained(of: Manifest, tmp_path: Path) -> None:
    missing = Manifest(tmp_path, [ManifestRow("a", "a.wav"), ManifestRow("b", "b.wav")])
    with pytest.raises(ValueError, match=r"Only 0 of 2 reference tracks and 5 of 6 candidates have audio"):
        rank_manifests(missing, of, cached(tmp_path / "e"))
    (tmp_path / "a.wav").write_text("no audio")
    broken = Manifest(tmp_path, [ManifestRow("a", "a.wav", True), ManifestRow("b", "a.wav", True)])
    with pytest.raises(ValueError, match=r"(?s)Too few files.*a\.wav"):
        rank_manifests(broken, of, cached(tmp_path / "e"))
    with pytest.raises(ValueError, match="keep=none"):
        rank_manifests(of, of, cached(tmp_path / "f"), keep="none")
    assert not (tmp_path / "f").exists()


def test_means_keep_the_order_of_the_tracks(like: Manifest, tmp_path: Path) -> None:
    cache = cached(tmp_path / "e")
    tracks = {track.name: track for track in like.tracks()}
    cache.fill(list(tracks.values()))
    gone = replace(tracks["2"], name="gone", file=tmp_path / "gone.wav")
    names, means = track_means(cache, [tracks["7"], gone, tracks["2"]])
    assert names == ["7", "2"]
    assert torch.allclose(means[1], embed_file(like.audio / "000002.wav", cache.embedder).mean(0))
