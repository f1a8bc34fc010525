"""The connections to one endpoint: opened when needed, spread over its addresses, kept for a moment, watched.

One timer looks at every connection now and then: an exchange in which nothing moves fails as Stalled, an idle
connection is dropped before the server would (S3 closes after about five seconds). Names are resolved anew for each
connection (S3's have several addresses that change) in threads of the pool's own: a lookup can block for long, and
must not hold up those who read files.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from asyncsink.config import RetryPolicy
from asyncsink.s3.answer_limits import ANSWER_BYTES_MAX
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.body import ByteBody
from asyncsink.s3.client import KEEP_ALIVE_SECONDS
from asyncsink.s3.error_map import one_line
from asyncsink.s3.wire.answers import Answer
from asyncsink.s3.wire.connection import Connection, at_once
from asyncsink.s3.wire.endpoint import Endpoint
from asyncsink.s3.wire.reading import ExchangeError

ADDRESSES_TRIED_MAX: Final = 4
"""Per connection; they share connect_seconds."""
FAILED_ADDRESS_SECONDS: Final = 30.0
"""So long an address that could not be reached comes last."""
THREADS: Final = 4
FRESH_SECONDS: Final = 1.0
"""A connection that was in use so short a time ago is not one that the server is just closing."""
SWEEP_SECONDS_MIN, SWEEP_SECONDS_MAX = 0.01, 1.0

Address = tuple[str, int]
T = TypeVar("T")


class Pool:
    """Connections to `endpoint`, for one event loop. The caller bounds how many exchanges run at once.

    Args:
        endpoint: host, port and TLS.
        retry: connect_seconds and stall_seconds.
        tls: the context for HTTPS, None for plain HTTP.
        bandwidth: the limit on what is sent in a second, or None.
    """

    def __init__(
        self, endpoint: Endpoint, retry: RetryPolicy, tls: ssl.SSLContext | None, bandwidth: Bandwidth | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._retry = retry
        self._tls = tls
        self._bandwidth = bandwidth
        self._idle: list[Connection] = []
        self._open: dict[Connection, Address] = {}
        self._load: Counter[Address] = Counter()
        self._failed_at: dict[Address, float] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="asyncsink-wire")
        self._sweep_seconds = min(max(retry.stall_seconds / 8, SWEEP_SECONDS_MIN), SWEEP_SECONDS_MAX)
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False
        self._kept_max: int | None = None
        self.connections_total = 0
        """Connections made so far."""

    def __repr__(self) -> str:
        return f"<Pool {self._endpoint.url}: {len(self._open)} open, {len(self._idle)} idle>"

    async def exchange(
        self,
        head: bytes,
        body: ByteBody,
        *,
        bodiless: bool,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        once: bool = False,
        patient: bool = False,
        urgent: bool = False,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request over an idle connection, or a new one, and return the answer.

        A request on an idle connection that the server had just closed is sent once more, on a new one.

        Args:
            head, body, bodiless, answer_bytes_max, into: see `Connection.exchange`.
            once: never send it a second time; only a connection that was in use a moment ago, or a new one, will do.
            patient: it is Stalled after complete_seconds without a byte, not after stall_seconds.
            urgent: it does not wait for its turn where the bandwidth is limited; others wait the longer.

        Raises:
            ExchangeError: no connection, or no whole answer.
            ssl.SSLCertVerificationError: the server is not who it says.

        Cancellation closes the connection.
        """
        seconds = self._retry.complete_seconds if patient else self._retry.stall_seconds
        if self._bandwidth is not None:
            # Before a connection is taken: one that waited in our hands could be closed by the server meanwhile.
            await self._bandwidth.turn(at_once(head, body), urgent=urgent)
        connection = self._take(FRESH_SECONDS if once else KEEP_ALIVE_SECONDS)
        if connection is not None:
            connection.stall_seconds = seconds
            try:
                answer = await connection.exchange(
                    head, body, bodiless=bodiless, answer_bytes_max=answer_bytes_max, into=into
                )
            except ExchangeError as failure:
                if once or not failure.unanswered:
                    raise
                if self._bandwidth is not None:
                    await self._bandwidth.turn(at_once(head, body), urgent=urgent)
            else:
                self._give_back(connection)
                return answer
        connection = await self._connect()
        connection.stall_seconds = seconds
        answer = await connection.exchange(head, body, bodiless=bodiless, answer_bytes_max=answer_bytes_max, into=into)
        self._give_back(connection)
        return answer

    async def aclose(self) -> None:
        """Close every connection; exchanges under way fail. Calling it twice is harmless."""
        self._closed = True
        for connection in tuple(self._open):
            connection.fail(ExchangeError("the transport was closed"))
        await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._threads.shutdown(wait=False)

    def bound(self, connections: int) -> None:
        """Keep `connections` at most; idle ones beyond that are closed now, others when they are idle."""
        self._kept_max = connections
        for connection in self._idle[: max(0, len(self._open) - connections)]:
            connection.abort()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run something blocking and short in one of the pool's threads.

        Raises:
            ExchangeError: the pool is closed.
        """
        if self._closed:
            raise ExchangeError("the transport was closed")
        return await self._loop.run_in_executor(self._threads, function)

    def _give_back(self, connection: Connection) -> None:
        if self._kept_max is not None and len(self._open) > self._kept_max:
            connection.abort()
        elif connection.usable and not self._closed:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def _take(self, idle_seconds_max: float) -> Connection | None:
        """The connection that was used last: it is the least likely to be closed by the server."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > now - KEEP_ALIVE_SECONDS:
                if connection.idle_since > now - idle_seconds_max:
                    return connection
                # All others are older still, and good enough for other requests.
                self._idle.append(connection)
                return None
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        seconds = self._retry.connect_seconds
        deadline = self._loop.time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._resolve()
                return await self._first_that_answers(addresses, deadline)
        except TimeoutError as error:
            raise ExchangeError(f"no connection within {seconds:g} s") from error

    async def _resolve(self) -> list[Address]:
        lookup = partial(socket.getaddrinfo, self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM)
        try:
            found = await self.in_thread(lookup)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is malformed"
            raise ExchangeError(f"the name {self._endpoint.host!r} cannot be resolved: {reason}") from error
        return list(dict.fromkeys((str(each[4][0]), self._endpoint.port) for each in found))

    async def _first_that_answers(self, addresses: list[Address], deadline: float) -> Connection:
        last: OSError | None = None
        wanted = sorted(addresses, key=self._rank)[:ADDRESSES_TRIED_MAX]
        for left, address in zip(range(len(wanted), 0, -1), wanted, strict=True):
            self._load[address] += 1
            try:
                async with asyncio.timeout((deadline - self._loop.time()) / left):
                    connection = await self._open_connection(address)
            except ssl.SSLCertVerificationError:
                self._release(address)
                raise
            except OSError as error:  # TimeoutError and ssl.SSLError among them
                self._release(address)
                self._failed_at[address] = self._loop.time()
                last = error
            except BaseException:
                self._release(address)
                raise
            else:
                self._failed_at.pop(address, None)
                return self._keep(connection, address)
        reason = one_line((last and (last.strerror or str(last))) or "it did not answer in time")
        raise ExchangeError(f"the connection could not be made: {reason}") from last

    async def _open_connection(self, address: Address) -> Connection:
        host, port = address
        server_hostname = self._endpoint.host if self._tls is not None else None
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._loop, self._lost, self._bandwidth),
            host,
            port,
            ssl=self._tls,
            server_hostname=server_hostname,
        )
        return connection

    def _keep(self, connection: Connection, address: Address) -> Connection:
        if not connection.usable or self._closed:
            self._release(address)
            connection.abort()
            raise ExchangeError("the connection was closed as soon as it was made")
        self._open[connection] = address
        self._empty.clear()
        self.connections_total += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._sweep_seconds, self._sweep)
        return connection

    def _rank(self, address: Address) -> tuple[bool, int]:
        failed_at = self._failed_at.get(address)
        recently = failed_at is not None and self._loop.time() - failed_at < FAILED_ADDRESS_SECONDS
        return recently, self._load[address]

    def _release(self, address: Address) -> None:
        self._load[address] -= 1
        # Addresses change over a long run: neither table keeps those of yesterday.
        if not self._load[address]:
            del self._load[address]
        if len(self._failed_at) > 64:
            self._failed_at.clear()

    def _lost(self, connection: Connection) -> None:
        address = self._open.pop(connection, None)
        if address is not None:
            self._release(address)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._open:
            self._empty.set()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._open):
            connection.check_progress(now)
        while self._idle and self._idle[0].idle_since <= now - KEEP_ALIVE_SECONDS:
            self._idle.pop(0).abort()
        self._timer = self._loop.call_later(self._sweep_seconds, self._sweep) if self._open else None
