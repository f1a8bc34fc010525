"""A proxy on loopback before a real S3 server that injects faults into chosen requests, and records them.

    with DevServer(buckets=("bucket",)) as server:
        lost = Rule(LostAnswer(), operation="CompleteMultipartUpload", nth=1)
        storm = Rule(SLOW_DOWN, INTERNAL_ERROR, ResetPeer(1000), Stall("body"), probability=0.1)
        with FaultProxy(server.endpoint_url, lost, storm, seed=7) as proxy:
            report = await asyncsink.export_directory(tree, "s3://bucket", endpoint_url=proxy.endpoint_url)
        assert proxy.count(LostAnswer) == 1

Signatures stay valid: they are made for the proxy's address, which is unchanged in the forwarded request. The proxy has
a thread and an event loop of its own, so it serves any process.

The same seed injects the same faults into the same requests, in any order: the random numbers of a request come from
the seed, its operation, its key, its part number, and the number of equal requests before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, Self
from urllib.parse import urlsplit

from asyncsink.options.settings import MIB
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.toxics import (
    HEAD_BYTES_MAX,
    Cut,
    Head,
    Passage,
    Request,
    Stream,
    Toxic,
    read_head,
    request_of,
    serve_end,
)
from asyncsink.value import dataclass

RECEIVE_BUFFER_BYTES = 65536
"""Small, so that a client whose body is no longer read really stalls."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Rule:
    """A choice of requests, and their faults.

    Args:
        toxics: the possible faults; one of them is drawn for each request.
        operation: S3's name ("PutObject"), or several of them; "" is any.
        key: a pattern ("sub/*.json"); "*" is any, requests without a key included.
        part_number: of an UploadPart; 0 is any.
        nth: only the n-th request that fits all of the above, counted from 1; 0 is each of them.
        times: most faults; 0 is no limit.
        probability: of a fault in each such request.

    Raises:
        ValueError: there is no toxic, or the probability is invalid.
    """

    def __init__(
        self,
        *toxics: Toxic,
        operation: str | tuple[str, ...] = "",
        key: str = "*",
        part_number: int = 0,
        nth: int = 0,
        times: int = 0,
        probability: float = 1.0,
    ) -> None:
        if not toxics or not 0.0 <= probability <= 1.0:
            raise ValueError(f"A rule needs a toxic and a probability of 0 to 1; got {len(toxics)} and {probability}.")
        self._toxics = toxics
        self._operations = (operation,) if isinstance(operation, str) else operation
        self._key = key
        self._part_number = part_number
        self._nth = nth
        self._times = times
        self._probability = probability
        self._fitting = self._chosen = 0

    def __repr__(self) -> str:
        where = "|".join(self._operations) or "any request"
        return f"<Rule {where} {self._key}: {', '.join(map(repr, self._toxics))}>"

    def choose(self, request: Request, dice: random.Random) -> Toxic | None:
        """The toxic for `request`, or None. Counts the request: one call per request, in one thread."""
        if "" not in self._operations and request.operation not in self._operations:
            return None
        if not fnmatchcase(request.key, self._key) or self._part_number not in (0, request.part_number):
            return None
        self._fitting += 1
        if self._nth not in (0, self._fitting) or (self._times and self._chosen >= self._times):
            return None
        if dice.random() >= self._probability:
            return None
        self._chosen += 1
        return dice.choice(self._toxics)


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that happened: the request, the toxic, and a short description."""

    request: Request
    toxic: Toxic
    what: str


class FaultProxy:
    """A proxy for one server, for the duration of its block.

    Args:
        server_url: the real server, "http://host:port".
        rules: the first one that chooses a request applies. Rules have counters, so each proxy needs its own.
        seed: of the random numbers.

    Attributes:
        requests: all requests, in order of arrival. hits: the faults. answers: the requests that the server answered,
            and the statuses. All may be read at any time, and are complete after the block.

    Leaving the block ends every connection, stalled ones included, and raises a fault of the proxy itself.
    """

    def __init__(self, server_url: str, *rules: Rule, seed: int = 0) -> None:
        server = urlsplit(server_url)
        self._server = server.hostname, server.port
        self.rules = rules
        """May be replaced at any time; later requests follow the new rules."""
        self._seed = seed
        self.endpoint_url = ""
        """The endpoint of clients, "http://127.0.0.1:PORT"."""
        self.requests: list[Request] = []
        self.hits: list[Hit] = []
        self.answers: list[tuple[Request, int]] = []
        self._changed = threading.Condition()
        self._repeats: Counter[tuple[str, str, int]] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fault-proxy")
        self._started = threading.Event()

    def __repr__(self) -> str:
        return f"<FaultProxy seed {self._seed}: {len(self.requests)} requests, {len(self.hits)} hits>"

    def count(self, *kinds: type[Toxic] | Toxic, operation: str = "") -> int:
        """Number of faults by these toxics (classes or single ones; none: any) in an operation ("": any)."""
        return sum(
            (not kinds or any(hit.toxic == kind or type(hit.toxic) is kind for kind in kinds))
            and operation in ("", hit.request.operation)
            for hit in tuple(self.hits)
        )

    def sent(self, operation: str, key: str = "*") -> list[Request]:
        """The requests of one operation so far, for keys that match `key`."""
        return [r for r in tuple(self.requests) if r.operation == operation and fnmatchcase(r.key, key)]

    def wait_for_hits(self, number: int = 1, *, seconds: float = 60.0) -> None:
        """Block until `number` faults have happened.

        Raises:
            TimeoutError: they did not within `seconds`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.hits) >= number, seconds):
                raise TimeoutError(f"{len(self.hits)} of {number} faults happened within {seconds:g} s")

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    # In the thread

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=HEAD_BYTES_MAX)
        self._started.set()
        try:
            await self._stopping.wait()
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        client, upstream = (reader, writer), _Upstream(self._server)
        try:
            await self._serve_connection(client, upstream)
        except Cut as cut:
            upstream.close()
            if cut.end == "reset":
                with contextlib.suppress(OSError):  # the client has closed the socket already
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            with contextlib.suppress(asyncio.CancelledError):  # leaving the block ends a stall
                await serve_end(cut.end, client)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # a side went away, or the block was left: both end the connection
        except Exception as error:  # noqa: BLE001 - `__exit__` raises a fault of the proxy itself
            self._errors.append(error)
        finally:
            upstream.close()
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve_connection(self, client: Stream, upstream: _Upstream) -> None:
        while True:
            request = self._read(await read_head(client[0]))
            # A str as the seed is hashed whole, and the same in every process.
            identity = request.operation, request.key, request.part_number, request.repeat
            dice = random.Random(f"{self._seed}:{identity!r}")
            chosen = (rule.choose(request, dice) for rule in self.rules)
            toxic = next((each for each in chosen if each is not None), None)
            note, answered = self._noting(request, toxic), partial(self._answered, request)
            passage = Passage(request, client, upstream.stream, dice, note, answered)
            if toxic is not None:
                await toxic.play(passage)
            else:
                await passage.relay()
            if not passage.reusable:
                raise Cut("close")

    def _read(self, head: Head) -> Request:
        plain = request_of(head)
        identity = plain.operation, plain.key, plain.part_number
        request = replace(plain, repeat=self._repeats[identity])
        self._repeats[identity] += 1
        self.requests.append(request)
        return request

    def _answered(self, request: Request, status: int) -> None:
        self.answers.append((request, status))

    def _noting(self, request: Request, toxic: Toxic | None) -> Callable[[str], None]:
        def note(what: str) -> None:
            assert toxic is not None  # only a toxic calls this
            with self._changed:
                self.hits.append(Hit(request, toxic, what))
                self._changed.notify_all()

        return note


