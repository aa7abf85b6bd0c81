"""Models of the tests name tiny pretrained models in folders of their own, which folders from elsewhere may not."""

import os

os.environ.setdefault("CODECDIFF_ALLOW_LOCAL_PARTS", "1")
