"""SyncSink: a sink for synchronous code, such as Django's views and Celery's tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack, cast

from asyncsink.destinations.base import Destination
from asyncsink.engine.content.object_writer import ByteStream
from asyncsink.event_loops import BACKGROUND, END_SECONDS_MAX
from asyncsink.model import Checksum, Receipt, Skip
from asyncsink.options.typed import ExportOptions, PutOptions, StrPath
from asyncsink.report.report import Report, SinkStats
from asyncsink.sink import AsyncSink
from asyncsink.sync.facade import Facade, blocking

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on


class SyncSink(Facade[AsyncSink]):
    """A long-lived AsyncSink for synchronous code, used by any number of threads.

        sink = SyncSink("s3://bucket/prefix")         # opened by its first use, in whichever process that is
        receipt = sink.put("motion", path)
        receipt = sink.put_stream("raw/scan.dcm", request.FILES["scan"])
        report = sink.close(deadline_seconds=20)

    Arguments, results and errors of its methods are AsyncSink's. An opened sink belongs to its process: in a forked
    child its methods raise ConfigError. What is still open at the exit of the process is closed, within 10 seconds.
    """

    def __init__(
        self,
        base_directory: StrPath = "",
        *,
        destination: Destination | None = None,
        records_max: int | None = None,
        **options: Unpack[ExportOptions],
    ) -> None:
        """See `AsyncSink` for the arguments. Nothing is opened before the first use.

        Raises:
            ConfigError: an option is wrong.
        """
        super().__init__(
            partial(AsyncSink, base_directory, destination=destination, records_max=records_max, **options)
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(deadline_seconds=None if error is None else 0)

    def close(self, *, deadline_seconds: float | None = None) -> Report:
        """As `AsyncSink.close`; waits for it. A sink that was never used has a report of nothing."""
        self._ended()
        return BACKGROUND.run(partial(self._inner.close, deadline_seconds=deadline_seconds))

    def _end(self) -> Awaitable[object]:
        return self._inner.close(deadline_seconds=END_SECONDS_MAX / 2)

    @property
    def report(self) -> Report:
        """As `AsyncSink.report`."""
        return self._inner.report

    def stats(self) -> SinkStats:
        """As `AsyncSink.stats`."""
        return self._inner.stats()

    put = blocking(AsyncSink.put)
    submit = blocking(AsyncSink.submit)
    flush = blocking(AsyncSink.flush)
    put_bytes = blocking(AsyncSink.put_bytes)

    def put_stream(
        self,
        key: str,
        stream: BinaryIO | Iterable[Buffer],
        *,
        size_bytes: int | None = None,
        checksum: Checksum | None = None,
        deadline_seconds: float | None = None,
        **options: Unpack[PutOptions],
    ) -> Receipt | Skip:
        """As `AsyncSink.put_stream`, with a file opened in binary mode, or an iterable of buffers such as the chunks of
        Django's UploadedFile. Both are read in threads of the sink; a read that hangs is left behind at the deadline.
        """
        iterates = isinstance(stream, Iterable) and not isinstance(stream, (str, bytes, bytearray, memoryview))
        read = stream if hasattr(stream, "read") or not iterates else _Pieces(stream)

        async def publish(sink: AsyncSink) -> Receipt | Skip:
            return await sink.put_stream(
                key,
                cast("ByteStream", read),
                size_bytes=size_bytes,
                checksum=checksum,
                deadline_seconds=deadline_seconds,
                **options,
            )

        return self._run(publish)


class _Pieces:
    """An iterable of buffers as a file object, which a sink reads in its threads."""

    def __init__(self, items: Iterable[Buffer]) -> None:
        self._items = iter(items)

    def read(self, _size: int, /) -> Any:
        """The next item, of any size; b"" at the end, and only there."""
        for item in self._items:
            if not isinstance(item, (bytes, bytearray, memoryview)) or len(item):
                return item
        return b""
