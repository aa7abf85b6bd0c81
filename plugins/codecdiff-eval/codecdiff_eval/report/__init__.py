"""Reports: sections of tables, plots, players and notes, written as a web page, as Markdown and as JSON.

A section is written by one function that returns a `Section`; `write_report` writes a `Report` of any of them.
`codecdiff_eval.report.numbers` writes values with their intervals, `codecdiff_eval.plots` draws.

Example:
    losses = Section("Learning", "Losses by step.", [Plot("primary", plot_losses("primary", log))])
    listen = Section("Listen", "", [Players("a slow waltz", [Player("samples/00.wav", "Generated")])])
    write_report(Report("My model", [listen, losses]), folder, data={"log": log})

"""

from codecdiff_eval.report.blocks import (
    Cell,
    Code,
    Notes,
    Player,
    Players,
    Plot,
    Report,
    Section,
    Table,
    estimate_cell,
    facts_table,
)
from codecdiff_eval.report.render import console_table, finite_json, render_html, render_markdown, write_report

__all__ = [
    "Cell",
    "Code",
    "Notes",
    "Player",
    "Players",
    "Plot",
    "Report",
    "Section",
    "Table",
    "console_table",
    "estimate_cell",
    "facts_table",
    "finite_json",
    "render_html",
    "render_markdown",
    "write_report",
]
