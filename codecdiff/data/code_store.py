"""The store of training data: integer codes in memory-mapped shards, beside a manifest.

store/  header.json       codec, its options and a hash of its weights, how recordings were cut, frame rate, counts
        manifest.parquet  a row per segment: track, captions, split, where its codes are, offset in the recording...
        codec.safetensors state of the codec, where it was fitted
        shards/00000.npy  uint16 (frames, k), frame-major: a random crop is one contiguous read
        shards/00000.projections.npy  float16 (frames, k, d), if asked for: the latents before they are quantised
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codecdiff.codecs import CodecWrapper
from codecdiff.config import align_defaults
from codecdiff.config.schema import Target
from codecdiff.data.metadata import Track
from codecdiff.fingerprint import device_of, fingerprint
from codecdiff.interfaces import Codec

FORMAT = 1
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("seconds", pa.float64()),
        ("checksum", pa.string()),  # of the file
        ("bytes", pa.int64()),
        ("segment", pa.int32()),  # of the recording, counting those that were dropped
        ("offset", pa.float64()),  # seconds from the beginning of the recording
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("frames", pa.int64()),
    ]
)
ADDED = {"split": "", "segment": 0, "offset": 0.0}  # what stores of whole tracks did without at first


def load_state(file: Path) -> dict[str, Tensor]:
    """Give the tensors of a safetensors file, none if there is no file. Raises ValueError if it is damaged."""
    try:
        return load_file(file) if file.exists() else {}
    except SafetensorError as error:
        raise ValueError(f"'{file}' is damaged: {error}. Fetch or make it again.") from error


class CodeStore:
    """Codes of many tracks on disk, whole or in segments: `codes(i)` is the memory-mapped (frames, k) array of row i.

    There are `len(store)` rows: one per track unless tracks were cut, then one per segment.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        file = self.folder / "header.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"'{self.folder}' is no store of codes. Make one of a folder of audio or a manifest: "
                "codecdiff encode AUDIO -o STORE."
            )
        self.header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if self.header.get("format") != FORMAT:
            raise ValueError(
                f"'{self.folder}' has format {self.header.get('format')}; this codecdiff reads {FORMAT}. Encode again."
            )
        self.audio: Path | None = None  # folder of the recordings, where it is known
        self.has_projections: bool = self.header.get("projections", False)
        rows = pq.read_table(self.folder / "manifest.parquet").to_pylist()
        self.rows: list[dict[str, Any]] = [{**ADDED, **row} for row in rows]
        shards = range(self.header["shards"])
        self._shards = [np.load(self.folder / "shards" / f"{i:05d}.npy", mmap_mode="r") for i in shards]
        self._projections = [
            np.load(self.folder / "shards" / f"{i:05d}.projections.npy", mmap_mode="r")
            for i in shards
            if self.has_projections
        ]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def frames(self) -> int:
        """Latent frames of all rows together."""
        return sum(row["frames"] for row in self.rows)

    def codes(self, i: int) -> np.ndarray:
        """Give the codes of row `i`, uint16 (frames, k)."""
        row = self.rows[i]
        return self._shards[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def projections(self, i: int) -> np.ndarray:
        """Give what the codes of row `i` were quantised from, float16 (frames, k, d), as `Codec.project` gives it."""
        self.check_target("continuous")
        row = self.rows[i]
        return self._projections[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def latents(self, codec: Codec, target: Target = "codes") -> Iterator[Tensor]:
        """Yield the latents (1, k, d, l) of every row: entries of the codec that made the store, or projections."""
        for i in range(len(self)):
            if target == "codes":
                codes = torch.from_numpy(self.codes(i).astype(np.int64)).T[None]
                yield codec.embed(codes.to(device_of(codec)))
            else:
                projections = torch.from_numpy(self.projections(i).astype(np.float32))
                yield projections.permute(1, 2, 0)[None].to(device_of(codec))

    def facts(self) -> dict[str, Any]:
        """Give what a model card says of its data: tracks, hours and licences, with the hours under each of them.

        The hours of tracks without a licence are under "unknown".
        """
        hours: dict[str, float] = {}
        for row in self.rows:
            licence = row["licence"] or "unknown"
            hours[licence] = hours.get(licence, 0.0) + row["seconds"] / 3600
        return {
            "tracks": len({row["track"] for row in self.rows}),
            "hours": round(sum(hours.values()), 3),
            "licences": sorted({row["licence"] for row in self.rows if row["licence"]}),
            "licence_hours": {licence: round(hours[licence], 3) for licence in sorted(hours)},
        }

    def captions(self, i: int) -> list[str]:
        """Give the captions of row `i`, possibly none."""
        return self.rows[i]["captions"]

    def metadata(self, i: int) -> dict[str, Any]:
        """Give whatever else was said of the track of row `i` beside its captions."""
        return json.loads(self.rows[i]["metadata"])

    def prompt(self, i: int, text: str = "", start: float = 0.0) -> dict[str, Any]:
        """Give what a model is told of a crop of row `i` that starts so many seconds into it, with one of its captions.

        That is whatever is known of the track, and `text`, `start` and the `seconds` of the whole row: the timing of
        Evans et al. (2024), "Fast timing-conditioned latent audio diffusion". Where the recordings are known, `audio`
        is that of the row (`data.excerpts`): a file, or a part of one.
        """
        row = self.rows[i]
        timing = {"text": text, "start": start, "seconds": row["seconds"]}
        if self.audio is None:
            return {**self.metadata(i), **timing}
        part = {"file": str(self.audio / row["track"]), "checksum": row["checksum"]}
        if self.header.get("segmentation", {}).get("segment"):
            part |= {"start": row["offset"], "seconds": row["seconds"]}
        return {**self.metadata(i), **timing, "audio": part}

    def prompts(self) -> list[dict[str, Any]]:
        """Give a prompt for every caption of every row, as `prompt` does, and for the rows that have none."""
        return [self.prompt(i, text) for i in range(len(self)) for text in self.captions(i) or [""]]

    def fitted_state(self) -> dict[str, Tensor]:
        """Give the state of the codec that made the store, empty if it was not fitted."""
        file = self.folder / "codec.safetensors"
        return load_state(file)

    def check_tracks(self, tracks: Sequence[Track]) -> None:
        """Raise ValueError unless the store was made of these tracks."""
        kept = {row["track"]: (row["bytes"], row["captions"]) for row in self.rows}
        found = {track.name: (track.file.stat().st_size, list(track.captions)) for track in tracks}
        skipped = set(self.header["skipped"])
        differ = sorted(name for name in {*kept, *found} - skipped if kept.get(name) != found.get(name))
        if differ:
            raise ValueError(
                f"'{self.folder}' was made of other files or captions: {differ[0]} and {len(differ) - 1} more differ. "
                "Choose another data.store, or delete it to encode again."
            )

    def check_target(self, target: Target) -> None:
        """Raise ValueError unless the store holds this target."""
        if target == "continuous" and not self.has_projections:
            raise ValueError(
                f"'{self.folder}' holds no projections, which target=continuous trains on. Train on its codes with "
                "target=codes, or make a store that has them: codecdiff encode --projections."
            )

    def check(self, codec: Codec, spec: dict[str, Any], target: Target = "codes") -> None:
        """Raise ValueError unless the store was made by this codec, with these options and weights, for this target.

        What is around the codec that made it may be another where it leaves codes as they are, and they are the target.
        """
        self.check_target(target)
        name = self.header["codec"].get("name")  # in Python a codec may have been given without its configuration
        while target == "codes" and isinstance(codec, CodecWrapper) and codec.keeps_codes and spec.get("name") != name:
            codec, spec = codec.codec, spec.get("codec", {})
        made, wanted = align_defaults("codecs", self.header["codec"], json.loads(json.dumps(spec)))
        made_by = {"codec": made, "weights": self.header["weights"]}
        asked = {"codec": wanted, "weights": fingerprint(codec)}
        for key in asked:
            if made_by[key] != asked[key]:
                raise ValueError(
                    f"'{self.folder}' was made by another codec: its {key} is {made_by[key]}, not {asked[key]}. "
                    "Choose another store, or delete it to encode again."
                )
