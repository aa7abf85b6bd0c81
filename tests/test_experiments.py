"""What a model is and how it is trained is said once, and the model follows from it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file, save_file
from small import UNET

from codecdiff import Pipeline, registry
from codecdiff.conditioners.cached import CachedConditioner
from codecdiff.conditioners.joined import JoinedConditioner
from codecdiff.config.schema import ExperimentConfig
from codecdiff.data.audio import read_audio
from codecdiff.diffusion.noise_schedule import prediction_type_of
from codecdiff.errors import ConfigError, UserError
from codecdiff.pipeline.checkpoint import read_config
from codecdiff.pipeline.model_card import render_model_card
from codecdiff.pipeline.vocabulary import spread_captions
from codecdiff.training.accelerator import log_sample, new_accelerator
from codecdiff.training.experiment import (
    call_run_end_hooks,
    new_pipeline,
    new_stage,
    new_trainer,
    open_data,
    prepare_prompts,
)
from codecdiff.training.resuming import check_states
from codecdiff.training.warm_start import check_warm_starts, warm_start_folder

PATTERNS = Path(__file__).parent.parent / "docs" / "patterns.md"


@pytest.fixture
def experiment(codec_spec: dict[str, Any], music: Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "codec": codec_spec,
            "splitter": {"name": "coarse-first"},
            "conditioner": {"name": "words"},
            "denoiser": UNET,
            "snap_context": False,
            "data": {"audio": music},
            "train": {"max_train_steps": 4, "warmup_steps": 0, "train_batch_size": 2, "crop_seconds": 0.1},
            "diffusion": {"num_train_timesteps": 50},
            "sampling": {"num_inference_steps": 5},
            "stages": {
                "secondary": {
                    "denoiser": {"width": 8},
                    "train": {"max_train_steps": 6},
                    "diffusion": {"prediction_type": "flow", "noise_color": 0.5},
                    "sampling": {"scheduler": "heun"},
                }
            },
        }
    )


def test_a_stage_has_its_own_settings_over_those_of_all(experiment: ExperimentConfig) -> None:
    pipeline = new_pipeline(experiment, skeleton=True)
    (primary, first), (secondary, second) = (new_stage(experiment, pipeline, i, "meta") for i in (0, 1))
    assert (first.max_train_steps, second.max_train_steps) == (4, 6)
    assert (second.warmup_steps, second.train_batch_size) == (0, 2)
    assert (primary.denoiser.arguments["width"], secondary.denoiser.arguments["width"]) == (16, 8)
    assert (prediction_type_of(primary.train_scheduler), prediction_type_of(secondary.train_scheduler)) == (
        "v_prediction",
        "flow",
    )
    assert (primary.noise_color, secondary.noise_color) == (0, 0.5)
    assert (secondary.sampling.scheduler, secondary.sampling.num_inference_steps) == ("heun", 5)
    assert all(parameter.is_meta for parameter in secondary.denoiser.parameters())


def test_weights_follow_from_the_seed_and_facts_are_kept(experiment: ExperimentConfig) -> None:
    pipeline = new_pipeline(experiment)
    stages = [new_stage(experiment, pipeline, 0, metadata={"command": "made by hand"})[0] for _ in range(2)]
    other = new_stage(experiment.model_copy(update={"seed": 1}), pipeline, 0)[0]
    weights = [torch.cat([p.flatten() for p in stage.denoiser.parameters()]) for stage in (*stages, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert stages[0].facts["command"] == "made by hand"
    assert stages[0].facts["learning_rate"] == experiment.train.learning_rate


def test_statistics_are_those_of_the_model_folder_once_there_is_one(
    experiment: ExperimentConfig, tmp_path: Path
) -> None:
    pipeline = new_pipeline(experiment)
    home, model = tmp_path / "store", tmp_path / "model"
    store = open_data(experiment, pipeline, home, model)
    assert (len(store), pipeline.data["tracks"]) == (6, 6)
    assert read_config(model)["snap_context"] is False
    codec: Any = pipeline.codec
    mean = codec.mean.clone()
    assert mean.abs().max() > 0
    with torch.no_grad():
        codec.mean.zero_()
    open_data(experiment, pipeline, home, model)
    assert torch.equal(codec.mean, mean)
    other = new_pipeline(experiment.model_copy(update={"snap_context": True}))
    with pytest.raises(ValueError, match="snap_context is false there, true here"):
        open_data(experiment, other, home, model)


def fail_on_audio(codec: Any, monkeypatch: pytest.MonkeyPatch, method: str, result: Any) -> None:
    """Let a method of a codec return something else, or raise it."""

    def wrong(tensor: torch.Tensor) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(codec, method, wrong)


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [
        ("decode", RuntimeError("out of luck"), "raised RuntimeError: out of luck"),
        ("decode", torch.zeros(3), r"decode returns \(3,\), not \(1, 1, t\) = \(b, ch, t\)"),
        ("encode", torch.zeros(1, 4, 3, dtype=torch.int32), "encode returns torch.int32 codes: return int64"),
        ("encode", None, "encode returned None, not a Tensor"),
    ],
)
def test_a_codec_that_does_not_work_is_refused_before_anything_is_encoded(
    experiment: ExperimentConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    result: Any,
    message: str,
) -> None:
    pipeline, store, model = new_pipeline(experiment), tmp_path / "store", tmp_path / "model"
    codec: Any = pipeline.codec
    fail_on_audio(codec.codec, monkeypatch, method, result)
    text = rf"The codec '\S+' does not work: {message}.* Correct it before training: `codecdiff check \S+`"
    with pytest.raises(ConfigError, match=text):
        open_data(experiment, pipeline, store, model)
    assert not store.exists()
    monkeypatch.undo()
    open_data(experiment, new_pipeline(experiment), store, model)
    fail_on_audio(codec.codec, monkeypatch, method, result)
    if method == "decode":
        with pytest.raises(ConfigError, match=text):
            open_data(experiment, pipeline, store, model)
    else:  # a store holds the codes
        open_data(experiment, pipeline, store, model)


def test_fine_levels_before_coarser_ones_are_noted(experiment: ExperimentConfig) -> None:
    splitter = {"name": "grouped", "stages": "0|2-3|1"}
    with pytest.warns(UserWarning, match=r"stages='0\|2-3\|1' generates fine levels before coarser ones"):
        new_pipeline(experiment.model_copy(update={"splitter": splitter}), skeleton=True)


def test_a_model_whose_codec_has_changed_since_is_loaded_with_a_warning(
    experiment: ExperimentConfig, dac_folder: Path, tmp_path: Path
) -> None:
    own, model = shutil.copytree(dac_folder, tmp_path / "dac"), tmp_path / "model"
    experiment = experiment.model_copy(update={"codec": {"name": "dac", "model": str(own)}})
    open_data(experiment, new_pipeline(experiment), tmp_path / "store", model)
    with warnings.catch_warnings(action="error"):
        Pipeline.from_pretrained(model)
    weights = load_file(own / "model.safetensors")
    save_file({name: -3 * tensor for name, tensor in weights.items()}, own / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"other weights of the codec DAC \(\w{6}\.\.\., now \w{6}"):
        Pipeline.from_pretrained(model)


def test_what_a_stage_cannot_start_from_is_said_before_the_first_is_trained(
    experiment: ExperimentConfig, tmp_path: Path
) -> None:
    def check(primary: str | None, secondary: str | None, kind: str = "unet") -> None:
        asked = {"primary": {"start_from": primary}, "secondary": {"start_from": secondary, "denoiser": {"name": kind}}}
        if kind == "unet":
            del asked["secondary"]["denoiser"]
        spec = ExperimentConfig.model_validate({**experiment.model_dump(exclude_unset=True), "stages": asked})
        pipeline = new_pipeline(spec, skeleton=True)
        check_warm_starts(spec, pipeline, [new_stage(spec, pipeline, i, "meta")[0] for i in (0, 1)], tmp_path)
        assert warm_start_folder(spec, pipeline, "secondary", tmp_path) == (tmp_path / "primary" if secondary else None)

    check(None, None)
    check(None, "primary")
    with pytest.raises(FileNotFoundError, match="secondary does not hold a trained stage"):
        check("secondary", "primary")
    with pytest.raises(ValueError, match="a stage cannot start from itself"):
        check("primary", None)
    with pytest.raises(ValueError, match="secondary cannot start from primary: their denoisers differ"):
        check(None, "primary", kind="dit")
    with pytest.raises(FileNotFoundError, match="elsewhere does not hold a trained stage"):
        check(None, "runs/elsewhere")
    (tmp_path / "secondary").mkdir()
    (tmp_path / "secondary" / "stage.json").touch()  # in training, so it goes on
    check(None, "primary", kind="dit")


def test_prompts_are_prepared_and_fields_that_nothing_has_are_reported(
    experiment: ExperimentConfig, tmp_path: Path
) -> None:
    words = {"name": "cached", "folder": str(tmp_path / "prompts"), "conditioner": {"name": "words"}}
    numbers = {"name": "numeric", "fields": {"seconds": {"low": 0, "high": 9}, "tempo": {"low": 40, "high": 220}}}
    changed = experiment.model_copy(update={"conditioner": {"name": "joined", "conditioners": [words, numbers]}})
    pipeline = new_pipeline(changed)
    store = open_data(changed, pipeline, tmp_path / "store", tmp_path / "model")
    assert read_config(tmp_path / "model")["conditioner"]["conditioners"][0]["name"] == "words"
    lines: list[str] = []
    prepare_prompts(pipeline, store, ["a waltz"], report=lines.append)
    assert lines == [
        "No track has tempo. The model does not learn these fields of prompts; to teach them, add them to "
        "metadata.jsonl."
    ]
    assert isinstance(pipeline.conditioner, JoinedConditioner)
    cached = pipeline.conditioner.parts[0]
    assert isinstance(cached, CachedConditioner)
    assert all(cached.cache.file(cached.key(prompt)).exists() for prompt in ("a waltz", "", "tone 3"))
    assert len(list(cached.folder.rglob("*.safetensors"))) == len(store) + 2


@pytest.mark.parametrize(
    ("captions", "sampled"),
    [
        ([[], []], [""]),
        ([["a"], [""], ["a"], ["b", "c"]], ["a", "b"]),
        ([[letter] for letter in "abcdefgh"], ["a", "c", "e", "g"]),
        ([[letter] for letter in "abcde"], ["a", "b", "c", "d"]),
    ],
)
def test_captions_of_the_music_are_sampled_unless_prompts_are_named(captions: list[list[str]], sampled: list[str]):
    class Rows(list[Any]):
        def captions(self, i: int) -> list[str]:
            return self[i]

    store: Any = Rows(captions)
    reads_text: Any = SimpleNamespace(fields=("text",))
    assert spread_captions(store, reads_text) == sampled
    assert spread_captions(store, None) == [""]


def test_functions_are_called_when_a_run_ends_and_one_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def fail(folder: Path) -> None:
        raise ValueError("no report")

    functions = {"broken": fail, "report": calls.append}
    entry = SimpleNamespace(distribution="my-reports", entry=SimpleNamespace(module_name=__name__, object_name="fail"))
    hooks = {name: SimpleNamespace(load=lambda f=f: f, **vars(entry)) for name, f in functions.items()}
    monkeypatch.setattr(registry, "entries", lambda group: hooks if group == "run_end" else {})
    with pytest.warns(UserWarning, match=r"'broken' of my-reports \(\S*test_exp\w+\.py:\d+\) failed: ValueError: no"):
        call_run_end_hooks(tmp_path)
    assert calls == [tmp_path]


def test_guidance_of_a_condition_that_is_not_there_is_refused_before_training(experiment: ExperimentConfig) -> None:
    wrong = experiment.model_copy(
        update={"sampling": experiment.sampling.model_copy(update={"guidance_scale": {"key": 2.0}})}
    )
    with pytest.raises(ValueError, match="Unknown condition 'key' in guidance_scale"):
        new_stage(wrong, new_pipeline(wrong, skeleton=True), 0, "meta")


def test_the_pattern_of_the_docs_starts_a_stage_from_one_that_it_shares_weights_with() -> None:
    written = yaml.safe_load(PATTERNS.read_text(encoding="utf-8").partition("```yaml")[2].partition("```")[0])
    parts: Any = {"codec": {"name": "starter"}, "conditioner": {"name": "words"}}
    experiment = ExperimentConfig.model_validate({**parts, **written})
    pipeline = new_pipeline(experiment, skeleton=True)
    there, _, here = [new_stage(experiment, pipeline, i, "meta")[0].denoiser.state_dict() for i in range(3)]
    alike = sum(t.numel() for name, t in here.items() if name in there and there[name].shape == t.shape)
    assert alike > 0.9 * sum(t.numel() for t in here.values())


@pytest.mark.parametrize("name", ["type", "keys", "training", "bpm.mean"])
def test_a_condition_that_no_network_could_keep_is_refused_in_a_sentence(
    experiment: ExperimentConfig, name: str
) -> None:
    numbers = {"name": "numeric", "fields": {name: {"classes": ["loop", "song"]}}}
    pipeline = new_pipeline(experiment.model_copy(update={"conditioner": numbers}))
    with pytest.raises(ValueError, match=f"Invalid name '{name}' of a condition.* column of the metadata"):
        new_stage(experiment, pipeline, 0, "meta")


def test_a_run_is_resumed_as_what_it_is_or_says_what_has_changed(
    experiment: ExperimentConfig, music: Path, tmp_path: Path
) -> None:
    def stages(**changes: Any) -> tuple[ExperimentConfig, list[Any]]:
        changed = experiment.model_copy(update=changes)
        pipeline = new_pipeline(changed, skeleton=True)
        return changed, [new_stage(changed, pipeline, i, "meta")[0] for i in (0, 1)]

    pipeline = new_pipeline(experiment)
    store = open_data(experiment, pipeline, tmp_path / "store", tmp_path / "model")
    new_trainer(experiment, pipeline, 1, tmp_path / "model").save(tmp_path / "model")
    check_states(*stages(), tmp_path / "model")
    half, twice, drawn = {"validation_fraction": 0.5}, {"gradient_accumulation_steps": 2}, {"noise_device": "device"}
    for change, line in (
        ({"seed": 1}, r"seed changes from 0 to 1; split_seed changes from 0 to 1"),
        ({"data": experiment.data.model_copy(update=half)}, r"validation_fraction changes from 0\.1 to 0\.5"),
        ({"train": experiment.train.model_copy(update=twice)}, r"gradient_accumulation_steps changes from 1 to 2"),
        ({"train": experiment.train.model_copy(update=drawn)}, r'noise_device changes from "cpu" to "device"'),
    ):
        with pytest.raises(UserError, match=rf"secondary was trained with other settings: {line}.*--allow-changes"):
            check_states(*stages(**change), tmp_path / "model")
    allowed = experiment.model_copy(update={"seed": 1, "allow_changes": True})
    trainer = new_trainer(allowed, pipeline, 1, tmp_path / "model")
    assert trainer.stage.facts["changes"] == [
        f"from step 0 on, {key} changes from 0 to 1" for key in ("seed", "split_seed")
    ]
    trainer.save(tmp_path / "model")
    again = new_trainer(experiment.model_copy(update={"seed": 1}), pipeline, 1, tmp_path / "model")
    assert again.stage.facts["changes"] == trainer.stage.facts["changes"]
    assert "from step 0 on, seed changes from 0 to 1" in render_model_card(tmp_path / "model")

    longer = experiment.train.model_copy(update={"loss": "l2", "max_train_steps": 9_999})
    options: Any = {"train": longer, "seed": 1}
    resumed = new_trainer(experiment.model_copy(update=options), pipeline, 1, tmp_path / "model").stage.facts
    assert resumed["changes"][2:] == ['from step 0 on, loss changes from "l1" to "l2"']
    trainer.step_count = trainer.config.max_train_steps  # nothing is left to train: the record stays
    trainer.save(tmp_path / "model")
    options = {"train": experiment.train.model_copy(update={"loss": "l2"}), "seed": 2, "allow_changes": True}
    done = new_trainer(experiment.model_copy(update=options), pipeline, 1, tmp_path / "model").stage.facts
    assert (done["loss"], done["seed"], len(done["changes"])) == ("l1", 1, 2)

    other = shutil.copytree(music, tmp_path / "music")
    (other / "0.wav").unlink()
    changed = experiment.model_copy(update={"data": experiment.data.model_copy(update={"audio": other})})
    with pytest.raises(UserError, match=r"was trained on other music.*: the music is [0-9a-f]{8}, not [0-9a-f]{8} of"):
        open_data(changed, pipeline, tmp_path / "other", tmp_path / "model")
    allowed = changed.model_copy(update={"allow_changes": True})
    assert len(open_data(allowed, pipeline, tmp_path / "other", tmp_path / "model")) == len(store) - 1
    (change,) = new_trainer(allowed, pipeline, 0, tmp_path / "model").stage.facts["changes"]
    assert change.startswith("the music is ")


def test_settings_of_accelerate_that_disagree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(UserError, match=r"mixed_precision=no, but accelerate is set to bf16"):
        new_accelerator(tmp_path, "no")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match=r"gradient_accumulation_steps=2, but accelerate is set to 4"):
        new_accelerator(tmp_path, "no", gradient_accumulation_steps=2, report_to=[])
    accelerator = new_accelerator(tmp_path, "no", gradient_accumulation_steps=4, report_to=[])
    assert accelerator.gradient_accumulation_steps == 1  # its backward divides by nothing


class Tracker(GeneralTracker):
    """What a run is reported to."""

    name, requires_logging_directory = "tracker", False
    rows: ClassVar[list[Any]] = []
    main_process_only = True
    tracker = None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the configuration."""
        self.rows.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Keep a row."""
        self.rows.append((step, values))


def test_a_run_is_reported_to_any_tracker(tmp_path: Path) -> None:
    accelerator = new_accelerator(tmp_path, report_to=Tracker(), config={"seed": 3, "a": {"b": [1]}, "c": None})
    accelerator.log({"primary/loss": 0.5}, step=2)
    assert Tracker.rows == [{"seed": 3, "a.b": "[1]", "c": "null"}, (2, {"primary/loss": 0.5})]


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecdiff.training.accelerator.get_available_trackers", lambda: ["wandb"])
    for unknown in ("comet_ml", ["wandb", "tensorbord"]):
        with pytest.raises(
            UserError, match=r"No tracker '(comet_ml|tensorbord)' for report_to. Installed: none, all, wandb"
        ):
            new_accelerator(tmp_path, report_to=unknown)
    assert not new_accelerator(tmp_path, report_to="tensorboard").trackers
    assert not new_accelerator(tmp_path, report_to="none").trackers


def test_a_sample_is_written_and_logged_with_the_trackers_that_take_audio(tmp_path: Path) -> None:
    logged: list[Any] = []

    def add_audio(name: str, audio: torch.Tensor, step: int, rate: int) -> None:
        logged.append((name, tuple(audio.shape), step, rate))

    trackers = [SimpleNamespace(name="tensorboard", writer=SimpleNamespace(add_audio=add_audio))]
    accelerator: Any = SimpleNamespace(trackers=[*trackers, SimpleNamespace(name="mlflow")])
    output: Any = SimpleNamespace(audios=torch.zeros(1, 2, 800), sampling_rate=8000)
    log_sample(accelerator, "primary/sample", output, tmp_path / "a.wav", 4)
    assert logged == [("primary/sample", (1, 800), 4, 8000)]
    assert read_audio(tmp_path / "a.wav", 8000, 2).shape == (2, 800)
