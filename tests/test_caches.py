"""Features of prompts on disk: bit for bit what was computed, shared by processes, without the encoder in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import Letters
from torch import Tensor

from codecdiff import Condition, Prompt, config
from codecdiff.conditioners.cached import CachedConditioner, narrowest
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.conditioners.numeric import FieldType, NumericConditioner
from codecdiff.testing import check_conditioner

PROMPTS: list[Prompt] = ["slow", "a faster piece", "", {"text": "slow", "tempo": 90}]


def letters(cached: CachedConditioner) -> Letters:
    """Give what encodes in a cache."""
    assert isinstance(cached.conditioner, Letters)
    return cached.conditioner


def same(one: Condition, other: Condition) -> bool:
    pairs = zip(one.items(), other.items(), strict=True)
    return all(
        a == b and torch.equal(x.tokens, y.tokens) and x.tokens.dtype == y.tokens.dtype and torch.equal(x.mask, y.mask)
        for (a, x), (b, y) in pairs
    )


def test_what_is_read_is_what_was_computed_to_the_bit(tmp_path: Path) -> None:
    cached, again = CachedConditioner(Letters(), tmp_path), CachedConditioner(Letters(), tmp_path)
    expected = Letters().encode(PROMPTS)
    assert same(cached.encode(PROMPTS), expected)
    assert same(again.encode(PROMPTS), expected)
    assert same(again.encode([]), Letters().encode([]).map(lambda _, e: (e.tokens[:, :1], e.mask[:, :1])))
    assert not letters(again).computed
    assert len(letters(cached).computed) == 3  # "slow" once
    check_conditioner(cached)


def test_a_prepared_and_released_encoder_has_no_weights_and_is_not_asked(tmp_path: Path) -> None:
    cached = CachedConditioner(Letters(), tmp_path)
    expected = cached.encode(PROMPTS)
    cached.prepare(PROMPTS)
    cached.release()
    assert letters(cached).table.is_meta
    assert not list(cached.parameters())
    assert same(cached.to("cpu").encode(PROMPTS), expected)
    assert letters(cached).table.is_meta


def test_a_prompt_that_was_not_prepared_builds_the_encoder_again(tmp_path: Path) -> None:
    cached = CachedConditioner(
        JoinedConditioner([Letters(seed=3), NumericConditioner({"tempo": FieldType(low=0, high=200)})]), tmp_path
    )
    cached.prepare(["slow"])
    cached.release()
    with pytest.warns(UserWarning, match="not prepared is encoded: the encoder is loaded again"):
        given = cached.encode([{"text": "new", "tempo": 90}])
    assert torch.equal(given["letters"].tokens, Letters(seed=3).encode(["new"])["letters"].tokens)
    assert cached.encode(["newer"])["letters"].mask.sum() == 5  # without another warning


def test_an_encoder_that_has_changed_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedConditioner(Letters(), tmp_path)
    cached.release()
    monkeypatch.setattr(Letters, "fingerprint", lambda self: "another")
    with pytest.raises(ValueError, match="of Letters have changed"), pytest.warns(UserWarning, match="not prepared"):
        cached.encode(["new"])


def test_conditioners_of_other_weights_are_kept_apart(tmp_path: Path) -> None:
    for seed in (0, 1, 1):
        CachedConditioner(Letters(seed=seed), tmp_path).prepare(["slow"])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    cached = CachedConditioner(Letters(), tmp_path)
    expected = cached.encode(["slow"])
    file = cached.cache.file(cached.key("slow"))
    file.write_bytes(file.read_bytes()[:40])
    assert same(CachedConditioner(Letters(), tmp_path).encode(["slow"]), expected)
    rewritten = cached.cache.read(cached.key("slow"), list(expected))
    assert rewritten is not None
    assert same(rewritten, expected)


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        (torch.randn(3, 4).bfloat16().float(), torch.bfloat16),
        (torch.tensor([1.0 + 2**-10]), torch.float16),
        (torch.tensor([1.0 + 2**-20]), torch.float32),
        (torch.tensor([1e30 + 2.0]), torch.float32),
        (torch.tensor([0.1]).double(), torch.float64),
    ],
)
def test_features_are_written_as_narrow_as_they_are_exact(tokens: Tensor, kept: torch.dtype) -> None:
    assert narrowest(tokens).dtype == kept
    assert torch.equal(narrowest(tokens).to(tokens.dtype), tokens)


PREPARE = """
import sys
import torch
from letters import Letters
from codecdiff.conditioners import CachedConditioner
torch.set_num_threads(1)
print("ready", flush=True)
input()
CachedConditioner(Letters(), sys.argv[1]).prepare([f"prompt {i}" for i in range(40)])
"""


@pytest.mark.integration
def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parent}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
    for process in processes:  # they begin together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0, 0, 0]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 41  # and no temporary one
    reading = CachedConditioner(Letters(), tmp_path)
    reading.encode([f"prompt {i}" for i in range(40)])
    assert not letters(reading).computed


def test_a_model_names_the_conditioner_and_not_its_cache(tmp_path: Path) -> None:
    words = {"name": "words", "width": 8, "max_tokens": 48}
    numbers = {"name": "numeric", "fields": {"tempo": {"low": 40.0, "high": 220.0}}, "width": 64}
    cached = {"name": "cached", "folder": str(tmp_path), "conditioner": words}
    built = config.build("conditioners", {"name": "joined", "conditioners": [cached, numbers]})
    assert isinstance(built.parts[0], CachedConditioner)
    assert config.to_config("conditioners", built) == {"name": "joined", "conditioners": [words, numbers]}
    assert config.to_config("conditioners", built.parts[0]) == words


def test_what_is_about_the_prompt_passes_through(tmp_path: Path) -> None:
    inner = JoinedConditioner([Letters(), NumericConditioner({"tempo": FieldType(low=40, high=220)})])
    cached = CachedConditioner(inner, tmp_path)
    assert (cached.fields, cached.widths, cached.sources) == (inner.fields, inner.widths, inner.sources)
    assert cached.key({"text": "a", "tempo": 90}) == inner.key({"text": "a", "tempo": 90})
