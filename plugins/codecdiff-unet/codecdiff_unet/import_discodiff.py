"""A released DiscoDiff checkpoint becomes a model folder: `codecdiff import-discodiff`.

The codec and the conditioner are named in the folder and not needed here. What the tensors do not say is as in the
released code: the statistics of each codebook, the continuous target, 100 steps of the cosine schedule, guidance.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import typer
from torch import Tensor

from codecdiff import config, registry
from codecdiff.config import SamplingConfig
from codecdiff.diffusion import training_scheduler
from codecdiff.errors import FileExists, InvalidValue, UnusableFile
from codecdiff.pipeline import FORMAT, MODEL_FILE, Stage, read_config, write_model_card, write_parts, write_stage_config
from codecdiff.splitters import stage_names
from codecdiff_unet.denoiser import UNet
from codecdiff_unet.released import ROLES, SIZES, Architecture, infer, shape_differences, sources
from codecdiff_unet.weights import FLOATS, listed, read_tensors, write_tensors

Role = Literal["primary", "secondary", "parallel"]

PREFIXES = {"primary": "diffusion.denoise_model.", "secondary": "diffusion.denoise_model_secondary."}
LEFT_OUT = ("chroma_diffusion.", "meta_cond_encoder_decoder.", "dac_model.")  # an unused model; T5; DAC
SCHEDULE = re.compile(r"diffusion\.(\w+)")  # names of the vectors of the noise schedule

MEAN = (0.58, -0.11, -0.18, -0.04, -0.23, -0.06, 0.08, 0.0, 0.03)  # of each codebook's pre-quantization latents
STD = (4.95, 4.00, 3.61, 3.41, 3.24, 3.16, 3.06, 2.93, 2.79)
CODEBOOK_DIM = 8
STEPS = 100  # of diffusion and of sampling
GUIDANCE = 3.0


@dataclass(frozen=True)
class UNetState:
    """A released U-Net: its architecture, and its tensors by their released names."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]

    @property
    def stage(self) -> str:
        """Name of the stage in a model folder."""
        return stage_of(self.architecture.role)

    def __str__(self) -> str:
        sizes = {size: name for name, size in SIZES.items()}
        size = sizes.get((self.architecture.width, self.architecture.multipliers), f"width {self.architecture.width}")
        precisions = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in self.tensors.values()})
        note = "" if precisions == ["float32"] else ", stored so and computed in float32"
        count = sum(tensor.numel() for tensor in self.tensors.values())
        return f"{self.stage}: {size}, {count:,} parameters in {' and '.join(precisions)}{note}"


def stage_of(role: str) -> str:
    """Return the name of the stage that a U-Net of this role is."""
    return stage_names(1)[0] if role == "parallel" else role


