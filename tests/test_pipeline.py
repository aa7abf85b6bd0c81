"""A whole model: generation, known codes, and the folder it lives in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import UNET, rewrite, stage_as_version_0_1

import codecdiff
from codecdiff import Codec, Pipeline, config
from codecdiff.codecs import CodecWrapper, NormalizedCodec
from codecdiff.config import DataConfig, SamplingConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.diffusion.noise_schedule import training_scheduler
from codecdiff.errors import InvalidValue, UserError
from codecdiff.pipeline.checkpoint import MODEL_FILE, load_codec_state
from codecdiff.pipeline.editing import EditMask, levels_mask
from codecdiff.pipeline.generation import GenerationConfig
from codecdiff.pipeline.stage import Stage, stage_shapes
from codecdiff.testing import check_conditioner, check_denoiser
from codecdiff.training.batch import StageData
from codecdiff.training.trainer import StageTrainer

Make = Callable[..., Pipeline]
PATTERNS: list[Any] = [
    "coarse-first",
    {"name": "grouped", "stages": "0|1-2|3"},
    "parallel",
    {"name": "delayed", "delay": 2},
    "flattened",
]


def codes_of(pipeline: Pipeline, *prompts: str, **options: Any) -> torch.Tensor:
    return torch.cat(list(pipeline.generate_codes(prompts, 20, **options)))


def test_a_context_can_be_told_the_shapes_of_the_stages_to_come(
    make_pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, seen = make_pipeline({"name": "grouped", "stages": "0|1-2|3"}), []
    context = pipeline.splitter.context

    def watched(stages: Any, i: int) -> torch.Tensor | None:
        seen.append([tuple(stage.shape) for stage in stages])
        return context(stages, i)

    monkeypatch.setattr(pipeline.splitter, "context", watched)
    codes_of(pipeline, "a tone", "")
    shapes = [(2, *shape) for shape in stage_shapes(pipeline.codec, pipeline.splitter, 20)]
    assert seen == [shapes] * 3


@pytest.mark.parametrize(
    "splitter",
    [pytest.param(each, marks=pytest.mark.integration if each in PATTERNS[1:3] else ()) for each in PATTERNS],
    ids=str,
)
def test_every_pattern_trains_saves_loads_and_generates(
    make_pipeline: Make, store: CodeStore, splitter: Any, tmp_path: Path
) -> None:
    pipeline = make_pipeline(splitter)
    names, stages = pipeline.stage_names, pipeline.stages
    pipeline.stages = []
    settings = {"max_train_steps": 2, "warmup_steps": 0, "learning_rate": 1e-3}
    train = TrainConfig(train_batch_size=2, crop_seconds=0.1, **settings)
    for i in range(len(names)):
        denoiser = pipeline.new_denoiser(i, UNET)
        sampling = SamplingConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
        stage = Stage(names[i], denoiser, training_scheduler(num_train_timesteps=100), sampling)
        trainer = StageTrainer(stage, train)
        data = StageData(store, pipeline, i, train, DataConfig(), num_validation_crops=16)
        assert all(trainer.step(data.step(step)) > 0 for step in range(2))
        pipeline.stages.append(trainer.ema_stage())
        trainer.save(tmp_path)
    pipeline.save_pretrained(tmp_path)
    assert len(stages) == len(names) == len(stage_shapes(pipeline.codec, pipeline.splitter, 7))
    audio = pipeline(["a tone", ""], audio_length_in_s=0.1).audios
    assert audio.shape == (2, 1, 800)
    assert audio.isfinite().all()
    assert audio.abs().max() <= 1
    assert torch.equal(Pipeline.from_pretrained(tmp_path)(["a tone", ""], audio_length_in_s=0.1).audios, audio)


def test_a_model_comes_back_from_its_folder(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline(snap_context=False, data={"tracks": 6})
    pipeline.stages[0].facts = {"steps": 12}
    pipeline.save_pretrained(tmp_path / "deep" / "model")
    again = codecdiff.load(tmp_path / "deep" / "model")
    assert again.to_config() == pipeline.to_config()
    assert [stage.to_config() for stage in again.stages] == [stage.to_config() for stage in pipeline.stages]
    assert torch.equal(again("drums", audio_length_in_s=0.2).audios, pipeline("drums", audio_length_in_s=0.2).audios)
    assert not any(p.requires_grad for stage in again.stages for p in stage.denoiser.parameters())
    pipeline.save_pretrained(tmp_path / "deep" / "model")  # the same model may be saved again


def test_a_model_without_prompts(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline(conditioner=None)
    pipeline.save_pretrained(tmp_path)
    audio = Pipeline.from_pretrained(tmp_path)("", audio_length_in_s=0.1).audios
    assert torch.equal(audio, pipeline("drums", audio_length_in_s=0.1, guidance_scale=7).audios)


def test_a_folder_from_before_an_option_existed_holds_the_same_model(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    spec = json.loads((tmp_path / MODEL_FILE).read_text())
    del spec["codec"]["codec"]["backend"]
    rewrite(tmp_path / MODEL_FILE, spec)
    before = (tmp_path / MODEL_FILE).read_text()
    make_pipeline().save_pretrained(tmp_path)
    assert (tmp_path / MODEL_FILE).read_text() == before


def as_version_0_1(folder: Path) -> None:
    """Rewrite the descriptions of a model folder as version 0.1 wrote them, at first without newer keys."""
    file = folder / MODEL_FILE
    spec = json.loads(file.read_text())
    del spec["files"], spec["sha256"]
    parts = [spec["codec"], *(spec["conditioner"] or {}).get("conditioners", [])]
    for part, name in (
        (part, {"normalized": "standardized", "numeric": "numbers"}.get(part["name"])) for part in parts
    ):
        part["name"] = name or part["name"]
    target = {"continuous": "projections"}.get(spec["target"], spec["target"])
    file.write_text(json.dumps({**spec, "format": 1, "target": target, "data": {"licences": ["CC0"]}}))
    for file in folder.glob("*/stage.json"):
        stage_as_version_0_1(file)


@pytest.mark.filterwarnings("ignore:No layer uses")
def test_a_folder_of_version_0_1_holds_the_same_model(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline(
        conditioner={"name": "joined", "conditioners": ["words", NUMBERS]},
        target="continuous",
        data={"licenses": ["CC0"]},
    )
    for stage in pipeline.stages:
        stage.facts = {"steps": 8, "warmup_steps": 5, "snr_gamma": None, "train_batch_size": 4}
    pipeline.save_pretrained(tmp_path)
    as_version_0_1(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert again.to_config() == pipeline.to_config()
    assert [stage.to_config() for stage in again.stages] == [stage.to_config() for stage in pipeline.stages]
    assert torch.equal(again("a tone", audio_length_in_s=0.1).audios, pipeline("a tone", audio_length_in_s=0.1).audios)
    pipeline.save_pretrained(tmp_path)  # it agrees, and its stages are written in the current format
    assert Pipeline.from_pretrained(tmp_path).to_config() == pipeline.to_config()


def test_a_model_of_version_0_1_is_read(tmp_path: Path) -> None:
    """The files are those of a model that version 0.1 trained; its weights are drawn here, and its codec is another."""
    old = Path(__file__).with_name("version-0.1")
    pipe = codecdiff.load("starter")
    pipe.save_pretrained(tmp_path)
    spec = json.loads((old / MODEL_FILE).read_text())
    assert spec["format"] == 1
    spec["codec"]["codec"] = {"name": "starter-neural"}
    (tmp_path / MODEL_FILE).write_text(json.dumps(spec))
    for name, context in (("primary", 0), ("secondary", 8)):
        stage = (old / f"{name}-stage.json").read_text()
        (tmp_path / name / "stage.json").write_text(stage)
        sizes = {"channels": 72 - 8 if context else 8, "context_channels": context, "condition_widths": {"text": 128}}
        denoiser = config.build("denoisers", json.loads(stage)["denoiser"], **sizes)
        save_file(denoiser.state_dict(), tmp_path / name / "model.safetensors")
    stages = codecdiff.load(tmp_path).stages
    sampling = [stage.sampling for stage in stages]
    assert [(s.scheduler, s.num_inference_steps, s.guidance_scale) for s in sampling] == [
        ("dpm++2m", 27, 1.25),
        ("dpm++2m", 16, 2.5),
    ]
    assert [s.final_timestep_fraction for s in sampling] == [0.1, 0.2]
    assert stages[0].facts["warmup_steps"] == 50
    assert all(
        tensor.equal(stages["secondary"].denoiser.state_dict()[name]) for name, tensor in denoiser.state_dict().items()
    )


NUMBERS = {"name": "numeric", "fields": {"tempo": {"low": 40, "high": 220}, "seconds": {"low": 0, "high": 9}}}


@pytest.mark.filterwarnings("ignore:No layer uses")
def test_the_seconds_that_are_asked_for_are_told(make_pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(conditioner={"name": "joined", "conditioners": ["words", NUMBERS]})
    told: list[Any] = []
    assert pipeline.conditioner
    encode = pipeline.conditioner.encode
    monkeypatch.setattr(pipeline.conditioner, "encode", lambda prompts: told.append(prompts) or encode(prompts))
    pipeline(["drums", {"seconds": 3}], audio_length_in_s=0.2)
    seconds = pipeline.frames(0.2) / pipeline.codec.frame_rate
    assert told == [[{"seconds": seconds, "text": "drums"}, {"seconds": 3}], [{"text": ""}, {"text": ""}]]


@pytest.mark.filterwarnings("ignore:No layer uses")
def test_each_condition_may_be_guided_on_its_own(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline(conditioner={"name": "joined", "conditioners": ["words", NUMBERS]})
    made = pipeline("drums", audio_length_in_s=0.1).audios
    pipeline.stages[0].sampling.guidance_scale = {"text": 2.0, "tempo": 2.0, "seconds": 2.0}  # 2, as the other stages
    pipeline.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert again.stages[0].sampling == pipeline.stages[0].sampling
    assert torch.equal(again("drums", audio_length_in_s=0.1).audios, made)
    assert not torch.equal(again("drums", audio_length_in_s=0.1, guidance_scale={"text": 9.0}).audios, made)
    with pytest.raises(ValueError, match=r"Unknown condition 'key' in guidance_scale\. Available: text, tempo"):
        again("drums", audio_length_in_s=0.1, guidance_scale={"key": 3.0})


def test_another_model_in_the_folder_is_refused(make_pipeline: Make, tmp_path: Path, dac: Codec) -> None:
    make_pipeline().save_pretrained(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(
        ValueError, match=r"holds another model: splitter.name is .*; stages is .*\. Use another output"
    ):
        make_pipeline("parallel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="snap_context is true there, false here"):
        make_pipeline(snap_context=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds another model: conditioner is"):
        make_pipeline(conditioner=None).save_pretrained(tmp_path)
    other = make_pipeline()
    other.codec = NormalizedCodec(dac)
    with pytest.raises(ValueError, match="the fitted state of the codec differs"):
        other.save_pretrained(tmp_path)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not hold a model: codecdiff\.json is missing"):
        codecdiff.load(tmp_path)
    with pytest.raises(LookupError, match=r"No model 'no such model'\. .*Name one that you trained by its"):
        codecdiff.load("no such model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not describe a model: it has no format"),
        ("{}", "does not describe a model: it has no format"),
        ('{"format": 3}', r"has format 3; this codecdiff reads format 2\. Update codecdiff"),
        ('{"format": 2}', "is incomplete: it lacks codec, conditioner, data, snap_context, splitter, stages, target"),
    ],
)
def test_a_broken_description_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "codecdiff.json").write_text(text)
    with pytest.raises(ValueError, match=rf"codecdiff\.json {message}"):
        codecdiff.load(tmp_path)


@pytest.mark.parametrize("stages", [["../other"], ["/tmp"], ["a/b"], ["."]])
def test_a_stage_cannot_lie_outside_its_folder(make_pipeline: Make, tmp_path: Path, stages: list[str]) -> None:
    make_pipeline().save_pretrained(tmp_path)
    spec = json.loads((tmp_path / "codecdiff.json").read_text())
    rewrite(tmp_path / "codecdiff.json", {**spec, "stages": stages})
    with pytest.raises(ValueError, match="expected the name of a folder inside the model"):
        codecdiff.load(tmp_path)


def test_damaged_weights_are_explained(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "primary" / "model.safetensors"
    whole = file.read_bytes()
    hashes = r"SHA-256 [0-9a-f]{12}\.\.\.; '.*stage\.json' records [0-9a-f]{12}"
    for damage, problem in (
        (whole[: len(whole) // 2], rf"[\d,]+ bytes; '.*stage\.json' records {len(whole):,}"),
        (b"", rf"0 bytes; '.*stage\.json' records {len(whole):,}"),
        (bytes(len(whole)), hashes),
    ):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=rf"primary/model\.safetensors' is damaged: it has {problem}\."):
            codecdiff.load(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors' is missing"):
        codecdiff.load(tmp_path)


def test_damaged_weights_of_version_0_1_are_explained(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    as_version_0_1(tmp_path)
    file = tmp_path / "primary" / "model.safetensors"
    whole = file.read_bytes()
    for damage, problem in (
        (whole[: len(whole) // 2], "primary/model.safetensors' is damaged"),
        ((tmp_path / "secondary" / "model.safetensors").read_bytes(), "does not hold the weights of this stage"),
    ):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=problem):
            codecdiff.load(tmp_path)


def test_a_lost_codec_state_is_explained(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "codec")
    with pytest.raises(ValueError, match=r"codec/model\.safetensors' is missing"):
        codecdiff.load(tmp_path)
    as_version_0_1(tmp_path)
    with pytest.raises(ValueError, match="lacks its mean and std"):
        codecdiff.load(tmp_path)


def test_a_crash_while_saving_leaves_no_model(
    make_pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("codecdiff.files.tensors.save_tensors", fail)
        with pytest.raises(OSError, match="No space"):
            make_pipeline().save_pretrained(tmp_path)
    assert not load_codec_state(tmp_path, make_pipeline().codec)
    make_pipeline().save_pretrained(tmp_path)
    assert len(codecdiff.load(tmp_path).stages) == 2


def test_a_place_that_cannot_be_written_is_an_os_error(make_pipeline: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_pipeline().save_pretrained(tmp_path / "file")


def test_a_take_does_not_depend_on_its_batch_nor_on_the_number_of_takes(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    together = codes_of(pipeline, "drums", "a slow tune on piano", "", num_waveforms_per_prompt=2)
    assert len(together) == 6
    assert torch.equal(
        codes_of(pipeline, "drums", "a slow tune on piano", "", num_waveforms_per_prompt=2, batch_size=1), together
    )
    assert torch.equal(codes_of(pipeline, "drums", num_waveforms_per_prompt=1), together[:1])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(codes_of(pipeline, "drums", seed=1), together[:1])


def test_a_prompt_may_be_a_string_a_mapping_or_several(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    audio = pipeline("drums", audio_length_in_s=0.1).audios
    assert torch.equal(pipeline({"text": "drums"}, audio_length_in_s=0.1).audios, audio)
    assert torch.equal(pipeline(["drums", {"text": "piano"}], audio_length_in_s=0.1).audios[:1], audio)
    assert torch.equal(pipeline({}, audio_length_in_s=0.1).audios, pipeline("", audio_length_in_s=0.1).audios)
    assert not torch.equal(pipeline("", audio_length_in_s=0.1).audios, audio)


@pytest.mark.parametrize("seconds", [1 / 8000, 0.1, 0.12345])
def test_audio_is_as_long_as_asked(make_pipeline: Make, seconds: float) -> None:
    assert make_pipeline()("", audio_length_in_s=seconds).audios.shape == (1, 1, max(1, round(seconds * 8000)))


def test_known_codes_are_kept_where_a_codebook_holds_an_entry_twice(make_pipeline: Make, dac: Codec) -> None:
    class Twins(CodecWrapper):
        @property
        def duplicate_codes(self) -> frozenset[tuple[int, int]]:
            return frozenset({(0, 1)})

        def quantize(self, latents: torch.Tensor) -> torch.Tensor:
            codes = self.codec.quantize(latents)
            codes[:, 0] = torch.where(codes[:, 0] == 1, 0, codes[:, 0])
            return codes

    pipeline = make_pipeline()
    pipeline.codec = Twins(pipeline.codec)
    known = EditMask.from_codes(pipeline.codec, torch.ones(1, 4, 20, dtype=torch.int64))
    kept = codes_of(pipeline, "", edit=known.keep(levels_mask(pipeline.codec, [0])))
    assert torch.equal(kept[:, 0], known.codes[:, 0])


def test_a_stage_sees_entries_or_raw_samples_as_told(make_pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    for snap in (True, False):
        pipeline = make_pipeline(snap_context=snap)
        secondary = pipeline.stages[1].denoiser
        secondary.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
        monkeypatch.setattr(secondary, "prepare_for_sampling", lambda *_, network=secondary: network)
        codes = codes_of(pipeline, "drums")
        entries = pipeline.codec.embed(codes)[:, 0]
        assert torch.allclose(seen[-1][:1], entries, atol=1e-5) == snap


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 3601])
def test_absurd_durations_are_refused(make_pipeline: Make, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"Invalid audio_length_in_s=.*: expected "):
        make_pipeline()("", audio_length_in_s=seconds)


def test_a_prompt_that_is_no_text_is_refused(make_pipeline: Make) -> None:
    with pytest.raises(InvalidValue, match=r"Invalid text 'a\\udcff': it is not UTF-8"):
        make_pipeline()("a\udcff", audio_length_in_s=0.1)
    with pytest.raises(InvalidValue, match="it is not UTF-8"):
        make_pipeline().request("a\udcff", GenerationConfig())


@pytest.mark.parametrize("steps", [0, -3, 101, 10**9])
def test_absurd_steps_are_refused(make_pipeline: Make, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_inference_steps={steps}: expected 1 to 100"):
        make_pipeline()("", audio_length_in_s=0.1, num_inference_steps=steps)


def test_nothing_cannot_be_generated(make_pipeline: Make) -> None:
    with pytest.raises(ValueError, match="Invalid num_waveforms_per_prompt=0: expected more than 0"):
        make_pipeline()("", audio_length_in_s=0.1, num_waveforms_per_prompt=0)
    with pytest.raises(ValueError, match="The list of prompts is empty"):
        make_pipeline()([], audio_length_in_s=0.1)


def test_an_unknown_sampler_is_refused_before_training(make_pipeline: Make) -> None:
    stage = make_pipeline().stages[0]
    with pytest.raises(ValueError, match="Unknown scheduler 'hune'"):
        Stage("primary", stage.denoiser, stage.train_scheduler, SamplingConfig(scheduler="hune"))
    with pytest.raises(
        ValueError, match="Invalid num_inference_steps=200: expected 1 to 100 for primary, which was trained with"
    ):
        Stage("primary", stage.denoiser, stage.train_scheduler, SamplingConfig(num_inference_steps=200))


def test_a_model_with_a_stage_missing_says_which(make_pipeline: Make, tmp_path: Path) -> None:
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "secondary")
    half = codecdiff.load(tmp_path)
    with pytest.raises(ValueError, match=r"Stage secondary is not trained yet, or was removed\. Train all its stages"):
        half("", audio_length_in_s=0.1)
    audio = half("", audio_length_in_s=0.1, partial=True).audios
    assert audio.shape == (1, 1, 800)
    shutil.move(tmp_path / "primary", tmp_path / "secondary")
    with pytest.raises(ValueError, match=r"Stage primary is not trained yet, or was removed"):
        codecdiff.load(tmp_path)("", audio_length_in_s=0.1)


@pytest.mark.integration
def test_the_parts_these_tests_are_made_of_keep_their_laws(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    assert pipeline.conditioner is not None
    check_conditioner(pipeline.conditioner)
    unet = type(pipeline.stages[0].denoiser)
    options = {key: value for key, value in UNET.items() if key != "name"}
    check_denoiser(lambda **supplied: unet(**options, **supplied))
    check_denoiser(lambda **supplied: unet(**options, **supplied), context_channels=0)


def test_hub_ids_that_a_folder_names_are_fetched_only_when_allowed(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    spec = json.loads((tmp_path / "model" / MODEL_FILE).read_text())
    spec["codec"] = {
        "name": "normalized",
        "codec": {"name": "dac", "model": "somebody/their-codec"},
        "per": "codebook",
    }
    rewrite(tmp_path / "model" / MODEL_FILE, spec)
    with pytest.raises(LookupError, match=r"somebody/their-codec.*--allow-download"):
        Pipeline.from_pretrained(tmp_path / "model")


def test_whoever_may_read_one_file_of_a_model_may_read_all(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    modes = {str(file): file.stat().st_mode for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert len(modes) == 7
    assert len({*modes.values()}) == 1, modes


def test_a_model_saved_in_half_precision_takes_half_the_room_and_agrees_with_itself(
    make_pipeline: Make, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "whole")
    pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "primary" / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = Pipeline.from_pretrained(tmp_path / "half")
    again.save_pretrained(tmp_path / "half")  # the codec's state is the same
    ours, theirs = (p.stages[0].denoiser.state_dict() for p in (pipeline, again))
    assert all(torch.equal(ours[name].half().float(), theirs[name]) for name in ours)


def test_latents_that_are_not_finite_are_an_error_and_no_file(make_pipeline: Make) -> None:
    pipeline = make_pipeline()
    with torch.no_grad():
        for parameter in pipeline.stages[1].denoiser.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(
        UserError, match=r"Stage secondary generated latents that are not finite, in 2 steps of dpm\+\+2m"
    ):
        pipeline("drums", audio_length_in_s=0.1, num_inference_steps=2)
