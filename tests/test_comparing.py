"""Variants are trained at one budget on the same music, judged by the same clips, and their differences are paired."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from codecdiff_eval.embedders.logmel import LogMel
from small import UNET, noise, tone, write_music
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import codecdiff
from codecdiff import Pipeline, config
from codecdiff.cli.main import app
from codecdiff.comparisons import figures, sheets
from codecdiff.comparisons.budgets import StageCost, affordable, costs_of, total
from codecdiff.comparisons.clips import Chosen, Clip, Ear, choose
from codecdiff.comparisons.figures import Draws, Material, measure
from codecdiff.comparisons.reports import players, warnings_of
from codecdiff.comparisons.runs import (
    Run,
    Variant,
    in_turn,
    others_in,
    question_of,
    require_music,
    runs_of,
    twin_of,
    variants_of,
)
from codecdiff.comparisons.settings import Comparison, Evaluation
from codecdiff.config import ConfigError, DataConfig, TrainConfig
from codecdiff.data.code_store import CodeStore
from codecdiff.files import try_lock
from codecdiff.metrics import frechet_distance
from codecdiff.pipeline.editing import of_first_stage, of_first_stages
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
        "evaluation": {"clips": 8, "reference": 8, "lessons": 8, "seconds": 1, "resamples": 20, "players": 1},
    }


@pytest.fixture
def comparison(settings: dict[str, Any]) -> Comparison:
    return Comparison.model_validate(settings)


COSTS = [
    StageCost("primary", 1, 8, asked=100, training=3, evaluations=1, answers=2, sampling=1),
    StageCost("secondary", 1, 24, asked=200, training=7, evaluations=1, answers=2, sampling=1),
]


def test_a_budget_is_shared_as_the_steps_of_the_settings_and_is_not_overdrawn() -> None:
    steps = affordable(COSTS, 1700 * 5)
    assert steps == [500, 1000]
    assert affordable(COSTS, 1700 * 5 + 8) == steps
    assert total(COSTS, affordable(COSTS, 12_345)) <= 12_345
    assert total(COSTS) == 1700


def test_stages_may_take_as_many_flops_each() -> None:
    assert affordable(COSTS, 2100, "flops") == [350, 150]


def test_a_budget_of_less_than_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget=10 FLOPs is less than a step of primary: one takes 3"):
        affordable(COSTS, 10)


@pytest.mark.integration
def test_every_variant_gets_the_budget_of_the_first_unless_one_is_given(comparison: Comparison) -> None:
    coarse, wide, parallel = variants_of(comparison)
    assert coarse.steps == (4, 4)
    assert wide.steps[0] == wide.steps[1] < 4
    for variant in (wide, parallel):
        assert 0 <= coarse.training - variant.training < sum(cost.training for cost in variant.costs)
    assert [cost.values for cost in coarse.costs] == [8, 24]
    assert parallel.blueprint.stages["stage1"].train.max_train_steps == parallel.steps[0]
    assert wide.costs[1].parameters > coarse.costs[1].parameters


@pytest.mark.integration
def test_sampling_is_counted_as_it_runs(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = comparison.blueprint("coarse", 0)
    pipeline, _ = new_pipeline(blueprint)
    pipeline.stages = [new_stage(blueprint, pipeline, i)[0] for i in range(2)]
    for stage in pipeline.stages:
        monkeypatch.setattr(stage.denoiser, "prepared", lambda *_, same=stage.denoiser: same)  # all is in every step
    monkeypatch.setattr("codecdiff.profiling.plan.TOKENS", 8)
    with FlopCounterMode(display=False) as counter:
        list(pipeline.generate_codes([{"text": "one two three four five six seven eight"}], pipeline.frames(1.0)))
    counted = sum(cost.sampling for cost in costs_of(blueprint, 1.0))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.06)  # attention takes another way there
    alone = blueprint.model_copy(update={"sampling": blueprint.sampling.model_copy(update={"guidance_scale": 1.0})})
    assert sum(cost.sampling for cost in costs_of(alone, 1.0)) == pytest.approx(counted / 2, rel=0.01)


def test_a_variant_that_cannot_be_made_is_named(settings: dict[str, Any]) -> None:
    settings["variants"]["odd"] = ["denoiser.widht=3"]
    with pytest.raises(ConfigError, match=r"variant 'odd' cannot be made.*no option 'widht'.*Did you mean 'width'"):
        variants_of(Comparison.model_validate(settings))


def test_a_variant_of_a_part_that_is_not_installed_is_named(settings: dict[str, Any]) -> None:
    settings["variants"]["odd"] = ["codec=dca"]
    with pytest.raises(ConfigError, match=r"variant 'odd' cannot be made: No codec named 'dca'"):
        variants_of(Comparison.model_validate(settings))


def test_recordings_that_are_not_there_are_told_before_anything_is_trained(comparison: Comparison) -> None:
    blueprint = comparison.blueprint("coarse", 0)
    require_music([Variant("here", blueprint, (), ())])
    for audio, told in ((Path("gone"), "data.audio is gone, which is not there"), (None, "data.audio is null")):
        data = blueprint.data.model_copy(update={"audio": audio})
        with pytest.raises(FileNotFoundError, match=f"'away' has no recordings: {told}"):
            require_music([Variant("away", blueprint.model_copy(update={"data": data}), (), ())])


def test_the_runs_of_another_comparison_are_known(comparison: Comparison, tmp_path: Path) -> None:
    for name in ("coarse", "older"):
        (tmp_path / name / "seed-0").mkdir(parents=True)
        (tmp_path / name / "seed-0" / "run.json").touch()
    assert others_in(tmp_path, [Variant("coarse", comparison.blueprint("coarse", 0), (), ())]) == ["older"]


def test_losses_answer_the_same_question_where_the_latents_do(settings: dict[str, Any]) -> None:
    settings["variants"] |= {"flow": ["diffusion.prediction_type=flow"], "untold": ["conditioner=null"]}
    comparison = Comparison.model_validate(settings)
    made = {name: Variant(name, comparison.blueprint(name, 0), (), ()) for name in comparison.variants}
    first = question_of(made["coarse"])
    assert [name for name, variant in made.items() if question_of(variant) == first] == ["coarse", "wide", "untold"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "there is no variant"),
        ({"variants": {"../up": []}}, "'../up' names no variant"),
        ({"seeds": [1, 1]}, "give different numbers"),
    ],
)
def test_settings_that_make_no_comparison_are_refused(
    settings: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({**settings, **change}))
    with pytest.raises(ConfigError, match=message):
        config.load_config(Comparison, file)


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
    comparison = Comparison.model_validate(settings)
    runs = runs_of(comparison, variants_of(comparison), tmp_path)
    twins = {run.variant.name: [twin_of(run, i, runs) for i in (0, 1)] for run in runs}
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
def test_a_run_that_another_process_holds_is_left_to_it(comparison: Comparison, tmp_path: Path) -> None:
    runs = runs_of(comparison, variants_of(comparison), tmp_path)
    runs = [run for run in runs if run.variant.name == "parallel"]
    held = try_lock(runs[0].folder)
    assert held is not None
    done: list[Run] = []
    for run in in_turn(runs, lambda run: run in done or run is runs[0]):
        assert run is runs[1]
        assert try_lock(run.folder) is None
        done.append(run)
    held.close()
    assert try_lock(runs[0].folder) is not None


def test_clips_are_of_held_out_recordings_and_of_each_on_one_side(store: CodeStore, music: Path) -> None:
    asked = Evaluation(clips=9, reference=10, lessons=8, seconds=1)
    chosen = choose(store, music, 0.7, asked, 0)
    names = [{clip.recording for clip in some} for some in (chosen.asked, chosen.reference, chosen.lessons)]
    assert (len(chosen.asked), len(chosen.reference), len(chosen.lessons)) == (9, 10, 8)
    assert len(names[0] | names[1] | names[2]) == sum(map(len, names)) == 6
    assert all(clip.prompt["text"].startswith("tone") for clip in chosen.asked)
    assert choose(store, music, 0.7, asked, 0) == chosen
    with pytest.raises(ValueError, match=r"1 recordings are held out.*data\.validation_fraction"):
        choose(store, music, 0.1, asked, 0)


def test_clips_of_any_rate_are_heard_at_that_of_the_embedder() -> None:
    ear = Ear(LogMel(sample_rate=16_000), torch.device("cpu"))
    low, high = (torch.from_numpy(tone(2.0, 220, rate))[None, None] for rate in (8000, 16_000))
    heard, wanted = ear.hear(low, 8000), ear.hear(high.expand(-1, 2, -1), 16_000)
    assert heard.shape == wanted.shape == (1, 3, 64)
    assert torch.allclose(heard[..., 1:4], wanted[..., 1:4], atol=0.05)  # the bands of the tone
    assert torch.equal(wanted, ear.embedder.embed(high[:, 0]))


@pytest.mark.parametrize("pattern", ["coarse-first", "delayed", "flattened", {"name": "grouped", "stages": "0|1-2|3"}])
def test_what_the_first_stages_make_is_told_code_by_code(make_pipeline: Callable[..., Pipeline], pattern: Any) -> None:
    pipeline = make_pipeline(pattern)
    count, codec = len(pipeline.stage_names), pipeline.codec
    masks = [of_first_stages(pipeline.splitter, codec, 5, kept) for kept in range(count + 1)]
    assert not masks[0].any()
    assert masks[-1].all()
    assert torch.equal(masks[1], of_first_stage(pipeline.splitter, codec).expand(masks[1].shape))


CLIPS = 24


def material(shift: float = 0.0, seeds: int = 2, per: int = 1) -> Material:
    """Two variants of two stages. Clips differ much in two numbers, and those of the second by `shift` in another."""
    clips = tuple(Clip(f"{i // per}", "", 0.0, {"text": "", "lead": "ab"[i % 2]}) for i in range(CLIPS))
    codec: dict[str, Tensor] = {
        name: noise(CLIPS, 3, 4, seed=i) for i, name in enumerate(("real", "reference", "ceiling", "fresh", "lessons"))
    }
    for name in ("lessons", "ceiling"):
        codec[name] += 4 * torch.tensor([i % 2 for i in range(CLIPS)])[:, None, None]
    hard = 3 * noise(CLIPS, 1, 4, seed=9) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    made = [{f"given-{k}": hard + noise(CLIPS, 3, 4, seed=20 + s + 10 * k) for k in (0, 1)} for s in range(seeds)]
    apart = shift * torch.tensor([0.0, 0.0, 0.0, 1.0])
    moved = [{name: vectors + apart for name, vectors in some.items()} for some in made]
    heard = {"first": made, "second": moved}
    losses = {"first": [0.5] * seeds, "second": [0.4] * seeds}
    return Material(Chosen(clips, clips, clips), heard, dict.fromkeys(heard, codec), losses, ["lead", "nothing"])


def by_name(found: list[figures.Figure]) -> dict[str, figures.Figure]:
    return {each.name: each for each in found}


def test_the_same_clips_differ_by_nothing_at_all() -> None:
    found = by_name(measure(material(), resamples=20, seed=0))
    for each in found.values():
        if each.name != "held-out loss over answering zero":
            difference = each.differences["second"]
            assert (difference.value, difference.low, difference.high) == (0, 0, 0)
            assert difference.holds_zero


def test_losses_of_other_questions_have_no_difference() -> None:
    for questions, compared in (({}, {"second"}), ({"first": "a", "second": "b"}, set[str]())):
        found = by_name(measure(replace(material(), questions=questions), resamples=5, seed=0))
        assert set(found["held-out loss over answering zero"].differences) == compared
        assert set(found["Fréchet distance: cascade"].differences) == {"second"}


def test_what_makes_figures_less_than_they_look_is_said(comparison: Comparison) -> None:
    given = material(per=4)
    found = measure(given, resamples=5, seed=0)
    evaluation = comparison.evaluation.model_copy(update={"probes": ["lead", "nothing"]})
    asked = comparison.model_copy(update={"evaluation": evaluation, "seeds": [0]})
    few, seed, probe = warnings_of(asked, 6, found, given.chosen)
    assert "here 6, intervals are unreliable" in few
    assert "There is one seed" in seed
    assert "The probe of 'nothing' is left out: it needs two values of it." in probe
    assert not warnings_of(comparison, 20, found, given.chosen)


def test_players_say_whose_codec_is_heard(comparison: Comparison, tmp_path: Path) -> None:
    variants = [Variant(name, comparison.blueprint("coarse", 0), (), ()) for name in ("one", "two", "three")]
    homes: dict[str, str] = {"one": "dac-1", "two": "dac-2", "three": "dac-1"}
    runs = [Run(each, 0, tmp_path / each.name, tmp_path / homes[each.name]) for each in variants]
    (card,) = players(comparison, variants, runs, material().chosen, tmp_path)
    told = [(sound["path"], sound["explanation"]) for sound in card["sounds"]]
    assert told[1:] == [("dac-1/clips/ceiling-00.flac", "of one, three"), ("dac-2/clips/ceiling-00.flac", "of two")]


def test_pairing_shows_what_intervals_of_each_alone_do_not() -> None:
    cascade = by_name(measure(material(1.0), resamples=200, seed=0))["Fréchet distance: cascade"]
    first, second = cascade.values["first"], cascade.values["second"]
    assert second.low < first.high
    assert not cascade.differences["second"].holds_zero
    assert cascade.differences["second"].value == pytest.approx(second.value - first.value)


def test_distances_are_those_of_the_metric_and_the_gap_is_their_difference() -> None:
    given = material(0.3)
    found = by_name(measure(given, resamples=5, seed=0))
    reference = given.codecs["first"]["reference"]
    for name, label in (("given-0", "cascade"), ("given-1", "first stage true")):
        each = [frechet_distance(some[name], reference) for some in given.heard["second"]]
        figure = found[f"Fréchet distance: {label}"]
        assert figure.seeds["second"] == pytest.approx(each)
        assert figure.values["second"].value == pytest.approx(sum(each) / 2)
    gaps = [found[f"Fréchet distance: {label}"].values["second"].value for label in ("cascade", "first stage true")]
    assert found["cascade gap"].values["second"].value == pytest.approx(gaps[0] - gaps[1])


def test_probes_hear_what_they_can_learn_and_nothing_else() -> None:
    given = material()
    obeying = [{**some, "given-0": given.codecs["first"]["ceiling"]} for some in given.heard["first"]]
    found = by_name(measure(replace(given, heard={**given.heard, "second": obeying}), resamples=20, seed=0))
    assert found["text is obeyed: lead"].values["second"].value == pytest.approx(1)
    assert found["text is obeyed: lead"].values["first"].value < 0.5
    assert "text is obeyed: nothing" not in found


def test_recordings_are_resampled_with_all_their_clips() -> None:
    draws = Draws.of(material(per=4).chosen, 3, 10, 0)
    assert torch.equal(draws.asked[0], torch.arange(CLIPS))
    for numbers in draws.asked[1:]:
        assert torch.equal(numbers.view(-1, 4) // 4, (numbers.view(-1, 4) // 4)[:, :1].expand(-1, 4))
        assert len(numbers) == CLIPS
    assert [len(numbers) for numbers in draws.seeds] == [3] * 11
    again = Draws.of(material(per=4).chosen, 3, 10, 0)
    assert all(torch.equal(a, b) for a, b in zip(draws.reference, again.reference, strict=True))


@pytest.mark.parametrize(
    ("low", "value", "high", "better", "told"),
    [
        (-1, 1, 3, "lower", "no difference shown: the interval holds zero"),
        (1, 2, 3, "lower", "worse"),
        (-3, -2, -1, "lower", "better"),
        (1, 2, 3, "higher", "better"),
        (0, 0, 0, "lower", "the same"),
        (1, 2, 3, "", "differs"),
        (None, 2, None, "lower", "no interval: it is of one seed"),
        (2, 2, 2, "lower", "no interval: it is of one seed"),
    ],
)
def test_a_difference_is_called_what_it_is(low: Any, value: float, high: Any, better: str, told: str) -> None:
    holds_zero = low is not None and low <= 0 <= high
    assert sheets.verdict({"low": low, "value": value, "high": high, "holds_zero": holds_zero}, better) == told


@pytest.mark.parametrize(
    ("low", "value", "high", "told"),
    [
        (17.512, 68.073, 134.83, "+68.1 (17.5 to 135)"),
        (0.00002, 0.000032, 0.00004, "+0.000032 (0.000020 to 0.000040)"),
        (-1.2e-8, -1e-8, -0.8e-8, "−1e−08 (−1.2e−08 to −8e−09)"),
        (None, -0.0000315, None, "−0.000031"),
        (-2.0, 0.0004, 3.0, "0.000 (−2.00 to 3.00)"),
    ],
)
def test_a_difference_is_never_written_as_none(low: Any, value: float, high: Any, told: str) -> None:
    assert sheets.apart({"low": low, "value": value, "high": high}) == told


def test_a_value_has_the_digits_of_its_interval() -> None:
    estimate = {"low": 1.0034548, "value": 1.0036684, "high": 1.0038636}
    assert sheets.value_of(estimate) + sheets.spread(estimate) == "1.00367 (1.00345 to 1.00386)"


ROOT = Path(__file__).parent.parent


def test_the_page_of_the_documentation_is_true_and_names_every_setting() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.S | re.M)
    comparison = Comparison.model_validate(yaml.safe_load(block))
    assert comparison.blueprint("wide", 2).stages["secondary"].denoiser == {"width": 96}
    names = [name for name in Comparison.model_fields if name != "evaluation"]
    for name in [*names, *(f"evaluation.{name}" for name in Evaluation.model_fields)]:
        assert f"| `{name}` |" in page


CONFIGS = sorted((ROOT / "recipes" / "configs").glob("compare*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_comparison_that_is_shipped_can_be_read(file: Path) -> None:
    comparison = config.load_config(Comparison, file)
    first, *others = (comparison.blueprint(name, 0) for name in comparison.variants)
    assert len(others) == 3
    assert all(other != first for other in others)
    assert len(comparison.seeds) == 3


@pytest.mark.integration
def test_a_comparison_is_interrupted_goes_on_and_is_written(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["experiment"]["data"]["audio"] = str(write_music(tmp_path / "music", count=10, seconds=1.2))
    noise = ["train.context_noise_std=0.5", "stages.secondary.start_from=primary"]
    settings["variants"] = {"plain": [], "noise": noise, "parallel": ["splitter=parallel"]}
    settings |= {"checks": 2, "prompts": ["<b>a tone</b>"]}
    settings["evaluation"]["probes"] = ["split"]
    file, output, steps = tmp_path / "compare.yaml", tmp_path / "out", []
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    step = StageTrainer.step

    def interrupted(trainer: StageTrainer, *given: Any, **options: Any) -> float:
        steps.append((trainer.stage.name, trainer.seed, trainer.step_count))
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(trainer, *given, **options)

    def compare(*words: str) -> Any:
        return CliRunner().invoke(app, ["compare", str(file), "-o", str(output), *words])

    planned = compare("--plan")
    assert "3 variants x 2 seeds" in planned.output
    assert not output.exists()
    monkeypatch.setattr(StageTrainer, "step", interrupted)
    stopped = compare()
    assert stopped.exit_code != 0
    assert "plain, seed 0: encoding the music" in stopped.output
    assert steps[-1] == ("secondary", 0, 3)
    assert not (output / "index.html").exists()
    gc.collect()  # it holds its run until then, for here the process goes on
    done = compare()
    assert done.exit_code == 0, done.output
    assert steps[8] == ("secondary", 0, 2)  # the last check
    begun = [name for name, seed, at in steps[8:] if (seed, at) == (0, 0)]
    assert begun == ["secondary", "stage1"]  # the first stage of the second variant is that of the first
    report = json.loads((output / "report.json").read_text())
    assert list(report["variants"]) == ["plain", "noise", "parallel"]
    cascade = next(figure for figure in report["figures"] if figure["name"] == "Fréchet distance: cascade")
    assert all(math.isfinite(estimate["value"]) for estimate in cascade["values"].values())
    assert set(cascade["differences"]) == {"noise", "parallel"}
    gap = next(figure for figure in report["figures"] if figure["name"] == "cascade gap")
    assert set(gap["values"]) == {"plain", "noise"}
    assert [spent for spent, _ in report["variants"]["plain"]["losses"]["1"]["model"]] == sorted(
        {spent for spent, _ in report["variants"]["plain"]["losses"]["1"]["model"]}
    )
    losses = next(figure for figure in report["figures"] if figure["name"].startswith("held-out loss"))
    assert set(losses["differences"]) == {"noise"}
    assert any("The probe of 'split' is left out: it needs two values of it" in told for told in report["warnings"])
    assert (
        report["facts"]["heard by"]
        == f"32 log-mel bands at {codecdiff.load(output / 'plain/seed-0/model').sample_rate:,} Hz"
    )
    page = (output / "index.html").read_text(encoding="utf-8")
    assert all(escape(told) in page for told in report["warnings"])
    assert not re.search(r"https?://|url\(|@import|<b>a tone", page)
    sounds = re.findall(r'<audio[^>]* src="([^"]*)"', page)
    assert sounds
    assert all((output / sound).is_file() for sound in sounds)
    assert "## Differences to the first variant" in (output / "report.md").read_text(encoding="utf-8")
    model = codecdiff.load(output / "noise" / "seed-1" / "model")
    assert model.stages[1].facts["start_from"]["stage"] == "primary"
    assert model.generate("a tone", seconds=0.1).isfinite().all()
    count = len(steps)
    compare("evaluation.resamples=10")
    assert len(steps) == count
    again = compare("experiment.train.learning_rate=1")
    assert "was trained otherwise: train.learning_rate is 0.001 there, 1.0 here" in again.output.replace("\n", "")
