"""Files of the Hugging Face hub: which may be downloaded, and how parts load the pretrained models in them.

A part built under `torch.device("meta")` has no weights and downloads nothing: see `PretrainedPart.skeleton`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch

from codecdiff.errors import InvalidValue, UnknownName
from codecdiff.interfaces import Part

__all__ = [
    "PretrainedModels",
    "PretrainedPart",
    "commit_of",
    "downloads",
    "from_hub",
    "hub_problem",
    "is_building_skeleton",
    "may_fetch",
    "not_found",
    "offline_config",
    "require_complete",
]


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Forbid the hub's client to download anything inside the block, unless allowed; cached files still load."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def may_fetch() -> bool:
    """Return whether files may be downloaded at the moment: not where `downloads` forbids it, nor offline."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE


def hub_problem() -> str:
    """Return why the Hugging Face hub cannot be reached, empty if it can: its own client retries for a minute.

    Behind a proxy it is taken to be within reach.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    host, port = address.hostname or "", address.port or {"https": 443}.get(address.scheme, 80)
    if address.scheme in getproxies() and not proxy_bypass(host):
        return ""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return f"{host} cannot be reached: {error.strerror or error}"
    return ""


def commit_of(model: str, revision: str | None = None, *, file: str = "config.json") -> str | None:
    """Return the commit that a branch, a tag or None (the newest) of a hub id stands for now, as hub or cache say.

    `file` is any file of the repository. None for a local folder, and for an id that cannot be found.
    """
    if Path(model).exists():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with downloads(may_fetch() and not hub_problem()):
            return Path(hf_hub_download(model, file, revision=revision)).parent.name
    except (OSError, ValueError, HfHubHTTPError):
        return None


def not_found(what: str, model: str, revision: str | None, files: str, error: Exception) -> UnknownName:
    """Return the error for a model that cannot be found: where it is looked for, and how to get it there.

    `what` is its kind, as in "DAC model"; `files` what a local folder of it contains; `error` the library's.
    """
    at = f" at revision {revision!r}" if revision else ""
    return UnknownName(
        f"No {what} {model!r}{at}. It is looked for as a local folder with {files}, then as a Hugging Face id, which "
        "needs a network the first time. To fetch one elsewhere: `hf download ID --local-dir FOLDER`, then "
        f"model=FOLDER. ({str(error).strip().splitlines()[0]})"
    )


def offline_config(
    kind: str, model: str, revision: str | None, config_class: Any, released: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Return the configuration of a model, of transformers' `config_class`, without its weights and without a network.

    It is that of a local folder, of an id in `released` (id -> arguments of the class), or of an id downloaded before.
    `kind` is the model's kind, as in "DAC". Raises LookupError if it is none of these.
    """
    if model in released and not Path(model).is_dir():
        return config_class(**released[model])
    try:
        return config_class.from_pretrained(model, revision=revision or "main", local_files_only=True)
    except OSError as error:
        raise UnknownName(
            f"The configuration of the {kind} model {model!r} is not known here: it is not a folder with a "
            f"config.json, and not one of {', '.join(released)}."
        ) from error


def require_complete(what: str, model: str, missing: Iterable[str], advice: str = "") -> None:
    """Raise ValueError if weights of a model of this kind are missing: transformers would draw them at random."""
    if names := sorted(missing):
        raise InvalidValue(
            f"{model!r} is not a complete {what}: {len(names)} of its weights are missing, {names[0]!r} first.{advice}"
        )


def from_hub(loader: Any, kind: str, model: str, revision: str | None, files: str, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers. Raises LookupError if the model does not exist.

    `kind` is the model's kind, as in "DAC"; `files` what a local folder of it contains.
    """
    problem = hub_problem() if may_fetch() and not Path(model).exists() else ""
    try:
        with downloads(not problem):  # without a connection, what was downloaded before still loads
            return loader.from_pretrained(model, revision=revision or "main", **options)
    except OSError as error:
        raise not_found(f"{kind} model", model, revision, files, OSError(problem) if problem else error) from error


def is_building_skeleton() -> bool:
    """Return whether modules are built on the meta device at the moment: for their shapes, without weights."""
    return torch.get_default_device().type == "meta"


class PretrainedPart(Part):
    """A part around a pretrained network; under `torch.device("meta")` its constructor reads no weights."""

    path_options: ClassVar = {"model": "read"}
    small_options: ClassVar = {"model": "{tiny}"}

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Build the part on the meta device, with the constructor's options: it has its facts and no weights.

        Raises LookupError for an id that is neither released nor downloaded before.
        """
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return cls(**options)

    def pin_revision(self, model: str, revision: str | None) -> str | None:
        """Return the commit that `revision` stands for now, and record it as the part's argument: a branch moves."""
        if not is_building_skeleton():
            revision = commit_of(model, revision) or revision
        self.arguments["revision"] = revision
        return revision


@dataclass(frozen=True)
class PretrainedModels:
    """The pretrained models of one kind, all of one class of transformers.

    Example:
        MODELS = PretrainedModels("Mimi", MimiModel, {"kyutai/mimi": {}})
        network = MODELS.load("kyutai/mimi", revision=None)

    """

    kind: str  # in messages
    network_class: Any
    released: Mapping[str, Mapping[str, Any]]  # hub id -> arguments of its configuration
    files: str = "config.json and model.safetensors"  # of a local folder
    advice: str = ""  # for a model that lacks weights
    optional: frozenset[str] = frozenset()  # weights that may be missing: they are used in training alone
    options: Mapping[str, Any] = field(default_factory=lambda: {"use_safetensors": True})  # of from_pretrained

    def config(self, model: str, revision: str | None) -> Any:
        """Return a model's configuration without a network connection. Raises LookupError as `offline_config` does."""
        return offline_config(self.kind, model, revision, self.network_class.config_class, self.released)

    def load(self, model: str, revision: str | None, *, config: Any = None) -> Any:
        """Return the network of a local folder or a hub id, in float32; without weights on the meta device.

        Its configuration is the model's own unless `config` is passed. Weights are copied: in a file they lie at any
        address, and the last bits of what some kernels compute depend on alignment.

        Raises LookupError if the model does not exist, and ValueError if weights are missing.
        """
        if is_building_skeleton():
            network = self.network_class(config or self.config(model, revision))
            return network.float().to("meta")  # some buffers are made on the CPU all the same
        options = {**self.options, "output_loading_info": True, **({"config": config} if config else {})}
        with torch.random.fork_rng(devices=[]):  # networks are drawn before weights are read
            network, report = from_hub(self.network_class, self.kind, model, revision, self.files, **options)
        require_complete(self.kind, model, set(report["missing_keys"]) - self.optional, self.advice)
        for tensor in chain(network.parameters(), network.buffers()):
            tensor.data = tensor.data.clone()
        return network.float()
