"""S3Reader: the entry point for reading objects inside a program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Unpack

import anyio

from asyncsink.download.object_reads import ObjectReads, ReadRequest
from asyncsink.download.object_stream import ObjectStream, chunks_of
from asyncsink.download.objects import ObjectContent, ObjectEntry, ObjectInfo
from asyncsink.download.plan import pages_below
from asyncsink.download.reader_options import base_of, check_slice, listing_prefix, parse_reader, pattern_of, whole_key
from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.recording.events import Events
from asyncsink.engine.resources import open_resources, with_callers_bucket
from asyncsink.errors import AccessDenied, ConfigError
from asyncsink.event_loops import OwnerLoop, refuse_trio
from asyncsink.options.typed import ReaderOptions, StrPath, with_options
from asyncsink.options.values import deadline_of
from asyncsink.os_errors import words_shortages
from asyncsink.routing.templates import Pattern
from asyncsink.s3.operations import ListObjects


class S3Reader:
    """Reads objects below a prefix, for any number of concurrent tasks of one event loop.

        async with S3Reader("s3://bucket/prefix") as reader:
            data = await reader.get("qc/summary.json")

        reader = await S3Reader("s3://bucket/prefix").start()    # the same without a block
        …
        await reader.close()                                     # in any task

    Keys are relative to the prefix and exact. Requests, their retries and errors, and the limits of memory and
    concurrency are those of a sink; an idle reader has no task and no thread that works.

    It belongs to the process and the event loop in which it was opened: elsewhere (in a forked child, in another loop)
    its methods raise ConfigError instead of waiting forever.
    """

    def __init__(self, source: StrPath, **options: Unpack[ReaderOptions]) -> None:
        """Nothing is requested before the block, or `start`.

        Args:
            source: "s3://bucket/prefix".
            options: see `ReaderOptions`.

        Raises:
            ConfigError: an option is wrong.
        """
        self._settings = parse_reader(source, options)
        self._base = base_of(self._settings)
        self._home: OwnerLoop | None = None
        self._exits = AsyncExitStack()
        self._reads: ObjectReads | None = None
        self._controller: ConcurrencyController | None = None
        self._under_way: set[anyio.CancelScope] = set()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._reads is None else f"{len(self._under_way)} under way"
        return f"<S3Reader {self._settings.target.url}: {state}>"

    # -- Opening and closing -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> S3Reader:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @words_shortages
    async def start(self) -> S3Reader:
        """Open the reader, and return it; `close` ends it, from any task of this event loop.

        One request proves the bucket and the credentials; it may be denied, since reading needs no right to list.

        Raises:
            ConfigError: it was started or closed before.
            CredentialsError, BucketMissing, TransferError: the bucket cannot be used.

        Cancellation ends the opening.
        """
        refuse_trio()
        if self._home is not None or self._closed:
            raise ConfigError("This S3Reader was used before; make a new one for every `async with` or `start`.")
        self._home = OwnerLoop()
        async with AsyncExitStack() as exits:
            settings, target = await with_callers_bucket(self._settings)
            events = Events(settings.observe)
            exits.callback(events.close)
            resources = await exits.enter_async_context(open_resources(settings, events=events, lasting=True))
            stack = await exits.enter_async_context(resources.open_bucket(target))
            with stack.transport.fewer_attempts(), suppress(AccessDenied):
                await stack.transport.send(ListObjects(prefix=self._base, max_keys=1))
            self._controller = ConcurrencyController(stack.pacer, resources.limits, events.emit)
            reads = ObjectReads(resources, stack.transport, target.bucket, settings.objects.sse_customer_key)
            if self._closed:
                raise ConfigError("The reader was closed while it was being opened.")
            self._exits = exits.pop_all()
            self._reads = reads
        return self

    async def close(self) -> None:
        """End the reader. Calls under way end with a ConfigError; nothing is lost, since they only read.

        From any task, also again. It waits a few seconds at most.

        Raises:
            ConfigError: this is another process or event loop.
        """
        if self._home is not None:
            self._home.check(self._name)
        self._closed = True
        for scope in tuple(self._under_way):
            scope.cancel()
        exits, self._exits = self._exits, AsyncExitStack()
        with anyio.CancelScope(shield=True):
            await exits.aclose()

    # -- Reading -------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, start: int = 0, end: int | None = None, *, etag: str = "", deadline_seconds: float | None = None
    ) -> bytes:
        """The content of an object, or the range `start:end` of it; otherwise as `get_object`."""
        content = await self.get_object(key, start, end, etag=etag, deadline_seconds=deadline_seconds)
        return content.data

    @words_shortages
    async def get_object(
        self, key: str, start: int = 0, end: int | None = None, *, etag: str = "", deadline_seconds: float | None = None
    ) -> ObjectContent:
        """The content of an object, or a range of it, with its ETag and what proves it.

        Args:
            key: below the prefix, exactly.
            start, end: positions as in a slice of Python: negative ones count from the end, those beyond it are legal.
            etag: read only the object with this ETag.
            deadline_seconds: seconds until the call is given up.

        A whole object is compared with the checksum that S3 has of it, or with its ETag where that is an MD5
        (`confirmed_by`). One of more than 1 MiB is received in ranges, several at once, all of the same ETag; all
        objects under way have `memory_bytes` of room together, of which one counts for half at most. One that does not
        fit into memory is for `stream`.

        Raises:
            InvalidKey: the key can be no object's. ConfigError: an argument is wrong, or the reader is not open.
            ObjectMissing: there is no such object. AccessDenied: it may not be read.
            PreconditionFailed: it has another ETag, or was replaced again and again while it was read.
            IntegrityError: the bytes received are not the object's, twice.
            TimeoutError: `deadline_seconds` are over.
            TransferError: it cannot be read, after the retries of a sink's requests.

        Cancellation closes the connections of its requests.
        """
        check_slice(start, end)
        request = ReadRequest(key, whole_key(self._base, key), start, end, etag)
        with self._bounds(deadline_of(deadline_seconds)) as reads:
            content = await reads.get(request)
            assert self._controller is not None
            await self._controller.sample_if_due()
        return content

    def stream(
        self, key: str, start: int = 0, end: int | None = None, *, etag: str = "", deadline_seconds: float | None = None
    ) -> ObjectStream:
        """The content of an object, or a range of it, as an asynchronous iterator of chunks.

        Arguments and errors as in `get_object`; `deadline_seconds` is for each chunk. Memory is bounded whatever the
        size is, and nothing is received while the caller works. The last chunk of a whole object is given when all of
        it is proven: a caller that gets no error has the object's bytes. A lost connection is continued where it broke,
        for the same ETag only.
        """
        check_slice(start, end)
        request = ReadRequest(key, whole_key(self._base, key), start, end, etag)
        self._opened()
        stream = ObjectStream(partial(self._bounds, deadline_of(deadline_seconds)))
        return stream.begin(chunks_of(self._opened(), request, stream))

    def list(
        self, prefix: str = "", match: str | None = None, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[ObjectEntry]:
        """The objects whose keys begin with `prefix`, page by page, in the server's order.

        Args:
            prefix: the beginning of the keys below the reader's prefix; "sub-1" lists "sub-1/" and "sub-10/".
            match: a glob for the whole key below the reader's prefix, as `asyncsink grab --glob` has it: "*" within a
                name, "**" over any number of folders. Markers of folders ("a/") never match.
            deadline_seconds: seconds for each page.

        Raises:
            ConfigError: an argument is wrong, or the reader is not open.
            ServerFault: the server lists what was not asked for, or does not end.
            AccessDenied, TransferError: the objects may not, or cannot be listed.
            TimeoutError: `deadline_seconds` are over.

        The listing ends where the caller leaves the loop.
        """
        pattern = pattern_of(self._base, match)
        below = listing_prefix(self._base, prefix, pattern)
        self._opened()
        return self._listed(below, deadline_of(deadline_seconds), pattern)

    @words_shortages
    async def head(self, key: str, *, deadline_seconds: float | None = None) -> ObjectInfo:
        """What S3 tells of an object, without its content; arguments and errors as in `get_object`."""
        whole = whole_key(self._base, key)
        with self._bounds(deadline_of(deadline_seconds)) as reads:
            return await reads.head(key, whole)

    async def _listed(
        self, below: str | None, deadline_seconds: float | None, pattern: Pattern | None
    ) -> AsyncGenerator[ObjectEntry, None]:
        reads = self._opened()
        if below is None:
            return
        async with aclosing(pages_below(reads.transport, below, reads.secret)) as pages:
            while True:
                with self._bounds(deadline_seconds):
                    page = await anext(pages, None)
                if page is None:
                    return
                for listed in page:
                    if pattern is not None and (listed.key.endswith("/") or not pattern.matches(listed.key)):
                        continue
                    name = listed.key[len(self._base) :]
                    if name:  # the prefix's own marker has none
                        yield ObjectEntry(
                            key=name, size_bytes=listed.size_bytes, etag=listed.etag, modified=listed.last_modified
                        )

    # -- The state -----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"The reader of {self._settings.target.url}"

    def _opened(self) -> ObjectReads:
        if self._home is not None:
            self._home.check(self._name)
        if self._reads is None or self._closed:
            raise ConfigError(f"{self._name} is not open; use it in its `async with` block, or after `start`.")
        return self._reads

    @contextmanager
    def _bounds(self, deadline_seconds: float | None) -> Iterator[ObjectReads]:
        """The block in which a call waits: it ends with the deadline, or when the reader is closed."""
        reads = self._opened()
        reads.share.working()
        deadline = float("inf") if deadline_seconds is None else anyio.current_time() + deadline_seconds
        with anyio.CancelScope(deadline=deadline) as scope:
            self._under_way.add(scope)
            try:
                yield reads
            finally:
                self._under_way.discard(scope)
        if not scope.cancelled_caught:
            return
        if self._closed:
            raise ConfigError(f"{self._name} was closed while something was read; open another one, and read it again.")
        raise TimeoutError(f"{self._name} did not answer within {deadline_seconds:g} seconds (deadline_seconds).")


S3Reader.__doc__ = with_options(S3Reader.__doc__, ReaderOptions, "reader")
