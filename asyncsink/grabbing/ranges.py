"""A large object, range by range, many at once, into one file that a later run can continue."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncsink.destinations.local_errors import translated
from asyncsink.engine.buffers import BufferPool
from asyncsink.engine.progress import UnderWay
from asyncsink.errors import IntegrityError, PreconditionFailed
from asyncsink.grabbing.landing import pieces_of
from asyncsink.grabbing.objects import look_closer
from asyncsink.grabbing.unfinished import UnfinishedFile
from asyncsink.grabbing.wanted import Wanted
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, combine
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.received import Proof, comparison, conclude_proof, prove
from asyncsink.integrity.sameness import Digests
from asyncsink.model import ChecksumAlgorithm, Resumable
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectData, ObjectReceived
from asyncsink.s3.part_plan import Part, PartPlan, plan_parts
from asyncsink.s3.ranges import RangesUnknown
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.grabbing.fetching import Fetcher


@dataclass(frozen=True, slots=True)
class Fetched:
    """A large object that is a file now; fields as in Receipt."""

    existing: Existing
    proof: Proof
    version_id: str
    attempts: int


async def fetch_in_ranges(fetcher: Fetcher, wanted: Wanted, *, received_before: str = "") -> Fetched:
    """Receive one large object, prove it, and give it its name.

    Args:
        received_before: as in `integrity.received.prove`.

    Raises:
        IntegrityError: the bytes are not the object's; they are discarded.
        PreconditionFailed: the object was replaced while it was received.
        AsyncSinkError: it cannot be received or written; a later run continues.

    Cancelled, it waits for the threads at work, and leaves what a later run continues.
    """
    key = wanted.listed.key
    existing = await look_closer(fetcher.transport, key, fetcher.secret)
    # A server that tells no ETag here compares, and is compared with, the one it told in its listing.
    existing = replace(existing, etag=existing.etag or wanted.listed.etag)
    if not existing.size_bytes:
        raise PreconditionFailed(f"{fetcher.url(key)} was replaced by an empty object; grab it again.")
    plan = plan_parts(existing.size_bytes, fetcher.range_bytes)
    compare = comparison(existing)
    algorithm: ChecksumAlgorithm = "CRC64NVME"
    if compare is not None and compare.algorithms and compare.algorithms[0] in FULL_OBJECT_ALGORITHMS:
        algorithm = compare.algorithms[0]
    landing = fetcher.landing
    # Before anything is received: it could not be put in its place.
    await anyio.to_thread.run_sync(landing.check, wanted.relative, limiter=fetcher.threads)
    file = UnfinishedFile(fetcher.staging, landing, wanted.relative, etag=existing.etag, plan=plan, algorithm=algorithm)
    under_way = UnderWay(fetcher.progress)
    try:
        await anyio.to_thread.run_sync(file.open, limiter=fetcher.threads)
        resumed_bytes = sum(plan.part(number).length for number in file.done)
        fetcher.progress.resumable.pop(key, None)
        fetcher.progress.counts.bytes_resumed += resumed_bytes
        ranges = _Ranges(fetcher, key, existing.etag, plan, file, under_way=under_way)
        try:
            if fetcher.served.ranges:
                await ranges.receive()
        except RangesUnknown:
            fetcher.served.ranges = False
        if not fetcher.served.ranges:
            await ranges.receive_whole()
        try:
            finish = partial(
                _finish, file, existing, plan, algorithm, fetcher.url(key), received_before=received_before
            )
            proof = await anyio.to_thread.run_sync(finish, limiter=fetcher.threads)
        except IntegrityError:
            file.discard()
            fetcher.progress.counts.bytes_resumed -= resumed_bytes
            raise
    finally:
        under_way.take_back()
        if file.close():
            stored = sum(plan.part(number).length for number in file.done)
            fetcher.progress.resumable[key] = Resumable(fetcher.url(key), key, stored, plan.size_bytes)
    return Fetched(existing, proof, ranges.version_id, ranges.attempts)


def check_same(url: str, answer: ObjectReceived, offset: int, length: int, etag: str) -> None:
    """Refuse bytes of another object than the one that was looked at before.

    Raises:
        PreconditionFailed: their number or their ETag is another.
    """
    if answer.length != length or (answer.etag and etag and answer.etag != etag):
        raise PreconditionFailed(
            f"{url} was replaced while it was received: {answer.length:,} bytes at {offset:,} came with the ETag "
            f"{answer.etag}; {length:,} of {etag} were expected. Grab it again.",
            operation=GetObjectTo.name,
        )


@dataclass(slots=True)
class Served:
    """What a server has shown of itself in this grab. `ranges`: it has not yet ignored that a range was asked for."""

    ranges: bool = True


class _Range:
    """One range on its way into the file; a RangeTaker, whose methods are called in a thread."""

    def __init__(self, part: Part, file: UnfinishedFile, etag: str, url: str) -> None:
        self._part = part
        self._file = file
        self._etag = etag
        self._url = url
        self._digester = file.digester()

    def take(self, position: int, piece: memoryview) -> None:
        """Write the next bytes.

        Raises:
            DestinationFull, PermanentError: they cannot be written.
        """
        if not position:
            self._digester = self._file.digester()
        self._file.write(self._part.offset + position, piece, self._digester)

    def end(self, answer: ObjectReceived) -> None:
        """Note that the range is there.

        Raises:
            PreconditionFailed: these are other bytes than the object had when it was looked at.
        """
        check_same(self._url, answer, self._part.offset, self._part.length, self._etag)
        self._file.note(self._part.part_number, self._digester)

    def take_all(self, answer: ObjectData) -> None:
        """What was received into memory."""
        self.take(0, memoryview(answer.data))
        self.end(ObjectReceived(length=len(answer.data), etag=answer.etag, version_id=answer.version_id))


class _Whole:
    """A whole object on its way into the file, range after range; a RangeTaker, as above."""

    def __init__(self, plan: PartPlan, file: UnfinishedFile, etag: str, url: str) -> None:
        self._plan = plan
        self._file = file
        self._etag = etag
        self._url = url
        self._range = _Range(plan.part(1), file, etag, url)

    def take(self, position: int, piece: memoryview) -> None:
        """Write the next bytes, and note each range that is whole; raises as `_Range.take`."""
        while piece:
            part = self._plan.part(position // self._plan.part_size_bytes + 1)
            within = position - part.offset
            if not within:
                self._range = _Range(part, self._file, self._etag, self._url)
            head = piece[: part.length - within]
            self._range.take(within, head)
            if within + len(head) == part.length:
                self._range.end(ObjectReceived(length=part.length))
            position += len(head)
            piece = piece[len(head) :]

    def end(self, answer: ObjectReceived) -> None:
        """The object is there; raises as `_Range.end`."""
        check_same(self._url, answer, 0, self._plan.size_bytes, self._etag)


class _Ranges:
    """The ranges of one object that are still to be received."""

    def __init__(
        self, fetcher: Fetcher, key: str, etag: str, plan: PartPlan, file: UnfinishedFile, *, under_way: UnderWay
    ) -> None:
        self._fetcher = fetcher
        self._key = key
        self._etag = etag
        self._file = file
        self._plan = plan
        self._missing = [part for part in plan if part.part_number not in file.done]
        self._missing.reverse()
        self._buffers = BufferPool(plan.part_size_bytes, idle_max=fetcher.ranges_at_once)
        self._under_way = under_way
        under_way.there(sum(plan.part(number).length for number in file.done))
        self.version_id = ""
        self.attempts = 1

    async def receive(self) -> None:
        """Receive them all.

        Raises:
            AsyncSinkError: the first error; the others under way are cancelled.
        """
        errors: list[Exception] = []
        async with anyio.create_task_group() as group:
            for _ in range(min(len(self._missing), self._fetcher.ranges_at_once)):
                group.start_soon(self._run, group.cancel_scope, errors)
        if errors:
            raise errors[0]

    async def receive_whole(self) -> None:
        """Receive all of the object in one piece, from its beginning.

        Raises:
            AsyncSinkError: it cannot be received or written, or is another one by now.
        """
        missing = [part for part in self._plan if part.part_number not in self._file.done]
        if not missing:
            return
        url = self._fetcher.url(self._key)
        answer = await self._fetcher.transport.send(
            GetObjectTo(
                key=self._key,
                offset=0,
                length=self._plan.size_bytes,
                taker=_Whole(self._plan, self._file, self._etag, url),
                whole=True,
                if_match=self._etag,
                sse_customer_key=self._fetcher.secret,
            )
        )
        self.attempts, self.version_id = answer.attempts, answer.version_id
        self._under_way.moved(sum(part.length for part in missing))

    async def _run(self, scope: anyio.CancelScope, errors: list[Exception]) -> None:
        receive = self._receive_in_thread if self._fetcher.threads_receive else self._receive_here
        try:
            while self._missing:
                part = self._missing.pop()
                answer = await receive(part, _Range(part, self._file, self._etag, self._fetcher.url(self._key)))
                self.attempts = max(self.attempts, answer.attempts)
                self.version_id = answer.version_id or self.version_id
                self._under_way.moved(part.length)
        except Exception as error:  # noqa: BLE001 - raised by `receive`, without the task group's wrapping
            errors.append(error)
            scope.cancel()

    async def _receive_in_thread(self, part: Part, taker: _Range) -> ObjectReceived:
        return await self._fetcher.transport.send(
            GetObjectTo(
                key=self._key,
                offset=part.offset,
                length=part.length,
                taker=taker,
                if_match=self._etag,
                sse_customer_key=self._fetcher.secret,
            )
        )

    async def _receive_here(self, part: Part, taker: _Range) -> ObjectData:
        """Into memory, where the lane has no threads that receive."""
        fetcher = self._fetcher
        async with fetcher.budget.reserve(self._buffers.size_bytes):
            with self._buffers.lend(part.length) as into:
                answer = await fetcher.transport.send(
                    GetObject(
                        key=self._key,
                        offset=part.offset,
                        length=part.length,
                        if_match=self._etag,
                        into=into,
                        sse_customer_key=fetcher.secret,
                    )
                )
                await anyio.to_thread.run_sync(partial(taker.take_all, answer), limiter=fetcher.threads)
        return answer


def _finish(
    file: UnfinishedFile,
    existing: Existing,
    plan: PartPlan,
    algorithm: ChecksumAlgorithm,
    url: str,
    *,
    received_before: str,
) -> Proof:
    """Prove the whole object, from its ranges' checksums where they combine, else by reading it back; publish it."""
    compare = comparison(existing)
    if compare is not None and compare.algorithms == (algorithm,):
        whole = combine(algorithm, [(file.done[part.part_number], part.length) for part in plan])
        proof = conclude_proof(existing, compare, Digests(checksums={algorithm: whole}), url)
    else:
        with translated(file.target, None, verb="read back"):
            proof = prove(existing, pieces_of(file.descriptor), url, received_before=received_before)
    file.publish(existing.modified)
    return proof
