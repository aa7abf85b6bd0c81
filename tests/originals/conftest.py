"""Lets the original packages be imported where torch is built for the CPU.

torchaudio's compiled extension is built for CUDA and wants its libraries. The codecs import torchaudio and call nothing
of that extension, so an empty one stands in for it.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

if torch.version.cuda is None:
    extension = ModuleType("torchaudio._extension")
    extension.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=lambda function: function)
    sys.modules[extension.__name__] = extension
