"""A DAC of random weights, tones on disk and a store of their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import write_music

from codecdiff import Codec, config
from codecdiff.data.code_store import CodeStore
from codecdiff.data.encoding.encode import encode_tracks
from codecdiff.data.metadata import find_tracks
from codecdiff.testing.tiny import write_tiny


@pytest.fixture(scope="session")
def codec_spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("codecdiff_dac")
    return {"name": "dac", "model": str(write_tiny("dac", tmp_path_factory.mktemp("dac")))}


@pytest.fixture(scope="session")
def dac(codec_spec: dict[str, Any]) -> Codec:
    return config.build("codecs", codec_spec)


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_music(tmp_path_factory.mktemp("music"))


@pytest.fixture(scope="session")
def store(dac: Codec, codec_spec: dict[str, Any], music: Path, tmp_path_factory: pytest.TempPathFactory) -> CodeStore:
    return encode_tracks(find_tracks(music), tmp_path_factory.mktemp("stores") / "store", dac, codec_spec)[0]