def import_released(
    checkpoint: Path,
    folder: Path,
    *,
    role: Role | None = None,
    codec: str | Mapping[str, Any] = "dac",
    conditioner: str | Mapping[str, Any] = "t5",
) -> list[UNetState]:
    """Write a released checkpoint as a model folder, and return the U-Nets that were in it.

    With a `role` the checkpoint contains that U-Net alone, and the folder may be one that lacks it. `codec` and
    `conditioner` are configurations of the parts that the folder names. Raises ValueError or OSError, and leaves
    everything as it was, if the checkpoint is another or the folder cannot be written.
    """
    unets = read_unets(checkpoint, role)
    spec = model_spec([unet.architecture.role for unet in unets], codec, conditioner)
    check_folder(folder, [unet.stage for unet in unets])
    is_new = not (folder / MODEL_FILE).exists()
    if not is_new:
        write_parts(folder, spec, statistics())  # which must agree
    draft = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.part")
    try:
        draft.mkdir(parents=True)
        for unet in unets:
            write_stage(draft, unet, checkpoint.name)
        if is_new:
            write_parts(draft, spec, statistics())
            draft.rename(folder)
        else:
            for unet in unets:
                (draft / unet.stage).rename(folder / unet.stage)
    except OSError as error:
        raise UnusableFile(
            f"'{folder}' could not be written: {error.strerror or error}. Nothing of it is left."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_model_card(folder)
    return unets


def read_unets(checkpoint: Path, role: Role | None = None) -> list[UNetState]:
    """Return the U-Nets of a checkpoint, or the one of this `role` that is all it contains.

    Raises ValueError that lists the tensors that are missing, not expected or of a wrong shape.
    """
    tensors = read_tensors(checkpoint)
    prefixed = any(name.startswith(tuple(PREFIXES.values())) for name in tensors)
    if role and prefixed:
        raise InvalidValue(f"'{checkpoint}' is a whole model and says itself which U-Net is which: leave --role out.")
    if role:
        return [checked(tensors, role, checkpoint)]
    if not prefixed:
        raise InvalidValue(
            f"'{checkpoint}' is not a released DiscoDiff: no tensor in it is called {PREFIXES['primary']}*. "
            f"If it is the state of one U-Net, say which: --role {', '.join(get_args(Role))}."
        )
    return whole(tensors, checkpoint)


def whole(tensors: Mapping[str, Tensor], checkpoint: Path) -> list[UNetState]:
    """Return the U-Nets among the tensors of a whole model."""
    expected = (*PREFIXES.values(), *LEFT_OUT)
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(expected)}
    schedule = {name: t for name, t in others.items() if SCHEDULE.fullmatch(name) and t.ndim < 2}
    if extra := sorted(others.keys() - schedule.keys()):
        raise InvalidValue(f"'{checkpoint}' is another model: not expected in it are {listed(extra)}.")
    check_schedule(schedule, checkpoint)
    parts = {role: under(prefix, tensors) for role, prefix in PREFIXES.items()}
    first = architecture_of(parts["primary"], checkpoint)
    if first.role == "parallel" and not parts["secondary"]:
        return [checked(parts["primary"], "parallel", checkpoint)]
    return [checked(part, role, checkpoint, like=first) for role, part in parts.items()]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def architecture_of(tensors: Mapping[str, Tensor], checkpoint: Path) -> Architecture:
    """Infer the architecture of a U-Net. Raises ValueError if the tensors are not those of one."""
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        raise InvalidValue(f"'{checkpoint}' is not a released U-Net: these tensors are empty: {listed(empty)}.")
    try:
        architecture = infer({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        _ = architecture.role, sources(architecture)  # one of those released, with a size that there can be
    except ValueError as error:
        raise InvalidValue(f"'{checkpoint}' is not a released DiscoDiff. {error}") from error
    return architecture


def checked(
    tensors: Mapping[str, Tensor], role: str, checkpoint: Path, *, like: Architecture | None = None
) -> UNetState:
    """Return a U-Net of this role, if its tensors are complete; `like` has the size of one that is missing."""
    if tensors or like is None:
        architecture = architecture_of(tensors, checkpoint)
    else:
        channels, context_channels = ROLES[role]
        architecture = replace(like, channels=channels, context_channels=context_channels)
    if architecture.role != role:
        raise InvalidValue(f"The U-Net in '{checkpoint}' is by its channels a {architecture.role}, not a {role}.")
    lines = shape_differences({name: tuple(tensor.shape) for name, tensor in tensors.items()}, architecture)
    lines += [f"of {tensor.dtype}: {name}" for name, tensor in tensors.items() if tensor.dtype not in FLOATS]
    if lines:
        more = [f"and {len(lines) - 50} more"] if len(lines) > 50 else []
        raise InvalidValue(
            "\n".join([f"'{checkpoint}' is not the {role} U-Net that was released:", *lines[:50], *more])
        )
    return UNetState(architecture, tensors)


def check_schedule(vectors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Raise ValueError if a checkpoint brings another noise schedule than the released one."""
    ours = training_scheduler(num_train_timesteps=STEPS)
    released = {"diffusion.betas": ours.betas, "diffusion.alphas_cumprod": ours.alphas_cumprod}
    for name in released.keys() & vectors.keys():
        theirs, expected = vectors[name].double(), released[name].double()
        tolerance = 1e-6 if vectors[name].dtype in (torch.float32, torch.float64) else 1e-2
        if theirs.shape != expected.shape or not torch.allclose(theirs, expected, rtol=0, atol=tolerance):
            raise InvalidValue(
                f"'{checkpoint}' was trained on another noise schedule: its {name}, of {theirs.numel()} steps, "
                f"is not that of the cosine schedule of {STEPS}."
            )


def statistics() -> dict[str, Tensor]:
    """Return the state of the normalized codec: mean and deviation of every codebook, (k, d, 1) each."""
    shape = (len(MEAN), CODEBOOK_DIM, 1)
    pairs = {"mean": MEAN, "std": STD}
    return {name: torch.tensor(values)[:, None, None].expand(shape).contiguous() for name, values in pairs.items()}


def model_spec(
    roles: Sequence[str], codec: str | Mapping[str, Any], conditioner: str | Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the model for its codecdiff.json."""
    is_parallel = "parallel" in roles
    return {
        "format": FORMAT,
        "codec": {"name": "normalized", "codec": config.with_defaults("codecs", codec), "per": "codebook"},
        "splitter": {"name": "parallel" if is_parallel else "coarse-first"},
        "conditioner": config.with_defaults("conditioners", conditioner),
        "snap_context": False,
        "target": "continuous",
        "stages": stage_names(1 if is_parallel else 2),
        "data": {},
    }


def check_folder(folder: Path, stages: Sequence[str]) -> None:
    """Raise OSError unless these stages can be written into a folder: a new one, or a model without them."""
    is_model = (folder / MODEL_FILE).exists()
    if folder.exists() and not is_model and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExists(f"'{folder}' exists and is not a model. Choose another name, or delete it.")
    if there := [stage for stage in stages if (folder / stage).exists()]:
        raise FileExists(f"'{folder}' has its {' and '.join(there)} already. Choose another name, or delete it.")


def write_stage(folder: Path, unet: UNetState, source: str) -> None:
    """Write one stage of a model folder, tensor by tensor, in the precision they have."""
    places = sources(unet.architecture)
    with torch.device("meta"):
        network = UNet(**unet.architecture.options)
    sampling = SamplingConfig(scheduler="ddpm", num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    stage = Stage(
        unet.stage, network, training_scheduler(num_train_timesteps=STEPS), sampling, facts={"imported": source}
    )
    (folder / unet.stage).mkdir()
    specs = {place.name: (unet.tensors[place.released].dtype, place.shape) for place in places}
    read = (place.read(unet.tensors[place.released]) for place in places)
    write_tensors(folder / unet.stage / "model.safetensors", specs, read)
    write_stage_config(folder / unet.stage, stage.to_config())


def part_named(kind: str, text: str, default: str) -> dict[str, Any]:
    """Return the configuration of a part from its name, or from the folder or hub id of the default part's model."""
    is_name = text in [plugin.name for plugin in registry.installed(kind)]
    is_model = not is_name and ("/" in text or Path(text).is_dir())
    return {"name": default, "model": text} if is_model else {"name": text}


def import_discodiff(
    checkpoint: Annotated[
        Path, typer.Argument(help="A Lightning checkpoint, or the state of one U-Net.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to make, or to complete.")],
    role: Annotated[Role | None, typer.Option(help="Which U-Net it is, if the file holds one alone.")] = None,
    codec: Annotated[str, typer.Option(help="A codec, or the folder or hub id of a DAC.")] = "dac",
    conditioner: Annotated[str, typer.Option(help="A conditioner, or the folder or hub id of a T5.")] = "t5",
) -> None:
    """Turn a released DiscoDiff checkpoint into a model folder."""
    parts = {"codec": part_named("codecs", codec, "dac"), "conditioner": part_named("conditioners", conditioner, "t5")}
    for unet in import_released(checkpoint, output, role=role, **parts):
        typer.echo(str(unet))
    missing = [name for name in read_config(output)["stages"] if not (output / name).exists()]
    state = f"lacks its {missing[0]} yet: import it with --role {missing[0]}" if missing else "is complete"
    typer.echo(f"{output} {state}.")
