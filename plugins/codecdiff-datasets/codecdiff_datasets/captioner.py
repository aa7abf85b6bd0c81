"""The interface of captioners, a kind of part that this package adds, and what they use of a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from codecdiff import Part

__all__ = ["Captioner", "Usage"]


@dataclass(frozen=True)
class Usage:
    """What is used of a server that charges: requests, tokens read and written, and their price if it is known."""

    requests: int = 0
    tokens_read: int = 0
    tokens_written: int = 0
    price: float | None = None  # in the currency of the configured rates

    def __add__(self, other: Usage) -> Usage:
        prices = [usage.price for usage in (self, other) if usage.price is not None]
        tokens = (self.tokens_read + other.tokens_read, self.tokens_written + other.tokens_written)
        return Usage(self.requests + other.requests, *tokens, sum(prices) if prices else None)

    def __str__(self) -> str:
        price = "" if self.price is None else f", for {self.price:.4g}"
        return (
            f"{self.requests:,} requests, {self.tokens_read:,} tokens read and {self.tokens_written:,} written{price}"
        )


class Captioner(Part, ABC):
    """Writes a caption of a track: from its audio, its tags or the captions it has.

    A caption is one line of text. It depends on the track and on the options that are not `incidental`, only.
    """

    derived: ClassVar[tuple[str, ...]] = ("answers",)  # arguments that the command supplies, refused in a file
    concurrency: int = 1  # how many threads may call `caption` at once
    incidental: tuple[str, ...] = ()  # options that change speed or cost but not the captions; not recorded with them

    @abstractmethod
    def caption(self, track: Mapping[str, Any]) -> str:
        """Return the caption of a track: a row of a manifest, its `file` a path that can be opened.

        Raises LookupError for a track that lacks what this captioner reads, and ValueError for one that cannot be
        captioned: both are recorded, and the other tracks are captioned. OSError stops the run, which can be resumed.
        """

    def estimate(self, tracks: Sequence[Mapping[str, Any]]) -> Usage:
        """Estimate what captioning these tracks uses of a server; nothing unless overridden."""
        return Usage()

    def usage(self) -> Usage:
        """Return what was used of a server so far; nothing unless overridden."""
        return Usage()

    def stop(self) -> None:
        """Make calls in other threads that wait for a server end soon, with an OSError."""

    def close(self) -> None:
        """Close files and connections, once no call is running."""
