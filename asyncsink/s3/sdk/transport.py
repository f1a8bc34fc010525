"""The aioboto3 lane: every operation through the client's own method, watched for progress, with asyncsink's errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import anyio.to_thread

from asyncsink.errors import (
    AsyncSinkError,
    ClockSkew,
    ConfigError,
    ConnectionLost,
    ExpiredCredentials,
    PermanentError,
    ServerFault,
    Stalled,
    TransferError,
    UploadMissing,
)
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.availability import is_mute, reason_of
from asyncsink.s3.codec import CALLS, SLICE_BYTES, ClientCall, WatchedBody, plain_etag
from asyncsink.s3.credentials.chain import none_found
from asyncsink.s3.credentials.errors import configuration_error
from asyncsink.s3.credentials.file import Credentials, SharedCredentials
from asyncsink.s3.endpoint import is_directory_bucket, no_tls, speaks_no_tls
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, LISTING_BYTES_MAX, error_from_answer, one_line
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectReceived, check_range, check_received, ranges_unknown
from asyncsink.s3.listing import LISTINGS, listing_told
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    Done,
    HeadObject,
    ListMultipartUploads,
    ListObjects,
    ObjectPage,
    Operation,
    Response,
    UploadPage,
)
from asyncsink.s3.pacing import Bandwidth
from asyncsink.s3.sdk.client import (
    HEARING,
    AnswerTooLong,
    Hearing,
    OpenedClient,
    Resigner,
    check_certificates,
    find_credentials,
    open_client,
    proxy_of,
)

R = TypeVar("R", bound=Response)

_BODY = "asyncsink-body"
"""The place of a listing's XML in botocore's answer, which then has nothing else."""


class Aioboto3Transport:
    """A Transport over an aiobotocore client. Sends each operation once; see `s3.transport.Transport` for the contract.

    Use `open` for a transport that owns its client, or the constructor for a client that its caller closes.

    Cancelling `send` aborts its connection: what was not sent yet is never sent. After ClockSkew and ExpiredCredentials
    the next `send` is signed by the server's clock and with credentials that were looked up again.
    """

    def __init__(
        self,
        opened: OpenedClient,
        retry: RetryPolicy,
        *,
        request_payer: bool = False,
        renew: Callable[[], Awaitable[Any]] | None = None,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.opened = opened
        """The client, for the choice of a lane."""
        self._client = client = opened.client
        self._bucket = opened.bucket
        self._directories = is_directory_bucket(opened.bucket)
        self._retry = retry
        self._payer = {"RequestPayer": "requester"} if request_payer else {}
        self._resigner = Resigner(client, renew)
        self._owned = AsyncExitStack()
        self._bandwidth = bandwidth
        for name in ("ListObjectsV2", "ListObjects", "ListParts", "ListMultipartUploads"):
            client.meta.events.register(f"before-parse.s3.{name}", _keep_body)
        client.meta.events.register("before-call.s3.GetObject", _leave_unchecked)
        if bandwidth is not None:
            client.meta.events.register("before-send.s3.*", partial(_charge_head, bandwidth))

    @classmethod
    async def open(
        cls,
        target: S3Target,
        retry: RetryPolicy,
        limits: Limits,
        *,
        caller_bucket: Any = None,
        bandwidth: Bandwidth | None = None,
    ) -> Aioboto3Transport:
        """Open a client for `target` and a transport that closes it. Sends nothing to S3.

        Args:
            target, retry, limits, caller_bucket: as `sdk.client.open_client`.
            bandwidth: the limit on bytes sent in a second, or None.

        Raises:
            ConfigError, CredentialsError: as `sdk.client.open_client`.
        """
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(open_client(target, retry, limits, caller_bucket=caller_bucket))
            await check_certificates(opened.client)
            renew = partial(find_credentials, target, retry, caller_bucket=caller_bucket)
            payer = target.request_payer
            transport = cls(opened, retry, request_payer=payer, renew=renew, bandwidth=bandwidth)
            transport._owned = stack.pop_all()
        return transport

    def __repr__(self) -> str:
        return f"<Aioboto3Transport s3://{self._bucket} at {self._client.meta.endpoint_url}>"

    async def send(self, operation: Operation[R]) -> R:
        """Send one operation and return its answer.

        Raises:
            Stalled: no byte moved for `stall_seconds` (`complete_seconds` for CompleteMultipartUpload).
            AsyncSinkError: as `s3.errors_map` reads the answer; ConnectionLost where there was none.
        """
        call = CALLS[GetObject if isinstance(operation, GetObjectTo) else type(operation)]
        renewals = self._resigner.renewals
        patient = isinstance(operation, CompleteMultipartUpload)
        watchdog = Watchdog(self._retry.complete_seconds if patient else self._retry.stall_seconds)
        try:
            async with watchdog:
                return cast("R", await self._call(call, operation, watchdog))
        except AsyncSinkError:
            raise
        except Exception as failed:  # noqa: BLE001 - raised below, without the server's texts
            error = failed
        self._secrets()
        translated = self._translate(operation, error, watchdog)
        if translated is None:
            raise error
        if isinstance(translated, UploadMissing) and isinstance(operation, AbortMultipartUpload):
            return cast("R", Done(was_there=False))
        if is_mute(operation, translated):
            resigner = self._resigner
            translated = await reason_of(operation, translated, self.send, lambda: resigner.renewals != renewals)
        elif isinstance(translated, ExpiredCredentials):
            await self._resigner.renew(renewals)
        # Other causes are dropped: a server's text, or that of a credential error, may hold a secret.
        raise translated from (error if isinstance(error, OSError) and isinstance(translated, TransferError) else None)

    def _secrets(self) -> None:
        """Register the current credentials as secrets: botocore renews some by itself."""
        held = getattr(self._client._request_signer, "_credentials", None)
        for name in ("_secret_key", "_token", "secret_key", "token"):
            value = vars(held).get(name) if held is not None else None
            if isinstance(value, str) and value:
                Secret(value.encode())

    async def aclose(self) -> None:
        """Close the client's connections where the transport owns it. Calling it twice is harmless."""
        await self._owned.aclose()

    async def _call(self, call: ClientCall, operation: Any, watchdog: Watchdog) -> Response:
        asked = operation.request() if isinstance(operation, GetObjectTo) else operation
        if self._directories and isinstance(operation, (ListObjects, ListMultipartUploads)):
            # A directory bucket lists directories only (S3 API, ListObjectsV2): other entries are left out below.
            asked = replace(operation, prefix=operation.prefix[: operation.prefix.rfind("/") + 1])
        parameters = call.parameters(asked, watchdog.moved)
        if self._bandwidth is not None and (body := parameters.get("Body")):
            turn = partial(_turn, self._bandwidth, watchdog)
            if isinstance(body, WatchedBody):
                body.slice_bytes = min(SLICE_BYTES, self._bandwidth.slice_bytes)
                body.turn = turn
            else:
                await turn(len(body))
        hearing = HEARING.set(_hearing(operation, watchdog))
        try:
            method = "list_objects" if "Marker" in parameters else call.method
            answer = await getattr(self._client, method)(Bucket=self._bucket, **parameters, **self._payer)
        finally:
            HEARING.reset(hearing)
        watchdog.moved()
        if isinstance(operation, LISTINGS):
            told = await asyncio.to_thread(listing_told, operation, answer.pop(_BODY, b""))
            return call.response(operation, {**answer, **told})
        if isinstance(operation, GetObjectTo):
            return await self._hand_over(operation, answer, watchdog)
        if isinstance(operation, GetObject):
            answer["Body"] = await self._read_body(operation, answer, watchdog)
        response = call.response(operation, answer)
        if isinstance(response, ObjectPage) and asked is not operation:
            response.objects = tuple(each for each in response.objects if each.key.startswith(operation.prefix))
        elif isinstance(response, UploadPage) and asked is not operation:
            response.uploads = tuple(each for each in response.uploads if each.key.startswith(operation.prefix))
        return response

    async def _hand_over(self, operation: GetObjectTo, answer: Any, watchdog: Watchdog) -> ObjectReceived:
        """Give the bytes to the operation's taker, in a thread, as they arrive."""
        request, taken = operation.request(), 0
        async for piece in self._pieces(request, answer, watchdog):
            watchdog.pause()
            await anyio.to_thread.run_sync(operation.taker.take, taken, memoryview(piece))
            watchdog.moved()
            taken += len(piece)
        watchdog.pause()
        received = ObjectReceived(
            length=taken, etag=plain_etag(answer), version_id=answer.get("VersionId") or "", attempts=1
        )
        await anyio.to_thread.run_sync(operation.taker.end, received)
        return received

    async def _read_body(self, operation: GetObject, answer: Any, watchdog: Watchdog) -> memoryview:
        into = operation.into if operation.into is not None else memoryview(bytearray(operation.length))
        received = 0
        async for piece in self._pieces(operation, answer, watchdog):
            into[received : received + len(piece)] = piece
            received += len(piece)
        return into[:received]

    async def _pieces(self, operation: GetObject, answer: Any, watchdog: Watchdog) -> AsyncIterator[bytes]:
        """The body of an answer, which is checked to be the requested one."""
        received = 0
        # Its own `async with` gives aiohttp's response, whose reads botocore's would no longer check.
        stream = answer["Body"]
        async with stream:
            content_range = answer.get("ContentRange") or ""
            expected = check_range(
                operation,
                self._bucket,
                content_range,
                answer.get("ContentLength"),
                etag=plain_etag(answer),
                dated=bool(answer.get("LastModified")),
            )
            # One byte more than allowed is requested: an answer without a length may be too long.
            while piece := await stream.read(min(operation.length + 1 - received, SLICE_BYTES)):
                received += len(piece)
                if received > operation.length and not operation.size_known:
                    yield piece[: operation.length - received]
                    stream.close()  # a larger object ends here, and with it the connection
                    return
                if received > operation.length:
                    stream.close()
                    if not content_range and not operation.whole:
                        raise ranges_unknown(operation, self._bucket)
                    raise ServerFault(
                        f"{operation.name} of s3://{self._bucket}/{operation.key} failed: more bytes came than were "
                        f"asked for ({operation.length:,}); check that the endpoint is S3.",
                        operation=operation.name,
                    )
                watchdog.moved()
                yield piece
            check_received(operation, self._bucket, expected, received)

    def _translate(self, operation: Operation[Any], error: Exception, watchdog: Watchdog) -> AsyncSinkError | None:
        """The error of asyncsink for an exception, or None for a bug, which must be seen as it is."""
        from botocore import exceptions as b

        if isinstance(error, b.ClientError):
            return self._from_answer(operation, error)
        if isinstance(error, TimeoutError) and watchdog.expired:
            return self._stalled(operation, watchdog.seconds)
        if isinstance(error, b.NoCredentialsError):
            return none_found()
        if isinstance(error, _unusable()):
            return configuration_error(error, None)
        where = f"{operation.name} of s3://{self._bucket}/{getattr(operation, 'key', '')}"
        if isinstance(error, b.ParamValidationError):
            report = "" if "SSECustomerKey" in str(error) else f": {one_line(str(error))}"
            return ConfigError(f"{where} cannot be sent: its parameters are not valid{report}.")
        if isinstance(error, (ValueError, OverflowError, RecursionError)):
            # From botocore's parser: faults of the request have other classes.
            return ServerFault(
                f"{where} failed: the answer is no S3 answer; check the endpoint.", operation=operation.name
            )
        if isinstance(error, b.ReadTimeoutError) and not isinstance(error, b.ConnectTimeoutError):
            return self._stalled(operation, max(self._retry.stall_seconds, self._retry.complete_seconds))
        endpoint = self._client.meta.endpoint_url
        return _from_network(operation.name, where, endpoint, error, proxy_of(self._client))

    def _stalled(self, operation: Operation[Any], seconds: float) -> Stalled:
        return Stalled(
            f"{operation.name} of s3://{self._bucket}/{getattr(operation, 'key', '')} failed: no byte moved for "
            f"{seconds:g} s at {self._client.meta.endpoint_url}; look at the server and the network.",
            operation=operation.name,
        )

    def _from_answer(self, operation: Operation[Any], error: Any) -> AsyncSinkError:
        told = error.response.get("Error", {})
        metadata = error.response.get("ResponseMetadata", {})
        headers = metadata.get("HTTPHeaders", {})
        checksum = getattr(operation, "checksum", None)
        answer = error_from_answer(
            operation.name,
            getattr(operation, "key", ""),
            self._bucket,
            str(told.get("Code") or ""),
            int(metadata.get("HTTPStatusCode") or 0),
            str(told.get("Message") or ""),
            headers.get("retry-after"),
            date=headers.get("date", ""),
            region=str(headers.get("x-amz-bucket-region") or told.get("Region") or ""),
            signed_for=self._client.meta.region_name or "",
            expected=str(checksum) if checksum is not None else "",
            actual=one_line(str(told.get("CalculatedDigest") or told.get("Message") or "")),
        )
        if isinstance(answer, ClockSkew):
            self._resigner.learn_clock(headers.get("date", ""))
        return answer


