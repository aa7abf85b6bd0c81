"""The one-dimensional diffusion U-Net of DiscoDiff, as a denoiser of codecdiff."""

from codecdiff_unet.unet import UNet

__all__ = ["UNet"]
