"""The completion marker of a destination: an object that is there while everything of the last export is published.

It is removed before the first object changes, and written as the last one. A consumer that finds it can read the
objects; a run that failed, was interrupted or killed leaves none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from asyncsink.destinations.base import ByteBody, PartWriter, Stored
from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.destinations.s3 import S3Destination
from asyncsink.errors import AccessDenied, AsyncSinkError, ObjectMissing, PermanentError
from asyncsink.model import Checksum, Transfer
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.s3.operations import DeleteObject, FileReader, FileResult, OpenPartSource, WithdrawnFiles
from asyncsink.s3.stack import S3Stack

CONTENT_BYTES_MAX = 64 * 1024
"""Most bytes of a marker that are read; one of another program may have any size."""


class CompletionMarker:
    """The marker at one key, for one run.

    Attributes:
        key, url: of the object.
        removed: whether it is not there any more: it was missing, or was removed.
    """

    def __init__(self, stack: S3Stack, key: str, url: str, customer_key: Any) -> None:
        self.key = key
        self.url = url
        self.removed = False
        self._transport = stack.transport
        self._customer_key = customer_key
        self._lock = anyio.Lock()
        self._fault: AsyncSinkError | None = None

    def __repr__(self) -> str:
        return f"<CompletionMarker {self.url}>"

    async def remove(self) -> None:
        """Remove it, once; called before each change of an object.

        Raises:
            AsyncSinkError: it cannot be removed; nothing may be changed while it says that everything is complete.
        """
        if self.removed:
            return
        async with self._lock:
            if self.removed:
                return
            if self._fault is not None:
                raise self._fault
            try:
                if await self._may_be_there():
                    await self._transport.send(DeleteObject(key=self.key))
            except PermanentError as error:
                error.args = (
                    f"The completion marker {self.url} cannot be removed, and nothing is changed while it says that "
                    f"everything is complete: {error} Allow s3:DeleteObject for it.",
                )
                self._fault = error
                raise
            self.removed = True

    async def _may_be_there(self) -> bool:
        try:
            return await self._content() is not None
        except AccessDenied:
            return True  # S3 says so of a missing object too, where the bucket may not be listed

    async def says(self, facts: Mapping[str, object]) -> bool:
        """Whether the marker is there, and has these values.

        Raises:
            AsyncSinkError: it cannot be read.
        """
        content = None if self.removed else await self._content()
        try:
            told = json.loads(content or b"")
        except (ValueError, RecursionError):
            return False  # of another program
        return isinstance(told, dict) and all(told.get(name) == value for name, value in facts.items())

    async def _content(self) -> bytes | None:
        get = GetObject(key=self.key, length=CONTENT_BYTES_MAX, ask_checksum=False, sse_customer_key=self._customer_key)
        try:
            answer = await self._transport.send(get)
        except ObjectMissing:
            return None
        except PermanentError as error:
            if error.status == 416:
                return b""  # an empty object has no range
            raise
        return bytes(answer.data)


class MarkedS3Destination(S3Destination):
    """An S3 destination with a completion marker, which is removed before the first write.

    Attributes:
        marker: of the destination.
    """

    def __init__(
        self,
        stack: S3Stack,
        settings: Settings,
        existing: ExistingObjects,
        *,
        notice: Callable[[str], None],
        log: Any = None,
    ) -> None:
        """Arguments: see S3Destination."""
        super().__init__(stack, settings, existing, notice=notice, log=log)
        target = settings.target
        assert isinstance(target, S3Target)
        key = target.key_of(settings.together.complete_marker)
        self.marker = CompletionMarker(stack, key, f"s3://{target.bucket}/{key}", settings.objects.sse_customer_key)

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """As S3Destination, without the marker."""
        await self.marker.remove()
        return await super().put(transfer, body, checksum)

    async def put_files(
        self,
        transfers: Sequence[Transfer],
        algorithm: ChecksumAlgorithm,
        reader: FileReader,
        results: list[FileResult],
        *,
        only_new: bool = False,
        withdrawn: WithdrawnFiles | None = None,
    ) -> None:
        """As S3Destination, without the marker."""
        try:
            await self.marker.remove()
        except BaseException:
            reader.close()
            raise
        await super().put_files(transfers, algorithm, reader, results, only_new=only_new, withdrawn=withdrawn)

    async def send(
        self,
        transfer: Transfer,
        source: OpenPartSource,
        algorithm: ChecksumAlgorithm | None,
        local: Callable[[memoryview], None] | None,
    ) -> tuple[Stored, Checksum | None]:
        """As S3Destination, without the marker."""
        await self.marker.remove()
        return await super().send(transfer, source, algorithm, local)

    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        """As S3Destination, without the marker."""
        await self.marker.remove()
        return await super().start(transfer, plan, algorithm)
