"""A trained model: from prompts to audio, and from a folder back to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from codecdiff import config, huggingface, registry, rng
from codecdiff.codecs import chunked
from codecdiff.config.schema import Guidance, Target
from codecdiff.diffusion.guidance import resolved
from codecdiff.diffusion.sampling import sample
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Prompt, Splitter, prompt_fields
from codecdiff.pipeline import checkpoint, hub
from codecdiff.pipeline.code_version import code_versions
from codecdiff.pipeline.editing import EditMask, known_in_stages
from codecdiff.pipeline.stage import Stage, build_denoiser, conditions, stage_shapes
from codecdiff.splitters import stage_names


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
        self.folder: Path | None = None  # it was loaded from

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
            torch.default_generator.manual_seed(rng.generator(seed, 5, i).initial_seed())
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
        return self.codec.normalize(projections)

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
        first_take: int = 0,
        steps: int | None = None,
        guidance: Guidance | None = None,
        known: EditMask | None = None,
        negative: Prompt = "",
        batch_size: int = 16,
        partial: bool = False,
    ) -> Iterator[Tensor]:
        """Yield the codes (1, k, l) of every take, takes of one prompt after each other.

        Where the model reads `seconds` and `start` of a prompt, those of the music are supplied unless it has its own.
        `known` holds what is known of every take, n = prompts * takes: its kept codes come back bit for bit, and the
        rest is made to go with them. `negative` is a prompt to be guided away from, in place of no prompt.
        A take depends on the seed, its number, counted from `first_take`, and its prompt, not on its batch.
        With `partial`, stages that are not trained yet are left at the mean of their latents.
        """
        if not partial:
            self._require_every_stage()
        for stage in self.stages:
            stage.check_steps(stage.steps if steps is None else steps)
            resolved(stage.guidance if guidance is None else guidance, self.conditioner)
        if takes < 1 or not prompts:
            raise ValueError(f"takes={takes} of {len(prompts)} prompts: ask for at least one of each.")
        rows = [self._timed(prompt, frames) for prompt in prompts for _ in range(takes)]
        shape = (len(rows), self.codec.num_codebooks, frames)
        if known is not None and known.codes.shape != shape:
            raise ValueError(f"The known codes are {tuple(known.codes.shape)}, but codes of every take are {shape}.")
        for start in range(0, len(rows), batch_size):
            index = list(range(start, min(start + batch_size, len(rows))))
            part = None if known is None else known.rows(index).to(self.device)
            numbers = [first_take + i for i in index]
            asked = [rows[i] for i in index]
            stages = self._sample_stages(asked, numbers, frames, part, seed, steps, guidance, negative)
            codes = self.codec.quantize(self.splitter.merge(stages))
            yield from (codes if part is None else torch.where(part.kept, part.codes.to(codes), codes)).split(1)

    def _timed(self, prompt: Prompt, frames: int) -> Prompt:
        """Add to a prompt how long the music is to be, and that it is the whole, where the model reads that."""
        read = self.conditioner.fields if self.conditioner else ()
        timing = {"seconds": frames / self.codec.frame_rate, "start": 0.0}
        return {**{name: timing[name] for name in timing if name in read}, **prompt_fields(prompt)}

    def _sample_stages(
        self,
        prompts: list[Prompt],
        takes: list[int],
        frames: int,
        known: EditMask | None,
        seed: int,
        steps: int | None,
        guidance: Guidance | None,
        negative: Prompt,
    ) -> list[Tensor]:
        condition, against = (
            conditions(self.conditioner, some, self.device) for some in (prompts, [negative] * len(prompts))
        )
        shapes = stage_shapes(self.codec, self.splitter, frames)
        known_stages = [None] * len(shapes) if known is None else known_in_stages(known, self.splitter)
        stages: list[Tensor] = []
        for i, (stage, given) in enumerate(zip(self.stages, known_stages, strict=False)):
            if given is not None and given.is_whole:
                stages.append(given.clean)
                continue
            seen = self.snap(stages, frames) if self.snap_context and stages else stages
            blanks = [torch.zeros(len(takes), *shape, device=self.device) for shape in shapes[i:]]
            made = sample(
                stage.denoiser.eval(),
                stage.new_sampler(),
                shapes[i],
                context=self.splitter.context([*seen, *blanks], i),
                condition=condition,
                negative=against,
                steps=steps or stage.steps,
                guidance=resolved(stage.guidance if guidance is None else guidance, self.conditioner),
                generators=[rng.generator(seed, take, i) for take in takes],
                color=stage.noise_color,
                known=given,
                device=self.device,
            )
            stages.append(made)
        return stages + [stages[0].new_zeros(len(takes), *shape) for shape in shapes[len(stages) :]]

    def decode(self, codes: Sequence[Tensor] | Iterator[Tensor], samples: int | None = None) -> Tensor:
        """Decode takes of codes (1, k, l) one by one to (n, ch, t) audio on the CPU, cut to `samples`."""
        codec = chunked(self.codec)
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
        noise = rng.row_noise(shape, [rng.generator(seed, i) for i in range(count)], self.device)
        return self.codec.quantize(noise)

    def spec(self) -> dict[str, Any]:
        """Describe the model for its codecdiff.json."""
        return {
            "format": checkpoint.FORMAT,
            "codec": config.to_config("codecs", self.codec),
            "splitter": config.to_config("splitters", self.splitter),
            "conditioner": config.to_config("conditioners", self.conditioner) if self.conditioner else None,
            "snap_context": self.snap_context,
            "target": self.target,
            "stages": self.stage_names,
            "data": self.data,
            "code": code_versions(self.codec, self.splitter, self.conditioner),
        }

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save the model to a folder, or complete one that holds the same model already.

        With `dtype=torch.float16` it takes half the room; it computes in float32 all the same.
        Raises ValueError if the folder holds another model.
        """
        self.save_parts(folder, dtype=dtype)
        for stage in self.stages:
            checkpoint.save_stage(Path(folder), stage, dtype)

    def save_parts(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save all but the stages; a folder that holds a model already must agree (ValueError)."""
        checkpoint.save_parts(Path(folder), self.spec(), self.codec, dtype)

    @classmethod
    def load(cls, folder: Path | str, *, allow_download: bool = False) -> Pipeline:
        """Load the model of a folder, with the stages that are trained.

        Parts that the folder names by a hub id are fetched only with `allow_download`: who made the folder
        chose them. Raises FileNotFoundError, LookupError or ValueError if the model cannot be used.
        """
        folder = Path(folder)
        spec = checkpoint.read_spec(folder)
        with huggingface.downloads(allow_download):
            codec, splitter, conditioner = checkpoint.trusted_parts(folder, spec, allow_download)
        checkpoint.load_codec_state(folder, codec)
        options = {key: spec[key] for key in ("target", "snap_context", "data")}
        options["target"] = {"projections": "continuous"}.get(spec["target"], spec["target"])  # of version 0.1
        pipeline = cls(codec, splitter, conditioner, [], **options)
        pipeline.load_stages(folder)
        pipeline.folder = folder
        return pipeline

    @property
    def fingerprint(self) -> str | None:
        """Hash of the folder it was loaded from: parts, weights and how it is sampled; None if it was not loaded."""
        return None if self.folder is None else checkpoint.fingerprint(self.folder)

    def load_stages(self, folder: Path | str) -> None:
        """Take the stages that a model folder holds, up to the first that is not trained."""
        folder = Path(folder)
        trained = takewhile(lambda name: (folder / name / "stage.json").exists(), self.stage_names)
        parts = self.codec, self.splitter, self.conditioner
        device = device_of(self.codec)
        self.stages = [checkpoint.load_stage(folder, name, *parts, i) for i, name in enumerate(trained)]
        self.to(device)


def load(model: Path | str, *, allow_download: bool = False) -> Pipeline:
    """Load a model: a folder, the name of an installed model such as `starter`, or a hub id `owner/name`.

    A hub id given here is fetched; ids that the model itself names, only with `allow_download`.
    Raises LookupError if there is no such model.
    """
    folder = _local(model)
    return Pipeline.load(folder if folder.exists() else hub.fetched(str(model)), allow_download=allow_download)


def _local(model: Path | str) -> Path:
    """Give the folder of a model by its path, which comes first, or its installed name; it need not exist."""
    installed = None if Path(model).exists() else registry.model_folder(str(model))
    return installed or Path(model)


def push_to_hub(model: Path | str, name: str, *, private: bool | None = None) -> str:
    """Send a trained model, a folder or the name of an installed one, to the Hugging Face hub, and give its address.

    `name` is `owner/name`; `private` matters when it is made, and None is what the account makes as a rule. What only
    going on with training needs stays here. Raises ValueError for a model that others could not load.
    """
    folder = _local(model)
    checkpoint.require_shareable(folder)
    return hub.sent(folder, name, private=private)
