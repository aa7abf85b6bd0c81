"""What every part has in common: a configuration can name it, and it remembers its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self


class Part:
    """Something a configuration can name. It remembers the arguments it was built with, defaults included.

    `expected_failures` names the checks of `codecdiff.testing` that a part cannot pass, each with the reason: they are
    reported, and do not fail a test.
    """

    derived: ClassVar[tuple[str, ...]] = ()  # arguments that follow from the other parts: not options, and not saved
    arguments: dict[str, Any]
    expected_failures: Mapping[str, str] = {}  # check -> why it fails

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor's arguments before the constructor runs."""
        part = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(part, *args, **kwargs)
        bound.apply_defaults()
        named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        object.__setattr__(
            part, "arguments", {name: bound.arguments[name] for name in named[1:] if name in bound.arguments}
        )
        return part

    @classmethod
    def skeleton(cls, **options: Any) -> Self:
        """Build the part for its facts alone, with the constructor's options: nothing is fetched, and it need not work.

        The weights of what is built may be on the meta device. Unless overridden: the part itself.
        """
        return cls(**options)

    def recorded(self) -> Part:
        """Give the part that a model folder names in its place: itself, unless it is about this machine alone."""
        return self
