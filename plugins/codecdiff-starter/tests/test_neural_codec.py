"""The trained codec: the checks of every codec on a tiny random network, its training, and what its parts promise."""

import copy
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from codecdiff_starter import train_codec
from codecdiff_starter.codec_losses import CodebookLearner, Resolution, SpectralLoss, quantize_for_training
from codecdiff_starter.codec_network import CodecNetwork, NetworkConfig, mel_bands
from codecdiff_starter.composer import compose
from codecdiff_starter.facts import held_out_facts
from codecdiff_starter.neural_codec import WEIGHTS, InvalidWeights, NeuralCodec
from codecdiff_starter.phases import HOP
from codecdiff_starter.train_codec import (
    CodecTrainConfig,
    CodecTrainer,
    CropSampler,
    UnsuitableLicense,
    train_network,
    write_network,
)
from torch import Tensor

from codecdiff.codecs import ChunkedCodec
from codecdiff.testing import check_codec

RATE = NeuralCodec.sample_rate
TINY = NetworkConfig(
    encoder_width=16,
    encoder_blocks=2,
    encoder_expansion=1,
    decoder_width=16,
    decoder_blocks=2,
    decoder_expansion=1,
    latent_channels=24,
    waveform_bins=40,
    num_bands=20,
    num_codebooks=4,
    codebook_size=32,
    codebook_dim=4,
)
QUICK = CodecTrainConfig(
    max_train_steps=8, train_batch_size=4, crop_frames=12, warmup_steps=2, unquantized_steps=3, seed=1
)


def network(seed: int = 0) -> CodecNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CodecNetwork(TINY)


def tone(frequency: float, seconds: float) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("codec") / "tiny.safetensors"
    write_network(network(), file)
    return file


@pytest.fixture(scope="module")
def codec(weights) -> NeuralCodec:
    return NeuralCodec(weights=str(weights))


@pytest.fixture
def audio(tmp_path) -> CropSampler:
    generator = np.random.default_rng(0)
    time = np.arange(4 * RATE) / RATE
    music = 0.3 * np.sin(2 * np.pi * 220 * time) + 0.02 * generator.standard_normal(len(time))
    np.save(tmp_path / "music.npy", (music * 32767).astype(np.int16))
    return CropSampler([tmp_path / "music.npy"])


def test_it_passes_the_checks_of_codecs(codec):
    check_codec(codec, seconds=0.3)


def test_facts_follow_from_the_network(codec):
    assert (codec.num_codebooks, codec.codebook_size, codec.codebook_dim) == (4, 32, 4)
    assert codec.encode_context_frames == 2 * 3 + 2
    assert codec.decode_context_frames == 1 + 2 * 3 + 2


def test_the_default_has_the_structure_of_dac_and_fits_into_8_mb():
    config = NetworkConfig()
    assert (config.num_codebooks, config.codebook_size, config.codebook_dim, HOP) == (9, 1024, 8, 512)
    with torch.device("meta"):
        values = sum(tensor.numel() for tensor in CodecNetwork(config).state_dict().values())
    assert 2 * values < 8e6


def test_context_frames_are_as_small_as_they_can_be(codec):
    """One context frame fewer in decoding gives other audio, so the declared number is exact."""
    exact = copy.deepcopy(codec).double()
    codes = torch.randint(32, (1, 4, 90), generator=torch.Generator().manual_seed(0))
    whole = exact.decode(codes)
    torch.testing.assert_close(ChunkedCodec(exact, frames=30).decode(codes), whole, atol=1e-12, rtol=0)
    exact.decode_context_frames -= 1
    assert not torch.allclose(ChunkedCodec(exact, frames=30).decode(codes), whole, atol=1e-12, rtol=0)


def test_a_written_network_reads_back_in_half_precision(codec, weights):
    state, written = codec.network.state_dict(), network().state_dict()
    assert state.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(state[name], tensor.half().float()), name


@pytest.mark.parametrize("content", [None, b"nothing"], ids=["missing", "not-safetensors"])
def test_another_file_is_refused(tmp_path, content):
    file = tmp_path / "other.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidWeights, match="train_codec"):
        NeuralCodec(weights=str(file))


def test_fewer_codebooks_decode_to_the_same_length(codec):
    codes = codec.encode(tone(440, 0.2)[None, None])
    latents = codec.network.dequantize(codes[:, :1])
    assert codec.network.decoder(latents).shape == (1, codes.shape[-1] * HOP)


