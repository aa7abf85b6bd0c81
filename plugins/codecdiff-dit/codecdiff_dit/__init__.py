"""A one-dimensional diffusion transformer, as a denoiser of codecdiff."""

from codecdiff_dit.transformer import DiT

__all__ = ["DiT"]
