"""The first step: an audio-language model describes a window of the audio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from codecdiff.data import load_audio_prompt
from codecdiff.data.audio import BadAudio, seconds_of
from codecdiff.errors import BrokenPlugin, InvalidValue
from codecdiff.huggingface import commit_of, from_hub, require_complete
from codecdiff_datasets.captioner import Captioner
from codecdiff_datasets.captioning import one_line

__all__ = ["Describe", "first_sentences", "read_window"]

PROMPT = (
    "Describe this music in at most three sentences. Say which style and genre it is, how fast it is, and what mood it "
    "has; name instruments that you hear. Do not guess a title or an artist."
)
SENTENCES = 3
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'“‘(])")


class Describe(Captioner):
    """A description of a window of the track, by an audio-language model of transformers: Qwen2-Audio.

    One track at a time, without sampling: the likeliest token each time. Of the answer, at most three sentences are
    kept; one that `max_tokens` cuts off is left out, if there is one before it.

    Args:
        model: A Hugging Face id or a local folder, of a Qwen2-Audio with its processor.
        revision: A branch, tag or commit of the id; the newest if None. The commit is recorded.
        prompt: The instruction beside the audio.
        seconds: Length of the window; a shorter track is read whole. The model reads at most 30 s.
        start: Second of the track at which the window begins; None takes the middle.
        max_tokens: Tokens of an answer.
        dtype: The precision to compute in.
        device: Where to compute; unless it is set, a GPU if there is one.

    Raises:
        LookupError: The model is not found.
        ValueError: The files are not a complete Qwen2-Audio, or the window is longer than it can read.

    Source: Chu et al. (2024), Qwen2-Audio Technical Report, arXiv:2407.10759.

    """

    incidental = ("device",)

    def __init__(
        self,
        model: str = "Qwen/Qwen2-Audio-7B-Instruct",
        *,
        revision: str | None = None,
        prompt: str = PROMPT,
        seconds: float = 30.0,
        start: float | None = None,
        max_tokens: int = 160,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        device: str = "",
    ) -> None:
        if max_tokens < 1:
            raise InvalidValue(f"A description has at least one token, but max_tokens is {max_tokens}.")
        if start is not None and start < 0:
            raise InvalidValue(f"A window begins at second 0 or later, but start is {start}.")
        self.arguments["revision"] = revision = commit_of(model, revision) or revision  # a branch moves
        self.processor, self.network = _load(model, revision, getattr(torch, dtype))
        self.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.sample_rate: int = self.processor.feature_extractor.sampling_rate  # Hz
        longest = self.processor.feature_extractor.n_samples / self.sample_rate
        if not 0 < seconds <= longest:
            raise InvalidValue(f"This model reads up to {longest:g} s at once, but seconds is {seconds}.")
        self.seconds, self.start, self.max_tokens = seconds, start, max_tokens
        content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt}]  # the audio comes with a track
        self._text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def caption(self, track: Mapping[str, Any]) -> str:
        """Describe a track by its audio. Raises LookupError if it is missing, BadAudio if it cannot be read."""
        if not track.get("present", True) or not track.get("file"):
            raise LookupError("Its audio is missing.")
        samples = read_window(track["file"], self.sample_rate, self.seconds, self.start)
        inputs = self.processor(
            text=self._text, audio=[samples], sampling_rate=self.sample_rate, return_tensors="pt"
        ).to(self.network.device, self.network.dtype)
        with torch.inference_mode():
            tokens = self.network.generate(**inputs, max_new_tokens=self.max_tokens)[0, inputs["input_ids"].shape[1] :]
        text = self.processor.decode(tokens, skip_special_tokens=True)
        if description := first_sentences(text, cut=len(tokens) == self.max_tokens):
            return description
        raise ValueError("The model's answer is empty.")


def first_sentences(text: str, *, cut: bool) -> str:
    """Return the first three sentences of a text as one line, without the last of all if that was cut off."""
    sentences = SENTENCE_END.split(one_line(text))
    if cut and len(sentences) > 1 and not sentences[-1].endswith((".", "!", "?")):
        sentences.pop()
    return " ".join(sentences[:SENTENCES])


def read_window(file: Path | str, sample_rate: int, seconds: float, start: float | None = None) -> np.ndarray:
    """Read (t,) mono float32 samples: `seconds` from `start`, or from the middle of the file if `start` is None.

    Only the window is decoded; a shorter file is read whole. Resampled to `sample_rate` Hz. Raises BadAudio for a file
    that is not audio, ends before `start`, is empty there or holds NaN samples.
    """
    if not Path(file).is_file():
        raise BadAudio(f"File '{file}' does not exist.")
    if start is None:
        start = max(0.0, (seconds_of(file) - seconds) / 2)
    samples = load_audio_prompt({"file": file, "start": start, "seconds": seconds}, sample_rate).numpy()
    if not np.isfinite(samples).all():
        raise BadAudio(f"'{file}' holds NaN or infinite samples. Fetch it again.")
    return samples


def _load(model: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load the processor and the network, from safetensors, frozen, and set to choose the likeliest token."""
    try:
        from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
    except ImportError as error:
        raise BrokenPlugin("describe needs transformers: pip install codecdiff-datasets[describe].") from error
    place = ("Qwen2-Audio", model, revision, "config.json, its weights as safetensors and a processor")
    processor, options = from_hub(AutoProcessor, *place), {"use_safetensors": True, "output_loading_info": True}
    network, report = from_hub(Qwen2AudioForConditionalGeneration, *place, dtype=dtype, **options)
    require_complete("Qwen2-Audio", model, report["missing_keys"])
    network.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return processor, network.eval().requires_grad_(False)
