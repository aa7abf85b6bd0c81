"""What is checked of every page.

The screenshots of the documentation are written with `CODECDIFF_SCREENSHOTS=docs/images`.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page

PHONE, DESKTOP = 390, 1280  # pixels
SCREENSHOTS = os.environ.get("CODECDIFF_SCREENSHOTS", "")
END_TRANSITIONS = "document.getAnimations().filter(a => a instanceof CSSTransition).forEach(a => a.finish())"


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def serious(page: Page, context: Any = None) -> list[str]:
    """What axe-core finds that is serious or critical, contrast included, each with where it is."""
    page.evaluate(END_TRANSITIONS)  # colors in between have any contrast
    found = Axe().run(page, context).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def screenshot(page: Page, name: str, **options: Any) -> None:
    """Write a screenshot for the documentation, where that is wanted."""
    if SCREENSHOTS:
        image = Image.open(BytesIO(page.screenshot(**options))).convert("RGB")
        image.quantize(128, dither=Image.Dither.NONE).save(Path(SCREENSHOTS, name), optimize=True)
