"""The interfaces of the parts of a codec diffusion model, and what passes between them.

Shapes, everywhere in codecdiff:

    b batch    ch audio channel    t audio sample         k codebook (row of codes)    d codebook dimension
    l latent frame    c stage channel, c' context channel    n token    e embedding    w window

Audio is float in [-1, 1]. Codes are integers. Latents keep an explicit codebook axis, (b, k, d, l).
"""

from codecdiff.interfaces.codec import Codec
from codecdiff.interfaces.condition import Condition, ConditionTokens, Prompt, prompt_fields, prompt_text
from codecdiff.interfaces.conditioner import Conditioner
from codecdiff.interfaces.denoiser import Denoiser
from codecdiff.interfaces.embedder import Embedder
from codecdiff.interfaces.part import Part
from codecdiff.interfaces.splitter import Splitter

__all__ = [
    "Codec",
    "Condition",
    "ConditionTokens",
    "Conditioner",
    "Denoiser",
    "Embedder",
    "Part",
    "Prompt",
    "Splitter",
    "prompt_fields",
    "prompt_text",
]
