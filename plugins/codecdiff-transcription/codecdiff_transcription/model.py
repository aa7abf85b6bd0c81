"""Basic Pitch: how probable each of 88 notes is to sound, and to begin, in every frame of audio.

Shapes here: b clips of t samples at 22,050 Hz, f frames of 256 samples, 88 notes from A0 (27.5 Hz) to C8.

The network reads 43,844 samples at once. It is run on windows that start 142 frames apart, and the first and last 15
frames of what it computes are left out, as the authors do; unlike theirs, windows are a whole number of frames apart.

Source: Bittner et al. (2022), A lightweight instrument-agnostic model for polyphonic note transcription and multipitch
estimation, ICASSP.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE, FRAME_LENGTH = 22_050, 256  # Hz, samples
FRAMES_PER_SECOND = SAMPLE_RATE / FRAME_LENGTH  # 86.13
NUM_NOTES, LOWEST_PITCH = 88, 21  # MIDI number of A0
WINDOW_SAMPLES, MARGIN_FRAMES, HOP_FRAMES = 43_844, 15, 142
HOP_SAMPLES, MARGIN_SAMPLES = HOP_FRAMES * FRAME_LENGTH, MARGIN_FRAMES * FRAME_LENGTH
INPUT, NOTES, ONSETS = "serving_default_input_2:0", "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"
WEIGHTS = Path(__file__).with_name("basic_pitch.onnx")
WINDOWS_AT_ONCE = 8  # bounds memory


class Posteriors(NamedTuple):
    """Probabilities of notes, frame by frame; frame i is centered at sample 256 i."""

    notes: Tensor  # (b, f, 88) that it sounds
    onsets: Tensor  # (b, f, 88) that it begins


class BasicPitch(nn.Module):
    """The network of the file that comes with the package, run by ONNX Runtime on the CPU.

    The file is a buffer, so that a hash of the module's state is one of the weights.
    """

    file: Tensor

    def __init__(self) -> None:
        super().__init__()
        content = WEIGHTS.read_bytes()
        self.register_buffer("file", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def forward(self, audio: Tensor) -> Posteriors:
        """(b, t) mono audio at 22,050 Hz -> probabilities of its ceil(t / 256) frames, on the CPU."""
        num_frames = -(-audio.shape[1] // FRAME_LENGTH)
        count = -(-num_frames // HOP_FRAMES)  # windows
        behind = (count - 1) * HOP_SAMPLES + WINDOW_SAMPLES - MARGIN_SAMPLES - audio.shape[1]
        padded = functional.pad(audio.detach().float().cpu(), (MARGIN_SAMPLES, behind))
        windows = padded.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)  # (b, w, 43,844)
        parts = [self._run(rows) for rows in windows.flatten(0, 1).split(WINDOWS_AT_ONCE)]
        outputs = (torch.cat(each).unflatten(0, (len(audio), count)) for each in zip(*parts, strict=True))
        inner = slice(MARGIN_FRAMES, MARGIN_FRAMES + HOP_FRAMES)
        return Posteriors(*(output[:, :, inner].flatten(1, 2)[:, :num_frames] for output in outputs))

    def _run(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 43,844) windows -> (n, 172, 88) probabilities of notes and of onsets."""
        inputs = {INPUT: np.ascontiguousarray(windows.numpy()[:, :, None])}
        notes, onsets = self.session.run([NOTES, ONSETS], inputs)
        return torch.from_numpy(notes), torch.from_numpy(onsets)
