"""The denoiser `part-name` for codecdiff."""

from codecdiff_part_name.denoiser import PartName

__all__ = ["PartName"]
