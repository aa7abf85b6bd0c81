"""The U-Net against the formulas it is made of, and the laws every denoiser keeps."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from codecdiff_unet import UNet
from codecdiff_unet.blocks import CrossAttention, LinearAttention, ResidualBlock, RMSNorm, SelfAttention
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from codecdiff import Condition, ConditionTokens
from codecdiff.denoisers import mean_token

LARGE: dict[str, Any] = {}
SMALL: dict[str, Any] = {"width": 144, "multipliers": (1, 2, 4, 8)}
TINY: dict[str, Any] = {
    "width": 16,
    "multipliers": (1, 2, 3),
    "layers": ("none", "linear", "chroma", "text"),
    "heads": 2,
    "head_dim": 8,
    "linear_heads": 2,
    "linear_head_dim": 4,
    "groups": 4,
    "absent_widths": {"chroma": 5},
    "text_layers": 1,
}
WIDTHS = {"text": 12, "vector": 10}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiny(**options: Any) -> UNet:
    return UNet(**{"channels": 4, "condition_widths": WIDTHS, **TINY, **options}).eval()


def condition(rows: int = 3, tokens: int = 6) -> Condition:
    """Text of 2, 3, ... real tokens and a vector."""
    mask = torch.arange(tokens) < torch.arange(2, 2 + rows)[:, None]
    vector = ConditionTokens(torch.randn(rows, 1, 10), torch.ones(rows, 1, dtype=torch.bool))
    return Condition({"text": ConditionTokens(torch.randn(rows, tokens, 12), mask), "vector": vector})


def inputs(rows: int = 3, frames: int = 24) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4, frames), torch.randint(0, 100, (rows,))


def same_shapes(a: UNet, b: UNet) -> bool:
    shapes = [{name: p.shape for name, p in unet.named_parameters()} for unet in (a, b)]
    return shapes[0] == shapes[1]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize(
    ("stage", "size", "count"),
    [
        ({"channels": 8}, LARGE, 1_235_493_844),
        ({"channels": 64, "context_channels": 8}, LARGE, 1_235_636_748),
        ({"channels": 72}, LARGE, 1_235_641_364),
        ({"channels": 8}, SMALL, 207_577_780),
        ({"channels": 64, "context_channels": 8}, SMALL, 207_613_548),
    ],
)
def test_the_published_models_have_their_parameter_counts(
    stage: dict[str, int], size: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        unet = UNet(condition_widths={"text": 1024, "vector": 1024}, absent_widths={"chroma": 12}, **stage, **size)
    assert sum(parameter.numel() for parameter in unet.parameters()) == count


def test_sinusoid_is_sines_then_cosines_of_the_step() -> None:
    for timestep in (torch.tensor([0, 7, 99]), torch.tensor([0.0, 7.0, 99.0])):
        frequencies = [math.exp(-k * math.log(10_000) / 7) for k in range(8)]
        wanted = [[f(t * w) for f in (math.sin, math.cos) for w in frequencies] for t in timestep.tolist()]
        close(get_timestep_embedding(timestep, 16), torch.tensor(wanted))


def test_rms_norm_is_its_formula() -> None:
    norm = RMSNorm(6)
    nn.init.normal_(norm.gain)
    x = torch.randn(2, 5, 6)
    close(norm(x), x / (x**2).sum(-1, keepdim=True).sqrt() * norm.gain * math.sqrt(6))
    assert norm(torch.zeros(1, 6)).equal(torch.zeros(1, 6))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_residual_block_is_its_formula(inputs: int, outputs: int) -> None:
    block = ResidualBlock(inputs, outputs, embedding=10, has_vector=True, groups=4)
    x, time, vector = torch.randn(2, inputs, 9), torch.randn(2, 10), torch.randn(2, 10)

    def normalised(h: Tensor, norm: nn.GroupNorm) -> Tensor:
        grouped = h.unflatten(1, (4, -1)).flatten(2)
        grouped = (grouped - grouped.mean(-1, keepdim=True)) / (
            grouped.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt()
        return grouped.view_as(h) * norm.weight[:, None] + norm.bias[:, None]

    assert block.vector is not None
    both = torch.cat([block.time.weight, block.vector.weight], 1) @ torch.cat([time, vector], 1).T
    scale, shift = (both.T + block.time.bias)[..., None].split(outputs, 1)
    h = normalised(functional.conv1d(x, block.conv1.weight, block.conv1.bias, padding=1), block.norm1)
    h = h * (1 + scale) + shift
    h = normalised(functional.conv1d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1), block.norm2)
    close(block(x, block.time(time) + block.vector(vector)), h * h.sigmoid() + block.shortcut(x))


def test_linear_attention_is_its_formula() -> None:
    attention = LinearAttention(6, heads=2, head_dim=4)
    x = torch.randn(3, 7, 6)
    q, k, v = (attention.norm(x) @ attention.qkv.weight.T).view(3, 7, 3, 2, 4).unbind(2)
    q = q.exp() / q.exp().sum(-1, keepdim=True) * 4**-0.5
    k = k.exp() / k.exp().sum(1, keepdim=True)
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k)
    out = torch.einsum("bhnm,bmhe->bnhe", weights, v).flatten(2)
    close(attention(x), attention.out_norm(out @ attention.out.weight.T + attention.out.bias))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)


def test_self_attention_is_its_formula() -> None:
    attention = SelfAttention(6, heads=2, head_dim=4)
    x = torch.randn(3, 7, 6)
    q, k, v = (attention.norm(x) @ attention.qkv.weight.T).view(3, 7, 3, 2, 4).unbind(2)
    close(attention(x), attention.out(softmax_attention(q, k, v)))


def test_cross_attention_is_its_formula_over_the_real_tokens() -> None:
    attention = CrossAttention(6, 5, heads=2, head_dim=4)
    x, tokens = torch.randn(3, 7, 6), torch.randn(3, 8, 5)
    memory = attention.keys_and_values(tokens, torch.arange(8).expand(3, 8) < 5)
    q = attention.q(attention.norm(x)).unflatten(-1, (2, 4))
    k, v = (part(tokens[:, :5]).unflatten(-1, (2, 4)) for part in (attention.k, attention.v))
    close(attention(x, memory), attention.out(softmax_attention(q, k, v)))


def test_frames_run_down_and_up_as_published() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    features = (layer for level in unet.features(t, prompted).levels for layer in level)
    h = first = unet.input(x)
    skips = []
    for level in unet.levels[:3]:
        for layer in level:
            h = layer(h, next(features))
            skips.append(h)
        h = level.resample(h)
    assert h.shape == (3, 48, 6)
    for layer in unet.middle:
        h = layer(h, next(features))
    for level in unet.levels[4:7]:
        for layer in level:
            h = layer(torch.cat([h, skips.pop()], 1), next(features))
        h = level.resample(h)
    (last,) = unet.output
    h = unet.output.resample(last(torch.cat([h, first], 1), next(features)))
    assert h.equal(unet(x, t, None, prompted))


@pytest.mark.parametrize("frames", [1, 7, 16, 37])
def test_any_length_is_padded_with_zeros_and_cropped(frames: int) -> None:
    unet = tiny()
    (x, t), prompted = inputs(frames=frames), condition()
    padded = functional.pad(x, (0, -frames % 4))
    assert unet(x, t, None, prompted).shape == x.shape
    assert unet(x, t, None, prompted).equal(unet(padded, t, None, prompted)[..., :frames])


def test_context_comes_before_the_noisy_channels() -> None:
    unet, plain = tiny(context_channels=3), tiny(channels=7)
    (x, t), prompted, context = inputs(), condition(), torch.randn(3, 3, 24)
    state = plain.state_dict()
    state.update({name: state[name][3:] for name in ("output.resample.weight", "output.resample.bias")})
    unet.load_state_dict(state)
    close(unet(x, t, context, prompted), plain(torch.cat([context, x], 1), t, None, prompted)[:, 3:])


def test_patches_are_the_same_network_on_frames_side_by_side() -> None:
    patched, plain = tiny(context_channels=2, patch=3), tiny(context_channels=6, channels=12)
    patched.load_state_dict(plain.state_dict())
    (x, t), prompted, context = inputs(), condition(), torch.randn(3, 2, 24)
    # frame 3 n + i of channel c is frame n of channel 3 c + i
    beside = [torch.stack([some[..., i::3] for i in range(3)], 2).flatten(1, 2) for some in (x, context)]
    expected = plain(beside[0], t, beside[1], prompted).unflatten(1, (4, 3))
    result = patched(x, t, context, prompted)
    close(torch.stack([result[..., i::3] for i in range(3)], 2), expected)


@pytest.mark.parametrize("frames", [1, 11, 12, 13])
def test_patched_frames_of_any_length_are_padded_and_cropped(frames: int) -> None:
    unet, prompted = tiny(patch=3), condition()
    x, t = inputs(frames=frames)
    assert unet.multiple == 12
    close(unet(x, t, None, prompted), unet(functional.pad(x, (0, -frames % 12)), t, None, prompted)[..., :frames])


def test_masked_tokens_change_nothing() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    tokens, mask = prompted["text"]
    noise = tokens + 100 * torch.randn_like(tokens) * ~mask[..., None]
    assert unet(x, t, None, prompted).equal(
        unet(x, t, None, Condition({**prompted, "text": ConditionTokens(noise, mask)}))
    )
    shorter = Condition({**prompted, "text": ConditionTokens(tokens[:, :4], mask[:, :4])})
    close(unet(x, t, None, prompted), unet(x, t, None, shorter))


@pytest.mark.parametrize("name", ["text", "vector"])
def test_a_dropped_condition_is_no_condition_and_its_null(name: str) -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    dropped = unet(x, t, None, prompted.drop(torch.ones(3, dtype=torch.bool), name))
    others = {key: entry for key, entry in prompted.items() if key != name}
    null = ConditionTokens(unet.nulls[name].expand(3, 1, -1), torch.ones(3, 1, dtype=torch.bool))
    close(dropped, unet(x, t, None, Condition(others)))
    close(dropped, unet(x, t, None, Condition({**others, name: null})))
    assert not torch.allclose(dropped, unet(x, t, None, prompted), atol=1e-4)


def test_the_vector_of_a_sequence_is_the_mean_of_its_real_tokens_after_the_text_layers() -> None:
    unet: Any = tiny(vector="text", layers=("none",), condition_widths={"text": 12})
    tokens, mask = condition()["text"]
    prompted, (x, t) = Condition({"text": ConditionTokens(tokens, mask)}), inputs()
    (layer,) = unet.text_layers["text"]
    means = [layer(row[real][None], real[real][None])[0].mean(0) for row, real in zip(tokens, mask, strict=True)]
    vector = unet.encode_condition(prompted).vector
    close(vector, unet.vector_network(torch.stack(means)))
    assert not torch.allclose(unet(x, t, None, prompted), unet(x, t, None, prompted.null()), atol=1e-4)


def test_several_vectors_are_read_side_by_side() -> None:
    unet: Any = tiny(vector=("text", "key"), layers=("none",), text_layers=0, condition_widths={"text": 12, "key": 3})
    key = ConditionTokens(torch.randn(3, 1, 3), torch.ones(3, 1, dtype=torch.bool))
    text = condition()["text"]
    vector = unet.encode_condition(Condition({"text": text, "key": key})).vector
    close(vector, unet.vector_network(torch.cat([mean_token(text), key.tokens[:, 0]], dim=1)))
    null = unet.nulls["key"].expand(3, -1)
    close(
        unet.encode_condition(Condition({"text": text})).vector,
        unet.vector_network(torch.cat([mean_token(text), null], 1)),
    )


def test_waves_are_sines_and_cosines_of_a_frequency_in_hertz() -> None:
    unet: Any = tiny(waves="beat", frame_rate=50.0, condition_widths={"text": 12, "beat": 6})
    tokens = torch.tensor([[[2.0, 0.5, 0.25, 0.0, 1.0, 3.0], [1.0, 1.0, 0.0, 0.0, 9.0, 9.0]]])
    beat = ConditionTokens(tokens, torch.tensor([[True, False]]))
    (waves,) = unet.features(torch.tensor([5]), Condition({"beat": beat})).waves
    seconds = torch.arange(3000, dtype=torch.float64) / 50
    slow, fast = 2 * torch.pi * (2 * seconds + 0.25), 2 * torch.pi * 0.5 * seconds
    expected = torch.stack([slow.sin(), 3 * fast.sin(), slow.cos(), 3 * fast.cos()])
    torch.testing.assert_close(unet.sinusoids(waves, 3000)[0], expected.float(), atol=1e-4, rtol=0)


def test_a_clip_that_starts_later_reads_the_waves_from_there() -> None:
    unet: Any = tiny(waves="beat", frame_rate=50.0, condition_widths={"text": 12, "beat": 3})

    def sinusoids(phase: float, frames: int) -> torch.Tensor:
        entry = ConditionTokens(torch.tensor([[[2.3, phase, 1.0]]]), torch.ones(1, 1, dtype=torch.bool))
        return unet.sinusoids(unet.features(torch.tensor([5]), Condition({"beat": entry})).waves[0], frames)

    close(sinusoids(2.3 * 40 / 50, 60), sinusoids(0.0, 100)[..., 40:])


def test_frequencies_are_not_rounded_with_the_weights() -> None:
    unet: Any = tiny(waves="beat", frame_rate=86.1328125, condition_widths={"text": 12, "beat": 3})
    entry = ConditionTokens(torch.tensor([[[8.033, 0.0, 1.0]]]), torch.ones(1, 1, dtype=torch.bool))
    single, half = (
        unet.to(dtype).features(torch.tensor([5]), Condition({"beat": entry})).waves[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(single, half)


@pytest.mark.parametrize(("width", "frame_rate", "message"), [(6, None, "frame_rate"), (7, 50.0, "a multiple of 3")])
def test_waves_need_a_rate_and_three_numbers_each(width: int, frame_rate: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(waves="beat", frame_rate=frame_rate, condition_widths={"text": 12, "beat": width})


def test_the_width_of_the_embedding_is_an_option() -> None:
    narrow: Any = tiny(embedding=6)
    assert narrow.time_network[2].out_features == narrow.middle.layers[0].block.time.in_features == 6
    assert same_shapes(tiny(), tiny(embedding=4 * TINY["width"]))
    narrow(*inputs(), None, condition())


def test_a_row_does_not_depend_on_its_neighbors() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    prompted = prompted.drop(torch.tensor([False, True, False]), "text")
    together = unet(x, t, None, prompted)
    for row in range(3):
        alone = slice(row, row + 1)
        close(together[alone], unet(x[alone], t[alone], None, prompted.rows(alone)))


def test_a_gradient_reaches_every_parameter() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    for name in WIDTHS:
        prompted = prompted.drop(torch.tensor([False, True, False]), name)
    unet(x, t, None, prompted).square().sum().backward()
    silent = {name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # whoever has one token to look at looks at it, whatever the query and the key: nothing to learn about chroma's
    chroma = ("layers.2.cross.q.weight", "layers.2.cross.k.weight", "layers.2.cross.norm.gain")
    assert all(name.endswith(chroma) for name in silent), silent
    assert all(p.grad is not None for p in unet.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"patch": 3}, {"layers": ("linear", "text"), "middle_attention": False, "vector": None}]
)
def test_prepared_equals_plain(options: dict[str, Any]) -> None:
    unet, (x, _), prompted = tiny(context_channels=2, **options), inputs(frames=41), condition()
    for name, rows in {"vector": [True, False, False], "text": [False, True, False]}.items():
        prompted = prompted.drop(torch.tensor(rows), name)
    context, timesteps = torch.randn(3, 2, 41), torch.tensor([90, 40, 40, 0])
    prepared = unet.prepare_for_sampling(timesteps, prompted)
    for t in (torch.full((3,), 90), torch.tensor([0.0, 40.0, 90.0])):
        for frames in (slice(41), slice(1), slice(24)):  # in any order: weights are packed at the first
            given = x[..., frames], t, context[..., frames], prompted
            close(prepared(*given), unet(*given))
    again = prepared.prepare_for_sampling(torch.tensor([5]), prompted.rows([0]))
    t = torch.tensor([5])
    close(again(x[:1], t, context[:1], prompted), unet(x[:1], t, context[:1], prompted.rows([0])))


def test_prepared_equals_plain_on_convolutions_that_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    unet, (x, t), prompted = tiny(), inputs(), condition()
    close(unet.prepare_for_sampling(t, prompted)(x, t, None, prompted), unet(x, t, None, prompted))


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def test_a_prepared_step_waits_for_no_number_and_attends_only_where_there_is_a_choice() -> None:
    unet, (x, _), prompted = tiny(), inputs(), condition()
    index, counts = torch.zeros(3, dtype=torch.long), []
    for given in (prompted, prompted.null()):
        prepared: Any = unet.prepare_for_sampling(torch.tensor([7]), given)
        with Operations() as operations:
            prepared.predict(x, None, index)
        counts.append(operations.counts)
        assert not {name for name in counts[-1] if "nonzero" in name or "_local_scalar_dense" in name}
    attentions = sum(isinstance(m, CrossAttention) and m.k.in_features == WIDTHS["text"] for m in unet.modules())
    assert counts[0]["aten::_softmax"] - counts[1]["aten::_softmax"] == attentions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocasts", [False, True], ids=["weights", "autocast"])
def test_prepared_computes_in_half_precision(dtype: torch.dtype, autocasts: bool) -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    exact = unet(x, t, None, prompted)
    with torch.autocast("cpu", dtype, enabled=autocasts):
        prepared = (unet if autocasts else unet.to(dtype)).prepare_for_sampling(t, prompted)
    result = prepared(x, t, None, prompted)
    assert result.dtype == dtype
    error = (result.float() - exact).norm() / exact.norm()
    assert 0 < error < 2 * torch.finfo(dtype).eps


def test_prepared_refuses_what_it_was_not_prepared_for() -> None:
    prepared, (x, _) = tiny().prepare_for_sampling(torch.tensor([3, 1]), condition()), inputs()
    with pytest.raises(ValueError, match="condition of 2 rows, as many as the noisy latents, but it has 3"):
        prepared(x[:2], torch.tensor([3, 3]), None, condition(2))
    with pytest.raises(ValueError, match=r"\[3, 1, 2\] are not all among those prepared: \[3, 1\]"):
        prepared(x, torch.tensor([3, 1, 2]), None, condition())


@pytest.mark.parametrize("absent", [{}, {"chroma": 5}])
def test_it_works_without_conditions(absent: dict[str, int]) -> None:
    unet, (x, t), nothing = tiny(condition_widths={}, absent_widths=absent), inputs(), Condition({})
    assert unet.vector_network is None
    assert set(unet.nulls) == set(absent)
    y = unet(x, t, None, nothing)
    assert y.shape == x.shape
    close(unet.prepare_for_sampling(t, nothing)(x, t, None, nothing), y)


def test_checkpointing_changes_neither_result_nor_gradient() -> None:
    plain, checkpointed = tiny(), tiny(checkpoint=True)
    checkpointed.load_state_dict(plain.state_dict())
    (x, t), prompted = inputs(), condition()
    results = [unet(x, t, None, prompted) for unet in (plain, checkpointed)]
    for result in results:
        result.square().sum().backward()
    assert results[0].equal(results[1])
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.integration
def test_one_batch_can_be_learned_by_heart() -> None:
    unet, (x, t), prompted = tiny(multipliers=(1, 2), layers=("none", "text")), inputs(), condition()
    target, losses = torch.randn_like(x), []
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-3)
    for _ in range(120):
        loss = (unet(x, t, None, prompted) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def test_weights_survive_a_file(tmp_path: Any) -> None:
    unet, other = tiny(), tiny()
    save_file(unet.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    (x, t), prompted = inputs(), condition()
    assert unet(x, t, None, prompted).equal(other(x, t, None, prompted))


def test_the_same_arguments_build_the_same_network() -> None:
    unet = tiny()
    assert unet.arguments == {
        **TINY,
        "channels": 4,
        "context_channels": 0,
        "condition_widths": WIDTHS,
        "embedding": None,
        "vector": "vector",
        "waves": None,
        "controls": None,
        "frame_rate": None,
        "middle_attention": True,
        "checkpoint": False,
        "patch": 1,
    }
    shapes = {name: p.shape for name, p in UNet(**unet.arguments).named_parameters()}
    assert shapes == {name: p.shape for name, p in unet.named_parameters()}


def test_it_runs_in_half_precision() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    exact = unet(x, t, None, prompted)
    with torch.autocast("cpu", torch.bfloat16):
        assert (unet(x, t, None, prompted).float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert unet.bfloat16()(x.bfloat16(), t, None, prompted).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("context_channels", "given", "message"),
    [
        (0, (3, 2, 24), r"Expected context None, but got \(3, 2, 24\)"),
        (2, None, r"Expected context \(3, 2, 24\), but got None"),
        (2, (3, 5, 24), r"Expected context \(3, 2, 24\), but got \(3, 5, 24\)"),
        (2, (3, 2, 12), r"Expected context \(3, 2, 24\), but got \(3, 2, 12\)"),
    ],
)
def test_context_is_checked(context_channels: int, given: tuple[int, ...] | None, message: str) -> None:
    (x, t), context = inputs(), None if given is None else torch.randn(given)
    with pytest.raises(ValueError, match=message):
        tiny(context_channels=context_channels)(x, t, context, condition())


def test_other_inputs_are_checked() -> None:
    unet, (x, t), prompted = tiny(), inputs(), condition()
    with pytest.raises(ValueError, match=r"noisy latents \(b, 4, l\), but got \(3, 3, 24\)"):
        unet(x[:, :3], t, None, prompted)
    with pytest.raises(ValueError, match=r"timesteps \(3,\), one for each row, but got \(1,\)"):
        unet(x, t[:1], None, prompted)
    with pytest.raises(ValueError, match="condition of 3 rows, as many as the noisy latents, but it has 2"):
        unet(x, t, None, prompted.rows(slice(2)))
    with pytest.raises(ValueError, match=r"the same number of rows, but they have \{'text': 3, 'vector': 2\}"):
        unet(x, t, None, Condition({**prompted, "vector": prompted.rows(slice(2))["vector"]}))
    with pytest.raises(ValueError, match="'text' of width 12, but got 10"):
        unet(x, t, None, Condition({"text": prompted["vector"]}))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="an even number, at least 4"):
        tiny(width=15)
    with pytest.raises(ValueError, match="Invalid patch 0: expected a number of frames, at least 1"):
        tiny(patch=0)
    with pytest.raises(ValueError, match=r"multiple of `groups` = 5; these are not: \[16, 32, 16\]"):
        tiny(groups=5, multipliers=(2, 1))
    with pytest.raises(ValueError, match="at least one level"):
        tiny(multipliers=())
    with pytest.raises(ValueError, match="take them out of `absent_widths`"):
        tiny(absent_widths={"text": 12})
    message = r"name 'txt', which the conditioner does not provide\. It provides: text, vector, chroma\."
    with pytest.raises(ValueError, match=message):
        tiny(vector=["vector", "txt"])
    with (
        pytest.warns(UserWarning, match=r"No layer uses the conditions \['text'\]"),
        pytest.warns(UserWarning, match=r"No condition is called txet: there are \['text', 'vector'\]"),
    ):
        tiny(layers=("none", "txet"))
