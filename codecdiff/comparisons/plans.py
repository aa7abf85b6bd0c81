"""What a comparison takes, before it is paid for."""

from __future__ import annotations

from collections.abc import Sequence

from codecdiff.comparisons.runs import Variant
from codecdiff.comparisons.settings import Comparison
from codecdiff.pictures import amount


def table(comparison: Comparison, variants: Sequence[Variant]) -> str:
    """Give a line for every stage of every variant: steps and FLOPs of training, evaluations and FLOPs of a clip."""
    widths = (*(max(len(variant.name) for variant in variants) + 2, 12), *[12] * 6)
    lines: list[tuple[str, ...]] = [
        ("variant", "stage", "parameters", "steps", "FLOPs/step", "training", "evaluations", "a clip")
    ]
    for variant in variants:
        for cost, steps in zip(variant.costs, variant.steps, strict=True):
            calls = f"{cost.evaluations}{f' x {cost.answers}' if cost.answers > 1 else ''}"
            counts = (amount(cost.parameters), str(steps), amount(cost.training), amount(cost.training * steps))
            lines.append((variant.name, cost.name, *counts, calls, amount(cost.sampling)))
        if len(variant.costs) > 1:
            sums = amount(variant.training), amount(variant.sampling)
            lines.append((variant.name, "together", "", "", "", sums[0], "", sums[1]))
    rows = ["".join(_cell(*sized, i) for i, sized in enumerate(zip(line, widths, strict=True))) for line in lines]
    work = amount(len(comparison.seeds) * sum(variant.training for variant in variants))
    clip = f"A clip is {comparison.evaluation.seconds:g} seconds; guidance takes so many answers in every evaluation."
    return "\n".join(
        [*rows, "", f"{len(variants)} variants x {len(comparison.seeds)} seeds: {work}FLOPs of training. {clip}"]
    )


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)
