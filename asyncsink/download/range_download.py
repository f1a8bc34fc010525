"""A large object is received in ranges, many at once, into one file that a later run can continue."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread

from asyncsink.destinations.local.places import moved_meanwhile, translated
from asyncsink.download.placement import FileWriter, StagingDirectory, finish, pieces_of, write_all
from asyncsink.download.plan import DownloadItem, look_closer
from asyncsink.engine.limits.memory import BufferPool
from asyncsink.engine.recording.events import UnderWay
from asyncsink.errors import IntegrityError, PreconditionFailed
from asyncsink.file_locks import lock
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, ByteBody, Digester, checksum_of, combine
from asyncsink.integrity.sameness import Digests, Existing, Proof, comparison, conclude_proof, prove
from asyncsink.model import Checksum, Resumable
from asyncsink.options.settings import MIB, ChecksumAlgorithm
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectData, ObjectReceived, RangesUnknown
from asyncsink.s3.multipart.parts import Part, PartPlan, plan_parts
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.download.receiver import DownloadContext


# -- The partial file: preallocated, written at many places at once, continued after a kill ----------------------------
# Beside it is its state, in JSON lines: the object (ETag, size, range size), then each written range with its checksum.
# A later run reads those ranges back and keeps the ones whose checksums agree, so that neither a torn line nor bytes
# that were never synced are taken for data. Blocking; called in threads only.

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
_NO_FILE_OF_OURS = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM})
STATE_BYTES_MAX = 4 * MIB
"""Most bytes of a state file: 10,000 ranges, each noted a few times, in some 80 bytes."""
_NO_ALLOCATION = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class PartialFile:
    """One large file; `open`, `write` and `note` each range, `publish`; `close` at the end, whatever happened.

    Args:
        staging: where the file waits until it is whole.
        file_writer: gives the file's place in the target directory.
        relative: its path below the target directory.
        etag: of the object; a file without one is never continued.
        plan: its ranges.
        algorithm: of the ranges' checksums.

    Attributes:
        descriptor: of the file, once it is open.
        done: the checksums of the ranges that are there, by part number.
    """

    def __init__(
        self,
        staging: StagingDirectory,
        file_writer: FileWriter,
        relative: str,
        *,
        etag: str,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm,
    ) -> None:
        self._staging = staging
        self._file_writer = file_writer
        self._relative = relative
        self.target = file_writer.path(relative)
        self._plan = plan
        self._algorithm: ChecksumAlgorithm = algorithm
        self._alone = staging.whole()
        self._name, self._state_name = staging.unfinished(relative)
        self._identity = {
            "etag": etag,
            "size_bytes": plan.size_bytes,
            "part_size_bytes": plan.part_size_bytes,
            "algorithm": algorithm,
        }
        self.descriptor = self._state = -1
        self._ended = False
        self.done: dict[int, Checksum] = {}

    def open(self) -> None:
        """Continue the file that an earlier run has left of the same object, or begin anew, with all space allocated.

        Cancelled, it stops between two ranges.

        Raises:
            DestinationFull, AccessDenied, PermanentError: there is no room, or no right.
        """
        with translated(self.target, None):
            if not self._open_shared():
                # A file of this run alone, which is not kept for a later run.
                self._name, self._state_name = self._alone, ""
                self.descriptor = self._staging.open_file(self._name, _FLAGS | os.O_EXCL)
            else:
                self._take_up()
            if not self.done:
                self._begin()

    def _open_shared(self) -> bool:
        """Open the file that all runs share for this object, and its state.

        False where another run has it open, or has just published it; where the file system has no locks; and where
        either of the two is not a file of asyncsink: a link, a second name of another file, or another user's file.
        """
        try:
            self.descriptor = self._staging.open_file(self._name, _FLAGS)
            if (
                lock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                and self._staging.holds(self._name, self.descriptor)
                and _is_our_own(self.descriptor)
            ):
                self._state = self._staging.open_file(self._state_name, _FLAGS | os.O_APPEND)
                if _is_our_own(self._state):
                    return True
        except OSError as error:
            if error.errno not in _NO_FILE_OF_OURS:
                raise
        self._let_go()
        return False

    def _take_up(self) -> None:
        lines = _read_all(self._state).split(b"\n")[:-1]  # after the last line break there is a torn line, or nothing
        if not self._identity["etag"] or not lines or _parsed(lines[0]) != self._identity:
            return
        if os.fstat(self.descriptor).st_size != self._plan.size_bytes:
            return
        for line in lines[1:]:
            entry = _parsed(line)
            number, value = entry.get("part"), entry.get("checksum")
            if not isinstance(number, int) or not 1 <= number <= self._plan.count:
                continue
            anyio.from_thread.check_cancelled()
            part = self._plan.part(number)
            found = checksum_of(os.pread(self.descriptor, part.length, part.offset), self._algorithm)
            if found.value == value:
                self.done[number] = found

    def _begin(self) -> None:
        os.ftruncate(self.descriptor, 0)
        try:
            # All space now, so that a disk which is too small fails before anything is received.
            os.posix_fallocate(self.descriptor, 0, self._plan.size_bytes)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
            os.ftruncate(self.descriptor, self._plan.size_bytes)
        if self._state >= 0:
            os.ftruncate(self._state, 0)
            self._note(self._identity)

    def write(self, position: int, data: ByteBody, digester: Digester) -> None:
        """Write bytes of a range, and add them to its checksum. From any thread.

        Args:
            position: in the whole file.
            digester: the range's own, made by `digester`.

        Raises:
            DestinationFull, PermanentError: the bytes cannot be written.
        """
        digester.update(data)
        with translated(self.target, None):
            write_all(self.descriptor, position, data)

    def digester(self) -> Digester:
        """A digester for one range, which is written from its beginning."""
        return Digester((self._algorithm,))

    def note(self, part_number: int, digester: Digester) -> None:
        """Note in the state that a range is written completely. From any thread.

        Raises:
            DestinationFull, PermanentError: the state cannot be written.
        """
        checksum = digester.result(self._algorithm)
        with translated(self.target, None):
            if self._state >= 0:
                self._note({"part": part_number, "checksum": checksum.value})
        self.done[part_number] = checksum

    def _note(self, entry: dict[str, object]) -> None:
        # Each line is appended in one write, so that lines of several threads do not mix.
        os.write(self._state, json.dumps(entry).encode() + b"\n")

    def publish(self, modified: datetime | None) -> None:
        """Rename the file to its target, and remove its state.

        Raises:
            AccessDenied, DestinationFull, PermanentError: it cannot be renamed; an existing file of the name is
                unchanged.
        """
        with translated(self.target, None), self._file_writer.place(self._relative) as place:
            finish(self.descriptor, self._staging.mode, modified)
            self._staging.publish(self._name, place)
            self._ended = True
            self._remove_state()
            if not place.is_there():
                raise moved_meanwhile(self.target)

    def discard(self) -> None:
        """Remove the file and its state: its bytes are not the object's.

        Raises:
            AccessDenied, PermanentError: they cannot be removed.
        """
        self._ended = True
        with translated(self._staging.folder, None, verb="removed"):
            self._staging.remove(self._name)
            self._remove_state()
        self.close()

    def close(self) -> bool:
        """Close the file. With a state it stays for a later run, else it is removed. Harmless when repeated.

        Returns whether a later run can continue it.
        """
        stays = self._state >= 0 and not self._ended and bool(self.done)
        self._let_go()
        if not self._state_name:
            self._staging.remove(self._name)
        return stays

    def _let_go(self) -> None:
        for descriptor in (self.descriptor, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._state = -1

    def _remove_state(self) -> None:
        if self._state_name:
            self._staging.remove(self._state_name)


def _is_our_own(descriptor: int) -> bool:
    """Whether it is a regular file of this user with a single name, so that writing changes no other file."""
    seen = os.fstat(descriptor)
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_uid == os.geteuid()


def _read_all(descriptor: int) -> bytes:
    """The content of a state file; b"" for one of more than STATE_BYTES_MAX."""
    size_bytes = os.fstat(descriptor).st_size
    return os.pread(descriptor, size_bytes, 0) if size_bytes <= STATE_BYTES_MAX else b""


def _parsed(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # not written by asyncsink, so it is ignored
    return value if isinstance(value, dict) else {}


# -- Receiving an object in ranges -------------------------------------------------------------------------------------


RANGES_AT_ONCE = 8
"""Ranges of one object that are received at once: a file system lets one thread at a time write to a file, and further
threads only wait."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A large object that has become a file; fields as in Receipt."""

    existing: Existing
    proof: Proof
    version_id: str
    attempts: int


