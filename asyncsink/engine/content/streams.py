"""The streams of a sink: each has a publication of its own, which its caller's task fills and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from asyncsink.engine.content.producers import stream_pieces
from asyncsink.engine.content.promised import PromisedContent
from asyncsink.engine.content.publication import StreamPublication, never_published
from asyncsink.engine.open_run import Run
from asyncsink.engine.transfer.destination_state import too_large_for_memory
from asyncsink.errors import ConfigError, JournalError, SourceError
from asyncsink.model import Receipt, Skip, Transfer
from asyncsink.routing.keys import show
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.multipart.parts import StreamPlan, plan_parts
from asyncsink.s3.operations import PART_SIZE_BYTES_MAX
from asyncsink.sources.content import bytes_of

PRODUCER_THREADS: Final = 64
"""Most threads that read file objects of callers: those may block for as long as their other end likes."""


class StreamCalls:
    """The streams that are under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._limits = run.resources.limits
        self._producers = CapacityLimiter(PRODUCER_THREADS)
        self._streams: set[StreamPublication] = set()
        self._changed = anyio.Event()
        self._group: TaskGroup | None = None
        self._closing = False

    def __len__(self) -> int:
        return len(self._streams)

    async def put(self, transfer: Transfer, promised: PromisedContent, stream: Any) -> Receipt | Skip:
        """Publish a stream; see `AsyncSink.put_stream`."""
        pieces = stream_pieces(stream, self._producers)
        publication = self.publication(transfer, promised)
        await publication.begin()
        try:
            with publication.scope as scope:
                if publication.wanted:
                    await _pull(publication, pieces)
            if scope.cancelled_caught:
                raise publication.failed
        except BaseException as error:
            await publication.fail(error)
            raise
        return await publication.finish()

    def publication(self, transfer: Transfer, promised: PromisedContent) -> StreamPublication:
        """The publication of a stream, which its caller begins and ends.

        Raises:
            ConfigError: a stream of this length needs more memory.
        """
        if (too_large := too_large_for_memory(transfer.source, self._limits.memory_bytes)) is not None:
            raise too_large
        if self._group is None:
            raise never_published(transfer.key)
        publication = StreamPublication(
            self._run, transfer, promised, self._plan(promised.size_bytes), group=self._group, on_end=self._ended
        )
        self._streams.add(publication)
        return publication

    def _plan(self, size_bytes: int | None) -> StreamPlan:
        wanted = self._limits.part_size_bytes
        if size_bytes is not None and size_bytes > 0:
            wanted = plan_parts(size_bytes, wanted).part_size_bytes
            return StreamPlan(wanted, wanted)
        # Half of the memory, so that one part can be filled while another is sent.
        return StreamPlan(wanted, max(wanted, min(PART_SIZE_BYTES_MAX, self._limits.memory_bytes // 2)))

    def _ended(self, publication: StreamPublication) -> None:
        self._streams.discard(publication)
        if publication.fault is not None and self._group is not None:
            self._group.start_soon(_raised, publication.fault)
        self._changed.set()

    async def run(self) -> None:
        """Send the parts of all streams, until `close`, and until no stream is left.

        Raises:
            JournalError: a step of a stream cannot be recorded; the run stops.

        Cancelled, it ends the streams; their bounded clean-up is over when it raises.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                while not self._closing or self._streams:
                    await self._changed.wait()
                    self._changed = anyio.Event()
            finally:
                self._group = None
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as ends:
                        for stream in self._streams:
                            ends.start_soon(stream.stop)

    def close(self) -> None:
        """Let `run` end with the present streams."""
        self._closing = True
        self._changed.set()

    def release(self) -> None:
        """Let every caller go: nothing will be recorded any more."""
        for stream in self._streams:
            stream.release()


async def _pull(publication: StreamPublication, pieces: AbstractAsyncContextManager[AsyncIterator[Any]]) -> None:
    """Write all pieces.

    Raises:
        SourceError: the producer failed; its own exception is the cause.
        AsyncSinkError: as `StreamPublication.write`.
    """
    key = show(publication.key)
    ours: Exception | None = None
    try:
        async with pieces as producer:
            async for piece in producer:
                try:
                    await publication.write(_checked(piece, key))
                except Exception as error:
                    ours = error
                    raise
    except Exception as error:
        if ours is not None:
            raise ours from ours.__cause__
        said = one_line(f"{type(error).__name__}: {error}").rstrip(": ")
        raise SourceError(f"The stream for {key} raised {said}; nothing was published under that key.") from error


async def _raised(error: JournalError) -> None:
    raise error


def _checked(piece: Any, key: str) -> memoryview:
    try:
        return bytes_of(piece, f"A piece of the stream for {key}")
    except ConfigError as error:
        raise SourceError(f"{error} Nothing was published under that key.") from error
