"""SyncReader: a reader for synchronous code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from asyncsink.download.object_stream import ObjectStream
from asyncsink.download.objects import ObjectEntry
from asyncsink.event_loops import BACKGROUND
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.typed import ReaderOptions, StrPath
from asyncsink.reader import S3Reader
from asyncsink.sync.facade import Facade, blocking

ENTRIES_AT_ONCE = 200
"""Entries of a listing that one call to the loop brings: a call takes a tenth of a millisecond."""


class SyncObjectStream(Iterator[bytes]):
    """The chunks of one object, as those of an ObjectStream, for one thread at a time."""

    def __init__(self, stream: ObjectStream) -> None:
        self._stream = stream

    def __repr__(self) -> str:
        return f"<SyncObjectStream {self._stream!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> bytes:
        """The next chunk; raises as `ObjectStream.__anext__`."""

        async def following() -> bytes | None:
            return await anext(self._stream, None)

        chunk = BACKGROUND.run(following)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """End the stream. Harmless when repeated."""
        BACKGROUND.run(self._stream.aclose)

    @property
    def size_bytes(self) -> int:
        """Of the object, from the first chunk on."""
        return self._stream.size_bytes

    @property
    def etag(self) -> str:
        """Of the object, from the first chunk on."""
        return self._stream.etag

    @property
    def version_id(self) -> str:
        """Of the object, from the first chunk on."""
        return self._stream.version_id

    @property
    def checksum(self) -> Checksum | None:
        """With which the bytes were compared, when the last chunk is given."""
        return self._stream.checksum

    @property
    def confirmed_by(self) -> ConfirmedBy:
        """What proves the object, when the last chunk is given."""
        return self._stream.confirmed_by


class SyncReader(Facade[S3Reader]):
    """An S3Reader for synchronous code, used by any number of threads.

        reader = SyncReader("s3://bucket/prefix")     # opened by its first use, in whichever process that is
        data = reader.get("qc/summary.json")
        for chunk in reader.stream("sub-01/bold.nii"): …
        reader.close()

    Arguments, results and errors of its methods are S3Reader's. An opened reader belongs to its process: in a forked
    child its methods raise ConfigError. What is still open at the exit of the process is closed.
    """

    def __init__(self, source: StrPath, **options: Unpack[ReaderOptions]) -> None:
        """See `S3Reader`. Nothing is opened before the first use.

        Raises:
            ConfigError: an option is wrong.
        """
        super().__init__(partial(S3Reader, source, **options))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """As `S3Reader.close`; waits for it."""
        if self._ended():
            BACKGROUND.run(self._inner.close)

    get = blocking(S3Reader.get)
    get_object = blocking(S3Reader.get_object)
    head = blocking(S3Reader.head)

    def stream(
        self, key: str, start: int = 0, end: int | None = None, *, etag: str = "", deadline_seconds: float | None = None
    ) -> SyncObjectStream:
        """As `S3Reader.stream`, as an iterator."""

        async def begin(reader: S3Reader) -> ObjectStream:
            return reader.stream(key, start, end, etag=etag, deadline_seconds=deadline_seconds)

        return SyncObjectStream(self._run(begin))

    def list(
        self, prefix: str = "", match: str | None = None, *, deadline_seconds: float | None = None
    ) -> Iterator[ObjectEntry]:
        """As `S3Reader.list`, as an iterator, which raises at its first entry what is wrong."""

        async def begin(reader: S3Reader) -> AsyncIterator[ObjectEntry]:
            return reader.list(prefix, match, deadline_seconds=deadline_seconds)

        entries = self._run(begin)

        async def following() -> tuple[ObjectEntry, ...]:
            taken: tuple[ObjectEntry, ...] = ()
            async for entry in entries:
                taken = (*taken, entry)
                if len(taken) == ENTRIES_AT_ONCE:
                    break
            return taken

        while taken := BACKGROUND.run(following):
            yield from taken
