"""How many latent frames on either side of a frame its result can depend on: exact, from the convolutions alone.

An interval of positions is followed backwards through a network's layers, from the output (one frame, or the samples
of one frame) to the input that it depends on. DAC's layers (Kumar et al., 2023, arXiv:2306.06546):
kernels of 7 at the audio's end, in each block three residual units with kernels of 7 dilated by 1, 3 and 9 and one
resampling convolution of kernel 2s, stride s and padding ceil(s / 2), and one more kernel at the latent end.
"""

import math
from collections.abc import Sequence

_AUDIO_REACH = 3  # samples; kernel 7
_UNITS_REACH = 3 * (1 + 3 + 9)  # positions; kernel 7, three dilations
_ENCODED_REACH = 1  # frames; the encoder's last kernel is 3
_DECODED_REACH = 3  # frames; the decoder's first kernel is 7


def encode_context_frames(downsampling_ratios: Sequence[int]) -> int:
    """Return the frames on either side that codes of a frame depend on; ratios are in order from audio to latents."""
    first, last = -_ENCODED_REACH, _ENCODED_REACH
    for stride in reversed(downsampling_ratios):
        padding = math.ceil(stride / 2)
        first = first * stride - padding - _UNITS_REACH
        last = last * stride - padding + 2 * stride - 1 + _UNITS_REACH
    hop_length = math.prod(downsampling_ratios)
    first_frame = (first - _AUDIO_REACH) // hop_length
    last_frame = (last + _AUDIO_REACH) // hop_length
    return max(-first_frame, last_frame)


def decode_context_frames(upsampling_ratios: Sequence[int]) -> int:
    """Return the frames on either side that audio of a frame depends on; ratios are in order from latents to audio."""
    first, last = -_AUDIO_REACH, math.prod(upsampling_ratios) - 1 + _AUDIO_REACH
    for stride in reversed(upsampling_ratios):
        padding = math.ceil(stride / 2)
        first = math.ceil((first - _UNITS_REACH + padding - (2 * stride - 1)) / stride)
        last = (last + _UNITS_REACH + padding) // stride
    return max(_DECODED_REACH - first, last + _DECODED_REACH)
