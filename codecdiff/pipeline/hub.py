"""Models by name: a folder, an installed model or an id of the Hugging Face hub; and sending a model there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecdiff import registry
from codecdiff.data.sealed import FILES, verify_file
from codecdiff.errors import InvalidValue, UnknownName, UserError
from codecdiff.huggingface import downloads, hub_problem
from codecdiff.pipeline.checkpoint import MODEL_FILE, models_hint, read_config
from codecdiff.pipeline.stage_folder import STAGE_FILE, STATE_FILE, read_stage_config

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DOWNLOADED = ("*.json", "*.safetensors")  # of a model folder, what loading reads
UPLOADED = (*DOWNLOADED, "*.jsonl", "run.lock", "README.md")
EXCLUDED = ("*/training/*", ".*")  # the state of training, and hidden files: neither uploaded nor downloaded


class HubUnreachable(UserError, ConnectionError):
    """The Hugging Face hub cannot be reached."""


class HubRefusal(UserError, PermissionError):
    """The Hugging Face hub does not accept an upload."""


def find_model(name: Path | str) -> Path:
    """Return the folder of a model: a folder, or a run's with the model in it; an installed model; or a hub id.

    A hub id is fetched. Raises UnknownName if the model is not found.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise InvalidValue(f"Invalid model {name!r}: expected a name or a folder.{models_hint('')}")
    folder = _local_folder(name)
    return folder if folder.exists() else _download(str(name))


def push_to_hub(model: Path | str, name: str, *, private: bool | None = None) -> str:
    """Upload a model, a folder or the name of an installed one, to the Hugging Face hub, and return its address.

    `name` is `owner/name`; `private` matters if the repository is new, and None is the account's default. The state of
    training is not uploaded. Raises ValueError for a model that others could not load, and DamagedFile.
    """
    folder = _local_folder(model)
    spec = read_config(folder)
    if untrained := [name for name in spec["stages"] if not (folder / name / STAGE_FILE).exists()]:
        raise InvalidValue(f"'{folder}' is incomplete: train {' and '.join(untrained)} first.")
    denoisers = [read_stage_config(folder / name)["denoiser"] for name in spec["stages"]]
    if paths := [path for part in (spec["codec"], spec["conditioner"], *denoisers) for path in _local_paths(part)]:
        raise InvalidValue(
            f"'{folder}' names parts that exist only on this machine: {', '.join(paths)}. Upload them to the hub as "
            f"well, and write their ids to {MODEL_FILE}."
        )
    for home, described in ((folder, MODEL_FILE), *((folder / stage, STAGE_FILE) for stage in spec["stages"])):
        files = (spec if home == folder else read_stage_config(home)).get(FILES, {})
        for file in files.keys() - {STATE_FILE}:
            verify_file(home / file, {Path(file).name: files[file]}, home / described)
    return upload_folder(folder, name, private)


def _local_folder(model: Path | str) -> Path:
    """Return the folder of a model by its path, or the path of its run, or its installed name; it may not exist."""
    folder = Path(model)
    if folder.exists():
        run = folder / "model"  # of a folder that training writes
        return run if (run / MODEL_FILE).is_file() and not (folder / MODEL_FILE).exists() else folder
    return registry.installed_model(str(model)) or folder


def _local_paths(spec: Any) -> list[str]:
    """Return the strings in nested mappings and lists that are paths of this machine."""
    if isinstance(spec, Mapping | list):
        return [path for v in (spec.values() if isinstance(spec, Mapping) else spec) for path in _local_paths(v)]
    is_path = isinstance(spec, str) and (Path(spec).is_absolute() or ("/" in spec and Path(spec).exists()))
    return [spec] if is_path else []


def _download(name: str) -> Path:
    """Download a model folder from the hub. Raises LookupError if it is not found."""
    if not HUB_ID.fullmatch(name):
        raise UnknownName(f"No model '{name}'.{models_hint(name)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    problem = hub_problem()
    try:
        with downloads(not problem):  # without a connection, a model that was downloaded before still loads
            return Path(snapshot_download(name, allow_patterns=list(DOWNLOADED), ignore_patterns=list(EXCLUDED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        beside = map(str, Path(name).parent.iterdir()) if Path(name).parent.is_dir() else ()
        where = "no folder or installed model has that name, and the Hugging Face Hub does not have it or does "
        where += f"not answer ({problem or error})"
        raise UnknownName(f"No model '{name}': {where}.{models_hint(name, beside)}") from error


def upload_folder(folder: Path, name: str, private: bool | None = None) -> str:
    """Upload a folder as one commit of `owner/name`, which is created if it does not exist; return its address.

    Raises InvalidValue for another form of name, or a link that leads out of the folder, HubRefusal if this account may
    not write there, and HubUnreachable.
    """
    if not HUB_ID.fullmatch(name):
        raise InvalidValue(f"Invalid hub id '{name}': expected 'owner/name'.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _check_links(folder)
    if problem := hub_problem():
        raise HubUnreachable(f"Nothing was uploaded: {problem}. Connect to the network, then try again.")
    hub = HfApi()
    http_error: Any = HfHubHTTPError.__bases__[0]  # of the HTTP client, which depends on the library's version
    try:
        repository = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=list(UPLOADED),
            ignore_patterns=list(EXCLUDED),
            commit_message="Upload a codecdiff model",
        )
    except HfHubHTTPError as error:
        raise HubRefusal(
            f"The hub refused '{name}': log in with `hf auth login`, as an account that may write there. ({error})"
        ) from error
    except http_error as error:
        raise HubUnreachable(f"The hub was not reached; the upload may be incomplete. Try again. ({error})") from error
    return str(repository)


def _check_links(folder: Path) -> None:
    """Raise InvalidValue for a link to a file that is not the model's own, or to a folder, whose files are left out."""
    from huggingface_hub.utils import filter_repo_objects

    home = folder.resolve()
    is_cache = home.parent.name == "snapshots" and home.parents[1].name.startswith("models--")
    homes = (home, home.parents[1] / "blobs") if is_cache else (home,)  # its files are links to those fetched with them
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink()):
        name, target = path.relative_to(folder).as_posix(), os.path.realpath(path)
        names = [f"{name}/{MODEL_FILE}"] if path.is_dir() else [name]
        is_sent = any(filter_repo_objects(names, allow_patterns=list(UPLOADED), ignore_patterns=list(EXCLUDED)))
        if is_sent and (path.is_dir() or not any(Path(target).is_relative_to(each) for each in homes)):
            raise InvalidValue(
                f"'{path}' is a link to '{target}', which is not a file of this model: nothing was uploaded. Put a "
                "copy in its place, or delete the link."
            )
