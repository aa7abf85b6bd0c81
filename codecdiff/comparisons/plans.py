"""What a comparison takes, before it is paid for."""

from __future__ import annotations

from collections.abc import Sequence

from codecdiff.comparisons.runs import Variant
from codecdiff.comparisons.settings import Comparison
from codecdiff.pictures import amount


def table(comparison: Comparison, variants: Sequence[Variant]) -> str:
    """Give a line for every stage of every variant: steps and FLOPs of training, evaluations and FLOPs of a clip."""
    widths = (*(max(len(variant.name) for variant in variants) + 2, 12), *[12] * 6)
    heads = ("variant", "stage", "parameters", "steps", "FLOPs/step", "training", "evaluations", "a clip")
    lines = [heads]
    for variant in variants:
        for cost, steps in zip(variant.costs, variant.steps, strict=True):
            calls = f"{cost.evaluations}{' x 2' if cost.guided else ''}"
            counts = (amount(cost.parameters), str(steps), amount(cost.training), amount(cost.training * steps))
            lines.append((variant.name, cost.name, *counts, calls, amount(cost.sampling)))
        if len(variant.costs) > 1:
            lines.append((variant.name, "together", "", "", "", amount(variant.training), "", amount(variant.sampling)))
    rows = [
        "".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    clip = f"A clip is {comparison.evaluation.seconds:g} seconds; guidance takes every evaluation on twice the rows."
    many = f"{len(variants)} variants x {len(comparison.seeds)} seeds"
    return "\n".join(
        [
            *rows,
            "",
            f"{many}: {amount(len(comparison.seeds) * sum(v.training for v in variants))}FLOPs of training. {clip}",
        ]
    )
