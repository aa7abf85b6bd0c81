"""The store of training data: integer codes in memory-mapped shards, beside a manifest.

store/  header.json       codec, its options and a hash of its weights, how tracks were segmented, frame rate, counts
        manifest.parquet  one row per segment: track, captions, split, place of its codes, checksums... (shards.ROWS)
        shards.parquet    bytes and SHA-256 of the files in shards/
        codec.safetensors state of the codec, if it was fitted
        shards/00000.npy  uint16 (frames, k), frame-major: a random crop is one contiguous read
        shards/00000.continuous.npy  float16 (frames, k, d), optional: the latents before quantization
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from codecdiff.config import align_defaults
from codecdiff.config.schema import Target
from codecdiff.data.legacy import upgrade_rows, upgrade_store
from codecdiff.data.sealed import FILES, SEAL, read_sealed, verify_file
from codecdiff.data.shards import BASE_ROWS, ROWS, SHARD_FILES, ShardReader, StoreRows, in_memory
from codecdiff.errors import InvalidValue, MissingFile
from codecdiff.files import DamagedFile, cached_checksum, check_schema, parse_json, read_parquet, read_safetensors
from codecdiff.fingerprint import device_of, module_fingerprint
from codecdiff.interfaces.codec import Codec

FORMAT = 2
STATE_FILE = "codec.safetensors"  # of a codec that was fitted
SEALED = ("manifest.parquet", "shards.parquet", STATE_FILE)  # whose hashes are in the header
CONTINUOUS_SUFFIX = {1: ".projections.npy", FORMAT: ".continuous.npy"}  # of files, by format


Count = Annotated[int, Field(ge=0, lt=2**31)]


class StoreHeader(BaseModel):
    """The contents of header.json."""

    model_config = ConfigDict(extra="allow")

    codec: dict[str, Any]
    weights: str
    num_codebooks: Annotated[int, Field(gt=0, lt=2**16)]
    frame_rate: Annotated[float, Field(gt=0, le=1e6)]  # Hz
    shards: Count
    continuous: bool
    segmentation: dict[str, Any] = {}
    tracks: Count = 0
    skipped: list[str] = []
    dropped: dict[str, Count] = {}
    issues: dict[str, str] = {}


def load_state(file: Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file; none if it does not exist. Raises DamagedFile."""
    return read_safetensors(file)[0] if file.exists() else {}


