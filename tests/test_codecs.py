"""The codecs around codecs, with a DAC of random weights inside."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import pytest
import torch
from small import noise

from codecdiff import Codec
from codecdiff.codecs import Chunked, Standardized, Wrapped
from codecdiff.data.store import CodeStore
from codecdiff.testing import check_codec


@pytest.fixture(params=["codebook", "channel"])
def measured(request: pytest.FixtureRequest, dac: Codec, store: CodeStore) -> Standardized:
    codec = Standardized(dac, per=request.param)
    codec.measure(store.latents(dac))
    return codec


def test_every_wrapper_keeps_the_laws(dac: Codec, measured: Standardized) -> None:
    for codec in (measured, Chunked(measured if measured.per == "channel" else dac, frames=9)):
        check_codec(codec, seconds=0.2)


def test_standardised_latents_have_mean_zero_and_deviation_one(measured: Standardized, store: CodeStore) -> None:
    latents = torch.cat(list(store.latents(measured)), dim=-1)[0].double()
    over = (2,) if measured.per == "channel" else (1, 2)
    count = [latents.shape[0], latents.shape[1]] if measured.per == "channel" else [latents.shape[0]]
    torch.testing.assert_close(latents.mean(over), torch.zeros(count, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        latents.std(over, correction=0), torch.ones(count, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_one_pair_of_statistics_per_codebook_keeps_its_shape(dac: Codec, store: CodeStore) -> None:
    codec = Standardized(dac)
    codec.measure(store.latents(dac))
    for statistic in (codec.mean, codec.std):
        assert torch.equal(statistic, statistic[:, :1].expand_as(statistic))
    assert len(codec.std.unique()) == dac.num_codebooks


def test_statistics_do_not_depend_on_how_latents_are_cut(dac: Codec, store: CodeStore) -> None:
    pieces, whole = Standardized(dac), Standardized(dac)
    pieces.measure(store.latents(dac))
    whole.measure([torch.cat(list(store.latents(dac)), dim=-1)])
    torch.testing.assert_close(pieces.mean, whole.mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(pieces.std, whole.std, atol=1e-7, rtol=0)


def test_projections_are_transformed_as_entries_are(dac: Codec, measured: Standardized) -> None:
    audio = noise(1, 1, 2000)
    torch.testing.assert_close(measured.project(audio), (dac.project(audio) - measured.mean) / measured.std)
    assert torch.equal(measured.quantize(measured.project(audio)), dac.encode(audio))


@pytest.mark.parametrize("per", ["codebook", "channel"])
def test_a_constant_is_left_as_it_is(dac: Codec, per: Literal["codebook", "channel"]) -> None:
    codec = Standardized(dac, per=per)
    codec.measure([torch.full((1, 4, 8, 5), 2.0)])
    assert torch.equal(codec.std, torch.ones_like(codec.std))
    assert torch.equal(codec.mean, torch.full_like(codec.mean, 2.0))


def test_statistics_need_data_and_state_must_be_whole(dac: Codec) -> None:
    with pytest.raises(ValueError, match="the store holds no frames"):
        Standardized(dac).measure([])
    with pytest.raises(ValueError, match="lacks its mean and std"):
        Standardized(dac).load_fitted_state({})


def test_state_names_its_codec_s_state_apart(measured: Standardized) -> None:
    class Fitted(Wrapped):
        def fitted_state(self) -> dict[str, torch.Tensor]:
            return {"bias": torch.ones(2)}

        def load_fitted_state(self, state: Any) -> None:
            self.got = state

    inner = Fitted(measured.codec)
    codec = Standardized(inner)
    assert set(codec.fitted_state()) == {"codec.bias", "mean", "std"}
    codec.load_fitted_state(codec.fitted_state())
    assert list(inner.got) == ["bias"]


@pytest.mark.parametrize("frames", [3, 17, 1000])
def test_pieces_equal_the_whole(dac: Codec, frames: int) -> None:
    audio, chunked = 0.3 * noise(2, 1, 61 * dac.hop_length - 13), Chunked(dac, frames=frames)
    codes = dac.encode(audio)
    assert torch.equal(chunked.encode(audio), codes)
    torch.testing.assert_close(chunked.project(audio), dac.project(audio), atol=1e-5, rtol=0)
    torch.testing.assert_close(chunked.decode(codes), dac.decode(codes), atol=1e-5, rtol=0)


def test_a_smaller_halo_would_not_do(dac: Codec) -> None:
    """The law above is not empty: pieces with less around them differ."""
    codes, chunked = dac.encode(noise(1, 1, 60 * dac.hop_length)), Chunked(dac, frames=20)
    chunked._pieces = lambda total, halo: Chunked._pieces(chunked, total, 1)
    assert (chunked.decode(codes) - dac.decode(codes)).abs().max() > 1e-3


def test_a_codec_without_a_finite_halo_is_not_cut(dac: Codec) -> None:
    endless = Wrapped(dac)
    endless.decode_halo = None
    with pytest.raises(ValueError, match="Wrapped has no finite halo"):
        Chunked(endless)
    with pytest.raises(ValueError, match="frames=0: a piece needs at least 1"):
        Chunked(dac, frames=0)


def test_wrappers_say_what_the_codec_says(dac: Codec) -> None:
    codec = Chunked(Standardized(dac))
    for fact in ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim", "levels"):
        assert getattr(codec, fact) == getattr(dac, fact)
    assert codec.frame_rate == dac.sample_rate / dac.hop_length


class Faulty(Wrapped):
    """Breaks one law, as told."""

    def __init__(self, codec: Codec, fault: str):
        super().__init__(codec)
        self.fault = fault
        if fault == "levels":
            self.codebook_dim = 3
        if fault == "halo":
            self.decode_halo = 0

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        codes = self.codec.encode(audio)
        if self.fault == "neighbours":
            return (codes + len(codes)) % self.codebook_size
        return codes[..., :-1] if self.fault == "floor" and codes.shape[-1] > 1 else codes

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        if self.fault == "random":
            torch.rand(1)
        return self.codec.embed(codes * 0 if self.fault == "empty" else codes)

    def train(self, mode: bool = True) -> Self:
        return cast(Self, torch.nn.Module.train(self, mode)) if self.fault == "trains" else super().train(mode)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("levels", r"embed gives \(1, 4, 8, 3\), not \(1, 4, 3, 3\)"),
        ("floor", "encode of 41 samples gives"),
        ("neighbours", "The codes of a row depend on its batch"),
        ("empty", "duplicate_entries"),
        ("random", "draws from the global generators"),
        ("trains", r"train\(\) leaves evaluation mode"),
        ("halo", "decode_halo is too small"),
    ],
)
def test_a_broken_codec_is_caught(dac: Codec, fault: str, law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_codec(Faulty(dac, fault), seconds=0.2)
