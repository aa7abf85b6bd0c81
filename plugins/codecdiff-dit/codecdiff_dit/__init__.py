"""A one-dimensional diffusion transformer, as a denoiser of codecdiff."""

from codecdiff_dit.denoiser import DiT

__all__ = ["DiT"]
