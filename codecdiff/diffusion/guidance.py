"""Classifier-free guidance, with one weight for all conditions or one for each.

With one weight w (Ho & Salimans, 2022): none + w (all - none), each word standing for the denoiser's prediction.

With several, conditions of equal weight form a group, the groups are added one after the other, and each leads away
from the prediction without it (Brooks et al., "InstructPix2Pix", 2023, Eq. 3, for any number of groups):

    none + w1 (c1 - none) + w2 (c1 c2 - c1) + w3 (c1 c2 c3 - c1 c2) + ...

With equal weights all terms except the first and the last cancel, which is the formula of one weight. Composing the
predictions of each condition alone (Liu et al., 2022) lacks this limit, and needs inputs that are rare in training.
A group of weight 1 is part of every prediction, so it costs none of its own. A negative prompt replaces "none".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from codecdiff.config.schema import Guidance, SamplingConfig
from codecdiff.errors import InvalidValue
from codecdiff.interfaces import Condition, Conditioner

WeightGroups = list[tuple[float, list[str]]]  # weights with the names of the conditions that have them, in order


def group_by_weight(guidance_scale: Guidance | Mapping[str, float], names: Collection[str]) -> WeightGroups:
    """Group conditions by weight: those of weight 1 first, the others in the order of `guidance_scale`.

    A condition that a mapping omits has weight 1.
    """
    weights = dict(guidance_scale) if isinstance(guidance_scale, Mapping) else dict.fromkeys(names, guidance_scale)
    unguided = {name: 1.0 for name in names if name not in weights}
    groups: dict[float, list[str]] = {}
    for name, weight in sorted({**unguided, **weights}.items(), key=lambda pair: pair[1] != 1):
        if name in names:
            groups.setdefault(weight, []).append(name)
    return list(groups.items())


def num_predictions(groups: WeightGroups) -> int:
    """Return how many predictions guidance combines: one, and one for every group with a weight that is not 1."""
    return 1 + sum(weight != 1 for weight, _ in groups)


def stack_conditions(condition: Condition, negative: Condition, groups: WeightGroups) -> Condition:
    """Stack the conditions of all predictions, (num_predictions * b, n, e): all groups, then one fewer each time.

    The groups that are left out are those of `negative`.
    """
    present: set[str] = set()
    subsets = [present] if not groups or groups[0][0] != 1 else []
    for _, names in groups:
        present = present | set(names)
        subsets.append(present)
    mixed = [
        Condition({name: (condition if name in subset else negative)[name] for name in condition})
        for subset in subsets[::-1]
    ]
    return mixed[0] if len(mixed) == 1 else Condition.cat(mixed)


def combine_predictions(predictions: Sequence[Tensor], groups: WeightGroups) -> Tensor:
    """Combine the predictions for `stack_conditions`, (b, c, l) each, by the formula above."""
    ascending = list(predictions)[::-1]
    result = ascending[0]
    weights = [weight for weight, _ in groups if weight != 1]
    for weight, without, with_group in zip(weights, ascending, ascending[1:], strict=False):
        result = result + weight * (with_group - without)
    return result


def guided_prediction(predictions: Sequence[Tensor], groups: WeightGroups, sampling: SamplingConfig) -> Tensor:
    """Combine the predictions for `stack_conditions` by the method of a stage's sampling, then rescale the result.

    "cfg-zero-star" (Fan et al., 2025) first scales each prediction that is led away from onto the one with all
    conditions, by least squares. "apg" (Sadat et al., 2024) leaves out what guidance adds along that prediction, which
    is what saturates. `guidance_rescale` is that of Lin et al. (2023, Sec. 3.4). All are those of diffusers.
    """
    conditional = predictions[0]
    if len(predictions) == 1:
        return conditional
    if sampling.guidance_method == "cfg-zero-star":
        from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

        scales = [cfg_zero_star_scale(conditional.flatten(1), each.flatten(1))[..., None] for each in predictions[1:]]
        predictions = [conditional, *(scale * each for scale, each in zip(scales, predictions[1:], strict=True))]
    guided = combine_predictions(predictions, groups)
    if sampling.guidance_method == "apg":
        from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

        without = 2 * conditional - guided  # so that their difference is all that guidance adds
        guided = normalized_guidance(conditional, without, 1.0, eta=0.0, use_original_formulation=True)
    if sampling.guidance_rescale:
        from diffusers.guiders.guider_utils import rescale_noise_cfg

        guided = rescale_noise_cfg(guided, conditional, sampling.guidance_rescale)
    return guided


def resolve_guidance(guidance_scale: Guidance, conditioner: Conditioner | None) -> Guidance:
    """Replace the prompt fields that a guidance scale names by the conditions that are made from them.

    A field stands for every condition made from it, except those that are named themselves: T5 makes `text` and
    `vector` from the text, so `{text: 3}` guides both, and `{text: 3, vector: 1}` one. Raises ValueError for a name
    that is neither a field nor a condition, and for weights that are not finite.
    """
    sources, scale = conditioner.sources if conditioner else {}, guidance_scale
    for name, weight in (scale if isinstance(scale, Mapping) else {"guidance_scale": scale}).items():
        if not math.isfinite(weight):
            raise InvalidValue(f"Invalid weight {name}={weight}: expected a finite number, e.g. 3.")
    if not isinstance(guidance_scale, Mapping):
        return guidance_scale
    names = list(dict.fromkeys([*(field for fields in sources.values() for field in fields), *sources]))
    for name in guidance_scale:
        if name not in names:
            available = f"Available: {', '.join(names)}." if names else "It was trained without conditions."
            is_stage = re.fullmatch(r"primary|secondary|stage\d+", name)
            hint = (
                f" To guide a stage differently, set pipe.stages['{name}'].sampling.guidance_scale." if is_stage else ""
            )
            raise InvalidValue(f"Unknown condition '{name}' in guidance_scale. {available}{hint}")
    weights: dict[str, float] = {}
    for key, weight in guidance_scale.items():
        for entry, fields in sources.items():
            if entry == key or (key in fields and entry not in guidance_scale):
                weights.setdefault(entry, weight)
    return weights


def num_passes(guidance_scale: Guidance, conditioner: Conditioner | None) -> int:
    """Return how many predictions of the denoiser one sampling step takes for each sample."""
    names = conditioner.widths if conditioner else {}
    return num_predictions(group_by_weight(resolve_guidance(guidance_scale, conditioner), names))


def parse_guidance_scale(words: Sequence[str]) -> Guidance | None:
    """Parse command-line values: one number, or any number of NAME=NUMBER; None for an empty list.

    Raises ValueError for anything else.
    """
    if not words:
        return None
    pairs = [word.rpartition("=") for word in words]
    names = [name for name, _, _ in pairs]
    try:
        weights = [float(number) for _, _, number in pairs]
    except ValueError:
        weights = []
    if len(weights) == 1 and not pairs[0][1]:
        return weights[0]
    if not weights or not all(names) or len(set(names)) < len(names):
        raise InvalidValue(
            f"Invalid guidance scale '{' '.join(words)}': expected one number, --guidance-scale 3, or one for each "
            "condition: --guidance-scale text=3 --guidance-scale tempo=1.5."
        )
    return dict(zip(names, weights, strict=True))
