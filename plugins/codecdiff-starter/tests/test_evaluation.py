import math
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, NOISE, EvalSets, noise_codes
from codecdiff_eval.metric import load_metric
from codecdiff_eval.metrics.probe import ProbeReading
from codecdiff_eval.metrics.signal import pulse_strength
from codecdiff_eval.suites import load_suite
from codecdiff_starter import clips
from codecdiff_starter.clips import compose_clips, cut, training_clips
from codecdiff_starter.composer import COMPOSER_VERSION, PARTS, SAMPLE_RATE, held_out, mapping
from codecdiff_starter.evaluation import (
    COMPOSED,
    ORACLE,
    PROBE_TRAINING,
    TRAINING,
    EvalOptions,
    adherence,
    estimate,
    evaluate_model,
    memorization,
    memory_in_use,
)

from codecdiff import Codec
from codecdiff.splitters import Parallel

pytestmark = pytest.mark.integration

CLIPS, SECONDS = 24, 2.0


class Samples(Codec):
    """A codec that loses next to nothing: a frame is a sample and a code its 16-bit value."""

    sample_rate, channels, hop_length = SAMPLE_RATE, 1, 1
    num_codebooks, codebook_size, codebook_dim = 1, 65536, 1

    def encode(self, audio):
        return (audio * 32767).round().long()

    def embed(self, codes):
        return codes[:, :, None] / 32767

    def quantize(self, latents):
        return (latents[:, :, 0] * 32767).round().long()

    def decode(self, codes):
        return codes / 32767


class Model:
    """A pipeline that generates what `play` returns."""

    def __init__(self, play):
        self.codec, self.sample_rate, self.device = Samples(), SAMPLE_RATE, "cpu"
        self.stage_names = ["primary", "secondary"]
        self.target, self.play, self.splitter = "codes", play, Parallel(num_codebooks=1)

    def generate_codes(self, prompts, frames, *, edit=None, seed, num_inference_steps, guidance_scale):
        yield from self.play(frames).split(1)

    def decode(self, codes, samples):
        return torch.cat([self.codec.decode(code)[..., :samples] for code in codes])


def model(play: Any = None) -> Any:
    return Model(play)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for i, clip in enumerate(compose_clips(4, 3.0, 1, unseen=False).audio):
        soundfile.write(folder / f"{i}.flac", clip[0].numpy(), SAMPLE_RATE)
    return folder


def pulse_strength_of(clip: torch.Tensor) -> float:
    resampled = soxr.resample(clip.numpy(), SAMPLE_RATE, 22_050)
    strength = librosa.onset.onset_strength(y=resampled, sr=22_050, hop_length=256)
    return pulse_strength(torch.from_numpy(strength), 22_050 / 256)


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(clips, "TRACK_SECONDS", SECONDS)


def test_every_other_piece_is_of_a_combination_training_lacks_and_pieces_repeat(short_pieces):
    pieces = compose_clips(12, SECONDS, 5, unseen=True)
    assert [held_out(facts) for facts in pieces.facts] == [True, False] * 6
    assert not any(held_out(facts) for facts in compose_clips(12, SECONDS, 5, unseen=False).facts)
    again = compose_clips(12, SECONDS, 5, unseen=True)
    assert again.prompts == pieces.prompts
    torch.testing.assert_close(again.audio, pieces.audio)
    with mapping(2) as each:
        torch.testing.assert_close(compose_clips(12, SECONDS, 5, unseen=True, each=each).audio, pieces.audio)
    assert pieces.audio.shape == (12, 1, round(SECONDS * SAMPLE_RATE))


def test_a_model_that_plays_the_held_out_pieces_reaches_every_target(music, short_pieces):
    seed = 3

    def play(frames):
        return Samples().encode(compose_clips(CLIPS, SECONDS, seed + 1, unseen=True).audio)

    steps = []
    pipeline = model(play)
    options = EvalOptions(CLIPS, SECONDS, seed, num_examples=2)
    targets, details, examples = evaluate_model(pipeline, music, options, announce=steps.append)
    distance, ratios = details["frechet distance"], details["memorization"]
    assert distance["generated ratio"].value == pytest.approx(1)
    assert distance[ORACLE] == pytest.approx(distance[CODEC_RECONSTRUCTION])
    assert [part["score"].value for part in details["probes"]["parts"].values()] == pytest.approx([1] * 4)
    assert abs(details["probes"]["permuted"].value) < 0.1
    assert ratios[GENERATED]["ratio"] == pytest.approx(ratios[CODEC_RECONSTRUCTION]["ratio"])
    assert details["composer version"] == COMPOSER_VERSION
    missed = [target for target in targets if target.passed is False and "noise" not in target.name]
    assert not missed
    assert (
        steps == ["composing", "encoding", "generating", "decoding", "measuring"] == list(details["evaluation_seconds"])
    )
    names = (COMPOSED, CODEC_RECONSTRUCTION, ORACLE, GENERATED)
    assert [example.is_unseen for example in examples] == [True, False, False]
    assert [tuple(example.clips) for example in examples] == [names, names, (NOISE,)]


def test_a_model_that_plays_noise_scores_nothing(music, short_pieces):
    def play(frames):
        return noise_codes(model(), CLIPS, frames, seed=8)

    targets, details, _ = evaluate_model(model(play), music, EvalOptions(CLIPS, SECONDS, 3, num_examples=1))
    assert abs(details["probes"]["all"].value) < 0.2
    assert details["frechet distance"]["noise ratio"].value == pytest.approx(1, abs=0.1)
    missed = {target.name for target in targets if not target.passed}
    assert missed >= {
        "Fréchet distance: generated over codec reconstruction",
        "Fréchet distance: noise over generated",
        "pulse strength",
        "tuning error, cents",
        "prompt adherence: probe score",
    }


