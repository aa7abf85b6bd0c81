"""The answers of a server by their requests, in memory and in a log, so that no request is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

from codecdiff.errors import InvalidValue
from codecdiff_datasets.append_log import AppendLog
from codecdiff_datasets.captioner import Usage

MAX_ANSWER = 20_000  # characters of an answer that are kept


class InvalidAnswer(ValueError):
    """A server answered with something that is not a chat completion."""


class Prices(NamedTuple):
    """Prices of a million tokens; None if unknown."""

    read: float | None = None
    written: float | None = None

    def usage(self, requests: int, tokens_read: int, tokens_written: int) -> Usage:
        """Return the usage with its price."""
        price = None
        if self != (None, None):
            price = (tokens_read * (self.read or 0) + tokens_written * (self.written or 0)) / 1e6
        return Usage(requests, tokens_read, tokens_written, price)


@dataclass(frozen=True)
class Answer:
    """One answer: its text, why it ended, whether the server marks it as a refusal, and the tokens it counted."""

    text: str
    ended: str  # "stop", "length", "content_filter"...
    refused: bool
    tokens_read: int | None  # None if the server did not say
    tokens_written: int | None

    @classmethod
    def parse(cls, body: str) -> Self:
        """Read the body of a chat completion. Raises InvalidAnswer."""
        try:
            data = json.loads(body)
            choice, usage = data["choices"][0], data.get("usage") or {}
            message = choice["message"]
            text, refusal = message.get("content") or "", message.get("refusal") or ""
            counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidAnswer("The server's answer is not a chat completion.") from error
        if not isinstance(text, str) or not isinstance(refusal, str):
            raise InvalidAnswer("The server's answer is not a text.")
        tokens = [count if isinstance(count, int) and count >= 0 else None for count in counts]
        return cls((text or refusal)[:MAX_ANSWER], str(choice.get("finish_reason")), bool(refusal), *tokens)

    def usage(self, estimate: Usage, prices: Prices) -> Usage:
        """Return the usage of the answer: the server's counts of tokens, or those of the estimate if it gave none."""
        read = estimate.tokens_read if self.tokens_read is None else self.tokens_read
        written = estimate.tokens_written if self.tokens_written is None else self.tokens_written
        return prices.usage(1, read, written)


def request_key(request: Mapping[str, Any], attempt: int) -> str:
    """Return the hash of a request, model, messages and options, and of how many attempts came before."""
    return hashlib.sha256(json.dumps([request, attempt], sort_keys=True).encode()).hexdigest()


class Answers:
    """Answers by the key of their request; with a file, those of earlier runs too.

    Raises ValueError for a file that holds something else, and OSError if another run has it open.
    """

    def __init__(self, file: Path | str | None = None) -> None:
        self._log = None if file is None else AppendLog(file, sync_seconds=0)  # each answer was paid for
        self._answers: dict[str, Answer] = {}
        self._new: set[str] = set()
        self._turns: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._lock = Lock()
        for number, row in enumerate(self._log.rows() if self._log else (), 1):
            try:
                key = row.pop("key")
                self._answers[key] = Answer(**row)
            except (KeyError, TypeError) as error:
                self.close()
                what = f"'{file}' line {number} is not an answer of a server. Name another file."
                raise InvalidValue(what) from error

    def get(self, key: str) -> Answer | None:
        """Return the answer to a request, or None."""
        return self._answers.get(key)

    def is_new(self, key: str) -> bool:
        """Return whether the answer was added to this object, rather than read from its file."""
        return key in self._new

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer: in the file, before anything else is done with it."""
        if self._log:
            self._log.add({"key": key, **asdict(answer)})
        self._answers[key] = answer
        self._new.add(key)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Let one thread at a time send this request: the second finds the first one's answer."""
        with self._lock:
            lock = self._turns.setdefault(key, Lock())
        with lock:
            yield

    def close(self) -> None:
        """Close the file."""
        if self._log:
            self._log.close()
