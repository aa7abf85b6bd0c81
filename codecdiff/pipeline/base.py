"""What a pipeline consists of: loading, saving, moving and describing it. How it samples is in `pipeline`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypedDict, Unpack, overload

import torch
from torch import nn

from codecdiff import config, rng
from codecdiff.arguments import OF_CALLS, OF_PIPELINES, Attributes, keywords_explained, require_type
from codecdiff.config.schema import Target
from codecdiff.errors import FileExists, InvalidValue, UnknownName, did_you_mean
from codecdiff.execution import Execution, require_compiler
from codecdiff.fingerprint import device_of
from codecdiff.interfaces import Codec, Conditioner, Denoiser, Splitter
from codecdiff.pipeline import checkpoint, generation
from codecdiff.pipeline.code_version import code_versions, warn_of_other_weights
from codecdiff.pipeline.generation import GenerationConfig, Presets
from codecdiff.pipeline.stage import Stage, build_denoiser, part_title, stage_shapes
from codecdiff.pipeline.stage_folder import is_trained
from codecdiff.splitters import stage_names

if TYPE_CHECKING:
    from codecdiff.pipeline.adapters import Adapter, BaseWeights, StageWeights


class StageList(list[Stage]):
    """The stages of a model by index or by name, as in `pipe.stages["primary"]`."""

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Stage: ...
    @overload
    def __getitem__(self, key: slice) -> list[Stage]: ...
    def __getitem__(self, key: Any) -> Any:
        """Return a stage. Raises UnknownName for a name that no stage has."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        names = [stage.name for stage in self]
        if key not in names:
            raise UnknownName(
                f"No trained stage '{key}'. Available: {', '.join(names) or 'none'}.{did_you_mean(key, names)}"
            )
        return super().__getitem__(names.index(key))


PARTS = {"codec": Codec, "splitter": Splitter, "conditioner": Conditioner}


class PipelineState(TypedDict, total=False):
    """What a pipeline has beside its parts: options, where it was loaded from, what was added, and how it runs."""

    generation_config: GenerationConfig | None
    presets: Presets
    folder: Path | None
    name: str
    base_fingerprint: str | None
    adapters: Sequence[Adapter]
    base_weights: BaseWeights
    execution: Execution
    offload_device: torch.device | None


