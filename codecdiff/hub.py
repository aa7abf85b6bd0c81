"""The Hugging Face hub: what an id stands for, when it may be asked, and how a model folder gets there and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codecdiff import registry

ID = re.compile(r"[\w.-]+/[\w.-]+")
READ = ("*.json", "*.safetensors")  # of a model folder, what loading reads
SHARED = (*READ, "*.jsonl", "README.md")  # and what is sent to the hub
STATE = ("*/training/*", ".*")  # of training, and what is hidden: neither sent nor fetched


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


def fetched(name: str) -> Path:
    """Fetch a model folder from the hub. Raises LookupError if there is none of this name."""
    if not ID.fullmatch(name):
        names = ", ".join(registry.models()) or "none"
        raise LookupError(f"There is no model '{name}': no such folder, and no hub id. Installed models: {names}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(READ), ignore_patterns=list(STATE)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise LookupError(f"There is no folder '{name}', and the hub gave no model of that name: {error}") from error


def sent(folder: Path, name: str, *, private: bool | None = None) -> str:
    """Send a folder to the hub as one commit of `owner/name`, which is made if it is not there; give its address.

    Raises ValueError for a name of another form, PermissionError if the hub does not let this account write it, and
    ConnectionError if it cannot be reached.
    """
    if not ID.fullmatch(name):
        raise ValueError(f"'{name}' is no name on the hub: give one like 'owner/name'.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    unheard: Any = HfHubHTTPError.__bases__[0]  # any failure of the HTTP client, which depends on the library's version
    try:
        place = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=place.repo_id,
            folder_path=folder,
            allow_patterns=list(SHARED),
            ignore_patterns=list(STATE),
            commit_message="Upload a model of codecdiff",
        )
    except HfHubHTTPError as error:
        raise PermissionError(
            f"The hub did not take '{name}': log in with `hf auth login`, as an account that may write there. ({error})"
        ) from error
    except unheard as error:
        raise ConnectionError(
            f"The hub could not be reached, so nothing is known to be sent. Try again when it answers. ({error})"
        ) from error
    return str(place)
