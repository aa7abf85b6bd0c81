"""The tab Generate, and the same as a function of the API."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import gradio as gr

from codecdiff.errors import InvalidValue
from codecdiff_studio.fields import (
    PromptFields,
    SamplingFields,
    command_box,
    run_buttons,
    show_waveforms,
    shown_command,
)
from codecdiff_studio.studio import Studio, Waveform, errors_of_api, new_prompt, shown_errors


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
                number = gr.Slider(1, limits.waveforms, 1, step=1, label="Takes", visible=limits.waveforms > 1)
            sampling = SamplingFields.of(limits, audio_length_in_s=seconds, num_waveforms_per_prompt=number)
            button = run_buttons("Generate", studio.stop)
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown("Describe the music, then press Generate.", elem_id="generate-status")

            @gr.render(inputs=waveforms)
            def show(results: list[Any]) -> None:
                show_waveforms(results, add_button)

            command = command_box()

    def run(values: dict[Any, Any], request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008 - for Gradio
        with shown_errors():
            results = studio.generate(
                str(request.session_hash), progress, prompt.prompt(values), sampling.options(values)
            )
            count = f"{len(results)} take{'s' * (len(results) > 1)}"
            message = f"{count} of {results[0].seconds:.1f} s, seed {results[0].seed}."
            return results, shown_command(results[0].command), message
        return gr.skip()

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
        request: gr.Request,
        prompt: Any,
        audio_length_in_s: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: Any = None,
        num_waveforms_per_prompt: int | None = None,
        seed: int | None = None,
        generation_config: dict[str, Any] | None = None,
    ) -> tuple[list[str], str, list[str]]:
        """Generate waveforms from a prompt: a text, or its fields as in {"text": "a waltz", "bpm": 90}.

        The arguments are those of a pipeline in Python, and None stands for the model's own value, or a new seed.
        `generation_config` has the others that commands have too: loop, loudness, negative_prompt and quality. Returns
        the files, the command that generates the same, and notes, such as on words that the model was not trained on.
        """
        named = {"audio_length_in_s": audio_length_in_s, "num_inference_steps": num_inference_steps, "seed": seed}
        named |= {"guidance_scale": guidance_scale, "num_waveforms_per_prompt": num_waveforms_per_prompt}
        with errors_of_api() as notes:
            if not isinstance(generation_config, dict | None):
                raise InvalidValue(f"Invalid generation_config={generation_config!r}: expected a mapping of options.")
            fields = dict(prompt) if isinstance(prompt, dict) else {"text": prompt}
            requested = new_prompt(studio.pipeline, fields.pop("text", ""), fields)
            options = (generation_config or {}) | {name: value for name, value in named.items() if value is not None}
            session, silent = str(request.session_hash), lambda *steps, **words: None
            results = studio.generate(session, silent, requested, options)
        return [str(each.file) for each in results], results[0].command, notes

    with gr.Row(visible=False):
        of_json = ("prompt", "guidance_scale", "generation_config")  # the others are numbers
        names = list(signature(generate).parameters)[1:]
        inputs = [(gr.JSON if name in of_json else gr.Number)(None, label=name) for name in names]
        outputs = [gr.File(label="files", file_count="multiple"), gr.Textbox(label="command"), gr.JSON(label="notes")]
        options: Any = {"api_name": "generate", "concurrency_id": "model"}
        gr.Button().click(generate, inputs, outputs, **options)