def test_bands_partition_the_bins():
    for count, window in ((100, 2048), (16, 256), (160, 4096), (64, 1024)):
        bands = mel_bands(count, window)
        assert torch.equal(bands.sum(0), torch.ones(window // 2 + 1))
        assert len(bands) <= count
        assert bands.any(1).all()


def test_loss_of_a_signal_to_itself_is_zero_and_each_term_sees_what_it_is_for():
    resolution = Resolution(2048, 64)
    noise = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    same = {name: float(term) for name, term in resolution(noise, noise).items()}
    assert same == pytest.approx({"mel": 0, "energy": 0, "magnitude": 0, "convergence": 0, "phase": 0}, abs=2e-3)
    inverted = {name: float(term) for name, term in resolution(-noise, noise).items()}
    assert inverted == pytest.approx({"mel": 0, "energy": 0, "magnitude": 0, "convergence": 0, "phase": 2}, abs=2e-3)
    louder = {name: float(term) for name, term in resolution(2 * noise, noise).items()}
    assert louder["mel"] == pytest.approx(20 * math.log10(2), abs=0.01)
    assert louder["energy"] == pytest.approx(20 * math.log10(2), abs=0.01)
    assert louder["convergence"] == pytest.approx(1, abs=0.01)
    assert louder["phase"] == pytest.approx(0, abs=2e-3)


def test_phases_do_not_count_through_short_windows():
    assert "phase" not in Resolution(256, 16)(tone(440, 0.2)[None], tone(440, 0.2)[None])


def test_every_resolution_takes_its_turn():
    loss = SpectralLoss({"mel": 0.5, "phase": 1.0})
    signal, other = tone(440, 0.3)[None], tone(500, 0.3)[None]
    values = [float(loss(other, signal, step)[0]) for step in range(12)]
    assert len({round(value, 5) for value in values[:6]}) == 6
    assert values[:6] == values[6:]
    total, terms = loss(other, signal, 0)
    assert float(total) == pytest.approx(0.5 * float(terms["mel"]) + float(terms["phase"]), rel=1e-5)


def test_training_quantizes_as_the_codec_does(monkeypatch):
    net = network()
    latents = torch.randn(2, 30, TINY.latent_channels, generator=torch.Generator().manual_seed(0))
    learner = CodebookLearner(net)
    learner.initialize(net, latents.flatten(0, 1), 60, torch.Generator().manual_seed(0))
    expected = net.dequantize(net.quantize(latents)[0])
    monkeypatch.setattr(learner, "update", lambda *_: None)
    total, commitment = quantize_for_training(net, latents, torch.tensor([4, 4]), learner, torch.Generator())
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    assert commitment > 0
    coarse, _ = quantize_for_training(net, latents, torch.tensor([1, 4]), learner, torch.Generator())
    torch.testing.assert_close(coarse[0], net.dequantize(net.quantize(latents)[0][:, :1])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(coarse[1], expected[1], atol=1e-5, rtol=1e-5)


def test_codebooks_move_to_the_means_of_their_points_and_dead_vectors_to_points():
    net = network()
    learner, generator = CodebookLearner(net), torch.Generator().manual_seed(0)
    points, codes = torch.randn(400, 4, generator=generator), torch.arange(400) % 31  # none has the last code
    learner.initialize(net, torch.randn(500, TINY.latent_channels, generator=generator), 400, generator)
    for _ in range(1000):
        learner.update(net, 0, points, codes, generator)
    book = net.levels[0].codebook
    means = torch.stack([points[codes == code].mean(0) for code in range(31)])
    torch.testing.assert_close(book[:31], means, atol=1e-3, rtol=0)
    learner.counts[0, 31] = 0
    learner.update(net, 0, points, codes, generator)
    assert (points == book[31]).all(1).any()


def test_initial_codebooks_explain_latents_level_by_level():
    net = network()
    latents = torch.randn(600, TINY.latent_channels, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 25)
    CodebookLearner(net).initialize(net, latents, 100, torch.Generator().manual_seed(0))
    codes = net.quantize(latents[None])[0]
    left = [float((latents - net.dequantize(codes[:, :k])[0]).detach().square().mean()) for k in range(1, 5)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.5 * float(latents.square().mean())


def test_training_reduces_the_loss(tmp_path, audio):
    trainer = CodecTrainer(network(), QUICK, torch.device("cpu"))
    terms = [trainer.step(audio) for _ in range(8)]
    assert trainer.step_count == 8
    assert terms[-1]["mel"] < terms[0]["mel"]


@pytest.mark.integration
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, audio):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options = {"checkpointing_steps": 2, "device": torch.device("cpu")}
    whole = train_network(tmp_path / "whole", audio, QUICK, TINY, **options)

    class Stopped(Exception):
        pass

    class StoppingAudio(CropSampler):
        def batch(self, config, step):
            if step == 7:
                raise Stopped
            return super().batch(config, step)

    stopping = StoppingAudio([])
    stopping.sources = audio.sources
    with pytest.raises(Stopped):
        train_network(tmp_path / "parts", stopping, QUICK, TINY, **options)
    resumed = train_network(tmp_path / "parts", audio, QUICK, TINY, **options)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    check_codec(NeuralCodec(weights=str(tmp_path / "parts" / "codec.safetensors")), seconds=0.2)


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path, audio):
    train_network(tmp_path, audio, CodecTrainConfig(**{**QUICK.__dict__, "max_train_steps": 1}), TINY)
    with pytest.raises(train_codec.UserError, match="another folder"):
        train_network(tmp_path, audio, QUICK, NetworkConfig(**{**TINY.__dict__, "encoder_width": 8}))


def test_crops_follow_from_the_step(audio):
    assert torch.equal(audio.batch(QUICK, 5), audio.batch(QUICK, 5))
    assert not torch.equal(audio.batch(QUICK, 5), audio.batch(QUICK, 6))
    assert audio.batch(QUICK, 5).shape == (4, 12 * HOP)


@pytest.mark.parametrize(
    ("license", "is_allowed"),
    [
        ("CC0", True),
        ("CC BY 3.0", True),
        ("CC-BY-4.0", True),
        ("Public Domain Mark 1.0", True),
        ("CC BY-SA 3.0", False),
        ("CC BY-NC 4.0", False),
        ("GPL-3", False),
        ("", False),
    ],
)
def test_tracks_need_a_license_that_permits_it(tmp_path, license, is_allowed):
    folder = tmp_path / "audio"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(2000, np.float32), RATE)
    row = {"file_name": "a.wav", "text": "", "title": "A", "artist": "B", "license": license, "source": "C"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    if not is_allowed:
        with pytest.raises(UnsuitableLicense, match="CC0"):
            train_codec.licensed_audio(tmp_path / "licensed.npy", folder)
        return
    file = train_codec.licensed_audio(tmp_path / "licensed.npy", folder)
    assert np.load(file).shape == (2000,)
    assert json.loads((tmp_path / "attribution.json").read_text())[0]["artist"] == "B"


def test_composed_music_is_cached(tmp_path):
    file = train_codec.composed_audio(tmp_path / "composed.npy", 12 / 3600, 0)
    samples = np.load(file)
    assert samples.dtype == np.int16
    assert len(samples) == 12 * RATE
    assert np.abs(samples).max() > 1000
    before = file.stat().st_mtime_ns
    train_codec.composed_audio(file, 12 / 3600, 0)
    assert file.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def shipped() -> NeuralCodec:
    return NeuralCodec()


@pytest.mark.integration
def test_the_shipped_weights_pass_the_checks_and_fit_into_8_mb(shipped):
    check_codec(shipped, seconds=0.3)
    assert WEIGHTS.stat().st_size <= 8e6
    assert (shipped.num_codebooks, shipped.codebook_size, shipped.codebook_dim) == (9, 1024, 8)


def test_the_shipped_codec_keeps_the_pitch_of_a_chord(shipped):
    """Within 3 cents: the fitted codec is off by 10 on music."""
    chord = torch.stack([tone(frequency, 2.0) for frequency in (220.0, 277.18, 329.63, 440.0)]).sum(0) / 3
    decoded = shipped.decode(shipped.encode(chord[None, None]))[0, 0, : len(chord)]
    middle = slice(RATE // 2, RATE // 2 + RATE)
    spectrum = torch.fft.rfft(decoded[middle] * torch.hann_window(RATE), n=8 * RATE).abs()
    for frequency in (220.0, 277.18, 329.63, 440.0):
        low = round(8 * (frequency - 8))
        peak = (low + int(spectrum[low : low + 128].argmax())) / 8
        assert abs(1200 * math.log2(peak / frequency)) < 3


def test_more_codebooks_of_the_shipped_codec_sound_nearer_to_the_original(shipped):
    music = torch.from_numpy(compose(held_out_facts(1, seed=5)[0], 5, 4.0))[None]
    codes = shipped.encode(music[None])
    resolution = Resolution(2048, 80)
    distances = []
    for count in (1, 3, 9):
        with torch.no_grad():
            decoded = shipped.network.decoder(shipped.network.dequantize(codes[:, :count]))[:, : music.shape[1]]
        distances.append(float(resolution(decoded, music)["mel"]))
    assert distances == sorted(distances, reverse=True)
    assert abs(10 * math.log10(float(decoded.square().mean() / music.square().mean()))) < 2  # dB, with all codebooks
