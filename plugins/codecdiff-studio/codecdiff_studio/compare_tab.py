"""The tab Compare: two models, or two settings of one, on the same prompt and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from codecdiff_studio.fields import (
    PromptFields,
    SamplingFields,
    command_box,
    run_buttons,
    show_waveforms,
    shown_command,
)
from codecdiff_studio.studio import Limits, Studio, shown_errors


def compare_tab(studio: Studio) -> None:
    """Show a prompt, the settings of both sides, and what they generate."""
    limits, names = studio.limits, list(studio.models)
    waveforms = gr.State([])
    prompt = PromptFields.of(studio.pipeline, limits)
    with gr.Row():
        seconds = gr.Slider(0.5, limits.seconds, min(5, limits.seconds), step=0.5, label="Seconds")
        seed = gr.Number(0, label="Seed", precision=0)
    with gr.Row():
        sides = [_side(names, min(i, len(names) - 1), f"Model {side}", limits) for i, side in enumerate("AB")]
    button = run_buttons("Compare", studio.stop)
    status = gr.Markdown("", elem_id="compare-status")

    @gr.render(inputs=waveforms)
    def show(results: list[Any]) -> None:
        show_waveforms(results)

    with gr.Row():
        boxes = [command_box(), command_box()]

    def run(values: dict[Any, Any], request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008 - for Gradio
        with shown_errors():
            seconds_and_seed = {"audio_length_in_s": values[seconds], "seed": int(values[seed] or 0)}
            same, results, titles = seconds_and_seed | {"num_waveforms_per_prompt": 1}, [], set()
            session, words = str(request.session_hash), prompt.prompt(values)
            for side, (model, sampling) in zip("AB", sides, strict=True):
                own = sampling.options(values)
                (result,) = studio.generate(session, _named(progress, side), words, same | own, values[model])
                title = ", ".join([values[model], *(f"{name.replace('_', ' ')} {own[name]}" for name in own)])
                results.append(replace(result, title=f"{side}: {title}"))
                titles.add(title)
            commands = [shown_command(result.command) for result in results]
            note = "" if len(titles) > 1 else " Their settings are the same, too: change those of one side."
            return [results, *commands, f"Both have the same prompt and seed.{note}"]
        return gr.skip()

    fields = {*prompt.components, seconds, seed}
    fields |= {each for model, sampling in sides for each in (model, *sampling.components)}
    outputs = [waveforms, *boxes, status]
    button.click(run, fields, outputs, concurrency_id="model", api_visibility="private")


def _named(progress: Any, side: str) -> Callable[..., None]:
    """Return progress that says which side is generated."""
    return lambda steps, desc, unit: progress(steps, desc=f"{side}: {desc}", unit=unit)


def _side(names: Sequence[str], i: int, label: str, limits: Limits) -> tuple[gr.Dropdown, SamplingFields]:
    """Show the model and the settings of one side."""
    with gr.Column(min_width=260):
        return gr.Dropdown(list(names), value=names[i], label=label), SamplingFields.of(limits, with_seed=False)
