"""The proof of one object of a manifest, by one HEAD, or by reading its bytes back.

It is proven by the strongest value that both the manifest and the server have: the full-object checksum, else the ETag,
else (with `read_back`) the bytes themselves. Size alone proves nothing and counts as a problem, with the advice to read
back.
"""

from __future__ import annotations

import os
import stat

import anyio.to_thread

from asyncsink.engine.recording.events import Progress, UnderWay
from asyncsink.errors import AccessDenied, AsyncSinkError
from asyncsink.integrity.checksums import Digester, is_composite
from asyncsink.model import Checksum, Receipt, Skip
from asyncsink.options.settings import ChecksumAlgorithm, Secret
from asyncsink.paths import is_below, on_disk
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectReceived, RangesUnknown
from asyncsink.s3.operations import HeadObject, ListObjects, ObjectHead
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.transport import Transport

PIECE_BYTES = 8 * 1024 * 1024
Promise = Receipt | Skip


class Unproven(AsyncSinkError):
    """A promise of a manifest does not hold, or cannot be proven; the text completes "object X: …"."""


class Prover:
    """Proves the promises of a manifest against a bucket, or against local files."""

    def __init__(
        self,
        transport: RetryingTransport | None,
        secret: Secret | None,
        progress: Progress,
        *,
        read_back: bool,
        directory: str = "",
    ) -> None:
        """Without a `transport`, only files below `directory` are read."""
        self._transport = transport
        self._directory = directory
        self.progress = progress
        self._secret = secret
        self.reads_back = read_back
        self._ranges = True

    async def check_reachable(self) -> None:
        """Send one request, so that a wrong secret, bucket or endpoint is reported once, and not for every object.

        Raises:
            TransferError, CredentialsError: the bucket cannot be reached at all.
        """
        if self._transport is None:
            return
        try:
            with self._transport.fewer_attempts():
                await self._transport.send(ListObjects(max_keys=1))
        except AccessDenied:
            # Objects may be readable where listing is denied.
            return

    async def prove(self, promise: Promise) -> str:
        """Prove a promise; returns how.

        Raises:
            AsyncSinkError: it was not proven; the sentence has the reason.
        """
        if self._transport is None:
            return await anyio.to_thread.run_sync(_prove_file, promise, self._directory)
        if not promise.key:
            raise Unproven("the manifest names no key for it")
        head = await self._transport.send(HeadObject(key=promise.key, sse_customer_key=self._secret))
        if head.size_bytes != promise.size_bytes:
            raise Unproven(f"it has {head.size_bytes:,} bytes; {promise.size_bytes:,} were published")
        if self.reads_back and promise.checksum is not None and not is_composite(promise.checksum.value):
            return await self._read(self._transport, promise, promise.checksum, head)
        return _prove_head(promise, head)

    def count(self, promise: Promise, *, proven: bool) -> None:
        """Count the result for `promise` in the progress."""
        progress, counts = self.progress, self.progress.counts
        size_bytes = promise.size_bytes if self.reads_back else 0
        if proven:
            counts.objects_uploaded += 1
            counts.bytes_uploaded += size_bytes
        else:
            counts.objects_failed += 1
            progress.bytes_failed += size_bytes
        if self._transport is None:
            progress.bytes_moved += size_bytes  # a local file is read at once

    async def _read(self, transport: Transport, promise: Promise, checksum: Checksum, head: ObjectHead) -> str:
        taker = _Digesting(checksum.algorithm, promise.size_bytes)
        try:
            if self._ranges:
                await self._read_ranges(transport, promise, head, taker.digester)
        except RangesUnknown:
            self._ranges = False
        if not self._ranges and promise.size_bytes:
            await transport.send(
                GetObjectTo(
                    key=promise.key,
                    offset=0,
                    length=promise.size_bytes,
                    taker=taker,
                    whole=True,
                    if_match=head.etag,
                    sse_customer_key=self._secret,
                )
            )
            self.progress.bytes_moved += promise.size_bytes
        found = taker.digester.result(checksum.algorithm)
        if found != checksum:
            raise Unproven(f"its bytes have the checksum {found}; {checksum} was published")
        return "read-back"

    async def _read_ranges(self, transport: Transport, promise: Promise, head: ObjectHead, digester: Digester) -> None:
        under_way = UnderWay(self.progress, promise.key, promise.size_bytes)
        try:
            for offset in range(0, promise.size_bytes, PIECE_BYTES):
                length = min(PIECE_BYTES, promise.size_bytes - offset)
                piece = await transport.send(
                    GetObject(
                        key=promise.key, offset=offset, length=length, if_match=head.etag, sse_customer_key=self._secret
                    )
                )
                if len(piece.data) != length:
                    raise Unproven(f"it ends after {offset + len(piece.data):,} bytes; expected {promise.size_bytes:,}")
                await anyio.to_thread.run_sync(digester.update, piece.data)
                under_way.moved(length)
        finally:
            under_way.take_back()


class _Digesting:
    """Computes the checksum of a whole object while it is received; a RangeTaker."""

    def __init__(self, algorithm: ChecksumAlgorithm, size_bytes: int) -> None:
        self.digester = Digester([algorithm])
        self._algorithm: ChecksumAlgorithm = algorithm
        self._size_bytes = size_bytes

    def take(self, position: int, piece: memoryview) -> None:
        """Add the next bytes to the checksum."""
        if not position:
            self.digester = Digester([self._algorithm])
        self.digester.update(piece)

    def end(self, answer: ObjectReceived) -> None:
        """Raise Unproven where it has another size."""
        if answer.length != self._size_bytes:
            raise Unproven(f"it ends after {answer.length:,} bytes; expected {self._size_bytes:,}")


def _prove_head(promise: Promise, head: ObjectHead) -> str:
    wanted = promise.checksum
    stored = head.checksums.get(wanted.algorithm) if wanted is not None else None
    # A checksum of part checksums cannot be compared with one of the whole object.
    if wanted is not None and stored is not None and is_composite(stored) == is_composite(wanted.value):
        if stored != wanted.value:
            raise Unproven(f"its checksum is {wanted.algorithm}:{stored}; {wanted} was published")
        return "checksum"
    if promise.etag and head.etag:
        if promise.etag != head.etag:
            raise Unproven(f"its ETag is {head.etag}; {promise.etag} was published")
        return "etag"
    raise Unproven("the server tells neither checksum nor ETag; verify with read_back (--read-back)")


def _prove_file(promise: Promise, directory: str) -> str:
    if promise.checksum is None or is_composite(promise.checksum.value):
        raise Unproven("its checksum is not in the manifest")
    if not is_below(os.path.normpath(promise.url), directory):
        # A manifest can name any file of this machine; only files below its destination can be its promises.
        raise Unproven(f"it lies outside of {directory}, where the manifest's run has written, so it is not read")
    digester = Digester([promise.checksum.algorithm])
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        with open(os.open(on_disk(promise.url), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unproven("it is no regular file")
            if found.st_size != promise.size_bytes:
                raise Unproven(f"it has {found.st_size:,} bytes; {promise.size_bytes:,} were published")
            while piece := file.read(PIECE_BYTES):
                digester.update(piece)
    except FileNotFoundError:
        raise Unproven("it is not there") from None
    except OSError as error:
        raise Unproven(f"it cannot be read ({error.strerror})") from None
    except ValueError:
        raise Unproven("its path is none that a file can have") from None
    checksum = digester.result(promise.checksum.algorithm)
    if checksum != promise.checksum:
        raise Unproven(f"its bytes have the checksum {checksum}; {promise.checksum} was published")
    return "read-back"
