"""A thread that sends large bodies: it reads, checksums, copies, signs, sends and hears the answer, one by one.

All of it in one place, because a hop between threads costs more than any of these steps but the copying, and because
one buffer that is used again and again causes no page faults and stays in the processor's caches.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import ssl
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from asyncsink.config import MIB, RetryPolicy, Secret
from asyncsink.errors import AsyncSinkError, ConnectionLost
from asyncsink.integrity.checksums import Digester, digest_of
from asyncsink.model import Checksum, ChecksumAlgorithm
from asyncsink.os_errors import shortage
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.client import KEEP_ALIVE_SECONDS
from asyncsink.s3.get_object import GetObjectTo, ObjectData, ObjectReceived
from asyncsink.s3.operations import (
    NO_ATTRIBUTES,
    Confirm,
    ObjectAttributes,
    ObjectStored,
    OpenPartSource,
    PartSource,
    PutObject,
    UploadPart,
)
from asyncsink.s3.wire import pieces
from asyncsink.s3.wire.answers import Answer, check_answered_range, error_of, is_error, response_of
from asyncsink.s3.wire.endpoint import Endpoint
from asyncsink.s3.wire.keyring import Keyring
from asyncsink.s3.wire.reading import ExchangeError
from asyncsink.s3.wire.requests import HotOperation, RequestWriter
from asyncsink.s3.wire.sender_connection import Address, SenderConnection, connect
from asyncsink.s3.wire.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD
from asyncsink.s3.wire.waiting import Interrupt, Interrupted

PIECE_BYTES: Final = 2 * MIB
"""Read and checksummed at a time: small enough to be in the processor's cache still when the checksum reads it."""
BUFFER_DOUBLED_BYTES_MAX: Final = 8 * MIB
"""Up to this size a buffer that was outgrown doubles at least, so that files of many sizes take few buffers. Pages that
no body has reached yet are addresses, and no memory."""
BUFFER_KEPT_BYTES_MAX: Final = 32 * MIB
"""A larger buffer serves parts of its own size only: the ones after it have paid for no more memory than they need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartToSend:
    """An UploadPart without its body and checksum; fields as in `operations.UploadPart`.

    Attributes:
        algorithm: of the checksum to send, or None for none.
        md5_instead: the header has the MD5, whatever `algorithm` is.
    """

    key: str
    upload_id: str
    part_number: int
    algorithm: ChecksumAlgorithm | None = None
    sse_customer_key: Secret | None = None
    md5_instead: bool = False

    def operation(self, body: memoryview, checksum: Checksum | None) -> UploadPart:
        """The whole operation."""
        return UploadPart(
            key=self.key,
            upload_id=self.upload_id,
            part_number=self.part_number,
            body=body,
            checksum=checksum,
            sse_customer_key=self.sse_customer_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectToSend:
    """A PutObject without its body and checksum; fields as in `operations.PutObject`.

    Attributes:
        algorithm: of the checksum to send, or None for none.
        md5_instead: as in PartToSend.
    """

    key: str
    algorithm: ChecksumAlgorithm | None = None
    attributes: ObjectAttributes = NO_ATTRIBUTES
    only_new: bool = False
    write_token: str = ""
    md5_instead: bool = False

    def operation(self, body: memoryview, checksum: Checksum | None) -> PutObject:
        """The whole operation."""
        return PutObject(
            key=self.key,
            body=body,
            checksum=checksum,
            attributes=self.attributes,
            only_new=self.only_new,
            write_token=self.write_token,
        )


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        error: what it means.
        answer: the answer itself.
    """

    def __init__(self, error: AsyncSinkError, answer: Answer) -> None:
        super().__init__(str(error))
        self.error = error
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Post:
    """What all senders of a pool share.

    Attributes:
        bucket: for messages.
        endpoint: where requests go.
        keyring: tells the time; see `SenderPool` on who else may use it.
        retry: connect_seconds and stall_seconds.
        tls: the context for HTTPS, None for plain HTTP.
        loop: where results are reported.
        owner: the thread of the loop.
        bandwidth: the limit on what is sent in a second, or None.
        failed_at: addresses that could not be reached, and when.
        signing: neither a keyring nor its writers may be used by two threads at once.
    """

    bucket: str
    endpoint: Endpoint
    keyring: Keyring
    retry: RetryPolicy
    tls: ssl.SSLContext | None
    loop: AbstractEventLoop
    owner: threading.Thread
    bandwidth: Bandwidth | None = None
    failed_at: dict[Address, float] = field(default_factory=dict)
    signing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a caller wants sent: see `SenderPool.send_part`. `source` is opened and closed before anything is sent."""

    source: OpenPartSource
    offset: int
    length: int
    what: PartToSend | ObjectToSend
    local: Callable[[memoryview], None] | None = None
    confirm: Confirm | None = None


@dataclass(slots=True, kw_only=True)
class Assignment:
    """One attempt to send it, or to receive a range.

    Attributes:
        errand: what.
        writer: signs the request.
        addresses: for a new connection; empty where the sender is to use the one it has.
        done: completed on the loop when the thread holds neither source nor buffer any more.
        given_up: nobody waits for the answer any more.
    """

    errand: Errand | GetObjectTo
    writer: RequestWriter
    addresses: Sequence[Address]
    done: Future[Any]
    given_up: bool = False


class Sender:
    """A thread with one buffer and one connection. Its methods are for the event loop.

    Raises:
        OSError, RuntimeError: the system has no thread, or no descriptor, to spare.
    """

    def __init__(self, post: Post, number: int) -> None:
        self._post = post
        self._work: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()
        self._interrupt = Interrupt()
        self._buffer = memoryview(b"")
        self._connection: SenderConnection | None = None
        self.ended: Future[None] = post.loop.create_future()
        """Completed when the thread is about to end."""
        self.thread = threading.Thread(target=self._run, name=f"asyncsink-sender-{number}", daemon=False)
        try:
            self.thread.start()
        except RuntimeError:
            self._interrupt.close()
            raise

    def __repr__(self) -> str:
        connected = "connected" if self.connected else "not connected"
        return f"<Sender {connected}, a buffer of {len(self._buffer)} bytes>"

    @property
    def connected(self) -> bool:
        """Whether its connection is likely to serve once more."""
        connection = self._connection
        return connection is not None and connection.recent

    def give(self, assignment: Assignment) -> None:
        """Begin. Only when the assignment before is done."""
        self._work.put(assignment)

    def give_up(self, assignment: Assignment) -> None:
        """End what was given last as soon as it waits for the network, or between two pieces that it reads."""
        assignment.given_up = True
        self._interrupt.signal()

    def stop(self) -> None:
        """End the thread after the present assignment; completes `ended`."""
        self._work.put(None)

    # In the thread

    def _run(self) -> None:
        try:
            while self._serve_next():
                pass
        finally:
            self._rest()
            self._interrupt.close()
            self._tell(self.ended.set_result, None)

    def _serve_next(self) -> bool:
        try:
            assignment = self._work.get(timeout=KEEP_ALIVE_SECONDS)
        except queue.Empty:
            self._rest()
            # A pool that nobody closed must not keep the program from ending.
            return self._post.owner.is_alive()
        if assignment is None:
            return False
        # Before given_up is looked at: a signal that comes later is not lost.
        self._interrupt.clear()
        done = assignment.done
        try:
            result = self._serve(assignment)
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            self._report(done, None, error)
        else:
            self._report(done, result, None)
        return True

    def _serve(self, assignment: Assignment) -> tuple[ObjectStored, Checksum | None] | ObjectReceived:
        if not assignment.addresses and (self._connection is None or not self._connection.fit()):
            # Known before anything is read in vain.
            raise ExchangeError("the server hung up before it answered", unanswered=True)
        errand = assignment.errand
        return self._receive(assignment, errand) if isinstance(errand, GetObjectTo) else self._send(assignment, errand)

    def _send(self, assignment: Assignment, errand: Errand) -> tuple[ObjectStored, Checksum | None]:
        with errand.source() as source:
            body, checksum, header, payload_hash = self._read(assignment, errand, source)
        if errand.local is not None:
            errand.local(body)
        operation = errand.what.operation(body, header)
        answer = self._answer(assignment, operation, payload_hash, lambda where, head: where.exchange(head, body))
        response = cast("ObjectStored", response_of(operation, answer))
        if errand.confirm is not None:
            errand.confirm(response, body, header)
        return response, checksum

    def _receive(self, assignment: Assignment, wanted: GetObjectTo) -> ObjectReceived:
        def take(position: int, piece: memoryview) -> None:
            if assignment.given_up:
                raise Interrupted
            wanted.taker.take(position, piece)

        reader = pieces.PieceReader(wanted.length, self._room(pieces.PIECE_BYTES), take)
        request = wanted.request()
        answer = self._answer(assignment, request, EMPTY_PAYLOAD, lambda where, head: where.fetch(head, reader))
        check_answered_range(request, self._post.bucket, answer, reader.taken)
        answer.data = memoryview(b"")
        # The bytes are with the taker, who counts them.
        told = cast("ObjectData", response_of(replace(request, whole=False), answer))
        received = ObjectReceived(length=reader.taken, etag=told.etag, version_id=told.version_id)
        wanted.taker.end(received)
        return received

    def _answer(
        self,
        assignment: Assignment,
        operation: HotOperation,
        payload_hash: str,
        exchange: Callable[[SenderConnection, bytes], Answer],
    ) -> Answer:
        """The answer to a request, over the connection that is there or a new one; raises Refused where it is one."""
        writer, connection = assignment.writer, self._connected(assignment)
        try:
            with self._post.signing:
                signed_at = self._post.keyring.now()
                head = writer.head(operation, payload_hash, self._post.keyring.timestamp())
            answer = exchange(connection, head)
        finally:
            if not connection.recent:
                self._disconnect()
        if is_error(answer):
            error = error_of(
                operation, self._post.bucket, answer, signed_at if writer.signs else None, self._post.keyring.region
            )
            raise Refused(error, answer)
        return answer

    def _read(
        self, assignment: Assignment, errand: Errand, source: PartSource
    ) -> tuple[memoryview, Checksum | None, Checksum | None, str]:
        """Fill the buffer; the body, its checksum, that of the header, and the payload hash of its signature."""
        algorithm = errand.what.algorithm
        signed = self._post.endpoint.sign_payload and assignment.writer.signs
        named: ChecksumAlgorithm | None = "MD5" if errand.what.md5_instead else algorithm
        wanted: set[ChecksumAlgorithm] = {each for each in (algorithm, named) if each is not None}
        if signed:
            wanted.add("SHA256")
        digester = Digester(wanted)
        body = self._room(errand.length)
        for start in range(0, errand.length, PIECE_BYTES):
            if assignment.given_up:
                raise Interrupted
            piece = body[start : start + PIECE_BYTES]
            source.read_part(errand.offset + start, len(piece), into=piece)
            digester.update(piece)
        checksum = digester.result(algorithm) if algorithm is not None else None
        header = digester.result(named) if named is not None else None
        if not errand.length:
            return body, checksum, header, EMPTY_PAYLOAD
        return body, checksum, header, digest_of(digester.result("SHA256")).hex() if signed else UNSIGNED_PAYLOAD

    def _room(self, length: int) -> memoryview:
        held = len(self._buffer)
        if not length <= held <= max(length, BUFFER_KEPT_BYTES_MAX):
            size_bytes = max(length, min(2 * held, BUFFER_DOUBLED_BYTES_MAX))
            # The old one goes before the new one comes.
            self._buffer = memoryview(b"")
            # Anonymous memory begins on a page: the kernel copies to and from it a fifth cheaper than with a bytearray.
            try:
                self._buffer = memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            except OSError as error:
                # Others have buffers, which may go: it is tried again.
                raise ConnectionLost(f"A buffer of {size_bytes:,} bytes cannot be had. {shortage(error)}") from error
        return self._buffer[:length]

    def _connected(self, assignment: Assignment) -> SenderConnection:
        if self._connection is None or assignment.addresses:
            self._disconnect()
            post, addresses = self._post, assignment.addresses
            self._connection = connect(
                post.endpoint,
                addresses,
                post.tls,
                self._interrupt,
                post.retry,
                failed_at=post.failed_at,
                bandwidth=post.bandwidth,
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _rest(self) -> None:
        """Nothing came for a while: servers close idle connections, and others may want the memory."""
        self._disconnect()
        self._buffer = memoryview(b"")

    def _report(self, done: Future[Any], result: object, error: BaseException | None) -> None:
        if error is None:
            self._tell(done.set_result, result)
        else:
            self._tell(done.set_exception, error)

    def _tell(self, report: Callable[..., object], *values: object) -> None:
        # RuntimeError: the loop was closed; nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._post.loop.call_soon_threadsafe(report, *values)
