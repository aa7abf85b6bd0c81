"""The small real parts of the core's tests."""

# pyright: reportAttributeAccessIssue=false
# It looks into the conftest.py of the root, pytest into that of tests/.

from conftest import codec_spec, dac, dac_folder, make_pipeline, music, normalized, store

__all__ = ["codec_spec", "dac", "dac_folder", "make_pipeline", "music", "normalized", "store"]
