"""The Descript Audio Codec for codecdiff."""

from codecdiff_dac.codec import DAC

__all__ = ["DAC"]
