"""What programs see of content without files: the kinds of streams, and an object that is written piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias

from asyncsink.engine.content.publication import StreamPublication
from asyncsink.errors import ConfigError
from asyncsink.model import Receipt, Skip

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on


class AsyncReader(Protocol):
    """Something with an asynchronous `read`, such as asyncio.StreamReader, or a file of aiofiles."""

    def read(self, size: int, /) -> Awaitable[Buffer]:
        """The next bytes, `size` at most; none at the end."""
        ...


ByteStream: TypeAlias = "AsyncIterable[Buffer] | AsyncReader | BinaryIO"


class ObjectWriter:
    """An object to write to, inside its `async with` block. Made by `AsyncSink.open`.

    The object appears under its key when the block ends in order, and not at all where an exception or a cancellation
    ends it, or where it ends while another task is writing. Entering waits for the turn of the key, so that a block
    within a block must not open the same key.
    """

    def __init__(self, begin: Callable[[], StreamPublication], check_here: Callable[[], None]) -> None:
        """Take what makes the publication when the block is entered, and what refuses other processes and loops."""
        self._begin = begin
        self._check_here = check_here
        self._publication: StreamPublication | None = None
        self._receipt: Receipt | Skip | None = None

    def __repr__(self) -> str:
        return f"<ObjectWriter {self._receipt or self._publication or 'not entered'}>"

    async def __aenter__(self) -> ObjectWriter:
        if self._publication is not None:
            raise ConfigError("This writer was used before; open another one for every `async with`.")
        self._publication = self._begin()
        await self._publication.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._publication is not None
        self._check_here()
        if error is None:
            self._receipt = await self._publication.finish()
        else:
            await self._publication.give_up(error)

    async def write(self, data: Buffer) -> None:
        """Add the next bytes: any buffer, of any size; it may be changed afterwards.

        It waits while the sink's memory is used up: a slow S3 slows its producers down. Below a part's size nothing is
        sent before the block ends.

        Raises:
            ConfigError: these are no bytes, another task is writing, or this is another process or event loop; the
                object can be written to all the same.
            ExportFailed: the object cannot be published (PutFailed has the reason), or the sink was closed.
            EntityTooLarge: S3 takes no further part; nothing is published.
            SourceError: the object was given up, because nothing was written for `stall_seconds` (see `RetryPolicy`)
                while other content waited for its memory; or an earlier write was interrupted.

        Cancelled, it leaves the content incomplete, so that the object cannot be published any more.
        """
        if self._publication is None:
            raise ConfigError("The writer is not open; write inside its `async with` block.")
        self._check_here()
        await self._publication.write(data)

    @property
    def receipt(self) -> Receipt | Skip:
        """The receipt, after the block; a Skip where `overwrite="never"` has left an existing object in place.

        Raises:
            ConfigError: nothing was published, or not yet.
        """
        if self._receipt is None:
            raise ConfigError("There is a receipt when the block of the writer has ended in order.")
        return self._receipt
