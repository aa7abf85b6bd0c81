import math

import pytest
import torch
from codecdiff_eval.audio_features import FLOOR, frame_change, log_mel, mel_filterbank, window_features
from codecdiff_eval.metrics.bootstrap import Draws, bootstrap, bootstrap_tracks, interval_of, permuted
from codecdiff_eval.metrics.gaussian import ledoit_wolf, shrunk_frechet_distance
from codecdiff_eval.metrics.neighbors import distance_ratio, nearest_distance, nearest_distances
from codecdiff_eval.metrics.probe import Probe, ProbeReading, balanced_accuracy, probe_score
from torch import Tensor

RATE = 44_100


def gaussian(n: int, p: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def classes(n: int, num_classes: int, distance: float, seed: int) -> tuple[Tensor, Tensor]:
    """n clips of 3 windows of 8 features whose class mean lies `distance` along its own axis, and their labels."""
    labels = torch.arange(n) % num_classes
    features = gaussian(n * 3, 8, seed).unflatten(0, (n, 3))
    return features + distance * torch.eye(8, dtype=torch.float64)[labels][:, None], labels


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mel_bands_overlap_to_one_between_the_outer_centres(rate):
    filters = mel_filterbank(rate, 2048)
    peaks = filters.argmax(1)
    assert filters.min() >= 0
    assert (peaks.diff() > 0).all()
    torch.testing.assert_close(
        filters.sum(0)[peaks[0] + 1 : peaks[-1]], torch.ones(int(peaks[-1] - peaks[0] - 1)).double()
    )


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("band", [2, 10, 25])
def test_a_tone_is_loudest_in_its_own_band(rate, band):
    fft_size = {16_000: 512, 44_100: 2048, 48_000: 2048}[rate]
    hertz = float(mel_filterbank(rate, fft_size)[band].argmax()) * rate / fft_size
    assert (log_mel(tone(hertz, rate=rate), rate).mean(2).argmax(1) == band).all()


def test_band_power_follows_the_audio_and_ends_at_the_floor():
    loud, quiet = log_mel(tone(1000), RATE).amax(1), log_mel(tone(1000) / 10, RATE).amax(1)
    torch.testing.assert_close((loud - quiet)[:, 5:-5], torch.full((1, 91), math.log(100)), atol=0.01, rtol=0)
    assert torch.all(log_mel(torch.zeros(1, RATE), RATE) == math.log(FLOOR))


def test_window_features_are_mean_and_deviation_of_half_overlapped_seconds():
    audio = gaussian(2, 5 * RATE, seed=0).float() * torch.linspace(0, 1, 5 * RATE)
    features = window_features(audio, RATE)
    assert features.shape == (2, 9, 64)
    assert features.dtype == torch.float64
    third = log_mel(audio, RATE)[:, :, 100:200].double()
    torch.testing.assert_close(features[:, 2], torch.cat([third.mean(2), third.var(2, correction=0).sqrt()], 1))


def test_features_of_a_clip_do_not_depend_on_its_neighbors():
    audio = gaussian(9, RATE, seed=0, scale=0.1).float()
    torch.testing.assert_close(window_features(audio, RATE)[8:], window_features(audio[8:], RATE))


def test_short_or_many_channelled_audio_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"at least 1 s of audio, but got 0\.50 s: take longer clips"):
        window_features(torch.zeros(1, RATE // 2), RATE)
    with pytest.raises(ValueError, match="more than 1024 samples of audio, but got 1"):
        log_mel(torch.zeros(1, 1), RATE)
    with pytest.raises(ValueError, match=r"mono clips, \(n, t\), but got shape \(2, 1, 44100\)"):
        window_features(torch.zeros(2, 1, RATE), RATE)


@pytest.mark.parametrize("n", [5, 40, 400])
def test_ledoit_wolf_is_the_published_sum_over_samples(n):
    x = gaussian(n, 12, seed=n) * torch.linspace(0.1, 3, 12).double()
    centred = x - x.mean(0)
    sample = sum(torch.outer(row, row) for row in centred) / n
    norm = lambda matrix: float((matrix**2).sum()) / 12  # noqa: E731 - the paper's norm, Frobenius over p
    m = float(torch.trace(sample)) / 12
    d2 = norm(sample - m * torch.eye(12).double())
    b2 = min(d2, sum(norm(torch.outer(row, row) - sample) for row in centred) / n**2)
    expected = b2 / d2 * m * torch.eye(12).double() + (1 - b2 / d2) * sample
    torch.testing.assert_close(ledoit_wolf(x), expected)


def test_ledoit_wolf_is_positive_definite_with_fewer_samples_than_features_and_needs_two():
    assert torch.linalg.eigvalsh(ledoit_wolf(gaussian(10, 64, seed=0))).min() > 0
    assert torch.all(ledoit_wolf(torch.ones(4, 3)) == 0)
    with pytest.raises(ValueError, match="at least 2 samples, but got 1"):
        ledoit_wolf(torch.ones(1, 3))


def test_frechet_of_identical_sets_is_zero_and_of_any_two_symmetric():
    a, b = gaussian(200, 64, seed=0), gaussian(200, 64, seed=1) @ gaussian(64, 64, seed=2)
    assert shrunk_frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert shrunk_frechet_distance(a, b) == pytest.approx(shrunk_frechet_distance(b, a), rel=1e-9)


def test_a_translation_adds_its_squared_length():
    a, b = gaussian(200, 16, seed=0), gaussian(200, 16, seed=1, scale=2)
    b = b - b.mean(0) + a.mean(0)
    assert shrunk_frechet_distance(a, b + 3) == pytest.approx(shrunk_frechet_distance(a, b) + 16 * 9, rel=1e-9)


def test_frechet_comes_to_the_closed_form_of_known_gaussians():
    scale = torch.linspace(0.5, 2, 8).double()
    closed_form = float(8 * 0.5**2 + (1 - scale).square().sum())  # commuting covariances: |m|^2 + |1 - scale|^2
    errors = [
        abs(shrunk_frechet_distance(gaussian(n, 8, seed=0), gaussian(n, 8, seed=1) * scale + 0.5) - closed_form)
        for n in (100, 100_000)
    ]
    assert errors[1] < 0.05 < errors[0]


def test_frechet_of_covariances_that_do_not_commute_is_the_trace_of_the_complex_root():
    a, b = gaussian(500, 5, seed=0) @ gaussian(5, 5, seed=1), gaussian(500, 5, seed=2) @ gaussian(5, 5, seed=3)
    product_values = torch.linalg.eigvals(ledoit_wolf(a) @ ledoit_wolf(b))
    traces = torch.trace(ledoit_wolf(a) + ledoit_wolf(b)) - 2 * product_values.sqrt().sum().real
    expected = float((a.mean(0) - b.mean(0)).square().sum() + traces)
    assert shrunk_frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_degenerate_sets_is_finite():
    assert shrunk_frechet_distance(torch.zeros(4, 64), torch.ones(4, 64)) == pytest.approx(64)


@pytest.mark.integration
def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        estimate = bootstrap(lambda clips: float(clips.mean()), gaussian(40, 1, seed), seed=seed)
        covered += estimate.low < 0 < estimate.high
    assert 87 <= covered <= 99


def test_the_bootstrap_resamples_clips_not_windows_and_repeats_with_its_seed():
    clips = gaussian(30, 1, seed=0)[:, None].expand(30, 9, 1)  # nine equal windows a clip tell no more than one
    one = bootstrap(lambda c: float(c.mean()), clips[:, :1], seed=3)
    nine = bootstrap(lambda c: float(c.mean()), clips, seed=3)
    assert nine == pytest.approx(one)
    assert bootstrap(lambda c: float(c.mean()), clips, seed=4) != nine


def test_the_frechet_interval_contains_the_distance_and_narrows_with_more_clips():
    def width(n: int) -> float:
        a, b = gaussian(n * 9, 8, seed=0).unflatten(0, (n, 9)), gaussian(n * 9, 8, seed=1).unflatten(0, (n, 9)) + 0.5
        estimate = bootstrap(shrunk_frechet_distance, a, b)
        assert estimate.low < estimate.value == shrunk_frechet_distance(a, b) < estimate.high
        return estimate.high - estimate.low

    assert width(160) < 0.7 * width(20)


def test_a_probe_separates_what_is_separable_and_not_what_is_not():
    probe = Probe.fit(*classes(200, 4, 3.0, seed=0))
    features, labels = classes(200, 4, 3.0, seed=1)
    assert balanced_accuracy(probe.predict(features), labels) > 0.95
    features, labels = classes(400, 4, 0.0, seed=1)
    assert balanced_accuracy(probe.predict(features), labels) == pytest.approx(0.25, abs=0.08)


def test_a_probe_does_not_mind_units_or_rare_classes():
    features, labels = classes(400, 2, 2.0, seed=0)
    rare = (labels == 0) | (torch.arange(400) < 40)
    probe = Probe.fit(features[rare] * 1000 + 5, labels[rare])
    test_features, test_labels = classes(400, 2, 2.0, seed=1)
    predicted = probe.predict(test_features * 1000 + 5)
    recalls = [float((predicted[test_labels == c] == c).double().mean()) for c in (0, 1)]
    assert min(recalls) > 0.8
    assert balanced_accuracy(predicted, test_labels) == pytest.approx(sum(recalls) / 2)


def test_a_probe_stands_at_the_minimum_of_its_convex_loss():
    features, labels = classes(60, 3, 1.0, seed=0)
    probe = Probe.fit(features, labels)
    x = (features.flatten(0, 1) - probe.mean) / probe.deviation
    error = (x @ probe.weights + probe.bias).softmax(1) - torch.eye(3).double()[labels.repeat_interleave(3)]
    gradient = x.T @ error / len(x) + 0.003 * probe.weights  # the classes are equal here, so the weights are too
    assert gradient.abs().max() < 1e-4


def test_a_probe_with_one_class_or_a_missing_one_is_refused():
    features, _ = classes(4, 2, 1.0, seed=0)
    for labels in ([0, 0, 0, 0], [0, 0, 2, 2]):
        with pytest.raises(ValueError, match="clips of at least two classes and of every class"):
            Probe.fit(features, torch.tensor(labels))


def test_a_balanced_accuracy_gives_a_constant_answer_no_more_than_chance():
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert balanced_accuracy(torch.zeros(100, dtype=torch.long), labels) == 0.5


def test_a_probe_score_is_zero_at_chance_one_at_the_ceiling_and_undefined_without_one():
    assert probe_score(0.25, 0.85, 0.25) == 0
    assert probe_score(0.85, 0.85, 0.25) == 1
    assert math.isnan(probe_score(0.5, 0.25, 0.25))


def test_shuffled_labels_give_chance():
    features, labels = classes(64, 4, 3.0, seed=1)
    predicted = Probe.fit(*classes(200, 4, 3.0, seed=0)).predict(features)
    estimate = permuted(lambda dealt: balanced_accuracy(predicted, dealt), labels)
    assert estimate.value == pytest.approx(0.25, abs=0.02)
    assert estimate.low < 0.25 < estimate.high < 0.45


def test_the_nearest_distance_of_a_copied_clip_is_zero():
    reference = gaussian(20 * 3, 8, seed=0).unflatten(0, (20, 3))
    fresh = gaussian(5 * 3, 8, seed=1).unflatten(0, (5, 3))
    distances = nearest_distance(torch.cat([reference[7:8], fresh]), reference)
    assert distances[0] == pytest.approx(0, abs=1e-6)
    by_hand = [min(float((clip.mean(0) - other.mean(0)).norm()) for other in reference) for clip in fresh]
    torch.testing.assert_close(distances[1:], torch.tensor(by_hand).double())


def test_the_spectrum_changes_where_two_sounds_are_joined() -> None:
    times = torch.arange(2 * RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 200 * times), torch.sin(2 * torch.pi * 3000 * times)
    change = frame_change(torch.where(times < 1, low, high)[None], RATE)[0]
    edge = change[90:110].max()
    assert edge > 20 * torch.cat([change[10:90], change[110:190]]).max()
    assert change.shape == (200,)


def test_memorization_is_the_ratio_of_the_mean_distances_to_training_and_to_as_many_fresh_clips():
    generated, training, fresh = (gaussian(3 * n, 8, seed=n).unflatten(0, (n, 3)) for n in (5, 7, 9))
    distances = nearest_distances(generated, training, fresh)
    torch.testing.assert_close(distances[:, 0], nearest_distance(generated, training))
    torch.testing.assert_close(distances[:, 1], nearest_distance(generated, fresh[:7]))
    ratio = float(distances[:, 0].mean() / distances[:, 1].mean())
    assert distance_ratio(distances) == pytest.approx(ratio)
    assert distance_ratio(nearest_distances(training, training, fresh)) == pytest.approx(0, abs=1e-6)


def test_clips_whose_class_is_not_known_count_for_no_probe():
    truth, read = torch.tensor([0, 1, -1, 1]), torch.tensor([0, 1, 0, 0])
    reading = ProbeReading(truth, read, truth, 2)
    assert reading.score(torch.arange(4)) == ProbeReading(truth[[0, 1, 3]], read[[0, 1, 3]], truth[[0, 1, 3]], 2).score(
        torch.arange(3)
    )
    assert reading.accuracies(torch.tensor([0, 1])) == (1, 1)
    assert math.isnan(reading.score(torch.tensor([2])))


def test_a_paired_difference_is_far_narrower_than_that_of_independent_resamples():
    hard = gaussian(40, 1, seed=0)[:, 0]
    models = hard, hard + 0.1 + 0.05 * gaussian(40, 1, seed=1)[:, 0]
    tracks = [torch.tensor([2 * i, 2 * i + 1]) for i in range(20)]
    draws = Draws.of(tracks, tracks, seed=0).evaluated
    assert sorted(draws[0].tolist()) == list(range(40))
    assert all(len(drawn) == 40 and set((drawn // 2).tolist()) <= set(range(20)) for drawn in draws)
    paired = interval_of(torch.stack([models[1][drawn].mean() - models[0][drawn].mean() for drawn in draws]))
    assert paired.low < 0.1 < paired.high
    alone = bootstrap_tracks(lambda clips: float(hard[clips].mean()), tracks)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    one = bootstrap_tracks(lambda clips: float(models[1][clips].mean() - models[0][clips].mean()), tracks)
    assert (one.low, one.high) == pytest.approx((paired.low, paired.high), abs=0.01)
