"""The tab Edit: a file, its codes, a region of them, and what is generated there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from codecdiff.errors import InvalidValue
from codecdiff.pipeline import Edit, Extend, Inpaint, Refine, Restore, Vary, parse_levels
from codecdiff_studio.fields import (
    PromptFields,
    SamplingFields,
    Values,
    command_box,
    counted,
    run_buttons,
    shown_command,
)
from codecdiff_studio.plots import codes_figure, player
from codecdiff_studio.studio import Studio, Waveform, shown_errors

STATIC = files("codecdiff_studio") / "static"
KINDS = {
    "Inpaint: generate the region again": "inpaint",
    "Refine: keep coarse levels, generate the finer ones": "refine",
    "Extend: continue after the end": "extend",
    "Vary: a variation of everything": "vary",
    "Restore: generate the levels that a low bit rate lost": "restore",
}
EMPTY = "<p>Drop a file above. Its codes appear here: drag over them to select a region and levels.</p>"


class EditTab:
    """The components of the tab. Its state is the versions of the file, the original first."""

    def __init__(self, studio: Studio):
        self.studio, limits = studio, studio.limits
        self.levels = sorted(set(studio.pipeline.codec.levels))
        self.versions = gr.State([])
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.source = gr.Audio(type="filepath", sources=["upload"], label="Audio to edit", buttons=[])
                self.kind = gr.Radio(list(KINDS.items()), value="inpaint", label="Edit")
                self._options(limits.seconds)
                self.prompt = PromptFields.of(studio.pipeline, limits)
                self.sampling = SamplingFields.of(limits)
                self.button = run_buttons("Apply", studio.stop)
            with gr.Column(scale=3, min_width=300):
                self.figure = gr.HTML(
                    EMPTY, js_on_load=(STATIC / "region.js").read_text(encoding="utf-8"), elem_id="codes"
                )
                self.status = gr.Markdown("", elem_id="edit-status")
                self.player = gr.HTML(
                    "", js_on_load=(STATIC / "player.js").read_text(encoding="utf-8"), elem_id="versions"
                )
                self.undo = gr.Button("Undo", interactive=False)
                self.command = command_box()
        self._events()

    def _options(self, seconds: float) -> None:
        """Show the options of each kind of edit; those of one kind at a time are visible."""
        last = self.levels[-1]
        with gr.Group() as self.region_group:
            with gr.Row():
                self.start = gr.Number(0, label="From (s)", min_width=90)
                self.stop = gr.Number(0, label="To (s)", min_width=90)
            with gr.Row():
                self.low = gr.Number(0, label="First level", precision=0, min_width=90)
                self.high = gr.Number(last, label="Last level", precision=0, min_width=90)
        self.keep = gr.Textbox("0", label="Levels to keep, as in 0 or 0-3; 0 is the coarsest", visible=False)
        self.seconds = gr.Number(min(5, seconds), label="Seconds to append", visible=False)
        self.strength = gr.Slider(0.05, 1, 0.4, step=0.05, label="Strength: 1 keeps nothing", visible=False)
        self.present = gr.Slider(1, max(1, last), 1, step=1, label="Coarse levels to keep", visible=False)

    @property
    def region(self) -> list[Any]:
        """The fields of the region."""
        return [self.start, self.stop, self.low, self.high]

    def _events(self) -> None:
        shown = [self.versions, self.figure, self.player, self.undo, self.command, self.status]
        private: dict[str, Any] = {"api_visibility": "private"}
        by_kind = {
            "inpaint": self.region_group,
            "refine": self.keep,
            "extend": self.seconds,
            "vary": self.strength,
            "restore": self.present,
        }
        self.kind.change(
            lambda kind: [gr.update(visible=kind == each) for each in by_kind],
            self.kind,
            list(by_kind.values()),
            queue=False,
            **private,
        )
        loaded = [*shown, *self.region, self.source]
        self.source.change(self.load, self.source, loaded, concurrency_id="model", **private)
        self.figure.select(self.select, self.versions, [*self.region, self.kind], queue=False, **private)
        for field in self.region:
            field.input(self.draw, [self.versions, *self.region], self.figure, queue=False, **private)
        options = {self.kind, *self.region, self.keep, self.seconds, self.strength, self.present}
        inputs = {self.versions, *options, *self.prompt.components, *self.sampling.components}
        self.button.click(self.apply, inputs, shown, concurrency_id="model", **private)
        self.undo.click(self.step_back, [self.versions, *self.region], shown, queue=False, **private)

    def load(self, path: str | None) -> list[Any]:
        """Encode a file that was dropped, or forget the one that was removed; one that is refused is removed, too."""
        with shown_errors():
            if path:
                version = self.studio.encode(Path(path))
                edges = (round(version.seconds * third / 3, 3) for third in (1, 2))  # the middle is selected
                region = (*edges, self.levels[0], self.levels[-1])
                return [*self._shown([version], region), *region, gr.skip()]
        return [*self._shown([], (0, 0, 0, 0)), *(gr.update() for _ in self.region), None]

    def select(self, versions: Sequence[Waveform], event: gr.EventData) -> list[Any]:
        """Take over a region that was dragged; rows of the figure are codebooks."""
        if not versions:
            return [gr.update() for _ in range(5)]
        levels = self.studio.pipeline.codec.levels
        rows = [levels[min(max(0, int(row)), len(levels) - 1)] for row in (event.low, event.high)]
        times = [round(min(max(0.0, float(edge)), versions[-1].seconds), 3) for edge in (event.start, event.stop)]
        return [*times, min(rows), max(rows), "inpaint"]

    def draw(self, versions: Sequence[Waveform], *region: Any) -> str:
        """Return the figure of the current version with the region."""
        if not versions:
            return EMPTY
        levels = list(self.studio.pipeline.codec.levels)
        rows = [i for i, level in enumerate(levels) if (region[2] or 0) <= level <= (region[3] or 0)] or [0]
        shown = (region[0], region[1], rows[0], rows[-1])
        version = versions[-1]
        return codes_figure(version.codes, levels, self.studio.pipeline.codec.codebook_size, version.seconds, shown)

    def apply(self, values: Values, request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008 - for Gradio
        """Edit the current version; the result becomes the current one."""
        versions = list(values[self.versions])
        with shown_errors():
            if not versions:
                raise InvalidValue("No audio to edit: drop a file first, and wait until its codes are shown.")
            edit, session = self.edit(values), str(request.session_hash)
            versions[0].file.touch()  # the original is kept as long as it can be compared with
            words = self.prompt.prompt(values), self.sampling.options(values)
            versions.append(self.studio.edit(session, progress, versions[-1], edit, *words))
            return self._shown(versions, [values[field] for field in self.region])
        return gr.skip()

    def edit(self, values: Values) -> Edit:
        """Return the edit that the fields describe. Raises InvalidValue."""
        match values[self.kind]:
            case "inpaint":
                start, stop, low, high = (float(values[field] or 0) for field in self.region)
                levels = tuple(level for level in self.levels if low <= level <= high)
                if stop <= start or not levels:
                    raise InvalidValue("The region is empty: drag over the codes, or enter its edges and levels.")
                return Inpaint(regions=((start, stop),), levels=None if list(levels) == self.levels else levels)
            case "refine":
                return Refine(keep=parse_levels(values[self.keep]))
            case "extend":
                if not (values[self.seconds] or 0) > 0:
                    raise InvalidValue(f"Invalid seconds to append {values[self.seconds]}: expected more than 0.")
                return Extend(seconds=values[self.seconds])
            case "vary":
                return Vary(strength=values[self.strength])
            case _:
                return Restore(levels=int(values[self.present]))

    def _player(self, versions: Sequence[Waveform]) -> str:
        """Return a player of the original, the version before the last edit if that is another, and the result."""
        if not versions:
            return ""
        titled = {"A: original": versions[0].file}
        if len(versions) > 1:
            titled["B: result"] = versions[-1].file
        if len(versions) > 2:
            titled = {"A: original": versions[0].file, "Before the last edit": versions[-2].file, **titled}
        return player(titled, max(version.seconds for version in versions))

    def step_back(self, versions: Sequence[Waveform], *region: Any) -> list[Any]:
        """Return to the version before the current one."""
        return self._shown(versions[:-1] if len(versions) > 1 else versions, region)

    def _shown(self, versions: Sequence[Waveform], region: Sequence[Any]) -> list[Any]:
        """Return what the page shows of the versions of a file."""
        edits = len(versions) - 1
        status = f"{versions[-1].seconds:.2f} s, {counted(edits, 'edit')}." if versions else ""
        return [
            list(versions),
            self.draw(versions, *region),
            self._player(versions),
            gr.update(interactive=edits > 0),
            shown_command(versions[-1].command if versions else ""),
            status,
        ]
