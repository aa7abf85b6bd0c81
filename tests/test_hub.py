"""What goes to the hub and comes from it, with a hub on this machine that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from small import model_fingerprint

from codecdiff import Pipeline, load
from codecdiff.errors import InvalidValue
from codecdiff.huggingface import commit_of, downloads
from codecdiff.pipeline import checkpoint, push_to_hub
from codecdiff.pipeline.checkpoint import MODEL_FILE
from codecdiff.pipeline.hub import upload_folder

pytestmark = pytest.mark.integration

Make = Callable[..., Pipeline]


class Hub(ThreadingHTTPServer):
    """A hub of repositories with one branch; every commit replaces all that was there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, dict[str, bytes]] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.visibility: dict[str, str | None] = {}

    def commit(self, name: str) -> str:
        """Give the commit of a repository: a hash of what it holds."""
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """Answers one request as the hub would."""

    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def give(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.give({"error": "Invalid username or password."}, 401)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "repos"]:
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self.server.visibility[name] = asked.get("visibility")
            return self.give({"url": f"{self.server.address}/{name}", "id": name})
        if parts[1] == "validate-yaml":
            return self.give({"errors": [], "warnings": []})
        name, verb = "/".join(parts[2:4]), parts[4]
        if verb == "preupload":
            paths = [file["path"] for file in json.loads(sent)["files"]]
            return self.give({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        lines = [json.loads(line) for line in sent.splitlines()]
        values = [line["value"] for line in lines if line["key"] == "file"]
        self.server.files[name] = {value["path"]: base64.b64decode(value["content"]) for value in values}
        commit = self.server.commit(name)
        return self.give({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})

    def do_GET(self) -> None:
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.server.files:
            return self.reply(404, b"", X_Error_Code="RepoNotFound")
        files, commit = self.server.files[name], self.server.commit(name)
        if "tree" in parts[4:]:
            return self.give([{"type": "file", "path": p, "size": len(f), "oid": ""} for p, f in files.items()])
        if parts[0] == "api":
            return self.give({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
        content = files.get("/".join(parts[4:]))
        if content is None:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        return self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asking(hub: Hub, home: Path, program: str, token: str = "hf_right") -> subprocess.CompletedProcess[str]:
    """Run a program whose hub is this one, and whose cache is empty at first."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": token}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


ROUND = """
import json
import codecdiff
from codecdiff import config, pipeline

codec = config.build("codecs", {{"name": "dac", "model": "somebody/codec"}})
address = pipeline.push_to_hub({folder!r}, "somebody/model", private=True)
model = codecdiff.load("somebody/model", allow_download=True)
print(json.dumps([codec.arguments, address, model.fingerprint, model.stage_names, model.codec.codec.arguments]))
"""


def test_a_model_goes_to_the_hub_and_comes_back(
    make_pipeline: Make, dac_folder: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.files["somebody/codec"] = {file.name: file.read_bytes() for file in dac_folder.iterdir()}
    commit = hub.commit("somebody/codec")
    folder = tmp_path / "model"
    make_pipeline().save_pretrained(folder)
    with pytest.raises(
        ValueError, match=f"parts that exist only on this machine: {dac_folder}. Upload them to the hub"
    ):
        push_to_hub(folder, "somebody/model")
    spec = json.loads((folder / MODEL_FILE).read_text())
    spec["codec"]["codec"]["model"] = "somebody/codec"
    del spec["files"], spec["sha256"]  # as somebody who edits it has to
    (folder / MODEL_FILE).write_text(json.dumps(spec))
    (folder / "primary" / "training").mkdir()
    (folder / "primary" / "training" / "state.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n")

    made = asking(hub, tmp_path / "home", ROUND.format(folder=str(folder)))
    assert made.returncode == 0, made.stderr
    arguments, address, fingerprint, stages, named = json.loads(made.stdout)
    assert arguments == {"model": "somebody/codec", "revision": commit, "backend": "transformers"}
    assert named == arguments
    assert address == f"{hub.address}/somebody/model"
    assert stages == ["primary", "secondary"]
    assert fingerprint == model_fingerprint(folder)
    sent = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert hub.files["somebody/model"].keys() == sent - {"primary/training/state.json"}
    assert hub.visibility == {"somebody/model": "private"}

    hub.files["somebody/codec"]["config.json"] += b"\n"  # a later commit
    later = "from codecdiff.huggingface import commit_of; print(commit_of('somebody/codec'))"
    assert asking(hub, tmp_path / "home", later).stdout.strip() == hub.commit("somebody/codec") != commit


def test_who_cannot_write_there_is_told_why(hub: Hub, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from codecdiff.pipeline.hub import upload_folder; "
        "upload_folder(Path('.'), 'somebody/model')"
    )
    refused = asking(hub, tmp_path, program, token="hf_wrong")
    assert "HubRefusal: The hub refused 'somebody/model': log in with `hf auth login`" in refused.stderr
    hub.address = "http://127.0.0.1:9"  # where nobody answers
    unheard = asking(hub, tmp_path, program)
    assert "HubUnreachable: Nothing was uploaded: 127.0.0.1 cannot be reached: Connection refused" in unheard.stderr


def test_without_a_connection_nothing_is_tried_again(dac_folder: Path, hub: Hub, tmp_path: Path) -> None:
    hub.files["somebody/codec"] = {file.name: file.read_bytes() for file in dac_folder.iterdir()}
    program = "from codecdiff import config; config.build('codecs', {'name': 'dac', 'model': 'somebody/codec'})"
    hub.address, address = "http://127.0.0.1:9", hub.address  # where nobody answers
    failed = asking(hub, tmp_path, program)
    assert "UnknownName: No DAC model 'somebody/codec'" in failed.stderr
    assert "(127.0.0.1 cannot be reached: Connection refused)" in failed.stderr
    assert "Retrying" not in failed.stderr
    hub.address = address
    assert asking(hub, tmp_path, program).returncode == 0
    hub.address = "http://127.0.0.1:9"
    cached = asking(hub, tmp_path, program)
    assert (cached.returncode, "Retrying" in cached.stderr) == (0, False)


def test_the_folder_of_a_run_is_a_model(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "run" / "model")
    assert load(tmp_path / "run").folder == tmp_path / "run" / "model"


def test_a_commit_that_was_not_known_agrees_with_any() -> None:
    known, unknown, other = ({"model": "a/b", "revision": revision} for revision in ("123", None, "456"))
    assert checkpoint.config_differences(unknown, known, "codec") == []
    assert checkpoint.config_differences(other, known, "codec") == ['codec.revision is "456" there, "123" here']
    assert checkpoint.config_differences(known, unknown, "codec") == ['codec.revision is "123" there, null here']


def test_a_model_that_others_could_not_load_stays_here(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline()
    pipeline.stages = pipeline.stages[:1]
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is incomplete: train secondary first"):
        push_to_hub(tmp_path, "somebody/model")
    with pytest.raises(ValueError, match="Invalid hub id 'model': expected 'owner/name'"):
        push_to_hub("starter", "model")


def test_a_damaged_model_stays_here(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    spec = json.loads((tmp_path / MODEL_FILE).read_text())
    spec["codec"]["codec"]["model"] = "somebody/codec"
    del spec["files"], spec["sha256"]
    (tmp_path / MODEL_FILE).write_text(json.dumps(spec))
    weights = tmp_path / "secondary" / "model.safetensors"
    for damaged in (weights.read_bytes()[:-1], None):
        weights.write_bytes(damaged) if damaged else weights.unlink()
        with pytest.raises(InvalidValue, match=r"secondary/model\.safetensors' is (damaged|missing)"):
            push_to_hub(tmp_path, "somebody/model")


@pytest.mark.parametrize("name", ["extra.json", "primary/notes.jsonl", "README.md", "codec", "primary/training.json"])
def test_what_lies_elsewhere_is_not_uploaded(hub: Hub, tmp_path: Path, name: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "model"
    (folder / "primary" / "training").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "secret.json").write_text("{}")
    (folder / "primary" / "training" / "state.json").symlink_to(elsewhere / "secret.json")  # none of these is uploaded
    (folder / ".hidden.json").symlink_to(elsewhere / "secret.json")
    (folder / "sound.wav").symlink_to(elsewhere / "secret.json")
    (folder / "own.json").write_text("{}")
    (folder / "again.json").symlink_to("own.json")
    assert uploaded(hub, folder, tmp_path / "home") == {"own.json", "again.json"}
    (folder / name).symlink_to(elsewhere if name == "codec" else elsewhere / "secret.json")
    with pytest.raises(InvalidValue, match=f"{folder / name}' is a link to '{elsewhere}.*: nothing was uploaded"):
        upload_folder(folder, "somebody/model")


def uploaded(hub: Hub, folder: Path, home: Path) -> set[str]:
    """Upload a folder, and return the names of the files that arrive."""
    program = "from pathlib import Path; from codecdiff.pipeline.hub import upload_folder; "
    program += f"upload_folder(Path({str(folder)!r}), 'a/b')"
    done = asking(hub, home, program)
    assert done.returncode == 0, done.stderr
    return set(hub.files["a/b"])


def test_what_the_hub_keeps_of_a_model_is_uploaded(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    folder = cache / "snapshots" / "0123"
    for each in (folder, cache / "blobs", tmp_path / "models--c--d" / "blobs"):
        each.mkdir(parents=True)
        (each / "4567").write_text("{}")
    (folder / "own.json").symlink_to("../../blobs/4567")
    assert uploaded(hub, folder, tmp_path / "home") == {"own.json"}
    (folder / "other.json").symlink_to("../../../models--c--d/blobs/4567")
    with pytest.raises(InvalidValue, match=r"other\.json' is a link"):
        upload_folder(folder, "somebody/model")


def test_a_folder_has_no_commit(dac_folder: Path) -> None:
    assert commit_of(str(dac_folder)) is None


def test_downloads_are_forbidden_only_inside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with downloads(False):
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
    with downloads(True):
        assert not constants.is_offline_mode()
