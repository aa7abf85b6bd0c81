"""`codecdiff push`: a trained model to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff.cli.console import err, out


def push(
    model: Annotated[
        str, typer.Argument(help="Folder of a model or of its run, or installed model.", show_default=False)
    ],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Destination on the hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make it for your account alone.")] = False,
) -> None:
    """Send a trained model to the Hugging Face hub.

    Others then use it as `--model OWNER/NAME`.
    """
    from codecdiff.pipeline.hub import push_to_hub

    with err.status(f"Sending to {name}"):
        address = push_to_hub(model, name, private=private or None)
    out.print(address, soft_wrap=True)
