"""Fetch the released models that parts are made for, check them, and hold them equal to the packages they come from.

    python tests/hub/released.py runs/hub.json            # all; those that passed before are left out
    python tests/hub/released.py runs/hub.json dac mimi   # those whose names contain one of these

The file holds, for each: commit, SHA-256 of every file that was read, the result of each conformance check, and how far
codes, audio, states or vectors are from those of the reference. `make test-hub` runs it in both environments: the
original packages of DAC and EnCodec are in that of `make test-originals`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from codecdiff import config
from codecdiff.files import atomic_write_text, sha256
from codecdiff.testing.runner import find_kind, start_checks

PROMPTS = ["a slow waltz on piano", "loud drums and an electric guitar in a large hall"]
Differences = dict[str, float]


def noise(*shape: int) -> Tensor:
    """Draw audio, the same each time."""
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference; infinite for other shapes."""
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")


def unequal(ours: Tensor, theirs: Tensor) -> float:
    """Return the fraction of codes that differ; infinite for other shapes."""
    return float((ours != theirs).double().mean()) if ours.shape == theirs.shape else float("inf")


def dac_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the network of transformers, whose audio may end some samples early."""
    from transformers import DacModel

    network: Any = DacModel.from_pretrained(folder).eval()
    encoded = network.encode(noise(1, 1, 100 * part.hop_length))
    audio = network.decode(audio_codes=encoded.audio_codes).audio_values[:, None]
    ours = part.decode(encoded.audio_codes)[..., : audio.shape[-1]]
    return {
        "codes": unequal(part.encode(noise(1, 1, 100 * part.hop_length)), encoded.audio_codes),
        "audio": difference(ours, audio),
    }


def encodec_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the network of transformers, at the part's bandwidth and loudness, in one chunk."""
    from transformers import EncodecModel

    network: Any = EncodecModel.from_pretrained(folder).eval()
    network.config.chunk_length_s = None
    audio = noise(1, part.channels, 100 * part.hop_length)
    bandwidth = part.arguments.get("bandwidth") or network.config.target_bandwidths[-1]
    encoded = network.encode(audio, bandwidth=bandwidth)
    scale = None if part.loudness is None else torch.tensor([[10 ** (part.loudness / 20)]])
    codes = encoded.audio_codes[0]
    decoded = network.decode(encoded.audio_codes, [scale]).audio_values
    return {"codes": unequal(part.encode(audio), codes), "audio": difference(part.decode(codes), decoded)}


def mimi_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the network of transformers."""
    from transformers import MimiModel

    network: Any = MimiModel.from_pretrained(folder).eval()
    audio = noise(1, 1, 40 * part.hop_length)
    codes = network.encode(audio, num_quantizers=part.num_codebooks).audio_codes
    return {
        "codes": unequal(part.encode(audio), codes),
        "audio": difference(part.decode(codes), network.decode(codes).audio_values),
    }


def snac_of_the_package(part: Any, folder: Path) -> Differences:
    """Compare with the network of the package, on whole windows and with the same noise."""
    import snac

    network = snac.SNAC.from_pretrained(str(folder))
    codes = part.encode(audio := noise(1, 1, 40 * part.hop_length))
    levels = [row.mT.flatten(1) for row in codes.split(part.rates, 1)]
    drawn, randn = part.decoder_noise(codes), torch.randn
    ours = part.decode(codes)
    torch.randn = lambda shape, **_: next(drawn).view(shape)
    try:
        decoded = network.decode(levels)
    finally:
        torch.randn = randn
    differ = [unequal(*pair) for pair in zip(levels, network.encode(audio), strict=True)]
    return {"codes": max(differ), "audio": difference(ours, decoded)}


def t5_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the encoder of transformers, with an attention mask."""
    from transformers import AutoTokenizer, T5EncoderModel

    network: Any = T5EncoderModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    states, text = network(**tokens).last_hidden_state, part.encode(PROMPTS)["text"]
    return {"states": difference(text.tokens[text.mask], states[tokens.attention_mask.bool()])}