class CodeStore:
    """Codes of many tracks on disk, whole or in segments. There are `len(store)` rows, one per segment.

    Example:
        >>> CodeStore("stores/mine").codes(0)  # uint16 (frames, k), memory-mapped

    Args:
        folder: The store.
        strict: Whether every shard has to be there, as many bytes as were written. What is read of them is compared
            with its checksums in any case.

    Raises:
        FileNotFoundError: The folder is not a store.
        ValueError: Another version of codecdiff wrote the store, or it is damaged.

    """

    def __init__(self, folder: Path | str, *, strict: bool = True):
        self.folder = Path(folder)
        file = self.folder / "header.json"
        if not file.is_file():
            raise MissingFile(
                f"'{self.folder}' is not a store of codes. Make one from a folder of audio or a manifest: "
                "codecdiff encode AUDIO -o STORE. It has no header.json."
            )
        header = read_sealed(file)
        version = header.get("format") if isinstance(header, dict) else None
        if not isinstance(version, int) or version not in CONTINUOUS_SUFFIX:
            text = f"'{file}' has format {version}; this codecdiff reads 1 to {FORMAT}."
            raise InvalidValue(f"{text} Encode the audio again.")
        self.is_sealed = version == FORMAT and FILES in header
        for name in SEALED if self.is_sealed else ():
            if name in header[FILES] or name != STATE_FILE:
                verify_file(self.folder / name, header[FILES])
        schema, file = in_memory(ROWS if self.is_sealed else BASE_ROWS), self.folder / "manifest.parquet"
        if version == 1:
            header, table = upgrade_store(header), read_parquet(file, schema, upgrade_rows)
        else:
            table = read_parquet(file, schema)
        self.rows = StoreRows(table)
        del table
        pa.default_memory_pool().release_unused()  # what decoding took
        self.header = check_schema(header, str(file), StoreHeader).model_dump(exclude={FILES, SEAL})
        self._check_rows()
        self._is_parsed = np.zeros(len(self.rows), bool)  # rows whose metadata is known to be a mapping
        self.audio: Path | None = None  # folder of the tracks, if it is available
        self.has_continuous: bool = self.header["continuous"]
        shape, folder = (self.header["num_codebooks"],), self.folder / "shards"
        self.codes_reader = ShardReader(folder, ".npy", np.uint16, shape, self.rows, "crc32")
        suffix = CONTINUOUS_SUFFIX[version]
        self.continuous_reader = ShardReader(folder, suffix, np.float16, (*shape, None), self.rows, "continuous_crc32")
        if strict:
            self._require_shards([".npy", suffix] if self.has_continuous else [".npy"])

    def _check_rows(self) -> None:
        """Raise DamagedFile for rows that lack something, or that name shards or frames that cannot be."""
        columns = [self.rows.table[name] for name in BASE_ROWS.names]
        captions = [chunk.flatten() for chunk in self.rows.table["captions"].chunks]
        is_right = not any(column.null_count for column in [*columns, *captions])
        if is_right:
            columns = (self.rows.array(name) for name in ("shard", "start", "frames", "seconds"))
            is_right = all((column >= 0).all() for column in columns)
            is_right = is_right and (self.rows.array("shard") < self.header["shards"]).all()
        if not is_right:
            raise DamagedFile(f"'{self.folder / 'manifest.parquet'}' is damaged: a row has no place in a shard.")

    def _require_shards(self, suffixes: list[str]) -> None:
        """Raise MissingFile or DamagedFile unless every shard is there, of the size that was written."""
        names = (f"{i:05d}{suffix}" for i in range(self.header["shards"]) for suffix in suffixes)
        sizes = {row["file"]: row["bytes"] for row in self._shard_files()}
        for name in names:
            file = self.folder / "shards" / name
            if not file.is_file():
                raise MissingFile(f"'{file}' is missing. Restore it from a copy, or encode the audio again.")
            if name in sizes and (size := file.stat().st_size) != sizes[name]:
                raise DamagedFile(
                    f"'{file}' is damaged: it has {size:,} bytes, and {sizes[name]:,} were written. Restore it from a "
                    "copy, or encode the audio again."
                )

    def _shard_files(self) -> list[dict[str, Any]]:
        return read_parquet(self.folder / "shards.parquet", SHARD_FILES).to_pylist() if self.is_sealed else []

    def damaged_files(self) -> Iterator[Path]:
        """Yield the shards whose SHA-256 is not that which was written; each is read once, unless it changes."""
        for row in self._shard_files():
            file = self.folder / "shards" / row["file"]
            if not file.is_file() or cached_checksum(file) != row["sha256"][:16]:
                yield file

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def frames(self) -> int:
        """Latent frames of all rows together."""
        return int(self.rows.array("frames").sum())

    def codes(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return the codes of row `i`, uint16 (frames, k): all, or `count` frames from `start`. Raises DamagedFile."""
        return self.codes_reader.read(i, start, count)

    def crops(self, rows: Any, starts: Any, count: int, target: Target = "codes") -> np.ndarray:
        """Return `count` frames of each row from its start: (b, count, ...) as `codes` or `continuous`, with zeros."""
        self.check_target(target)
        reader = self.codes_reader if target == "codes" else self.continuous_reader
        return reader.crops(rows, starts, count)

    def continuous(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return the pre-quantization latents of row `i`, float16 (frames, k, d), as `codes` does."""
        self.check_target("continuous")
        return self.continuous_reader.read(i, start, count)

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
        return self.rows.value("captions", i)

    def metadata(self, i: int) -> dict[str, Any]:
        """Return the metadata of the track of row `i`, without captions."""
        text = self.rows.value("metadata", i)
        if not self._is_parsed[i]:  # once: it is compared with more than it has to be at every crop
            parse_json(text, f"The metadata of '{self.rows.value('track', i)}'", dict[str, Any])
            self._is_parsed[i] = True
        return json.loads(text)

    def prompt(self, i: int, text: str = "", start: float = 0.0) -> dict[str, Any]:
        """Return the prompt for a crop of row `i` that starts `start` seconds into it, with one of its captions.

        Its fields are the metadata of the track, `text`, `start` and the `seconds` of the whole row: the timing of
        Evans et al. (2024), "Fast timing-conditioned latent audio diffusion". If the folder of the tracks is available,
        `audio` is the audio of the row (`data.audio_prompt`).
        """
        return self.crop_prompts(np.array([i]), [text], np.array([start]))[0]

    def crop_prompts(self, rows: np.ndarray, texts: Sequence[str], starts: np.ndarray) -> list[dict[str, Any]]:
        """Return `prompt` of each row, with its text and start."""
        for i in rows[~self._is_parsed[rows]].tolist():
            self.metadata(i)
        metadata = json.loads(f"[{','.join(self.rows.texts('metadata', rows))}]")
        columns = metadata, texts, starts.tolist(), self.rows.array("seconds")[rows].tolist()
        prompts = [{**m, "text": t, "start": at, "seconds": s} for m, t, at, s in zip(*columns, strict=True)]
        if self.audio is not None:
            for prompt, i in zip(prompts, rows.tolist(), strict=True):
                row = self.rows[i]
                prompt["audio"] = {"file": str(self.audio / row["track"]), "checksum": row["checksum"]}
                if self.header["segmentation"].get("segment"):
                    prompt["audio"] |= {"start": row["offset"], "seconds": row["seconds"]}
        return prompts

    def prompts(self) -> list[dict[str, Any]]:
        """Return a prompt for every caption of every row, and one for each row without captions."""
        return [self.prompt(i, text) for i in range(len(self)) for text in self.captions(i) or [""]]

    def fitted_state(self) -> dict[str, Tensor]:
        """Return the fitted state of the codec that made the store; empty if it was not fitted."""
        return load_state(self.folder / STATE_FILE)

    def summary(self) -> dict[str, Any]:
        """Return what a model card says about its data: tracks, hours, licenses, and the hours under each license.

        Tracks without a license count as "unknown".
        """
        licenses, of_row = self.rows.categories("license")
        hours: dict[str, float] = {}
        for i in np.unique(of_row).tolist():
            name = licenses[i] or "unknown"
            hours[name] = hours.get(name, 0.0) + float(self.rows.array("seconds")[of_row == i].sum()) / 3600
        return {
            "tracks": len(np.unique(self.rows.categories("track")[1])),
            "hours": round(sum(hours.values()), 3),
            "licenses": sorted({licenses[i] for i in np.unique(of_row)} - {""}),
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
                what = f"by another codec: its codec is {stored[key]}, not {value}"
                if key == "weights":
                    what = f"by '{name}' with other weights ({stored[key]:.6}..., now {value:.6}...)"
                raise InvalidValue(
                    f"'{self.folder}' was made {what}. Choose another store or, in training, another output; or delete "
                    "the store to encode again."
                )
