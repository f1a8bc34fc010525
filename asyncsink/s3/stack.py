"""The only place where transports are stacked: retries around checksum headers around lanes, which pace themselves; and
the choice of the lane, and the move to a bucket's own region."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio.to_thread

from asyncsink.errors import AccessDenied, AsyncSinkError, ConfigError, WrongRegion
from asyncsink.options.schema import ChecksumChoice, LaneChoice, Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.availability import Availability, Watch
from asyncsink.s3.checksum_headers import USUAL, ChecksumHeaders, ChecksumUse
from asyncsink.s3.credentials.static_config import StaticS3Config, known_connection, named_endpoint
from asyncsink.s3.endpoint import exposed_to, is_arn, key_exposed, tls_context
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.http.client import HOT, HttpTransport
from asyncsink.s3.operations import ListObjects, ObjectPage, Operation, PutObject, Response
from asyncsink.s3.pacing import Bandwidth, PacedTransport, Pacer
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.sdk.transport import Aioboto3Transport, LazyTransport, credentials_provider
from asyncsink.s3.transport import Listener, Traffic, Transport, Wrap, wrapped
from asyncsink.value import dataclass

# -- The choice of the lane for the hot requests, once for each target, and the router ---------------------------------
# The wire lane is eligible where a request is nothing but head and body on a direct connection to a known host. A
# proxy, an ARN or S3 Express bucket, accelerate, dual-stack or FIPS endpoints, and a caller's own bucket object (whose
# event handlers must see every request) go through aioboto3.
#
# Where options and environment alone decide (`static_config.known_connection`), aioboto3 is loaded by the first
# operation that needs it, which an export never sends.

R = TypeVar("R", bound=Response)
log = logging.getLogger("asyncsink.s3")


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a target, and the choice between them.

    Attributes:
        transport: carries every operation.
        name: the lane of the hot ones: "wire" or "aioboto3".
        endpoint_url: the server, or "" for Amazon's own.
        region: the region in use, or "" where none is known.
        senders: most UploadPartFrom and PutObjectFrom under way at once; 0 where no lane takes them.
        checksums: the checksum headers that environment and profile ask for.
        exposed_to: as `endpoint.exposed_to`.
    """

    transport: Transport
    name: str
    endpoint_url: str
    region: str
    senders: int = 0
    checksums: ChecksumUse = USUAL
    exposed_to: str = ""

    def bound(self, connections: int) -> None:
        """Keep at most `connections` in each lane; idle ones beyond that are closed."""
        if isinstance(self.transport, LaneRouter):
            self.transport.bound(connections)


class LaneRouter:
    """A Transport: hot operations go to the wire, all others through aioboto3."""

    def __init__(self, wire: HttpTransport, other: Transport) -> None:
        self._wire = wire
        self._other = other

    def __repr__(self) -> str:
        return f"LaneRouter({self._wire!r}, {self._other!r})"

    # Without a coroutine of its own, which every object would pay for.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` in its lane."""
        if isinstance(operation, HOT):
            return self._wire.send(operation)
        return self._other.send(operation)

    def bound(self, connections: int) -> None:
        """As `Lanes.bound`; aiohttp closes its own idle connections after a few seconds."""
        self._wire.bound(connections)

    async def aclose(self) -> None:
        """Close both lanes."""
        try:
            await self._wire.aclose()
        finally:
            await self._other.aclose()


async def open_lanes(
    target: S3Target,
    retry: RetryPolicy,
    limits: Limits,
    pacer: Pacer,
    *,
    choice: LaneChoice,
    caller_bucket: Any = None,
) -> Lanes:
    """Open the lanes for `target`, and choose between them. They share the pacer's tokens, and its limit of bytes in a
    second.

    Raises:
        ConfigError: `choice` is "wire" and the target is not eligible; or as `Aioboto3Transport.open`.
    """
    bandwidth = pacer.bandwidth
    if choice != "aioboto3" and (caller_bucket is None or isinstance(caller_bucket, str)):
        known = await anyio.to_thread.run_sync(known_connection, target)
        if known is not None:
            return await _open_known(target, retry, limits, known, pacer=pacer)
    other = await Aioboto3Transport.open(target, retry, limits, caller_bucket=caller_bucket, bandwidth=bandwidth)
    opened = other.opened
    try:
        lanes = Lanes(
            PacedTransport(other, pacer),
            "aioboto3",
            opened.endpoint_url,
            opened.region,
            checksums=opened.checksums,
            exposed_to=opened.exposed_to,
        )
        reason = "it was asked for" if choice == "aioboto3" else opened.ineligible(target, caller_bucket)
        if choice == "wire" and reason:
            raise ConfigError(f"transport='wire' cannot be used here: {reason}. Use transport='auto'.")
        if reason:
            log.info("transport aioboto3 for s3://%s: %s", target.bucket, reason)
            return lanes
        wire = await HttpTransport.open(
            opened.bound(target),
            retry,
            region=opened.region,
            credentials=credentials_provider(target, retry, opened.credentials),
            pacer=pacer,
            verify=opened.verifies,
            bandwidth=bandwidth,
        )
    except BaseException:
        await other.aclose()
        raise
    log.info("transport wire for s3://%s: plain requests to a known host", target.bucket)
    router = LaneRouter(wire, lanes.transport)
    return replace(lanes, transport=router, name="wire", senders=bodies_at_once(limits))


