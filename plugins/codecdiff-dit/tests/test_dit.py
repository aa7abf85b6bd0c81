"""The transformer against the formulas it is made of, and the laws every denoiser keeps."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from codecdiff_dit import DiT
from codecdiff_dit.blocks import Block, NormalizedCrossAttention, NormalizedSelfAttention, rotation
from torch import Tensor, nn
from torch.nn import functional

from codecdiff import Condition, ConditionTokens
from codecdiff.testing import check_denoiser

TINY: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "embedding": 8}
DERIVED = {"text": 1024, "vector": 1024}  # by t5 with flan-t5-large
WIDTHS = {"text": 12, "tempo": 5, "vector": 10}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def moved(module: Any) -> Any:
    """Move the weights, so that nothing that starts at zero hides anything."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def tiny(**options: Any) -> DiT:
    return moved(DiT(**{"channels": 4, "condition_widths": WIDTHS, **TINY, **options}))


def condition(rows: int = 3, tokens: int = 6) -> Condition:
    """Text of 2, 3, ... real tokens, a tempo that the last row lacks, and a vector."""
    mask = torch.arange(tokens) < torch.arange(2, 2 + rows)[:, None]
    known = torch.arange(rows)[:, None] < rows - 1
    return Condition(
        {
            "text": ConditionTokens(torch.randn(rows, tokens, 12), mask),
            "tempo": ConditionTokens(torch.randn(rows, 1, 5), known),
            "vector": ConditionTokens(torch.randn(rows, 1, 10), torch.ones(rows, 1, dtype=torch.bool)),
        }
    )


def inputs(rows: int = 3, frames: int = 24) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4, frames), torch.randint(0, 100, (rows,))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, marks=pytest.mark.integration) for options in ({}, {"vector": "text"}, {"patch": 3})),
        {"vector": "text", "attend": ("text", "tempo", "vector"), "text_layers": 1},
        {"controls": ("tempo",), "patch": 2},
    ],
)
def test_it_keeps_the_laws(options: dict[str, Any]) -> None:
    check_denoiser(lambda **supplied: DiT(**TINY, **options, **supplied), widths=WIDTHS)


@pytest.mark.parametrize("widths", [{}, pytest.param({"vector": 10}, marks=pytest.mark.integration)])
def test_it_keeps_the_laws_with_nothing_to_attend_to(widths: dict[str, int]) -> None:
    check_denoiser(lambda **supplied: DiT(**TINY, **supplied), widths=widths)
    assert all(block.cross is None for block in tiny(condition_widths=widths).blocks)


def turn(x: Tensor, positions: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + d / 2]) by position * 10000 ** (-2 i / d), as complex numbers."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("bhnm,bhmd->bnhd", weights, v).flatten(2)


