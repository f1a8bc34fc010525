"""Write tokens distinguish a write of ours whose answer was lost from another writer's.

A write that is not to replace anything goes with `If-None-Match: *`. Where it is refused, or where the answer to a
CompleteMultipartUpload was lost, the object under the key is examined: with our token it is our own write, which is
then proved like any other; with another it is another writer's.

Source: S3 API Reference, PutObject and CompleteMultipartUpload (If-None-Match); S3 User Guide, "How to prevent object
overwrites with conditional writes".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from secrets import token_hex
from typing import Any, TypeVar

from asyncsink.errors import AlreadyThere, IntegrityError, ObjectMissing, PermanentError, PreconditionFailed
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum
from asyncsink.options.settings import WRITE_METADATA_NAME, WRITE_TOKEN_CHARACTERS, ChecksumAlgorithm
from asyncsink.s3.operations import (
    CompleteMultipartUpload,
    HeadObject,
    ObjectHead,
    ObjectStored,
    PutObject,
    PutObjectFrom,
    StoredFrom,
)
from asyncsink.s3.transport import Transport

T = TypeVar("T")
VANISHED_MAX = 3
"""Times that an object may block a write and be gone when it is examined."""


def fresh_token() -> str:
    """A write token that no other write has: 128 random bits as hexadecimal digits."""
    return token_hex(WRITE_TOKEN_CHARACTERS // 2)


async def whose(transport: Transport, key: str, token: str, customer_key: Any) -> tuple[ObjectHead | None, bool]:
    """The object under the key, and whether the write with `token` put it there.

    None is an object that these credentials, or this customer key, may not read.

    Raises:
        ObjectMissing: nothing is there.
        RetryableError: the server gives no answer now.
    """
    try:
        head = await transport.send(HeadObject(key=key, sse_customer_key=customer_key))
    except ObjectMissing:
        raise
    except PermanentError:
        return None, False
    return head, head.metadata.get(WRITE_METADATA_NAME) == token


def already_there(refused: PreconditionFailed, head: ObjectHead | None) -> AlreadyThere:
    """The refusal of a write, with what is known of the object in its way."""
    error = AlreadyThere(str(refused), operation=refused.operation, code=refused.code, status=refused.status)
    error.attempts, error.elapsed_seconds = refused.attempts, refused.elapsed_seconds
    if head is not None:
        error.size_bytes, error.etag = head.size_bytes, head.etag
    return error


def answered_checksum(head: ObjectHead, algorithm: ChecksumAlgorithm | None) -> Checksum | None:
    """The whole object's checksum where the server sends one, by `algorithm` if it can be, or None."""
    if head.composite or not head.checksums:
        return None
    told = algorithm if algorithm is not None and algorithm in head.checksums else next(iter(head.checksums))
    return Checksum(told, head.checksums[told])


class WriteTokens:
    """The writes of one destination that must not replace anything.

    Args:
        notice: called with a sentence where the server cannot promise that.
    """

    def __init__(self, *, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._doubted: dict[str, str] = {}
        self.conditional = True
        """Whether they go with `If-None-Match: *`; False once the server has refused the header as unknown."""

    def token(self, key: str) -> str:
        """The token for the next write of `key`: a fresh one, or that of a write of this run which stored other bytes
        than were sent. By its token, that object is recognised as our own damage."""
        return self._doubted.get(key) or fresh_token()

    def doubt(self, key: str, token: str) -> None:
        """Remember that the write of `key` with `token`, which was not to replace anything, stored other bytes than
        were sent."""
        if self.conditional:
            self._doubted[key] = token

    async def put(
        self,
        transport: Transport,
        operation: PutObject | PutObjectFrom,
        prove: Callable[[ObjectStored], Awaitable[T]],
    ) -> T:
        """Send a PutObject that replaces nothing, and return the result of `prove` for its answer.

        Raises:
            AlreadyThere: another writer's object is under the key.
            TransferError, IntegrityError: as sending and `prove` raise them.
        """
        token = self.token(operation.key)
        try:
            return await prove(await self._put(transport, operation, token))
        except IntegrityError:
            self.doubt(operation.key, token)
            raise

    async def _put(self, transport: Transport, operation: PutObject | PutObjectFrom, token: str) -> ObjectStored:
        sent = list[Checksum | None]()
        customer_key = operation.attributes.sse_customer_key
        if isinstance(operation, PutObject):
            sent.append(operation.checksum)
            operation = replace(operation, write_token=token)
        else:
            operation = _remembering(replace(operation, write_token=token), sent)
        vanished = 0
        while True:
            try:
                return await self.send(transport, operation)
            except PreconditionFailed as error:
                refused = error
            try:
                head, ours = await whose(transport, operation.key, token, customer_key)
            except ObjectMissing:
                vanished += 1
                if vanished < VANISHED_MAX:
                    continue
                raise refused from None
            if head is None or not ours:
                raise already_there(refused, head) from refused
            last = sent[-1]
            return StoredFrom(
                etag=head.etag,
                checksum=answered_checksum(head, last.algorithm if last is not None else None),
                version_id=head.version_id,
                sse=head.sse,
                attempts=refused.attempts,
                sent=last,
            )

    async def send(
        self, transport: Transport, operation: PutObject | PutObjectFrom | CompleteMultipartUpload
    ) -> ObjectStored:
        """Send a write with the condition; raises what sending raises.

        After a 501 NotImplemented to the condition, a notice is given once, and writes go without it: the look before
        each write is then the only protection of existing objects.
        """
        if not self.conditional:
            return await _sent(transport, operation)
        try:
            return await _sent(transport, replace(operation, only_new=True))
        except PermanentError as error:
            if error.status != 501 and error.code != "NotImplemented":
                raise
        stored = await _sent(transport, operation)
        if self.conditional:
            self.conditional = False
            self._notice(
                "This server lacks conditional writes (If-None-Match): with overwrite='never', an object that somebody "
                "else stores between our look and our write is replaced."
            )
        return stored


async def _sent(transport: Transport, operation: PutObject | PutObjectFrom | CompleteMultipartUpload) -> ObjectStored:
    if isinstance(operation, PutObjectFrom):
        return await transport.send(operation)
    return await transport.send(operation)


def _remembering(operation: PutObjectFrom, sent: list[Checksum | None]) -> PutObjectFrom:
    """The same operation, which keeps the checksum of each attempt's bytes: a refusal brings none."""
    local, algorithm = operation.local, operation.algorithm

    def remember(body: memoryview) -> None:
        sent.append(checksum_of(body, algorithm) if algorithm is not None else None)
        if local is not None:
            local(body)

    return replace(operation, local=remember)
