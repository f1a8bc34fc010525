"""The operations of a benchmark, and the objects they write: sinks and readers, as a service has them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, Final

from asyncsink.bench.order import Order, Verb
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.event_loops import surface
from asyncsink.model import Event
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.settings import MIB
from asyncsink.reader import S3Reader
from asyncsink.s3.operations import DeleteObject
from asyncsink.s3.stack import open_stack
from asyncsink.sink import AsyncSink
from asyncsink.testing.synthetic import Bodies

POOL_OBJECTS: Final = 256
"""Objects that are there before the first step, for its reads."""
POOL_BYTES: Final = 256 * MIB
STREAMED_BYTES: Final = 8 * MIB
"""Bodies of this size and more are sent as streams."""
DELETES_AT_ONCE: Final = 32


class BenchObjects:
    """The objects of one benchmark below s3://bucket/prefix/asyncsink-bench-XXXXXXXX, whose names are numbers."""

    def __init__(self, destination: str, order: Order, options: Mapping[str, Any]) -> None:
        """Describe them; nothing is sent.

        Raises:
            ConfigError: the destination or an option is wrong.
        """
        settings = parse_options(destination, dict(options))
        if not isinstance(settings.target, S3Target):
            raise ConfigError(f"DESTINATION {destination!r} is a directory; expected s3://bucket/prefix.")
        self.prefix = f"{settings.target.url}/asyncsink-bench-{secrets.token_hex(4)}"
        self._order = order
        self._options = dict(options)
        self._settings: Settings = parse_options(self.prefix, self._options)
        self._next = count()
        self.pool = 0
        self.written = 0
        self.bytes_written = 0

    @asynccontextmanager
    async def opened(self, workers: int, observe: Callable[[Event], None] | None) -> AsyncIterator[Operations]:
        """The operations over connections for `workers` at the same time.

        Raises:
            AsyncSinkError: the bucket cannot be used.
        """
        shared = {**self._options, "concurrency": workers, "observe": observe}
        known = ("checksum", "bandwidth_bytes_per_second")
        reading = {name: value for name, value in shared.items() if name not in known}
        sink = AsyncSink(
            self.prefix, journal=False, overwrite="always", on_collision="last", records_max=1000, **shared
        )
        async with sink, S3Reader(self.prefix, **reading) as reader:
            yield Operations(self, self._order.bodies, sink, reader)

    async def fill(self) -> None:
        """Write the objects that the reads of all steps read."""
        bodies, total = self._order.bodies, 0
        async with self.opened(16, None) as operations, asyncio.TaskGroup() as group:
            limit = asyncio.Semaphore(16)

            async def one(number: int) -> None:
                async with limit:
                    await operations.make("put", number)()

            while self.pool < POOL_OBJECTS and (not self.pool or total < POOL_BYTES):
                number = self.new()
                total += bodies.size_bytes(number)
                self.pool += 1
                group.create_task(one(number))

    def new(self) -> int:
        """The number of the next object."""
        return next(self._next)

    async def delete(self) -> int:
        """Delete everything that may have been written; returns how many objects could not be deleted.

        Raises:
            AsyncSinkError: the bucket cannot be reached at all.
        """
        settings, target = self._settings, self._settings.target
        assert isinstance(target, S3Target)
        numbers, failed = iter(range(self.new())), 0

        async def work() -> None:
            nonlocal failed
            for number in numbers:
                try:
                    await stack.transport.send(DeleteObject(key=f"{target.prefix}/{_name(number)}"))
                except AsyncSinkError:
                    failed += 1

        try:
            async with open_stack(target, settings.retry, settings.limits) as stack, asyncio.TaskGroup() as group:
                for _ in range(DELETES_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as group_error:
            raise surface(group_error) from None
        return failed


class Operations:
    """Makes operations on open connections."""

    def __init__(self, objects: BenchObjects, bodies: Bodies, sink: AsyncSink, reader: S3Reader) -> None:
        self._objects = objects
        self._bodies = bodies
        self._sink = sink
        self._reader = reader

    def make(self, kind: Verb, number: int) -> Callable[[], Awaitable[int]]:
        """An operation that is ready to be carried out, body included; its result is the bytes of its body.

        Args:
            kind: of the operation.
            number: of the object to write; a read takes one of those that were there before.
        """
        if kind == "put":
            return self._put(number)
        name = _name(number % self._objects.pool)
        return partial(self._get if kind == "get" else self._head, name)

    def _put(self, number: int) -> Callable[[], Awaitable[int]]:
        size, name = self._bodies.size_bytes(number), _name(number)
        body = self._bodies.body(number) if size < STREAMED_BYTES else None

        async def put() -> int:
            if body is None:
                await self._sink.put_stream(name, self._bodies.stream(number), size_bytes=size)
            else:
                await self._sink.put_bytes(name, body)
            self._objects.written += 1
            self._objects.bytes_written += size
            return size

        return put

    async def _get(self, name: str) -> int:
        return len(await self._reader.get(name))

    async def _head(self, name: str) -> int:
        await self._reader.head(name)
        return 0


def _name(number: int) -> str:
    return f"{number:09}"
