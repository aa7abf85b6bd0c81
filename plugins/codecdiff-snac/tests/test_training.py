"""From music to samples and edits, on a small SNAC."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from codecdiff_eval.audit import CUT, AuditConfig, audit_memorization
from small import UNET, write_music

import codecdiff
from codecdiff.data.audio import read_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.pipeline import Extend, Inpaint, Refine
from codecdiff.testing.tiny import write_tiny

RECIPE = Path(__file__).parents[3] / "recipes" / "discodiff.py"
RATE, HOP = 4000, 48


@pytest.mark.integration
def test_levels_of_their_own_rates_are_trained_generated_and_edited(tmp_path: Path) -> None:
    settings = {
        "output": str(tmp_path / "out"),
        "codec": {"name": "snac", "model": str(write_tiny("snac", tmp_path / "snac"))},
        "splitter": {"name": "grouped", "stages": "1x-2x|4x|8x"},
        "denoiser": {**UNET, "layers": ["none"]},
        "data": {"audio": str(write_music(tmp_path / "music")), "validation_fraction": 0.3},
        "train": {"max_train_steps": 2, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.4},
        "diffusion": {"num_train_timesteps": 100},
        "sampling": {"scheduler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0},
        "seconds": 0.5,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    runpy.run_path(str(RECIPE))["train"](tmp_path / "settings.yaml")

    pipe = codecdiff.load(tmp_path / "out" / "model")
    assert [stage.denoiser.channels for stage in pipe.stages] == [3 * 4, 4 * 4, 8 * 4]
    audio = read_audio(tmp_path / "music" / "3.wav", RATE, 1)
    whole = pipe.codec.encode(audio[None])
    store = CodeStore(tmp_path / "out" / "store")
    assert any(np.array_equal(store.codes(i), whole[0].T) for i in range(len(store)))

    inpainted = pipe.edit(audio, Inpaint(regions=((0.3, 0.5),)), seed=0)
    frames = slice(int(0.3 * RATE / HOP), -(-int(0.5 * RATE) // HOP))
    inside = torch.zeros_like(whole, dtype=torch.bool)
    inside[..., frames] = True
    assert torch.equal(inpainted.codes[~inside], whole[~inside])
    assert (inpainted.codes[inside] != whole[inside]).float().mean() > 0.5
    reach = pipe.codec.decode_context_frames
    assert reach is not None
    untouched = pipe.codec.decode(whole)[0, :, : (frames.start - reach) * HOP]
    torch.testing.assert_close(inpainted.audios[0][:, : untouched.shape[1]], untouched, rtol=0, atol=1e-5)

    refined = pipe.edit(audio, Refine(keep=(0, 1)), seed=0).codes
    assert torch.equal(refined[:, :3], whole[:, :3])
    assert all(not torch.equal(refined[:, row], whole[:, row]) for row in range(3, 15))
    extended = pipe.edit(audio, Extend(seconds=0.5), seed=0).codes
    kept = pipe.codec.encode(audio[None, :, : audio.shape[-1] // HOP * HOP])  # whole frames
    assert torch.equal(extended[..., : kept.shape[-1]], kept)
    assert extended.shape[-1] > whole.shape[-1]
    long = pipe("", audio_length_in_s=3.0, window_in_s=1.0, seed=0)
    assert long.audios.shape == (1, 1, 3 * RATE)
    assert torch.equal(pipe("", audio_length_in_s=3.0, window_in_s=1.0, seed=0).codes, long.codes)
    assert pipe("", audio_length_in_s=1.0, loop=True, seed=0).audios.isfinite().all()

    audit = audit_memorization(pipe, store, AuditConfig(clips=4, seconds=0.6, window=0.5, candidates=100))
    assert all(audit.sets[CUT].is_copy)
    assert all(match.levels == (1.0,) * 15 for match in audit.sets[CUT].matches)
