"""From prompts to what the denoiser of a stage reads: encoded, and with controls cut to the frames of the stage.

A control is a condition with a frame axis, such as the chroma of a track. It is read from the file that the prompt's
field `controls` has under its name; in training, from the track itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from codecdiff.conditioners.requests import require_field
from codecdiff.errors import InvalidValue, did_you_mean
from codecdiff.files import is_unicode
from codecdiff.interfaces import Condition, Conditioner, ConditionTokens, Prompt, prompt_fields


def encode_prompts(conditioner: Conditioner | None, prompts: Sequence[Prompt], device: Any) -> Condition:
    """Encode prompts on a device; a model without a conditioner has an empty condition."""
    return conditioner.encode(prompts).to(device) if conditioner else Condition({})


def with_own_controls(prompt: dict[str, Any], conditioner: Conditioner | None) -> dict[str, Any]:
    """Add the audio of a track to its prompt as every control that a conditioner reads."""
    names, audio = conditioner.control_rates if conditioner else {}, prompt.get("audio")
    if names and audio is None:
        raise InvalidValue(
            f"The control{'s' if len(names) > 1 else ''} {' and '.join(names)} of a track come from its audio, and the "
            "store has codes alone: name the folder of the tracks too, data.audio=FOLDER."
        )
    return {**prompt, "controls": dict.fromkeys(names, audio)} if names else prompt


def check_fields(prompts: Sequence[Prompt], conditioner: Conditioner | None) -> None:
    """Raise InvalidValue for a field of a prompt that the model does not read, unless it is empty.

    Warns of a text that is not read. `controls` are checked by their names.
    """
    fields = tuple(conditioner.fields) if conditioner else ()
    available = (*fields, "text", "controls", *(["start"] if conditioner and conditioner.control_rates else []))
    named = {
        name: value for prompt in prompts for name, value in prompt_fields(prompt).items() if value not in (None, "")
    }
    for name in named:
        if name not in available:
            require_field(name, fields)
    for prompt in prompts:
        require_unicode(prompt)
    if "text" in named and "text" not in fields:
        reads = f"reads only {', '.join(fields)}" if fields else "was trained without conditions"
        warnings.warn(f"This model {reads}: the text is ignored.", stacklevel=4)


def require_unicode(prompt: Prompt) -> None:
    """Raise InvalidValue for a prompt that cannot be written to a file: bytes that are not UTF-8, half of an emoji."""
    for name, value in prompt_fields(prompt).items():
        if isinstance(value, str) and not is_unicode(value):
            raise InvalidValue(f"Invalid {name} {value!r}: it is not UTF-8, or holds half of a character.")


def check_control_names(prompts: Sequence[Prompt], conditioner: Conditioner | None) -> None:
    """Raise InvalidValue for a control of a prompt that the model does not read."""
    names = conditioner.control_rates if conditioner else {}
    for name in (name for prompt in prompts for name in prompt_fields(prompt).get("controls") or ()):
        if name not in names:
            available = f"It reads: {', '.join(names)}." if names else "It was trained without controls."
            raise InvalidValue(f"Unknown control '{name}' of this model. {available}{did_you_mean(name, list(names))}")


def require_long_controls(
    condition: Condition, conditioner: Conditioner | None, prompts: Sequence[Prompt], num_frames: int, frame_rate: float
) -> None:
    """Raise InvalidValue if a control of encoded prompts ends before so many latent frames, from the start of each on.

    The last frame may be padded.
    """
    for name, rate in (conditioner.control_rates if conditioner else {}).items():
        for prompt, count in zip(prompts, condition[name].mask.sum(1).tolist(), strict=True):
            available = count / rate - music_start(prompt)
            if count and available < (num_frames - 1) / frame_rate:
                raise InvalidValue(
                    f"The control {name} has {max(0.0, available):.2f} s of audio, and the music is to have "
                    f"{num_frames / frame_rate:.2f} s: generate less, as by --seconds, or use a longer file."
                )


def align_controls(
    condition: Condition, conditioner: Conditioner | None, prompts: Sequence[Prompt], num_frames: int, frame_rate: float
) -> Condition:
    """Resample the controls of encoded prompts to so many frames of a stage, from the `start` of each prompt on."""
    rates = conditioner.control_rates if conditioner else {}
    seconds = torch.arange(num_frames + 1) / frame_rate
    edges = torch.tensor([music_start(prompt) for prompt in prompts], dtype=torch.float64)[:, None] + seconds
    return condition.map(
        lambda name, entry: (
            mean_in_frames(entry, edges * rates[name], rates[name] / frame_rate) if name in rates else entry
        )
    )


def mean_in_frames(entry: ConditionTokens, edges: Tensor, size: float) -> ConditionTokens:
    """Resample tokens (b, n, e) to frames (b, l, e), of `size` tokens each, whose `edges` (b, l + 1) are in tokens.

    A frame gets the mean of the tokens during it, and is masked if they are real for less than half of it.
    """
    tokens, mask = entry.tokens.cpu().double(), entry.mask.cpu()[..., None].double()
    sums = pad(torch.cat([tokens * mask, mask], dim=-1).cumsum(1), (0, 0, 1, 1))
    sums[:, -1] = sums[:, -2]
    position = edges.clamp(0, mask.shape[1])
    before = position.long()
    index = before[..., None].expand(-1, -1, sums.shape[-1])
    low, high = sums.gather(1, index), sums.gather(1, index + 1)
    during = torch.lerp(low, high, (position - before)[..., None]).diff(dim=1)
    is_real = during[..., -1] >= 0.5 * size
    means = during[..., :-1] / during[..., -1:].clamp_min(1e-9) * is_real[..., None]
    return ConditionTokens(means.to(entry.tokens), is_real.to(entry.mask.device))


def music_start(prompt: Prompt) -> float:
    """Return where in its controls and waves the music of a prompt starts, in seconds. Raises InvalidValue."""
    start = prompt_fields(prompt).get("start") or 0
    try:
        return float(start)
    except (TypeError, ValueError):
        raise InvalidValue(f"Invalid start {start!r} of a prompt: expected seconds, e.g. 2.5.") from None
