"""The content without files that a sink publishes: keys and transfers of the calls, and the life of what sends it.

    put_bytes ────────► a content in memory ──► bodies.py ──► batches ──► queue ──► workers
    put_stream, open ─► streams.py ──► a publication each, which sends from its caller's task and tasks of this room

A key is the caller's own word: a later call of the same key waits for the earlier one, and then replaces or skips what
is there by `overwrite`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from asyncsink.engine.content.bodies import BodyCalls
from asyncsink.engine.content.promised import PromisedContent
from asyncsink.engine.content.publication import StreamPublication
from asyncsink.engine.content.streams import StreamCalls
from asyncsink.engine.open_run import Run
from asyncsink.engine.planning.object_rules import ObjectRules
from asyncsink.engine.queue_entries import Submit
from asyncsink.engine.transfer.destination_state import too_large_for_memory
from asyncsink.model import STREAM, Checksum, Receipt, Skip, SourceFile, Transfer
from asyncsink.options.put_options import parse_put_options
from asyncsink.options.schema import RoutingOptions, S3Target
from asyncsink.options.typed import PutOptions
from asyncsink.routing.attributes import make_end
from asyncsink.routing.keys import given_key, show
from asyncsink.sources.content import MemoryFile

Feeding = Callable[[Submit], Coroutine[Any, Any, None]]


class Contents:
    """The calls of one sink that publish content without files. Belongs to one event loop."""

    def __init__(self, run: Run) -> None:
        """Publish by `run`, which is open."""
        accepted = run.resources.accepted
        assert accepted is not None  # a sink's
        self._settings = settings = run.resources.settings
        self._limits = settings.limits
        self._rules = ObjectRules(settings)
        target = run.target
        self._prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
        bases = [target.url, *([run.copy.name] if run.copy is not None else [])]
        self._key_bytes_max = min([make_end(RoutingOptions(), base).bytes_max for base in bases])
        self._bodies = BodyCalls(run, accepted)
        self._streams = StreamCalls(run)

    def __repr__(self) -> str:
        return f"<Contents: {len(self._bodies)} in memory, {len(self._streams)} streams>"

    async def put_bytes(self, key: str, data: Any, options: PutOptions) -> Receipt | Skip:
        """See `AsyncSink.put_bytes`."""
        what = f"The content for {show(key)}" if isinstance(key, str) and type(data) is not bytes else "The content"
        content = MemoryFile(data, copied_bytes_max=self._limits.multipart_threshold_bytes, what=what)
        transfer = self._transfer(key, content, options)
        if (too_large := too_large_for_memory(content, self._limits.memory_bytes)) is not None:
            raise too_large
        return await self._bodies.put(transfer)

    async def put_stream(
        self, key: str, stream: Any, options: PutOptions, *, size_bytes: int | None, checksum: Checksum | None
    ) -> Receipt | Skip:
        """See `AsyncSink.put_stream`."""
        promised = PromisedContent(key, size_bytes, checksum)
        return await self._streams.put(self._stream(key, promised, options), promised, stream)

    def open(self, key: str, options: PutOptions) -> StreamPublication:
        """The publication of what an ObjectWriter writes.

        Raises:
            ConfigError: the key or an option is not legal.
        """
        promised = PromisedContent(key, None, None)
        return self._streams.publication(self._stream(key, promised, options), promised)

    def _stream(self, key: str, promised: PromisedContent, options: PutOptions) -> Transfer:
        return self._transfer(key, SourceFile(STREAM, promised.size_bytes or 0, time.time_ns()), options)

    def _transfer(self, key: str, content: SourceFile, options: PutOptions) -> Transfer:
        key = given_key(key, bytes_max=self._key_bytes_max)
        own = parse_put_options(options, self._settings)
        objects = own.objects or (self._rules.of(key) if self._rules else None)
        return Transfer(content, self._prefix + key, key, objects=objects, overwrite=own.overwrite)

    # -- The life of the room -----------------------------------------------------------------------------------------

    def beside(self, others: Feeding) -> Feeding:
        """The feed of the queue by `others` and by these calls.

        Cancelled, it ends all streams, whose bounded clean-up is over when it raises.
        """

        async def feed(submit: Submit) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(others, submit)
                group.start_soon(self._bodies.feed, submit)
                group.start_soon(self._streams.run)

        return feed

    def close(self) -> None:
        """Let the feed end with the present calls."""
        self._bodies.close()
        self._streams.close()

    def release(self) -> None:
        """Let every caller go: nothing will be recorded any more."""
        self._bodies.release()
        self._streams.release()
