"""The interface of captioners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from codecdiff.interfaces.part import Part


@dataclass(frozen=True)
class Bill:
    """What is asked of a server that counts: requests, tokens it reads and writes, and their price if that is known."""

    requests: int = 0
    tokens_read: int = 0
    tokens_written: int = 0
    price: float | None = None  # in the currency of the rates that were given

    def __add__(self, other: Bill) -> Bill:
        prices = [bill.price for bill in (self, other) if bill.price is not None]
        tokens = (self.tokens_read + other.tokens_read, self.tokens_written + other.tokens_written)
        return Bill(self.requests + other.requests, *tokens, sum(prices) if prices else None)

    def __str__(self) -> str:
        price = "" if self.price is None else f", for {self.price:.4g}"
        return (
            f"{self.requests:,} requests, {self.tokens_read:,} tokens read and {self.tokens_written:,} written{price}"
        )


class Captioner(Part, ABC):
    """Writes a caption of a track: from its audio, its tags or the captions it has.

    Invariant: a caption is one line of text. It follows from the track and the options that are not `incidental`.
    """

    derived: ClassVar[tuple[str, ...]] = ("answers",)
    concurrency: int = 1  # how many tracks may be asked about at once, from as many threads
    incidental: tuple[str, ...] = ()  # options that change how fast or how dear it is, not what it writes: not recorded

    @abstractmethod
    def caption(self, track: Mapping[str, Any]) -> str:
        """One track -> its caption. A track is a row of a manifest, its `file` a path that can be opened.

        Raises LookupError for a track that lacks what this captioner reads, and ValueError for one that cannot be
        captioned: both are recorded, and the others go on. OSError stops the run, which can be resumed.
        """

    def estimate(self, tracks: Sequence[Mapping[str, Any]]) -> Bill:
        """Foresee what captioning these tracks asks of a server; nothing, unless overridden."""
        return Bill()

    def bill(self) -> Bill:
        """Give what was asked of a server so far; nothing, unless overridden."""
        return Bill()

    def stop(self) -> None:
        """Ask calls in other threads that wait for something to end soon, with an OSError."""

    def close(self) -> None:
        """Let go of files and connections, once no call is under way."""
