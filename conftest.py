"""Settings of every test.

What pytest imports and collects stays until the end: searching it for garbage takes a quarter of the time.
Models of the tests name tiny pretrained models in folders of their own, which folders from elsewhere may not.
"""

import gc
import os

os.environ.setdefault("CODECDIFF_ALLOW_LOCAL_PARTS", "1")
gc.disable()


def pytest_collection_finish() -> None:
    """Set aside what exists by now, and collect the garbage of tests alone."""
    gc.freeze()
    gc.set_threshold(50_000)  # as the command line does
    gc.enable()


def pytest_unconfigure() -> None:
    """Leave everything to the system, as the command line does: looking through it once more takes a second."""
    gc.freeze()
