"""`codecdiff push`: a trained model to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from codecdiff.cli.console import err, out


def push(
    model: Annotated[str, typer.Argument(help="Model folder, or the name of an installed model.")],
    name: Annotated[str, typer.Argument(help="Destination on the Hugging Face hub, as in 'owner/name'.")],
    private: Annotated[bool, typer.Option("--private", help="Make it for your account alone.")] = False,
) -> None:
    """Send a trained model to the Hugging Face hub, for `--model owner/name`."""
    from codecdiff.pipeline.hub import push_to_hub

    with err.status(f"Sending to {name}"):
        address = push_to_hub(model, name, private=private or None)
    out.print(address, soft_wrap=True)