class LazyTransport:
    """A Transport opened by its first operation, once: loading aioboto3 takes most of a second. Belongs to the event
    loop it is used in.

    Args:
        name: for the repr.
        opener: opens the inner transport; called again after it failed or was cancelled.
    """

    def __init__(self, name: str, opener: Callable[[], Awaitable[Aioboto3Transport]]) -> None:
        self._name = name
        self._opener = opener
        self._opening = asyncio.Lock()
        self._transport: Aioboto3Transport | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<LazyTransport {self._name}: {self._transport or 'not opened'}>"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation`; raises what opening and sending raise."""
        transport = self._transport or await self._opened()
        return await transport.send(operation)

    async def aclose(self) -> None:
        """Close the inner transport if it was opened. Calling it twice is harmless."""
        self._closed = True
        async with self._opening:
            if self._transport is not None:
                await self._transport.aclose()

    async def _opened(self) -> Aioboto3Transport:
        async with self._opening:
            if self._closed:
                raise ConnectionLost("The request was not sent: the transport was closed before.")
            if self._transport is None:
                self._transport = await self._opener()
            return self._transport


def credentials_provider(
    target: S3Target, retry: RetryPolicy, first: Any
) -> Callable[[], Awaitable[Credentials]] | None:
    """A provider of credentials for `target`, beginning with `first`: asyncsink's, or a client's own."""
    return None if target.anonymous else SharedCredentials(first, partial(find_credentials, target, retry)).provider()


