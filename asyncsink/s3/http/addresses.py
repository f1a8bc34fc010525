"""Name resolution in threads of its own: a look-up blocks for as long as the system's resolver takes.

S3's names have several addresses, which change every few seconds (Amazon S3 User Guide, "Performance guidelines"): an
answer is used for CACHED_SECONDS, connections are spread over its addresses, and an unreachable one comes last for
UNREACHABLE_SECONDS.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from asyncsink.os_errors import shortage
from asyncsink.s3.endpoint import is_ip_address
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.http.reading import ExchangeError, NoThread

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""Family and socket address, as `socket.getaddrinfo` gives them."""
Told = Callable[[Sequence[Address] | ExchangeError], None]

CACHED_SECONDS: Final = 1.0
UNREACHABLE_SECONDS: Final = 30.0
"""Seconds for which an address that could not be reached comes last."""
FAILED_MAX: Final = 64
THREADS: Final = 4
"""Concurrent look-ups: beside one that hangs, another begins after CACHED_SECONDS."""


class Addresses:
    """The addresses of one host. May be used from any thread.

    Args:
        host: a name or an IP address.
        port: TCP port.
        lookup: as `socket.getaddrinfo`.
        clock: seconds, never going back.

    Attributes:
        server: "host:port".
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        lookup: Callable[..., list[tuple[object, ...]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = f"{host}:{port}"
        self._host = host
        self._port = port
        self._lookup = lookup
        self._clock = clock
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._found: Sequence[Address] = ()
        self._found_at = float("-inf")
        self._waiting: list[Told] = []
        self._looking: list[float] = []
        self._failed_at: dict[Address, float] = {}
        self._turn = 0
        self._closed = False
        if lookup is None and is_ip_address(host):
            # An IP address needs neither thread nor look-up.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            self._found, self._found_at = [(found[0][0], found[0][4])], float("inf")  # type: ignore[list-item]

    def __repr__(self) -> str:
        return f"<Addresses of {self._host}: {len(self._found)} known>"

    def ask(self, told: Told) -> Sequence[Address] | None:
        """The addresses in the order in which the next connection tries them; or None, and `told` is called with them,
        or with an ExchangeError, in any thread, perhaps before this returns."""
        try:
            return self._ask(told)
        except ExchangeError as failure:
            told(failure)
            return None

    def _ask(self, told: Told) -> Sequence[Address] | None:
        with self._lock:
            if self._closed:
                raise ExchangeError("the transport was closed")
            if self._clock() - self._found_at < CACHED_SECONDS:
                return self._in_turn()
            self._waiting.append(told)
            now, looking = self._clock(), self._looking
            if not looking or (len(looking) < THREADS and now - looking[-1] >= CACHED_SECONDS):
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="asyncsink-resolver")
                try:
                    self._threads.submit(self._look_up, now)
                except (RuntimeError, MemoryError) as error:
                    if not looking:
                        self._waiting.remove(told)
                        why = shortage(error) or one_line(str(error))
                        raise NoThread(f"no thread could be started to look the name up. {why}") from error
                else:
                    looking.append(now)
        return None

    def failed(self, address: Address) -> None:
        """Put `address` last: a connection to it could not be made."""
        with self._lock:
            if len(self._failed_at) >= FAILED_MAX:  # names change their addresses over a long run
                self._failed_at.clear()
            self._failed_at[address] = self._clock()

    def reached(self, address: Address) -> None:
        """Restore `address`: a connection to it was made."""
        if self._failed_at:
            with self._lock:
                self._failed_at.pop(address, None)

    def close(self) -> None:
        """End the threads, without waiting for a look-up that hangs."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    def _look_up(self, began: float) -> None:
        result: Sequence[Address] | ExchangeError
        try:
            found = (self._lookup or socket.getaddrinfo)(self._host, self._port, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys((each[0], each[4]) for each in found))  # type: ignore[misc]
            if not result:
                result = ExchangeError(f"the name {self._host!r} has no address")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is malformed"
            result = ExchangeError(f"the name {self._host!r} cannot be resolved: {reason}")
            result.__cause__ = error
        with self._lock:
            if began in self._looking:  # absent where its thread could not be started at first
                self._looking.remove(began)
            waiting, self._waiting = self._waiting, []
            if isinstance(result, ExchangeError):
                answers: list[Sequence[Address] | ExchangeError] = [result] * len(waiting)
            else:
                self._found, self._found_at = result, self._clock()
                answers = [self._in_turn() for _ in waiting]
        for told, answer in zip(waiting, answers, strict=True):
            told(answer)

    def _in_turn(self) -> Sequence[Address]:
        found = self._found
        if len(found) == 1:
            return found
        first = self._turn % len(found)
        self._turn += 1
        now = self._clock()
        return sorted(
            [*found[first:], *found[:first]],
            key=lambda address: now - self._failed_at.get(address, float("-inf")) < UNREACHABLE_SECONDS,
        )
