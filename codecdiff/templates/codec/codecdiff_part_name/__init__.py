"""The codec `part-name` for codecdiff."""

from codecdiff_part_name.codec import PartName

__all__ = ["PartName"]
