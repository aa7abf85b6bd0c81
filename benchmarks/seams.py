"""Whether the seams of inpainting can be heard: how much the spectrum changes at their edges.

python benchmarks/seams.py [--model starter] [--clips 32]

Composed clips are encoded, two regions of each are made anew, and the change of log-mel power from frame to frame
(`metrics.frame_change`) within 50 ms of the edges is compared with that of the unedited reconstruction there. For
comparison: the same regions taken out of another clip, which is what an edit without regard to its surroundings does.
"""

from __future__ import annotations

import argparse

import torch
from codecdiff_eval.audio_features import FRAMES_PER_SECOND, frame_change
from codecdiff_eval.eval_sets import encode_clips
from codecdiff_starter.clips import compose_clips
from torch import Tensor

import codecdiff
from codecdiff.pipeline.editing import EditMask, outside_mask

SECONDS, SEED = 6.0, 424_242
REGIONS = ((1.5, 2.5), (4.0, 4.8))  # seconds
NEAR = round(0.05 * FRAMES_PER_SECOND)  # spectral frames on either side of an edge


def at_edges(change: Tensor) -> float:
    """(n, frames) changes -> their mean near the edges of the regions."""
    edges = [round(edge * FRAMES_PER_SECOND) for region in REGIONS for edge in region]
    return float(torch.stack([change[:, edge - NEAR : edge + NEAR].mean(1) for edge in edges]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args()
    model = codecdiff.load(options.model)
    pieces = compose_clips(options.clips, SECONDS, SEED, unseen=False)
    codes = encode_clips(model.codec, pieces.audio)
    mask = outside_mask(REGIONS, model.codec, codes.shape[-1])
    sources = [EditMask.from_audio(model.codec, audio, model.target) for audio in pieces.audio.split(1)]
    fields = ("codes", "latents", "keep_mask")
    codes, latents, keep = (torch.cat([getattr(source, field) for source in sources]) for field in fields)
    known = EditMask(codes, latents, keep).keep(mask)
    prompts = [{"text": prompt} for prompt in pieces.prompts]
    edited = torch.cat(list(model.generate_codes(prompts, known.frames, edit=known, seed=SEED)))
    assert torch.equal(torch.where(mask, edited, 0), torch.where(mask, codes, 0))
    spliced = torch.where(mask, codes, codes.roll(1, 0))
    samples = round(SECONDS * model.sample_rate)

    def measured(some: Tensor) -> float:
        return at_edges(frame_change(model.decode(some.split(1), samples).mean(1), model.sample_rate))

    unedited = measured(codes)
    print(f"unedited reconstruction: {unedited:.4f} nat a frame near the edges")
    for name, some in (("inpainted", edited), ("taken from another clip", spliced)):
        value = measured(some)
        print(f"{name}: {value:.4f}, {value / unedited:.2f} of the unedited")


if __name__ == "__main__":
    main()
