"""The pages that this package writes, as Jinja2 templates. Values are escaped in HTML, and pages load nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def render(template: str, /, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """Fill in a template of this folder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("codecdiff_datasets"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(values)
