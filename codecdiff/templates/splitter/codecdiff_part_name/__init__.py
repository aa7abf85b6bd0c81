"""The splitter `part-name` for codecdiff."""

from codecdiff_part_name.splitter import PartName

__all__ = ["PartName"]