def clap_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the model of transformers and its own feature extractor and tokenizer."""
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    network: Any = ClapModel.from_pretrained(folder).eval()
    audio = noise(part.sample_rate)
    heard = ClapFeatureExtractor.from_pretrained(folder)(
        audio.numpy(), sampling_rate=part.sample_rate, return_tensors="pt"
    )
    features = network.get_audio_features(heard["input_features"].float(), is_longer=heard["is_longer"])
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    texts = network.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    audio_vectors, text_vectors = (getattr(each, "pooler_output", each) for each in (features, texts))
    return {
        "audio": difference(part.embed(audio[None])[0], audio_vectors),
        "text": difference(part.embed_text(PROMPTS), text_vectors),
    }


def mert_of_transformers(part: Any, folder: Path) -> Differences:
    """Compare with the HuBERT of transformers, which a MERT is by its weights."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    shape = json.loads((folder / "config.json").read_text()) | {"model_type": "hubert"}
    network: Any = HubertModel.from_pretrained(folder, config=HubertConfig(**shape)).eval()
    audio = noise(round(part.window_seconds * part.sample_rate))
    heard = Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        audio.numpy(), sampling_rate=part.sample_rate, return_tensors="pt"
    )
    states = network(heard["input_values"], output_hidden_states=True).hidden_states[-1]
    return {"vectors": difference(part.embed(audio[None])[0, 0], states[0].mean(0))}


def vggish_of_torchvggish(part: Any, folder: Path) -> Differences:
    """Compare with the network and the examples of torchvggish, by the file that was published."""
    from torchvggish.torchvggish import VGG, make_layers
    from torchvggish.vggish_input import waveform_to_examples

    network = VGG(make_layers(), postprocess=False).eval()
    network.load_state_dict(torch.load(next(folder.glob("vggish-*.pth")), map_location="cpu", weights_only=True))
    audio = noise(3 * part.sample_rate)
    expected = network(waveform_to_examples(audio.numpy(), part.sample_rate))  # after its last rectifier
    return {"vectors": difference(part.embed(audio[None])[0].relu(), expected)}


def by_backend(package: str, name: str, backend: str) -> Callable[[Any, Path], Differences | str]:
    """Return the comparison with a backend of a codec that is its original package."""

    def compare(part: Any, folder: Path) -> Differences | str:
        if importlib.util.find_spec(package) is None:
            return "not installed here: `make test-hub` runs this in the environment of the originals"
        spec = {**{key: value for key, value in part.arguments.items() if value is not None}, "name": name}
        original = config.build("codecs", {**spec, "backend": backend})
        audio = noise(1, part.channels, 100 * part.hop_length)
        codes = part.encode(audio)
        return {
            "codes": unequal(original.encode(audio), codes),
            "audio": difference(original.decode(codes), part.decode(codes)),
        }

    return compare


@dataclass(frozen=True)
class Released:
    """A released model: the part that is made for it, its options, and what it is compared with, by name.

    tolerance: of audio, states and vectors; codes have to be equal.
    """

    part: str
    options: dict[str, str]
    references: dict[str, Callable[[Any, Path], Differences | str]]
    tolerance: float = 1e-4

    @property
    def model(self) -> str:
        """Return the hub id, empty for a file from elsewhere."""
        return self.options.get("model", "")


DAC = {"transformers": dac_of_transformers, "descript-audio-codec": by_backend("dac", "dac", "descript")}
ENCODEC = {"transformers": encodec_of_transformers, "encodec": by_backend("encodec", "encodec", "encodec")}
RELEASED = {
    **{f"dac-{rate}": Released("dac", {"model": f"descript/dac_{rate}"}, DAC) for rate in ("44khz", "24khz", "16khz")},
    **{
        f"encodec-{rate}": Released("encodec", {"model": f"facebook/encodec_{rate}"}, ENCODEC)
        for rate in ("24khz", "32khz", "48khz")
    },
    **{
        f"snac-{rate}": Released("snac", {"model": f"hubertsiuzdak/snac_{rate}"}, {"snac": snac_of_the_package})
        for rate in ("24khz", "32khz", "44khz")
    },
    "mimi": Released("mimi", {"model": "kyutai/mimi"}, {"transformers": mimi_of_transformers}),
    "flan-t5": Released("t5", {"model": "google/flan-t5-large"}, {"transformers": t5_of_transformers}, 1e-3),
    "clap-music": Released("clap-music", {"model": "laion/larger_clap_music"}, {"transformers": clap_of_transformers}),
    "clap-general": Released(
        "clap-general", {"model": "laion/larger_clap_general"}, {"transformers": clap_of_transformers}
    ),
    "vggish": Released("vggish", {}, {"torchvggish": vggish_of_torchvggish}, 1e-3),
    "mert": Released("mert", {"model": "m-a-p/MERT-v1-95M"}, {"transformers": mert_of_transformers}, 1e-3),
}