def rms_normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def test_self_attention_is_its_formula() -> None:
    attention, x, places = moved(NormalizedSelfAttention(16, heads=2)), torch.randn(3, 7, 16), torch.arange(7.0)
    q, k, v = (attention.qkv(x)).view(3, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = turn(rms_normed(q, attention.q_norm), places), turn(rms_normed(k, attention.k_norm), places)
    close(attention(x, rotation(7, 8)), attention.out(softmax_attention(q, k, v)))


def test_frames_see_distances_and_not_places() -> None:
    attention, x = moved(NormalizedSelfAttention(16, heads=2)), torch.randn(1, 7, 16)
    cosines, sines = rotation(40, 8)
    later = attention(x, (cosines[33:], sines[33:]))
    close(attention(x, rotation(7, 8)), later)
    assert not torch.allclose(attention(x), later, atol=1e-3)


def test_cross_attention_is_its_formula_over_the_real_tokens() -> None:
    attention, x, tokens = moved(NormalizedCrossAttention(16, heads=2)), torch.randn(3, 7, 16), torch.randn(3, 8, 16)
    memory = attention.keys_and_values(tokens, torch.arange(8).expand(3, 8) < 5)
    q = rms_normed(attention.q(attention.norm(x)).view(3, 7, 2, 8).transpose(1, 2), attention.q_norm)
    k, v = attention.kv(tokens[:, :5]).view(3, 5, 2, 2, 8).permute(2, 0, 3, 1, 4)
    close(attention(x, memory), attention.out(softmax_attention(q, rms_normed(k, attention.k_norm), v)))


def test_a_block_is_its_formula() -> None:
    block = moved(Block(16, heads=2, expansion=3, embedding=6, has_vector=True, attends=True))
    x, time, vector = torch.randn(2, 9, 16), torch.randn(2, 6), torch.randn(2, 6)
    tokens, mask, turned = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool), rotation(9, 8)
    both = torch.cat([block.modulation.time.weight, block.modulation.vector.weight], 1)
    terms = torch.cat([time, vector], 1) @ both.T + block.modulation.time.bias
    shift, scale, gate, shift2, scale2, gate2 = terms[:, None].split(16, -1)

    def normed(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    def gated(h: Tensor) -> Tensor:
        up, open_ = (h @ block.mlp.net[0].proj.weight.T + block.mlp.net[0].proj.bias).chunk(2, -1)
        return block.mlp.net[2](up * open_ * open_.sigmoid())

    h = x + gate * block.attention(normed(x) * (1 + scale) + shift, turned)
    h = h + block.cross(h, block.cross.keys_and_values(tokens, mask))
    wanted = h + gate2 * gated(normed(h) * (1 + scale2) + shift2)
    close(block(x, block.features(time, vector, ConditionTokens(tokens, mask)), turned), wanted)


def test_at_first_every_block_adds_nothing_and_the_answer_is_zero() -> None:
    dit, (x, t), prompted = DiT(channels=4, condition_widths=WIDTHS, **TINY), inputs(), condition()
    assert dit(x, t, None, prompted).abs().max() == 0
    tokens = torch.randn(3, 5, 16)
    for block, features in zip(dit.blocks, dit.features(t, prompted).blocks[:-1], strict=True):
        assert block(tokens, features, rotation(5, 8)).equal(tokens)


def test_frames_run_through_the_blocks_as_published() -> None:
    dit, (x, t), prompted = tiny(context_channels=2), inputs(), condition()
    context = torch.randn(3, 2, 24)
    *every, last = dit.features(t, prompted).blocks
    tokens = torch.cat([context, x], 1).mT @ dit.input.weight.T + dit.input.bias
    for block, features in zip(dit.blocks, every, strict=True):
        tokens = block(tokens, features, rotation(24, 8))
    close(dit(x, t, context, prompted), dit.output(tokens, last).mT)


@pytest.mark.parametrize("frames", [1, 11, 12, 13])
def test_any_length_is_padded_with_zeros_and_cropped(frames: int) -> None:
    dit, prompted = tiny(patch=4), condition()
    x, t = inputs(frames=frames)
    assert dit(x, t, None, prompted).shape == x.shape
    close(dit(x, t, None, prompted), dit(functional.pad(x, (0, -frames % 4)), t, None, prompted)[..., :frames])


def test_patches_are_the_same_network_on_frames_side_by_side() -> None:
    patched, plain = tiny(context_channels=2, patch=3), tiny(context_channels=6, channels=12)
    patched.load_state_dict(plain.state_dict())
    (x, t), prompted, context = inputs(), condition(), torch.randn(3, 2, 24)
    # frame 3 n + i of channel c is frame n of channel 3 c + i
    beside = [torch.stack([some[..., i::3] for i in range(3)], 2).flatten(1, 2) for some in (x, context)]
    expected = plain(beside[0], t, beside[1], prompted).unflatten(1, (4, 3))
    result = patched(x, t, context, prompted)
    close(torch.stack([result[..., i::3] for i in range(3)], 2), expected)


def test_conditions_stand_in_one_row_and_absent_ones_are_one_token() -> None:
    dit, (x, t), prompted = tiny(), inputs(), condition()
    dropped = prompted.drop(torch.ones(3, dtype=torch.bool), "text")
    short = Condition({**prompted, "text": ConditionTokens(torch.zeros(3, 1, 12), torch.zeros(3, 1, dtype=torch.bool))})
    without = Condition({name: entry for name, entry in prompted.items() if name != "text"})
    null = ConditionTokens(dit.nulls["text"].expand(3, 1, -1), torch.ones(3, 1, dtype=torch.bool))
    for other in (short, without, Condition({**prompted, "text": null})):
        close(dit(x, t, None, dropped), dit(x, t, None, other))
    assert not torch.allclose(dit(x, t, None, dropped), dit(x, t, None, prompted), atol=1e-4)


def test_the_vector_is_the_mean_of_the_real_tokens_after_the_text_layers() -> None:
    dit: Any = tiny(vector="text", text_layers=1, condition_widths={"text": 12})
    assert dit.sources == ()
    tokens, mask = condition()["text"]
    (layer,) = dit.text_layers["text"]
    rows = [dit.projections["text"](row[real][None]) for row, real in zip(tokens, mask, strict=True)]
    means = torch.stack([layer(row, torch.ones(1, row.shape[1], dtype=torch.bool))[0].mean(0) for row in rows])
    features = dit.features(torch.tensor([1, 2, 3]), Condition({"text": ConditionTokens(tokens, mask)}))
    close(features.blocks[0].vector, dit.blocks[0].modulation.vector(dit.vector_network(means)))


def test_prepared_equals_plain() -> None:
    dit, (x, _), prompted = tiny(context_channels=2), inputs(), condition()
    context, timesteps = torch.randn(3, 2, 24), torch.tensor([90, 40, 40, 0])
    prepared = dit.prepare_for_sampling(timesteps, prompted)
    for t in (torch.full((3,), 90), torch.tensor([0.0, 40.0, 90.0])):
        close(prepared(x, t, context, prompted), dit(x, t, context, prompted))
    again = prepared.prepare_for_sampling(torch.tensor([5]), prompted.rows([0]))
    t = torch.tensor([5])
    close(again(x[:1], t, context[:1], prompted), dit(x[:1], t, context[:1], prompted.rows([0])))
    with pytest.raises(ValueError, match=r"\[5, 6, 7\] are not all among those prepared"):
        prepared(x, torch.tensor([5, 6, 7]), context, prompted)


@pytest.mark.parametrize("options", [{}, {"vector": None}, {"text_layers": 1, "patch": 3}])
def test_prepared_equals_plain_for_every_kind_of_row(options: dict[str, Any]) -> None:
    """Rows of many tokens, of one, and of none; names that nobody says; and one row of nulls for all."""
    dit, (x, t), prompted = tiny(**options), inputs(), condition()
    absent = prompted.drop(torch.tensor([False, True, True]), "text")
    first = Condition(
        {
            name: ConditionTokens(each.tokens, each.mask & (torch.arange(each.mask.shape[1]) < 1))
            for name, each in prompted.items()
        }
    )
    for given in (prompted, absent, first, Condition.cat([prompted, prompted.null()]), Condition({})):
        rows = dit.rows(given) or 3
        both, times = x.repeat(rows // 3, 1, 1), t.repeat(rows // 3)
        prepared = dit.prepare_for_sampling(t, given)
        close(prepared(both, times, None, given), dit(both, times, None, given))
        close(prepared(both[..., :7], times, None, given), dit(both[..., :7], times, None, given))
    text_only = tiny(condition_widths={"text": 12}, vector=None)
    one_token = Condition({"text": ConditionTokens(*(each[:, :1] for each in first["text"]))})
    for given in (Condition.cat([one_token, one_token.null()]), Condition({"text": prompted["text"]}).null()):
        rows = len(given["text"].mask)
        both, times = x.repeat(rows // 3, 1, 1), t.repeat(rows // 3)
        close(text_only.prepare_for_sampling(t, given)(both, times, None, given), text_only(both, times, None, given))


def test_prepared_computes_in_the_precision_of_autocast_and_leaves_the_weights() -> None:
    dit, (x, t), prompted = tiny(), inputs(), condition()
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        prepared = dit.prepare_for_sampling(t, prompted)
        result = prepared(x, t, None, prompted)
    plain = dit(x, t, None, prompted)
    assert result.dtype == torch.bfloat16
    assert not result.requires_grad
    assert 0 < (result - plain).norm() / plain.norm() < 0.03
    assert all(tensor.equal(before[name]) for name, tensor in dit.state_dict().items())


def test_checkpointing_changes_neither_result_nor_gradient() -> None:
    plain, checkpointed = tiny(), tiny(checkpoint=True)
    checkpointed.load_state_dict(plain.state_dict())
    (x, t), prompted = inputs(), condition()
    results = [dit(x, t, None, prompted) for dit in (plain, checkpointed)]
    for result in results:
        result.square().sum().backward()
    assert results[0].equal(results[1])
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's kernel on the CPU is slower so
def test_it_runs_in_half_precision() -> None:
    dit, (x, t), prompted = tiny(), inputs(), condition()
    exact = dit(x, t, None, prompted)
    with torch.autocast("cpu", torch.bfloat16):
        lower = dit(x, t, None, prompted).float()
        assert 0 < (lower - exact).abs().mean() < 0.05 * exact.abs().mean()
        lower.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dit.parameters())
    assert dit.bfloat16()(x.bfloat16(), t, None, prompted).dtype == torch.bfloat16


@pytest.mark.slow
def test_it_compiles_to_one_graph() -> None:
    dit, (x, t), prompted = tiny(context_channels=2, vector="text", patch=3), inputs(), condition()
    context = torch.randn(3, 2, 24)
    compiled = torch.compile(dit, fullgraph=True, backend="eager")
    close(compiled(x, t, context, prompted), dit(x, t, context, prompted))


@pytest.mark.integration
def test_what_is_learned_holds_at_other_lengths() -> None:
    """Each frame has to tell the noise of 3 frames before: a matter of distance, which the length does not change."""
    dit = DiT(channels=1, condition_widths={}, width=32, depth=2, heads=2)
    optimizer, generator = torch.optim.AdamW(dit.parameters(), lr=3e-3), torch.Generator().manual_seed(1)

    def error(frames: int) -> Tensor:
        x = torch.randn(8, 1, frames, generator=generator)
        wanted = functional.pad(x, (3, 0))[..., :frames]
        return (dit(x, torch.zeros(8, dtype=torch.long), None, Condition({})) - wanted).square().mean()

    for _ in range(250):
        optimizer.zero_grad()
        error(24).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(error(24)) < 0.1
        assert float(error(36)) < 0.3  # half as long again; no answer at all is 1


def test_the_sizes_of_the_readme() -> None:
    sizes = {
        (256, 6, 4): 12_487_944,
        (512, 12, 8): 94_363_144,
        (768, 12, 12): 211_337_992,
        (1024, 24, 16): 739_959_816,
    }
    for (width, depth, heads), count in sizes.items():
        with torch.device("meta"):
            dit = DiT(channels=8, condition_widths=DERIVED, width=width, depth=depth, heads=heads)
        assert sum(parameter.numel() for parameter in dit.parameters()) == count


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Invalid width 18: expected a multiple of 2 \* `heads` = 4"):
        tiny(width=18)
    with pytest.raises(ValueError, match="Invalid patch 0: expected at least 1"):
        tiny(patch=0)
    with pytest.raises(ValueError, match="'text' of width 12, but got 10"):
        tiny()(*inputs(), None, Condition({"text": condition()["vector"]}))
    with (
        pytest.warns(UserWarning, match=r"Nothing uses the conditions \['tempo', 'text'\]"),
        pytest.warns(UserWarning, match=r"No condition is called txet: there are \['tempo', 'text', 'vector'\]"),
    ):
        tiny(attend=("txet",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(condition_widths={}, attend=("text",))
