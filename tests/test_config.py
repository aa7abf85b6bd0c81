"""Configurations: signatures as schemas, parts inside parts, overrides of the command line, and what is refused."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, ValidationError

from codecdiff import config, registry
from codecdiff.codecs import ChunkedCodec, NormalizedCodec
from codecdiff.config import ConfigError
from codecdiff.config.schema import Config, DataConfig, ExperimentConfig, StageConfig, TrainConfig
from codecdiff.errors import validation_issues
from codecdiff.interfaces import Codec


class Recipe(Config):
    codec: config.CodecSpec
    splitter: config.SplitterSpec
    conditioner: config.ConditionerSpec | None = None
    mixed_precision: Literal["no", "bf16"] = "no"
    snap_context: bool = True
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    stages: dict[str, StageConfig] = Field(default_factory=dict)
    prompts: list[str] = Field(default=[""])


DATA: dict[str, Any] = {
    "codec": {"name": "dac", "model": "somewhere", "revision": "main"},
    "splitter": {"name": "coarse-first"},
    "conditioner": {"name": "words", "width": 64},
    "train": {"max_train_steps": 10, "warmup_steps": 3},
}


def over(*assignments: str) -> Recipe:
    return Recipe.model_validate(config.override(DATA, Recipe, assignments))


def test_a_part_is_built_from_its_name_and_options() -> None:
    words = config.build("conditioners", {"name": "words", "width": 64})
    assert words.arguments == {"width": 64, "max_tokens": 48}
    assert config.build("conditioners", "words").arguments["width"] == 128


def test_what_is_supplied_reaches_the_constructors_that_take_it() -> None:
    splitter = config.build("splitters", "coarse-first", num_codebooks=4, levels=(0, 1, 0, 1))
    assert splitter.groups == [[0, 2], [1, 3]]
    assert config.build("splitters", "flattened", num_codebooks=4, levels=(0, 1, 2, 3)).num_codebooks == 4


@pytest.mark.parametrize("inner", ["chunked", "plain"])
def test_parts_nest(codec_spec: dict[str, Any], inner: str) -> None:
    whole = {**codec_spec, "revision": None, "backend": "transformers"}
    spec = {"name": "chunked", "codec": whole, "frames": 7} if inner == "chunked" else whole
    codec = config.build("codecs", {"name": "normalized", "codec": spec, "per": "channel"})
    assert isinstance(codec, NormalizedCodec)
    assert codec.per == "channel"
    assert isinstance(codec.codec, ChunkedCodec) == (inner == "chunked")
    saved = config.to_config("codecs", codec)
    assert saved == {"name": "normalized", "codec": spec, "per": "channel"}
    assert config.to_config("codecs", config.build("codecs", saved)) == saved


def test_a_part_made_by_hand_is_described_with_its_defaults(dac: Codec, codec_spec: dict[str, Any]) -> None:
    inner = {**codec_spec, "revision": None, "backend": "transformers"}
    assert config.to_config("codecs", ChunkedCodec(dac)) == {"name": "chunked", "codec": inner, "frames": 512}
    splitter = config.build("splitters", {"name": "delayed"}, num_codebooks=9)
    assert config.to_config("splitters", splitter) == {"name": "delayed", "delay": 1}


def test_a_description_from_before_an_option_existed_has_it_at_its_default(
    dac: Codec, codec_spec: dict[str, Any]
) -> None:
    old, now = {"name": "chunked", "codec": codec_spec}, config.to_config("codecs", ChunkedCodec(dac))
    there, here = config.align_defaults("codecs", old, now)
    assert (
        there
        == here
        == {"name": "chunked", "codec": {**codec_spec, "revision": None, "backend": "transformers"}, "frames": 512}
    )
    joined = {"name": "joined", "conditioners": [{"name": "words"}]}
    words = {"name": "words", "width": 128, "max_tokens": 48}
    assert config.align_defaults("conditioners", joined, joined)[0] == {"name": "joined", "conditioners": [words]}
    other = {"name": "gone", "depth": 3}  # is not installed
    assert config.align_defaults("codecs", other, now) == (other, now)
    assert config.align_defaults("conditioners", None, None) == (None, None)


def test_a_part_that_is_not_registered_cannot_be_described(dac: Codec) -> None:
    class Mine(NormalizedCodec):
        pass

    with pytest.raises(ConfigError, match=r"Mine is not registered.*entry point in the group 'codecdiff\.codecs'"):
        config.to_config("codecs", Mine(dac))


def test_another_package_s_broken_part_does_not_stop_a_description(monkeypatch: pytest.MonkeyPatch, dac: Codec) -> None:
    broken = registry.EntryPoint("broken", "codecdiff.codecs", "Absent")
    found = registry.scan()
    stranger = registry.Plugin("codecs", "broken", "stranger", "1", broken)
    monkeypatch.setattr(registry, "scan", lambda: registry.Scan((stranger, *found.plugins), found.issues))
    assert config.to_config("codecs", ChunkedCodec(dac))["name"] == "chunked"


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        (
            "conditioners",
            {"name": "words", "widht": 3},
            r"'words' has no option 'widht'\. It has: width, max_tokens\. Did",
        ),
        (
            "conditioners",
            {"name": "words", "width": "wide"},
            r"conditioner\.width = 'wide': expected a whole number",
        ),
        ("conditioners", {"width": 3}, r"A conditioner needs a name, as in \{name: [\w-]+\}"),
        ("conditioners", {"name": "words", "width": 7}, "even number"),
        ("splitters", {"name": "grouped"}, "'grouped' needs a value for: stages"),
        ("splitters", {"name": "parallel", "num_codebooks": 3}, "splitter.num_codebooks follows from the other parts"),
        ("denoisers", {"name": "unet", "channels": 3}, "denoiser.channels follows from the other parts"),
        ("codecs", {"name": "chunked"}, "'chunked' needs a value for: codec"),
        ("codecs", {"name": "chunked", "codec": 3}, r"codec\.codec = 3"),
        (
            "codecs",
            {"name": "chunked", "codec": {"name": "dac", "modle": "x"}},
            r"'dac' has no option 'modle'.*'model'",
        ),
    ],
)
def test_options_that_do_not_fit_are_explained(kind: str, spec: dict[str, Any], message: str) -> None:
    derived: dict[str, Any] = {"num_codebooks": 4} if kind == "splitters" else {}
    with pytest.raises(ValueError, match=message):
        config.build(kind, spec, **derived)


def test_a_choice_that_there_is_not_is_explained(codec_spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"codec\.per = 'song'.*'codebook' or 'channel'"):
        config.build("codecs", {"name": "normalized", "codec": codec_spec, "per": "song"})


def test_a_nested_name_that_is_unknown_is_explained() -> None:
    with pytest.raises(registry.UnknownPart, match=r"No codec named 'dacc'.*Did you mean 'dac'"):
        config.build("codecs", {"name": "chunked", "codec": "dacc"})


def test_numbers_become_strings_where_strings_are_asked_for() -> None:
    assert config.build("splitters", {"name": "grouped", "stages": 0}, num_codebooks=1).arguments["stages"] == "0"


def test_a_setting_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Invalid setting 'output=a\\udcff': it is not UTF-8"):
        config.override({}, config.TrainConfig, ["output=a\udcff"])


def test_values_are_read_by_the_type_of_their_field() -> None:
    recipe = over(
        "train.max_train_steps=5", "train.learning_rate=1e-3", "snap_context=false", "prompts=[a, b]", "data.audio=x/y"
    )
    assert (recipe.train.max_train_steps, recipe.train.learning_rate, recipe.train.warmup_steps) == (5, 1e-3, 3)
    assert recipe.snap_context is False
    assert recipe.prompts == ["a", "b"]
    assert recipe.data.audio == Path("x/y")
    assert over("data.audio=null").data.audio is None
    assert over("splitter.stages=0").splitter == {"name": "grouped", "stages": "0"}


def test_naming_a_part_drops_the_file_s_options_of_it() -> None:
    assert over("codec.name=starter").codec == {"name": "starter"}
    assert over("codec=starter").codec == {"name": "starter"}
    assert over("codec.model=x", "codec.name=dac").codec == {"name": "dac", "model": "x"}
    assert over("codec.model=x").codec == {"name": "dac", "model": "x", "revision": "main"}
    assert over("conditioner=null").conditioner is None
    assert DATA["codec"]["model"] == "somewhere"


@pytest.mark.parametrize("assignment", ["denoiser.name=dit", "denoiser=dit"])
def test_naming_a_part_drops_what_stages_put_over_it(assignment: str) -> None:
    data = {
        "denoiser": {"name": "unet"},
        "stages": {"secondary": {"denoiser": {"width": 224}, "train": {"max_train_steps": 3}}},
    }

    class Staged(Recipe):
        denoiser: config.DenoiserSpec

    found = config.override(data, Staged, [assignment, "stages.primary.denoiser.width=8"])
    assert found["denoiser"] == {"name": "dit"}
    assert found["stages"] == {"secondary": {"train": {"max_train_steps": 3}}, "primary": {"denoiser": {"width": 8}}}
    named = {"stages": {"secondary": {"denoiser": {"name": "unet", "width": 4}}}}
    with pytest.warns(
        UserWarning, match=r"does not apply to stages\.secondary, whose denoiser .* is another part, 'unet'"
    ):
        assert config.override({**data, **named}, Staged, [assignment])["stages"] == named["stages"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.override({**data, **named}, Staged, [assignment, "stages.secondary." + assignment])


def test_a_part_may_be_given_whole() -> None:
    spec = {"name": "pca", "dims": 4, "codec": {"name": "dac"}}
    found = config.override(DATA, Recipe, ["codec={name: pca, dims: 4, codec: {name: dac}}"])
    assert found["codec"] == spec
    found = config.override(
        DATA, Recipe, ["codec.name=chunked", "codec.codec={name: pca, dims: 4, codec: {name: dac}}"]
    )
    assert found["codec"] == {"name": "chunked", "codec": spec}


def test_stages_select_the_grouped_pattern() -> None:
    assert over("splitter.stages=0|1-3").splitter == {"name": "grouped", "stages": "0|1-3"}
    assert over("splitter.name=grouped", "splitter.stages=0|1-3").splitter == {"name": "grouped", "stages": "0|1-3"}


def test_options_reach_parts_inside_parts() -> None:
    recipe = over("codec.name=normalized", "codec.codec=dac", "codec.codec.model=x", "codec.per=channel")
    assert recipe.codec == {"name": "normalized", "codec": {"name": "dac", "model": "x"}, "per": "channel"}


def test_a_stage_has_options_of_its_own() -> None:
    own = over("stages.secondary.train.max_train_steps=5", "stages.secondary.denoiser.width=64").stages["secondary"]
    assert DATA["train"] == {"max_train_steps": 10, "warmup_steps": 3}
    train = over().train.merge(own.train)
    assert (train.max_train_steps, train.warmup_steps) == (5, 3)
    assert own.denoiser == {"width": 64}


STAGED: dict[str, Any] = {
    "denoiser": {"name": "unet", "width": 64},
    "train": {"max_train_steps": 1400},
    "sampling": {"guidance_scale": 1.25},
    "stages": {
        "primary": {"denoiser": {"name": "dit", "width": 16}},
        "secondary": {
            "denoiser": {"width": 224, "embedding": 64},
            "train": {"max_train_steps": 1500, "loss": "l2"},
            "sampling": {"guidance_scale": {"text": 2, "bpm": 1}, "num_inference_steps": 9},
        },
        "tertiary": None,
    },
}


def staged(*assignments: str) -> dict[str, Any]:
    return config.override(STAGED, ExperimentConfig, assignments)


def test_a_value_on_the_command_line_holds_for_every_stage() -> None:
    said = (
        r"denoiser\.width=8 does not apply to stages\.primary, .* another part, 'dit'\. Set stages\.primary\.denoiser\."
    )
    with pytest.warns(UserWarning, match=said):
        found = staged("train.max_train_steps=10", "denoiser.width=8")
    assert found["train"] == {"max_train_steps": 10}
    assert found["denoiser"] == {"name": "unet", "width": 8}
    secondary = found["stages"]["secondary"]
    assert secondary["train"] == {"max_train_steps": 10, "loss": "l2"}
    assert secondary["denoiser"] == {"width": 8, "embedding": 64}
    assert found["stages"]["primary"] == STAGED["stages"]["primary"]  # its own denoiser is another part
    assert found["stages"]["tertiary"] is None
    assert STAGED["stages"]["secondary"]["train"]["max_train_steps"] == 1500


@pytest.mark.parametrize("order", [1, -1])
def test_unless_the_command_line_names_the_stage(order: int) -> None:
    found = staged(*["train.max_train_steps=10", "stages.secondary.train.max_train_steps=5"][::order])
    assert found["train"]["max_train_steps"] == 10
    assert found["stages"]["secondary"]["train"] == {"max_train_steps": 5, "loss": "l2"}


def test_an_item_of_a_mapping_holds_for_every_stage() -> None:
    found = staged("sampling.guidance_scale.text=3")
    assert found["sampling"]["guidance_scale"] == {"text": 3.0}
    assert found["stages"]["secondary"]["sampling"]["guidance_scale"] == {"text": 3.0, "bpm": 1}
    found = staged("sampling.guidance_scale=4")
    assert found["sampling"]["guidance_scale"] == found["stages"]["secondary"]["sampling"]["guidance_scale"] == 4.0


@pytest.mark.parametrize("order", [1, -1])
def test_outer_keys_are_set_before_inner_ones(order: int) -> None:
    assignments = ["codec.name=chunked", "codec.codec.name=dac", "codec.codec.model=x", "codec.frames=9"][::order]
    inner = {"name": "dac", "model": "x"}
    assert over(*assignments).codec == {"name": "chunked", "codec": inner, "frames": 9}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "train.max_train_stpes=5",
            r"Unknown setting 'train\.max_train_stpes'\. Available: max_train_steps, .*Did you mean 'max_train_steps'",
        ),
        ("trian.loss=l2", r"Unknown setting 'trian\.loss'.*Did you mean 'train'"),
        ("conditioner={name: words, widht: 3}", r"'words' has no option 'widht'.*Did you mean 'width'"),
        ("train.max_train_steps", r"Invalid setting 'train\.max_train_steps': write KEY=VALUE"),
        ("train.max_train_steps=many", r"train\.max_train_steps = 'many': expected a whole number"),
        ("train=5", r"'train' is a group of settings: write train\.max_train_steps="),
        ("mixed_precision.x=1", "'mixed_precision' in 'mixed_precision.x' is a single value"),
        ("prompts=[a", r"prompts=\[a is not valid YAML"),
        ("conditioner.widht=3", r"The conditioner 'words' has no option 'widht'.*Did you mean 'width'"),
        ("conditioner.width=wide", r"conditioner\.width = 'wide'"),
        ("splitter.num_codebooks=3", "follows from the other parts"),
        ("splitter.stage=0|1-3", r"has no option 'stage'.* For groups of levels: splitter\.stages=\"0\|1-8\"\."),
        ("stages.secondary.trian.loss=l2", "Unknown setting 'stages.secondary.trian.loss'.*Did you mean 'train'"),
        ("=5", "Unknown setting ''"),
        ("train.steps=5", "Unknown setting 'train.steps'.*Did you mean 'max_train_steps'"),
        ("train.lr=5", "Unknown setting 'train.lr'.*Did you mean 'learning_rate'"),
        ("lr=5", "Unknown setting 'lr'.*Did you mean 'train.learning_rate'"),
        ("audio=music", "Unknown setting 'audio'.*Did you mean 'data.audio'"),
        ("train.save_steps=5", "Unknown setting 'train.save_steps'.*Did you mean 'checkpointing_steps'"),
    ],
)
def test_overrides_that_do_not_fit_are_explained(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        over(assignment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codec: [", "is not valid YAML"),
        ("- codec", "holds a list; a configuration is a mapping"),
        ("splitter: {name: parallel}", "codec is missing"),
        ("{codec: {name: dac}, splitter: {name: parallel}, trian: {}}", "Unknown setting 'trian'.*'train'"),
        (
            "{codec: {name: dac}, splitter: {name: parallel}, train: {max_train_stpes: 3}}",
            "Unknown setting 'train.max_train_stpes'.* mean 'max_train_steps'",
        ),
        (
            "{codec: {name: dac}, splitter: {name: parallel}, stages: {primary: {trian: {}}}}",
            "Unknown setting 'stages.primary.trian'. Available: denoiser, .*'train'",
        ),
        (
            "{codec: {name: dac}, splitter: {name: parallel}, train: {max_train_steps: 0}}",
            "train.max_train_steps = 0: expected more than 0",
        ),
        ("{codec: {name: dac}, splitter: {name: parallel}, mixed_precision: fp64}", "mixed_precision = 'fp64'"),
    ],
)
def test_files_that_do_not_fit_are_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)recipe.yaml.*{message}"):
        config.load_config(Recipe, file)


def test_a_file_and_overrides_make_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("codec: {name: dac}\nsplitter: {name: grouped, stages: 0}\ntrain: {max_train_steps: 7}\n")
    recipe = config.load_config(Recipe, file, ["train.warmup_steps=2"])
    assert (recipe.train.max_train_steps, recipe.train.warmup_steps) == (7, 2)
    assert recipe.splitter == {"name": "grouped", "stages": 0}


def test_tensors_are_state_and_not_options(dac: Codec) -> None:
    codec = NormalizedCodec(dac)
    codec.mean.fill_(3.0)
    assert not any(isinstance(value, torch.Tensor) for value in codec.arguments.values())
    assert set(config.to_config("codecs", codec)) == {"name", "codec", "per"}


def test_options_chosen_on_a_command_line_are_read_by_their_types():
    starter = {"name": "starter", "griffin_lim_iterations": 4}
    assert config.parse_options("codecs", "starter", ["griffin_lim_iterations=4"]) == starter
    assert (
        config.parse_options("embedders", "codec", ["codec=starter", "codec.griffin_lim_iterations=4"])["codec"]
        == starter
    )
    with pytest.raises(config.ConfigError, match=r"The embedder 'logmel' has no option 'rate'\. It has: sample_rate"):
        config.parse_options("embedders", "logmel", ["rate=3"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Configuration file '.*gone\.yaml' does not exist"):
        config.load_config(Recipe, tmp_path / "gone.yaml")


class Everything(BaseModel, extra="forbid"):
    number: float | dict[str, float] = 1.0
    count: PositiveInt = 1
    name: Literal["x", "y"] = "x"
    values: list[FiniteFloat] = []
    pair: tuple[int, int] = (1, 2)
    flag: bool = True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"number": "q"}, ["number = 'q': expected a number or a mapping, as in {name: value}"]),
        ({"count": -1}, ["count = -1: expected more than 0"]),
        ({"name": 3}, ["name = 3: expected 'x' or 'y'"]),
        ({"values": [1, math.nan]}, ["values.1 = nan: expected a finite number"]),
        ({"pair": (1,)}, ["pair.1 is missing: add it"]),
        ({"flag": "maybe", "other": 1}, ["flag = 'maybe': expected true or false", "other is not a known name"]),
    ],
)
def test_an_issue_says_what_is_expected(values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Everything(**values)
    assert [str(issue) for issue in validation_issues(caught.value)] == said
