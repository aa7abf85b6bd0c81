"""The Hugging Face hub: what an id stands for, when it may be asked, and how a model folder gets there and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from codecdiff import registry

ID = re.compile(r"[\w.-]+/[\w.-]+")
READ = ("*.json", "*.safetensors")  # of a model folder, what loading reads
SHARED = (*READ, "*.jsonl", "README.md")  # and what is sent to the hub
STATE = ("*/training/*", ".*")  # of training, and what is hidden: neither sent nor fetched


def fetched(name: str) -> Path:
    """Fetch a model folder from the hub. Raises LookupError if there is none of this name."""
    if not ID.fullmatch(name):
        names = ", ".join(registry.entries("models")) or "none"
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
