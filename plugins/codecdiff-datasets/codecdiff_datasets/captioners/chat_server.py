"""A server with OpenAI's chat protocol: requests keep its rate limits and are sent again after errors that may pass."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2

from codecdiff.errors import InvalidValue, UnknownName, UserError
from codecdiff_datasets.captioners.answers import Answer, InvalidAnswer
from codecdiff_datasets.captioning import one_line

MAX_PAUSE = 60.0  # seconds between two attempts, unless the server asks for more
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask for; beyond, the run stops and can be resumed
MAX_BYTES = 2**20  # of a response
MIN_KEY = 8  # characters of a key that is a secret, not a word like "none"
FIRST_RETRIES = 3  # while a server has never answered
OPENAI = "https://api.openai.com/v1"


class ServerError(UserError, ConnectionError):
    """A server that cannot be used, now or with these settings; the run can be resumed."""


class NoAnswer(ValueError):
    """A request that the server did not answer, although it may answer others."""


class RateLimit:
    """Hands out times at which requests may begin, evenly spaced, so that no minute exceeds the limits.

    Times are seconds of any monotonic clock; this class neither reads one nor waits.
    """

    def __init__(self, requests: float | None = None, tokens: float | None = None) -> None:
        self.requests, self.tokens = requests, tokens  # per minute; None without a limit
        self._free = 0.0  # when the next may begin
        self._held = 0.0
        self._lock = Lock()

    def reserve(self, tokens: int, now: float) -> float:
        """Return the time at which a request of so many tokens may begin, and reserve it."""
        with self._lock:
            begin = max(now, self._free)
            seconds = [60 / self.requests] if self.requests else []
            seconds += [tokens * 60 / self.tokens] if self.tokens else []
            self._free = begin + max(seconds, default=0.0)
            return begin

    def hold(self, until: float) -> None:
        """Let no request begin before this time, whatever it has reserved: the server made one of them wait."""
        with self._lock:
            self._held = max(self._held, until)

    def opens(self, begin: float) -> float:
        """Return when a request that reserved `begin` may begin by now."""
        return max(begin, self._held)


class Response(NamedTuple):
    """What a server sent: its status, its headers, and its body without the key."""

    status: int
    headers: Mapping[str, str]
    body: str

    def error(self) -> tuple[str, Any]:
        """Return the message and the code of an error as OpenAI's servers send them; the body for any other."""
        try:
            error = json.loads(self.body)["error"]
            return str(error["message"] or self.body), error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self.body, None

    def retry_after(self) -> float | None:
        """Return the seconds of a Retry-After header, a number or a date; None if there is none."""
        header = self.headers.get("retry-after", "")
        try:
            seconds = float(header)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                return None
        return max(0.0, seconds) if seconds == seconds else None  # not NaN


