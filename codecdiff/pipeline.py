"""A trained model: from prompts to audio, and from a folder back to a model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codecdiff import config, diffusion, registry
from codecdiff.codecs import Standardized, in_pieces
from codecdiff.data.store import Target, load_state
from codecdiff.files import replace_text, replaced
from codecdiff.interfaces import Codec, Condition, Conditioner, Denoiser, Prompt, Splitter, device_of, prompt_fields
from codecdiff.splitters import stage_names

FORMAT = 1
MODEL_FILE = "codecdiff.json"


@dataclass
class Stage:
    """One stage of a model: its denoiser, the scheduler it was trained with and how it is sampled."""

    name: str
    denoiser: Denoiser
    scheduler: Any
    sampler: str = "ddpm"
    steps: int = 100
    guidance: float = 3.0
    facts: dict[str, Any] = field(default_factory=dict)  # of its training

    def __post_init__(self):
        diffusion.sampler(self.scheduler, self.sampler)  # an unknown one is refused now, not after training
        self.check_steps(self.steps)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless the stage can be sampled in this many steps."""
        most = self.scheduler.config.num_train_timesteps
        if not 1 <= steps <= most:
            raise ValueError(f"steps={steps}: ask for 1 to {most} sampling steps; {self.name} was trained with {most}.")

    def spec(self) -> dict[str, Any]:
        """Describe the stage for its stage.json."""
        trained = {k: v for k, v in dict(self.scheduler.config).items() if not k.startswith("_") and v is not None}
        return {
            "denoiser": config.spec_of("denoisers", self.denoiser),
            "scheduler": trained,
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": self.guidance,
            "training": self.facts,
        }


def stage_shapes(codec: Codec, splitter: Splitter, frames: int) -> list[tuple[int, int]]:
    """Give (channels, frames) of every stage for this many latent frames, by splitting a meta tensor."""
    latents = torch.empty(1, codec.num_codebooks, codec.codebook_dim, frames, device="meta")
    return [(stage.shape[1], stage.shape[2]) for stage in splitter.split(latents)]


def context_channels(codec: Codec, splitter: Splitter) -> list[int]:
    """Give the channels of the context that every stage sees, 0 for none."""
    stages = splitter.split(torch.empty(1, codec.num_codebooks, codec.codebook_dim, 1, device="meta"))
    contexts = [splitter.context(stages, i) for i in range(len(stages))]
    return [0 if context is None else context.shape[1] for context in contexts]


def build_denoiser(spec: Any, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int) -> Denoiser:
    """Build the denoiser of stage `i`; its channels and widths follow from the other parts."""
    return config.build(
        "denoisers",
        spec,
        channels=stage_shapes(codec, splitter, 1)[i][0],
        context_channels=context_channels(codec, splitter)[i],
        condition_widths=conditioner.widths if conditioner else {},
    )


def conditions(conditioner: Conditioner | None, prompts: Sequence[Prompt], device: Any) -> Condition:
    """Encode prompts on a device; a model without a conditioner has an empty condition."""
    return conditioner.encode(prompts).to(device) if conditioner else Condition({})


