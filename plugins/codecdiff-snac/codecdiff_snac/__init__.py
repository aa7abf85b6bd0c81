"""SNAC for codecdiff."""

from codecdiff_snac.codec import SNAC

__all__ = ["SNAC"]
