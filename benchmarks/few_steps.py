"""How far a stage in few steps is from what the whole sampler makes of it, given the true stages before it.

python benchmarks/few_steps.py MUSIC PROMPTS MODEL[:KEY=VALUE,...] ... -o OUTPUT [--n 128] [--stage secondary]

MUSIC is a folder of tracks that no model was trained on, and PROMPTS a JSONL file of prompts in the order of the
tracks. The first --n tracks give prompts and true stages, and as many behind them are the reference, as the codec
reconstructs it. KEY=VALUE samples the stage of a model in another way, as in
starter:num_inference_steps=4,guidance_scale=1. Printed are the Fréchet distances with shrunk covariances, and their
ratios to that of the first model, with 95 % intervals that are paired by clip; how far the embeddings of each clip are
from those of the first model's; and the predictions of the network for a clip. Embeddings are kept in OUTPUT, where the
next run finds them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import soxr
import torch
from codecdiff_eval.eval_sets import edit_mask_of, encode_clips, first_stages_mask
from codecdiff_eval.metrics.bootstrap import Draws, interval_of
from codecdiff_eval.results import Estimate
from quality import predictions_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from codecdiff import Pipeline, config
from codecdiff.config import SamplingConfig
from codecdiff.data.audio import read_audio
from codecdiff.embedders import embed_clips
from codecdiff.fingerprint import hash_values
from codecdiff.pipeline import EditMask
from codecdiff.pipeline.generation import prompt_list


def load_clips(folder: Path, rate: int, seconds: float, count: int) -> Tensor:
    """Return (n, 1, t) of the first tracks in a folder, from one second on."""
    length = round(seconds * rate)
    tracks = [read_audio(file, rate, 1)[0] for file in sorted(folder.glob("*.flac"))[:count]]
    return torch.stack([track[rate : rate + length] for track in tracks])[:, None]


def embed(pipeline: Pipeline, codes: Tensor, samples: int, names: list[str]) -> dict[str, Tensor]:
    """Decode codes (n, k, l), and return the vectors (n, w, e) of each embedder."""
    vectors = {}
    audio = torch.cat([pipeline.decode(part.split(1), samples).mean(1) for part in codes.split(8)])
    for name in names:
        embedder = config.build("embedders", {"name": name})
        rate = embedder.sample_rate
        clips = ((i, resampled(clip, pipeline.sample_rate, rate)) for i, clip in enumerate(audio))
        vectors[name] = torch.stack([rows for _, _, rows in embed_clips(embedder, clips)])
    return vectors


def resampled(audio: Tensor, rate: int, to: int) -> Tensor:
    """(t,) audio at a rate -> (t,) at another one."""
    return torch.from_numpy(soxr.resample(audio.numpy(), rate, to))


def variant(text: str, stage: str) -> tuple[Pipeline, int]:
    """Load a model whose stage is sampled as the text says, and return the index of the stage too."""
    name, _, options = text.partition(":")
    pipeline = Pipeline.from_pretrained(name)
    i = pipeline.stage_names.index(stage)
    pairs = dict(pair.split("=") for pair in options.split(",") if pair)
    sampling = SamplingConfig.model_validate_strings(pairs).model_dump(exclude_unset=True)
    pipeline.stages[i] = pipeline.stages[i].with_sampling(**sampling)
    return pipeline, i


def generate(pipeline: Pipeline, i: int, prompts: list[str], source: EditMask, seed: int) -> Tensor:
    """Return codes (n, k, l) whose stages before the i-th are true, in batches."""
    keep = first_stages_mask(pipeline.splitter, pipeline.codec, source.frames, i)
    codes = pipeline.generate_codes(prompt_list(prompts), source.frames, edit=source.keep(keep), seed=seed)
    return torch.cat(list(codes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("music", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--stage", default="secondary")
    parser.add_argument("--embedders", nargs="*", default=["logmel", "musicnn"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline, _ = variant(options.models[0], options.stage)
    clips = load_clips(options.music, pipeline.sample_rate, options.seconds, 2 * options.n)
    prompts = [json.loads(line)["text"] for line in options.prompts.read_text(encoding="utf-8").splitlines()]
    samples, n = clips.shape[-1], options.n

    def kept(name: str, make: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Return the vectors of codes that a function makes, unless they are there."""
        settings = [name, n, options.seconds, options.seed, options.embedders, options.stage]
        file = options.output / f"{hash_values(*map(str, settings))}.safetensors"
        if not file.exists():
            options.output.mkdir(parents=True, exist_ok=True)
            save_file(embed(pipeline, make(), samples, options.embedders), file)
        return load_file(file)

    reference = kept("reference", lambda: encode_clips(pipeline.codec, clips[n:]))
    source = edit_mask_of(pipeline, clips[:n])
    sets = {"codec reconstruction": kept("source", lambda: source.codes)}
    for text in options.models:
        pipeline, i = variant(text, options.stage)
        make = partial(generate, pipeline, i, prompts[:n], source, options.seed)
        sets[text] = kept(f"{text} {pipeline.base_fingerprint}", make)
        print(f"{text}: {predictions_of(pipeline, pipeline.stages[i])} predictions a clip", flush=True)
    draws = Draws.of(torch.arange(n).split(1), torch.arange(n).split(1), seed=options.seed)
    for name in options.embedders:
        measured = draws.distances({text: [vectors[name]] for text, vectors in sets.items()}, reference[name])
        for text, values in measured.items():
            distance, ratio = interval_of(values[:, 0]), interval_of((values / measured[options.models[0]])[:, 0])
            apart = (sets[text][name] - sets[options.models[0]][name]).norm(dim=-1).mean()
            print(f"{name}: {text}: {shown(distance)}, ratio {shown(ratio)}, clips {apart:.3g} apart", flush=True)


def shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


if __name__ == "__main__":
    main()
