"""The one-dimensional diffusion U-Net of DiscoDiff, as a denoiser of codecdiff."""

from codecdiff_unet.denoiser import UNet

__all__ = ["UNet"]