class Watchdog:
    """A deadline that every moved byte postpones: `async with` it around one request.

    When it expires, the request is cancelled and TimeoutError raised, with `expired` set.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        self._watching = False

    @property
    def expired(self) -> bool:
        """True once the deadline passed."""
        return self._timeout.expired()

    def moved(self, _size_bytes: int = 0) -> None:
        """Postpone the deadline: bytes moved, or an answer began. Harmless after the end, when aiohttp may still end a
        body."""
        if self._watching and not self.expired:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self.seconds)

    def pause(self) -> None:
        """Stop watching until the next `moved`: the next wait is not the server's fault."""
        if self._watching and not self.expired:
            self._timeout.reschedule(None)

    async def __aenter__(self) -> Watchdog:
        await self._timeout.__aenter__()
        self._watching = True
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._watching = False
        # Its own cancellation becomes a TimeoutError; it swallows nothing.
        await self._timeout.__aexit__(*exception)


def _leave_unchecked(context: dict[str, Any], **_: Any) -> None:
    """Omit botocore's check, since both lanes compare bytes where they are taken: botocore compares a range with a
    checksum of the whole object, which some servers repeat beside each range."""
    context.get("checksum", {}).pop("response_algorithms", None)


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Keep a listing's XML for `s3.listing`: botocore's parser takes one odd entry for a broken answer."""
    if response_dict["status_code"] < 300:
        customized_response_dict[_BODY] = response_dict["body"]
        response_dict["body"] = b""


def _hearing(operation: Operation[Any], watchdog: Watchdog) -> Hearing:
    # S3 may send spaces for minutes before the result of a Complete: each is progress.
    moved = watchdog.moved if isinstance(operation, CompleteMultipartUpload) else None
    bytes_max = LISTING_BYTES_MAX if isinstance(operation, LISTINGS) else ANSWER_BYTES_MAX
    return Hearing(bytes_max, moved, object_bytes=isinstance(operation, (GetObject, GetObjectTo, HeadObject)))


async def _turn(bandwidth: Bandwidth, watchdog: Watchdog, size_bytes: int) -> None:
    """Wait until `size_bytes` may be sent, without counting it as a stall."""
    watchdog.pause()
    try:
        await bandwidth.turn(size_bytes)
    finally:
        watchdog.moved()


def _charge_head(bandwidth: Bandwidth, request: Any, **_: Any) -> None:
    """Charge this request's line, headers and document to later requests: it is signed, and goes now."""
    headers = sum(len(name) + len(value) + len(": \r\n") for name, value in request.headers.items())
    document = len(request.body) if isinstance(request.body, bytes) else 0
    bandwidth.reserve(len(request.url) + headers + document)