async def fetch_in_ranges(context: DownloadContext, wanted: DownloadItem, *, received_before: str = "") -> Fetched:
    """Receive one large object, prove it, and give it its name.

    Args:
        received_before: as in `integrity.sameness.prove`.

        Raises:
            IntegrityError: the bytes are not the object's; they are discarded.
        PreconditionFailed: the object was replaced while it was received.
        AsyncSinkError: it cannot be received or written; a later run continues.

        Cancelled, it waits for the threads at work, and leaves a partial file that a later run continues.
    """
    key = wanted.listed.key
    existing = await look_closer(context.transport, key, context.secret)
    # Without an ETag in this answer, that of the listing is compared.
    existing = replace(existing, etag=existing.etag or wanted.listed.etag)
    if not existing.size_bytes:
        raise PreconditionFailed(f"{context.url(key)} was replaced by an empty object; grab it again.")
    existing = wanted.described(existing, context.url(key))
    plan = plan_parts(existing.size_bytes, context.range_bytes)
    compare = comparison(existing)
    algorithm: ChecksumAlgorithm = "CRC64NVME"
    if compare is not None and compare.algorithms and compare.algorithms[0] in FULL_OBJECT_ALGORITHMS:
        algorithm = compare.algorithms[0]
    file_writer = context.file_writer
    # Before anything is received, since the file may be impossible to write.
    await anyio.to_thread.run_sync(file_writer.check, wanted.relative, limiter=context.resources.threads)
    file = PartialFile(
        context.staging, file_writer, wanted.relative, etag=existing.etag, plan=plan, algorithm=algorithm
    )
    under_way = UnderWay(context.resources.progress, wanted.relative, plan.size_bytes)
    try:
        await anyio.to_thread.run_sync(file.open, limiter=context.resources.threads)
        resumed_bytes = sum(plan.part(number).length for number in file.done)
        context.resources.progress.resumable.pop(key, None)
        context.resources.progress.counts.bytes_resumed += resumed_bytes
        ranges = _Ranges(context, key, existing.etag, plan, file, under_way=under_way)
        try:
            if context.served.ranges:
                await ranges.receive()
        except RangesUnknown:
            context.served.ranges = False
        if not context.served.ranges:
            await ranges.receive_whole()
        try:
            finish = partial(
                _finish, file, existing, plan, algorithm, context.url(key), received_before=received_before
            )
            proof = await anyio.to_thread.run_sync(finish, limiter=context.resources.threads)
        except IntegrityError:
            file.discard()
            context.resources.progress.counts.bytes_resumed -= resumed_bytes
            raise
    finally:
        under_way.take_back()
        if file.close():
            stored = sum(plan.part(number).length for number in file.done)
            context.resources.progress.resumable[key] = Resumable(context.url(key), key, stored, plan.size_bytes)
    return Fetched(existing, proof, ranges.version_id, ranges.attempts)