class Pipeline:
    """A trained model. `generate` makes audio from prompts, `save` and `load` keep it in a folder.

    Its latents are entries of the codebooks, or projections: what the entries quantise, spread around them. With
    `snap_context` a stage sees the entries of the stages before it, else their latents as they were sampled.
    """

    def __init__(
        self,
        codec: Codec,
        splitter: Splitter,
        conditioner: Conditioner | None,
        stages: Sequence[Stage],
        *,
        target: Target = "codes",
        snap_context: bool = True,
        data: dict[str, Any] | None = None,
    ):
        self.codec, self.splitter, self.conditioner = codec, splitter, conditioner
        self.stages = list(stages)
        self.target: Target = target
        self.snap_context = snap_context
        self.data = data or {}

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio it makes, in Hz."""
        return self.codec.sample_rate

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.stages[0].denoiser if self.stages else self.codec)

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages of the pattern, trained or not."""
        return stage_names(len(stage_shapes(self.codec, self.splitter, 1)))

    def new_denoiser(self, i: int, spec: Any, *, seed: int = 0) -> Denoiser:
        """Build a denoiser for stage `i` from its configuration, with weights that follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(diffusion.generator(seed, 5, i).initial_seed())
            return build_denoiser(spec, self.codec, self.splitter, self.conditioner, i)

    def to(self, device: Any) -> Self:
        """Move every part to a device."""
        for module in (self.codec, self.conditioner, *(stage.denoiser for stage in self.stages)):
            if module is not None:
                module.to(device)
        return self

    def _require_every_stage(self) -> None:
        if missing := self.stage_names[len(self.stages) :]:
            raise ValueError(f"The model has no trained stage {missing[0]}. Train it first: stage={missing[0]}.")

    def frames(self, seconds: float) -> int:
        """Give the number of latent frames that hold this many seconds."""
        if not (1 / self.sample_rate <= seconds <= 3600):  # also refuses NaN
            raise ValueError(f"seconds={seconds}: ask for more than 0 and at most 3600 seconds.")
        return -(-round(seconds * self.sample_rate) // self.codec.hop_length)

    def standardized(self, projections: Tensor) -> Tensor:
        """(b, k, d, l) projections as a store keeps them -> (b, k, d, l) latents as the model's codec gives them."""
        return self.codec.standardize(projections) if isinstance(self.codec, Standardized) else projections

    def snap(self, stages: Sequence[Tensor], frames: int) -> list[Tensor]:
        """Move every given stage to the nearest codebook entries; the stages not given yet do not matter."""
        shapes = stage_shapes(self.codec, self.splitter, frames)[len(stages) :]
        blanks = [stages[0].new_zeros(len(stages[0]), *shape) for shape in shapes]
        latents = self.splitter.merge([*stages, *blanks])
        return self.splitter.split(self.codec.embed(self.codec.quantize(latents)))[: len(stages)]

    @torch.no_grad()
    def generate_codes(
        self,
        prompts: Sequence[Prompt],
        frames: int,
        *,
        seed: int = 0,
        takes: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        known: Tensor | None = None,
        keep_stages: int = 0,
        batch_size: int = 16,
        partial: bool = False,
    ) -> Iterator[Tensor]:
        """Yield the codes (1, k, l) of every take, takes of one prompt after each other.

        The first `keep_stages` stages are taken from the codes `known` (n, k, l), n = prompts * takes, and
        only the others are generated. A take depends on the seed, its number and its prompt, not on its batch.
        With `partial`, stages that are not trained yet are left at the mean of their latents.
        """
        if not partial:
            self._require_every_stage()
        for stage in self.stages:
            stage.check_steps(stage.steps if steps is None else steps)
        if guidance is not None and not math.isfinite(guidance):
            raise ValueError(f"guidance={guidance}: ask for a number, as in 3.")
        if takes < 1 or not prompts:
            raise ValueError(f"takes={takes} of {len(prompts)} prompts: ask for at least one of each.")
        rows = [prompt for prompt in prompts for _ in range(takes)]
        wanted = (len(rows), self.codec.num_codebooks, frames)
        if known is not None and known.shape != wanted:
            raise ValueError(f"The known codes have shape {tuple(known.shape)}, not {wanted}: one row for every take.")
        for start in range(0, len(rows), batch_size):
            index = list(range(start, min(start + batch_size, len(rows))))
            given = self._known_stages(known, index, keep_stages)
            stages = self._sample_stages([rows[i] for i in index], index, frames, given, seed, steps, guidance)
            codes = self.codec.quantize(self.splitter.merge(stages))
            if known is not None:
                kept = self._rows_of_stages(keep_stages, frames)
                codes = torch.where(kept.to(codes.device), known[index].to(codes), codes)
            yield from codes.split(1)

    def _rows_of_stages(self, count: int, frames: int) -> Tensor:
        """Give (1, k, l), True where the first `count` stages say what the codes are."""
        ones = torch.ones(1, self.codec.num_codebooks, self.codec.codebook_dim, frames)
        stages = [stage * (i < count) for i, stage in enumerate(self.splitter.split(ones))]
        return self.splitter.merge(stages).bool().all(2)

    def _known_stages(self, known: Tensor | None, index: list[int], keep: int) -> list[Tensor]:
        if known is None or not keep:
            return []
        return self.splitter.split(self.codec.embed(known[index].to(self.device)))[:keep]

    def _sample_stages(
        self,
        prompts: list[Prompt],
        takes: list[int],
        frames: int,
        given: list[Tensor],
        seed: int,
        steps: int | None,
        guidance: float | None,
    ) -> list[Tensor]:
        condition = conditions(self.conditioner, prompts, self.device)
        shapes = stage_shapes(self.codec, self.splitter, frames)
        stages = list(given)
        for i, stage in list(enumerate(self.stages))[len(given) :]:
            seen = self.snap(stages, frames) if self.snap_context and stages else stages
            made = diffusion.sample(
                stage.denoiser.eval(),
                diffusion.sampler(stage.scheduler, stage.sampler),
                shapes[i],
                context=self.splitter.context(seen, i),
                condition=condition,
                steps=steps or stage.steps,
                guidance=stage.guidance if guidance is None else guidance,
                generators=[diffusion.generator(seed, take, i) for take in takes],
                device=self.device,
            )
            stages.append(made)
        return stages + [stages[0].new_zeros(len(takes), *shape) for shape in shapes[len(stages) :]]

    def decode(self, codes: Sequence[Tensor] | Iterator[Tensor], samples: int | None = None) -> Tensor:
        """Decode takes of codes (1, k, l) one by one to (n, ch, t) audio on the CPU, cut to `samples`."""
        codec = in_pieces(self.codec)
        return torch.cat([codec.decode(code)[..., :samples].float().cpu() for code in codes])

    def generate(self, prompts: Prompt | Sequence[Prompt], *, seconds: float = 10.0, **options: Any) -> Tensor:
        """Make (n, ch, t) audio in [-1, 1] for every take of every prompt; options as in `generate_codes`.

        An empty prompt is unconditional. Raises ValueError for absurd seconds or steps.
        """
        many = [prompts] if isinstance(prompts, str | Mapping) else prompts
        many = [prompt_fields(prompt) for prompt in many]
        codes = self.generate_codes(many, self.frames(seconds), **options)
        return self.decode(codes, round(seconds * self.sample_rate)).clamp(-1, 1)

    def noise_codes(self, count: int, frames: int, *, seed: int = 0) -> Tensor:
        """Give the codes (n, k, l) that unit-variance noise is quantised to: music without a model."""
        shape = (self.codec.num_codebooks, self.codec.codebook_dim, frames)
        noise = diffusion.row_noise(shape, [diffusion.generator(seed, i) for i in range(count)], self.device)
        return self.codec.quantize(noise)

    def spec(self) -> dict[str, Any]:
        """Describe the model for its codecdiff.json."""
        return {
            "format": FORMAT,
            "codec": config.spec_of("codecs", self.codec),
            "splitter": config.spec_of("splitters", self.splitter),
            "conditioner": config.spec_of("conditioners", self.conditioner) if self.conditioner else None,
            "snap_context": self.snap_context,
            "target": self.target,
            "stages": self.stage_names,
            "data": self.data,
        }

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save the model to a folder, or complete one that holds the same model already.

        With `dtype=torch.float16` it takes half the room; it computes in float32 all the same.
        Raises ValueError if the folder holds another model.
        """
        self.save_parts(folder, dtype=dtype)
        for stage in self.stages:
            save_stage(Path(folder), stage, dtype)

    def save_parts(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save all but the stages; a folder that holds a model already must agree (ValueError)."""
        save_parts(Path(folder), self.spec(), self.codec, dtype)

    @classmethod
    def load(cls, folder: Path | str, *, allow_download: bool = False) -> Pipeline:
        """Load the model of a folder, with the stages that are trained.

        Parts that the folder names by a hub id are fetched only with `allow_download`: who made the folder
        chose them. Raises FileNotFoundError, LookupError or ValueError if the model cannot be used.
        """
        folder = Path(folder)
        spec = read_spec(folder)
        with downloads(allow_download):
            codec, splitter, conditioner = trusted_parts(folder, spec, allow_download)
        load_codec_state(folder, codec)
        options = {key: spec[key] for key in ("target", "snap_context", "data")}
        pipeline = cls(codec, splitter, conditioner, [], **options)
        pipeline.load_stages(folder)
        return pipeline

    def load_stages(self, folder: Path | str) -> None:
        """Take the stages that a model folder holds, up to the first that is not trained."""
        folder = Path(folder)
        trained = takewhile(lambda name: (folder / name / "stage.json").exists(), self.stage_names)
        parts = self.codec, self.splitter, self.conditioner
        device = device_of(self.codec)
        self.stages = [load_stage(folder, name, *parts, i) for i, name in enumerate(trained)]
        self.to(device)


