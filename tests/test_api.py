"""The Python API, as a user of diffusers types it."""

import base64
import copy
import doctest
import inspect
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import soundfile
import torch
from test_cli import run
from torch import Tensor, nn

import codecdiff
from codecdiff import (
    Denoiser,
    GenerationConfig,
    GenerationInterrupted,
    Inpaint,
    Pipeline,
    PipelineOutput,
    Refine,
    Vary,
    config,
)
from codecdiff.diffusion.schedulers import SCHEDULERS
from codecdiff.errors import InvalidValue, UnknownName, UserError
from codecdiff.pipeline import GenerationOptions, GenerationRequest, Stage, base, generation, output, pipeline, stage
from codecdiff.pipeline.hub import find_model
from codecdiff.precision import SkipInit

Make = Callable[..., Pipeline]
hf: Any = diffusers
SHORT: dict[str, Any] = {"audio_length_in_s": 0.1}


@pytest.mark.parametrize("module", [base, generation, output, pipeline, stage], ids=lambda module: module.__name__)
def test_examples_of_docstrings_run(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecdiff_starter")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, report=False)
    assert result.attempted
    assert not result.failed


def test_public_names_are_listed_and_torch_waits() -> None:
    program = "import sys, codecdiff; print(*dir(codecdiff)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == codecdiff.__all__ == sorted(codecdiff.__all__)
    assert codecdiff.Pipeline is pipeline.Pipeline
    with pytest.raises(AttributeError, match="module 'codecdiff' has no attribute 'Pipelin'"):
        _ = codecdiff.Pipelin  # pyright: ignore[reportAttributeAccessIssue]


UNUSED = (
    *("torch._dynamo", "scipy.integrate", "scipy.ndimage", "scipy.signal", "scipy.stats"),
    *("sympy", "transformers", "librosa"),
)


@pytest.mark.integration
def test_generating_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """And the lists of files of all packages, which diffusers asks for, are not read."""
    pytest.importorskip("codecdiff_starter")
    program = f"""
import atexit, importlib.metadata, sys
from codecdiff.cli.main import main
importlib.metadata.packages_distributions = lambda: sys.exit("read")
atexit.register(lambda: print(*(name for name in {UNUSED} if name in sys.modules), file=sys.stderr))
sys.argv = ["codecdiff", "generate", "a tone", "--seconds", "0.2", "--num-inference-steps", "1", "-o", "a.wav"]
main()
"""
    run = partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert run([sys.executable, "-c", program]).stderr.splitlines()[-1] == ""


@pytest.mark.integration
def test_loading_imports_neither_torchs_compiler_nor_scipys_statistics() -> None:
    pytest.importorskip("codecdiff_starter")
    program = """
import sys, codecdiff
codecdiff.load("starter", device="cpu")
print(*(name for name in ("torch._dynamo", "scipy.stats", "sympy") if name in sys.modules))
import diffusers, torch
diffusers.EulerDiscreteScheduler(use_beta_sigmas=True).set_timesteps(5)  # which needs scipy.stats
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).sum() == 4  # which needs the compiler
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_weights_that_are_loaded_are_not_drawn_first() -> None:
    before = torch.get_rng_state()
    with SkipInit():
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Conv1d(2, 2, 3), torch.nn.Embedding(2, 2))
    assert torch.get_rng_state().equal(before)
    torch.nn.Linear(2, 2)
    assert not torch.get_rng_state().equal(before)


def test_a_call_returns_audio_codes_and_options(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    out = pipe(["drums", {"text": "piano"}], num_waveforms_per_prompt=2, seed=3, **SHORT)
    assert (out.audios.shape, out.audios.dtype, out.sampling_rate) == ((4, 1, 800), torch.float32, 8000)
    assert out.audios.abs().max() <= 1
    assert torch.equal(out.codes, torch.cat(list(pipe.generate_codes(["drums", "piano"], 20, out.generation_config))))
    assert out.prompts == [{"text": "drums"}] * 2 + [{"text": "piano"}] * 2
    assert out.generation_config == GenerationConfig(audio_length_in_s=0.1, num_waveforms_per_prompt=2, seed=3)
    assert repr(out) == "PipelineOutput(audios=(4, 1, 800), codes=(4, 4, 20), sampling_rate=8000)"
    same = pipe(["drums", "piano"], out.generation_config)
    assert torch.equal(same.codes, out.codes)
    assert torch.equal(pipe("drums", out.generation_config, num_waveforms_per_prompt=1).codes, out.codes[:1])


def test_none_leaves_an_option_as_the_model_has_it(make_pipeline: Make, tmp_path: Path) -> None:
    configured = GenerationConfig(audio_length_in_s=0.1, seed=5, negative_prompt="noise", num_inference_steps=2)
    pipe = make_pipeline(generation_config=configured)
    out = pipe("drums", seed=None, negative_prompt=None, guidance_scale=None)
    assert out.generation_config == configured
    pipe.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    options = {"audio_length_in_s": 0.1, "seed": 5, "negative_prompt": "noise", "num_inference_steps": 2}
    assert stored == {**options, "files": {}, "sha256": stored["sha256"]}
    again = Pipeline.from_pretrained(tmp_path)
    assert again.generation_config == configured
    assert torch.equal(again("drums").codes, out.codes)
    assert not torch.equal(again("drums", seed=6).codes, out.codes)
    (tmp_path / "generation_config.json").write_text('{"seed": "x"}')
    with pytest.raises(UserError, match=r"generation_config\.json cannot be used: seed = 'x': expected a whole number"):
        Pipeline.from_pretrained(tmp_path)
    for name, hint in {"sed": r"Did you mean 'seed'\?", "volume": "Known are audio_length_in_s, "}.items():
        (tmp_path / "generation_config.json").write_text(json.dumps({name: 3}))
        with pytest.raises(UserError, match=rf"generation_config\.json cannot be used: {name} is not a known .*{hint}"):
            Pipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"expected codecdiff\.GenerationConfig\("):
        pipe.generation_config = {"seed": 3}  # pyright: ignore[reportAttributeAccessIssue]


def test_keyword_arguments_are_the_fields_of_the_configuration() -> None:
    assert set(GenerationOptions.__annotations__) == set(GenerationConfig.model_fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": [1, 2]}, r"Invalid seed=\[1, 2\]: expected a whole number.*num_waveforms_per_prompt=2"),
        ({"seed": -1}, r"Invalid seed=-1: expected at least 0\.$"),
        ({"num_inference_step": 3}, "Unexpected option 'num_inference_step'. Did you mean 'num_inference_steps'?"),
        ({"seconds": 3}, "Unexpected option 'seconds'. Did you mean 'audio_length_in_s'?"),
        ({"cfg_scale": 3}, "Unexpected option 'cfg_scale'. Did you mean 'guidance_scale'?"),
        ({"volume": 3}, "Unexpected option 'volume'. Options: audio_length_in_s, "),
        ({"output_type": "pt"}, r"Unexpected option 'output_type'. Leave it out: out\.audios is a tensor"),
        ({"num_images_per_prompt": 2}, "'num_images_per_prompt'. Did you mean 'num_waveforms_per_prompt'?"),
        ({"callback": print}, "Unexpected option 'callback'. Did you mean 'callback_on_step_end'?"),
        ({"guidance_scale": "high"}, "Invalid guidance_scale='high': expected a number"),
        ({"guidance_scale": {"key": 3.0}}, "Unknown condition 'key' in guidance_scale"),
        ({"guidance_scale": {"primary": 3.0}}, r"Unknown condition 'primary'.*stages\['primary'\]\.sampling\.guidance"),
        ({"guidance_scale": [3.0, 1.5]}, r"expected a number or a mapping.*sampling\.guidance_scale and so on"),
        ({"guidance_scale": -3}, "Invalid guidance_scale=-3: expected at least 0"),
        ({"guidance_scale": 1000}, "Invalid guidance_scale=1000: expected at most 100"),
        ({"num_inference_steps": {"primary": 4}}, r"stages\['primary'\]\.sampling\.num_inference_steps"),
        ({"negative_prompt": ["x"]}, "expected text or a mapping.*Write one for all prompts"),
        ({"audio_length_in_s": float("nan")}, "Invalid audio_length_in_s=nan: expected a finite number"),
        ({"return_dict": False}, r"a call returns a PipelineOutput, whose audio is out\.audios"),
        ({"generator": 5}, r"Invalid generator of type int: expected one torch\.Generator"),
        ({"generator": [torch.Generator()]}, "Invalid generator of type list.*draws one seed, and every waveform"),
        ({"generation_config": "drums"}, "Invalid value of type str, 'drums': expected options by their names"),
        ({"generation_config": {"seed": 1}}, "Invalid value of type dict"),
        ({"callback_on_step_end": 5}, "Invalid callback_on_step_end=5: expected a function"),
        ({"callback_on_step_end": lambda *_: "x"}, "callback_on_step_end returned 'x': expected its last argument"),
        ({"callback_on_step_end": lambda *_: {"latents": 1}}, "returned latents 1: expected a tensor of shape"),
        (
            {"callback_on_step_end": lambda *_: {"latents": torch.ones(2)}},
            r"returned latents \(2,\): expected a tensor",
        ),
        ({"generator": torch.Generator(), "seed": 1}, "Both seed and generator"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_option_is_a_sentence(make_pipeline: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_pipeline()("drums", **{**SHORT, **options})


def test_an_unknown_option_is_a_type_error_too(make_pipeline: Make) -> None:
    with pytest.raises(TypeError):
        make_pipeline()("drums", stps=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"torch_dtype": torch.float16}, "Unexpected option 'torch_dtype'. Did you mean 'dtype'?"),
        ({"device_map": "auto"}, "Unexpected option 'device_map'. Use device='cuda', or pipe.enable_model_cpu_offload"),
        ({"use_safetensors": True}, "Unexpected option 'use_safetensors'. Leave it out: all weights are safetensors"),
        ({"alow_download": True}, "Unexpected option 'alow_download'. Did you mean 'allow_download'?"),
        ({"revision": "main"}, "Options: dtype, device, compile, allow_download, allow_local_parts"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_an_option_of_loading_that_is_called_otherwise_here_is_named(options: dict[str, Any], message: str) -> None:
    for load in (Pipeline.from_pretrained, codecdiff.load):
        with pytest.raises(TypeError, match=message) as caught:
            load("starter", **options)
        assert isinstance(caught.value, UserError)
    parameters = inspect.signature(codecdiff.load).parameters
    assert list(parameters) == ["name", "dtype", "device", "compile", "allow_download", "allow_local_parts"]


@pytest.mark.parametrize("prompt", [3, None, [3], ["drums", None]], ids=str)
def test_a_wrong_prompt_is_a_sentence(make_pipeline: Make, prompt: Any) -> None:
    with pytest.raises(
        UserError, match=r"Invalid prompt .*: expected a text, a mapping of fields .* or a list of these"
    ):
        make_pipeline()(prompt)


def test_a_generator_draws_the_seed(make_pipeline: Make) -> None:
    pipe, generator = make_pipeline(), torch.Generator().manual_seed(4)
    first, second = (pipe("drums", generator=generator, **SHORT) for _ in range(2))
    assert not torch.equal(first.codes, second.codes)
    again = pipe("drums", generator=torch.Generator().manual_seed(4), **SHORT)
    assert torch.equal(again.codes, first.codes)
    assert torch.equal(pipe("drums", seed=first.generation_config.seed, **SHORT).codes, first.codes)


def test_a_callback_sees_every_step_and_may_replace_the_latents(make_pipeline: Make) -> None:
    pipe, calls = make_pipeline(), []

    def record(received: Pipeline, step: int, timestep: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        calls.append((received is pipe, step, int(timestep), values["stage"], tuple(values["latents"].shape)))
        return values

    plain = pipe(["a", "b", "c"], batch_size=2, **SHORT)
    out = pipe(["a", "b", "c"], batch_size=2, callback_on_step_end=record, **SHORT)
    assert torch.equal(out.codes, plain.codes)
    assert pipe.num_timesteps == len(calls) == 2 * 2 * 3  # batches, stages, steps
    assert [call[1] for call in calls] == list(range(12))
    assert all(call[0] for call in calls)
    assert [call[3] for call in calls] == 2 * (3 * ["primary"] + 3 * ["secondary"])
    assert [call[4] for call in calls] == 3 * [(2, 8, 20)] + 3 * [(2, 24, 20)] + 3 * [(1, 8, 20)] + 3 * [(1, 24, 20)]
    assert len({call[2] for call in calls[:3]}) == 3
    zeroed = pipe("a", callback_on_step_end=lambda *args: {"latents": torch.zeros_like(args[3]["latents"])}, **SHORT)
    zero = torch.zeros(1, 4, pipe.codec.codebook_dim, 20)
    assert torch.equal(zeroed.codes, pipe.codec.quantize(zero))
    assert torch.equal(pipe("a", callback_on_step_end=lambda *_: None, **SHORT).codes, plain.codes[:1])


@pytest.mark.parametrize("scheduler", ["heun", "pndm", "ddpm"])
def test_steps_are_counted_for_every_scheduler_and_edit(make_pipeline: Make, scheduler: str) -> None:
    pipe, steps = make_pipeline(), []
    for each in pipe.stages:
        each.scheduler = scheduler
    song = pipe("a", callback_on_step_end=lambda _, step, *__: steps.append(step), **SHORT)
    assert steps == list(range(pipe.num_timesteps))
    for edit in (Refine(keep=(0,)), Vary(strength=0.4)):
        steps.clear()
        pipe.edit(song.audios[0], edit, callback_on_step_end=lambda _, step, *__: steps.append(step))
        assert steps == list(range(pipe.num_timesteps))


def test_a_progress_bar_is_shown_if_it_is_asked_for(make_pipeline: Make, capsys: pytest.CaptureFixture[str]) -> None:
    pipe, steps = make_pipeline(), []
    pipe("drums", **SHORT)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(desc="Sampling")
    pipe("drums", callback_on_step_end=lambda _, step, *__: steps.append(step), **SHORT)
    assert re.search(r"Sampling: 100%.*\b6/6\b", capsys.readouterr().err)
    assert steps == list(range(6))
    pipe.set_progress_bar_config(disable=True)
    pipe("drums", **SHORT)
    assert capsys.readouterr().err == ""


def test_a_negative_prompt_without_effect_gets_a_note(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    with pytest.warns(UserWarning, match="negative prompt has no effect: no stage is guided"):
        pipe("drums", negative_prompt="piano", guidance_scale=1, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe("drums", guidance_scale=1, **SHORT)
        pipe("drums", negative_prompt="piano", **SHORT)


def test_a_run_can_be_stopped(make_pipeline: Make) -> None:
    pipe, steps = make_pipeline(), []

    def stop(received: Pipeline, step: int, timestep: Tensor, values: dict[str, Any]) -> None:
        steps.append(step)
        if step == 3:
            received.interrupt()

    with pytest.raises(GenerationInterrupted, match="interrupted in stage secondary"):
        pipe("drums", callback_on_step_end=stop, **SHORT)
    assert steps == [0, 1, 2, 3]
    assert pipe("drums", **SHORT).audios.isfinite().all()  # the next run is another


def test_waveforms_are_saved_and_played(make_pipeline: Make, tmp_path: Path) -> None:
    tempo = {"name": "numeric", "fields": {"tempo": {"low": 40, "high": 220}}}
    pipe = make_pipeline(conditioner={"name": "joined", "conditioners": [{"name": "words"}, tempo]})
    out = pipe(["<b>drums</b>", {"text": "", "tempo": 120}], **SHORT)
    files = out.save(tmp_path / "deep" / "a{n}.wav")
    assert [file.name for file in files] == ["a1.wav", "a2.wav"]
    samples, rate = soundfile.read(files[1], dtype="float32")
    assert rate == 8000
    torch.testing.assert_close(torch.from_numpy(samples), out.audios[1, 0], rtol=0, atol=1 / 2**15)
    request = GenerationRequest.from_file(files[1])
    assert (request.prompt, request.generation.first_sample_index) == ({"text": "", "tempo": 120}, 1)
    with pytest.warns(
        UserWarning, match=r"long\.wav was written without .* 60,\d\d\d bytes .* Use \.flac to keep them"
    ):
        make_pipeline()("drums " * 10_000, **SHORT).save(tmp_path / "long.wav")
    with pytest.raises(UserError, match=r"2 waveforms cannot all be 'a\.wav': write 'a-\{n\}\.wav'"):
        out.save("a.wav")
    page = out._repr_html_()
    assert page.count("<audio controls") == 2
    assert "&lt;b&gt;drums" in page
    assert "<b>" not in page
    assert "tempo 120" in page
    played = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", page)]
    assert [soundfile.info(io.BytesIO(sound)).frames for sound in played] == [800, 800]


@pytest.mark.parametrize("prompt", [{"text": "drums", "tmpo": 120}, ["drums", {"txt": "drums"}]])
def test_fields_that_the_model_does_not_read_are_refused(make_pipeline: Make, prompt: Any) -> None:
    pipe = make_pipeline()
    with pytest.raises(InvalidValue, match=r"Unknown field 't\w+' of this model's prompts\. Available: text\."):
        pipe(prompt, **SHORT)
    with pytest.raises(InvalidValue, match=r"Unknown field 'txt'.*Did you mean 'text'\?"):
        pipe("", negative_prompt={"txt": "drums"}, **SHORT)
    with pytest.raises(InvalidValue, match="Unknown field 'tempo'"):
        pipe.edit(torch.zeros(1, 800), Inpaint(regions=((0.02, 0.05),)), {"tempo": 120}, **SHORT)
    empty = pipe({"text": "drums", "tempo": None, "key": ""}, **SHORT)  # as in a row of a table
    assert torch.equal(empty.codes, pipe("drums", **SHORT).codes)


def test_a_text_that_is_not_read_is_named(make_pipeline: Make) -> None:
    with pytest.warns(UserWarning, match=r"was trained without conditions: the text is ignored"):
        make_pipeline(conditioner=None)("drums", **SHORT)


def test_a_saved_file_is_generated_again_by_the_command_line(make_pipeline: Make, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    pipe = Pipeline.from_pretrained(tmp_path / "model")
    (file,) = pipe("drums", seed=3, negative_prompt="piano", **SHORT).save(tmp_path / "out.flac")
    request = GenerationRequest.from_file(file)
    assert request.model_name.endswith("/model")
    assert (request.model, request.generation.seed) == (pipe.fingerprint, 3)
    assert "holds the same samples" in run("inspect", file, "--model", tmp_path / "model").output
    edited = pipe.edit(file, Refine(keep=(0,)), "piano", seed=4).save(tmp_path / "edited.flac")
    again = run("inspect", *edited, "--model", tmp_path / "model", "--source", file)
    assert "holds the same samples" in again.output


def test_schedulers_of_diffusers_replace_that_of_a_stage(make_pipeline: Make) -> None:
    pipe = make_pipeline()
    primary = pipe.stages["primary"]
    by_name, named = (
        {},
        {"unipc": "UniPCMultistepScheduler", "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"},
    )
    for name, class_name in named.items():
        primary.scheduler = name
        by_name[name] = pipe("drums", **SHORT).codes
        for replacement in (
            getattr(hf, class_name),
            getattr(hf, class_name).from_config(primary.train_scheduler.config),
        ):
            primary.scheduler = "ddpm"
            primary.scheduler = replacement
            assert primary.sampling.scheduler == name
            assert torch.equal(pipe("drums", **SHORT).codes, by_name[name])
    assert not torch.equal(by_name["unipc"], by_name["euler"])
    primary.scheduler = hf.DPMSolverMultistepScheduler.from_config(
        primary.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2, use_karras_sigmas=True
    )
    assert (primary.sampling.scheduler, primary.sampling.timestep_spacing) == ("dpm++2m-sde", "karras")
    before = primary.sampling
    for wrong, message in {
        "unpc": "Unknown scheduler 'unpc'.*Did you mean 'unipc'",
        "euler_a": "Unknown scheduler 'euler_a'.*Did you mean 'euler-a'",
        hf.FlowMatchEulerDiscreteScheduler: "cannot sample this model: it is for flow models",
        hf.LCMScheduler: "Unsupported scheduler 'LCMScheduler': it needs a model distilled for it",
        hf.DDIMScheduler(prediction_type="epsilon"): r"DDIMScheduler has prediction_type=epsilon, not v_prediction",
        hf.PNDMScheduler.from_config(primary.scheduler.config): "supports only timestep_spacing=even",
        hf.DEISMultistepScheduler.from_config(primary.train_scheduler.config, solver_order=3): (
            r"expected solver_order=2, as made by DEISMultistepScheduler\.from_config\(.*, solver_order=2\)"
        ),
        5: "Invalid scheduler 5: expected a name, a scheduler of diffusers",
    }.items():
        with pytest.raises(UserError, match=message):
            primary.scheduler = wrong
        assert primary.sampling == before
    with pytest.raises(UnknownName, match=r"No trained stage 'primray'\. .* Did you mean 'primary'\?"):
        _ = pipe.stages["primray"]


CLASSES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm++2m": "DPMSolverMultistep",
    "dpm++2s": "DPMSolverSinglestep",
    "unipc": "UniPCMultistep",
    "euler": "EulerDiscrete",
    "euler-a": "EulerAncestralDiscrete",
    "heun": "HeunDiscrete",
    "lms": "LMSDiscrete",
    "deis": "DEISMultistep",
    "pndm": "PNDM",
}


def scheduler_of(chosen: Stage) -> Any:
    """Return the scheduler of a stage, for type checkers too where a name was assigned before."""
    return chosen.scheduler


@pytest.mark.parametrize("first", SCHEDULERS)
def test_a_scheduler_is_made_from_that_of_any_other(make_pipeline: Make, first: str) -> None:
    chosen = make_pipeline().stages["primary"]
    chosen.scheduler = first
    chosen.scheduler = type(scheduler_of(chosen)).from_config(scheduler_of(chosen).config)
    assert chosen.sampling.scheduler == first
    for name, class_name in CLASSES.items():
        if (first, name) in (("dpm++2m-sde", "dpm++2m"), ("dpm++2m-sde", "deis")):
            continue  # the former stays what it is, which is of the same class; diffusers refuses the latter
        chosen.scheduler = first
        chosen.scheduler = getattr(hf, f"{class_name}Scheduler").from_config(scheduler_of(chosen).config)
        assert chosen.sampling.scheduler == name


def test_noise_levels_of_karras_are_chosen_and_left(make_pipeline: Make) -> None:
    chosen = make_pipeline().stages["primary"]
    chosen.scheduler = "ddim"
    for is_karras, spacing in ((True, "karras"), (None, "karras"), (False, "even")):
        options = {} if is_karras is None else {"use_karras_sigmas": is_karras}
        chosen.scheduler = hf.DPMSolverMultistepScheduler.from_config(scheduler_of(chosen).config, **options)
        assert (chosen.sampling.scheduler, chosen.sampling.timestep_spacing) == ("dpm++2m", spacing)


def test_sampling_that_is_assigned_keeps_what_it_does_not_set(make_pipeline: Make) -> None:
    chosen: Any = make_pipeline().stages["primary"]
    chosen.sampling = codecdiff.SamplingConfig(num_inference_steps=6)
    sampling = chosen.sampling
    assert (sampling.num_inference_steps, sampling.scheduler, sampling.guidance_scale) == (6, "dpm++2m", 2.0)
    for wrong, message in (
        (5, r"Invalid value of type int, 5: expected codecdiff\.SamplingConfig\("),
        (codecdiff.SamplingConfig(scheduler="unpc"), "Unknown scheduler 'unpc'"),
        (codecdiff.SamplingConfig(num_inference_steps=1000), "Invalid num_inference_steps=1000: expected 1 to 100"),
    ):
        with pytest.raises(UserError, match=message):
            chosen.sampling = wrong  # pyright: ignore[reportAttributeAccessIssue]
        assert chosen.sampling is sampling
    other = make_pipeline().stages["secondary"]
    other.sampling = codecdiff.SamplingConfig(guidance_method="apg", scheduler="euler")
    other.sampling = sampling  # that of a stage sets everything
    assert other.sampling == sampling
    assert repr(codecdiff.SamplingConfig(num_inference_steps=6)) == "SamplingConfig(num_inference_steps=6)"
    assert re.fullmatch(
        r"Stage primary: unet, [\d,]+ parameters; dpm\+\+2m, 6 steps, guidance scale 2\.0", repr(chosen)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scheduler", r"no attribute 'scheduler'\. Each stage has its own.*pipe\.stages\['primary'\]\.scheduler"),
        ("unet", r"pipe\.stages\['primary'\]\.denoiser"),
        ("vae", r"pipe\.codec"),
        ("config", r"pipe\.to_config\(\)"),
        ("load_lora_weights", r"pipe\.load_adapter"),
        ("num_inference_steps", r"pipe\.generation_config\.merge\(num_inference_steps=\.\.\.\)"),
        ("stags", r"A Pipeline has no attribute 'stags'\. Did you mean 'stages'\?"),
    ],
)
def test_an_attribute_of_other_pipelines_leads_to_that_of_this_one(
    make_pipeline: Make, name: str, message: str
) -> None:
    pipe = make_pipeline()
    for use in (lambda: getattr(pipe, name), lambda: setattr(pipe, name, None)):
        with pytest.raises(AttributeError, match=message) as caught:
            use()
        assert isinstance(caught.value, UserError)
    assert not hasattr(pipe, name)
    with pytest.raises(
        AttributeError, match=r"'device' of a Pipeline cannot be set\. Use pipe\.to\('cuda'\)"
    ) as caught:
        pipe.device = "cpu"  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(caught.value, UserError)
    for wrong in (3, [3]):
        with pytest.raises(
            UserError, match=r"Invalid value of type int, 3: expected a (list of stages|stage, such as)"
        ):
            pipe.stages = wrong  # pyright: ignore[reportAttributeAccessIssue]
    for part in ("codec", "splitter", "conditioner"):
        with pytest.raises(
            UserError, match=f"Invalid value of type str, 'dac': expected a {part}, as that of a pipeline"
        ):
            setattr(pipe, part, "dac")
    with pytest.raises(UserError, match=r"A Stage has no attribute 'samplng'\. Did you mean 'sampling'\?"):
        pipe.stages[0].samplng = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=r"no attribute 'num_inference_steps'.*stage\.sampling\.num_inference_steps"):
        pipe.stages[0].num_inference_steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_subclass_of_a_pipeline_has_attributes_of_its_own(make_pipeline: Make) -> None:
    class Own(Pipeline):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            self.unet = 3

        @property
        def broken(self) -> int:
            return self.missing  # pyright: ignore[reportAttributeAccessIssue]

    own = copy.copy(Own(**make_pipeline().components))
    own.unet, own._private = 4, 5  # pyright: ignore[reportAttributeAccessIssue]
    assert (own.unet, own.dtype, own.sampling_rate) == (4, torch.float32, own.sample_rate)
    with pytest.raises(AttributeError, match="'missing'"):  # not 'broken'
        _ = own.broken
    with pytest.raises(AttributeError, match="'text_encoder'"):
        own.text_encoder = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"quick": {}}, r"Unknown preset 'quick'.*Available: paper, balanced, fast"),
        ({"fast": {"first": {}}}, r"Unknown stage 'first'.*Available: primary, secondary"),
        ({"fast": {"primary": {"steps": 3}}}, r"fast\.primary\.steps is not a known name"),
        (None, "expected a mapping"),
    ],
)
def test_presets_that_no_call_could_use_are_refused(make_pipeline: Make, presets: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make_pipeline().presets = presets
    with pytest.raises(InvalidValue, match=message):
        make_pipeline(presets=presets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: codecdiff.SamplingConfig(steps=6), "Did you mean 'num_inference_steps'"),
        (lambda: GenerationConfig(length=3), "Did you mean 'audio_length_in_s'"),
        (lambda: setattr(GenerationConfig(), "seed", 3), r"cannot be changed.*config\.merge\(seed=3\)"),
        (lambda: setattr(codecdiff.SamplingConfig(), "guidance_scal", 8), "Did you mean 'guidance_scale'"),
        (lambda: setattr(codecdiff.SamplingConfig(), "guidance_scale", "x"), "Invalid guidance_scale='x'"),
        (lambda: Inpaint(regions=(0.5, 1)), r"expected a list, as in Inpaint\(regions=\[\(2, 3\.5\)\]\)"),
        (lambda: Inpaint(regions=[(1,)]), r"regions\.0\.1 is missing"),
        (lambda: Refine(keep=0), r"expected a list, as in Refine\(keep=\[0, 1\]\)"),
        (lambda: Vary(strength=2), r"Invalid strength=2: expected at most 1\.$"),
        (lambda: Vary(0.4), r"Vary takes keyword arguments only, as in Vary\(strength=0\.4\)"),  # pyright: ignore[reportCallIssue]
        (lambda: Vary(), r"Vary needs strength, as in Vary\(strength=0\.4\)"),
    ],
)
def test_options_that_cannot_be_are_a_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_from_config_of_a_stages_scheduler_warns_of_nothing(make_pipeline: Make, capfd: Any) -> None:
    config = make_pipeline().stages["primary"].scheduler.config
    hf.UniPCMultistepScheduler.from_config(config)
    assert "not expected" not in capfd.readouterr().err


def test_components_make_the_same_model(make_pipeline: Make) -> None:
    pipe = make_pipeline(snap_context=False)
    pipe.presets = {"fast": {"primary": config.SamplingConfig(num_inference_steps=2)}}
    again = Pipeline(**pipe.components)
    assert again.codec is pipe.codec
    assert {name: value for name, value in again.components.items() if value != pipe.components[name]} == {}
    with pytest.raises(ValueError, match=r"no argument 'preset'\. Did you mean 'presets'\?"):
        Pipeline(**pipe.components, preset={})  # pyright: ignore[reportCallIssue]
    assert again.stages[1].denoiser is pipe.stages["secondary"].denoiser
    assert torch.equal(again("drums", **SHORT).codes, pipe("drums", **SHORT).codes)


def test_load_is_from_pretrained_and_finds_the_model_of_a_run(make_pipeline: Make, tmp_path: Path) -> None:
    assert codecdiff.load == Pipeline.from_pretrained
    make_pipeline().save_pretrained(tmp_path / "run" / "model")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "model"
    assert codecdiff.load(tmp_path / "run", device="cpu").folder == tmp_path / "run" / "model"
    for wrong in (None, "", 3):
        with pytest.raises(UserError, match=f"Invalid model {wrong!r}: expected a name or a folder"):
            codecdiff.load(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="Invalid value of type NoneType, None: expected a folder"):
        make_pipeline().save_pretrained(None)  # pyright: ignore[reportArgumentType]
    (tmp_path / "file.py").touch()
    with pytest.raises(UserError, match=r"file\.py' is a file: name a folder"):
        make_pipeline().save_pretrained(tmp_path / "file.py")
    with pytest.raises(UnknownName, match=r"No model 'startr'.*Did you mean 'starter'\?"):
        codecdiff.load("startr")


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.integration)])
def test_denoisers_in_half_precision(make_pipeline: Make, tmp_path: Path, dtype: torch.dtype) -> None:
    pipe = make_pipeline()
    whole = next(iter(pipe.stages)).denoiser
    expected = pipe("drums", **SHORT)
    pipe.save_pretrained(tmp_path)
    half = Pipeline.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for each in half.stages for p in each.denoiser.parameters()} == {dtype}
    assert {p.dtype for p in half.codec.parameters()} == {torch.float32} == {p.dtype for p in whole.parameters()}
    seen: list[Tensor] = []
    out = half("drums", callback_on_step_end=lambda *args: seen.append(args[3]["latents"]), **SHORT)
    assert {latents.dtype for latents in seen} == {torch.float32}
    exact: list[Tensor] = []
    pipe("drums", callback_on_step_end=lambda *args: exact.append(args[3]["latents"]), **SHORT)
    error = (seen[2] - exact[2]).abs().max()  # of the first stage, before codes
    assert 0 < error < 0.1
    assert out.audios.shape == expected.audios.shape
    assert {p.dtype for each in half.to(torch.float32).stages for p in each.denoiser.parameters()} == {torch.float32}
    with pytest.raises(UserError, match=r"Invalid dtype torch\.int8: expected torch\.float32"):
        half.to(torch.int8)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_a_sentence(make_pipeline: Make, device: str) -> None:
    with pytest.raises(UserError, match=f"Device '{device}' cannot be used: .*codecdiff doctor"):
        make_pipeline().to(device)


def test_offloading_has_one_part_on_the_device_at_a_time(make_pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, resident, events = make_pipeline(), set[int](), []
    parts = {id(pipe.codec): "codec", id(pipe.conditioner): "conditioner"}
    parts |= {id(each.denoiser): each.name for each in pipe.stages}
    expected = pipe("drums", **SHORT)
    accelerator, move = torch.device("cpu:0"), nn.Module.to  # a second name of the CPU stands for an accelerator

    def record(self: nn.Module, device: Any) -> nn.Module:
        if id(self) in parts:
            (resident.add if device == accelerator else resident.discard)(id(self))
            events.append((parts[id(self)], len(resident)))
        return move(self, device)

    monkeypatch.setattr(base, "usable_device", torch.device)  # which keeps the two names apart
    pipe.enable_model_cpu_offload(accelerator)
    monkeypatch.setattr(nn.Module, "to", record)
    out = pipe("drums", **SHORT)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.audios, expected.audios)
    assert pipe.device == accelerator
    assert max(count for _, count in events) == 1
    assert not resident
    loaded = [name for name, count in events if count]
    assert loaded == ["conditioner", "primary", "codec", "secondary", "codec", "codec"]
    with pytest.raises(GenerationInterrupted):
        pipe("drums", callback_on_step_end=lambda received, *_: received.interrupt(), **SHORT)
    assert not resident  # an interrupted run leaves nothing there
    events.clear()
    edited = pipe.edit(out.audios[0], Refine(keep=(0,)))
    assert edited.audios.shape == out.audios.shape
    assert max(count for _, count in events) == 1
    pipe.to("cpu")
    events.clear()
    pipe("drums", **SHORT)
    assert not events


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_offloading_needs_an_accelerator(make_pipeline: Make) -> None:
    with pytest.raises(UserError, match="No accelerator to move stages to"):
        make_pipeline().enable_model_cpu_offload()


def test_editing_keeps_what_the_edit_says(make_pipeline: Make, tmp_path: Path) -> None:
    pipe = make_pipeline()
    song = pipe("drums", audio_length_in_s=0.2)
    edit = Inpaint(regions=((0.05, 0.1),))
    out = pipe.edit(song.audios[0], edit, "piano", seed=2, num_waveforms_per_prompt=2)
    assert isinstance(out, PipelineOutput)
    source = pipe.codec.encode(song.audios)
    kept = torch.ones(40, dtype=torch.bool)
    kept[10:20] = False
    assert torch.equal(out.codes[..., kept], source[..., kept].expand(2, -1, -1))
    assert not torch.equal(out.codes[:1, :, ~kept], source[..., ~kept])
    assert not torch.equal(out.codes[:1], out.codes[1:])
    soundfile.write(tmp_path / "song.wav", song.audios[0].T.numpy(), 8000, subtype="FLOAT")
    assert torch.equal(pipe.edit(tmp_path / "song.wav", edit, "piano", seed=2).codes, out.codes[:1])
    extended = pipe.edit(song.audios[0], codecdiff.Extend(seconds=0.1))
    assert extended.audios.shape == (1, 1, 2400)
    with pytest.raises(UserError, match=r"Invalid audio of shape \(1, 1, 1600\): expected \(ch, t\)"):
        pipe.edit(song.audios, edit)
    wrong: Any
    for wrong in (song, song.audios[0].numpy()):
        with pytest.raises(
            UserError, match=r"Invalid audio of type \w+: expected a file, or a tensor \(ch, t\) of 8,000"
        ):
            pipe.edit(wrong, edit)
    with pytest.raises(UserError, match=r"Invalid value of type str, 'vary': expected an edit such as codecdiff\.Vary"):
        pipe.edit(song.audios[0], "vary")  # pyright: ignore[reportArgumentType]


def test_a_pipeline_says_what_it_is(make_pipeline: Make) -> None:
    text = repr(make_pipeline())
    assert text.startswith("Pipeline on cpu, denoisers in float32\n")
    lines = dict(line.split(maxsplit=1) for line in text.splitlines()[1:])
    assert list(lines) == ["codec", "pattern", "conditioner", "primary", "secondary"]
    assert lines["codec"].startswith("normalized(dac): 4 codebooks of ")
    assert lines["codec"].endswith("8,000 Hz")
    assert lines["pattern"] == "coarse-first: primary, secondary"
    assert lines["conditioner"] == "words, reads text"
    assert re.fullmatch(r"unet, [\d,]+ parameters; dpm\+\+2m, 3 steps, guidance scale 2\.0", lines["primary"])
    assert "conditioner  none" in repr(make_pipeline(conditioner=None))

    class Own(Denoiser):
        """A denoiser of a notebook, which no package registers."""

        def forward(
            self, noisy: Tensor, timestep: Tensor, context: Tensor | None, condition: codecdiff.Condition
        ) -> Tensor:
            return noisy

    pipe = make_pipeline()
    pipe.stages[0] = Stage("primary", Own(), pipe.stages[0].train_scheduler)
    assert "primary      Own, 0 parameters; ddpm" in repr(pipe)


def test_a_pipeline_is_pushed_with_its_card_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecdiff_starter")
    sent: dict[str, bytes] = {}

    def upload(folder: Path, name: str, private: bool | None) -> str:
        sent.update({f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()})
        return f"https://hub/{name}/{private}"

    monkeypatch.setattr("codecdiff.pipeline.hub.upload_folder", upload)
    codecdiff.load("starter").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("# My model\n")
    log = (tmp_path / "primary" / "log.jsonl").read_bytes()
    pipe = codecdiff.load(tmp_path)
    pipe.stages["primary"].sampling.num_inference_steps = 5
    assert pipe.push_to_hub("me/model", private=True) == "https://hub/me/model/True"
    assert sent["README.md"] == b"# My model\n"
    assert sent["primary/log.jsonl"] == log
    assert log.startswith(b"{")
    assert json.loads(sent["primary/stage.json"])["num_inference_steps"] == 5  # as it is, not as it was loaded
    assert {"codecdiff.json", "generation_config.json", "secondary/model.safetensors"} <= sent.keys()
