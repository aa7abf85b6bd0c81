"""The starter codec: the laws of every codec, and what it promises about sound."""

import pytest
import torch
from codecdiff_starter.codec import SpectralCodec, distinct, kmeans, principal_directions
from codecdiff_starter.phases import HOP, MARGIN, WINDOW, audio_of, retrieve_phases, spectrum
from torch import Tensor

from codecdiff.testing import check_codec

RATE = SpectralCodec.sample_rate


def music(seconds: float, seed: int) -> Tensor:
    """(1, t) audio: a melody of decaying harmonic notes four times a second, each with a breath of noise."""
    generator = torch.Generator().manual_seed(seed)
    length = round(seconds * RATE)
    notes = []
    for _ in range(-(-length * 4 // RATE)):
        pitch = 110 * 2 ** (torch.randint(36, (), generator=generator) / 12)
        time = torch.arange(RATE // 4 + 1) / RATE
        tones = sum(torch.sin(2 * torch.pi * pitch * h * time) / h for h in range(1, 6))
        noise = torch.randn(len(time), generator=generator)
        notes.append(torch.exp(-6 * time) * (0.2 * tones + 0.02 * noise))
    return torch.cat(notes)[:length].clamp(-1, 1)[None]


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    codec = SpectralCodec(griffin_lim_iterations=4)
    codec.fit([music(4, seed) for seed in range(8)])
    return codec


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return torch.stack([music(3, seed) for seed in (100, 101)])


def residuals(codec: SpectralCodec, audio: Tensor) -> Tensor:
    """(k + 1,) share of the variance of the features that is left after the first 0, 1, ... k levels."""
    left = codec.features(audio) - codec.mean
    energies = [left.square().mean()]
    for projection, entries in zip(codec.projections, codec.embed(codec.encode(audio)).unbind(1), strict=True):
        left = left - entries.transpose(1, 2) @ projection
        energies.append(left.square().mean())
    return torch.stack(energies) / energies[0]


def log_spectral_distance(a: Tensor, b: Tensor) -> float:
    """Mean distance of two (b, t) audios in dB, over 32 equal bands."""

    def levels(audio: Tensor) -> Tensor:
        return 10 * (spectrum(audio).abs().square()[:, :-1].unflatten(1, (32, 32)).mean(2) + 1e-3).log10()

    return (levels(a) - levels(b)).abs().mean().item()


def test_it_keeps_the_laws(codec):
    check_codec(codec, seconds=0.3)


def test_every_entry_quantises_to_itself(codec):
    codes = torch.arange(codec.codebook_size).expand(1, codec.num_codebooks, -1)
    assert torch.equal(codec.quantize(codec.embed(codes)), codes)
    assert codec.embed(codes).shape == (1, 9, 8, 1024)


@pytest.mark.parametrize("length", [1, HOP - 1, HOP, HOP + 1, 10 * RATE])
def test_lengths(codec, length):
    audio = 0.1 * torch.ones(1, 1, length)
    codes = codec.encode(audio)
    frames = -(-length // HOP)
    assert codes.shape == (1, 9, frames)
    assert codes.dtype == torch.int64
    assert codec.encode_continuous(audio).shape == (1, 9, 8, frames)
    decoded = codec.decode(codes)
    assert decoded.shape == (1, 1, frames * HOP)
    assert decoded.isfinite().all()


def test_codes_are_the_quantised_projections(codec, held_out):
    codes = codec.encode(held_out)
    assert torch.equal(codec.quantize(codec.encode_continuous(held_out)), codes)


def test_no_row_depends_on_its_batch(codec, held_out):
    codes, audio = codec.encode(held_out), codec.decode(codec.encode(held_out))
    for i in range(2):
        assert torch.equal(codec.encode(held_out[i : i + 1])[0], codes[i])
        assert torch.equal(codec.decode(codes[i : i + 1])[0], audio[i])


def test_calls_repeat_and_leave_global_randomness_alone(held_out):
    before = torch.random.get_rng_state()
    first, second = SpectralCodec(), SpectralCodec()
    for codec in (first, second):
        codec.fit(held_out[:, :, :RATE], seed=3)
    assert torch.equal(first.decode(first.encode(held_out)), second.decode(second.encode(held_out)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "audio",
    [torch.zeros(5000), torch.ones(5000), torch.sign(torch.sin(torch.arange(5000) / 7)), torch.full((5000,), 1e-30)],
    ids=["silence", "constant", "clipped", "denormal"],
)
def test_extreme_audio_stays_finite(codec, audio):
    decoded = codec.decode(codec.encode(audio[None, None]))
    assert decoded.isfinite().all()
    assert decoded.abs().max() <= 1


def test_any_codes_decode(codec):
    codes = torch.randint(1024, (2, 9, 50), generator=torch.Generator().manual_seed(0))
    decoded = codec.decode(codes)
    assert decoded.isfinite().all()
    assert decoded.abs().max() <= 1


def test_silence_alone_still_fits_distinct_entries():
    codec = SpectralCodec(griffin_lim_iterations=1)
    codec.fit([torch.zeros(1, RATE // 10)])
    codes = torch.arange(codec.codebook_size).expand(1, codec.num_codebooks, -1)
    assert torch.equal(codec.quantize(codec.embed(codes)), codes)
    assert codec.decode(codes[..., :4]).isfinite().all()


def test_fitted_state_round_trip(codec, held_out):
    other = SpectralCodec(griffin_lim_iterations=4)
    assert not other.is_fitted
    other.load_fitted_state(codec.fitted_state())
    assert other.is_fitted
    codes = codec.encode(held_out)
    assert torch.equal(other.encode(held_out), codes)
    assert torch.equal(other.decode(codes), codec.decode(codes))
    assert sum(tensor.nbytes for tensor in codec.fitted_state().values()) < 2e6


def test_state_of_another_codec_is_refused(codec):
    state = codec.fitted_state() | {"mean": torch.zeros(3)}
    with pytest.raises(ValueError, match="mean"):
        SpectralCodec().load_fitted_state(state)


@pytest.mark.parametrize("call", ["encode", "encode_continuous", "embed", "quantize", "decode", "fitted_state"])
def test_unfitted_codec_says_what_to_do(call):
    inputs = {
        "encode": (torch.zeros(1, 1, 600),),
        "encode_continuous": (torch.zeros(1, 1, 600),),
        "embed": (torch.zeros(1, 9, 2, dtype=torch.int64),),
        "quantize": (torch.zeros(1, 9, 8, 2),),
        "decode": (torch.zeros(1, 9, 2, dtype=torch.int64),),
        "fitted_state": (),
    }
    with pytest.raises(ValueError, match="fit"):
        getattr(SpectralCodec(), call)(*inputs[call])


def test_fitting_to_nothing_is_refused():
    with pytest.raises(ValueError, match="none"):
        SpectralCodec().fit([])


def test_level_zero_holds_most_energy_and_each_level_adds(codec, held_out):
    left = residuals(codec, held_out)
    assert left[1] < 0.5
    assert (left.diff() < 0).all()


def test_each_level_improves_the_sound(codec, held_out):
    codes = codec.encode(held_out)
    latents = codec.embed(codes)
    distances = []
    for levels in (0, 1, 9):
        kept = latents * (torch.arange(9) < levels)[:, None, None]
        audio = retrieve_phases(codec.magnitudes(kept), 4)
        distances.append(
            log_spectral_distance(
                audio, torch.nn.functional.pad(held_out[:, 0], (0, audio.shape[-1] - held_out.shape[-1]))
            )
        )
    mean_spectrum, coarse, full = distances
    assert full < 0.75 * coarse < 0.75 * mean_spectrum


def test_no_gradients(codec, held_out):
    codes = codec.encode(held_out.clone().requires_grad_())
    results = [codec.encode_continuous(held_out.clone().requires_grad_()), codec.embed(codes), codec.decode(codes)]
    assert not any(result.requires_grad for result in results)
    assert list(codec.parameters()) == []


def test_projections_are_orthonormal(codec):
    products = codec.projections @ codec.projections.transpose(1, 2)
    torch.testing.assert_close(products, torch.eye(8).expand(9, 8, 8), atol=1e-5, rtol=0)


def test_principal_directions_match_the_singular_vectors():
    points = torch.randn(200, 20, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 21)
    expected = torch.linalg.svd(points, full_matrices=False).Vh[:4]
    overlap = (principal_directions(points, 4) @ expected.T).abs()
    torch.testing.assert_close(overlap, torch.eye(4), atol=1e-3, rtol=0)


def test_kmeans_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    truth = 100 * torch.randn(5, 8, generator=generator)
    points = (truth + 0.01 * torch.randn(400, 5, 8, generator=generator)).flatten(0, 1)
    centres = kmeans(points, 64, generator)
    assert torch.cdist(truth, centres).min(1).values.max() < 0.1
    assert len(torch.unique(centres, dim=0)) == 64


def test_distinct_moves_only_what_is_repeated():
    centres = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    moved = distinct(centres, torch.Generator().manual_seed(0))
    assert torch.equal(moved[1], centres[1])
    assert len(torch.unique(moved, dim=0)) == 3


def test_spectrum_inverts():
    audio = torch.randn(2, 9 * HOP, generator=torch.Generator().manual_seed(0))
    assert spectrum(audio).shape == (2, WINDOW // 2 + 1, 9)
    torch.testing.assert_close(audio_of(spectrum(audio)), audio, atol=1e-4, rtol=1e-4)


def test_phases_of_a_sinusoid_are_found_at_once():
    """A steady tone comes back as a steady tone of its frequency and level, without iterating."""
    tone = torch.sin(2 * torch.pi * 1000.0 / RATE * torch.arange(60 * HOP))[None]
    found = retrieve_phases(spectrum(tone).abs(), 0)
    inner = slice(MARGIN, -MARGIN)
    torch.testing.assert_close(spectrum(found).abs()[..., 4:-4], spectrum(tone).abs()[..., 4:-4], atol=10, rtol=0)
    assert found[:, inner].square().mean() == pytest.approx(0.5, rel=0.02)
