"""The tab Model: the model card, the parts and stages, and the licenses of the training data."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from codecdiff.errors import UserError
from codecdiff.files import read_text
from codecdiff.pipeline import Pipeline
from codecdiff_studio.studio import Studio


def model_tab(studio: Studio) -> None:
    """Show every model."""
    for i, (name, pipeline) in enumerate(studio.models.items()):
        with gr.Accordion(name, open=i == 0):
            gr.Code(repr(pipeline), label="Parts and stages", language=None, interactive=False, wrap_lines=True)
            gr.Dataframe(
                licenses_of(pipeline),
                headers=["license of the training data", "hours"],
                label="Training data",
                interactive=False,
                wrap=True,
            )
            gr.Markdown(model_card_of(pipeline), elem_classes="model-card")


def licenses_of(pipeline: Pipeline) -> list[list[Any]]:
    """Return the hours of training data under each license; a row that says so if none are recorded."""
    hours = pipeline.data.get("license_hours") or {}
    return [[str(name), f"{float(value):g}"] for name, value in hours.items()] or [["not recorded", ""]]


def model_card_of(pipeline: Pipeline) -> str:
    """Return the model card of a model's folder without its header."""
    try:
        text = read_text(pipeline.folder / "README.md") if pipeline.folder else ""
    except UserError:
        text = ""
    return re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE) or "The model has no model card."
