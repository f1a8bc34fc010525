"""The wire lane: what a plain export asks for, at a tenth of what a client library costs.

What stores objects, whole or in parts, looks at one, or lists a prefix; a router sends everything else through the
other lane. Each request is one write and one read on a kept connection, signed with SigV4 with the payload unsigned
where TLS (or loopback) and the checksum header guard the bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Final, TypeVar, cast

from asyncsink.config import RetryPolicy, S3Target
from asyncsink.errors import AsyncSinkError, ClockSkew, ConfigError, ExpiredCredentials, UploadMissing
from asyncsink.s3.aioboto3_calls import CALLS
from asyncsink.s3.answer_limits import ANSWER_BYTES_MAX, LISTING_BYTES_MAX
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.body import ByteBody
from asyncsink.s3.certificates import context_trusting
from asyncsink.s3.error_map import one_line
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.listings import listing_told
from asyncsink.s3.mute_heads import is_mute, reason_of
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    Done,
    HeadObject,
    ListObjects,
    ListParts,
    Operation,
    PutObject,
    Response,
    UploadPart,
)
from asyncsink.s3.ranges import ranges_unknown
from asyncsink.s3.wire.answers import (
    Answer,
    check_answered_range,
    corrected_time,
    error_of,
    is_error,
    response_of,
)
from asyncsink.s3.wire.endpoint import Endpoint, endpoint_of
from asyncsink.s3.wire.keyring import CredentialsProvider, Keyring
from asyncsink.s3.wire.multipart_calls import BOOKKEEPING, parts_document
from asyncsink.s3.wire.pool import Pool
from asyncsink.s3.wire.reading import ExchangeError
from asyncsink.s3.wire.requests import HotOperation, RequestWriter
from asyncsink.s3.wire.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD

R = TypeVar("R", bound=Response)

HOT: Final = (PutObject, UploadPart, HeadObject, GetObject, ListObjects, *BOOKKEEPING)
"""The operations this lane sends."""

_LISTS: Final = (ListObjects, ListParts)

SHA256_INLINE_BYTES_MAX: Final = 64 * 1024
"""Larger bodies that must be signed are hashed in a thread."""
READ_INLINE_BYTES_MAX: Final = 64 * 1024
"""Longer listings are read in a thread."""


class WireTransport:
    """A Transport for the operations in HOT; see `s3.transport.Transport` for the contract.

    Sends each operation once; only an idempotent one on a kept connection that turns out to be closed is sent again, on
    a new one. The caller bounds how many requests run at once: each has a connection. Belongs to the event loop it was
    opened in. Use `open`.

    Cancelling `send` closes its connection: what was not sent yet is never sent.
    """

    def __init__(self, bucket: str, endpoint: Endpoint, keyring: Keyring, pool: Pool) -> None:
        self._bucket = bucket
        self._endpoint = endpoint
        self._keyring = keyring
        self._pool = pool

    @classmethod
    async def open(
        cls,
        target: S3Target,
        retry: RetryPolicy,
        *,
        region: str,
        credentials: CredentialsProvider | None,
        verify: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> WireTransport:
        """A transport for `target`. Sends nothing.

        Args:
            target: bucket, endpoint_url, addressing_style, anonymous, request_payer and ca_bundle count here.
            retry: connect_seconds, stall_seconds and complete_seconds count here.
            region: of the bucket, for signatures and for Amazon's host names.
            credentials: asked before the first request and whenever they are about to expire; may be None only for
                an anonymous target.
            verify: False accepts any certificate (only where a caller's own client did so already).
            bandwidth: the limit on what is sent in a second, or None.

        Raises:
            ConfigError: no endpoint is known, the ca_bundle cannot be read, or there are no credentials to ask for.
        """
        endpoint = endpoint_of(target, region)
        if credentials is None and not target.anonymous:
            raise ConfigError("The wire lane was given no credentials; give some, or say anonymous=True.")
        tls = await asyncio.to_thread(tls_context, target.ca_bundle, verify) if endpoint.tls else None
        provider = None if target.anonymous else credentials
        keyring = Keyring(endpoint, region, provider, request_payer=target.request_payer)
        return cls(target.bucket, endpoint, keyring, Pool(endpoint, retry, tls, bandwidth))

    def __repr__(self) -> str:
        return f"<WireTransport s3://{self._bucket} at {self._endpoint.url}>"

    async def send(self, operation: Operation[R]) -> R:
        """Send one operation and return its answer.

        Raises:
            TypeError: the operation is none of HOT.
            Stalled: no byte moved for `stall_seconds` (`complete_seconds` for CompleteMultipartUpload).
            ClockSkew: the clocks differ; the next request is signed with the server's time.
            ExpiredCredentials: the next request asks for new ones.
            AsyncSinkError: as `s3.error_map` reads the answer; ConnectionLost or ServerFault where there was no
                whole one.
        """
        if not isinstance(operation, HOT):
            raise TypeError(f"the wire lane does not send {operation.name}")
        writer = self._keyring.ready() or await self._keyring.renewed()
        body, document = _body(operation)
        try:
            payload_hash = await self._payload_hash(body, writer) if self._endpoint.sign_payload else UNSIGNED_PAYLOAD
            signed_at = self._keyring.now()
            payload_hash = payload_hash if body else EMPTY_PAYLOAD
            head = writer.head(operation, payload_hash, self._keyring.timestamp(), document)
            answer = await self._pool.exchange(
                head,
                body,
                bodiless=isinstance(operation, HeadObject),
                answer_bytes_max=_answer_bytes_max(operation),
                once=not operation.idempotent,
                patient=isinstance(operation, CompleteMultipartUpload),
                # An abort has seconds only; it must not spend them behind the bodies of other files.
                urgent=not body and isinstance(operation, AbortMultipartUpload),
                into=_into(operation) if isinstance(operation, GetObject) else None,
            )
        except ExchangeError as failure:
            raise self._failed(operation, failure) from failure.__cause__
        except ssl.SSLCertVerificationError as error:
            reason = one_line(error.verify_message or str(error))
            raise ConfigError(
                f"{self._where(operation)} failed: the certificate of {self._endpoint.url} is not trusted ({reason}); "
                "give ca_bundle=."
            ) from error
        if is_error(answer):
            refused = error_of(
                operation, self._bucket, answer, signed_at if writer.signs else None, self._keyring.region
            )
            if isinstance(refused, UploadMissing) and isinstance(operation, AbortMultipartUpload):
                return cast("R", Done(was_there=False))
            self._learn(writer, refused, answer)
            if is_mute(operation, refused) and writer.temporary:
                raise await reason_of(operation, refused, self.send, lambda: self._keyring.ready() is not writer)
            raise refused
        if len(answer.body) > READ_INLINE_BYTES_MAX:
            return cast("R", await asyncio.to_thread(self._read, operation, answer))
        return cast("R", self._read(operation, answer))

    def bound(self, connections: int) -> None:
        """As `Pool.bound`."""
        self._pool.bound(connections)

    async def aclose(self) -> None:
        """Close every connection; requests under way fail. Calling it twice is harmless."""
        await self._pool.aclose()

    async def _payload_hash(self, body: ByteBody, writer: RequestWriter) -> str:
        if not body or not writer.signs:
            return UNSIGNED_PAYLOAD
        if len(body) <= SHA256_INLINE_BYTES_MAX:
            return hashlib.sha256(body).hexdigest()
        return await self._pool.in_thread(lambda: hashlib.sha256(body).hexdigest())

    def _read(self, operation: HotOperation, answer: Answer) -> Response:
        if isinstance(operation, ListObjects):
            told = listing_told(operation, answer.body)
            return CALLS[ListObjects].response(operation, told)
        if isinstance(operation, GetObject):
            received = len(answer.data) if answer.data is not None else 0
            check_answered_range(operation, self._bucket, answer, received)
        return response_of(operation, answer)

    def _learn(self, writer: RequestWriter, error: AsyncSinkError, answer: Answer) -> None:
        if isinstance(error, ExpiredCredentials):
            self._keyring.expire(writer)
        elif isinstance(error, ClockSkew) and (server_time := corrected_time(error, answer)) is not None:
            self._keyring.correct_clock(server_time)

    def _failed(self, operation: HotOperation, failure: ExchangeError) -> AsyncSinkError:
        if failure.overfull == 200 and isinstance(operation, GetObject) and not operation.whole:
            return ranges_unknown(operation, self._bucket)
        return failure.error(
            f"{self._where(operation)} failed: {failure.reason} at {self._endpoint.url}; "
            "look at the server and the network.",
            operation=operation.name,
        )

    def _where(self, operation: HotOperation) -> str:
        return f"{operation.name} of s3://{self._bucket}/{one_line(getattr(operation, 'key', ''), 1200)}"


def _body(operation: HotOperation) -> tuple[ByteBody, bytes]:
    """What follows the head, and the document where it is one."""
    if isinstance(operation, (PutObject, UploadPart)):
        return operation.body, b""
    document = parts_document(operation) if isinstance(operation, CompleteMultipartUpload) else b""
    return document, document


def _into(operation: GetObject) -> memoryview:
    room = operation.into if operation.into is not None else memoryview(bytearray(operation.length))
    return room[: operation.length]


def _answer_bytes_max(operation: HotOperation) -> int:
    if isinstance(operation, _LISTS):
        return LISTING_BYTES_MAX
    # A coding in pieces may put as much around the bytes as there are bytes.
    return ANSWER_BYTES_MAX + (2 * operation.length if isinstance(operation, GetObject) else 0)


def tls_context(ca_bundle: str, verify: bool = True) -> ssl.SSLContext:
    """The context for HTTPS: certificates and host names are checked, TLS 1.2 or later. Blocking: reads certificates.

    Args:
        ca_bundle: PEM file with the certificates to trust, or "" for the system's.
        verify: False checks nothing.

    Raises:
        ConfigError: the ca_bundle cannot be used.
    """
    context = context_trusting(ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Else what is to be written could have to wait for what is to be read. TLS 1.3 has none, and S3 asks for none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
