"""A server with OpenAI's chat protocol: requests keep its rate limits and are sent again after errors that may pass."""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

import openai
from codecdiff_datasets.captioners.answers import Answer, InvalidAnswer
from codecdiff_datasets.captioning import one_line

MAX_PAUSE = 60.0  # seconds between two attempts, unless the server asks for more
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask for; beyond, the run stops and can be resumed
MIN_KEY = 8  # characters of a key that is a secret, not a word like "none"
FIRST_RETRIES = 3  # while a server has never answered
OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # sent to servers of one's own that need no key


class NoAnswer(ValueError):
    """A request that the server did not answer, although it may answer others."""


class RateLimit:
    """Hands out times at which requests may begin, evenly spaced, so that no minute exceeds the limits.

    Times are seconds of any monotonic clock; this class neither reads one nor waits.
    """

    def __init__(self, requests: float | None = None, tokens: float | None = None) -> None:
        self.requests, self.tokens = requests, tokens  # per minute; None without a limit
        self._free = {"requests": 0.0, "tokens": 0.0}  # when the next may begin, by each of the two
        self._held = 0.0
        self._lock = Lock()

    def reserve(self, tokens: int, now: float) -> float:
        """Return the time at which a request of so many tokens may begin, and reserve it."""
        with self._lock:
            begin = max(now, *self._free.values())
            if self.requests:
                self._free["requests"] = begin + 60 / self.requests
            if self.tokens:
                self._free["tokens"] = begin + tokens * 60 / self.tokens
            return begin

    def hold(self, until: float) -> None:
        """Let no request begin before this time, whatever it has reserved: the server made one of them wait."""
        with self._lock:
            self._held = max(self._held, until)

    def opens(self, begin: float) -> float:
        """Return when a request that reserved `begin` may begin by now."""
        return max(begin, self._held)