def build_parts(spec: dict[str, Any]) -> tuple[Codec, Splitter, Conditioner | None]:
    """Build the codec, splitter and conditioner that a model or an experiment names."""
    codec = config.build("codecs", spec["codec"])
    splitter = config.build("splitters", spec["splitter"], num_codebooks=codec.num_codebooks, levels=codec.levels)
    conditioner = config.build("conditioners", spec["conditioner"]) if spec["conditioner"] else None
    return codec, splitter, conditioner


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Keep the hub's client from fetching anything inside the block, unless allowed; what is cached still loads."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def trusted_parts(
    folder: Path, spec: dict[str, Any], allow_download: bool
) -> tuple[Codec, Splitter, Conditioner | None]:
    """Build the parts a folder names; a failure without `allow_download` says that this may be why."""
    try:
        return build_parts(spec)
    except (OSError, LookupError) as error:
        if allow_download or isinstance(error, registry.UnknownPart):
            raise
        named = {kind: spec[kind] for kind in ("codec", "conditioner")}
        raise LookupError(
            f"'{folder}' names parts that could not be loaded here: {json.dumps(named)}. ({error}) "
            "If they are hub ids that you trust, fetch them: --allow-download, or allow_download=True."
        ) from error


def read_spec(folder: Path) -> dict[str, Any]:
    """Read a model's codecdiff.json. Raises FileNotFoundError or ValueError saying what is wrong with the folder."""
    file = folder / MODEL_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: there is no {MODEL_FILE} in it. Train one with recipes/discodiff.py."
        )
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
    found = spec.get("format") if isinstance(spec, dict) else None
    if found != FORMAT:
        raise ValueError(f"{file} has format {found}; this codecdiff reads format {FORMAT}. Update codecdiff.")
    if missing := {"codec", "splitter", "conditioner", "stages", "snap_context", "target", "data"} - spec.keys():
        raise ValueError(f"{file} is not complete: it lacks {', '.join(sorted(missing))}.")
    for name in spec["stages"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"{file} names a stage {name!r}; a stage is a folder inside the model.")
    return spec


