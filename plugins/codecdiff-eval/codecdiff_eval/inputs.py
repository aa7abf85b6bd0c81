"""What `codecdiff evaluate` measures: prompts or music, a reference, a model and embedders."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from codecdiff import Embedder, config, huggingface, registry
from codecdiff.cli.console import err, select_device
from codecdiff.data.manifest import Manifest
from codecdiff.data.metadata import Issue, Track, find_tracks
from codecdiff.diffusion import parse_guidance_scale
from codecdiff.errors import InvalidValue, MissingFile, UnknownName, UnknownPart, UserError
from codecdiff.pipeline import Pipeline, load, parse_adapter
from codecdiff_eval.embedders import CodecEmbedder
from codecdiff_eval.embeddings import ClipCutter, ReferenceStats
from codecdiff_eval.evaluator import EvalConfig, ReferenceMusic
from codecdiff_eval.generation import Engine, Generator
from codecdiff_eval.prompts import ALL, EvalPrompt, read_prompts, sample_prompts, select_split, split_of
from codecdiff_eval.suites import load_suite

SHOWN = 10  # bad rows on the screen


def new_eval_config(
    suite: str,
    embedders: Sequence[str],
    metrics: Sequence[str],
    seconds: float | None,
    loudness: float | None,
    adherence: bool | None,
    seed: int,
) -> EvalConfig:
    """Return what is measured and how: what a suite says, unless it is specified."""
    loaded = load_suite(suite)
    cutter = ClipCutter(loaded.seconds if seconds is None else seconds, loudness)
    return EvalConfig(loaded.select(embedders, metrics), cutter, adherence, seed, loaded.codec_quality)


def read_music(
    suite: str, reference: Path, prompts: Path | None, music: Path | None, split: str, n: int | None, seed: int
) -> tuple[ReferenceMusic, list[EvalPrompt] | list[Track], dict[str, str]]:
    """Read the reference, and the prompts or the music to evaluate, and say which suite, list and splits are used."""
    against = read_reference(reference, split)
    facts = {
        "suite": suite,
        "list of prompts": prompts.name if prompts else "",
        "reference split": split_of(reference, split),
        "evaluated split": split_of(prompts or music, split),
    }
    evaluated = read_inputs(prompts, split, n, seed) if prompts else read_tracks(music or Path(), split)
    return against, evaluated, {key: value for key, value in facts.items() if value}


def read_reference(path: Path, split: str) -> ReferenceMusic:
    """Return the music, or the statistics of music, that a path names."""
    if path.suffix == ".safetensors":
        return ReferenceMusic(path.stem, statistics=ReferenceStats.load(path))
    return ReferenceMusic(path.resolve().stem if path.is_file() else path.resolve().name, read_tracks(path, split))


def read_tracks(path: Path, split: str) -> list[Track]:
    """Find the tracks of a folder, or of a split of a manifest, and say how many of the latter have no audio.

    A manifest that names no splits is taken whole, as a folder is.
    """
    if not path.exists():
        raise MissingFile(f"'{path}' does not exist: expected a folder of audio files, or a manifest (.parquet).")
    if path.suffix != ".parquet":
        return find_tracks(path)
    manifest = Manifest.read(path)
    selected = select_split(manifest.rows, split_of(path, split) or ALL, lambda track: track.split)
    tracks = replace(manifest, rows=selected).tracks()
    if missing := len(selected) - len(tracks):
        warn([f"{missing} of {len(selected)} tracks of {path} have no audio here."])
    if not tracks:
        raise MissingFile(f"None of the audio files that '{path}' names is here: fetch them, and import again.")
    return tracks


def read_inputs(file: Path, split: str, count: int | None, seed: int) -> list[EvalPrompt]:
    """Read a list of prompts and draw as many as requested; bad rows are printed."""
    bad: list[Issue] = []
    prompts = read_prompts(file, bad.append, split=split)
    warn(f"Skipped: {row}" for row in bad[:SHOWN])
    if len(bad) > SHOWN:
        warn([f"... and {len(bad) - SHOWN} more of {file}"])
    return sample_prompts(prompts, count, seed)


def load_engine(name: str, device: str, workers: int | None) -> tuple[Engine | None, str]:
    """Return the engine of `--engine`, None for `local`, this process, and the device of everything else.

    The GPUs of a cluster are not devices of this machine. Raises UserError for an engine that is not installed.
    """
    if name == "local":
        if workers is not None:
            raise InvalidValue("--workers is the number of workers of an engine, as in --engine ray: add one.")
        return None, device
    return registry.load_entry("generation_engines", name)(device, workers), ""


def load_adapted_model(model: str, adapters: Sequence[str], device: Any, **allowed: Any) -> Pipeline:
    """Load a model with adapters, in this process or in a worker."""
    pipeline = load(model, **allowed).to(device)
    for text in adapters:
        pipeline.load_adapter(*parse_adapter(text))
    return pipeline


def load_generator(
    model: str,
    device: str,
    allowed: Mapping[str, bool],
    seed: int,
    steps: int | None,
    guidance: Sequence[str] | None,
    adapters: Sequence[str] | None,
    engine: Engine | None = None,
) -> Generator | None:
    """Load a model, if any, and name it by its folder's name or its id. `allowed`: permissions of `load`."""
    if not model:
        return None
    scale, loader = parse_guidance_scale(guidance or []), partial(load_adapted_model, model, adapters or (), **allowed)
    with err.status(f"Loading {model}"):
        pipeline = loader(device=select_device(device))
    folder = Path(model)
    parts = [part for part in folder.resolve().parts[-2:] if part != "/"]
    name = "/".join(parts) if folder.exists() else model
    return Generator(pipeline, name, seed, steps, scale, partial(engine, loader) if engine else None)