class ChatServer:
    """The server at OPENAI_BASE_URL (OpenAI's own if unset), with the key in OPENAI_API_KEY.

    The key is sent to that server only, and removed from whatever comes back.

    Args:
        limit: How often it may be used.
        timeout: Seconds that it may be silent.
        retries: How often a request is sent again after an error.
        backoff: Seconds before the first retry; doubled each time, and shortened at random by up to a half.
        patience: Requests in a row without an answer after which the run stops: the server is to blame.

    Raises:
        LookupError: Neither variable is set.
        ValueError: One of them is invalid.

    """

    def __init__(self, limit: RateLimit, *, timeout: float, retries: int, backoff: float, patience: int) -> None:
        key, address = (os.environ.get(name, "").strip() for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
        if not key and not address:
            raise LookupError(
                "No language model is configured: set OPENAI_API_KEY for OpenAI's, or OPENAI_BASE_URL for any other "
                "server with its protocol, as in OPENAI_BASE_URL=http://localhost:8000/v1."
            )
        if not key.isascii() or not key.isprintable():
            raise ValueError("OPENAI_API_KEY holds characters that a key cannot have. Copy it again.")
        if address and not _is_web_address(address):
            raise ValueError("Invalid OPENAI_BASE_URL: expected an address that begins with http:// or https://.")
        self._key = key
        self._client = openai.OpenAI(api_key=key or NO_KEY, base_url=address or OPENAI, timeout=timeout, max_retries=0)
        self.limit, self.retries, self.backoff, self.patience = limit, retries, backoff, patience
        self._random = random.Random()  # its own: only waiting depends on it
        self._stopped, self._lock, self._unanswered = Event(), Lock(), 0
        self._has_answered = False  # a wrong address is not worth long patience

    def ask(self, request: Mapping[str, Any], tokens: int) -> Answer:
        """Send a request of about so many tokens, the answer's included, until there is an answer.

        Raises NoAnswer if this request has none, and OSError if no request has: the server cannot be reached, rejects
        the model or the key, is closed, or asks to wait too long.
        """
        failure, reason = None, ""
        for attempt in range(self.retries + 1):
            if attempt:
                self._wait_out(failure, attempt - 1)
            self._wait_for_turn(tokens)
            try:
                answer = Answer.parse(self._send(request))
            except InvalidAnswer as error:
                failure, reason = None, str(error)
            except openai.APIError as error:
                failure, reason = error, self._reason_to_retry(error)
                self._has_answered |= isinstance(error, openai.APIStatusError)
                if _is_unreachable(error) and not self._has_answered and attempt == FIRST_RETRIES:
                    break
            else:
                self._unanswered, self._has_answered = 0, True
                return answer
        if isinstance(failure, openai.RateLimitError):
            raise ConnectionError(f"The server is busy: {reason} Resume later with the same command.")
        if _is_unreachable(failure):
            raise ConnectionError(f"The server cannot be reached: {reason} Is OPENAI_BASE_URL right?")
        raise self._unanswered_error(reason)

    def stop(self) -> None:
        """Make waiting requests fail."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, request: Mapping[str, Any]) -> str:
        create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        extra = {key: value for key, value in request.items() if key not in ("model", "messages")}
        return self._redacted(create(model=request["model"], messages=request["messages"], extra_body=extra).text)

    def _reason_to_retry(self, error: openai.APIError) -> str:
        """Return a failure that may pass as a sentence. Raises NoAnswer or OSError for one that will not."""
        message = self._redacted(_message(error))
        if not isinstance(error, openai.APIStatusError):
            return one_line(f"{message.rstrip('.')}.", 200)
        message = one_line(f"{error.status_code}, {message.rstrip('.')}.", 200)
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise PermissionError(f"The server refuses the key in OPENAI_API_KEY: {message}") from None
        if isinstance(error, openai.NotFoundError):
            raise ConnectionError(f"The server has no such model, or is not a chat server: {message}") from None
        if error.code == "insufficient_quota":
            raise ConnectionError(f"The server requires payment first: {message}") from None
        if error.status_code < 500 and error.status_code not in (408, 409, 429):
            raise self._unanswered_error(message) from None
        return message

    def _unanswered_error(self, reason: str) -> Exception:
        """Return the error of a request without an answer, or of a server that gives none."""
        with self._lock:
            self._unanswered += 1
            if self._unanswered > self.patience:
                return ConnectionError(f"{self._unanswered} requests in a row had no answer. The last: {reason}")
        return NoAnswer(f"The server gave no answer: {reason}")

    def _wait_out(self, failure: openai.APIError | None, attempt: int) -> None:
        """Wait as long as the server asks for, all threads with it, or else for the back-off."""
        seconds = _retry_after(failure)
        if seconds is None:
            self._pause(self._backoff(attempt))
        elif seconds > MAX_RETRY_AFTER:
            raise ConnectionError(f"The server asks to wait for {seconds:.0f} s. Resume then.")
        else:
            self.limit.hold(time.monotonic() + seconds)
            self._pause(seconds + self._backoff(0))

    def _backoff(self, attempt: int) -> float:
        return min(MAX_PAUSE, self.backoff * 2**attempt) * self._random.uniform(0.5, 1)

    def _wait_for_turn(self, tokens: int) -> None:
        begin = self.limit.reserve(tokens, time.monotonic())
        self._pause(0)
        while (seconds := self.limit.opens(begin) - time.monotonic()) > 0:
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise ConnectionError("The run was stopped before the server answered.")

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= MIN_KEY else text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _is_unreachable(failure: openai.APIError | None) -> bool:
    return isinstance(failure, openai.APIConnectionError) and not isinstance(failure, openai.APITimeoutError)


def _message(error: openai.APIError) -> str:
    """Return the server's own message, if it sent one, without the client's words around it."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return message if isinstance(message, str) and message else error.message


def _retry_after(error: openai.APIError | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None if there is none."""
    header = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # not NaN
