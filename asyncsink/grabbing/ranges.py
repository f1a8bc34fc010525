"""A large object, range by range, many at once, into one file that a later run can continue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from asyncsink.destinations.local_errors import translated
from asyncsink.engine.buffers import BufferPool
from asyncsink.errors import IntegrityError, PreconditionFailed
from asyncsink.grabbing.landing import pieces_of
from asyncsink.grabbing.objects import look_closer
from asyncsink.grabbing.unfinished import UnfinishedFile
from asyncsink.grabbing.wanted import Wanted
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, combine
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.received import Proof, comparison, conclude_proof, prove
from asyncsink.integrity.sameness import Digests
from asyncsink.model import ChecksumAlgorithm
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.part_plan import Part, PartPlan, plan_parts

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
    target = await anyio.to_thread.run_sync(fetcher.landing.place, wanted.relative, limiter=fetcher.threads)
    file = UnfinishedFile(fetcher.staging, wanted.relative, target, etag=existing.etag, plan=plan, algorithm=algorithm)
    try:
        await anyio.to_thread.run_sync(file.open, limiter=fetcher.threads)
        ranges = _Ranges(fetcher, key, existing.etag, plan, file)
        await ranges.receive()
        try:
            finish = partial(
                _finish, file, existing, plan, algorithm, fetcher.url(key), received_before=received_before
            )
            proof = await anyio.to_thread.run_sync(finish, limiter=fetcher.threads)
        except IntegrityError:
            file.discard()
            raise
    finally:
        file.close()
    return Fetched(existing, proof, ranges.version_id, ranges.attempts)


class _Ranges:
    """The ranges of one object that are still to be received."""

    def __init__(self, fetcher: Fetcher, key: str, etag: str, plan: PartPlan, file: UnfinishedFile) -> None:
        self._fetcher = fetcher
        self._key = key
        self._etag = etag
        self._file = file
        self._missing = [part for part in plan if part.part_number not in file.done]
        self._missing.reverse()
        self._buffers = BufferPool(plan.part_size_bytes, idle_max=fetcher.ranges_at_once)
        fetcher.progress.bytes_done += sum(plan.part(number).length for number in file.done)
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

    async def _run(self, scope: anyio.CancelScope, errors: list[Exception]) -> None:
        try:
            while self._missing:
                async with self._fetcher.budget.reserve(self._buffers.size_bytes):
                    if not self._missing:
                        return
                    await self._receive_one(self._missing.pop())
        except Exception as error:  # noqa: BLE001 - raised by `receive`, without the task group's wrapping
            errors.append(error)
            scope.cancel()

    async def _receive_one(self, part: Part) -> None:
        fetcher = self._fetcher
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
            if len(answer.data) != part.length or (answer.etag and self._etag and answer.etag != self._etag):
                raise PreconditionFailed(
                    f"{fetcher.url(self._key)} was replaced while it was received: {len(answer.data):,} bytes at "
                    f"{part.offset:,} came with the ETag {answer.etag}; {part.length:,} of {self._etag} were expected. "
                    "Grab it again.",
                    operation=GetObject.name,
                )
            self.attempts = max(self.attempts, answer.attempts)
            self.version_id = answer.version_id or self.version_id
            write = partial(self._file.write, part.part_number, answer.data)
            await anyio.to_thread.run_sync(write, limiter=fetcher.threads)
        fetcher.progress.bytes_done += part.length


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
            proof = prove(existing, pieces_of(file.path), url, received_before=received_before)
    file.publish(existing.modified)
    return proof