@dataclass
class Record:
    """What is known of a released model after a run: see the file's docstring."""

    model: str
    commit: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Differences | str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def failures(self, tolerance: float) -> Iterator[str]:
        """Yield what is wrong."""
        if self.problem:
            yield self.problem.strip().splitlines()[-1]
        yield from (f"{name}: {state}" for name, state in self.checks.items() if state.startswith("failed"))
        for reference, values in self.parity.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if value > (0 if name == "codes" else tolerance):
                    yield f"{name} differ from {reference} by {value:.3g}"


def folder_of(released: Released, part: Any) -> Path:
    """Return the folder of what was fetched for a part."""
    if not released.model:
        return Path(torch.hub.get_dir()) / "checkpoints"
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(released.model, revision=part.arguments["revision"], local_files_only=True))


@torch.no_grad()
def examine(released: Released, seconds: float, before: Record | None) -> Record:
    """Fetch a model, run the checks of its part, and compare it with what is installed here.

    Comparisons of an earlier run, in another environment, are kept where they cannot be made here.
    """
    record = Record(released.model)
    try:
        with TemporaryDirectory() as temporary:
            assignments = [f"{key}={value}" for key, value in released.options.items()]
            folder, full = Path(temporary), {"full": True, "seconds": seconds}
            _, run = start_checks(
                released.part, kind=find_kind(released.part), assignments=assignments, folder=folder, **full
            )
            record.checks = {
                each.check.name: f"failed: {each.note}" if each.state == "failed" else each.state
                for each in run.results
            }
            part: Any = run.part
            home = folder_of(released, part)
            record.commit = part.arguments.get("revision")
            pattern = "**/*" if released.model else "vggish-*.pth"
            files = [file for file in sorted(home.glob(pattern)) if file.is_file()]
            record.files = {file.relative_to(home).as_posix(): sha256(file) for file in files}
            record.parity = {name: compare(part, home) for name, compare in released.references.items()}
    except Exception:
        record.problem = traceback.format_exc()
    for name in ("codecdiff", "torch", "transformers", *released.references):
        try:
            record.versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    record.versions["python"] = platform.python_version()
    if before is not None and before.files == record.files:
        for name, values in before.parity.items():
            if isinstance(record.parity.get(name), str) and isinstance(values, dict):
                record.parity[name] = values
                record.versions[name] = before.versions.get(name, "")
    return record


def main() -> None:
    """Examine released models, write what was found to a file, and exit with status 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where hashes and results are written, and read from an earlier run")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RELEASED)}; or parts of such names")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the longest clip of the checks of a codec")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if importlib.util.find_spec("torchaudio"):  # that of the originals needs a stand-in for its extension
        runpy.run_path(str(Path(__file__).parents[1] / "originals" / "conftest.py"))
    known = json.loads(options.file.read_text()) if options.file.exists() else {}
    wrong = False
    for name, released in RELEASED.items():
        if options.names and not any(part in name for part in options.names):
            continue
        record = examine(released, options.seconds, Record(**known[name]) if name in known else None)
        failures = list(record.failures(released.tolerance))
        wrong = wrong or bool(failures)
        sys.stdout.write(f"{name}: {'; '.join(failures) or 'as released'}\n")
        known[name] = record.__dict__
        atomic_write_text(options.file, json.dumps(known, indent=1) + "\n")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
