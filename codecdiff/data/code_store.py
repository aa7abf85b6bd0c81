"""The store of training data: integer codes in memory-mapped shards, beside a manifest.

store/  header.json       codec, its options and a hash of its weights, how tracks were segmented, frame rate, counts
        manifest.parquet  one row per segment: track, captions, split, place of its codes... (encoding.worker.SCHEMA)
        codec.safetensors state of the codec, if it was fitted
        shards/00000.npy  uint16 (frames, k), frame-major: a random crop is one contiguous read
        shards/00000.continuous.npy  float16 (frames, k, d), optional: the latents before quantization
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from codecdiff.config import align_defaults
from codecdiff.config.schema import Target
from codecdiff.data.legacy import upgrade_store
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import read_safetensors
from codecdiff.fingerprint import device_of, module_fingerprint
from codecdiff.interfaces.codec import Codec

FORMAT = 2
CONTINUOUS_SUFFIX = {1: ".projections.npy", FORMAT: ".continuous.npy"}  # of files, by format


def load_state(file: Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file; none if it does not exist. Raises DamagedFile."""
    return read_safetensors(file)[0] if file.exists() else {}


class CodeStore:
    """Codes of many tracks on disk, whole or in segments. There are `len(store)` rows, one per segment.

    Example:
        >>> CodeStore("stores/mine").codes(0)  # uint16 (frames, k), memory-mapped

    Raises:
        FileNotFoundError: The folder is not a store.
        ValueError: Another version of codecdiff wrote the store.

    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        file = self.folder / "header.json"
        if not file.is_file():
            raise MissingFile(
                f"'{self.folder}' is not a store of codes. Make one from a folder of audio or a manifest: "
                "codecdiff encode AUDIO -o STORE."
            )
        self.header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = self.header.get("format")
        if version not in CONTINUOUS_SUFFIX:
            text = f"'{self.folder}' has format {version}; this codecdiff reads 1 to {FORMAT}."
            raise InvalidValue(f"{text} Encode the audio again.")
        self.rows: list[dict[str, Any]] = pq.read_table(self.folder / "manifest.parquet").to_pylist()
        if version == 1:
            self.header, self.rows = upgrade_store(self.header, self.rows)
        self.audio: Path | None = None  # folder of the tracks, if it is available
        self.has_continuous: bool = self.header["continuous"]
        self._codes = self._shards(".npy")
        self._continuous = self._shards(CONTINUOUS_SUFFIX[version]) if self.has_continuous else []

    def _shards(self, suffix: str) -> list[np.ndarray]:
        names = [f"{i:05d}{suffix}" for i in range(self.header["shards"])]
        return [np.load(self.folder / "shards" / name, mmap_mode="r") for name in names]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def frames(self) -> int:
        """Latent frames of all rows together."""
        return sum(row["frames"] for row in self.rows)

    def codes(self, i: int) -> np.ndarray:
        """Return the codes of row `i`, uint16 (frames, k)."""
        row = self.rows[i]
        return self._codes[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def continuous(self, i: int) -> np.ndarray:
        """Return the pre-quantization latents of row `i`, float16 (frames, k, d): `Codec.encode_continuous`."""
        self.check_target("continuous")
        row = self.rows[i]
        return self._continuous[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def latents(self, codec: Codec, target: Target = "codes") -> Iterator[Tensor]:
        """Yield the latents (1, k, d, l) of every row, embedded by the codec of the store or pre-quantization."""
        device = device_of(codec)
        for i in range(len(self)):
            if target == "codes":
                yield codec.embed(torch.from_numpy(self.codes(i).astype(np.int64)).T[None].to(device))
            else:
                yield torch.from_numpy(self.continuous(i).astype(np.float32)).permute(1, 2, 0)[None].to(device)

    def captions(self, i: int) -> list[str]:
        """Return the captions of row `i`, possibly none."""
        return self.rows[i]["captions"]

    def metadata(self, i: int) -> dict[str, Any]:
        """Return the metadata of the track of row `i`, without captions."""
        return json.loads(self.rows[i]["metadata"])

    def prompt(self, i: int, text: str = "", start: float = 0.0) -> dict[str, Any]:
        """Return the prompt for a crop of row `i` that starts `start` seconds into it, with one of its captions.

        Its fields are the metadata of the track, `text`, `start` and the `seconds` of the whole row: the timing of
        Evans et al. (2024), "Fast timing-conditioned latent audio diffusion". If the folder of the tracks is available,
        `audio` is the audio of the row (`data.audio_prompt`).
        """
        row = self.rows[i]
        fields = {**self.metadata(i), "text": text, "start": start, "seconds": row["seconds"]}
        if self.audio is None:
            return fields
        audio = {"file": str(self.audio / row["track"]), "checksum": row["checksum"]}
        if self.header.get("segmentation", {}).get("segment"):
            audio |= {"start": row["offset"], "seconds": row["seconds"]}
        return {**fields, "audio": audio}

    def prompts(self) -> list[dict[str, Any]]:
        """Return a prompt for every caption of every row, and one for each row without captions."""
        return [self.prompt(i, text) for i in range(len(self)) for text in self.captions(i) or [""]]

    def fitted_state(self) -> dict[str, Tensor]:
        """Return the fitted state of the codec that made the store; empty if it was not fitted."""
        return load_state(self.folder / "codec.safetensors")

    def summary(self) -> dict[str, Any]:
        """Return what a model card says about its data: tracks, hours, licenses, and the hours under each license.

        Tracks without a license count as "unknown".
        """
        hours: dict[str, float] = {}
        for row in self.rows:
            name = row["license"] or "unknown"
            hours[name] = hours.get(name, 0.0) + row["seconds"] / 3600
        return {
            "tracks": len({row["track"] for row in self.rows}),
            "hours": round(sum(hours.values()), 3),
            "licenses": sorted({row["license"] for row in self.rows if row["license"]}),
            "license_hours": {name: round(hours[name], 3) for name in sorted(hours)},
        }

    def check_target(self, target: Target) -> None:
        """Raise ValueError unless the store holds this target."""
        if target == "continuous" and not self.has_continuous:
            raise InvalidValue(
                f"'{self.folder}' holds no latents before quantization, which target=continuous trains on. Train on "
                "its codes with target=codes, or make a store that has them: codecdiff encode --continuous."
            )

    def check_codec(self, codec: Codec, spec: dict[str, Any], target: Target = "codes") -> None:
        """Raise ValueError unless the store was made by this codec, with these options and weights, for this target.

        If codes are the target, wrappers that leave them as they are may differ.
        """
        self.check_target(target)
        name = self.header["codec"].get("name")  # a store made in Python may lack the configuration
        while target == "codes" and spec.get("name") != name and codec.keeps_codes:
            codec, spec = codec.arguments["codec"], spec.get("codec", {})
        stored_spec, spec = align_defaults("codecs", self.header["codec"], json.loads(json.dumps(spec)))
        stored = {"codec": stored_spec, "weights": self.header["weights"]}
        for key, value in {"codec": spec, "weights": module_fingerprint(codec)}.items():
            if stored[key] != value:
                raise InvalidValue(
                    f"'{self.folder}' was made by another codec: its {key} is {stored[key]}, not {value}. "
                    "Choose another store, or delete it to encode again."
                )
