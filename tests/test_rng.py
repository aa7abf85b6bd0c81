"""Random numbers are functions of named keys, and no two purposes of a run share one."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codecdiff import Pipeline, rng
from codecdiff.config import DataConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import DRAWN_AT_ONCE
from codecdiff.pipeline import EditMask, levels_mask
from codecdiff.rng import generator, key_digest, numpy_generator, numpy_integers, numpy_words, row_noise
from codecdiff.training.batch import StageData
from codecdiff.training.trainer import StageTrainer

UNET = {"name": "unet", "width": 16, "multipliers": [1, 2], "layers": ["none", "text"], "heads": 2, "head_dim": 8}
KEYS = [("a",), ("b",), ("a", 0), ("a", "0"), ("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 2**40, 1), ("a", -1)]
KEYS += [("a", 2**32, 5), ("a", 0, 5 * 2**32 + 1)]  # which are the same 32-bit words


def test_a_generator_is_a_function_of_its_key() -> None:
    draws = {key: row_noise((3,), [generator(*key)]) for key in KEYS}
    assert all(torch.equal(row_noise((3,), [generator(*key)]), draw) for key, draw in draws.items())
    assert len({tuple(draw.flatten().tolist()) for draw in draws.values()}) == len(draws)
    draws = {key: tuple(numpy_generator(*key).random(3)) for key in KEYS}
    assert all(tuple(numpy_generator(*key).random(3)) == draw for key, draw in draws.items())
    assert len({*draws.values()}) == len(draws)


def test_what_is_drawn_at_once_is_what_the_generator_of_each_key_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def equal_words(keys: list[tuple[int | str, ...]]) -> bool:
        expected = [
            np.random.Philox(integer_sequence("a", *key)).random_raw(9).tolist() for key in keys
        ]  # of three counters
        assert [numpy_generator("a", *key).bit_generator.random_raw(9).tolist() for key in keys] == expected
        return all(numpy_words("a", keys, n).tolist() == [words[:n] for words in expected] for n in (1, 4, 5, 9))

    keys = [key[1:] for key in KEYS if key[0] == "a"]
    assert equal_words(keys * 2)
    assert numpy_words("a", []).shape == (0, 1)
    for num_zeros in (4, 5, 9, 31):  # integers of fewer words
        monkeypatch.setattr(hashlib, "sha256", lambda _, n=num_zeros: Digest(bytes(range(1, 33 - n)) + bytes(n)))
        assert equal_words(keys[:2])


@pytest.mark.parametrize("count", [1, 2, 1700, 2**31 - 1, 3 * 2**30, 2**32 - 1, 2**32, 2**40])
def test_integers_drawn_at_once_are_those_of_the_generator_of_each_key(count: int) -> None:
    """One of one is not drawn, of more than 2^31 often again, and of more than 2^32 in other words."""
    keys = [(i,) for i in range(200)]
    counts = np.array([(count, 1 + i % 3) if i % 2 else (1 + i % 3, count) for i in range(200)])
    expected = []
    for key, pair in zip(keys, counts.tolist(), strict=True):
        random = numpy_generator("a", *key)
        expected.append([random.integers(each) for each in pair])
    assert numpy_integers("a", keys, counts).tolist() == expected


class Digest(bytes):
    def digest(self) -> bytes:
        return self


def integer_sequence(name: str, *key: int | str) -> np.random.SeedSequence:
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(repr((name, *key)).encode()).digest(), "little"))


def test_no_two_purposes_of_a_run_share_a_key(
    make_pipeline: Callable[..., Pipeline], store: CodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages are trained, validated and sampled, and an edit is made: every key is drawn from at one place."""
    places, seeds = defaultdict(set), defaultdict(set)

    def recorded(name: str, *key: int | str) -> bytes:
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] == "codecdiff.rng" or frame.f_code.co_name.startswith(("<", "_row_noise")):
            assert frame.f_back
            frame = frame.f_back
        places[name].add((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        digest = key_digest(name, *key)
        sequence = np.random.SeedSequence(int.from_bytes(digest, "little"))
        seeds[int(sequence.generate_state(1, "uint64")[0])].add((name, *key))
        return digest

    monkeypatch.setattr(rng, "key_digest", recorded)
    pipeline, train = make_pipeline(), TrainConfig(train_batch_size=2, crop_seconds=0.1, context_noise_std=0.1)
    for i, stage in enumerate(pipeline.stages):
        stage.denoiser = pipeline.new_denoiser(i, {**UNET, "groups": 4, "vector": None})
        data = StageData(store, pipeline, i, train, DataConfig(), num_validation_crops=16)
        trainer = StageTrainer(stage, train)
        for step in range(2):
            trainer.step(data.step(step))
        trainer.validation_loss(data.validation())
        pipeline.stages[i] = trainer.ema_stage()
    prompts = ["a tone", ""]
    codes = torch.cat(list(pipeline.generate_codes(prompts, 20, num_waveforms_per_prompt=4)))
    edit = EditMask.from_codes(pipeline.codec, codes[:2]).keep(levels_mask(pipeline.codec, [0]))
    list(pipeline.generate_codes(prompts, 20, edit=edit))
    assert places.keys() == {
        "codecdiff.data.crop",
        "codecdiff.data.order",
        "codecdiff.generate.noise",
        "codecdiff.train.context_noise",
        "codecdiff.train.dropout",
        "codecdiff.train.initial_weights",
        "codecdiff.train.noise",
        "codecdiff.train.timesteps",
        "codecdiff.train.validation_noise",
    }
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
    assert {seed: keys for seed, keys in seeds.items() if len(keys) > 1} == {}
    by_key = defaultdict(int)
    for key in {key for keys in seeds.values() for key in keys}:
        by_key[key[0]] += 1
    assert by_key["codecdiff.train.noise"] == 2 * 2 * 2  # stages, steps, samples
    assert by_key["codecdiff.train.validation_noise"] == 2 * 16
    # training and validation crops, the same for both stages
    assert by_key["codecdiff.data.crop"] == DRAWN_AT_ONCE + 16
    assert by_key["codecdiff.generate.noise"] == 2 * 8
