"""What a server answered to which question, kept in memory and in a file, so that nothing is paid twice."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self
from weakref import WeakValueDictionary

from codecdiff_datasets.append_log import Journal
from codecdiff_datasets.captioner import Bill

LONGEST = 20_000  # characters of an answer that are kept


class Unreadable(ValueError):
    """A server answered with something that is no chat completion."""


@dataclass(frozen=True)
class Answer:
    """One answer: its text, why it ended, whether the server says it is a refusal, and the tokens it counted."""

    text: str
    ended: str  # "stop", "length", "content_filter"...
    refused: bool
    tokens_read: int | None  # None where the server did not say
    tokens_written: int | None

    @classmethod
    def parse(cls, body: str) -> Self:
        """Read the body of a chat completion. Raises Unreadable."""
        try:
            data = json.loads(body)
            choice, usage = data["choices"][0], data.get("usage") or {}
            message = choice["message"]
            text, refusal = message.get("content") or "", message.get("refusal") or ""
            counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise Unreadable("The server's answer is no chat completion.") from error
        if not isinstance(text, str) or not isinstance(refusal, str):
            raise Unreadable("The server's answer is no text.")
        tokens = [count if isinstance(count, int) and count >= 0 else None for count in counts]
        return cls((text or refusal)[:LONGEST], str(choice.get("finish_reason")), bool(refusal), *tokens)

    def bill(self, read: int, written: int, price_read: float | None, price_written: float | None) -> Bill:
        """Give what the answer took: the server's counts of tokens, or these estimates where it gave none."""
        read = read if self.tokens_read is None else self.tokens_read
        written = written if self.tokens_written is None else self.tokens_written
        return Bill(1, read, written, price(read, written, price_read, price_written))


def price(read: int, written: int, price_read: float | None, price_written: float | None) -> float | None:
    """Give the price of tokens by the rates for a million of them; None if there is no rate."""
    if price_read is None and price_written is None:
        return None
    return (read * (price_read or 0) + written * (price_written or 0)) / 1e6


def key_of(request: Mapping[str, Any], attempt: int) -> str:
    """Give the hash of a question, model, messages and options, and of how often it was asked in vain before."""
    return hashlib.sha256(json.dumps([request, attempt], sort_keys=True).encode()).hexdigest()


class Answers:
    """Answers by the hash of their question. With a file, also those of runs before, and none is lost to a kill.

    Raises ValueError for a file that holds something else, and OSError if another run has it open.
    """

    def __init__(self, file: Path | str | None = None) -> None:
        self._journal = None if file is None else Journal(file, sync_seconds=0)  # each of them was paid for
        self._known: dict[str, Answer] = {}
        self._new: set[str] = set()
        self._asking: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._lock = Lock()
        for number, row in enumerate(self._journal.rows() if self._journal else (), 1):
            try:
                key = row.pop("key")
                self._known[key] = Answer(**row)
            except (KeyError, TypeError) as error:
                self.close()
                raise ValueError(f"'{file}' line {number} is no answer of a server. Name another file.") from error

    def get(self, key: str) -> Answer | None:
        """Give the answer to a question, or None."""
        return self._known.get(key)

    def is_new(self, key: str) -> bool:
        """Tell whether the answer was added to this object, not read from its file."""
        return key in self._new

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer: in the file, before anything else is done with it."""
        if self._journal:
            self._journal.add({"key": key, **asdict(answer)})
        self._known[key] = answer
        self._new.add(key)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Let one thread at a time ask this question: the second finds the first one's answer."""
        with self._lock:
            turn = self._asking.setdefault(key, Lock())
        with turn:
            yield

    def close(self) -> None:
        """Close the file."""
        if self._journal:
            self._journal.close()
