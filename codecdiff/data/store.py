"""The store of training data: integer codes in memory-mapped shards, beside a manifest.

store/  header.json       codec, its options and a hash of its weights, frame rate, counts
        manifest.parquet  track, captions, metadata, seconds, checksum, bytes, shard, start, frames
        codec.safetensors state of the codec, where it was fitted
        shards/00000.npy  uint16 (frames, k), frame-major: a random crop is one contiguous read
        shards/00000.projections.npy  float16 (frames, k, d), if asked for: the latents before they are quantised
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codecdiff.codecs import in_pieces
from codecdiff.data.audio import BadAudio, Track, find_tracks, read_audio
from codecdiff.files import checksum, replaced
from codecdiff.interfaces import Codec, device_of

Target = Literal["codes", "projections"]  # what is diffused: entries of the codebooks, or what they quantise

FORMAT = 1
SHARD_FRAMES = 2**20  # about 3.4 hours of 86 frames/s, 19 MB with 9 codebooks


def fingerprint(module: nn.Module) -> str:
    """Give a hash of a module's parameters and buffers: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_state(file: Path) -> dict[str, Tensor]:
    """Give the tensors of a safetensors file, none if there is no file. Raises ValueError if it is damaged."""
    try:
        return load_file(file) if file.exists() else {}
    except SafetensorError as error:
        raise ValueError(f"'{file}' is damaged: {error}. Fetch or make it again.") from error