class BasePipeline(Attributes):
    """The parts of a model and its stages; see `Pipeline`."""

    elsewhere = dict.fromkeys(GenerationConfig.model_fields, OF_CALLS) | OF_PIPELINES

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
        **state: Unpack[PipelineState],
    ):
        if unknown := sorted(state.keys() - PipelineState.__annotations__.keys()):
            hint = did_you_mean(unknown[0], PipelineState.__annotations__)
            raise InvalidValue(f"A pipeline has no argument '{unknown[0]}'.{hint}")
        self.codec, self.splitter, self.conditioner = codec, splitter, conditioner
        self.stages = stages
        self.target: Target = target
        self.snap_context = snap_context
        self.data = data or {}
        self.generation_config = state.get("generation_config") or GenerationConfig()
        self.presets = state.get("presets", {})
        self.folder = state.get("folder")  # it was loaded from
        self.name = state.get("name", "")  # it was loaded by
        self.base_fingerprint = state.get("base_fingerprint")  # of the parts, weights and sampling options, as loaded
        self.adapters: Sequence[Adapter] = state.get("adapters", ())
        self._base_weights: BaseWeights = state.get("base_weights", {})
        self.num_timesteps = 0  # steps of the current or last call, of all stages and batches together
        self._progress_bar: dict[str, Any] = {}  # options of tqdm; without any, it is not shown
        self._interrupt = False
        self._execution = state.get("execution", Execution())
        self._offload_device = state.get("offload_device")

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in PARTS and not (name == "conditioner" and value is None):
                require_type(value, PARTS[name], f"a {name}, as that of a pipeline: pipe.{name}")
            super().__setattr__(name, value)

    @property
    def stages(self) -> StageList:
        """The trained stages, coarse first, by index or by name."""
        return self._stages

    @stages.setter
    def stages(self, stages: Sequence[Stage]) -> None:
        require_type(stages, Sequence, "a list of stages")
        for stage in stages:
            require_type(stage, Stage, "a stage, such as pipe.stages['primary']")
        self._stages = StageList(stages)

    @property
    def generation_config(self) -> GenerationConfig:
        """Options of calls that do not say otherwise."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, generation_config: GenerationConfig) -> None:
        require_type(generation_config, GenerationConfig, "codecdiff.GenerationConfig(audio_length_in_s=5)")
        self._generation_config = generation_config

    @property
    def presets(self) -> Presets:
        """Sampling options of stages by their names, for each quality that is not sampled as usual."""
        return self._presets

    @presets.setter
    def presets(self, presets: Presets) -> None:
        self._presets = generation.checked_presets(presets, self.stage_names)

    @property
    def components(self) -> dict[str, Any]:
        """All that the model consists of: `Pipeline(**pipe.components)` is the same model, with shared weights."""
        names = ("codec", "splitter", "conditioner", "stages", "target", "snap_context", "data")
        private = ("base_weights", "execution", "offload_device")
        public = [name for name in (*names, *PipelineState.__annotations__) if name not in private]
        return {name: getattr(self, name) for name in public} | {name: getattr(self, f"_{name}") for name in private}

    @property
    def fingerprint(self) -> str | None:
        """Hash of all that was loaded, adapters with their weights included: what generated audio follows from."""
        if not self.adapters or self.base_fingerprint is None:
            return self.base_fingerprint
        from codecdiff.pipeline.adapters import adapted_fingerprint

        return adapted_fingerprint(self.base_fingerprint, self.adapters)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""
        return self.codec.sample_rate

    sampling_rate = sample_rate  # as in diffusers and in `PipelineOutput`

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoisers."""
        return next((p.dtype for stage in self.stages for p in stage.denoiser.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self._offload_device or device_of(self.stages[0].denoiser if self.stages else self.codec)

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages of the pattern, trained or not."""
        return stage_names(len(stage_shapes(self.codec, self.splitter, 1)))

    @classmethod
    @keywords_explained
    def from_pretrained(
        cls,
        name: Path | str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile: bool = False,
        allow_download: bool = False,
        allow_local_parts: bool = False,
    ) -> Self:
        """Load a model with its trained stages: a folder, an installed model such as `starter`, or a hub id.

        A hub id passed here is fetched. Ids that the model itself names for its parts are fetched only with
        `allow_download`, because its author chose them; places of this machine outside of its folder, and those that a
        part writes to, only with `allow_local_parts`. `dtype` and `device` are those of `to`.
        `compile` calls `compile`. Raises UserError if the model is not found or cannot be used.

        Example:
            >>> import codecdiff
            >>> codecdiff.load("starter", device="cpu").sample_rate  # the same function
            44100

        """
        from codecdiff.huggingface import downloads
        from codecdiff.pipeline.hub import find_model

        folder = find_model(name)
        digests: dict[str, str] = {}
        spec = checkpoint.read_config(folder, digests)
        with downloads(allow_download):
            parts = checkpoint.load_parts(
                folder, spec, allow_download=allow_download, allow_local_parts=allow_local_parts, digests=digests
            )
        warn_of_other_weights(parts[0], str(spec["data"].get("codec_weights", "")))
        facts = {key: spec[key] for key in ("target", "snap_context", "data")}
        pipeline = cls(*parts, [], **facts, generation_config=generation.load_generation_config(folder))
        pipeline.load_stages(folder, allow_local_parts=allow_local_parts, digests=digests)
        pipeline.folder, pipeline.name = folder, str(name)
        pipeline.presets = generation.load_presets(folder, digests)
        pipeline.base_fingerprint = checkpoint.combined_fingerprint(digests)
        pipeline.to(device, dtype)
        return pipeline.compile() if compile else pipeline

    @keywords_explained
    def save_pretrained(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save the model to a folder, or complete a folder that holds the same model.

        `dtype=torch.float16` halves its size; computation stays in float32. Adapters are merged into the weights, which
        stage.json says. Logs of training are kept, and the run.lock if these are the weights it records. Raises
        InvalidValue if the folder holds another model.

        Example:
            >>> import codecdiff, torch
            >>> pipe = codecdiff.load("starter")
            >>> pipe.save_pretrained("my-model", dtype=torch.float16)
            >>> pipe = codecdiff.load("my-model")

        """
        require_type(folder, str | Path, "a folder, as in 'my-model'")
        if Path(folder).is_file():
            raise FileExists(f"'{folder}' is a file: name a folder.")
        records = [adapter.record.model_dump() for adapter in self.adapters]
        if records and (Path(folder) / checkpoint.MODEL_FILE).exists():
            raise InvalidValue(f"'{folder}' holds a model, and this one has adapters: save it in another folder.")
        self.save_parts(folder, dtype=dtype)
        for stage in self.stages:
            facts = stage.facts | ({"adapters": records} if records else {})
            checkpoint.save_stage(Path(folder), replace(stage, facts=facts), dtype, source=self.folder)
        generation.save_generation_config(Path(folder), self.generation_config)
        if self.presets:
            generation.save_presets(Path(folder), generation.checked_presets(self.presets, self.stage_names))
        if self.folder is not None:
            from codecdiff.pipeline.run_lock import copy_run_lock

            copy_run_lock(self.folder, Path(folder))

    def load_adapter(self, folder: Path | str, weight: StageWeights = 1.0) -> Self:
        """Add what an adapter changes to the weights of the stages, beside the adapters that are loaded already.

        `weight` multiplies the change, in all stages or by their names; with 0 nothing changes, to the bit. Raises
        InvalidValue for an adapter of another model, and MissingFile.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> pipe.load_adapter("runs/blues", weight={"primary": 1, "secondary": 0.5})  # doctest: +SKIP
            >>> out = pipe("a slow blues on piano")  # doctest: +SKIP
            >>> pipe.unload_adapters()  # doctest: +SKIP

        """
        from codecdiff.pipeline.adapters import read_adapter

        adapter = read_adapter(folder, self.base_fingerprint, [stage.name for stage in self.stages], weight)
        self._use_adapters([*self.adapters, adapter])
        return self

    def unload_adapters(self) -> Self:
        """Restore the weights of the model itself, to the bit."""
        self._use_adapters([])
        return self

    def _use_adapters(self, adapters: Sequence[Adapter]) -> None:
        from codecdiff.pipeline.adapters import apply_adapters

        self._base_weights = apply_adapters(self.stages, adapters, self._base_weights)
        self.adapters = tuple(adapters)

    def push_to_hub(self, name: str, *, private: bool | None = None) -> str:
        """Upload the model to the Hugging Face hub as `owner/name`, and return its address.

        A model card and the logs of training come from the folder it was loaded from. `private` matters if the
        repository is new; None is the account's default. Raises UserError for a model that others could not load, and
        if the hub refuses it or cannot be reached.
        """
        from codecdiff.pipeline.hub import push_to_hub
        from codecdiff.pipeline.model_card import write_model_card

        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder)
            if self.folder and (self.folder / "README.md").is_file():
                shutil.copyfile(self.folder / "README.md", folder / "README.md")
            write_model_card(folder)
            return push_to_hub(folder, name, private=private)

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every part to a device, and convert the denoisers to `dtype`; ends `enable_model_cpu_offload`.

        In float16 or bfloat16 the denoisers take half the memory. Codec, conditioner and the states of sampling keep
        their precision. Raises InvalidValue for a device that cannot be used.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        denoisers = [stage.denoiser for stage in self.stages]
        if device is not None:
            place, self._offload_device = usable_device(device), None
            for module in (self.codec, self.conditioner, *denoisers):
                if module is not None:
                    module.to(place)
        if dtype is not None:
            if dtype not in (torch.float32, torch.float16, torch.bfloat16):
                raise InvalidValue(f"Invalid dtype {dtype}: expected torch.float32, torch.float16 or torch.bfloat16.")
            for denoiser in denoisers:
                denoiser.to(dtype)
        return self

    def compile(self, *, cuda_graphs: bool = True) -> Self:
        """Sample with kernels fused by torch.compile and, on a GPU, with each guided step replayed as a CUDA graph.

        The first call compiles, for a minute or so; what is generated differs by rounding. Worth it for many calls on a
        GPU. Raises InvalidValue where torch.compile does not work.
        """
        require_compiler(self.device)
        self._execution = Execution(compiles=True, cuda_graphs=cuda_graphs)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str | None = None) -> Self:
        """Keep every part in the CPU's memory, and move it to a device only while it computes, one stage at a time.

        Needs as much memory of the device as the largest part. `to` ends it. Raises InvalidValue without an
        accelerator, unless a device is named.
        """
        if device is None and not torch.accelerator.is_available():
            raise InvalidValue("No accelerator to move stages to: on a CPU there is nothing to gain. Leave it out.")
        place = usable_device(device or torch.accelerator.current_accelerator() or "cpu")
        self.to("cpu")
        self._offload_device = place
        return self

    @contextmanager
    def _on_device(self, module: nn.Module | None) -> Iterator[None]:
        """Have a part on the device while it computes."""
        if self._offload_device is None or module is None:
            yield
            return
        module.to(self._offload_device)
        try:
            yield
        finally:
            module.to("cpu")

    def new_denoiser(self, i: int, spec: Any, *, seed: int = 0) -> Denoiser:
        """Build a denoiser for stage `i` from its configuration, with initial weights drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                rng.generator("codecdiff.train.initial_weights", seed, i).initial_seed()
            )
            return build_denoiser(spec, self.codec, self.splitter, self.conditioner, i)

    def load_stages(self, folder: Path | str, *, count: int | None = None, **options: Any) -> None:
        """Load the stages of a model folder, or `count` at most, up to the first that is not trained.

        The `options` are those of `checkpoint.load_stage`.
        """
        folder = Path(folder)
        trained = takewhile(lambda name: is_trained(folder / name), self.stage_names[:count])
        device, parts = device_of(self.codec), (self.codec, self.splitter, self.conditioner)
        self.stages = [checkpoint.load_stage(folder, name, *parts, i, **options) for i, name in enumerate(trained)]
        self.to(device)

    def save_parts(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Save everything except the stages. Raises ValueError if the folder holds another model."""
        checkpoint.write_parts(Path(folder), self.to_config(), self.codec.fitted_state(), dtype)

    def to_config(self) -> dict[str, Any]:
        """Return the description of the model for its codecdiff.json."""
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

    def describe(self) -> dict[str, str]:
        """Return what the model is: a sentence about each of its parts and stages, by their names."""
        conditioner = self.conditioner
        fields = f", reads {', '.join(conditioner.fields)}" if conditioner else ""
        rows = {
            "codec": f"{part_title('codecs', self.codec)}: {self.codec.num_codebooks} codebooks of "
            f"{self.codec.codebook_size:,}, {self.codec.frame_rate:.4g} frames/s, {self.sample_rate:,} Hz",
            "pattern": f"{part_title('splitters', self.splitter)}: {', '.join(self.stage_names)}",
            "conditioner": f"{part_title('conditioners', conditioner)}{fields}" if conditioner else "none",
        }
        return rows | {stage.name: stage.describe() for stage in self.stages}

    def __repr__(self) -> str:
        rows = self.describe()
        width = max(map(len, rows))
        where = f"Pipeline on {self.device}, denoisers in {str(self.dtype).removeprefix('torch.')}"
        return "\n".join([where, *(f"  {name:{width}}  {text}" for name, text in rows.items())])


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device. Raises InvalidValue if it cannot be used here."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(" device type at")[0].rstrip(".")
        reason = "no such kind" if reason.startswith("Expected one of") else reason
        hint = "Use cpu, or a GPU that `codecdiff doctor` lists, as in cuda:1"
        raise InvalidValue(f"Device '{device}' cannot be used: {reason}. {hint}.") from error
