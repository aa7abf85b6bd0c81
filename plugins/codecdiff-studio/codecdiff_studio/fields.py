"""Fields that the tabs have in common: the prompt, how it is sampled, and generated waveforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from codecdiff.pipeline import GenerationConfig, Pipeline
from codecdiff_studio.studio import Limits, Waveform, new_prompt

Values = Mapping[Any, Any]  # what the fields hold, by component
QUALITIES = get_args(get_args(GenerationConfig.model_fields["quality"].annotation)[0])  # of a Literal or None
OWN = "the model's own"  # what an empty field stands for
EXAMPLES = {"bpm": "120", "tempo": "120", "meter": "3/4", "key": "C# minor", "mode": "minor", "start": "0"}
EXPLAINED = {
    **dict.fromkeys(("bpm", "tempo"), "Beats per minute"),
    "mode": "Major or minor, if the key does not say",
    "start": "Seconds into the music at which the clip starts",
}


@dataclass(frozen=True)
class PromptFields:
    """The text of a prompt, the other fields that a model reads, and its controls: files that the music follows."""

    pipeline: Pipeline
    text: gr.Textbox
    others: Mapping[str, gr.Textbox]
    controls: Mapping[str, gr.Audio]

    @classmethod
    def of(cls, pipeline: Pipeline, limits: Limits, example: str = "") -> PromptFields:
        """Show the fields of a model's conditioner. Audio in prompts is left out."""
        text = gr.Textbox(example, label="Prompt", lines=2, max_length=limits.letters, placeholder="Describe the music")
        names = pipeline.conditioner.fields if pipeline.conditioner else ()
        hidden = ("text", "audio", "controls", *(["bpm"] if "tempo" in names else []))  # which mean the same
        others = [name for name in names if name not in hidden]
        with gr.Accordion(", ".join(others).capitalize(), open=False, visible=bool(others)), gr.Row():
            options: Any = {"min_width": 110, "max_length": 100}
            hints: Any = {name: {"placeholder": EXAMPLES.get(name), "info": EXPLAINED.get(name)} for name in others}
            boxes = {name: gr.Textbox(label=name, **hints[name], **options) for name in others}
        rates = pipeline.conditioner.control_rates if pipeline.conditioner else ()
        title = "Controls: audio that the music follows over time"
        with gr.Accordion(title, open=False, visible=bool(rates)), gr.Row():
            options = {"type": "filepath", "sources": ["upload"], "buttons": [], "min_width": 160}
            return cls(pipeline, text, boxes, {name: gr.Audio(label=name, **options) for name in rates})

    @property
    def components(self) -> list[Any]:
        """All fields."""
        return [self.text, *self.others.values(), *self.controls.values()]

    def filled(self, prompt: Mapping[str, Any]) -> list[str]:
        """Return the values of the texts of a prompt, those that it does not have empty."""
        return [str(prompt.get(name) or "") for name in ("text", *self.others)]

    def prompt(self, values: Values) -> dict[str, Any]:
        """Return the prompt."""
        fields = {name: values[field] for name, field in self.others.items()}
        files = {name: values[field] for name, field in self.controls.items() if values[field]}
        return new_prompt(self.pipeline, values[self.text], fields) | ({"controls": files} if files else {})


@dataclass(frozen=True)
class SamplingFields:
    """How a prompt is sampled, by the names of GenerationConfig."""

    by_name: Mapping[str, Any]

    @classmethod
    def of(cls, limits: Limits, *, with_seed: bool = True, **others: Any) -> SamplingFields:
        """Show the fields, and other components after those that are always there."""
        fields: dict[str, Any] = {}
        short: Any = {"max_length": 10}  # of texts, since a number of Gradio is 0 where it is empty
        choices = [(OWN, ""), *((name, name) for name in QUALITIES)]
        fields["quality"] = gr.Dropdown(choices, value="", label="Quality")
        if with_seed:
            fields["seed"] = gr.Textbox(label="Seed", placeholder="a new one", **short)
        fields |= others
        with gr.Accordion("Sampling", open=False):
            fields["num_inference_steps"] = gr.Textbox(label="Steps of every stage", placeholder=OWN, **short)
            fields["guidance_scale"] = gr.Textbox(label="Guidance scale", placeholder=OWN, **short)
            fields["negative_prompt"] = gr.Textbox(
                label="Negative prompt", max_length=limits.letters, info="What the music should not be like."
            )
        return cls(fields)

    @property
    def components(self) -> list[Any]:
        """All fields."""
        return list(self.by_name.values())

    def options(self, values: Values) -> dict[str, Any]:
        """Return the options that are not left to the model, whose fields are not empty."""
        options = {name: values[field] for name, field in self.by_name.items()}
        return {name: value for name, value in options.items() if value not in (None, "")}


def show_waveforms(waveforms: Sequence[Waveform], add_button: Callable[[Waveform], Any] | None = None) -> None:
    """Show a player, the spectrogram and a file to download for each waveform, and what else is done with it."""
    with gr.Row():
        for waveform in waveforms:
            with gr.Column(min_width=320):
                gr.Audio(str(waveform.file), label=waveform.title, buttons=["download"], interactive=False)
                gr.Image(
                    str(waveform.file.with_suffix(".png")),
                    alt_text=f"Spectrogram: {waveform.title}, low frequencies at the bottom",
                    show_label=False,
                    container=False,
                    interactive=False,
                    buttons=[],
                    elem_classes="studio-spectrogram",
                )
                if add_button:
                    add_button(waveform)


def counted(number: int, noun: str) -> str:
    """Return a number of things, as in "1 edit" or "2 edits"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def command_box() -> gr.Code:
    """Show the settings as a command to copy, once there is one."""
    label = "The same from the command line"
    options: Any = {"language": None, "interactive": False, "wrap_lines": True, "show_line_numbers": False}
    return gr.Code(label=label, lines=1, visible=False, **options)


def shown_command(command: str) -> Any:
    """Return what shows a command in its box, or hides the box without one."""
    return gr.update(value=command, visible=bool(command))


def run_buttons(name: str, stop: Any) -> gr.Button:
    """Show the button that starts, and one that stops."""
    with gr.Row():
        button = gr.Button(name, variant="primary", scale=3, min_width=160)
        gr.Button("Stop", scale=1, min_width=90).click(stop, queue=False, api_visibility="private")
    return button