class ChatServer:
    """The server at OPENAI_BASE_URL (OpenAI's own if unset), with the key in OPENAI_API_KEY.

    The key is sent to that server only: redirects are not followed. It is removed from whatever comes back. A response
    of more than a megabyte counts as none.

    Args:
        limit: How often it may be used.
        timeout: Seconds that it may be silent.
        deadline: Seconds after which a response has to be complete.
        retries: How often a request is sent again after an error.
        backoff: Seconds before the first retry; doubled each time, and shortened at random by up to a half.
        patience: Requests in a row without an answer after which the run stops: the server is to blame.

    Raises:
        UnknownName: Neither variable is set.
        InvalidValue: One of them is invalid.

    """

    def __init__(
        self, limit: RateLimit, *, timeout: float, deadline: float, retries: int, backoff: float, patience: int
    ) -> None:
        key, address = (os.environ.get(name, "").strip() for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
        if not key and not address:
            raise UnknownName(
                "No language model is configured: set OPENAI_API_KEY for OpenAI's, or OPENAI_BASE_URL for any other "
                "server with its protocol, as in OPENAI_BASE_URL=http://localhost:8000/v1."
            )
        if not key.isascii() or not key.isprintable():
            raise InvalidValue("OPENAI_API_KEY holds characters that a key cannot have. Copy it again.")
        if address and not _is_web_address(address):
            raise InvalidValue("Invalid OPENAI_BASE_URL: expected an address that begins with http:// or https://.")
        self._key, self._url = key, f"{(address or OPENAI).rstrip('/')}/chat/completions"
        self._tls = httpx2.create_ssl_context()
        self.limit, self.retries, self.backoff, self.patience = limit, retries, backoff, patience
        self.timeout, self.deadline = timeout, deadline
        self._random = random.Random()  # its own: only waiting depends on it
        self._stopped, self._lock, self._unanswered = Event(), Lock(), 0
        self._has_answered = False  # a wrong address is not worth long patience

    def ask(self, request: Mapping[str, Any], tokens: int) -> Answer:
        """Send a request of about so many tokens, the answer's included, until there is an answer.

        Raises NoAnswer if this request has none, and ServerError if the server has none for any: it cannot be reached,
        rejects the model or the key, is closed, or asks to wait too long.
        """
        response, reason, is_unreachable = None, "", False
        for attempt in range(self.retries + 1):
            if attempt:
                self._wait_out(response, attempt - 1)
            self._wait_for_turn(tokens)
            response, is_unreachable = None, False
            try:
                response = self._send(request)
                self._has_answered = True
                if 200 <= response.status < 300:
                    answer = Answer.parse(response.body)
                    self._unanswered = 0
                    return answer
                reason = self._reason_to_retry(response)
            except InvalidAnswer as error:
                response, reason = None, str(error)
            except TimeoutError:
                reason = f"It was silent for {self.timeout:g} s, or not done after {self.deadline:g} s."
            except httpx2.TransportError as error:
                is_unreachable = True
                reason = one_line(self._redacted(f"{str(error).rstrip('.') or type(error).__name__}."), 200)
                if not self._has_answered and attempt == FIRST_RETRIES:
                    break
        if response and response.status == 429:
            raise ServerError(f"The server is busy: {reason} Resume later with the same command.")
        if is_unreachable:
            raise ServerError(f"The server cannot be reached: {reason} Is OPENAI_BASE_URL right?")
        raise self._unanswered_error(reason)

    def stop(self) -> None:
        """Make waiting requests fail."""
        self._stopped.set()

    def _send(self, request: Mapping[str, Any]) -> Response:
        """Send a request once. In a thread of its own: the caller's may run an event loop, as notebooks do."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._post(request)).result()

    async def _post(self, request: Mapping[str, Any]) -> Response:
        """Send a request once. Raises TimeoutError, httpx2.TransportError and InvalidAnswer."""
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self.deadline),
                httpx2.AsyncClient(timeout=self.timeout, verify=self._tls, follow_redirects=False) as client,
                client.stream("POST", self._url, json=request, headers=headers) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise InvalidAnswer(f"The server's answer is longer than {MAX_BYTES:,} bytes.")
        except httpx2.TimeoutException as error:
            raise TimeoutError from error
        text = self._redacted(body.decode("utf-8", "replace"))
        return Response(response.status_code, response.headers, text)

    def _reason_to_retry(self, response: Response) -> str:
        """Return a failure that may pass as a sentence. Raises NoAnswer or ServerError for one that will not."""
        message, code = response.error()
        message = one_line(f"{response.status}, {message.rstrip('.')}.", 200)
        if 300 <= response.status < 400:
            raise ServerError("The server redirects to another address, and is not followed. Correct OPENAI_BASE_URL.")
        if response.status in (401, 403):
            raise ServerError(f"The server refuses the key in OPENAI_API_KEY: {message}")
        if response.status == 404:
            raise ServerError(f"The server has no such model, or is not a chat server: {message}")
        if code == "insufficient_quota":
            raise ServerError(f"The server requires payment first: {message}")
        if response.status < 500 and response.status not in (408, 409, 429):
            raise self._unanswered_error(message)
        return message

    def _unanswered_error(self, reason: str) -> Exception:
        """Return the error of a request without an answer, or of a server that gives none."""
        with self._lock:
            self._unanswered += 1
            if self._unanswered > self.patience:
                return ServerError(f"{self._unanswered} requests in a row had no answer. The last: {reason}")
        return NoAnswer(f"The server gave no answer: {reason}")

    def _wait_out(self, response: Response | None, attempt: int) -> None:
        """Wait as long as the server asks for, all threads with it, or else for the back-off."""
        seconds = response.retry_after() if response else None
        if seconds is None:
            self._pause(self._backoff(attempt))
        elif seconds > MAX_RETRY_AFTER:
            raise ServerError(f"The server asks to wait for {seconds:.0f} s. Resume then.")
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
            raise ServerError("The run was stopped before the server answered.")

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= MIN_KEY else text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