def build_embedders(
    names: Collection[str],
    words: Iterable[str] | None,
    generator: Generator | None,
    device: str,
    required: bool,
    allow_download: bool,
) -> tuple[dict[str, Embedder], list[str]]:
    """Build embedders by name, with the `embedder.option=value` words of their options, and say which are left out.

    `codec` is the codec of the model unless an option names another. One that is not available is an error if they are
    `required`, and a sentence otherwise; then nothing is downloaded without `allow_download`. Raises InvalidValue for
    words of another form.
    """
    options: dict[str, list[str]] = {}
    for word in words or ():
        name, dot, setting = word.partition(".")
        if not dot or "=" not in setting:
            raise InvalidValue(f"'{word}' sets no option: expected EMBEDDER.KEY=VALUE, as in clap-music.model=FOLDER.")
        options.setdefault(name, []).append(setting)
    if unused := set(options) - set(names):
        raise UnknownName(f"--set names '{min(unused)}', which is not an embedder of this run: {', '.join(names)}.")
    embedders, left_out = {}, []
    for name in names:
        try:
            with huggingface.downloads(required or allow_download):
                embedders[name] = _build_embedder(name, options.get(name, ()), generator and generator.pipeline)
        except UserError as error:
            if required:
                raise
            fetch = " A suite downloads nothing without --allow-download." if not allow_download else ""
            left_out.append(
                f"{name} is left out: {error}{'' if isinstance(error, ValueError | UnknownPart) else fetch}"
            )
    if not embedders:
        raise UnknownName("\n".join(["No embedder is available.", *left_out]))
    return {name: embedder.to(select_device(device)) for name, embedder in embedders.items()}, left_out


def _build_embedder(name: str, options: Sequence[str], pipeline: Pipeline | None) -> Embedder:
    if name == "codec" and not options:
        if pipeline is None:
            raise InvalidValue("It is the codec of a model, and none was named: --model MODEL.")
        return CodecEmbedder(pipeline.codec)
    return config.build("embedders", config.parse_options("embedders", name, options))


def warn(lines: Any) -> None:
    """Print lines in yellow."""
    for line in lines:
        err.print(line, style="yellow", soft_wrap=True)