def test_what_cannot_be_compared_is_refused(music, tmp_path):
    with pytest.raises(ValueError, match="Invalid number of clips 4: expected at least 12"):
        EvalOptions(clips=4)
    with pytest.raises(ValueError, match="Invalid clip length 0: expected 1 to 60 seconds"):
        EvalOptions(seconds=0)
    other = model()
    other.sample_rate = 8000
    with pytest.raises(ValueError, match="The model generates at 8000 Hz, and the composer at 44100 Hz"):
        evaluate_model(other, music, EvalOptions())
    with pytest.raises(FileNotFoundError, match="holds no flac file"):
        training_clips(tmp_path, 2, 1.0, 0)
    with pytest.raises(ValueError, match=r"A track of 3\.0 s holds no clip of 5 s"):
        training_clips(music, 2, 5.0, 0)


def test_a_cut_stays_inside_the_piece():
    piece, rng = np.arange(SAMPLE_RATE + 3, dtype=np.float32), np.random.default_rng(0)
    starts = {int(cut(piece, 1.0, rng)[0]) for _ in range(50)}
    assert starts == {0, 1, 2, 3}


def readings(truth: torch.Tensor, read: torch.Tensor) -> dict[str, ProbeReading]:
    columns = zip(PARTS, truth.T, read.T, (4, 3, 3, 3), strict=True)
    return {part: ProbeReading(true, found, true, classes) for part, true, found, classes in columns}


def test_scores_are_one_at_the_upper_bound_and_zero_at_chance():
    truth, everything = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 0, 1, 2]]), torch.arange(4)
    right, constant = readings(truth, truth), readings(truth, torch.zeros_like(truth))
    assert [reading.score(everything) for reading in right.values()] == pytest.approx([1] * 4)
    assert [reading.score(everything) for reading in constant.values()] == pytest.approx([0] * 4, abs=1e-6)


def test_adherence_of_random_answers_covers_zero_and_of_right_ones_is_one():
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 3, (120, 4), generator=generator) for _ in range(2))
    truth[:, 0], guess[:, 0] = (torch.randint(0, 4, (120,), generator=generator) for _ in range(2))
    measured = adherence(readings(truth, guess), seed=0)
    assert measured["all"].low < 0 < measured["all"].high
    assert min(part["score"].low for part in measured["parts"].values()) < 0
    assert adherence(readings(truth, truth), seed=0)["all"].value == pytest.approx(1)


def test_a_part_counts_by_what_can_be_read_off_real_music():
    truth, clear, vague = torch.arange(3).repeat(20), torch.arange(3).repeat(20), torch.zeros(60).long()
    vague[1::3] = 1  # two of three classes
    found = {
        "clear": ProbeReading(truth, clear, clear, 3),  # 2/3 above chance, and so is the upper bound
        "vague": ProbeReading(truth, torch.zeros_like(truth), vague, 3),  # at chance; the upper bound is 1/3 above it
    }
    assert adherence(found, seed=0)["all"].value == pytest.approx((2 / 3 + 0) / (2 / 3 + 1 / 3))


def test_estimates_are_those_of_the_metrics_and_say_what_real_music_has():
    composed = compose_clips(6, 4.0, 2, unseen=False)
    noise = torch.randn(composed.audio.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    sets = EvalSets({GENERATED: noise, CODEC_RECONSTRUCTION: composed.audio})
    prompts = ["a piece in C major, 120 bpm", "a piece at 90 bpm in A minor", *["strings"] * 4]
    measured = estimate(sets, prompts, SAMPLE_RATE, seed=0)
    assert list(measured) == ["pulse", "tuning-error", "tempo-double", "key"]
    assert measured["key"].config.num_clips == measured["tempo-double"].config.num_clips == 2
    pulse, tuning = measured["pulse"], measured["tuning-error"]
    assert pulse.upper_bound is not None
    assert tuning.upper_bound is not None
    assert pulse.value < 0.4 < pulse.upper_bound.value
    assert tuning.value > 20 > tuning.upper_bound.value
    expected = [pulse_strength_of(clip) for clip in composed.audio[:, 0]]
    assert pulse.upper_bound.value == pytest.approx(sum(expected) / 6)
    assert list(estimate(sets, ["strings"] * 6, SAMPLE_RATE, seed=0)) == ["pulse", "tuning-error"]


def test_a_model_that_copies_training_clips_is_seen_to_memorize():
    generator = torch.Generator().manual_seed(0)
    names = (TRAINING, PROBE_TRAINING, CODEC_RECONSTRUCTION, GENERATED)
    sets = EvalSets({name: torch.randn(16, 3, 8, generator=generator).double() for name in names})
    assert memorization(sets, 0)[GENERATED]["ratio"].value == pytest.approx(1, abs=0.2)
    sets[GENERATED] = sets.get_set(TRAINING) + 0.01
    assert memorization(sets, 0)[GENERATED]["ratio"].value < 0.1


def test_memory_is_that_of_a_process_with_torch():
    assert 0.05 < memory_in_use() < 64
    assert math.isfinite(memory_in_use())


def test_the_suite_of_the_demo_is_installed():
    suite = load_suite("starter")
    assert list(suite.select()) == ["logmel", "musicnn"]
    for name in (name for metrics in suite.select().values() for name in metrics):
        assert load_metric(name).label
    assert suite.codec_quality
