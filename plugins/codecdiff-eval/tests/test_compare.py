"""Variants are trained at one budget on the same music, evaluated on the same clips, and their differences paired."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from codecdiff_eval.compare.budget import (
    StageCost,
    Variant,
    affordable_steps,
    make_variants,
    sampling_warnings,
    stage_costs,
    training_flops,
)
from codecdiff_eval.compare.clips import PROBE_TRAINING, REAL, REFERENCE_RECONSTRUCTION, Clip, EvalSplit, draw_split
from codecdiff_eval.compare.config import CompareConfig, CompareEvalConfig
from codecdiff_eval.compare.measure import LOSS, CompareInputs, measure
from codecdiff_eval.compare.report import CompareReport
from codecdiff_eval.compare.runs import Run, loss_key, make_runs, other_variants, require_music, shared_run, take_turns
from codecdiff_eval.embedders import LogMel
from codecdiff_eval.embeddings import ClipEmbeddings
from codecdiff_eval.eval_sets import CODEC_RECONSTRUCTION, GENERATED, REFERENCE, first_stages_mask, oracle
from codecdiff_eval.listening.systems import match_items, read_systems
from codecdiff_eval.metrics.bootstrap import Draws
from codecdiff_eval.metrics.gaussian import shrunk_frechet_distance
from codecdiff_eval.report import Report, write_report
from codecdiff_eval.results import VariantResults
from markupsafe import escape
from small import UNET, noise, tone, write_music
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import codecdiff
from codecdiff import Pipeline, config
from codecdiff.cli.main import app
from codecdiff.config import ConfigError, DataConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.diffusion.guidance import resolve_guidance
from codecdiff.errors import UnknownName
from codecdiff.files import try_lock
from codecdiff.training.batch import StageData
from codecdiff.training.experiment import new_pipeline, new_stage
from codecdiff.training.trainer import StageTrainer


@pytest.fixture
def settings(codec_spec: dict[str, Any], music: Path) -> dict[str, Any]:
    return {
        "experiment": {
            "codec": codec_spec,
            "splitter": {"name": "coarse-first"},
            "conditioner": {"name": "words"},
            "denoiser": UNET,
            "data": {"audio": str(music), "validation_fraction": 0.7},
            "train": {
                "max_train_steps": 4,
                "warmup_steps": 0,
                "learning_rate": 1e-3,
                "train_batch_size": 2,
                "crop_seconds": 0.2,
            },
            "diffusion": {"num_train_timesteps": 100},
            "sampling": {"scheduler": "ddim", "num_inference_steps": 2},
        },
        "variants": {"coarse": [], "wide": ["stages.secondary.denoiser.width=24"], "parallel": ["splitter=parallel"]},
        "seeds": [0, 1],
        "evaluation": {
            "clips": 8,
            "reference": 8,
            "probe_training_clips": 8,
            "seconds": 1,
            "resamples": 20,
            "players": 1,
        },
    }


@pytest.fixture
def comparison(settings: dict[str, Any]) -> CompareConfig:
    return CompareConfig.model_validate(settings)


COSTS = [
    StageCost("primary", 1, 8, 100, 3, network_calls=1, guided_calls=1, passes=2, clip_flops=1),
    StageCost("secondary", 1, 24, 200, 7, network_calls=1, guided_calls=1, passes=2, clip_flops=1),
]


def test_a_budget_is_split_in_the_ratio_of_the_steps_and_is_not_exceeded() -> None:
    steps = affordable_steps(COSTS, 1700 * 5)
    assert steps == [500, 1000]
    assert affordable_steps(COSTS, 1700 * 5 + 8) == steps
    assert training_flops(COSTS, affordable_steps(COSTS, 12_345)) <= 12_345
    assert training_flops(COSTS) == 1700


def test_stages_may_have_equal_flops() -> None:
    assert affordable_steps(COSTS, 2100, "flops") == [350, 150]


def test_a_budget_of_less_than_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget=10 FLOPs is less than a step of primary: one takes 3"):
        affordable_steps(COSTS, 10)


@pytest.mark.integration
def test_every_variant_gets_the_budget_of_the_first_unless_one_is_given(comparison: CompareConfig) -> None:
    coarse, wide, parallel = make_variants(comparison)
    assert coarse.steps == (4, 4)
    assert wide.steps[0] == wide.steps[1] < 4
    for variant in (wide, parallel):
        assert 0 <= coarse.training_flops - variant.training_flops < sum(cost.step_flops for cost in variant.costs)
    assert [cost.values_per_frame for cost in coarse.costs] == [8, 24]
    assert parallel.experiment.stages["stage1"].train.max_train_steps == parallel.steps[0]
    assert wide.costs[1].parameters > coarse.costs[1].parameters


@pytest.mark.integration
def test_sampling_is_counted_as_it_runs(comparison: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = comparison.variant("coarse", 0)
    pipeline = new_pipeline(experiment)
    pipeline.stages = [new_stage(experiment, pipeline, i)[0] for i in range(2)]
    for stage in pipeline.stages:
        monkeypatch.setattr(
            stage.denoiser, "prepare_for_sampling", lambda *_, same=stage.denoiser: same
        )  # all is in every step
    monkeypatch.setattr("codecdiff.profiling.plan.TOKENS", 8)
    with FlopCounterMode(display=False) as counter:
        list(pipeline.generate_codes([{"text": "one two three four five six seven eight"}], pipeline.frames(1.0)))
    counted = sum(cost.clip_flops for cost in stage_costs(experiment, 1.0))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.06)  # attention takes another way there
    alone = experiment.model_copy(update={"sampling": experiment.sampling.model_copy(update={"guidance_scale": 1.0})})
    assert sum(cost.clip_flops for cost in stage_costs(alone, 1.0)) == pytest.approx(counted / 2, rel=0.01)


def test_a_variant_that_cannot_be_made_is_named(settings: dict[str, Any]) -> None:
    settings["variants"] = {"odd": ["denoiser.widht=3"], **settings["variants"]}
    with pytest.raises(ConfigError, match=r"variant 'odd' is invalid.*no option 'widht'.*Did you mean 'width'"):
        make_variants(CompareConfig.model_validate(settings))


def test_a_variant_of_a_part_that_is_not_installed_is_named(settings: dict[str, Any]) -> None:
    settings["variants"] = {"odd": ["codec=dca"], **settings["variants"]}
    with pytest.raises(ConfigError, match=r"variant 'odd' is invalid: No codec named 'dca'"):
        make_variants(CompareConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["denoiser.width=3"], r"Unknown setting 'denoiser\.width'.* A variant with model=\.\.\. is not trained, only"),
        (["seed=3"], r"seed is the same for all variants: set evaluation\.seed instead"),
        (["loudness=-20"], r"loudness is the same for all variants: leave it out"),
        (["quality=quick"], r"quality = 'quick': expected 'paper', 'balanced' or 'fast'"),
        (["num_inference_steps=9999"], r"Invalid num_inference_steps=9999: expected 1 to 100 for primary"),
        (["adapter=gone"], r"'gone' does not hold an adapter"),
        (["model=gone"], r"No model 'gone'"),
    ],
)
def test_a_trained_model_that_cannot_be_sampled_like_that_is_named(
    settings: dict[str, Any], make_pipeline: Callable[..., Pipeline], tmp_path: Path, overrides: list[str], message: str
) -> None:
    make_pipeline("coarse-first").save_pretrained(tmp_path / "model")
    settings["variants"] = {"odd": [f"model={tmp_path / 'model'}", *overrides], "plain": []}
    with pytest.raises(ConfigError, match=f"The variant 'odd' is invalid: .*{message}"):
        make_variants(CompareConfig.model_validate(settings))


def test_missing_music_is_an_error_before_anything_is_trained(comparison: CompareConfig) -> None:
    experiment = comparison.variant("coarse", 0)
    require_music([Variant("here", experiment, (), ())])
    for audio, message in ((Path("gone"), "data.audio is gone, which does not exist"), (None, "data.audio is null")):
        data = experiment.data.model_copy(update={"audio": audio})
        with pytest.raises(FileNotFoundError, match=f"'away' has no music: {message}"):
            require_music([Variant("away", experiment.model_copy(update={"data": data}), (), ())])


def test_the_runs_of_another_comparison_are_named(comparison: CompareConfig, tmp_path: Path) -> None:
    for name in ("coarse", "older"):
        (tmp_path / name / "seed-0").mkdir(parents=True)
        (tmp_path / name / "seed-0" / "run.json").touch()
    assert other_variants(tmp_path, [Variant("coarse", comparison.variant("coarse", 0), (), ())]) == ["older"]


def test_losses_are_comparable_where_the_latents_are_the_same(settings: dict[str, Any]) -> None:
    settings["variants"] |= {"flow": ["diffusion.prediction_type=flow"], "unconditional": ["conditioner=null"]}
    comparison = CompareConfig.model_validate(settings)
    made = {name: Variant(name, comparison.variant(name, 0), (), ()) for name in comparison.variants}
    first = loss_key(made["coarse"])
    assert [name for name, variant in made.items() if loss_key(variant) == first] == ["coarse", "wide", "unconditional"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "The variants are missing"),
        ({"variants": None, "experiment": {}}, "variants = None"),
        (
            {"variants": {"a": "model=starter"}, "experiment": {}},
            r"variants\.a = 'model=starter': expected a list",
        ),
        ({"variants": {"a": ["model=starter"]}, "experiment": 3}, "experiment = 3"),
        ({"variants": {"../up": []}}, "Invalid name of a variant '../up'"),
        ({"seeds": [1, 1]}, "expected different numbers"),
    ],
)
def test_invalid_settings_are_refused(
    settings: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({**settings, **change}))
    with pytest.raises(ConfigError, match=message):
        config.load_config(CompareConfig, file)


def test_the_order_of_music_is_that_of_the_seed_whatever_the_pattern(
    make_pipeline: Callable[..., Pipeline], store: CodeStore
) -> None:
    train, split = TrainConfig(crop_seconds=0.2, train_batch_size=4), DataConfig(validation_fraction=0.4, split_seed=0)
    patterns = {"one": ("parallel", 1), "two": ("delayed", 1), "other": ("parallel", 2)}
    data = {
        name: StageData(store, make_pipeline(pattern), 0, train, split, seed=seed)
        for name, (pattern, seed) in patterns.items()
    }
    orders = {name: [each.crops.sample(n) for n in range(20)] for name, each in data.items()}
    assert orders["one"] == orders["two"] != orders["other"]
    held = {name: {each.validation_crops.sample(n)[0] for n in range(50)} for name, each in data.items()}
    assert held["one"] == held["two"] == held["other"]


@pytest.mark.integration
def test_stages_in_common_are_those_whose_weights_would_be_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["variants"] = {
        "plain": [],
        "noise": ["train.context_noise_std=0.5"],
        "raw": ["snap_context=false"],
        "guided": ["sampling.guidance_scale=1"],
        "fast": ["train.learning_rate=1"],
        "warm": ["stages.secondary.start_from=primary"],
        "as-warm": ["stages.secondary.start_from=primary", "sampling.guidance_scale=1"],
        "fast-then-warm": ["stages.primary.train.learning_rate=1", "stages.secondary.start_from=primary"],
    }
    settings["seeds"] = [0]
    comparison = CompareConfig.model_validate(settings)
    runs = make_runs(comparison, make_variants(comparison), tmp_path)
    twins = {run.variant.name: [shared_run(run, i, runs) for i in (0, 1)] for run in runs}
    assert {name: [twin.variant.name if twin else None for twin in pair] for name, pair in twins.items()} == {
        "plain": [None, None],
        "noise": ["plain", None],
        "raw": ["plain", None],
        "guided": ["plain", "plain"],
        "fast": [None, None],
        "warm": ["plain", None],
        "as-warm": ["plain", "warm"],
        "fast-then-warm": ["fast", None],
    }


@pytest.mark.integration
def test_a_run_that_another_process_has_locked_is_left_to_it(comparison: CompareConfig, tmp_path: Path) -> None:
    runs = make_runs(comparison, make_variants(comparison), tmp_path)
    runs = [run for run in runs if run.variant.name == "parallel"]
    held = try_lock(runs[0].folder)
    assert held is not None
    done: list[Run] = []
    for run in take_turns(runs, lambda run: run in done or run is runs[0]):
        assert run is runs[1]
        assert try_lock(run.folder) is None
        done.append(run)
    held.close()
    assert try_lock(runs[0].folder) is not None


def test_clips_are_of_validation_tracks_and_each_track_is_on_one_side(store: CodeStore, music: Path) -> None:
    evaluation = CompareEvalConfig(clips=9, reference=10, probe_training_clips=8, seconds=1)
    data = DataConfig(audio=music, validation_fraction=0.7)
    split = draw_split(store, data, evaluation, 0)
    names = [{clip.track for clip in clips} for clips in (split.evaluated, split.reference, split.probe_training)]
    assert (len(split.evaluated), len(split.reference), len(split.probe_training)) == (9, 10, 8)
    assert len(names[0] | names[1] | names[2]) == sum(map(len, names)) == 6
    assert all(clip.prompt["text"].startswith("tone") for clip in split.evaluated)
    assert draw_split(store, data, evaluation, 0) == split
    with pytest.raises(ValueError, match=r"There are 1 validation tracks.*data\.validation_fraction"):
        draw_split(store, DataConfig(audio=music, validation_fraction=0.1), evaluation, 0)


def test_clips_of_any_rate_are_embedded_at_that_of_the_embedder() -> None:
    embedder = LogMel(sample_rate=16_000)
    low, high = (torch.from_numpy(tone(2.0, 220, rate))[None, None] for rate in (8000, 16_000))
    resampled, expected = (
        ClipEmbeddings.of_audio(embedder, audio, rate).grid()
        for audio, rate in ((low, 8000), (high.expand(-1, 2, -1), 16_000))
    )
    assert resampled.shape == expected.shape == (1, 3, 64)
    assert torch.allclose(resampled[..., 1:4], expected[..., 1:4], atol=0.05)  # the bands of the tone
    assert torch.equal(expected, embedder.embed(high[:, 0]))


@pytest.mark.parametrize("pattern", ["coarse-first", "delayed", "flattened", {"name": "grouped", "stages": "0|1-2|3"}])
def test_the_codes_of_the_first_stages_are_known_one_by_one(
    make_pipeline: Callable[..., Pipeline], pattern: Any
) -> None:
    pipeline = make_pipeline(pattern)
    count, codec = len(pipeline.stage_names), pipeline.codec
    masks = [first_stages_mask(pipeline.splitter, codec, 5, stages) for stages in range(count + 1)]
    assert not masks[0].any()
    assert masks[-1].all()


@pytest.mark.parametrize(
    ("splitter", "expected"),
    [("coarse-first", [0]), ({"name": "grouped", "stages": "2,1|0|3"}, [1, 2]), ("delayed", [0, 1, 2, 3])],
    ids=str,
)
def test_the_first_stage_makes_its_codebooks(
    make_pipeline: Callable[..., Pipeline], splitter: Any, expected: list[int]
) -> None:
    pipeline = make_pipeline(splitter)
    mask = first_stages_mask(pipeline.splitter, pipeline.codec, frames=3, count=1)
    assert torch.equal(mask, first_stages_mask(pipeline.splitter, pipeline.codec, frames=1, count=1).expand(1, 4, 3))
    assert mask[0, :, 0].nonzero().flatten().tolist() == expected


CLIPS = 24
CASCADE, ORACLE = "Fréchet distance: full cascade", "Fréchet distance: oracle first stage"


def compare_inputs(shift: float = 0.0, seeds: int = 2, per: int = 1) -> CompareInputs:
    """Two variants of two stages. Clips differ much in two numbers, and those of the second by `shift` in another."""
    clips = tuple(Clip(f"{i // per}", "", 0.0, {"text": "", "lead": "ab"[i % 2]}) for i in range(CLIPS))
    names = (REAL, REFERENCE, CODEC_RECONSTRUCTION, REFERENCE_RECONSTRUCTION, PROBE_TRAINING)
    codec: dict[str, Tensor] = {name: noise(CLIPS, 3, 4, seed=i) for i, name in enumerate(names)}
    for name in (PROBE_TRAINING, CODEC_RECONSTRUCTION):
        codec[name] += 4 * torch.tensor([i % 2 for i in range(CLIPS)])[:, None, None]
    hard = 3 * noise(CLIPS, 1, 4, seed=9) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    first = [
        {name: hard + noise(CLIPS, 3, 4, seed=20 + s + 10 * k) for k, name in enumerate((GENERATED, oracle()))}
        for s in range(seeds)
    ]
    offset = shift * torch.tensor([0.0, 0.0, 0.0, 1.0])
    second = [{name: vectors + offset for name, vectors in sets.items()} for sets in first]
    embeddings = {"first": first, "second": second}
    losses = {"first": [0.5] * seeds, "second": [0.4] * seeds}
    codecs = dict.fromkeys(embeddings, codec)
    return CompareInputs(EvalSplit(clips, clips, clips), embeddings, codecs, losses, ["lead", "nothing"])


def by_name(results: list[VariantResults]) -> dict[str, VariantResults]:
    return {each.name: each for each in results}


def test_the_same_clips_have_no_difference_at_all() -> None:
    results = by_name(measure(compare_inputs(), resamples=20, seed=0))
    for each in results.values():
        if each.name != LOSS:
            assert each.differences["second"] == (0, 0, 0)
            assert each.differences["second"].includes_zero


def test_losses_of_other_tasks_have_no_difference() -> None:
    for keys, compared in (({}, {"second"}), ({"first": "a", "second": "b"}, set[str]())):
        results = by_name(measure(replace(compare_inputs(), loss_keys=keys), resamples=5, seed=0))
        assert set(results[LOSS].differences) == compared
        assert set(results[CASCADE].differences) == {"second"}


def compare_report(comparison: CompareConfig, inputs: CompareInputs, resamples: int = 5) -> CompareReport:
    results = measure(inputs, resamples=resamples, seed=0)
    return CompareReport(comparison, [], [], results, inputs.split, Path())


def test_reasons_to_be_careful_are_warnings(comparison: CompareConfig) -> None:
    evaluation = comparison.evaluation.model_copy(update={"probes": ["lead", "nothing"]})
    one_seed = comparison.model_copy(update={"evaluation": evaluation, "seeds": [0]})
    few, seed, probe = compare_report(one_seed, compare_inputs(per=4)).warnings()
    assert "here 6, intervals are unreliable" in few
    assert seed.startswith("One seed: differences between runs are not estimated")
    assert "The probe of 'nothing' is left out: it needs two values of it." in probe
    assert not compare_report(comparison, compare_inputs()).warnings()


def trained(variant: Variant, seed: int, folder: Path, loss: float) -> Run:
    """Return a run of one stage with this normalized validation loss."""
    run = Run(variant, seed, folder / variant.name / f"seed-{seed}", folder)
    (run.model / "primary").mkdir(parents=True)
    row = {"step": 100, "seconds": 1.0, "normalized_validation_loss": loss}
    (run.model / "primary" / "log.jsonl").write_text(json.dumps(row) + "\n")
    return run


@pytest.mark.parametrize(
    ("seeds", "per", "loss", "verdict", "reason"),
    [
        ([0, 1], 1, 0.9, "worse", ""),
        ([0], 1, 0.9, "no verdict", "One seed: differences between runs are not estimated"),
        ([0, 1], 4, 0.9, "no verdict", "With fewer than 20 tracks, here 6"),
        ([0, 1], 1, 1.02, "no verdict", "This is true of second: primary (1.020)."),
    ],
)
def test_a_verdict_takes_two_seeds_enough_tracks_and_stages_that_learned_something(
    comparison: CompareConfig, tmp_path: Path, seeds: list[int], per: int, loss: float, verdict: str, reason: str
) -> None:
    inputs = compare_inputs(1.0, len(seeds), per)
    experiment = comparison.variant("coarse", 0)
    first, second = (Variant(name, experiment, tuple(COSTS[:1]), (100,)) for name in ("first", "second"))
    runs = [trained(first, seed, tmp_path, 0.9) for seed in seeds]
    runs += [trained(second, seed, tmp_path, loss if seed == seeds[-1] else 0.8) for seed in seeds]
    results, settings = measure(inputs, resamples=50, seed=0), comparison.model_copy(update={"seeds": seeds})
    report = CompareReport(settings, [first, second], runs, results, inputs.split, tmp_path)
    (line,) = (line for line in report.findings() if line.startswith(CASCADE))
    assert line.endswith(f", {verdict}.")
    assert report.warnings() == [] if not reason else any(reason in line for line in report.warnings())


def test_equal_clips_are_the_same_with_one_seed_too(comparison: CompareConfig) -> None:
    report = compare_report(comparison.model_copy(update={"seeds": [0]}), compare_inputs(seeds=1))
    report = replace(report, variants=[Variant("first", comparison.variant("coarse", 0), (), ())])
    assert all(line.endswith("the same.") for line in report.findings())


def test_players_name_the_variants_of_each_codec(comparison: CompareConfig, tmp_path: Path) -> None:
    variants = [Variant(name, comparison.variant("coarse", 0), (), ()) for name in ("one", "two", "three")]
    codecs: dict[str, str] = {"one": "dac-1", "two": "dac-2", "three": "dac-1"}
    runs = [Run(each, 0, tmp_path / each.name, tmp_path / codecs[each.name]) for each in variants]
    report = CompareReport(comparison, variants, runs, [], compare_inputs().split, tmp_path)
    (prompt,) = report.players()
    captions = [(player.path, player.caption) for player in prompt.players]
    assert captions[1:] == [
        ("dac-1/clips/codec-reconstruction-00.flac", "of one, three"),
        ("dac-2/clips/codec-reconstruction-00.flac", "of two"),
    ]


def test_variants_of_which_one_is_sampled_at_twice_the_cost_are_named(comparison: CompareConfig) -> None:
    def sampled(name: str, flops: int) -> Variant:
        return Variant(name, comparison.variant("coarse", 0), (replace(COSTS[0], clip_flops=flops),), (1,))

    assert not sampling_warnings([sampled("one", 10**12), sampled("two", 19 * 10**11)])
    (line,) = sampling_warnings([sampled("one", 2 * 10**12), sampled("two", 10**12), sampled("three", 15 * 10**11)])
    assert "a clip takes 2 TFLOPs with one and 1 TFLOPs with two" in line
    report = replace(compare_report(comparison, compare_inputs()), variants=[sampled("a", 9), sampled("b", 1)])
    assert any("cost of sampling" in each for each in report.warnings())


def test_folders_are_not_a_comparison(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(tmp_path), "runs/other"])
    assert f"variants: {{one: [model={tmp_path}]" in done.output.replace("\n", "")


def test_pairing_shows_what_intervals_of_each_alone_do_not() -> None:
    cascade = by_name(measure(compare_inputs(1.0), resamples=200, seed=0))[CASCADE]
    first, second = cascade.values["first"], cascade.values["second"]
    assert second.low < first.high
    assert not cascade.differences["second"].includes_zero
    assert cascade.differences["second"].value == pytest.approx(second.value - first.value)


def test_distances_are_those_of_the_metric_and_the_gap_is_their_difference() -> None:
    inputs = compare_inputs(0.3)
    results = by_name(measure(inputs, resamples=5, seed=0))
    reference = inputs.codecs["first"][REFERENCE]
    for name, label in ((GENERATED, CASCADE), (oracle(), ORACLE)):
        each = [shrunk_frechet_distance(sets[name], reference) for sets in inputs.embeddings["second"]]
        assert results[label].seeds["second"] == pytest.approx(each)
        assert results[label].values["second"].value == pytest.approx(sum(each) / 2)
    gaps = [results[label].values["second"].value for label in (CASCADE, ORACLE)]
    assert results["cascade gap"].values["second"].value == pytest.approx(gaps[0] - gaps[1])


def test_probes_read_what_they_can_learn_and_nothing_else() -> None:
    inputs = compare_inputs()
    real = inputs.codecs["first"][CODEC_RECONSTRUCTION]
    adherent = [{**sets, GENERATED: real} for sets in inputs.embeddings["first"]]
    embeddings = {**inputs.embeddings, "second": adherent}
    results = by_name(measure(replace(inputs, embeddings=embeddings), resamples=20, seed=0))
    assert results["prompt adherence: lead"].values["second"].value == pytest.approx(1)
    assert results["prompt adherence: lead"].values["first"].value < 0.5
    assert "prompt adherence: nothing" not in results


def test_tracks_are_resampled_with_all_their_clips() -> None:
    tracks = torch.arange(CLIPS).split(4)
    draws = Draws.of(tracks, tracks, num_seeds=3, resamples=10, seed=0)
    assert torch.equal(draws.evaluated[0], torch.arange(CLIPS))
    for indices in draws.evaluated[1:]:
        assert torch.equal(indices.view(-1, 4) // 4, (indices.view(-1, 4) // 4)[:, :1].expand(-1, 4))
        assert len(indices) == CLIPS
    assert [len(indices) for indices in draws.seeds] == [3] * 11
    again = Draws.of(tracks, tracks, num_seeds=3, resamples=10, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(draws.reference, again.reference, strict=True))


ROOT = Path(__file__).parents[3]


@pytest.mark.integration
def test_the_page_of_the_documentation_is_true_and_names_every_setting() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    block, trained_models = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.S | re.M)
    comparison = CompareConfig.model_validate(yaml.safe_load(trained_models))
    assert [comparison.trained_model(name) is not None for name in comparison.variants] == [True] * 5
    assert comparison.variant("fast", 0).splitter["name"] == "coarse-first"
    comparison = CompareConfig.model_validate(yaml.safe_load(block))
    assert sampling_warnings(make_variants(comparison)) == []
    assert comparison.variant("wide", 2).stages["secondary"].denoiser == {"width": 96}
    names = [name for name in CompareConfig.model_fields if name != "evaluation"]
    for name in [*names, *(f"evaluation.{name}" for name in CompareEvalConfig.model_fields)]:
        assert f"| `{name}` |" in page


CONFIGS = sorted((ROOT / "recipes" / "configs").glob("compare*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_comparison_that_is_shipped_can_be_read(file: Path) -> None:
    comparison = config.load_config(CompareConfig, file)
    first, *others = (comparison.variant(name, 0) for name in comparison.variants)
    assert len(others) == 3
    assert all(other != first for other in others)
    assert len(comparison.seeds) == 3


@pytest.mark.integration
def test_a_comparison_is_interrupted_resumes_and_is_written(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["experiment"]["data"]["audio"] = str(write_music(tmp_path / "music", count=10, seconds=1.2))
    noise = ["train.context_noise_std=0.5", "stages.secondary.start_from=primary"]
    settings["variants"] = {"plain": [], "noise": noise, "parallel": ["splitter=parallel"]}
    settings |= {"checkpoints": 2, "prompts": ["<b>a tone</b>"]}
    settings["evaluation"]["probes"] = ["license"]
    file, output, steps = tmp_path / "compare.yaml", tmp_path / "out", []
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    step = StageTrainer.step

    def interrupted(trainer: StageTrainer, *inputs: Any, **options: Any) -> float:
        steps.append((trainer.stage.name, trainer.seed, trainer.step_count))
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(trainer, *inputs, **options)

    def compare(*words: str) -> Any:
        return CliRunner().invoke(app, ["compare", str(file), "-o", str(output), *words])

    planned = compare("--plan")
    assert "3 variants × 2 seeds" in planned.output
    assert "parameters" in planned.output
    assert re.search(
        r"Estimated time on 1 x \w+: at least [\dsmin h]+ to train and [\dsmin h]+ to generate", planned.output
    )
    assert not output.exists()
    silent = compare("experiment.data.audio=gone")
    assert "data.audio is gone, which does not exist" in silent.output
    assert "parameters" not in silent.output
    assert not list(output.rglob("*"))
    unknown = compare("evaluation.probes=[lisense]")
    assert "No track has 'lisense', which evaluation.probes names. Columns: license. Did you mean" in unknown.output
    assert not list(output.rglob("*"))
    monkeypatch.setattr(StageTrainer, "step", interrupted)
    stopped = compare()
    assert stopped.exit_code != 0
    assert "Stopped. Run the same command again to resume." in stopped.output
    assert "plain, seed 0: encoding the music" in stopped.output
    assert steps[-1] == ("secondary", 0, 3)
    assert not (output / "index.html").exists()
    gc.collect()  # it holds its run until then, for here the process goes on
    done = compare()
    assert done.exit_code == 0, done.output
    assert steps[8] == ("secondary", 0, 2)  # the last checkpoint
    begun = [name for name, seed, at in steps[8:] if (seed, at) == (0, 0)]
    assert begun == ["secondary", "stage1"]  # the first stage of the second variant is that of the first
    report = json.loads((output / "report.json").read_text())
    assert list(report["variants"]) == ["plain", "noise", "parallel"]
    cascade = next(metric for metric in report["metrics"] if metric["name"] == CASCADE)
    assert all(math.isfinite(estimate["value"]) for estimate in cascade["values"].values())
    assert set(cascade["differences"]) == {"noise", "parallel"}
    gap = next(metric for metric in report["metrics"] if metric["name"] == "cascade gap")
    assert set(gap["values"]) == {"plain", "noise"}
    assert [spent for spent, _ in report["variants"]["plain"]["losses"]["1"]["model"]] == sorted(
        {spent for spent, _ in report["variants"]["plain"]["losses"]["1"]["model"]}
    )
    losses = next(metric for metric in report["metrics"] if metric["name"] == LOSS)
    assert set(losses["differences"]) == {"noise"}
    assert any("The probe of 'license' is left out: it needs two values of it" in line for line in report["warnings"])
    assert report["facts"]["embedder"] == f"logmel at {codecdiff.load(output / 'plain/seed-0/model').sample_rate:,} Hz"
    page = (output / "index.html").read_text(encoding="utf-8")
    assert all(str(escape(line)) in page for line in report["warnings"])
    assert not re.search(r"https?://|url\(|@import|<b>a tone", page)
    players = re.findall(r'<audio[^>]* src="([^"]*)"', page)
    assert players
    assert all((output / player).is_file() for player in players)
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert "noise minus plain: " in markdown
    (row,) = re.findall(rf"\| {CASCADE} .*", markdown)
    assert re.search(r"; [+−][\d.,]+ \(", row)  # differences to the first variant
    systems, real = read_systems([output])
    assert [system.name for system in systems] == ["plain", "noise", "parallel"]
    assert real is not None
    evaluated, with_prompts = match_items([*systems, real]), match_items(systems)
    assert len(evaluated) == settings["evaluation"]["players"]
    assert len(with_prompts) == len(evaluated) + 1
    assert with_prompts[-1].prompt == "<b>a tone</b>"
    assert evaluated[0].files["noise"] == output / "noise/seed-0/clips/generated-00.flac"
    assert all(file.is_file() for item in evaluated for file in item.files.values())
    model = codecdiff.load(output / "noise" / "seed-1" / "model")
    assert model.stages[1].facts["start_from"]["stage"] == "primary"
    assert model("a tone", audio_length_in_s=0.1).audios.isfinite().all()
    count, left = len(steps), output / "plain" / ".seed-0.lock"
    left.touch()  # as by a process that was killed when its run was done
    compare("evaluation.resamples=10")
    assert len(steps) == count
    assert not left.exists()
    write_report(Report("mine", [], kicker="codecdiff · training run"), output)
    assert "of 'training run' that 'compare' would replace" in compare().output.replace("\n", " ")
    again = compare("experiment.train.learning_rate=1", "--force")
    assert "was trained differently: train.learning_rate is 0.001 there, 1.0 here" in again.output.replace("\n", "")


@pytest.mark.integration
def test_a_variant_that_diverges_is_reported_and_the_others_go_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["experiment"]["data"]["audio"] = str(write_music(tmp_path / "music", count=10, seconds=1.2))
    wild, overflow = "stages.primary.train.learning_rate=1e30", "stages.secondary.sampling.guidance_scale=77"

    def resolved(scale: Any, conditioner: Any) -> Any:  # no setting may be as large
        return resolve_guidance(1e38 if scale == 77 else scale, conditioner)

    monkeypatch.setattr("codecdiff.pipeline.cascade.resolve_guidance", resolved)
    guided = [wild, "sampling.guidance_scale=1"]
    settings["variants"] = {
        "wild": [wild],
        "guided": guided,
        "plain": [],
        "overflow": [overflow],
    }
    settings |= {"checkpoints": 2, "prompts": ["a tone"], "seeds": [0]}
    file, output, steps = tmp_path / "compare.yaml", tmp_path / "out", []
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    step = StageTrainer.step

    def counted(trainer: StageTrainer, *inputs: Any) -> float:
        steps.append((trainer.stage.name, trainer.step_count))
        return step(trainer, *inputs)

    monkeypatch.setattr(StageTrainer, "step", counted)

    def compare(*words: str) -> Any:
        return CliRunner().invoke(app, ["compare", str(file), "-o", str(output), *words])

    done = compare()
    assert done.exit_code == 0, done.output
    report = json.loads((output / "report.json").read_text())
    found = {name: variant["diverged"] for name, variant in report["variants"].items()}
    assert {name: [*map(int, each)] for name, each in found.items()} == {
        **{"wild": [0], "guided": [0], "overflow": [0]},
        "plain": [],
    }
    (stage, at), message = (found["wild"]["0"][key] for key in ("stage", "step")), found["wild"]["0"]["message"]
    assert (stage, 0 < at < 4) == ("primary", True)
    assert f"of primary became nan at step {at}. Lower train.learning_rate" in message
    assert found["guided"] == found["wild"]  # of a stage that it shares, and is not trained twice
    assert found["overflow"]["0"]["stage"] is None
    assert "secondary generated latents that are not finite" in found["overflow"]["0"]["message"]
    once, half = (
        [("primary", n) for n in range(at + 1)],
        [(name, n) for name in ("primary", "secondary") for n in range(4)],
    )
    assert steps == [*once, *half]
    for metric in report["metrics"]:
        assert (set(metric["values"]), metric["differences"]) == ({"plain"}, {})
        assert all(math.isfinite(estimate["value"]) for estimate in metric["values"].values())
    assert f"wild, seed 0, diverged in primary at step {at}, so wild has no metrics. {message}" in report["warnings"][0]
    assert any("compared with plain, the first that did not diverge" in line for line in report["warnings"])
    (row,) = re.findall(r"^\| training \|.*", (output / "report.md").read_text(encoding="utf-8"), re.M)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        *[f"diverged (in primary at step {at})"] * 2,
        *("complete", "diverged (in generation)"),
    ]
    assert f"diverged in primary at step {at}" in (output / "index.html").read_text(encoding="utf-8")
    assert not list(output.rglob("*.partial"))

    weights = {file: file.read_bytes() for file in output.rglob("*.safetensors")}
    again = compare()
    assert again.exit_code == 0, again.output
    assert len(steps) == at + 9
    assert {file: file.read_bytes() for file in output.rglob("*.safetensors")} == weights
    alone = file.with_name("alone.yaml")  # the same settings
    alone.write_text(yaml.safe_dump({**settings, "variants": {"wild": [wild]}}))
    nothing = CliRunner().invoke(app, ["compare", str(alone), "-o", str(output)])
    assert nothing.exit_code == 1
    assert "Every variant diverged, so there is nothing to compare." in nothing.output


@pytest.mark.integration
def test_adapters_distilled_stages_and_presets_are_compared_with_what_is_trained(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    music = write_music(tmp_path / "music", count=10, seconds=1.2)
    settings["experiment"]["data"]["audio"] = str(music)
    settings |= {"seeds": [0, 1], "variants": {"plain": []}, "checkpoints": 1}
    file, output = tmp_path / "compare.yaml", tmp_path / "out"

    def run(*words: str, exit_code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == exit_code, done.output
        return " ".join(done.output.split())

    def compare(*words: str, **change: Any) -> dict[str, Any]:
        file.write_text(yaml.safe_dump({**settings, **change}, sort_keys=False))
        run("compare", str(file), "-o", str(output), *words)
        return json.loads((output / "report.json").read_text())

    compare()
    model = output / "plain" / "seed-0" / "model"
    few = [f"data.audio={music}", "train.max_train_steps=2", "train.train_batch_size=2", "train.crop_seconds=0.1"]
    lora, student = tmp_path / "lora", tmp_path / "student"
    run("train", "--adapter", "lora", f"start_from={model}", f"output={lora}", *few)
    run("distill", str(model), "--stage", "secondary", "--steps", "2", f"output={student}", *few)
    named = {
        "same": [f"model={model}"],
        "adapted": [f"model={model}", f"adapter={lora}:0.5"],
        "student": [f"model={student}"],
        "fast": [f"model={model}", "quality=fast", "guidance_interval=[0, 0.5]"],
    }
    mixed = compare(variants={"plain": [], **named})
    cascade = next(metric for metric in mixed["metrics"] if metric["name"] == CASCADE)
    assert {name: len(values) for name, values in cascade["seeds"].items()} == dict.fromkeys(["plain", *named], 2)
    assert cascade["seeds"]["same"] == [cascade["seeds"]["plain"][0]] * 2  # the first seed's model
    assert len({values[0] for values in cascade["seeds"].values()}) == 4  # each of the others generates something else
    losses, memorization = mixed["metrics"][0], mixed["metrics"][-1]
    assert (losses["name"], set(losses["values"])) == (LOSS, {"plain"})
    assert set(memorization["values"]) == {"plain"}
    assert mixed["variants"]["same"]["fingerprint"] == codecdiff.load(model).fingerprint
    assert any("Not trained by this comparison: same, adapted, student, fast." in line for line in mixed["warnings"])
    assert not (output / "adapted" / "seed-1").exists()
    page = (output / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<audio[^>]* src="(adapted/[^"]*)"', page)
    calls = {
        stage["name"]: (stage["network_calls"], stage["guided_calls"]) for stage in mixed["variants"]["fast"]["stages"]
    }
    assert calls["primary"][0] > calls["primary"][1] > 0

    only = compare(experiment={"data": {"audio": str(music), "validation_fraction": 0.7}}, variants=named, seeds=[0])
    assert "budget" not in only["facts"]
    (line,) = [line for line in (output / "report.md").read_text().split("\n") if line.startswith(f"- {CASCADE}, fast")]
    assert "minus same: " in line
    assert not any("One seed" in line for line in only["warnings"])
    again = json.loads((output / "report.json").read_text())["metrics"]
    assert next(each for each in again if each["name"] == CASCADE)["seeds"]["fast"] == cascade["seeds"]["fast"][:1]
    leaking = compare(variants=named, seeds=[5])
    assert leaking["split"] != only["split"]
    seeds = next(each for each in leaking["metrics"] if each["name"] == CASCADE)["seeds"]
    assert all(values != cascade["seeds"][name][:1] for name, values in seeds.items())
    assert any(
        "may have been trained on tracks that are used here for validation" in each for each in leaking["warnings"]
    )
    file.write_text(yaml.safe_dump({**settings, "variants": {"same": [f"model={student}"]}}))
    assert "the fingerprint of the trained model is" in run("compare", str(file), "-o", str(output), exit_code=1)
    file.write_text(yaml.safe_dump({**settings, "variants": {"same": []}}))
    assert "was trained differently" in run("compare", str(file), "-o", str(output), exit_code=1)


@pytest.mark.integration
def test_a_model_that_reads_controls_is_given_those_of_the_evaluated_tracks(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["experiment"]["data"]["audio"] = str(write_music(tmp_path / "music", count=10, seconds=1.2))
    joined = "conditioner={name: joined, conditioners: [{name: words}, {name: loudness}]}"
    settings |= {"seeds": [0], "checkpoints": 1, "variants": {"controlled": [joined, "denoiser.controls=[loudness]"]}}
    settings["evaluation"]["controls"] = ["loudness"]
    file, output = tmp_path / "compare.yaml", tmp_path / "out"
    with pytest.raises(UnknownName, match=r"Unknown control 'loudnes' in evaluation\.controls\. Available: loudness\."):
        make_variants(CompareConfig.model_validate({**settings, "evaluation": {"controls": ["loudnes"]}}))

    def compare(**change: Any) -> dict[str, Any]:
        file.write_text(yaml.safe_dump({**settings, **change}, sort_keys=False))
        done = CliRunner().invoke(app, ["compare", str(file), "-o", str(output)])
        assert done.exit_code == 0, done.output
        metrics = json.loads((output / "report.json").read_text())["metrics"]
        return next(metric for metric in metrics if metric["name"] == CASCADE)["seeds"]

    (trained,) = compare()["controlled"]
    model = f"model={output / 'controlled' / 'seed-0' / 'model'}"
    only_music = {"data": settings["experiment"]["data"]}
    seeds = compare(experiment=only_music, variants={"with": [model], "without": [model, "controls=[]"]})
    assert seeds["with"] == [trained]
    assert seeds["without"] != [trained]
