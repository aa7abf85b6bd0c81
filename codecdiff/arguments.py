"""Arguments and attributes that do not exist or have a wrong value: sentences that say what to write instead.

`Arguments` is the base of pydantic models that users build, `Attributes` that of other objects with attributes to set.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from codecdiff.errors import NAMES, InvalidValue, UserError, did_you_mean, validation_issues

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

__all__ = [
    "Arguments",
    "Attributes",
    "UnexpectedOption",
    "UnknownAttribute",
    "keywords_explained",
    "require_type",
    "unexpected_option",
]

OTHER_NAMES = {  # what an option is called elsewhere
    **dict.fromkeys(("audio_end_in_s", "duration", "length", "seconds"), "audio_length_in_s"),
    **dict.fromkeys(("cfg_scale", "guidance"), "guidance_scale"),
    **dict.fromkeys(("num_images_per_prompt", "num_return_sequences", "num_samples"), "num_waveforms_per_prompt"),
    **dict.fromkeys(("num_steps", "steps"), "num_inference_steps"),
    "callback": "callback_on_step_end",
    "negative": "negative_prompt",
    "torch_dtype": "dtype",
}
NOT_OPTIONS = {  # options of diffusers whose purpose is served otherwise
    **dict.fromkeys(("safe_serialization", "use_safetensors"), "Leave it out: all weights are safetensors."),
    **dict.fromkeys(("initial_audio_waveforms", "strength"), "Use pipe.edit(audio, codecdiff.Vary(strength=0.4))."),
    "callback_on_step_end_tensor_inputs": "Leave it out: the callback always receives the latents.",
    "device_map": "Use device='cuda', or pipe.enable_model_cpu_offload() for a model larger than the GPU's memory.",
    "latents": "Use seed=0 or generator=torch.Generator().manual_seed(0).",
    "local_files_only": "Leave it out: what a model names is fetched only with allow_download=True.",
    "low_cpu_mem_usage": "Leave it out.",
    "output_type": "Leave it out: out.audios is a tensor on the CPU.",
    "return_dict": "Leave it out: a call returns a PipelineOutput, whose audio is out.audios.",
    "trust_remote_code": "Leave it out: a model folder contains no code.",
    "variant": "Leave it out: dtype=torch.float16 converts the weights.",
}
OF_STAGES = " To sample stages differently, set pipe.stages['primary'].sampling.{name} and so on."
HINTS = {  # about several values where one is expected
    "guidance_scale": OF_STAGES,
    "negative_prompt": " Write one for all prompts of a call.",
    "num_inference_steps": OF_STAGES,
    "seed": " For several samples of a prompt, set one seed and num_waveforms_per_prompt=2.",
}
OTHER_HINTS = {"loudness": " Use a level in LUFS, e.g. -14, or 'off' for audio as it is decoded."}
OF_CALLS = "Pass it to a call, or set pipe.generation_config = pipe.generation_config.merge({name}=...)."
OF_PIPELINES = {  # attributes of the pipelines of diffusers
    **dict.fromkeys(("transformer", "unet"), "Each stage has its own: pipe.stages['primary'].denoiser."),
    **dict.fromkeys(("text_encoder", "tokenizer"), "Prompts are encoded by pipe.conditioner."),
    **dict.fromkeys(("fuse_lora", "load_lora_weights", "set_adapters"), "Use pipe.load_adapter(FOLDER, weight=1.0)."),
    "config": "Use pipe.to_config().",
    "device": "Use pipe.to('cuda').",
    "dtype": "Use pipe.to(torch.float16).",
    "scheduler": "Each stage has its own, to assign to: pipe.stages['primary'].scheduler.",
    "unload_lora_weights": "Use pipe.unload_adapters().",
    "vae": "Audio is encoded and decoded by pipe.codec.",
}
P = ParamSpec("P")
R = TypeVar("R")


class UnexpectedOption(InvalidValue, TypeError):
    """A keyword argument that does not exist."""


class UnknownAttribute(UserError, AttributeError):
    """An attribute that does not exist."""


def unexpected_option(unknown: str, names: Collection[str]) -> UnexpectedOption:
    """Return the error for a keyword argument, which says what it is called here, or which one of `names` is near."""
    if (other := OTHER_NAMES.get(unknown)) in (*names, "callback_on_step_end"):
        hint = f" Did you mean '{other}'?"
    elif unknown in NOT_OPTIONS:
        hint = f" {NOT_OPTIONS[unknown]}"
    else:
        hint = did_you_mean(unknown, names) or f" Options: {', '.join(names)}."
    return UnexpectedOption(f"Unexpected option '{unknown}'.{hint}")


def keywords_explained(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to raise UnexpectedOption for keyword arguments that it does not have."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    available = {parameter.name for parameter in parameters}

    @wraps(function)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        if unknown := next((name for name in options if name not in available), None):
            raise unexpected_option(unknown, names)
        return function(*arguments, **options)

    return checked


def require_type(value: Any, expected: type | UnionType, example: str) -> None:
    """Raise InvalidValue unless a value is of a class; `example` says how to get one."""
    if not isinstance(value, expected):
        raise InvalidValue(f"Invalid value of type {type(value).__name__}, {value!r}: expected {example}.")


class _Explained(ModelMetaclass):
    """Has the constructor of a model raise UserError, and leaves validation inside of other models as pydantic's."""

    if not TYPE_CHECKING:  # with it, a type checker would not know the parameters

        def __call__(cls, *arguments: Any, **values: Any) -> Any:  # noqa: N805  # of a metaclass
            """Build the model."""
            if arguments:
                raise UnexpectedOption(f"{cls.__name__} takes keyword arguments only{_example(cls)}.")
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise _explained(cls, error, values) from error