def check_same(url: str, answer: ObjectReceived, offset: int, length: int, etag: str) -> None:
    """Refuse bytes of another object than the one that was looked at before.

    Raises:
        PreconditionFailed: their number or their ETag differs.
    """
    if answer.length != length or (answer.etag and etag and answer.etag != etag):
        raise PreconditionFailed(
            f"{url} was replaced while it was received: {answer.length:,} bytes at {offset:,} came with the ETag "
            f"{answer.etag}; {length:,} of {etag} were expected. Grab it again.",
            operation=GetObjectTo.name,
        )


@dataclass(slots=True)
class Served:
    """What the server's answers have shown in this grab. `ranges`: whether no request for a range was ignored so
    far."""

    ranges: bool = True


class _Range:
    """Writes one range into the file; a RangeTaker, whose methods are called in a thread."""

    def __init__(self, part: Part, file: PartialFile, etag: str, url: str) -> None:
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
        """Note that the range is complete.

        Raises:
            PreconditionFailed: the object was replaced since it was looked at.
        """
        check_same(self._url, answer, self._part.offset, self._part.length, self._etag)
        self._file.note(self._part.part_number, self._digester)

    def take_all(self, answer: ObjectData) -> None:
        """Write a range that was received into memory; raises as `take` and `end`."""
        self.take(0, memoryview(answer.data))
        self.end(ObjectReceived(length=len(answer.data), etag=answer.etag, version_id=answer.version_id))


