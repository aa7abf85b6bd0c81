"""What a step of the transformer takes beside that of diffusers: `python benchmarks/dit.py [--frames 432]`.

Guided steps, a row with text and one without, with random weights, one thread, alternating in one process, in GFLOP per
second of the processor:

diffusers  `StableAudioDiTModel` of the same width, depth and heads, on 64 tokens of text
plain      `DiT` as it trains, conditioning computed once
prepared   as `DiT.prepare_for_sampling` runs it, in float32 and bfloat16

FLOPs are those of matrix products, counted by torch on each network as it is called. Prepared rows count as many as the
plain one, so that work which is left out shows as speed. Beside each stands its error against plain.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from codecdiff_dit import DiT
from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codecdiff import Condition, ConditionTokens
from codecdiff.denoisers import PreparedDenoiser

WIDTH, DEPTH, HEADS, CHANNELS, TOKENS = 768, 6, 12, 72, 64


def main() -> None:
    """Build, measure in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=432)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        steps = networks(args.frames)
        flops = {name: count_flops(step) for name, step in steps.items() if not name.startswith("prepared")}
        results = {name: step().float() for name, step in steps.items()}
        rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(args.rounds)]
    table = Table("network", "GFLOP", "GFLOP per CPU second", "times diffusers", "error against plain")
    for name, result in results.items():
        count = flops.get(name, flops["plain"])
        rates = [count / each[name] for each in rounds]
        ratios = sorted(rate * each["diffusers"] / flops["diffusers"] for rate, each in zip(rates, rounds, strict=True))
        error = float((result - results["plain"]).norm() / results["plain"].norm()) if name != "diffusers" else None
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{count:.0f}", f"{median(rates):.0f}", spread, "" if error is None else f"{error:.1e}")
    Console(width=120).print(table)


def networks(frames: int) -> dict[str, Callable[[], Tensor]]:
    """Return a step of every network."""
    options = {"num_layers": DEPTH, "attention_head_dim": WIDTH // HEADS, "num_attention_heads": HEADS}
    options |= {"num_key_value_attention_heads": HEADS, "in_channels": CHANNELS, "out_channels": CHANNELS}
    options |= {"cross_attention_dim": WIDTH, "cross_attention_input_dim": WIDTH, "global_states_input_dim": WIDTH}
    peer = StableAudioDiTModel(sample_size=frames, **options).eval()
    turns = rotation_of(frames)
    widths = {"text": WIDTH, "vector": WIDTH}
    dit = DiT(channels=CHANNELS, condition_widths=widths, width=WIDTH, depth=DEPTH, heads=HEADS, expansion=4).eval()
    for parameter in dit.parameters():  # zeros would hide errors
        parameter.add_(0.02 * torch.randn_like(parameter))
    noisy, t, text = torch.randn(2, CHANNELS, frames), torch.tensor([50, 50]), torch.randn(1, TOKENS, WIDTH)
    vector = torch.randn(1, 1, WIDTH)
    tokens = {"text": text, "vector": vector}
    condition = Condition({name: ConditionTokens(x, torch.ones(x.shape[:2]).bool()) for name, x in tokens.items()})
    condition = Condition.cat([condition, condition.null()])
    text, vector = (torch.cat([each, torch.zeros_like(each)]) for each in (text, vector))
    plain, prepared = PreparedDenoiser(dit, t[:1], condition), dit.prepare_for_sampling(t[:1], condition)
    with torch.autocast("cpu", torch.bfloat16):
        prepared_bf16 = dit.prepare_for_sampling(t[:1], condition)
    return {
        "diffusers": lambda: peer(
            noisy, t, encoder_hidden_states=text, global_hidden_states=vector, rotary_embedding=turns, return_dict=False
        )[0],
        "plain": lambda: plain(noisy, t, None, condition),
        "prepared, float32": lambda: prepared(noisy, t, None, condition),
        "prepared, bfloat16": lambda: prepared_bf16(noisy, t, None, condition),
    }


def rotation_of(frames: int) -> Any:
    """Return cosines and sines of the frames and of the token before them, as diffusers' pipeline computes them."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    dim = WIDTH // HEADS // 2
    return get_1d_rotary_pos_embed(dim, frames + 1, use_real=True, repeat_interleave_real=False)


def count_flops(step: Callable[[], Tensor]) -> float:
    """Return the GFLOP of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def seconds(step: Callable[[], Tensor]) -> float:
    """Return the seconds of the processor that a step takes."""
    began = time.process_time()
    step()
    return time.process_time() - began


if __name__ == "__main__":
    main()
