"""`codecdiff push`: upload a trained model to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff.cli.console import err, out


def push(
    model: Annotated[str, typer.Argument(help="Folder of a model or of its run.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
) -> None:
    """Upload a trained model to the Hugging Face Hub.

    Others then use it as `--model OWNER/NAME`.
    """
    from codecdiff.pipeline.hub import push_to_hub

    with err.status(f"Uploading to {name}"):
        address = push_to_hub(model, name, private=private or None)
    out.print(address, soft_wrap=True)
