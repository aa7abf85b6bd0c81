"""Train the codec that comes with the package: `python -m codecdiff_starter.train_codec runs/codec`.

The training music is composed, and may be joined by tracks under free licenses (`--audio FOLDER`, with a
`metadata.jsonl` that names title, artist, license and source of every file). A run can be stopped at any time: the same
command resumes it from its last checkpoint, and with another `--max-train-steps` makes it longer or shorter.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from codecdiff import rng
from codecdiff.data.audio import read_audio
from codecdiff.data.metadata import Track, find_tracks
from codecdiff.errors import UserError
from codecdiff.files import atomic_write, atomic_write_text, lock_folder
from codecdiff.training import TrainingDiverged
from codecdiff_starter.codec_losses import CodebookLearner, SpectralLoss, quantize_for_training
from codecdiff_starter.codec_network import SAMPLE_RATE, CodecNetwork, NetworkConfig
from codecdiff_starter.composer import compose
from codecdiff_starter.facts import training_facts
from codecdiff_starter.neural_codec import CONFIG_KEY
from codecdiff_starter.phases import HOP

log = logging.getLogger(__name__)

LICENSES = re.compile(r"cc0|cc[- ]by([- ]\d(\.\d)?)?|public domain.*|pd", re.IGNORECASE)  # none that asks for more
COMPOSED_SECONDS = 12.0  # of a composed track
INITIAL_BATCHES = 30  # that statistics and codebooks start from
CHECKPOINT, WEIGHTS, ATTRIBUTION, LOG = "checkpoint.safetensors", "codec.safetensors", "attribution.json", "log.jsonl"


class UnsuitableLicense(UserError, ValueError):
    """A track whose license does not permit to publish weights that were trained on it."""


@dataclass(frozen=True)
class CodecTrainConfig:
    """How the codec is trained. `loss_weights` are those of the terms of `codec_losses.Resolution`."""

    max_train_steps: int = 7_500
    train_batch_size: int = 8
    crop_frames: int = 48  # half a second
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay_fraction: float = 0.4  # of all steps, the last, in which the learning rate falls to a fiftieth
    unquantized_steps: int = 100  # after which codebooks are fitted to what the encoder has learned
    codebook_dropout: float = 0.25  # fraction of crops that use only the first of the codebooks
    commitment_weight: float = 0.05
    max_grad_norm: float = 5.0
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {"mel": 0.5, "energy": 0.2, "magnitude": 4.0, "convergence": 0.1, "phase": 1.0}
    )
    seed: int = 0


class CropSampler:
    """Mono music as 16-bit samples on disk, from one file or several, which take turns as the source of crops."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.sources = [np.load(file, mmap_mode="r") for file in files]

    def batch(self, config: CodecTrainConfig, step: int) -> Tensor:
        """Return the crops (b, crop_frames * HOP) of a step, at random gains."""
        generator = rng.numpy_generator("codecdiff_starter.codec.crops", config.seed, step)
        sources = [self.sources[i % len(self.sources)] for i in range(config.train_batch_size)]
        return torch.from_numpy(np.stack([self._crop(each, config.crop_frames * HOP, generator) for each in sources]))

    def _crop(self, source: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
        """Cut a crop that is not silent, if there is one in eight, and change its gain by -10 to +3 dB."""
        crop = np.zeros(samples, np.float32)
        for _ in range(8):
            start = int(generator.integers(max(1, len(source) - samples)))
            part = source[start : start + samples]
            crop[: len(part)] = part / np.float32(32768)
            if crop.std() > 1e-3:
                break
        gain = generator.choice([-1, 1]) * 10 ** generator.uniform(-0.5, 0.15)
        return np.clip(crop * np.float32(gain), -1, 1)


class CodecTrainer:
    """Trains a network. Everything random in a step follows from the seed and the step."""

    def __init__(self, network: CodecNetwork, config: CodecTrainConfig, device: torch.device) -> None:
        self.network, self.config, self.device = network.to(device), config, device
        self.learner = CodebookLearner(network).to(device)
        self.loss = SpectralLoss(config.loss_weights).to(device)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, betas=(0.8, 0.95), weight_decay=0.0, fused=True
        )
        self.step_count = 0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warmup, then constant, then falling linearly."""
        config = self.config
        remaining = (1 - step / config.max_train_steps) / max(config.decay_fraction, 1e-9)
        return config.learning_rate * min(1.0, (step + 1) / config.warmup_steps, max(0.02, remaining))

    def initialize_features(self, audio: CropSampler) -> None:
        """Measure the features' statistics on the first batches."""
        crops = torch.cat([audio.batch(self.config, step) for step in range(INITIAL_BATCHES)])
        self.network.features.fit(crops.to(self.device))

    @torch.no_grad()
    def initialize_codebooks(self, audio: CropSampler) -> None:
        """Fit projections and codebooks to the latents of the first batches."""
        crops = [audio.batch(self.config, step).to(self.device) for step in range(INITIAL_BATCHES)]
        latents = torch.cat([self.network.encoder(self.network.features(each)).flatten(0, 1) for each in crops])
        generator = rng.generator("codecdiff_starter.codec.codebooks", self.config.seed)
        points = self.config.train_batch_size * self.config.crop_frames
        self.learner.initialize(self.network, latents, points, generator)

    def step(self, audio: CropSampler) -> dict[str, float]:
        """Take a step and return the terms of its loss. Raises TrainingDiverged if it is not finite."""
        if self.step_count == 0:
            self.initialize_features(audio)
        if self.step_count == self.config.unquantized_steps:
            self.initialize_codebooks(audio)
        crops = audio.batch(self.config, self.step_count).to(self.device)
        decoded, commitment = self._reconstruct(crops)
        loss, terms = self.loss(decoded, crops, self.step_count)
        loss = loss + self.config.commitment_weight * commitment
        if not math.isfinite(float(loss.detach())):
            raise TrainingDiverged(f"The loss became {float(loss)} at step {self.step_count}. Lower --learning-rate.")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step_count)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.step_count += 1
        return {name: float(term.detach()) for name, term in {**terms, "commitment": commitment}.items()}

    def _reconstruct(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(b, t) crops -> the same from codes, and the commitment loss. Networks compute in bfloat16."""
        features = self.network.features(crops)
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = self.network.encoder(features)
        latents, commitment = latents.float(), crops.new_zeros(())
        if self.step_count >= self.config.unquantized_steps:
            generator = rng.generator("codecdiff_starter.codec.quantizers", self.config.seed, self.step_count)
            latents, commitment = quantize_for_training(
                self.network, latents, self._num_levels(generator), self.learner, generator
            )
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.network.decoder(latents), commitment

    def _num_levels(self, generator: torch.Generator) -> Tensor:
        """Draw how many codebooks each crop uses, (b,): all, or with the probability of dropout any number."""
        total, rows = self.network.config.num_codebooks, self.config.train_batch_size
        fewer = torch.randint(1, total + 1, (rows,), generator=generator)
        dropped = torch.rand(rows, generator=generator) < self.config.codebook_dropout
        return torch.where(dropped, fewer, total).to(self.device)

    def save(self, file: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors |= {f"optimizer.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        metadata = {"step": str(self.step_count), "network": json.dumps(asdict(self.network.config))}
        with atomic_write(file) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def load(self, file: Path) -> None:
        """Resume from a checkpoint. Raises UserError if it is of a network of other sizes."""
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            if json.loads(metadata["network"]) != asdict(self.network.config):
                raise UserError(f"'{file}' is of a network with {metadata['network']}. Use another folder.")
            tensors = {name: stored.get_tensor(name).to(self.device) for name in stored.keys()}  # noqa: SIM118
        self.network.load_state_dict(_with_prefix("network.", tensors))
        self.learner.load_state_dict(_with_prefix("learner.", tensors))
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = {
                key: tensors[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self.step_count = int(metadata["step"])


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def composed_audio(file: Path, hours: float, seed: int) -> Path:
    """Compose `hours` of music into a file of 16-bit samples, unless it is there already."""
    if not file.exists():
        count = math.ceil(hours * 3600 / COMPOSED_SECONDS)
        log.info("Composing %.2f hours of music: %d tracks of %g s", hours, count, COMPOSED_SECONDS)
        _write_samples(file, (_composed_track(seed, index) for index in range(count)))
    return file


def _composed_track(seed: int, index: int) -> np.ndarray:
    facts = training_facts(rng.numpy_generator("codecdiff_starter.codec.facts", seed, index))
    track_seed = int(rng.numpy_generator("codecdiff_starter.codec.track", seed, index).integers(2**31))
    return compose(facts, track_seed, COMPOSED_SECONDS)


def licensed_audio(file: Path, folder: Path) -> Path:
    """Read the tracks of a folder into a file of 16-bit samples, unless it is there already."""
    tracks = find_tracks(folder)
    attribution = [attribution_of(track) for track in tracks]
    if not file.exists():
        log.info("Reading %d tracks from %s", len(tracks), folder)
        _write_samples(file, (read_audio(track.file, SAMPLE_RATE, 1)[0].numpy() for track in tracks))
    atomic_write_text(file.parent / ATTRIBUTION, json.dumps(attribution, indent=1, ensure_ascii=False) + "\n")
    return file


def attribution_of(track: Track) -> dict[str, str]:
    """Return name, title, artist, license and source of a track. Raises UnsuitableLicense for another license."""
    keys = ("title", "artist", "license", "source")
    values = {key: str(track.metadata.get(key) or "") for key in keys}
    if not LICENSES.fullmatch(values["license"].strip()):
        raise UnsuitableLicense(
            f"License {values['license']!r} of '{track.file}': the codec's weights are published, so metadata.jsonl "
            "must say CC0, CC BY or public domain for every track. Remove the file, or correct its row."
        )
    return {"file": track.name, **values}


def _write_samples(file: Path, tracks: Iterator[np.ndarray]) -> None:
    samples = [np.clip(np.round(track * 32767), -32768, 32767).astype(np.int16) for track in tracks]
    with atomic_write(file) as temporary:
        np.save(temporary, np.concatenate(samples))


def train_network(
    output: Path,
    audio: CropSampler,
    config: CodecTrainConfig,
    network_config: NetworkConfig | None = None,
    *,
    checkpointing_steps: int = 100,
    device: torch.device | None = None,
) -> CodecNetwork:
    """Train a network in a folder, from its last checkpoint if there is one, and write its weights with each."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        trainer = CodecTrainer(CodecNetwork(network_config), config, device)
    if (output / CHECKPOINT).exists():
        trainer.load(output / CHECKPOINT)
        log.info("Resumed at step %d", trainer.step_count)
    sums: dict[str, float] = {}
    began, first = time.monotonic(), trainer.step_count
    while trainer.step_count < config.max_train_steps:
        for name, value in trainer.step(audio).items():
            sums[name] = sums.get(name, 0.0) + value / checkpointing_steps
        step = trainer.step_count
        if step % checkpointing_steps == 0 or step == config.max_train_steps:
            trainer.save(output / CHECKPOINT)
            write_network(trainer.network, output / WEIGHTS)
            seconds = (time.monotonic() - began) / (step - first)
            _log_line(output / LOG, trainer, sums, seconds, config.max_train_steps)
            sums = {}
    return trainer.network


def write_network(network: CodecNetwork, file: Path) -> None:
    """Write the weights of a network in float16, with its configuration."""
    state = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(file) as temporary:
        save_file(state, temporary, metadata={CONFIG_KEY: json.dumps(asdict(network.config))})


def _log_line(file: Path, trainer: CodecTrainer, terms: dict[str, float], seconds: float, total: int) -> None:
    """Log the mean terms since the last line, and append them to a file."""
    step, rate = trainer.step_count, trainer.learning_rate(trainer.step_count)
    units = {"mel": " dB", "energy": " dB"}
    text = ", ".join(f"{name} {value:.3f}{units.get(name, '')}" for name, value in terms.items())
    minutes = (total - step) * seconds / 60
    log.info("step %d/%d: %s; %.2f s/step, %.0f min left, rate %.1e", step, total, text, seconds, minutes, rate)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "seconds_per_step": seconds, "learning_rate": rate, **terms}) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    default = CodecTrainConfig()
    parser = argparse.ArgumentParser(prog="python -m codecdiff_starter.train_codec", description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the run: checkpoint, log, weights, cached music")
    parser.add_argument("--audio", type=Path, help="folder of tracks under CC0, CC BY or public domain")
    parser.add_argument("--composed-hours", type=float, default=2.0, help="hours of composed music")
    parser.add_argument("--max-train-steps", type=int, default=default.max_train_steps)
    parser.add_argument("--train-batch-size", type=int, default=default.train_batch_size)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--checkpointing-steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--num-threads", type=int, help="of the processor; all by default")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    config = CodecTrainConfig(
        max_train_steps=options.max_train_steps,
        train_batch_size=options.train_batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    with lock_folder(options.output):
        files = [composed_audio(options.output / "composed.npy", options.composed_hours, options.seed)]
        if options.audio:
            files.append(licensed_audio(options.output / "licensed.npy", options.audio))
        train_network(options.output, CropSampler(files), config, checkpointing_steps=options.checkpointing_steps)
    log.info("Wrote %s: NeuralCodec(weights=...) reads it", options.output / WEIGHTS)


if __name__ == "__main__":
    main()