async def _open_known(
    target: S3Target,
    retry: RetryPolicy,
    limits: Limits,
    known: StaticS3Config,
    *,
    pacer: Pacer,
) -> Lanes:
    bandwidth = pacer.bandwidth
    if target.ca_bundle:
        # Also where no request needs it: an option that cannot be used is refused.
        await anyio.to_thread.run_sync(tls_context, target.ca_bundle)
    bound = replace(target, endpoint_url=known.endpoint_url, ca_bundle=known.ca_bundle)
    provider, region = credentials_provider(target, retry, known.credentials), known.region
    wire = await HttpTransport.open(bound, retry, region=region, credentials=provider, pacer=pacer, bandwidth=bandwidth)
    opener = partial(Aioboto3Transport.open, target, retry, limits, bandwidth=bandwidth)
    other = PacedTransport(LazyTransport(f"aioboto3 s3://{target.bucket}", opener), pacer)
    log.info("transport wire for s3://%s: plain requests to a known host", target.bucket)
    router, exposed = LaneRouter(wire, other), exposed_to(known.endpoint_url)
    return Lanes(router, "wire", known.endpoint_url, region, bodies_at_once(limits), known.checksums, exposed)


def bodies_at_once(limits: Limits) -> int:
    """Most parts and whole files sent at once: bounded by the requests in flight, and by the memory."""
    in_flight = limits.concurrency or limits.concurrency_max
    return max(1, min(in_flight, limits.memory_bytes // limits.part_size_bytes))


# -- A bucket in another region than requests are signed for: new lanes are opened for its region ----------------------
# S3 names the region in the answer (`x-amz-bucket-region`, `<Region>`). No redirect is followed and no host of an
# answer is used: requests go on to the same endpoint, or at Amazon to the named region's endpoint in the same
# partition. Sources: S3 API Reference, "Error responses"; S3 User Guide, "Making requests using the REST API".

_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_AMAZON_REGION: Final = re.compile(r"[a-z]{2}[a-z-]*-[a-z]+-[0-9]{1,2}")
_REGIONAL: Final = r"(?i)(https?://s3\.)[a-z0-9-]+(\.amazonaws\.com(?:\.cn)?)"
AHEAD_SECONDS_MAX: Final = 60.0
"""Most seconds that the answer to an operation sent ahead of its time may be old."""
_PARTITIONS: Final = ("cn-", "us-gov-", "us-isob-", "us-isof-", "us-iso-", "eu-isoe-", "eusc-")


@dataclass(slots=True, frozen=True)
class _Ahead:
    """An operation that was sent ahead of its time, when (`time.monotonic`), and its result."""

    operation: ListObjects
    sent_at: float
    ended: ObjectPage | AsyncSinkError

    def tells_of(self, operation: Operation[Any]) -> bool:
        """Whether `operation` has this result too: it is the same, and not much later; or the failure concerns any
        prefix."""
        if isinstance(self.ended, AsyncSinkError) and not isinstance(self.ended, AccessDenied):
            return isinstance(operation, ListObjects)
        return operation == self.operation and self.sent_at + AHEAD_SECONDS_MAX > time.monotonic()

    async def end(self) -> Any:
        """Return or raise the result again."""
        if isinstance(self.ended, AsyncSinkError):
            raise self.ended
        return self.ended


class FollowingLanes:
    """A Transport over lanes that move to the bucket's region, at most once. Belongs to one event loop.

    Args:
        lanes: opened for `target`.
        target: what `lanes` were opened for.
        opener: opens lanes for another target, with the lane that is named.
        notice: called with one sentence when the lanes move.
    """

    def __init__(
        self,
        lanes: Lanes,
        target: S3Target,
        opener: Callable[[S3Target, LaneChoice], Awaitable[Lanes]],
        notice: Callable[[str], None],
    ) -> None:
        self.lanes = lanes
        """The lanes in use."""
        self._target = target
        self._opener = opener
        self._notice = notice
        self._moving = asyncio.Lock()
        self._left: Lanes | None = None
        self._ahead: _Ahead | None = None
        self._bound: int | None = None

    def __repr__(self) -> str:
        return f"FollowingLanes({self.lanes.transport!r})"

    # Without a coroutine of its own, which every object would pay for.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` through the lanes in use; an operation that was sent ahead keeps its result."""
        if isinstance(operation, (PutObject, GetObject)) and operation.first is not None:
            operation.first.end()
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.tells_of(operation):
            return ahead.end()
        return self.lanes.transport.send(operation)

    async def send_ahead(self, operation: ListObjects) -> None:
        """Send the probable first operation ahead of its time: that one then has the same result, an answer or an
        error. Any other one finds an open connection."""
        sent_at = time.monotonic()
        try:
            ended: ObjectPage | AsyncSinkError = await self.lanes.transport.send(operation)
        except AsyncSinkError as error:
            ended = error
        self._ahead = _Ahead(operation, sent_at, ended)

    def bound(self, requests: int) -> None:
        """As `Lanes.bound`, for the lanes in use and for those of another region."""
        self._bound = requests
        self.lanes.bound(requests)

    async def follow(self, error: WrongRegion) -> None:
        """Move to the region that `error` names; on return the request that ended with it can be sent again.

        Raises:
            WrongRegion: `error` itself: the lanes have moved before, or requests cannot be signed for the region here.
            ConfigError, CredentialsError: lanes for that region cannot be opened.
        """
        async with self._moving:
            # An ARN names its region itself.
            if error.region == error.signed_for or is_arn(self._target.bucket):
                raise error
            if self.lanes.region == error.region:
                return  # moved since that request was signed
            if self._left is not None or not self._may_sign_for(error.region):
                raise error
            region = self.lanes.region
            target = replace(self._target, region=error.region, endpoint_url=self._endpoint(error.region))
            choice: LaneChoice = "aioboto3" if self.lanes.name == "aioboto3" else "wire"
            lanes = await self._opener(target, choice)
            if self._bound is not None:
                lanes.bound(self._bound)
            # Requests under way in the old lanes end there, and come here by themselves.
            self._left, self.lanes = self.lanes, lanes
        self._notice(
            f"The bucket {self._target.bucket} is in region {error.region}, not in {region or 'the one assumed'}: "
            f"requests are signed for that one; region={error.region!r} spares the detour."
        )

    async def aclose(self) -> None:
        """Close all lanes."""
        try:
            if self._left is not None:
                await self._left.transport.aclose()
        finally:
            await self.lanes.transport.aclose()

    def _may_sign_for(self, region: str) -> bool:
        if self.lanes.endpoint_url:
            return _REGION.fullmatch(region) is not None
        # At Amazon the region gives the host: no answer moves a run to a host of another partition.
        return _AMAZON_REGION.fullmatch(region) is not None and _partition(region) == _partition(self.lanes.region)

    def _endpoint(self, region: str) -> str:
        """The endpoint for `region`: none where none was given, and the region's own in place of Amazon's regional
        one."""
        regional = re.fullmatch(_REGIONAL, named_endpoint(self._target))
        return f"{regional[1]}{region}{regional[2]}" if regional else self._target.endpoint_url


def _partition(region: str) -> str:
    return next((prefix for prefix in _PARTITIONS if region.startswith(prefix)), "")


# -- The stack ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class S3Stack:
    """A bucket's transport, with the counts and limits of its layers.

    Attributes:
        transport: the outermost layer.
        pacer: tokens and counts of requests.
        lane: the name of the lane in the report.
        endpoint_url: the server in use, or "" for Amazon's own.
        place: has the region in use.
        senders: most UploadPartFrom and PutObjectFrom under way at once; 0 where no lane takes them.
        wrapped: whether a caller's transport is around the lanes, which sees each request as one operation.
    """

    transport: RetryingTransport
    pacer: Pacer
    lane: str
    endpoint_url: str
    place: FollowingLanes
    senders: int
    wrapped: bool

    @property
    def batches(self) -> bool:
        """Whether operations that are many requests can be sent (PutFiles, HeadObjects, GetObjects)."""
        return self.senders > 0 and not self.wrapped

    async def send_ahead(self, operation: ListObjects) -> None:
        """As `FollowingLanes.send_ahead`; does nothing where a caller's transport has to see each request."""
        if not self.wrapped:
            await self.place.send_ahead(operation)

    def bound(self, requests: int) -> None:
        """Bound the requests in flight, and the idle connections of each lane, to `requests` from now on."""
        self.pacer.most = requests
        self.place.bound(requests)

    def in_flight(self) -> int:
        """Requests in flight."""
        return self.pacer.in_flight

    @property
    def region(self) -> str:
        """The region that requests are signed for, or ""."""
        return self.place.lanes.region

    @property
    def requests(self) -> int:
        """Requests sent so far, retries included."""
        return self.pacer.traffic.requests

    @property
    def retries(self) -> int:
        """Attempts beyond the first."""
        return self.pacer.traffic.retries


@asynccontextmanager
async def open_stack(
    target: S3Target,
    retry: RetryPolicy,
    limits: Limits,
    *,
    caller_bucket: Any = None,
    lane: LaneChoice = "auto",
    checksum: ChecksumChoice | None = None,
    customer_key: bool = False,
    notice: Callable[[str], None] = lambda _: None,
    traffic: Traffic | None = None,
    listener: Listener | None = None,
    watch: Watch | None = None,
    wrap: Wrap | None = None,
    within: Pacer | None = None,
) -> AsyncIterator[S3Stack]:
    """Open a client for `target` and stack the layers on it; leaving the block closes its connections.

    Args:
        lane: the lane for the hot requests; see `open_lanes`.
        checksum: the run's choice, or None where environment and profile decide whether checksum headers are sent.
        customer_key: whether requests carry a key of the customer's own.
        notice: called with a sentence for people: about checksum headers, or a move to another region.
        watch: what to do where the server is gone; None leaves each request to its own attempts.
        traffic: counts the requests, for others to read; None for a new one.
        listener: hears of each request; None is nobody.
        wrap: makes a caller's transport around the lanes: below the retries, so that it sees each attempt, and above
            the tokens of pacing, so that its own waiting holds none.
        within: the tokens, and the limit of bytes in a second, that several runs share; None where this one has its
            own alone.

    Raises:
        ConfigError: a customer key would leave this machine over plain HTTP, or as `open_lanes`; nothing was sent.
        CredentialsError: as `open_lanes`.
    """

    async def opened(target: S3Target, lane: LaneChoice) -> Lanes:
        lanes = await open_lanes(target, retry, limits, pacer, choice=lane, caller_bucket=caller_bucket)
        if customer_key and lanes.exposed_to:
            await lanes.transport.aclose()
            raise key_exposed(lanes.exposed_to)
        return lanes

    bandwidth, rate = within.bandwidth if within is not None else None, limits.bandwidth_bytes_per_second
    if rate is not None:
        bandwidth = Bandwidth(rate, within=bandwidth)
    pacer = Pacer(limits.concurrency_start, traffic, listener=listener, within=within, bandwidth=bandwidth)
    lanes = await opened(target, lane)
    place = FollowingLanes(lanes, target, opened, notice)
    try:
        outer = place if wrap is None else wrapped(wrap, place)
        availability = None
        if watch is not None:
            prefix = f"{target.prefix}/" if target.prefix else ""

            async def probe() -> ObjectPage:
                return await outer.send(ListObjects(prefix=prefix, max_keys=1))

            named = urlsplit(lanes.endpoint_url).netloc or f"bucket {target.bucket}"
            availability = Availability(named, watch, probe, stall_seconds=retry.stall_seconds, traffic=pacer.traffic)
        transport = RetryingTransport(
            ChecksumHeaders(outer, lanes.checksums, choice=checksum, notice=notice),
            retry,
            traffic=pacer.traffic,
            follow=place.follow,
            availability=availability,
        )
        yield S3Stack(transport, pacer, lanes.name, lanes.endpoint_url, place, lanes.senders, wrapped=wrap is not None)
    finally:
        await place.aclose()
