"""Objects are read into memory: whole and proven, or a range; a large one in ranges, several at once.

Every request for more of an object has the ETag of the first answer as its condition, so that what is put together is
one object. Sources: Amazon S3 API Reference, GetObject; RFC 9110, 14 (range requests) and 13.1.1 (If-Match).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from asyncsink.destinations.heads import equal_part_size, needs_part_size
from asyncsink.download.objects import ObjectContent, ObjectInfo
from asyncsink.download.plan import head_of
from asyncsink.errors import IntegrityError, PermanentError, PreconditionFailed
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, ByteBody, checksum_of
from asyncsink.integrity.sameness import Existing, Proof, comparison, parts_of_etag, prove
from asyncsink.options.settings import KIB, MIB
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectData, ObjectReceived, RangesUnknown
from asyncsink.s3.operations import MD5_ETAG_SSE, HeadObject, ObjectHead
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.engine.resources import Resources
    from asyncsink.options.settings import Secret
    from asyncsink.s3.transport import Transport

T = TypeVar("T")
FIRST_BYTES: Final = MIB
"""Room for the first answer, before the size is known: an object up to this size takes one request."""
RANGES_AT_ONCE: Final = 8
PROVEN_IN_PLACE_BYTES_MAX: Final = 64 * KIB
"""Content whose MD5 or SHA-256 takes a tenth of a millisecond, as a call to a thread does; so does the CRC of
FIRST_BYTES."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a caller asks for.

    Attributes:
        name: the key below the reader's prefix.
        key: in the bucket.
        start, end: as of a slice.
        etag: of the only object to read, or "".
    """

    name: str
    key: str
    start: int = 0
    end: int | None = None
    etag: str = ""


@dataclass(slots=True)
class Extent:
    """The beginning of what is to be read, and how much there is of it.

    Attributes:
        request: what was asked for.
        first: its bytes, and the description of the object.
        start, stop: positions in the object.
        size_bytes: of the object.
        whole: whether that is all of it, in one request or by the ETag of one.
    """

    request: ReadRequest
    first: ObjectData
    start: int
    stop: int
    size_bytes: int
    whole: bool

    @property
    def key(self) -> str:
        """Of the object, in the bucket."""
        return self.request.key

    @property
    def missing(self) -> int:
        """Bytes behind those of the first answer."""
        return self.stop - self.start - len(self.first.data)


class ObjectReads:
    """Reads objects of one bucket. For one event loop.

    Args:
        resources: their budget bounds what is received and not yet given to callers.
        transport: of the bucket.
        bucket: its name, for messages.
        secret: the customer's own key of the objects (SSE-C), or None.
    """

    def __init__(self, resources: Resources, transport: Transport, bucket: str, secret: Secret | None) -> None:
        self.transport = transport
        self.secret = secret
        self.budget = resources.budget
        self.share = resources.share
        self._threads = resources.threads
        self._bucket = bucket
        self._range_bytes = resources.limits.part_size_bytes
        self.first_bytes = min(FIRST_BYTES, resources.limits.memory_bytes)

    def __repr__(self) -> str:
        return f"<ObjectReads of s3://{self._bucket}: {self.budget}>"

    def url(self, key: str) -> str:
        """The object's URL."""
        return f"s3://{self._bucket}/{key}"

    async def get(self, request: ReadRequest) -> ObjectContent:
        """Read an object, or a range of it.

        Raises:
            IntegrityError: the bytes were not the object's, twice.
            PreconditionFailed: the object has another ETag, or was replaced twice while it was read.
            ObjectMissing, AccessDenied, TransferError: it cannot be read.
        """
        received_before = ""
        for last in (False, True):
            try:
                return await self._get(request, received_before)
            except IntegrityError as error:
                if last:
                    raise
                received_before = error.actual
            except PreconditionFailed:
                if last or request.etag:
                    raise
        raise AssertionError("the second attempt returns or raises")

    async def _get(self, request: ReadRequest, received_before: str) -> ObjectContent:
        room = self.first_bytes
        async with self.budget.reserve(room):
            extent = await self.begin(request, room)
            if not extent.missing:
                first = extent.first
                data = first.data if isinstance(first.data, bytes) else bytes(first.data)
                proof = await self._proven(extent, data, received_before) if extent.whole else _UNPROVEN
                return _content(extent, data, proof)
        length = extent.stop - extent.start
        # An object of more than half of the budget counts for no more: others go on beside it.
        reserved = min(length, self.budget.total_bytes // 2)
        if not self.budget.has_room(reserved):
            extent.first.data = b""  # what waits holds nothing
        async with self.budget.reserve(reserved):
            # The zeros of a new bytes object have no memory yet, and BytesIO gives its content back without a copy.
            buffer = io.BytesIO(bytes(length))
            with buffer.getbuffer() as view:
                await self._fill(extent, view)
            data = buffer.getvalue()
            proof = await self._proven(extent, data, received_before) if extent.whole else _UNPROVEN
            return _content(extent, data, proof)

    async def head(self, name: str, key: str) -> ObjectInfo:
        """What S3 tells of the object under `key`, which is `name` below the prefix.

        Raises:
            ObjectMissing, AccessDenied, TransferError: it cannot be looked at.
        """
        head = await self.transport.send(HeadObject(key=key, sse_customer_key=self.secret))
        return ObjectInfo(
            key=name,
            size_bytes=head.size_bytes,
            etag=head.etag,
            modified=head.last_modified,
            content_type=head.content_type,
            metadata=dict(head.metadata),
            checksums=dict(head.checksums),
            composite=head.composite,
            version_id=head.version_id,
            storage_class=head.storage_class,
            sse=head.sse,
        )

    async def begin(self, request: ReadRequest, room: int) -> Extent:
        """Ask for the beginning, at most `room` bytes. Raises what `get` raises."""
        start, end, etag = request.start, request.end, request.etag
        if start == 0 and end is None:
            return await self._begin_whole(request, room)
        if start < 0 or (end is not None and end < 0):
            head = await self._look(request, etag)
            begin, stop, _ = slice(start, end).indices(head.size_bytes)
            if begin >= stop:
                return _nothing(request, head, begin)
            start, end, etag = begin, stop, head.etag
        elif end is not None and end <= start:
            return _nothing(request, await self._look(request, etag), start)
        length = room if end is None else min(room, end - start)
        asked = GetObject(key=request.key, offset=start, length=length, if_match=etag, sse_customer_key=self.secret)
        try:
            first = await self.transport.send(asked)
        except RangesUnknown:
            return await self._begin_without_ranges(request)
        except PermanentError as error:
            if error.status != 416:
                raise
            return _nothing(request, await self._look(request, etag), start)
        size_bytes = first.object_bytes
        if size_bytes is None:
            ended = len(first.data) < length
            size_bytes = start + len(first.data) if ended else (await self._look(request, first.etag)).size_bytes
        stop = size_bytes if end is None else min(end, size_bytes)
        return Extent(request, first, start, stop, size_bytes, whole=False)

    async def _begin_whole(self, request: ReadRequest, room: int) -> Extent:
        asked = GetObject(
            key=request.key,
            length=room,
            whole=True,
            size_known=False,
            if_match=request.etag,
            sse_customer_key=self.secret,
        )
        first = await self.transport.send(asked)
        size_bytes = first.object_bytes
        if size_bytes is None:
            ended = len(first.data) < room
            size_bytes = len(first.data) if ended else (await self._look(request, first.etag)).size_bytes
        return Extent(request, first, 0, size_bytes, size_bytes, whole=True)

    async def _begin_without_ranges(self, request: ReadRequest) -> Extent:
        """Read the whole object, from a server that knows no ranges, and cut the range out."""
        head = await self._look(request, request.etag)
        size_bytes = head.size_bytes
        begin, stop, _ = slice(request.start, request.end).indices(size_bytes)
        first = await self.transport.send(
            GetObject(key=request.key, length=size_bytes, whole=True, if_match=head.etag, sse_customer_key=self.secret)
        )
        first.data = bytes(first.data[begin:stop])
        return Extent(request, first, begin, max(begin, stop), size_bytes, whole=False)

    async def _look(self, request: ReadRequest, etag: str) -> ObjectHead:
        head = await head_of(self.transport, request.key, self.secret)
        if etag and head.etag and head.etag != etag:
            raise _replaced(self.url(request.key), head.etag, etag)
        return head

    async def _fill(self, extent: Extent, view: memoryview) -> None:
        """Receive what is missing, beside what the first answer had."""
        had = len(extent.first.data)
        view[:had] = extent.first.data
        extent.first.data = b""
        try:
            await self.receive(extent, extent.start + had, view[had:], self._range_bytes)
        except RangesUnknown:
            if not extent.whole:
                raise
            await self.transport.send(
                GetObject(
                    key=extent.key,
                    length=extent.size_bytes,
                    whole=True,
                    into=view,
                    if_match=extent.first.etag,
                    sse_customer_key=self.secret,
                )
            )

    async def receive(self, extent: Extent, offset: int, view: memoryview, range_bytes: int) -> None:
        """Receive the object's bytes from `offset` into `view`, all of it, in ranges of `range_bytes`.

        Raises:
            TransferError: the first error; the other requests are cancelled.
        """
        starts = iter(range(0, len(view), range_bytes))
        errors: list[Exception] = []

        async def run(scope: anyio.CancelScope) -> None:
            try:
                for start in starts:
                    await self._receive_one(extent, offset + start, view[start : start + range_bytes])
            except Exception as error:  # noqa: BLE001 - raised below, without the task group's wrapping
                errors.append(error)
                scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(min(RANGES_AT_ONCE, -(-len(view) // range_bytes))):
                group.start_soon(run, group.cancel_scope)
        if errors:
            raise errors[0]

    async def _receive_one(self, extent: Extent, offset: int, view: memoryview) -> None:
        etag = extent.first.etag
        answer = await self.transport.send(
            GetObjectTo(
                key=extent.key,
                offset=offset,
                length=len(view),
                taker=_IntoMemory(view),
                if_match=etag,
                sse_customer_key=self.secret,
            )
        )
        if answer.length != len(view) or (etag and answer.etag and answer.etag != etag):
            raise _replaced(self.url(extent.key), answer.etag, etag)

    # -- Proof ---------------------------------------------------------------------------------------------------------

    async def existing(self, extent: Extent) -> Existing:
        """The whole object, as the first answer describes it; where only a multipart ETag can prove it, also by HEADs
        of its parts."""
        first = extent.first
        described = ObjectHead(
            size_bytes=extent.size_bytes, etag=first.etag, checksums=first.checksums, composite=first.composite
        )
        parts = parts_of_etag(first.etag)
        part_size_bytes = extent.size_bytes if parts == 1 else None
        if needs_part_size(described) and parts is not None and parts > 1:
            part_size_bytes = await equal_part_size(self.transport, extent.key, self.secret, described)
        return Existing(
            size_bytes=extent.size_bytes,
            etag=first.etag,
            checksums={} if first.composite else first.checksums,
            composites=first.checksums if first.composite else {},
            looked_closely=True,
            part_size_bytes=part_size_bytes,
            etag_is_md5=first.sse in MD5_ETAG_SSE,
        )

    async def _proven(self, extent: Extent, data: bytes, received_before: str) -> Proof:
        told = extent.first.checksums.get("CRC64NVME")
        if told is not None and not extent.first.composite and len(data) <= FIRST_BYTES:
            found = checksum_of(data, "CRC64NVME")
            if found.value == told:
                return found, "server-checksum"
        existing = await self.existing(extent)
        compare = comparison(existing)
        quick = compare is not None and FULL_OBJECT_ALGORITHMS.issuperset(compare.algorithms or ("MD5",))
        if compare is None or len(data) <= (FIRST_BYTES if quick else PROVEN_IN_PLACE_BYTES_MAX):
            return prove(existing, (data,), self.url(extent.key), received_before=received_before)
        return await self.in_thread(partial(_prove, existing, data, self.url(extent.key), received_before))

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a function that computes for long, in a thread."""
        return await anyio.to_thread.run_sync(function, limiter=self._threads)


_UNPROVEN: Final[Proof] = (None, "nothing")


def _prove(existing: Existing, data: bytes, url: str, received_before: str) -> Proof:
    return prove(existing, pieces_in(data), url, received_before=received_before)


def pieces_in(data: ByteBody) -> Iterable[memoryview]:
    """The bytes in pieces of a MiB, between which other threads run."""
    view = memoryview(data)
    return (view[start : start + MIB] for start in range(0, len(view), MIB))


def _content(extent: Extent, data: bytes, proof: Proof) -> ObjectContent:
    checksum, confirmed_by = proof
    return ObjectContent(
        key=extent.request.name,
        data=data,
        start=extent.start,
        size_bytes=extent.size_bytes,
        etag=extent.first.etag,
        version_id=extent.first.version_id,
        checksum=checksum,
        confirmed_by=confirmed_by,
    )


def _nothing(request: ReadRequest, head: ObjectHead, start: int) -> Extent:
    first = ObjectData(data=b"", etag=head.etag, version_id=head.version_id, sse=head.sse)
    return Extent(request, first, start, start, head.size_bytes, whole=False)


def _replaced(url: str, found: str, expected: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"{url} was replaced while it was read: it has the ETag {found or '(none)'}; {expected or '(none)'} was "
        "expected. Read it again.",
        operation=GetObject.name,
    )


class _IntoMemory:
    """Puts a range into memory; a RangeTaker, whose methods are called in a thread of the lane."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def take(self, position: int, piece: memoryview) -> None:
        """Copy the next bytes."""
        self._view[position : position + len(piece)] = piece

    def end(self, answer: ObjectReceived) -> None:
        """All bytes are there; the caller compares what the answer tells."""
