"""Controls: conditions with a token for every latent frame, in training and in sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small import RATE, UNET, noise, tone
from test_windows import Inputs
from torch import Tensor

from codecdiff import Condition, Conditioner, ConditionTokens, Extend, Inpaint, Pipeline, config, prompt_fields
from codecdiff.cli.generate import parse_controls
from codecdiff.conditioners import JoinedConditioner, load_audio_prompt
from codecdiff.data.audio import write_audio
from codecdiff.data.code_store import CodeStore
from codecdiff.data.dataset import TrainingCrops
from codecdiff.denoisers import ControlInput, control_frames
from codecdiff.errors import InvalidValue, UserError
from codecdiff.files import sha256
from codecdiff.pipeline.conditions import align_controls
from codecdiff.pipeline.provenance import GenerationRequest
from codecdiff.training.batch import stage_input

Make = Callable[..., Pipeline]
PER_SECOND = 4000.0  # tokens of the clock


class Clock(Conditioner):
    """The control `clock`: token n of a file is n."""

    fields = ("controls",)

    @property
    def widths(self) -> dict[str, int]:
        return {"clock": 1}

    @property
    def control_rates(self) -> dict[str, float]:
        return {"clock": PER_SECOND}

    def encode(self, prompts: Sequence[Any]) -> Condition:
        files = [(prompt_fields(prompt).get("controls") or {}).get("clock") for prompt in prompts]
        counts = [0 if file is None else -(-len(load_audio_prompt(file, RATE)) // 2) for file in files]
        tokens = torch.arange(max([1, *counts]), dtype=torch.float32).expand(len(prompts), -1)
        return Condition({"clock": ConditionTokens(tokens[..., None], tokens < torch.tensor(counts)[:, None])})


class Rates(Clock):
    """Controls of these rates."""

    def __init__(self, **rates: float) -> None:
        super().__init__()
        self.rates = rates

    @property
    def control_rates(self) -> dict[str, float]:
        return self.rates


@pytest.fixture
def pipe(make_pipeline: Make) -> Pipeline:
    return with_clock(make_pipeline())


def with_clock(pipe: Pipeline) -> Pipeline:
    assert pipe.conditioner is not None
    pipe.conditioner = JoinedConditioner([pipe.conditioner, Clock()])
    return pipe


def audio(folder: Path, seconds: float) -> str:
    write_audio(folder / f"{seconds}.wav", torch.from_numpy(tone(seconds, 300))[None], RATE)
    return str(folder / f"{seconds}.wav")


def expected(frames: Tensor, rate: float, start: float = 0.0) -> Tensor:
    """Return what the clock says in the middle of latent frames."""
    return (start + (frames + 0.5) / rate) * PER_SECOND - 0.5


def entry(values: Sequence[float], real: int) -> ConditionTokens:
    tokens = torch.tensor(values, dtype=torch.float32)[None, :, None]
    return ConditionTokens(tokens, torch.arange(len(values))[None] < real)


# Alignment


@pytest.mark.parametrize(
    ("rate", "start", "values", "real"),
    [
        (2.0, 0.0, [1, 2, 3, 4], [1, 1, 1, 1]),  # as they are
        (1.0, 0.0, [1.5, 3.5], [1, 1]),  # the mean of two
        (4.0, 0.0, [1, 1, 2, 2, 3], [1, 1, 1, 1, 1]),  # each twice
        (2.0, 1.0, [3, 4, 0], [1, 1, 0]),  # from its second second on
        (2.0, 0.25, [1.5, 2.5, 3.5, 4], [1, 1, 1, 1]),  # between two, and half of the last
        (0.8, 0.0, [1.8, 5.5 / 1.5], [1, 1]),  # two and a half, then what is left of them
        (0.5, 1.5, [4, 0], [0, 0]),  # an eighth of a frame is too little
    ],
)
def test_a_frame_has_the_mean_of_the_tokens_during_it(
    rate: float, start: float, values: list[float], real: list[int]
) -> None:
    condition = Condition({"a": entry([1, 2, 3, 4, 9], 4), "b": entry([1, 2], 2)})
    aligned = align_controls(condition, Rates(a=2.0), [{"start": start}], len(values), rate)
    assert aligned["a"].mask[0].tolist() == [bool(each) for each in real]
    wanted = torch.tensor(values, dtype=torch.float32) * torch.tensor(real)
    torch.testing.assert_close(aligned["a"].tokens[0, :, 0], wanted)
    assert aligned["b"] is condition["b"] or torch.equal(aligned["b"].tokens, condition["b"].tokens)


def test_every_row_has_its_own_start_and_length() -> None:
    rows = Condition.cat([Condition({"a": entry([1, 2, 3], 3)}), Condition({"a": entry([5, 6], 2)})])
    aligned = align_controls(rows, Rates(a=1.0), [{"start": 1.0}, "a text"], 3, 1.0)
    assert aligned["a"].tokens[..., 0].tolist() == [[2, 3, 0], [5, 6, 0]]
    assert aligned["a"].mask.tolist() == [[True, True, False], [True, True, False]]


# Sampling


@pytest.mark.parametrize("splitter", ["coarse-first", "flattened", "delayed"])
def test_every_window_of_every_stage_has_its_part_of_a_control(
    make_pipeline: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, splitter: str
) -> None:
    pipe, seen = with_clock(make_pipeline(splitter)), Inputs(monkeypatch)
    frames = pipe.frames(1.2)
    prompt = {"text": "a tone", "controls": {"clock": audio(tmp_path, 2.0)}}
    list(pipe.generate_codes([prompt, "no control"], frames, window_in_s=0.5))
    rate = pipe.codec.frame_rate * (pipe.codec.num_codebooks if splitter == "flattened" else 1)
    assert len({len(call.noise[0, 0]) for call in seen.calls}) <= 2
    starts = []
    for call in seen.calls:
        tokens, mask = call.condition["clock"]
        assert tokens.shape[:2] == (2, call.noise.shape[-1])
        assert mask.tolist() == [[True] * len(mask[0]), [False] * len(mask[0])]
        starts.append(round(float((tokens[0, 0, 0] + 0.5) / PER_SECOND * rate - 0.5)))
        torch.testing.assert_close(
            tokens[0, :, 0], expected(torch.arange(mask.shape[1]) + starts[-1], rate), atol=0.6, rtol=0
        )
        assert not call.negative_condition["clock"].mask.any()
    assert len(set(starts)) == len(seen.calls) // len(pipe.stages)


def test_a_loop_has_the_control_of_its_end_and_its_beginning(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = Inputs(monkeypatch)
    prompt = {"text": "a tone", "controls": {"clock": audio(tmp_path, 1.0)}}
    (codes,) = pipe.generate_codes([prompt], pipe.frames(1.0), loop=True)
    frames = codes.shape[-1]
    seam = torch.arange(-(frames // 2), frames // 2) % frames
    wanted = expected(seam, pipe.codec.frame_rate)
    torch.testing.assert_close(seen.calls[1].condition["clock"].tokens[0, :, 0], wanted, atol=0.6, rtol=0)


@pytest.mark.parametrize("edit", [Inpaint(regions=((0.3, 0.6),)), Extend(seconds=0.5)])
def test_an_edit_has_the_control_of_the_whole_track(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edit: Any
) -> None:
    seen = Inputs(monkeypatch)
    source, control = audio(tmp_path, 1.0), audio(tmp_path, 2.0)
    out = pipe.edit(source, edit, {"text": "a tone", "controls": {"clock": control}})
    wanted = expected(torch.arange(out.codes.shape[-1]), pipe.codec.frame_rate)
    for call in seen.calls:
        torch.testing.assert_close(call.condition["clock"].tokens[0, :, 0], wanted, atol=0.6, rtol=0)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ("short", r"control clock has 0\.50 s of audio, and the music is to have 1\.00 s: generate less, as by"),
        ("exact", ""),
        ({"clck": "x.wav"}, r"Unknown control 'clck' of this model\. It reads: clock\. Did you mean 'clock'\?"),
        ({"clock": "missing.wav"}, r"audio file 'missing\.wav' does not exist"),
        ({"clock": __file__}, r"cannot be read"),
    ],
)
def test_a_control_must_be_readable_and_as_long_as_the_music(
    pipe: Pipeline, tmp_path: Path, controls: Any, message: str
) -> None:
    files = {"short": 0.5, "exact": 1.0}
    controls = {"clock": audio(tmp_path, files[controls])} if isinstance(controls, str) else controls
    prompt = {"text": "a tone", "controls": controls}
    with pytest.raises(UserError, match=message) if message else nullcontext():
        list(pipe.generate_codes([prompt], pipe.frames(1.0)))


def test_a_model_without_controls_refuses_them(make_pipeline: Make) -> None:
    with pytest.raises(
        InvalidValue, match=r"Unknown control 'clock' of this model\. It was trained without controls\."
    ):
        list(make_pipeline().generate_codes([{"text": "a", "controls": {"clock": "a.wav"}}], 20))


# Training


def test_a_crop_has_the_control_of_its_own_frames(pipe: Pipeline, store: CodeStore, music: Path) -> None:
    crops = TrainingCrops(store, range(len(store)), 40)
    batch = crops.batch(range(12))
    with pytest.raises(InvalidValue, match=r"control clock of a track come.* its audio.*data\.audio=FOLDER"):
        stage_input(batch, pipe, 0)
    store.audio = music
    try:
        batch = crops.batch(range(12))
    finally:
        store.audio = None
    inputs, rate = stage_input(batch, pipe, 1), pipe.codec.frame_rate
    tokens, mask = inputs.condition["clock"]
    assert tokens.shape == (12, 40, 1)
    starts = [prompt["start"] for prompt in batch.prompts]
    assert len(set(starts)) > 6
    for row, start in enumerate(starts):
        real = mask[row]
        assert real[: int(batch.valid_mask[row].sum()) - 1].all()
        wanted = expected(torch.arange(40), rate, start)
        torch.testing.assert_close(tokens[row, :-1, 0][real[:-1]], wanted[:-1][real[:-1]], atol=0.6, rtol=0)


# Networks


def test_frames_without_a_token_have_the_null() -> None:
    nulls = {"a": torch.tensor([7.0, 8.0]), "b": torch.tensor([9.0])}
    tokens = ConditionTokens(noise(2, 3, 2), torch.tensor([[True, False, True], [False] * 3]))
    frames = control_frames(Condition({"a": tokens}), nulls)
    assert frames.shape == (2, 3, 4)
    assert torch.equal(frames[0, :2, [0, 2]], tokens.tokens[0, [0, 2]].T)
    assert (frames[0, :2, [1, 3]] == nulls["a"][:, None]).all()
    assert (frames[1, :2] == nulls["a"][:, None]).all()
    assert (frames[:, 2] == 9).all()
    assert torch.equal(control_frames(Condition({}), nulls), torch.tensor([7.0, 8, 9])[None, :, None].expand(1, 3, 2))
    with pytest.raises(ValueError, match="of width 1, but got 2"):
        control_frames(Condition({"b": tokens}), nulls)


def test_levels_read_the_mean_of_their_frames() -> None:
    network, controls = ControlInput(2, [3, 5], patch=2), noise(1, 2, 7)
    assert all(not level.any() for level in network(controls, 5, 4))
    for level in network.levels:
        torch.nn.init.normal_(level.weight)  # pyright: ignore[reportArgumentType]
    first, second = network(controls, 5, 4)
    padded = torch.cat([controls[..., :5], controls[..., 6:].expand(-1, -1, 3)], -1)  # to 8 frames, with the null
    both = torch.stack([padded[..., 0::2], padded[..., 1::2]], 2).flatten(1, 2)
    weights = [parameter[..., 0] for parameter in network.parameters()]
    torch.testing.assert_close(first, weights[0] @ both)
    torch.testing.assert_close(second, weights[1] @ (both[..., 0::2] + both[..., 1::2]) / 2)


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_new_controls_change_no_bit_of_a_network(name: str) -> None:
    pytest.importorskip(f"codecdiff_{name}")
    small = (
        {key: value for key, value in UNET.items() if key != "name"} if name == "unet" else {"width": 16, "depth": 1}
    )
    spec, sizes = {"name": name, **small, **({"heads": 2} if name == "dit" else {})}, {"channels": 4}
    widths: Any = {"context_channels": 0, "frame_rate": 50.0, **sizes}
    plain = config.build("denoisers", spec, condition_widths={"text": 6}, **widths)
    torch.nn.init.normal_(list(plain.parameters())[-1])
    more = config.build(
        "denoisers", {**spec, "controls": ["clock"]}, condition_widths={"text": 6, "clock": 1}, **widths
    )
    missing, unexpected = more.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all("clock" in key or "control" in key for key in missing)
    text = ConditionTokens(noise(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))
    clock = ConditionTokens(noise(2, 9, 1), torch.ones(2, 9, dtype=torch.bool))
    inputs = noise(2, 4, 9), torch.tensor([3, 40]), None
    assert torch.equal(
        more.eval()(*inputs, Condition({"text": text, "clock": clock})),
        plain.eval()(*inputs, Condition({"text": text})),
    )


# Records


def test_a_control_is_recorded_by_its_hash(tmp_path: Path) -> None:
    file, other = audio(tmp_path, 0.5), audio(tmp_path, 0.6)
    prompt = {"text": "a", "controls": {"clock": {"file": file, "start": 0.1}}}
    request = GenerationRequest(codecdiff="1", model="", prompt=prompt)
    write_audio(tmp_path / "a.flac", 0.1 * noise(1, 4000), RATE, comment=request.comment())
    again = GenerationRequest.from_file(tmp_path / "a.flac")
    assert again.prompt["controls"] == {"clock": {"sha256": sha256(file), "start": 0.1}}
    assert again.with_controls({"clock": file}).comment() == request.comment()
    assert again.with_controls({"clock": file}).prompt["controls"] == prompt["controls"]
    for files, message in (
        ({}, f"with SHA-256 {sha256(file)}, but --control is missing: --control clock=FILE"),
        ({"clock": other}, r"but '.*0\.6\.wav' is another file, or missing"),
        ({"clock": file, "key": file}, r"generated without the control key: leave out --control key"),
    ):
        with pytest.raises(InvalidValue, match=message):
            again.with_controls(files)
    in_memory = GenerationRequest(codecdiff="1", model="", prompt={"controls": {"clock": {"samples": "0"}}})
    with pytest.raises(InvalidValue, match="came from samples in memory"):
        in_memory.with_controls({"clock": file})


@pytest.mark.parametrize("controls", [{"clock": "/etc/hostname"}, {"clock": {"file": "/etc/hostname"}}, "x", [1]])
def test_a_comment_of_a_stranger_names_no_control(tmp_path: Path, controls: Any) -> None:
    request = GenerationRequest(codecdiff="1", model="", prompt={"controls": controls})
    write_audio(tmp_path / "a.flac", 0.1 * noise(1, 4000), RATE, comment=request.model_dump_json(exclude_none=True))
    with pytest.raises(InvalidValue, match="names a file of another machine"):
        GenerationRequest.from_file(tmp_path / "a.flac")


def test_controls_on_the_command_line() -> None:
    assert parse_controls(["chroma=a=b.wav", "beats=c.wav"]) == {"chroma": "a=b.wav", "beats": "c.wav"}
    for words in (["chroma"], ["=a.wav"], ["chroma="], ["chroma=a.wav", "chroma=b.wav"]):
        with pytest.raises(
            InvalidValue, match=r"Invalid --control '.*': expected NAME=VALUE, each name once, as in chroma=song.wav"
        ):
            parse_controls(words)
