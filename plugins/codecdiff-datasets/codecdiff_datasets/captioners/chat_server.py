"""A server that speaks OpenAI's chat protocol, asked with patience: in pace, again after errors, never after a no."""

import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

import openai
from codecdiff_datasets.captioners.answers import Answer, Unreadable
from codecdiff_datasets.captioners.rate_limit import Pace
from codecdiff_datasets.captioning import one_line

LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server asks for more
LONGEST_WAIT = 600.0  # seconds that a server may ask for; beyond, the run stops and can be resumed
SHORTEST_KEY = 8  # characters of a key that is a secret, not a word like "none"
FIRST_RETRIES = 3  # of a server that never answered yet
OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # what a server of one's own is told that asks for no key


class NoAnswer(ValueError):
    """A question that the server did not answer, although others may be answered."""


class ChatServer:
    """The server at OPENAI_BASE_URL (OpenAI's own if unset), with the key in OPENAI_API_KEY.

    The key is sent to that server and goes nowhere else: whatever comes back is searched for it.

    Args:
        pace: How fast it may be asked.
        timeout: Seconds that it may be silent.
        retries: How often a question is asked again after an error.
        backoff: Seconds before the first of them; doubled each time, and shortened by chance by up to a half.
        patience: Questions in a row without an answer after which the run stops: the server is at fault, not they.

    Raises:
        LookupError: Neither variable is set.
        ValueError: One of them cannot be what it should be.

    """

    def __init__(self, pace: Pace, *, timeout: float, retries: int, backoff: float, patience: int) -> None:
        key, address = (os.environ.get(name, "").strip() for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
        if not key and not address:
            raise LookupError(
                "No language model can be asked: set OPENAI_API_KEY for OpenAI's, or OPENAI_BASE_URL for any other "
                "server that speaks its protocol, as in OPENAI_BASE_URL=http://localhost:8000/v1."
            )
        if not key.isascii() or not key.isprintable():
            raise ValueError("OPENAI_API_KEY holds characters that no key has. Copy it again.")
        if address and not _is_web_address(address):
            raise ValueError("OPENAI_BASE_URL is no web address: it begins with http:// or https:// and names a host.")
        self._key = key
        self._client = openai.OpenAI(api_key=key or NO_KEY, base_url=address or OPENAI, timeout=timeout, max_retries=0)
        self.pace, self.retries, self.backoff, self.patience = pace, retries, backoff, patience
        self._random = random.Random()  # of its own: seconds only follow from it
        self._stopped, self._lock, self._unanswered = Event(), Lock(), 0
        self._is_known = False  # whether it ever said anything: an address that is wrong is not worth long patience

    def ask(self, request: Mapping[str, Any], tokens: int) -> Answer:
        """Ask a question of about so many tokens, the answer's included, until there is an answer.

        Raises NoAnswer if this question has none, and OSError if no question has: the server cannot be reached, does
        not know the model or the key, is closed, or asks for more patience than there is.
        """
        failure, fault = None, ""
        for attempt in range(self.retries + 1):
            if attempt:
                self._wait_out(failure, attempt - 1)
            self._wait_for_turn(tokens)
            try:
                answer = Answer.parse(self._sent(request))
            except Unreadable as error:
                failure, fault = None, str(error)
            except openai.APIError as error:
                failure, fault = error, self._judged(error)
                self._is_known |= isinstance(error, openai.APIStatusError)
                if _is_unreachable(error) and not self._is_known and attempt == FIRST_RETRIES:
                    break
            else:
                self._unanswered, self._is_known = 0, True
                return answer
        if isinstance(failure, openai.RateLimitError):
            raise ConnectionError(f"The server is busy: {fault} Go on later with the same command.")
        if _is_unreachable(failure):
            raise ConnectionError(f"The server cannot be reached: {fault} Is OPENAI_BASE_URL right?")
        raise self._given_up(fault)

    def stop(self) -> None:
        """Let those who wait give up."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _sent(self, request: Mapping[str, Any]) -> str:
        create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        rest = {key: value for key, value in request.items() if key not in ("model", "messages")}
        return self._redacted(create(model=request["model"], messages=request["messages"], extra_body=rest).text)

    def _judged(self, error: openai.APIError) -> str:
        """Tell a failure that may pass as a sentence. Raises NoAnswer or OSError for one that will not."""
        told = self._redacted(_message(error))
        if not isinstance(error, openai.APIStatusError):
            return one_line(f"{told.rstrip('.')}.", 200)
        told = one_line(f"{error.status_code}, {told.rstrip('.')}.", 200)
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise PermissionError(f"The server refuses the key in OPENAI_API_KEY: {told}") from None
        if isinstance(error, openai.NotFoundError):
            raise ConnectionError(f"The server has no such model, or is no chat server: {told}") from None
        if error.code == "insufficient_quota":
            raise ConnectionError(f"The server wants to be paid first: {told}") from None
        if error.status_code < 500 and error.status_code not in (408, 409, 429):
            raise self._given_up(told) from None
        return told

    def _given_up(self, fault: str) -> Exception:
        """Give the error of a question without an answer, or of a server that gives none."""
        with self._lock:
            self._unanswered += 1
            if self._unanswered > self.patience:
                return ConnectionError(f"{self._unanswered} questions in a row had no answer. The last: {fault}")
        return NoAnswer(f"The server gave no answer: {fault}")

    def _wait_out(self, failure: openai.APIError | None, attempt: int) -> None:
        """Wait as long as the server asks for, everybody with it, or else for the back-off."""
        asked = _retry_after(failure)
        if asked is None:
            self._pause(self._backoff(attempt))
        elif asked > LONGEST_WAIT:
            raise ConnectionError(f"The server asks to be left alone for {asked:.0f} s. Go on then.")
        else:
            self.pace.hold(time.monotonic() + asked)
            self._pause(asked + self._backoff(0))

    def _backoff(self, attempt: int) -> float:
        return min(LONGEST_PAUSE, self.backoff * 2**attempt) * self._random.uniform(0.5, 1)

    def _wait_for_turn(self, tokens: int) -> None:
        begin = self.pace.reserve(tokens, time.monotonic())
        self._pause(0)
        while (seconds := self.pace.opens(begin) - time.monotonic()) > 0:
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise ConnectionError("The run was stopped before the server answered.")

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_KEY else text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _is_unreachable(failure: openai.APIError | None) -> bool:
    return isinstance(failure, openai.APIConnectionError) and not isinstance(failure, openai.APITimeoutError)


def _message(error: openai.APIError) -> str:
    """Give the server's own words, where it has any, without the client's around them."""
    words = error.body.get("message") if isinstance(error.body, dict) else None
    return words if isinstance(words, str) and words else error.message


def _retry_after(error: openai.APIError | None) -> float | None:
    """Give the seconds that a Retry-After asks for, said as a number or as a date; None if there is none."""
    told = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    if told is None:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # not if it is NaN
