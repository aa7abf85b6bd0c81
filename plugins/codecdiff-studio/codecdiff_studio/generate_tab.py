"""The tab Generate, and the same as a function of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from codecdiff_studio.fields import (
    PromptFields,
    SamplingFields,
    command_box,
    counted,
    run_buttons,
    show_waveforms,
    shown_command,
    without_defaults,
)
from codecdiff_studio.studio import Studio, Waveform, new_prompt, shown_errors


def generate_tab(studio: Studio, add_button: Callable[[Waveform], Any]) -> None:
    """Show prompt, options and results, each with the button that `add_button` adds."""
    limits, own = studio.limits, studio.pipeline.generation_config
    waveforms = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = PromptFields.of(studio.pipeline, limits)
            with gr.Row():
                seconds = gr.Slider(
                    0.5, limits.seconds, min(own.audio_length_in_s, limits.seconds), step=0.5, label="Seconds"
                )
                number = gr.Slider(1, limits.waveforms, 1, step=1, label="Waveforms", visible=limits.waveforms > 1)
            sampling = SamplingFields.of(limits, audio_length_in_s=seconds, num_waveforms_per_prompt=number)
            button = run_buttons("Generate", studio.stop)
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown("Describe the music, then press Generate.", elem_id="generate-status")

            @gr.render(inputs=waveforms)
            def show(results: list[Any]) -> None:
                show_waveforms(results, add_button)

            command = command_box()

    def run(values: dict[Any, Any], request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        with shown_errors():
            results = studio.generate(
                str(request.session_hash), progress, prompt.prompt(values), sampling.options(values)
            )
            message = f"{counted(len(results), 'waveform')} of {results[0].seconds:.1f} s, seed {results[0].seed}."
            return results, shown_command(results[0].command), message

    button.click(
        run,
        {*prompt.components, *sampling.components},
        [waveforms, command, status],
        concurrency_id="model",
        api_visibility="private",
    )
    _generate_endpoint(studio)


def _generate_endpoint(studio: Studio) -> None:
    """Offer `generate` to programs, without components that are shown."""

    def generate(
        prompt: str,
        seconds: float,
        seed: int,
        num_waveforms: int,
        options: dict[str, Any] | None,
        fields: dict[str, Any] | None,
        request: gr.Request,
    ) -> tuple[list[str], str]:
        """Generate waveforms from a prompt; return their files and the command that generates the same.

        `options` are fields of GenerationConfig that commands have too, `fields` those of the prompt.
        """
        with shown_errors():
            named = {"audio_length_in_s": seconds, "seed": seed, "num_waveforms_per_prompt": num_waveforms}
            requested = new_prompt(studio.pipeline, prompt, fields or {})
            session, silent = str(request.session_hash), lambda *steps, **words: None
            results = studio.generate(session, silent, requested, {**without_defaults(named), **(options or {})})
            return [str(each.file) for each in results], results[0].command

    with gr.Row(visible=False):
        inputs = [
            gr.Textbox("", label="prompt"),
            gr.Number(5, label="seconds"),
            gr.Number(-1, label="seed", precision=0),
            gr.Number(1, label="num_waveforms", precision=0),
            gr.JSON({}, label="options"),
            gr.JSON({}, label="fields"),
        ]
        outputs = [gr.File(label="files", file_count="multiple"), gr.Textbox(label="command")]
        gr.Button().click(generate, inputs, outputs, api_name="generate", concurrency_id="model")