class CodeStore:
    """Codes of many tracks on disk. `len(store)` tracks; `codes(i)` is a memory-mapped (frames, k) array."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        file = self.folder / "header.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"'{self.folder}' is no store of codes. Make one: codecdiff encode AUDIO -o {self.folder}."
            )
        self.header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if self.header.get("format") != FORMAT:
            raise ValueError(
                f"'{self.folder}' has format {self.header.get('format')}; this codecdiff reads {FORMAT}. Encode again."
            )
        self.has_projections: bool = self.header.get("projections", False)
        self.rows: list[dict[str, Any]] = pq.read_table(self.folder / "manifest.parquet").to_pylist()
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
        """Latent frames of all tracks together."""
        return sum(row["frames"] for row in self.rows)

    def codes(self, i: int) -> np.ndarray:
        """Give the codes of track `i`, uint16 (frames, k)."""
        row = self.rows[i]
        return self._shards[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def projections(self, i: int) -> np.ndarray:
        """Give what the codes of track `i` were quantised from, float16 (frames, k, d), as `Codec.project` gives it."""
        self.check_target("projections")
        row = self.rows[i]
        return self._projections[row["shard"]][row["start"] : row["start"] + row["frames"]]

    def latents(self, codec: Codec, target: Target = "codes") -> Iterator[Tensor]:
        """Yield the latents (1, k, d, l) of every track: entries of the codec that made the store, or projections."""
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
            "tracks": len(self),
            "hours": round(sum(hours.values()), 3),
            "licences": sorted({row["licence"] for row in self.rows if row["licence"]}),
            "licence_hours": {licence: round(hours[licence], 3) for licence in sorted(hours)},
        }

    def captions(self, i: int) -> list[str]:
        """Give the captions of track `i`, possibly none."""
        return self.rows[i]["captions"]

    def metadata(self, i: int) -> dict[str, Any]:
        """Give whatever else was said of track `i` beside its captions."""
        return json.loads(self.rows[i]["metadata"])

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
        if target == "projections" and not self.has_projections:
            raise ValueError(
                f"'{self.folder}' holds no projections, which target=projections trains on. Train on its codes with "
                "target=codes, or make a store that has them: codecdiff encode --projections."
            )

    def check(self, codec: Codec, spec: dict[str, Any], target: Target = "codes") -> None:
        """Raise ValueError unless the store was made by this codec, with these options and weights, for this target."""
        self.check_target(target)
        made_by = {"codec": self.header["codec"], "weights": self.header["weights"]}
        asked = {"codec": json.loads(json.dumps(spec)), "weights": fingerprint(codec)}
        for key in asked:
            if made_by[key] != asked[key]:
                raise ValueError(
                    f"'{self.folder}' was made by another codec: its {key} is {made_by[key]}, not {asked[key]}. "
                    "Choose another store, or delete it to encode again."
                )


def _read_track(track: Track, codec: Codec) -> Tensor:
    return read_audio(track.file, codec.sample_rate, codec.channels)


def clips(tracks: Sequence[Track], codec: Codec, *, seconds: float = 12.0, most: int = 200) -> Iterator[Tensor]:
    """Yield (ch, t) clips for fitting a codec: at most `most`, spread over the tracks and within each of them.

    Raises BadAudio, naming the files, if none of them can be read.
    """
    chosen = tracks[:: max(1, len(tracks) // most)][:most]
    each, samples = most // len(chosen), round(seconds * codec.sample_rate)
    faults: list[str] = []
    for track in chosen:
        try:
            audio = _read_track(track, codec)
        except BadAudio as error:
            faults.append(str(error))
            continue
        count = min(each, max(1, audio.shape[-1] // samples))
        slack = max(0, audio.shape[-1] - samples)
        for i in range(count):
            start = round(slack * (i + 0.5) / count)
            yield audio[:, start : start + samples]
    if len(faults) == len(chosen):
        raise _none_readable(faults)


def _none_readable(faults: Sequence[str]) -> BadAudio:
    return BadAudio("None of the audio files could be read:\n" + "\n".join(faults))


def open_store(
    folder: Path | str,
    audio: Path | str | None,
    codec: Codec,
    spec: dict[str, Any],
    *,
    target: Target = "codes",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> CodeStore:
    """Open the store at `folder`, or make it from the audio of a folder, fitting a codec that needs it first.

    `spec` is the codec's configuration; `report` is called with a sentence for every file that is skipped
    and every hundred that are encoded. Raises ValueError if the store was made by another codec or of other files.
    """
    tracks = find_tracks(audio) if audio else []
    if (Path(folder) / "header.json").is_file():
        store = CodeStore(folder)
        if not codec.is_fitted:
            codec.load_fitted_state(store.fitted_state())
        store.check(codec, spec, target)
        if tracks:
            store.check_tracks(tracks)
        return store
    if not tracks:
        raise FileNotFoundError(f"There is no store at '{folder}', and no data.audio to make one from.")
    if not codec.is_fitted:
        codec.fit(clips(tracks, codec), seed=seed)

    def progress(count: int) -> None:
        if count % 100 == 0:
            report(f"{count} of {len(tracks)} tracks encoded")

    try:
        store, skipped = encode_tracks(tracks, folder, codec, spec, target=target, progress=progress)
    except OSError:
        if not (Path(folder) / "header.json").is_file():
            raise
        return open_store(folder, audio, codec, spec, target=target)  # another job made it meanwhile
    for line in skipped:
        report(f"Skipped: {line}")
    if uncaptioned := sum(not row["captions"] for row in store.rows):
        report(f"{uncaptioned} of {len(store)} tracks have no caption: they are trained on without text.")
    if skipped:
        report(f"Skipped {len(skipped)} of {len(tracks)} files; {len(store)} are in the store.")
    return store


@torch.no_grad()
def encode_tracks(
    tracks: Sequence[Track],
    folder: Path | str,
    codec: Codec,
    spec: dict[str, Any],
    *,
    target: Target = "codes",
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[CodeStore, list[str]]:
    """Encode tracks into a new store, and give it with a sentence for every file that was skipped.

    `spec` is the codec's configuration, recorded in the header; the target decides whether projections are kept
    beside the codes. `progress` is called with the number of tracks done. Nothing stands at `folder` until the
    store is whole. Raises BadAudio if no file could be read.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and is no store of codes. Choose another folder for the store.")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")  # another job may be making the same store
    (draft / "shards").mkdir(parents=True)
    try:
        rows, skipped, shards = _encode_into(draft, tracks, codec, target, progress)
        if not rows:
            raise _none_readable(list(skipped.values()))
        _write_manifest(draft, rows, shards, codec, spec, target, list(skipped))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return CodeStore(folder), list(skipped.values())