class _Whole:
    """Writes a whole object into the file, range after range; a RangeTaker, as above."""

    def __init__(self, plan: PartPlan, file: PartialFile, etag: str, url: str) -> None:
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
        """Check the whole object's size and ETag; raises as `_Range.end`."""
        check_same(self._url, answer, 0, self._plan.size_bytes, self._etag)


class _Ranges:
    """The ranges of one object that are still to be received."""

    def __init__(
        self, context: DownloadContext, key: str, etag: str, plan: PartPlan, file: PartialFile, *, under_way: UnderWay
    ) -> None:
        self._context = context
        self._key = key
        self._etag = etag
        self._file = file
        self._plan = plan
        self._missing = [part for part in plan if part.part_number not in file.done]
        self._missing.reverse()
        self._buffers = BufferPool(plan.part_size_bytes, idle_max=RANGES_AT_ONCE)
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
            for _ in range(min(len(self._missing), RANGES_AT_ONCE)):
                group.start_soon(self._run, group.cancel_scope, errors)
        if errors:
            raise errors[0]

    async def receive_whole(self) -> None:
        """Receive all of the object in one piece, from its beginning.

        Raises:
            AsyncSinkError: it cannot be received or written, or was replaced.
        """
        missing = [part for part in self._plan if part.part_number not in self._file.done]
        if not missing:
            return
        url = self._context.url(self._key)
        answer = await self._context.transport.send(
            GetObjectTo(
                key=self._key,
                offset=0,
                length=self._plan.size_bytes,
                taker=_Whole(self._plan, self._file, self._etag, url),
                whole=True,
                if_match=self._etag,
                sse_customer_key=self._context.secret,
            )
        )
        self.attempts, self.version_id = answer.attempts, answer.version_id
        self._under_way.moved(sum(part.length for part in missing))

    async def _run(self, scope: anyio.CancelScope, errors: list[Exception]) -> None:
        receive = self._receive_in_thread if self._context.threads_receive else self._receive_here
        try:
            while self._missing:
                part = self._missing.pop()
                answer = await receive(part, _Range(part, self._file, self._etag, self._context.url(self._key)))
                self.attempts = max(self.attempts, answer.attempts)
                self.version_id = answer.version_id or self.version_id
                self._under_way.moved(part.length)
        except Exception as error:  # noqa: BLE001 - raised by `receive`, without the task group's wrapping
            errors.append(error)
            scope.cancel()

    async def _receive_in_thread(self, part: Part, taker: _Range) -> ObjectReceived:
        return await self._context.transport.send(
            GetObjectTo(
                key=self._key,
                offset=part.offset,
                length=part.length,
                taker=taker,
                if_match=self._etag,
                sse_customer_key=self._context.secret,
            )
        )

    async def _receive_here(self, part: Part, taker: _Range) -> ObjectData:
        """Receive a range into memory, where the lane has no threads that receive."""
        context = self._context
        async with context.resources.budget.reserve(self._buffers.size_bytes):
            with self._buffers.lend(part.length) as into:
                answer = await context.transport.send(
                    GetObject(
                        key=self._key,
                        offset=part.offset,
                        length=part.length,
                        if_match=self._etag,
                        into=into,
                        sse_customer_key=context.secret,
                    )
                )
                await anyio.to_thread.run_sync(partial(taker.take_all, answer), limiter=context.resources.threads)
        return answer


def _finish(
    file: PartialFile,
    existing: Existing,
    plan: PartPlan,
    algorithm: ChecksumAlgorithm,
    url: str,
    *,
    received_before: str,
) -> Proof:
    """Prove the whole object, by its ranges' checksums where they combine, else by reading it back; then publish it."""
    compare = comparison(existing)
    if compare is not None and compare.algorithms == (algorithm,):
        whole = combine(algorithm, [(file.done[part.part_number], part.length) for part in plan])
        proof = conclude_proof(existing, compare, Digests(checksums={algorithm: whole}), url)
    else:
        with translated(file.target, None, verb="read back"):
            proof = prove(existing, pieces_of(file.descriptor), url, received_before=received_before)
    file.publish(existing.modified)
    return proof