class Arguments(BaseModel, metaclass=_Explained):
    """A model that users build. Unknown names are refused; its constructor and attributes raise UserError.

    A field whose type does not show how to write it has an example: `Field(examples=[...])`.
    """

    model_config = ConfigDict(extra="forbid")

    if not TYPE_CHECKING:  # with it, a type checker would allow any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            fields = type(self).model_fields
            if not name.startswith("_") and name not in fields:
                raise _unknown_attribute(self, name, fields)
            if self.model_config.get("frozen"):
                hint = f"make another one, as in config.merge({name}={value!r})"
                raise InvalidValue(f"A {type(self).__name__} cannot be changed: {hint}.")
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise _explained(type(self), error, {name: value}) from error


def _explained(cls: type[BaseModel], error: ValidationError, values: Mapping[str, Any]) -> InvalidValue:
    issue = validation_issues(error)[0]
    name, _, inner = issue.place.partition(".")
    if issue.type == "extra_forbidden" and not inner:
        return unexpected_option(name, cls.model_fields)
    if name not in values:
        return InvalidValue(f"{cls.__name__} needs {name}{_example(cls)}." if name else f"{issue.problem}.")
    value, problem = values[name], str(issue) if issue.type in NAMES else issue.problem
    hint = HINTS.get(name, "").format(name=name) if isinstance(value, list | tuple | Mapping) else ""
    if issue.type.startswith(("list", "tuple")) and (example := _example(cls)):
        problem = f"expected a list{example}"
    return InvalidValue(f"Invalid {name}={value!r}: {problem}.{hint or OTHER_HINTS.get(name, '')}")


def _example(cls: type[BaseModel]) -> str:
    """Return the end of a sentence: how a model is written, if its fields have examples."""
    shown = {name: field.examples[0] for name, field in cls.model_fields.items() if field.examples}
    return f", as in {cls.__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})" if shown else ""


class _Completed(type):
    """Notes that the constructor of an object has returned, that of a subclass included."""

    if not TYPE_CHECKING:  # with it, a type checker would not know the parameters

        def __call__(cls, *arguments: Any, **options: Any) -> Any:
            """Build the object."""
            built = super().__call__(*arguments, **options)
            vars(built)["_is_complete"] = True
            return built


class Attributes(metaclass=_Completed):
    """An object whose constructor sets all of its attributes: later only those, and private ones, can be set.

    elsewhere: what to write instead of an attribute that it does not have, `{name}` standing for its name.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # with them, a type checker would allow any attribute

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or hasattr(type(self), name):
                return object.__getattribute__(self, name)  # raises again, what a property has raised among others
            raise _unknown_attribute(self, name, dir(self), self.elsewhere)

        def __setattr__(self, name: str, value: Any) -> None:
            is_available = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
            if not is_available and "_is_complete" in vars(self):
                raise _unknown_attribute(self, name, dir(self), self.elsewhere)
            if getattr(getattr(type(self), name, None), "fset", self) is None:  # a property without a setter
                hint = self.elsewhere.get(name, "It follows from the others.")
                raise UnknownAttribute(f"The attribute '{name}' of a {type(self).__name__} cannot be set. {hint}")
            super().__setattr__(name, value)


def _unknown_attribute(
    owner: Any, name: str, names: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> UnknownAttribute:
    public = [each for each in names if not each.startswith("_")]
    other = OTHER_NAMES.get(name)
    near = f" Did you mean '{other}'?" if other in public else did_you_mean(name, public)
    hint = f" {elsewhere[name].format(name=name)}" if name in elsewhere else near
    return UnknownAttribute(f"A {type(owner).__name__} has no attribute '{name}'.{hint}")
