"""Codecs whose levels have rates of their own, and many of them: a toy of 64 levels in 96 rows."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from many_levels import ManyLevels
from small import RATE, UNET, noise, write_music
from typer.testing import CliRunner

import codecdiff
from codecdiff import registry
from codecdiff.cli.main import app
from codecdiff.codecs import ChunkedCodec, ResidualCodec, StereoCodec
from codecdiff.pipeline import Inpaint, Refine
from codecdiff.splitters import CoarseFirst, Grouped

RECIPE = Path(__file__).parent.parent / "recipes" / "discodiff.py"
HOP = ManyLevels.hop_length


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the toy: what pip leaves of it."""
    info = tmp_path / "site" / "many_levels-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: many-levels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[codecdiff.codecs]\nmany-levels = many_levels:ManyLevels\n")
    monkeypatch.syspath_prepend(info.parent)
    registry.scan.cache_clear()
    yield
    registry.scan.cache_clear()


def tone(frames: int) -> torch.Tensor:
    return 0.5 * torch.sin(torch.arange(frames * HOP) * 2 * torch.pi * 440 / RATE)[None, None]


def test_rows_of_a_level_are_its_codes_in_order_of_time() -> None:
    codec, frames = ManyLevels(), 5
    assert codec.levels == (*range(32), *(level for level in range(32, 64) for _ in range(2)))
    codes = codec.encode(tone(frames))
    audio = codec.decode(codes)
    for row, half in ((0, slice(None)), (32, slice(0, 16)), (33, slice(16, 32)), (95, slice(16, 32))):
        other = codes.clone()
        other[:, row, 2] = (other[:, row, 2] + 1) % codec.codebook_size
        changed = (codec.decode(other) - audio)[0, 0].unflatten(0, (frames, HOP)).abs() > 0
        assert changed[2, half].all()
        changed[2, half] = False
        assert not changed.any()


def test_a_slow_level_reads_the_mean_of_a_frame_and_a_fast_one_what_that_leaves() -> None:
    codec = ManyLevels()
    audio = tone(7)
    latents = codec.encode_continuous(audio)
    features = codec.encode_features(audio).unflatten(-1, (7, 2))  # (1, d, l, half)
    torch.testing.assert_close(latents[:, 0], features.mean(-1))
    slow = codec.embed(codec.encode(audio))[:, :32].sum(1)
    torch.testing.assert_close(latents[:, 32:34].permute(0, 2, 3, 1), features - slow[..., None], rtol=0, atol=1e-5)


def test_every_level_brings_it_nearer() -> None:
    codec, audio = ManyLevels(), tone(40)
    codes, target = codec.encode(audio), codec.encode_features(audio)
    errors = []
    for count in (8, 32, 64):
        few = codec.embed(codes) * (torch.tensor(codec.levels) < count)[:, None, None]
        slow, fast = few[:, :32].sum(1), few[:, 32:].unflatten(1, (32, 2)).sum(1)
        errors.append(float((slow[..., None] + fast.permute(0, 2, 3, 1)).flatten(2).sub(target).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


def test_chunks_equal_the_whole() -> None:
    codec, audio = ManyLevels(), noise(2, 1, 23 * HOP + 3)
    chunked = ChunkedCodec(codec, frames=5)
    codes = codec.encode(audio)
    assert torch.equal(chunked.encode(audio), codes)
    torch.testing.assert_close(chunked.decode(codes), codec.decode(codes), rtol=0, atol=1e-6)


def test_stages_name_levels_by_rate() -> None:
    levels = (0, 1, 1, 2, 2, 2, 2)
    named = {"num_codebooks": 7, "levels": levels}
    assert Grouped("1x|2x|4x", **named).groups == Grouped("0|1|2", **named).groups
    assert Grouped(" 1x - 2x ".replace(" ", "") + "|4x", **named).groups == [[0, 1, 2], [3, 4, 5, 6]]
    assert Grouped("2x-4x|1x", **named).groups == [[1, 2, 3, 4, 5, 6], [0]]
    assert Grouped("1x,2|2x", **named).groups == [[0, 3, 4, 5, 6], [1, 2]]
    both = tuple(level for level in levels for _ in range(2))  # of stereo: rates are those of mono
    assert Grouped("1x|2x-4x", num_codebooks=14, levels=both).groups == [[0, 1], [*range(2, 14)]]
    assert CoarseFirst(**named).groups == Grouped("1x|2x-4x", **named).groups
    assert StereoCodec(ManyLevels()).levels == tuple(level for level in ManyLevels().levels for _ in range(2))


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ("1x|3x|2x,4x", "No level has the rate '3x'. The rates of the codec's levels are 1x, 2x, 4x."),
        ("1x|2x", "misses level 2"),
        ("1x,0|2x|4x", "repeats level 0"),
        ("1x|x2", "expected levels and ranges"),
        ("1x|2x-4", "expected levels and ranges"),
    ],
)
def test_a_rate_that_no_level_has_is_refused(stages: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        Grouped(stages, num_codebooks=7, levels=(0, 1, 1, 2, 2, 2, 2))


def test_a_codec_without_networks_or_codes_of_its_own_says_so() -> None:
    class Half(ManyLevels):
        decode_features = ResidualCodec.decode_features

    with pytest.raises(NotImplementedError, match="Half has neither `decode_features` nor a `decode_row`"):
        Half().decode(ManyLevels().encode(tone(2)))
    with pytest.raises(ValueError, match="96 codebooks, but got 95 rows"):
        ManyLevels().decode(torch.zeros(1, 95, 2, dtype=torch.long))


@pytest.mark.integration
@pytest.mark.usefixtures("installed")
def test_sixty_four_levels_pass_the_checks_train_and_edit(tmp_path: Path) -> None:
    checks = CliRunner().invoke(app, ["check", "many-levels"])
    assert checks.exit_code == 0, checks.output
    settings = {
        "output": str(tmp_path / "out"),
        "codec": {"name": "many-levels"},
        "splitter": {"name": "grouped", "stages": "0-15|16-31|2x"},
        "denoiser": {**UNET, "layers": ["none"]},
        "data": {"audio": str(write_music(tmp_path / "music")), "validation_fraction": 0.3},
        "train": {"max_train_steps": 2, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.2},
        "diffusion": {"num_train_timesteps": 100},
        "sampling": {"scheduler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0},
        "seconds": 0.2,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    runpy.run_path(str(RECIPE))["train"](tmp_path / "settings.yaml")
    pipe = codecdiff.load(tmp_path / "out" / "model")
    assert [stage.denoiser.channels for stage in pipe.stages] == [64, 64, 256]
    audio = tone(50)[0]
    codes = pipe.codec.encode(audio[None])
    inpainted = pipe.edit(audio, Inpaint(regions=((0.08, 0.12),), levels=(40,)), seed=0).codes
    inside = torch.zeros_like(codes, dtype=torch.bool)
    inside[:, 48:50, 20:30] = True
    assert torch.equal(inpainted[~inside], codes[~inside])
    assert not torch.equal(inpainted[inside], codes[inside])
    refined = pipe.edit(audio, Refine(keep=tuple(range(32))), seed=0).codes
    assert torch.equal(refined[:, :32], codes[:, :32])
    assert not torch.equal(refined[:, 32:], codes[:, 32:])
