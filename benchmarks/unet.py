"""What a guided step of the small U-Net takes: `python benchmarks/unet.py [--peer PATH] [--frames 864] [--rounds 5]`.

Steps of the primary with the same random weights, one thread, alternating in one process, in seconds of the processor,
so that a busy machine changes their ratios little:

plain     the network as it trains, conditioning computed once
prepared  as `UNet.prepare_for_sampling` runs it, in float32 and bfloat16; weights in bfloat16, converted once
peer      with --peer, a checkout of https://github.com/ETH-DISCO/discodiff: its own network

Beside each stands its error, |result - reference| / |reference|, of the guided prediction; the reference is the peer,
or else the plain network, in float32.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from codecdiff_unet import UNet
from codecdiff_unet.released import ROLES, SIZES, Architecture, to_released
from rich.console import Console
from rich.table import Table
from torch import Tensor

from codecdiff import Condition, ConditionTokens
from codecdiff.denoisers import PreparedDenoiser

TOKENS = 60  # of a caption
TIMESTEPS, GUIDANCE = torch.arange(100), 3.0
BF16 = torch.bfloat16


def condition_of(text: Tensor) -> Condition:
    """(1, n, e) tokens, the first of which is also the vector -> their condition, and none of it for guidance."""
    tokens = {"text": text, "vector": text[:, :1]}
    condition = Condition(
        {name: ConditionTokens(each, torch.ones(each.shape[:2]).bool()) for name, each in tokens.items()}
    )
    return Condition.cat([condition, condition.null()])


def guided(network: Any, noisy: Tensor, condition: Condition, dtype: torch.dtype | None) -> Callable[[], Tensor]:
    """Return a step of ours: both passes in one batch, in autocast to `dtype`, if any."""

    def step() -> Tensor:
        with torch.autocast("cpu", dtype or BF16, enabled=dtype is not None):
            both = network(torch.cat([noisy, noisy]), TIMESTEPS[50:51].expand(2), None, condition)
        present, absent = both.float().chunk(2)
        return absent + GUIDANCE * (present - absent)

    return step


def peer_step(path: Path, unet: UNet, architecture: Architecture, noisy: Tensor, text: Tensor) -> Callable[[], Tensor]:
    """Return a step of the authors' network with our weights: two passes, as its sampler makes them."""
    sys.path.insert(0, str(path))
    from module.unet_cond_large import Unet1DVALLEPatternPrimary  # pyright: ignore[reportMissingImports]  # of PATH

    peer = Unet1DVALLEPatternPrimary(input_dim=72, feature_cond_dim=1024, attn_dim_head=128).eval()
    peer.load_state_dict(to_released(unet.state_dict(), architecture))

    def step() -> Tensor:
        present = peer(noisy, TIMESTEPS[50:51], text[:, 0], [None, text.mT], 0.0)
        absent = peer(noisy, TIMESTEPS[50:51], None, None, 0.0)
        return absent + GUIDANCE * (present - absent)

    return step


def prepared_in(unet: UNet, condition: Condition, dtype: torch.dtype | None) -> Any:
    """Prepare a U-Net in autocast to `dtype`, if any."""
    with torch.autocast("cpu", dtype or BF16, enabled=dtype is not None):
        return unet.prepare_for_sampling(TIMESTEPS, condition)


@torch.no_grad()
def main() -> None:
    """Build, measure in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--frames", type=int, default=864, help="10 s")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    architecture = Architecture(*SIZES["small"], *ROLES["primary"])
    unet = UNet(**architecture.options).eval()
    noisy, text = torch.randn(1, unet.channels, args.frames), torch.randn(1, TOKENS, 1024)
    condition = condition_of(text)
    plain = PreparedDenoiser(unet, TIMESTEPS, condition)
    steps = {
        "plain, float32": guided(plain, noisy, condition, None),
        "plain, bfloat16 autocast": guided(plain, noisy, condition, BF16),
        "prepared, float32": guided(prepared_in(unet, condition, None), noisy, condition, None),
        "prepared, bfloat16": guided(prepared_in(unet, condition, BF16), noisy, condition, None),
    }
    if args.peer:
        steps = {"peer, float32": peer_step(args.peer, unet, architecture, noisy, text), **steps}
    unet_bf16 = UNet(**architecture.options).eval()
    unet_bf16.load_state_dict(unet.state_dict())
    weights = prepared_in(unet_bf16.to(BF16), condition, None)
    steps["prepared, bfloat16 weights"] = guided(weights, noisy, condition, None)
    results = {name: step() for name, step in steps.items()}  # and packs the weights
    rounds: list[dict[str, float]] = []
    for _ in range(args.rounds):
        seconds = {}
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name] = time.process_time() - began
        rounds.append(seconds)
    first, table = next(iter(steps)), Table("step", "CPU seconds", f"times as fast as {next(iter(steps))}", "error")
    for name, result in results.items():
        times, ratios = [each[name] for each in rounds], sorted(each[first] / each[name] for each in rounds)
        error = float((result - results[first]).norm() / results[first].norm())
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{median(times):.2f}", spread, f"{error:.1e}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
