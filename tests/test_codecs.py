"""The codecs around codecs, with a DAC of random weights inside."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from small import noise

from codecdiff import Codec, config
from codecdiff.codecs import ChunkedCodec, CodecWrapper, NormalizedCodec, PCACodec, StereoCodec, chunked
from codecdiff.data.code_store import CodeStore
from codecdiff.testing import check_codec


@pytest.fixture(params=["codebook", "channel"])
def measured(request: pytest.FixtureRequest, dac: Codec, store: CodeStore) -> NormalizedCodec:
    codec = NormalizedCodec(dac, per=request.param)
    codec.measure(store.latents(dac))
    return codec


@pytest.mark.integration
def test_every_wrapper_keeps_the_laws(dac: Codec, measured: NormalizedCodec) -> None:
    per_channel = measured.per == "channel"
    for codec in (measured, ChunkedCodec(measured, frames=9) if per_channel else PCACodec(StereoCodec(dac), 3)):
        check_codec(codec, seconds=0.2)


def test_standardised_latents_have_mean_zero_and_deviation_one(measured: NormalizedCodec, store: CodeStore) -> None:
    latents = torch.cat(list(store.latents(measured)), dim=-1)[0].double()
    over = (2,) if measured.per == "channel" else (1, 2)
    count = [latents.shape[0], latents.shape[1]] if measured.per == "channel" else [latents.shape[0]]
    torch.testing.assert_close(latents.mean(over), torch.zeros(count, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        latents.std(over, correction=0), torch.ones(count, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_one_pair_of_statistics_per_codebook_keeps_its_shape(dac: Codec, store: CodeStore) -> None:
    codec = NormalizedCodec(dac)
    codec.measure(store.latents(dac))
    for statistic in (codec.mean, codec.std):
        assert torch.equal(statistic, statistic[:, :1].expand_as(statistic))
    assert len(codec.std.unique()) == dac.num_codebooks


def test_statistics_do_not_depend_on_how_latents_are_cut(dac: Codec, store: CodeStore) -> None:
    pieces, whole = NormalizedCodec(dac), NormalizedCodec(dac)
    pieces.measure(store.latents(dac))
    whole.measure([torch.cat(list(store.latents(dac)), dim=-1)])
    torch.testing.assert_close(pieces.mean, whole.mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(pieces.std, whole.std, atol=1e-7, rtol=0)


def test_projections_are_transformed_as_entries_are(dac: Codec, measured: NormalizedCodec) -> None:
    audio = noise(1, 1, 2000)
    torch.testing.assert_close(
        measured.encode_continuous(audio), (dac.encode_continuous(audio) - measured.mean) / measured.std
    )
    assert torch.equal(measured.quantize(measured.encode_continuous(audio)), dac.encode(audio))


@pytest.mark.parametrize("per", ["codebook", "channel"])
def test_a_constant_is_left_as_it_is(dac: Codec, per: Literal["codebook", "channel"]) -> None:
    codec = NormalizedCodec(dac, per=per)
    codec.measure([torch.full((1, 4, 8, 5), 2.0)])
    assert torch.equal(codec.std, torch.ones_like(codec.std))
    assert torch.equal(codec.mean, torch.full_like(codec.mean, 2.0))


def test_statistics_need_data_and_state_must_be_whole(dac: Codec) -> None:
    with pytest.raises(ValueError, match="the store holds no frames"):
        NormalizedCodec(dac).measure([])
    with pytest.raises(ValueError, match="NormalizedCodec lacks its mean and std"):
        NormalizedCodec(dac).load_fitted_state({})


def test_state_names_its_codec_s_state_apart(measured: NormalizedCodec) -> None:
    class Fitted(CodecWrapper):
        def fitted_state(self) -> dict[str, torch.Tensor]:
            return {"bias": torch.ones(2)}

        def load_fitted_state(self, state: Any) -> None:
            self.got = state

    inner = Fitted(measured.codec)
    codec = NormalizedCodec(inner)
    assert set(codec.fitted_state()) == {"codec.bias", "mean", "std"}
    codec.load_fitted_state(codec.fitted_state())
    assert list(inner.got) == ["bias"]


@pytest.mark.parametrize("frames", [pytest.param(3, marks=pytest.mark.integration), 17, 1000])
def test_pieces_equal_the_whole(dac: Codec, frames: int) -> None:
    audio, codec = 0.3 * noise(2, 1, 61 * dac.hop_length - 13), ChunkedCodec(dac, frames=frames)
    codes = dac.encode(audio)
    assert torch.equal(codec.encode(audio), codes)
    torch.testing.assert_close(codec.encode_continuous(audio), dac.encode_continuous(audio), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(codes), dac.decode(codes), atol=1e-5, rtol=0)


def test_a_smaller_halo_would_not_do(dac: Codec) -> None:
    """The law above is not empty: pieces with less around them differ."""
    narrow = CodecWrapper(dac)
    narrow.decode_context_frames = 1
    codes = dac.encode(noise(1, 1, 60 * dac.hop_length))
    assert (ChunkedCodec(narrow, frames=20).decode(codes) - dac.decode(codes)).abs().max() > 1e-3


def test_a_codec_without_a_finite_halo_is_not_cut(dac: Codec) -> None:
    endless = CodecWrapper(dac)
    endless.decode_context_frames = None
    with pytest.raises(ValueError, match="CodecWrapper has unbounded context"):
        ChunkedCodec(endless)
    with pytest.raises(ValueError, match="frames=0: a chunk needs at least 1"):
        ChunkedCodec(dac, frames=0)
    with pytest.raises(ValueError, match=r"DAC encodes audio of shape \(b, 1, t\) with t >= 1"):
        ChunkedCodec(dac).encode(torch.zeros(1, 1, 0))


def test_a_codec_is_chunked_once_however_it_is_wrapped(dac: Codec) -> None:
    inside = NormalizedCodec(ChunkedCodec(dac))
    assert chunked(inside) is inside
    assert chunked(NormalizedCodec(dac)).chunk_frames == 512
    unbounded = CodecWrapper(dac)
    unbounded.encode_context_frames = None
    assert chunked(unbounded) is unbounded


def test_wrappers_say_what_the_codec_says(dac: Codec) -> None:
    codec = ChunkedCodec(NormalizedCodec(dac))
    for fact in ("sample_rate", "channels", "hop_length", "num_codebooks", "codebook_size", "codebook_dim", "levels"):
        assert getattr(codec, fact) == getattr(dac, fact)
    assert codec.frame_rate == dac.sample_rate / dac.hop_length


def test_stereo_is_mono_twice(dac: Codec) -> None:
    stereo, audio = StereoCodec(dac), 0.3 * noise(3, 2, 9 * dac.hop_length + 1)
    codes, projections = stereo.encode_with_continuous(audio)
    assert codes.shape == (3, 2 * dac.num_codebooks, 10)
    for side in range(2):
        mono = audio[:, side : side + 1]
        assert torch.equal(codes[:, side::2], dac.encode(mono))
        assert torch.equal(projections[:, side::2], dac.encode_continuous(mono))
        assert torch.equal(stereo.embed(codes)[:, side::2], dac.embed(codes[:, side::2]))
        assert torch.equal(stereo.quantize(projections)[:, side::2], codes[:, side::2])
        assert torch.equal(stereo.decode(codes)[:, side], dac.decode(codes[:, side::2])[:, 0])


def test_rows_of_one_level_stand_together(dac: Codec) -> None:
    stereo = StereoCodec(dac)
    assert (stereo.channels, stereo.levels) == (2, (0, 0, 1, 1, 2, 2, 3, 3))
    latents = stereo.embed(stereo.encode(noise(1, 2, 400)))
    given = {"num_codebooks": stereo.num_codebooks, "levels": stereo.levels}
    for spec, rows in (("coarse-first", [2, 6]), ({"name": "grouped", "stages": "0|1-2|3"}, [2, 4, 2])):
        splitter = config.build("splitters", spec, **given)
        stages = splitter.split(latents)
        assert [stage.shape[1] for stage in stages] == [count * stereo.codebook_dim for count in rows]
        assert torch.equal(stages[0], latents[:, :2].flatten(1, 2))  # both channels of the coarsest level
        assert torch.equal(splitter.merge(stages), latents)


def test_stereo_declares_what_its_codec_declares(dac: Codec) -> None:
    twins = CodecWrapper(dac)
    twins.__class__ = type("Twins", (CodecWrapper,), {"duplicate_codes": frozenset({(1, 7)})})
    assert StereoCodec(twins).duplicate_codes == {(2, 7), (3, 7)}
    assert (StereoCodec(dac).encode_context_frames, StereoCodec(dac).decode_context_frames) == (
        dac.encode_context_frames,
        dac.decode_context_frames,
    )
    with pytest.raises(ValueError, match="StereoCodec wraps a codec of one channel, but StereoCodec has 2"):
        StereoCodec(StereoCodec(dac))
    with pytest.raises(ValueError, match=r"StereoCodec encodes audio of shape \(b, 2, t\), but got \(1, 1, 50\)"):
        StereoCodec(dac).encode(torch.zeros(1, 1, 50))


def test_stereo_fits_its_codec_to_both_channels(dac: Codec) -> None:
    heard = []
    inner = CodecWrapper(dac)
    inner.fit = lambda clips, *, seed=0: heard.extend(clips)
    clips = [noise(2, 30), noise(2, 50)]
    StereoCodec(inner).fit(clips)
    assert [tuple(clip.shape) for clip in heard] == [(1, 30), (1, 30), (1, 50), (1, 50)]
    assert torch.equal(torch.cat(heard[2:]), clips[1])


@pytest.mark.parametrize("dims", [1, 3, 8])
def test_reduced_latents_are_the_principal_components_of_the_entries(dac: Codec, dims: int) -> None:
    reduced, codes = PCACodec(dac, dims), torch.arange(dac.codebook_size).expand(1, 4, -1)
    latents, entries = reduced.embed(codes)[0].double(), dac.embed(codes)[0].double()
    assert latents.shape == (4, dims, dac.codebook_size)
    centred = entries - entries.mean(-1, keepdim=True)
    singular = torch.linalg.svdvals(centred)
    covariance = latents @ latents.mT
    torch.testing.assert_close(covariance, torch.diag_embed(singular[:, :dims].square()), rtol=1e-4, atol=1e-3)
    share = singular[:, :dims].square().sum(-1) / singular.square().sum(-1)
    torch.testing.assert_close(reduced.explained_variance.double(), share, rtol=1e-4, atol=0)
    assert (reduced.explained_variance > 1 - 1e-5).all() == (dims == 8)


def test_reduction_changes_neither_codes_nor_audio(dac: Codec) -> None:
    reduced, audio = PCACodec(dac, 3), 0.3 * noise(2, 1, 2000)
    codes, projections = reduced.encode_with_continuous(audio)
    assert torch.equal(codes, dac.encode(audio))
    assert torch.equal(reduced.quantize(reduced.embed(codes)), codes)
    assert torch.equal(reduced.decode(codes), dac.decode(codes))
    torch.testing.assert_close(projections, reduced.encode_continuous(audio))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reduced.encode_continuous(audio), projections)
    back = (reduced.basis @ projections) + reduced.mean.mT  # what lies off the components is gone, and no more
    gone = dac.encode_continuous(audio) - back
    assert (reduced.basis.mT @ gone).abs().max() < 1e-4 < gone.abs().max()


def test_components_are_kept_and_others_refused(dac: Codec) -> None:
    reduced, other = PCACodec(dac, 2), PCACodec(dac, 2)
    turned = {**reduced.fitted_state(), "basis": reduced.basis.flip(-1)}
    other.load_fitted_state(turned)  # of a machine that rounded otherwise
    codes = torch.arange(dac.codebook_size).expand(1, 4, -1)
    assert torch.equal(other.embed(codes), reduced.embed(codes).flip(2))
    assert torch.equal(other.quantize(other.embed(codes)), codes)
    assert reduced.state_dict().keys() == {f"codec.{name}" for name in dac.state_dict()}
    with pytest.raises(ValueError, match="lacks its basis and mean"):
        other.load_fitted_state({})
    for dims in (0, 9):
        with pytest.raises(ValueError, match=rf"dims={dims}: the codebook vectors of DAC have 8 dim.* Choose 1 to 8"):
            PCACodec(dac, dims)


def test_entries_in_one_place_are_declared(dac: Codec) -> None:
    class Flat(CodecWrapper):
        """Its entries 5 and 9 differ in a direction that is not among the components."""

        def embed(self, codes: torch.Tensor) -> torch.Tensor:
            latents = self.codec.embed(codes)
            latents[:, :, 0] = 1e-6 * (codes == 5)
            latents[:, :, 1:] = torch.where(codes[:, :, None] == 5, self.codec.embed(codes * 0 + 9), latents)[:, :, 1:]
            return latents

    assert PCACodec(dac, 2).duplicate_codes == frozenset()
    assert PCACodec(Flat(dac), 2).duplicate_codes == {(k, 9) for k in range(4)}


def test_wrappers_have_outlines(codec_spec: dict[str, Any]) -> None:
    spec = {"name": "pca", "dims": 3, "codec": {"name": "stereo", "codec": codec_spec}}
    codec = config.build("codecs", spec, skeleton=True)
    assert (codec.channels, codec.num_codebooks, codec.codebook_dim) == (2, 8, 3)
    assert all(tensor.is_meta for tensor in [*codec.parameters(), *codec.buffers()])
    assert config.to_config("codecs", codec) == config.with_defaults("codecs", spec)
