"""How fast a server may be asked: so many requests, and so many tokens, a minute."""

from threading import Lock


class Pace:
    """Hands out times at which requests may begin, evenly spaced: no minute holds more than its share.

    Times are seconds of any clock that only goes forward; this class neither reads one nor waits.
    """

    def __init__(self, requests: float | None = None, tokens: float | None = None) -> None:
        self.requests, self.tokens = requests, tokens  # a minute; None for as many as there are
        self._free = {"requests": 0.0, "tokens": 0.0}  # when the next may begin, by each of the two
        self._held = 0.0
        self._lock = Lock()

    def reserve(self, tokens: int, now: float) -> float:
        """Give the time at which a request of so many tokens may begin, and take that time up."""
        with self._lock:
            begin = max(now, *self._free.values())
            if self.requests:
                self._free["requests"] = begin + 60 / self.requests
            if self.tokens:
                self._free["tokens"] = begin + tokens * 60 / self.tokens
            return begin

    def hold(self, until: float) -> None:
        """Let no request begin before this time, whatever it has reserved: the server said so to one of them."""
        with self._lock:
            self._held = max(self._held, until)

    def opens(self, begin: float) -> float:
        """Give when a request that reserved `begin` may begin as things are now."""
        return max(begin, self._held)
