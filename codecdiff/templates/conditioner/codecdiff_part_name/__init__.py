"""The conditioner `part-name` for codecdiff."""

from codecdiff_part_name.conditioner import PartName

__all__ = ["PartName"]