def load_codec_state(folder: Path | str, codec: Codec) -> bool:
    """Give a codec the fitted state that a model folder keeps; False if the folder holds no model yet."""
    file = Path(folder) / "codec" / "model.safetensors"
    if not (Path(folder) / MODEL_FILE).exists():
        return False
    codec.load_fitted_state(load_state(file))
    return True


def stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Give tensors as they are written: contiguous, on the CPU, those of float32 in `dtype`."""
    cast = {name: t.to(dtype) if t.dtype is torch.float32 else t for name, t in tensors.items()}
    return {name: tensor.contiguous().cpu() for name, tensor in cast.items()}


def save_parts(folder: Path, spec: dict[str, Any], codec: Codec, dtype: torch.dtype = torch.float32) -> None:
    """Write codecdiff.json and the state of a fitted codec; a folder that holds them already must agree.

    Raises ValueError if the folder holds another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = stored(codec.fitted_state(), dtype)
    if state and not (folder / MODEL_FILE).exists():
        (folder / "codec").mkdir(exist_ok=True)
        with replaced(folder / "codec" / "model.safetensors") as temporary:
            save_file(state, temporary)
    try:
        with (folder / MODEL_FILE).open("x", encoding="utf-8") as file:  # last: a folder with this file is whole
            file.write(json.dumps(spec, indent=2) + "\n")
    except FileExistsError:
        agree(folder, spec, state)