def _unusable() -> tuple[type[Exception], ...]:
    """botocore's exceptions for a bucket that it cannot address, raised before anything is sent."""
    from botocore import exceptions as b

    return (
        b.BaseEndpointResolverError,
        b.EndpointProviderError,
        b.InvalidEndpointConfigurationError,
        b.InvalidRegionError,
        b.InvalidProxiesConfigError,
        b.UnsupportedS3ConfigurationError,
        b.UnsupportedS3ArnError,
        b.UnsupportedS3AccesspointConfigurationError,
        b.InvalidS3AddressingStyleError,
    )


def _from_network(name: str, where: str, endpoint: str, error: Exception, proxy: str) -> AsyncSinkError | None:
    """The error for a failure without a usable answer, or None for a bug."""
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError
    from botocore import exceptions as b
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        return ServerFault(f"{where} failed: the answer is no S3 answer; check that {endpoint} is S3.", operation=name)
    inner = error.kwargs.get("error") if isinstance(error, b.BotoCoreError) else error
    if isinstance(inner, AnswerTooLong):
        return ServerFault(f"{where} failed: {inner} at {endpoint}; check that it is S3.", operation=name)
    reason = _reason(inner) if inner is not None else type(error).__name__
    to_proxy = isinstance(error, (b.ProxyConnectionError, b.ConnectTimeoutError)) or (
        isinstance(inner, aiohttp.ClientConnectorError) and not isinstance(inner, aiohttp.ClientSSLError)
    )
    if proxy and to_proxy:
        if isinstance(inner, aiohttp.ClientHttpProxyError):
            fault = f"{proxy} refuses to connect to {endpoint} (HTTP {inner.status}, {one_line(inner.message)})"
        elif reason == "connection refused":
            fault = f"{proxy} refuses connections"
        else:
            fault = f"{proxy} cannot be reached ({reason})"
        return ConnectionLost(
            f"{where} failed: {fault}; look at the proxy, or name the endpoint's host in NO_PROXY.", operation=name
        )
    if isinstance(inner, aiohttp.ClientConnectorCertificateError):
        return ConfigError(f"{where} failed: the certificate of {endpoint} is not trusted ({reason}); give ca_bundle=.")
    if isinstance(inner, aiohttp.ClientConnectorSSLError) and speaks_no_tls(inner.os_error):
        return no_tls(where, endpoint)
    network = (
        b.ConnectionError,
        b.ConnectionClosedError,
        b.ResponseStreamingError,
        b.IncompleteReadError,
        aiohttp.ClientError,
        HttpProcessingError,
        OSError,
    )
    if isinstance(error, network) or isinstance(inner, network):
        return ConnectionLost(
            f"{where} failed: the connection to {endpoint} could not be made or was lost ({reason}); "
            "look at the endpoint and the network.",
            operation=name,
        )
    if isinstance(error, b.BotoCoreError):
        return PermanentError(f"{where} failed: {type(error).__name__} ({reason}).", operation=name)
    return None


def _reason(error: Any) -> str:
    """Why there was no answer, in a few words. aiohttp's own text names its TLS settings over plain HTTP too."""
    text = re.sub(r"^Cannot connect to host \S+ ssl:\S+ \[(.*)\]$", r"\1", str(error), flags=re.DOTALL)
    refused = isinstance(getattr(error, "os_error", None), ConnectionRefusedError)
    return "connection refused" if refused else one_line(text) or type(error).__name__