def _encode_into(
    draft: Path, tracks: Sequence[Track], codec: Codec, target: Target, progress: Callable[[int], None]
) -> tuple[list[dict[str, Any]], dict[str, str], int]:
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    held: list[tuple[np.ndarray, ...]] = []
    shard = start = 0
    for count, track in enumerate(tracks, 1):
        try:
            audio = _read_track(track, codec)
        except BadAudio as error:
            skipped[track.name] = str(error)
            progress(count)
            continue
        frames = _encoded(audio[None].to(device_of(codec)), codec, target)
        count_frames = len(frames[0])
        if start and start + count_frames > SHARD_FRAMES:
            _write_shard(draft, shard, held)
            held, shard, start = [], shard + 1, 0
        rows.append(_row(track, codec, audio.shape[-1], shard, start, count_frames))
        held.append(frames)
        start += count_frames
        progress(count)
    if held:
        _write_shard(draft, shard, held)
    return rows, skipped, shard + 1


def _encoded(audio: Tensor, codec: Codec, target: Target) -> tuple[np.ndarray, ...]:
    """(1, ch, t) audio -> codes (frames, k), and projections (frames, k, d) if they are the target."""
    pieces = in_pieces(codec)
    codes, projections = pieces.encode_and_project(audio) if target == "projections" else (pieces.encode(audio), None)
    arrays = (codes[0].T.cpu().numpy().astype(np.uint16),)
    if projections is None:
        return arrays
    return *arrays, projections[0].permute(2, 0, 1).cpu().numpy().astype(np.float16)


def _write_shard(draft: Path, shard: int, tracks: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Write what `_encoded` gave of the tracks of one shard."""
    for ending, parts in zip(("", ".projections"), zip(*tracks, strict=True), strict=False):
        np.save(draft / "shards" / f"{shard:05d}{ending}.npy", np.concatenate(parts))


def _row(track: Track, codec: Codec, samples: int, shard: int, start: int, frames: int) -> dict[str, Any]:
    return {
        "track": track.name,
        "captions": list(track.captions),
        "metadata": json.dumps(dict(track.metadata), ensure_ascii=False),
        "licence": str(track.metadata.get("licence") or track.metadata.get("license") or ""),
        "source": str(track.metadata.get("source") or ""),
        "seconds": samples / codec.sample_rate,
        "checksum": checksum(track.file),
        "bytes": track.file.stat().st_size,
        "shard": shard,
        "start": start,
        "frames": frames,
    }


def _write_manifest(
    draft: Path,
    rows: list[dict[str, Any]],
    shards: int,
    codec: Codec,
    spec: dict[str, Any],
    target: Target,
    skipped: list[str],
) -> None:
    schema = pa.schema(
        [
            ("track", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("metadata", pa.string()),
            ("licence", pa.string()),
            ("source", pa.string()),
            ("seconds", pa.float64()),
            ("checksum", pa.string()),
            ("bytes", pa.int64()),
            ("shard", pa.int32()),
            ("start", pa.int64()),
            ("frames", pa.int64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), draft / "manifest.parquet")
    header = {
        "format": FORMAT,
        "codec": spec,
        "weights": fingerprint(codec),
        "num_codebooks": codec.num_codebooks,
        "frame_rate": codec.frame_rate,
        "tracks": len(rows),
        "shards": shards,
        "projections": target == "projections",
        "skipped": skipped,
    }
    if state := codec.fitted_state():
        with replaced(draft / "codec.safetensors") as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, temporary)
    (draft / "header.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