def agree(folder: Path, spec: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Check that a folder holds this very model. Raises ValueError naming what differs."""
    saved = read_spec(folder)
    differ = [key for key in spec if key != "data" and json.loads(json.dumps(spec[key])) != saved.get(key)]
    file = folder / "codec" / "model.safetensors"
    kept = load_state(file)
    if kept.keys() != state.keys() or any(not torch.equal(kept[name].float(), state[name].float()) for name in state):
        differ.append("state of the codec")
    if differ:
        raise ValueError(
            f"{folder} holds another model: its {', '.join(differ)} differ. Choose another output folder, or delete it."
        )


def save_stage(folder: Path, stage: Stage, dtype: torch.dtype = torch.float32) -> None:
    """Write one stage's weights, then its stage.json: a stage with a stage.json is whole."""
    target = folder / stage.name
    target.mkdir(parents=True, exist_ok=True)
    with replaced(target / "model.safetensors") as temporary:
        save_file(stored(stage.denoiser.state_dict(), dtype), temporary)
    replace_text(target / "stage.json", json.dumps(stage.spec(), indent=2) + "\n")


def load_stage(
    folder: Path, name: str, codec: Codec, splitter: Splitter, conditioner: Conditioner | None, i: int
) -> Stage:
    """Load one stage of a model folder."""
    spec = json.loads((folder / name / "stage.json").read_text(encoding="utf-8"))
    denoiser = build_denoiser(spec["denoiser"], codec, splitter, conditioner, i)
    file = folder / name / "model.safetensors"
    dtype = next(denoiser.parameters()).dtype
    try:
        weights = load_file(file).items()
        denoiser.load_state_dict({key: v.to(dtype) if v.is_floating_point() else v for key, v in weights})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} does not hold the weights of this stage: {error}") from error
    return Stage(
        name,
        denoiser.requires_grad_(False).eval(),
        load_scheduler(spec["scheduler"]),
        spec["sampler"],
        spec["steps"],
        spec["guidance"],
        spec["training"],
    )


def load_scheduler(options: dict[str, Any]) -> Any:
    """Build the training scheduler that a stage.json describes."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler.from_config(options)


def load(model: Path | str, *, allow_download: bool = False) -> Pipeline:
    """Load a model: a folder, the name of an installed model such as `starter`, or a hub id `owner/name`.

    A hub id given here is fetched; ids that the model itself names, only with `allow_download`.
    Raises LookupError if there is no such model.
    """
    folder = Path(model)
    if not folder.exists() and str(model) in registry.models():
        folder = registry.model_folder(str(model))
    elif not folder.exists():
        folder = _fetched(str(model))
    return Pipeline.load(folder, allow_download=allow_download)


def _fetched(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        names = ", ".join(registry.models()) or "none"
        raise LookupError(f"There is no model '{name}': no such folder, and no hub id. Installed models: {names}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/training/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise LookupError(f"There is no folder '{name}', and the hub gave no model of that name: {error}") from error
