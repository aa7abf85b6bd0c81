"""Scores, what they follow from, and reports of them."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import soundfile
import torch
import yaml
from codecdiff_eval.audio_features import window_features
from codecdiff_eval.embeddings import ClipEmbeddings, ReferenceStats, read_vectors, write_vectors
from codecdiff_eval.eval_sets import GENERATED, SOURCES, EvalSets
from codecdiff_eval.evaluation_report import console_metrics, model_index, report_of, warnings_of, write_evaluation
from codecdiff_eval.metric import Metric, Statistic
from codecdiff_eval.metrics.bootstrap import bootstrap
from codecdiff_eval.metrics.clap_score import clap_score
from codecdiff_eval.metrics.frechet import fad, fad_infinity, fad_per_track, fad_shrunk
from codecdiff_eval.metrics.gaussian import GaussianStats, frechet_distance, shrunk_frechet_distance
from codecdiff_eval.metrics.kad import kad, kad_across_clips, median_distance
from codecdiff_eval.metrics.neighbors import coverage, density
from codecdiff_eval.numbers import format_interval, format_number, interval_width
from codecdiff_eval.report import console_table, render_markdown
from codecdiff_eval.results import (
    CODEC_RECONSTRUCTION,
    CONTEXT,
    SPLIT_HALF,
    EmbeddingConfig,
    EvalReport,
    EvalRow,
    IncomparableError,
    MetricConfig,
    MetricResult,
    NotMeasured,
    from_json,
    hash_of,
    prompts_hash,
    set_hash,
    to_json,
    weight_sources,
)
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor

from codecdiff import Embedder, __version__
from codecdiff.data.metadata import Track
from codecdiff.errors import UserError

WIDTH = 6
CONFIG = EmbeddingConfig({"name": "logmel", "bands": 3}, "0123abcd", 16_000, 10.0, 1.0, 0.5)
NONE: dict[str, Any] = dict(zip(CONTEXT, map(NotMeasured, ("no reference", "no codec", "one stage")), strict=True))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clips(
    n: int, seed: int, *, shift: float = 0.0, windows: int | None = 5, config: EmbeddingConfig = CONFIG
) -> ClipEmbeddings:
    """n clips whose windows resemble each other; of one to four windows where `windows` is None."""
    lengths = 1 + torch.arange(n) % 4 if windows is None else torch.full((n,), windows)
    means = draw(n, WIDTH, seed=seed) + shift
    vectors = means.repeat_interleave(lengths, 0) + 0.5 * draw(int(lengths.sum()), WIDTH, seed=seed + 1000)
    names = [f"{seed}/{i}" for i in range(n)]
    digests = [hash_of(name.encode()) for name in names]
    return ClipEmbeddings(
        config, names, digests, vectors, lengths, [f"prompt {i}" for i in range(n)], {"generation": seed}
    )


def joined(parts: list[ClipEmbeddings]) -> ClipEmbeddings:
    """The clips of all parts in one set."""
    fields = {n: [item for part in parts for item in getattr(part, n)] for n in ("names", "hashes", "prompts")}
    return replace(
        parts[0], **fields, **{n: torch.cat([getattr(part, n) for part in parts]) for n in ("vectors", "lengths")}
    )


def published_fad(a: Tensor, b: Tensor) -> float:
    """The formula as most implementations have it: numpy's covariance, scipy's matrix root."""
    cov_a, cov_b = (np.cov(x.flatten(0, -2).numpy(), rowvar=False) for x in (a, b))
    means = (x.flatten(0, -2).mean(0) for x in (a, b))
    shift = float(torch.stack(list(means)).diff(dim=0).square().sum())
    return shift + float(np.trace(cov_a + cov_b - 2 * np.real(scipy.linalg.sqrtm(cov_a @ cov_b))))


@pytest.mark.parametrize("windows", [5, None])
def test_fad_is_the_published_formula_of_all_windows(windows):
    a, b = clips(30, 0, shift=0.3, windows=windows), clips(25, 1, windows=windows)
    score = fad(a, b, resamples=10)
    assert score.value == pytest.approx(published_fad(a.vectors, b.vectors), rel=1e-9)
    assert score.warnings == ()
    assert score.interval.low < score.value < score.interval.high
    assert score.interval.over == "30 evaluated and 25 reference tracks"


def test_the_interval_is_that_of_repeating_the_windows_of_drawn_clips():
    a, b = clips(20, 0, shift=0.3), clips(22, 1)
    for score, statistic in (
        (fad(a, b, resamples=20), published_fad),
        (fad_shrunk(a, b, resamples=20), shrunk_frechet_distance),
    ):
        slow = bootstrap(statistic, a.grid(), b.grid(), resamples=20)
        assert (score.value, score.interval.low, score.interval.high) == pytest.approx(tuple(slow), rel=1e-7)


@pytest.mark.integration
def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    texts = draw(200, WIDTH, seed=5)
    truth = clap_score(clips(200, 900), texts).value
    for seed in range(60):
        embedded = clips(200, 900).select(
            torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:40].tolist()
        )
        chosen = torch.stack([texts[int(name.split("/")[1])] for name in embedded.names])
        interval = clap_score(embedded, chosen, resamples=100, seed=seed).interval
        covered += interval.low < truth < interval.high
    assert covered >= 52


def test_too_few_windows_are_told_and_computed_without_a_complex_root():
    a, b = clips(1, 0, windows=4), clips(60, 1)
    a = joined([a, clips(1, 7, windows=2)])
    score = fad(a, b, resamples=5)
    assert np.isfinite(score.value)
    assert "The covariance of the evaluated clips has rank 5 of 6 (from 6 windows)" in score.warnings[0]
    assert "With fewer than 20 evaluated tracks" in " ".join(score.warnings)
    assert not any("rank" in warning for warning in fad(clips(40, 3), b, resamples=5).warnings)
    assert any("reference clips has rank" in warning for warning in fad(b, a, resamples=5).warnings)


def test_many_windows_of_few_clips_are_told_too():
    """Six clips fill six dimensions by their 30 windows, yet the distance of one distribution is far from zero."""
    few, many = clips(6, 3), clips(60, 1)
    score = fad(few, many, resamples=5)
    assert score.value > 3 * fad(clips(60, 4), many, resamples=5).value
    assert score.warnings[0].startswith("There are 6 evaluated clips for 6 dimensions")


def test_fad_infinity_is_nearer_the_truth_than_fad_where_the_truth_is_zero():
    reference = ReferenceStats.of(clips(4000, 0))
    plain, limit = [], []
    for seed in range(1, 11):
        embedded = clips(80, seed)
        plain.append(fad(embedded, reference, resamples=1).value)
        limit.append(fad_infinity(embedded, reference, parts=4, resamples=1).value)
    assert np.mean(plain) > 0.15
    assert abs(np.mean(limit)) < 0.3 * np.mean(plain)


def test_fad_infinity_warns_of_parts_too_small_and_refuses_too_few_clips():
    reference = clips(60, 0)
    assert any(
        "divided by 5 has rank" in w for w in fad_infinity(clips(10, 1, windows=2), reference, resamples=2).warnings
    )
    with pytest.raises(ValueError, match="at least 10 clips and 2 of reference, but got 9 and 60"):
        fad_infinity(clips(9, 1), reference)
    with pytest.raises(ValueError, match="a line needs at least 2 sizes"):
        fad_infinity(clips(9, 1), reference, parts=1)


def test_the_fad_of_each_track_is_its_own_against_the_reference():
    embedded, reference = clips(6, 0, windows=None), clips(50, 1)
    score = fad_per_track(embedded, reference, resamples=10)
    expected = [
        frechet_distance(*GaussianStats.of(x).gaussian(), *GaussianStats.of(reference.vectors).gaussian())
        if len(x) > 1
        else float((x[0] - reference.vectors.mean(0)).square().sum() + torch.cov(reference.vectors.T).trace())
        for x in embedded.by_clip()
    ]
    assert list(score.per_clip) == list(embedded.names)
    assert list(score.per_clip.values()) == pytest.approx(expected, rel=1e-6)
    assert score.value == pytest.approx(sum(expected) / 6, rel=1e-6)
    assert "compare clips with each other" in score.warnings[0]


def test_kad_is_a_hundred_times_the_explicit_sum_with_the_references_median_distance():
    a, b = clips(8, 0, shift=0.5, windows=None), clips(9, 1, windows=None)
    score = kad(a, b, resamples=10)
    bandwidth = median_distance(b.vectors)

    def mean_kernel(x: Tensor, y: Tensor, *, same: bool) -> float:
        values = [
            np.exp(-float((p - q).square().sum()) / (2 * bandwidth**2))
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    within = mean_kernel(a.vectors, a.vectors, same=True) + mean_kernel(b.vectors, b.vectors, same=True)
    assert score.value == pytest.approx(100 * (within - 2 * mean_kernel(a.vectors, b.vectors, same=False)), rel=1e-9)
    assert score.config.options == {"scale": 100, "bandwidth": pytest.approx(bandwidth, rel=1e-5)}
    assert kad_across_clips(a, b, resamples=10).name == "KAD-across-clips"
    assert kad(a, b, bandwidth=1.0, resamples=10).config.options["bandwidth"] == 1.0


def test_a_clap_score_is_the_mean_cosine_of_caption_and_windows_beside_captions_dealt_at_random():
    embedded = clips(30, 0, windows=None)
    texts = embedded.means() + 0.3 * draw(30, WIDTH, seed=3)
    score = clap_score(embedded, texts, resamples=20)
    cosines = [
        float(torch.cosine_similarity(x, t[None]).mean()) for x, t in zip(embedded.by_clip(), texts, strict=True)
    ]
    assert list(score.per_clip.values()) == pytest.approx(cosines)
    assert score.value == pytest.approx(sum(cosines) / 30)
    assert score.chance is not None
    assert score.chance.high < score.interval.low
    assert score.config.prompts == prompts_hash(embedded.prompts) != ""
    with pytest.raises(ValueError, match="30 clips have 29 captions and 30 prompts"):
        clap_score(embedded, texts[1:])
    with pytest.raises(ValueError, match="30 clips have 30 captions and 0 prompts"):
        clap_score(replace(embedded, prompts=()), texts)


def test_density_and_coverage_tell_narrow_from_wide():
    reference, same = clips(80, 0), clips(80, 1)
    narrow = replace(same, vectors=0.2 * same.vectors)
    density_of = {name: density(x, reference, resamples=20) for name, x in (("same", same), ("narrow", narrow))}
    coverage_of = {name: coverage(x, reference, resamples=20) for name, x in (("same", same), ("narrow", narrow))}
    assert density_of["same"].value == pytest.approx(1, abs=0.25)
    assert density_of["narrow"] > density_of["same"]
    assert coverage_of["narrow"].value < 0.7 * coverage_of["same"].value
    reconstructed = coverage_of["same"].upper_bound
    assert reconstructed is not None
    assert coverage_of["same"].value == pytest.approx(reconstructed.value, abs=0.1)
    assert sum(density_of["same"].per_clip.values()) / 80 == pytest.approx(density_of["same"].value)


@pytest.mark.parametrize("measure", [fad, fad_shrunk, kad])
def test_a_distance_of_halves_is_small_beside_that_of_other_music(measure):
    reference, other = clips(80, 0), clips(40, 1, shift=2)
    half = measure.split_half(reference, seed=1, resamples=2)
    assert half.config.num_clips == half.config.num_reference_clips == 40
    assert half.value < 0.2 * measure(other, reference, resamples=2).value


def test_halves_share_no_clip_and_follow_their_seed():
    whole = clips(21, 0)
    a, b = whole.halves(seed=3)
    assert sorted([*a.names, *b.names]) == sorted(whole.names)
    assert {len(a), len(b)} == {10, 11}
    assert whole.halves(seed=3)[0].names == a.names != whole.halves(seed=4)[0].names
    torch.testing.assert_close(a.by_clip()[0], whole.by_clip()[whole.names.index(a.names[0])])
    part, other = whole.halves(seed=3, num_clips=4)
    assert (len(part), other.names) == (4, b.names)
    assert set(part.names) < set(a.names)
    assert whole.halves(seed=3, num_clips=40)[0].names == a.names
    with pytest.raises(ValueError, match="Halves of 3 tracks"):
        clips(3, 0).halves()


def cut_fourfold(some: ClipEmbeddings) -> ClipEmbeddings:
    """Give a set of which every clip is cut from its recording four times over."""
    parts = [replace(some, names=[name + (f"#t={10 * k}.000" if k else "") for name in some.names]) for k in range(4)]
    return joined(parts)


@pytest.mark.parametrize(
    "measure",
    [
        lambda embedded, reference: clap_score(embedded, torch.ones(len(embedded), WIDTH)),
        fad_per_track,
        density,
        coverage,
    ],
)
def test_clips_of_one_recording_that_tell_nothing_new_make_no_interval_narrower(measure):
    embedded, reference = clips(15, 0), clips(30, 1)
    single, fourfold = measure(embedded, reference), measure(cut_fourfold(embedded), reference)
    assert fourfold.value == pytest.approx(single.value)
    assert fourfold.interval.low == pytest.approx(single.interval.low)
    assert fourfold.interval.high == pytest.approx(single.interval.high)
    assert fourfold.interval.over == single.interval.over
    assert "With fewer than 20 evaluated tracks, the interval is unreliable." in fourfold.warnings


@pytest.mark.parametrize("measure", [fad, fad_infinity, fad_shrunk, kad_across_clips])
def test_a_distance_resamples_recordings_of_both_sets(measure):
    a, b = clips(20, 0, shift=0.5), clips(30, 1)
    single, fourfold = (measure(*pair, resamples=60).interval for pair in ((a, b), map(cut_fourfold, (a, b))))
    assert fourfold.over == "20 evaluated and 30 reference tracks"
    assert fourfold.high - fourfold.low > 0.7 * (single.high - single.low)


def test_sets_heard_otherwise_are_not_compared():
    other = clips(10, 1, config=replace(CONFIG, sample_rate=48_000, embedder={"name": "logmel", "bands": 4}))
    with pytest.raises(ValueError, match=r"embedder\.bands: 3 and 4; sample_rate: 16000 and 48000.*Embed one"):
        fad(clips(10, 0), other)


def test_statistics_of_parts_are_those_of_all_and_survive_the_disk(tmp_path: Path):
    embedded, reference = clips(30, 0, shift=0.3), clips(41, 1, windows=None)
    whole = ReferenceStats.of(reference)
    parts = [ReferenceStats.of(reference.select(range(i, 41, 3))) for i in range(3)]
    together = parts[2] + parts[0] + parts[1]
    assert together.identity == whole.identity == reference.identity
    assert (together.clips, together.gaussian.count) == (41, len(reference.vectors))
    together.save(tmp_path / "deep" / "statistics.safetensors")
    loaded = ReferenceStats.load(tmp_path / "deep" / "statistics.safetensors")
    assert loaded.config == CONFIG
    torch.testing.assert_close(loaded.gaussian.scatter, together.gaussian.scatter, rtol=0, atol=0)
    score = fad(embedded, loaded, resamples=10)
    direct = fad(embedded, reference, resamples=10)
    assert score.value == pytest.approx(direct.value, rel=1e-10)
    assert score.interval.over == "30 evaluated tracks"
    score.require_comparable(direct)
    with pytest.raises(ValueError, match="sample_rate: 16000 and 8000"):
        _ = whole + replace(whole, config=replace(CONFIG, sample_rate=8000))


def test_tensors_survive_the_disk_and_what_is_not_theirs_is_refused(tmp_path: Path):
    vectors, file = clips(7, 0).vectors, tmp_path / "deep" / "vectors.safetensors"
    write_vectors(file, "clips", {"vectors": vectors.T}, {"prompts": ["ä", {"text": "b"}], "config": CONFIG})
    tensors, facts = read_vectors(file, "clips")
    assert torch.equal(tensors["vectors"], vectors.T)
    assert facts["prompts"] == ["ä", {"text": "b"}]
    assert from_json(EmbeddingConfig, facts["config"]) == CONFIG
    ReferenceStats.of(clips(7, 0)).save(tmp_path / "statistics.safetensors")
    with pytest.raises(UserError, match="does not hold clips of format 2"):
        read_vectors(tmp_path / "statistics.safetensors", "clips")
    with pytest.raises(UserError, match="does not hold statistics of format 2"):
        ReferenceStats.load(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="is damaged"):
        read_vectors(file, "clips")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_vectors(tmp_path / "none", "clips")


def test_vectors_that_are_not_finite_are_refused_by_clip():
    bad = clips(3, 0).vectors.clone()
    bad[7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"The vectors of 0/1 are not finite"):
        replace(clips(3, 0), vectors=bad)
    with pytest.raises(ValueError, match="3 clips have 2 prompts"):
        replace(clips(3, 0), prompts=["a", "b"])


class LogMel(Embedder):
    sample_rate, window_seconds, hop_seconds, width = 16_000, 1.0, 0.5, 64

    def __init__(self) -> None:
        super().__init__()

    def embed(self, audio: Tensor) -> Tensor:
        return window_features(audio, self.sample_rate)


def test_clips_of_different_lengths_are_heard_each_as_if_alone():
    judge = LogMel()
    config = EmbeddingConfig.of(judge, {"name": "logmel"}, clip_seconds=None)
    assert (config.sample_rate, config.hop_seconds, config.weights) == (16_000, 0.5, "")
    audio = [(f"{i}", 0.1 * draw(seconds * 16_000, seed=i).float()) for i, seconds in enumerate((2, 2, 2, 3, 1))]
    together = ClipEmbeddings.embed(judge, config, audio, batch_size=2, seeds={"generation": 3})
    assert together.lengths.tolist() == [3, 3, 3, 5, 1]
    alone = [ClipEmbeddings.embed(judge, config, [clip]) for clip in audio]
    torch.testing.assert_close(together.vectors, torch.cat([each.vectors for each in alone]))
    assert together.identity == set_hash(each.identity for each in alone)
    with pytest.raises(ValueError, match="no common grid"):
        together.grid()
    with pytest.raises(ValueError, match="Expected clips"):
        ClipEmbeddings.embed(judge, config, [])
    with pytest.raises(ValueError, match="'x' has shape"):
        ClipEmbeddings.embed(judge, config, [("x", torch.zeros(0))])


def test_the_weights_of_a_judge_are_in_its_protocol():
    class Learned(LogMel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    one, other = (EmbeddingConfig.of(Learned(), {"name": "learned"}, clip_seconds=5.0) for _ in range(2))
    assert one.weights != other.weights != ""


def test_the_same_weights_from_another_place_are_the_same_judge():
    class Learned(LogMel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    judge = Learned()
    here = {"name": "learned", "model": "laion/clap", "revision": "abc", "layer": 3, "part": {"weights": "a.pth"}}
    there = {**here, "model": "/home/someone/clap", "revision": None, "part": {"weights": "/tmp/b.pth"}}
    one, other = (EmbeddingConfig.of(judge, spec, clip_seconds=5.0) for spec in (here, there))
    assert one == other
    assert one.embedder == {"name": "learned", "layer": 3, "part": {}}
    assert weight_sources(there) == {"model": "clap", "part.weights": "b.pth"}


def test_a_hash_of_prompts_minds_what_was_asked_and_how_often_but_no_order():
    assert prompts_hash(["a", {"text": "b", "key": "C"}]) == prompts_hash([{"key": "C", "text": "b"}, "a"])
    assert len({prompts_hash(p) for p in (["a"], ["a", "a"], ["b"], [], ["a", "b"], ['a", "b'])}) == 6
    assert prompts_hash([]) == ""
    assert set_hash(["0a", "ff"]) == set_hash(["ff", "0a"]) != set_hash(["0a", "0a"])


@pytest.fixture(scope="module")
def pair() -> tuple[MetricResult, MetricResult]:
    reference = clips(30, 9)
    return fad(clips(30, 0, shift=1.0), reference), fad(clips(30, 1, shift=0.2), reference)


def test_like_scores_compare_whatever_their_seeds_and_version(pair: tuple[MetricResult, MetricResult]):
    worse, better = pair
    assert worse.config.seeds["generation"] != better.config.seeds["generation"]
    assert better < worse
    assert worse > better
    assert better.is_better_than(worse)
    assert not worse.is_better_than(better)
    older = replace(better, config=replace(better.config, version="0.0.1"))
    assert older < worse
    assert worse.config.version == __version__


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_clips": 31}, "num_clips: 30 and 31"),
        ({"reference": "ab"}, "reference: '.*' and 'ab'"),
        ({"prompts": "cd"}, "prompts: '.*' and 'cd'"),
        ({"options": {"k": 3}}, "options.k: nothing and 3"),
        ({"embedding": replace(CONFIG, weights="x")}, "embedding.weights: '0123abcd' and 'x'"),
        ({"embedding": replace(CONFIG, mono="left")}, "embedding.mono: 'mean of channels' and 'left'"),
        ({"embedding": replace(CONFIG, loudness="-23 LUFS")}, "embedding.loudness: 'unchanged' and '-23 LUFS'"),
        ({"embedding": replace(CONFIG, resampling="linear")}, "embedding.resampling"),
        ({"embedding": replace(CONFIG, clip_seconds=5.0)}, "embedding.clip_seconds: 10.0 and 5.0"),
    ],
)
def test_unlike_scores_do_not_compare_and_say_why(
    pair: tuple[MetricResult, MetricResult], changes: dict[str, Any], told: str
):
    score, other = pair[0], replace(pair[1], config=replace(pair[1].config, **changes))
    comparisons: list[Callable[[], Any]] = [
        lambda: score < other,
        lambda: score > other,
        lambda: score - other,
        lambda: score / other,
        lambda: score.is_better_than(other),
    ]
    for compare in comparisons:
        with pytest.raises(IncomparableError, match=f"measured differently: {told}"):
            compare()


def test_a_score_is_not_compared_with_another_kind_or_a_number(pair: tuple[MetricResult, MetricResult]):
    with pytest.raises(IncomparableError, match="name: 'FAD' and 'KAD'"):
        _ = pair[0] < replace(pair[1], name="KAD")
    number: Any = 3.0
    with pytest.raises(TypeError, match="not with the bare number"):
        _ = pair[0] < number


def test_a_score_needs_an_interval_a_protocol_and_a_finite_value(pair: tuple[MetricResult, MetricResult]):
    bare: Any = None
    for name, value, wrong in (
        ("config", bare, "MetricConfig"),
        ("interval", bare, "Interval"),
        ("value", math.nan, "finite"),
    ):
        with pytest.raises(ValidationError, match=rf"MetricResult\n{name}\n.*{wrong}"):
            replace(pair[0], **{name: value})
    with pytest.raises(ValidationError, match="finite"):
        replace(pair[0].interval, low=math.inf)
    broken = Metric("Broken", lambda clips, reference, *, seed: Statistic(lambda a, b: math.nan), "lower")
    with pytest.raises(ValueError, match=r"Broken is nan \[nan, nan\]: not finite\."):
        broken(clips(4, 0), clips(4, 1))


def test_a_difference_and_a_ratio_of_scores_have_the_spread_of_both():
    """Two means of 400 normal clips: the standard error of their difference is known."""
    ones = torch.ones(400, 1, dtype=torch.float64)
    scores = []
    for seed in (0, 1):
        angles = (1 + 0.1 * draw(400, seed=seed)).clamp(0, 2)
        vectors = torch.stack([angles.cos(), angles.sin()], 1)
        made = ClipEmbeddings(
            CONFIG, list(map(str, range(400))), ["0"] * 400, vectors, torch.ones(400).long(), ["p"] * 400
        )
        scores.append(clap_score(made, torch.cat([ones, 0 * ones], 1)))
    difference, ratio = scores[0] - scores[1], scores[0] / scores[1]
    error = 1.96 * (2 * 0.1**2 * np.sin(1) ** 2 / 400) ** 0.5
    assert difference.high - difference.low == pytest.approx(2 * error, rel=0.2)
    assert difference.low < 0 < difference.high
    assert ratio.high - ratio.low == pytest.approx(2 * error / np.cos(1), rel=0.2)
    assert ratio.low < 1 < ratio.high


def test_a_ratio_without_a_positive_interval_has_none():
    reference = clips(40, 0)
    near = kad(clips(40, 1), reference)
    assert near.interval.low < 0
    ratio = near / near
    assert ratio.value == 1
    assert np.isnan(ratio.low)


@pytest.fixture(scope="module")
def report() -> EvalReport:
    reference, embedded = clips(40, 9), clips(30, 0, shift=1.0)
    half = fad.split_half(reference)
    reconstructed, given = fad(clips(30, 3), reference), fad(clips(30, 4, shift=0.5), reference)
    clap = clap_score(embedded, embedded.means())
    covered = coverage(embedded, reference)
    few = fad(joined([clips(1, 0, windows=3), clips(1, 5, windows=2), clips(1, 6, windows=1)]), reference)
    return EvalReport(
        "A model | embedded",
        [
            EvalRow(
                "generated", fad(embedded, reference), dict(zip(CONTEXT, (half, reconstructed, given), strict=True))
            ),
            EvalRow("generated", clap, NONE),
            EvalRow(
                "generated",
                covered,
                {**NONE, SPLIT_HALF: coverage.split_half(reference)},
            ),
            EvalRow("three clips", few, {**NONE, SPLIT_HALF: half, CODEC_RECONSTRUCTION: reconstructed}),
        ],
        dataset="Composed music",
        dataset_id="composed",
        model="starter",
        facts={"suite": "smoke"},
    )


def test_a_report_survives_the_disk_and_every_score_keeps_its_protocol(report: EvalReport, tmp_path: Path):
    write_evaluation(report, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "index.html",
        "model-index.yaml",
        "report.json",
        "report.md",
    ]
    again = EvalReport.read(tmp_path / "out")
    assert again == report
    assert isinstance(again.rows[0].result.config, MetricConfig)
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN or Infinity
    with pytest.raises(ValueError, match="not a report of format 3"):
        EvalReport.from_json({"format": 1})


def test_a_report_without_a_model_writes_no_header_for_its_card(report: EvalReport, tmp_path: Path):
    write_evaluation(replace(report, model=""), tmp_path)
    assert not (tmp_path / "model-index.yaml").exists()


def test_the_page_of_a_report_shows_every_value_with_its_context_warnings_and_protocol(report: EvalReport):
    lines = render_markdown(report_of(report)).splitlines()
    first = report.rows[0]
    row = next(line for line in lines if line.startswith("| generated | logmel | FAD ↓"))
    for score in (first.result, *(other for _, other in first.context.items())):
        assert isinstance(score, MetricResult)
        assert format_number(score.value, interval_width(score.interval.low, score.interval.high)) in row
    assert f"({format_interval(first.result.interval.low, first.result.interval.high)})" in row
    table = [
        line for line in lines if line.startswith(("| evaluated | embedder", "| generated | logmel", "| three clips"))
    ]
    assert len(table) == 5
    assert len({len(line.split(" | ")) for line in table}) == 1
    assert any(
        line.startswith("- FAD, three clips: The covariance of the evaluated clips has rank 5 of 6") for line in lines
    )
    assert "- Codec reconstruction is not measured for CLAP score, generated; coverage, generated: no codec" in lines
    assert lines.count("| hash of the weights | 0123abcd |") == 1  # what is common stands once
    protocol = lines[lines.index("## How it was measured") :]
    assert sum("95%, 200 resamples of the 30 evaluated and 40 reference tracks |" in line for line in protocol) == 2
    assert sum("95%, 200 resamples of the 30 evaluated tracks |" in line for line in protocol) == 1
    assert [line.split(" | ")[0] for line in protocol if "resamples" in line] == [
        *("| FAD, generated", "| CLAP score, generated", "| coverage, generated", "| FAD, three clips"),
    ]
    assert "| suite | smoke |" in lines
    for result in (row.result for row in report.rows):
        assert any(result.name in line and result.meaning and line.endswith(f": {result.meaning}.") for line in lines)
    assert any(line.startswith("- Formulas and sources") and "docs/scores.md" in line for line in lines)
    (one,) = (line for line in lines if line.startswith("| codec reconstruction | "))
    assert len(one.split(" | ")) == 7  # FAD twice and the CLAP score, but not the coverage, and three others
    assert not any(text in "\n".join(lines) for text in ("{'", "['"))


def test_clips_of_one_caption_are_side_by_side(report: EvalReport, tmp_path: Path):
    def tracks(name: str, *captions: str) -> Sequence[Track]:
        files = [tmp_path / "clips" / name / f"{i}.wav" for i in range(len(captions))]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, 0.1 * np.sin(np.arange(4000) / 5), 8000)
        return [Track(file, file.name, (text,)) for file, text in zip(files, captions, strict=True)]

    sources = ("a waltz", "drums", "drums", "", "")
    sets = EvalSets(
        {
            GENERATED: tracks("generated", *(f"tune {i}" for i in range(6)), "drums"),
            SOURCES: tracks("sources", *sources),
            CODEC_RECONSTRUCTION: tracks("codec", *sources),
        }
    )
    write_evaluation(report, tmp_path, sets)
    markdown = (tmp_path / "report.md").read_text()
    assert markdown.count("### Without text\n") == 2
    cards = re.findall(r"### “(.*)”\n\n((?:- .*\n)+)", markdown)
    assert {caption: re.findall(r"\((.*?)\)", files) for caption, files in cards} == {
        "drums": ["clips/generated/6.wav", "clips/sources/1.wav", "clips/codec/1.wav"],
        **{f"tune {i}": [f"clips/generated/{i}.wav"] for i in range(3)},
        "a waltz": ["clips/sources/0.wav", "clips/codec/0.wav"],
    }


def test_each_cause_for_caution_is_named_once_with_its_metrics():
    reference, few = clips(40, 9), clips(8, 0)
    rows = [EvalRow("few", metric(few, reference, resamples=20), NONE) for metric in (fad_shrunk, kad, density)]
    assert warnings_of(rows) == ["All metrics: With fewer than 20 evaluated tracks, the interval is unreliable."]
    result, half = rows[1].result, kad.split_half(reference, num_clips=8)
    for shift, is_alike in ((0.0, True), (1e6, False)):
        low, high = result.interval.low + shift, result.interval.high + shift
        other = replace(half, interval=replace(half.interval, low=low, high=high))
        text = " ".join(warnings_of([EvalRow("few", result, {**NONE, SPLIT_HALF: other})]))
        assert ("overlaps those of all values beside it: these clips are too few to rank them." in text) == is_alike
    rows.append(EvalRow("few", fad(clips(30, 0), reference, resamples=20), NONE))
    assert warnings_of(rows)[0].startswith("FAD-shrunk; KAD; density: With fewer")


def test_metrics_of_few_clips_fit_a_terminal_of_80_columns():
    reference, few = clips(40, 9), clips(8, 0, shift=1.0)
    half = fad_shrunk.split_half(reference, num_clips=8)
    row = EvalRow("few", fad_shrunk(few, reference), {**NONE, SPLIT_HALF: half})
    assert half.config.num_clips == row.result.config.num_clips == 8
    long = replace(row.result, name="key and mode of every kind, by notes")
    console = Console(width=80, file=StringIO(), record=True)
    console.print(console_table(console_metrics([row, EvalRow("few", long, NONE)])))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert format_number(half.value) in text
    assert "key and mode" in text  # words are whole


def test_a_judged_clip_that_the_reference_holds_is_told():
    reference = clips(40, 9)
    warnings = kad(joined([clips(30, 0), reference.select([3, 5])]), reference, resamples=2).warnings
    assert warnings == ("2 evaluated clips, such as 9/3, are in the reference too.",)


def test_clips_of_one_name_are_refused():
    with pytest.raises(ValueError, match="2 names, such as '0/0', belong to several clips"):
        joined([clips(2, 0), clips(2, 0)])


def test_a_specification_is_kept_as_json_reads_it_and_without_folders_of_the_machine():
    judge, spec = LogMel(), {"name": "clap", "model": "/home/someone/music-clap", "layers": (1, 2), "id": "laion/clap"}
    config = EmbeddingConfig.of(judge, spec, clip_seconds=5.0)
    assert config.embedder == {"name": "clap", "model": "music-clap", "layers": [1, 2], "id": "laion/clap"}
    assert from_json(EmbeddingConfig, json.loads(json.dumps(to_json(config)))) == config


def test_the_header_of_a_model_card_is_what_the_hub_reads(report: EvalReport):
    from huggingface_hub import ModelCardData

    index = yaml.safe_load(yaml.safe_dump(model_index(report)))
    data = ModelCardData(**index, ignore_metadata_errors=False)
    assert data.eval_results is not None
    assert [result.metric_value for result in data.eval_results] == [row.result.value for row in report.rows]
    first = data.eval_results[0]
    assert (first.task_type, first.dataset_name, first.metric_type) == ("text-to-audio", "Composed music", "fad")
    assert first.metric_args is not None
    assert first.metric_args["embedding.embedder.name"] == "logmel"
    assert first.metric_args["interval"] == [
        report.rows[0].result.interval.low,
        report.rows[0].result.interval.high,
    ]


def test_a_report_takes_no_bare_number(report: EvalReport):
    number: Any = 1.5
    score = report.rows[0].result
    with pytest.raises(ValidationError, match=r"1\n.*MetricResult"):
        EvalRow("generated", number, NONE)
    with pytest.raises(ValidationError, match=r"2\n.*dictionary"):
        EvalRow("generated", score, number)
    with pytest.raises(ValidationError, match=r"MetricResult\n"):
        EvalRow("generated", score, {**NONE, CODEC_RECONSTRUCTION: number})
    with pytest.raises(ValidationError, match=r"1\.0\n.*EvalRow"):
        EvalReport("t", [number], "d", "d")


def test_a_context_is_the_same_score_by_the_same_judge(report: EvalReport):
    score = report.rows[0].result
    other = replace(score, config=replace(score.config, embedding=replace(CONFIG, weights="x")))
    with pytest.raises(ValueError, match=r"split half of 'a' is another metric: embedding\.weights"):
        EvalRow("a", score, {**NONE, SPLIT_HALF: other})
    with pytest.raises(ValueError, match="is another metric: name: 'FAD' and 'KAD'"):
        EvalRow("a", score, {**NONE, SPLIT_HALF: replace(score, name="KAD")})
