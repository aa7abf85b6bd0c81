import math
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_starter import clips, evaluation
from codecdiff_starter.clips import compose_pieces, cut, quick, training_clips
from codecdiff_starter.codec import SpectralCodec
from codecdiff_starter.composer import COMPOSER_VERSION, SAMPLE_RATE, held_out, mapping
from codecdiff_starter.evaluation import Reading, evaluate, memorising, obedience, scores

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
    """A pipeline that plays what it is told to play."""

    def __init__(self, play):
        self.codec, self.sample_rate, self.device, self.stages = Samples(), SAMPLE_RATE, "cpu", ["primary", "secondary"]
        self.target, self.play, self.splitter = "codes", play, Parallel(num_codebooks=1)

    def generate_codes(self, prompts, frames, *, edit=None, seed, num_inference_steps, guidance_scale):
        yield from self.play(frames).split(1)

    def decode(self, codes, samples):
        return torch.cat([self.codec.decode(code)[..., :samples] for code in codes])

    def noise_codes(self, count, frames, *, seed):
        return torch.randint(-9000, 9000, (count, 1, frames), generator=torch.Generator().manual_seed(seed))


def model(play: Any = None) -> Any:
    return Model(play)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for i, clip in enumerate(compose_pieces(4, 3.0, 1, unseen=False).audio):
        soundfile.write(folder / f"{i}.flac", clip[0].numpy(), SAMPLE_RATE)
    return folder


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(clips, "PIECE_SECONDS", SECONDS)


def test_every_other_piece_is_of_a_combination_training_lacks_and_pieces_repeat(short_pieces):
    pieces = compose_pieces(12, SECONDS, 5, unseen=True)
    assert [held_out(facts) for facts in pieces.facts] == [True, False] * 6
    assert not any(held_out(facts) for facts in compose_pieces(12, SECONDS, 5, unseen=False).facts)
    again = compose_pieces(12, SECONDS, 5, unseen=True)
    assert again.prompts == pieces.prompts
    torch.testing.assert_close(again.audio, pieces.audio)
    with mapping(2) as each:
        torch.testing.assert_close(compose_pieces(12, SECONDS, 5, unseen=True, each=each).audio, pieces.audio)
    assert pieces.audio.shape == (12, 1, round(SECONDS * SAMPLE_RATE))


def test_a_model_that_plays_the_held_out_pieces_reaches_every_target(music, short_pieces):
    seed = 3

    def play(frames):
        return Samples().encode(compose_pieces(CLIPS, SECONDS, seed + 1, unseen=True).audio)

    steps = []
    pipeline = model(play)
    figures, details, examples = evaluate(
        pipeline, music, clips=CLIPS, seconds=SECONDS, seed=seed, examples=2, announce=steps.append
    )
    distance = details["frechet_distance"]
    assert distance["generated_ratio"]["value"] == pytest.approx(1)
    assert distance["true_primary"] == pytest.approx(distance["held_out"])
    assert [part["score"]["value"] for part in details["probes"]["parts"].values()] == pytest.approx([1] * 4)
    assert abs(details["probes"]["shuffled"]["value"]) < 0.1
    assert details["memorising"]["generated"]["ratio"] == pytest.approx(details["memorising"]["held_out"]["ratio"])
    assert details["composer_version"] == COMPOSER_VERSION
    assert all(figure.passed for figure in figures if "noise" not in figure.name)
    assert (
        steps == ["composing", "encoding", "generating", "decoding", "measuring"] == list(details["evaluation_seconds"])
    )
    assert [(e.kind, e.unseen) for e in examples] == [
        *((kind, unseen) for unseen in (True, False) for kind in ("composed", "held_out", "true_primary", "generated")),
        ("noise", False),
    ]


def test_a_model_that_plays_noise_scores_nothing(music, short_pieces):
    def play(frames):
        return model().noise_codes(CLIPS, frames, seed=8)

    figures, details, _ = evaluate(model(play), music, clips=CLIPS, seconds=SECONDS, seed=3, examples=1)
    assert abs(details["probes"]["mean"]["value"]) < 0.2
    assert details["frechet_distance"]["noise_ratio"]["value"] == pytest.approx(1, abs=0.1)
    missed = {figure.name for figure in figures if not figure.passed}
    assert missed >= {
        "Fréchet distance: generated over held-out",
        "Fréchet distance: noise over generated",
        "text is obeyed: mean probe score",
        "text is obeyed: least probe score",
    }


def test_what_cannot_be_compared_is_refused(music, tmp_path):
    with pytest.raises(ValueError, match="clips=4: compare at least 12"):
        evaluate(model(), music, clips=4)
    with pytest.raises(ValueError, match="seconds=0: compare clips of 1 to 60 seconds"):
        evaluate(model(), music, seconds=0)
    with pytest.raises(FileNotFoundError, match="holds no flac file"):
        training_clips(tmp_path, 2, 1.0, 0)
    with pytest.raises(ValueError, match=r"A piece of 3\.0 s holds no clip of 5 s"):
        training_clips(music, 2, 5.0, 0)


def test_a_cut_stays_inside_the_piece():
    piece, rng = np.arange(SAMPLE_RATE + 3, dtype=np.float32), np.random.default_rng(0)
    starts = {int(cut(piece, 1.0, rng)[0]) for _ in range(50)}
    assert starts == {0, 1, 2, 3}


def test_scores_are_one_at_the_ceiling_and_zero_at_chance():
    truth = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 0, 1, 2]])
    constant = torch.zeros_like(truth)
    assert scores(truth, truth, [1.0] * 4).tolist() == pytest.approx([1] * 4)
    assert scores(constant, truth, [1.0] * 4).tolist() == pytest.approx([0] * 4, abs=1e-6)


def test_obedience_of_random_answers_covers_zero_and_of_right_ones_is_one():
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 3, (120, 4), generator=generator) for _ in range(2))
    truth[:, 0], guess[:, 0] = (torch.randint(0, 4, (120,), generator=generator) for _ in range(2))
    text = obedience(Reading(truth, guess, truth), seed=0)
    assert text["mean"]["low"] < 0 < text["mean"]["high"]
    assert text["least"]["value"] == min(part["score"]["value"] for part in text["parts"].values())
    assert obedience(Reading(truth, truth, truth), seed=0)["mean"]["value"] == pytest.approx(1)


def test_a_model_that_plays_training_clips_is_seen_to_remember():
    generator = torch.Generator().manual_seed(0)
    sets = {
        name: torch.randn(16, 3, 8, generator=generator).double()
        for name in ("training", "lessons", "held_out", "generated")
    }
    assert memorising(sets, 0)["generated"]["ratio"]["value"] == pytest.approx(1, abs=0.2)
    sets["generated"] = sets["training"] + 0.01
    assert memorising(sets, 0)["generated"]["ratio"]["value"] < 0.1


def test_quick_decoding_ends_with_its_block_even_when_it_fails():
    codec: Any = torch.nn.ModuleList([SpectralCodec(griffin_lim_iterations=9), SpectralCodec(griffin_lim_iterations=0)])

    def fail():
        with quick(codec):
            assert [inner.griffin_lim_iterations for inner in codec] == [clips.QUICK_ITERATIONS, 0]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [inner.griffin_lim_iterations for inner in codec] == [9, 0]


def test_peak_memory_is_that_of_a_process_with_torch():
    assert 0.05 < evaluation.peak_memory() < 64
    assert math.isfinite(evaluation.peak_memory())
