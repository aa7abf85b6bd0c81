"""The base class of parts: they can be named in a configuration, and record their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self


class Part:
    """A component that a configuration can name. It records the arguments of its constructor, defaults included.

    A check of `codecdiff.testing` that fails as the part expects is reported with the reason, and does not count.
    """

    derived: ClassVar[tuple[str, ...]] = ()  # arguments that follow from other parts: not options, and not saved
    arguments: dict[str, Any]  # of the constructor
    expected_failures: Mapping[str, str] = {}  # check -> why the part cannot pass it
    path_options: ClassVar[Mapping[str, Literal["read", "write"]]] = {}  # those that name files, and what it does there
    # Options of a small version, which `codecdiff check` tries: see codecdiff/testing/runner.py.
    small_options: ClassVar[Mapping[str, Any]] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor's arguments before the constructor runs."""
        part = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(part, *args, **kwargs)
        bound.apply_defaults()
        names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        arguments = {name: bound.arguments[name] for name in names[1:] if name in bound.arguments}
        object.__setattr__(part, "arguments", arguments)
        return part

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Build the part from its options for its attributes alone: nothing is downloaded, and it need not compute.

        Its weights may be on the meta device. By default, the part itself.
        """
        return cls(**options)

    def portable(self) -> Part:
        """Return the part to save with a model: itself, unless it only wraps another for use on this machine."""
        return self