class _Upstream:
    """The connection to the server for one client connection."""

    def __init__(self, place: tuple[str | None, int | None]) -> None:
        self._place = place
        self._stream: Stream | None = None

    async def stream(self) -> Stream:
        """The connection, opened at the first call, and again after the server has closed it."""
        if self._stream is None or self._stream[0].at_eof():
            self.close()
            self._stream = await asyncio.open_connection(*self._place, limit=HEAD_BYTES_MAX)
        return self._stream

    def close(self) -> None:
        """Close it at once. Harmless when repeated."""
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None


# -- The faults of a storm: every fault after which a request can still succeed when it is sent again ------------------

FAULTS: Final[tuple[t.Toxic, ...]] = (
    s.SLOW_DOWN,
    s.INTERNAL_ERROR,
    s.TOO_MANY_REQUESTS,
    s.REQUEST_TIMEOUT,
    s.EXPIRED_TOKEN,
    s.REQUEST_TIME_TOO_SKEWED,
    t.ResetPeer(),
    t.ResetPeer(300_000),
    t.ResetPeer(10, stream="downstream"),
    t.LimitData(10),
    t.HalfClose(1000),
    s.LostAnswer(),
    t.Timeout(0.05),
    t.Stall("continue"),
    t.Stall("body"),
    t.Stall("before_answer"),
    t.Stall("answer"),
)
"""Faults of any request that cost it an attempt."""
HARMLESS: Final[tuple[t.Toxic, ...]] = (
    t.Latency(0.05, 0.05),
    t.Bandwidth(4 * MIB),
    t.Slicer(5, 4),
    t.SlowClose(0.01),
    s.DropHeaders("x-amz-checksum-"),
)
"""Faults of any request that it survives."""
OF_COMPLETE: Final[tuple[t.Toxic, ...]] = (s.ErrorIn200(), s.ErrorIn200(committed=True), s.Whitespace(3, 0.01))
"""Faults of CompleteMultipartUpload."""
