"""Files of the Hugging Face hub: which may be fetched, and what is wrong when one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Keep the hub's client from fetching anything inside the block, unless allowed; what is cached still loads."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def may_fetch() -> bool:
    """Tell whether anything may be fetched here and now: not where `downloads` forbids it, nor offline."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE


def commit_of(model: str, revision: str | None = None, *, file: str = "config.json") -> str | None:
    """Give the commit that a branch, a tag or the newest of a hub id stands for now, from the hub or what is cached.

    `file` is one that the repository has. None for a local folder, and for an id that cannot be found.
    """
    if Path(model).exists():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(model, file, revision=revision)).parent.name
    except (OSError, ValueError, HfHubHTTPError):
        return None


def not_found(what: str, model: str, revision: str | None, files: str, error: Exception) -> LookupError:
    """Give the error of a part whose model could not be had: where it is looked for, and how to get it there.

    `what` is its kind, as in "DAC model"; `files` what a local folder of it holds; `error` what the library said.
    """
    at = f" at revision {revision!r}" if revision else ""
    return LookupError(
        f"No {what} {model!r}{at}. It is looked for as a local folder with {files}, then as a Hugging Face id, which "
        "needs a network the first time. To fetch one elsewhere: `hf download ID --local-dir FOLDER`, then "
        f"model=FOLDER. ({str(error).strip().splitlines()[0]})"
    )


def known_shape(
    what: str, model: str, revision: str | None, shape: Any, released: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Give the configuration of a model, of transformers' class `shape`, without its weights and without a network.

    It is that of a local folder, of a `released` id, which is given here, or of one that was fetched before. `what` is
    the model's kind. Raises LookupError if it is none of these.
    """
    if model in released and not Path(model).is_dir():
        return shape(**released[model])
    try:
        return shape.from_pretrained(model, revision=revision or "main", local_files_only=True)
    except OSError as error:
        raise LookupError(
            f"The shape of the {what} model {model!r} is not known here: there is no such folder with a config.json, "
            f"and it is none of {', '.join(released)}."
        ) from error


def require_complete(what: str, model: str, missing: Iterable[str], advice: str = "") -> None:
    """Raise ValueError if weights are missing that a model of this kind has; transformers would draw them at random."""
    if names := sorted(missing):
        raise ValueError(
            f"{model!r} is not a complete {what}: {len(names)} of its weights are missing, {names[0]!r} first.{advice}"
        )
