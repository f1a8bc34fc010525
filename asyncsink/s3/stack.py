"""The one place where transports are stacked: retrying around checksum headers around lanes, which pace themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from asyncsink.config import ChecksumChoice, LaneChoice, Limits, RetryPolicy, S3Target
from asyncsink.errors import ConfigError
from asyncsink.s3.availability import Availability, Watch
from asyncsink.s3.checksum_headers import ChecksumHeaders
from asyncsink.s3.error_map import one_line
from asyncsink.s3.following import FollowingLanes
from asyncsink.s3.lanes import Lanes, open_lanes
from asyncsink.s3.operations import ListObjects, ObjectPage
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.retrying import RetryingTransport
from asyncsink.s3.traffic import Traffic
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class S3Stack:
    """A bucket's transport, and what its layers know.

    Attributes:
        transport: the outermost layer.
        pacer: tokens and counts of requests.
        lane: the name that the report gives.
        endpoint_url: the server in use, or "" for Amazon's own.
        place: knows the region in use.
        senders: how many UploadPartFrom and PutObjectFrom may be under way at once; 0 where no lane takes them.
    """

    transport: RetryingTransport
    pacer: Pacer
    lane: str
    endpoint_url: str
    place: FollowingLanes
    senders: int

    def bound(self, requests: int) -> None:
        """From now on, `requests` are in flight at most, and so many connections of each kind rest."""
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
    watch: Watch | None = None,
) -> AsyncIterator[S3Stack]:
    """Open a client for `target` and stack the layers on it; leaving the block closes its connections.

    Args:
        lane: which lane the hot requests take; see `lanes`.
        checksum: the run's choice, or None where environment and profile decide whether checksum headers are sent.
        customer_key: whether requests carry a key of the customer's own.
        notice: called with a sentence where the server does not take what it is sent.
        watch: what to do where the server is gone; None leaves each request to its own attempts.
        traffic: where requests are counted, for others to read; None for an own one.

    Raises:
        ConfigError: a customer key would leave this machine over plain HTTP, or as `open_lanes`; nothing was sent.
        CredentialsError: as `open_lanes`.
    """

    async def opened(target: S3Target, lane: LaneChoice) -> Lanes:
        lanes = await open_lanes(target, retry, limits, pacer, choice=lane, caller_bucket=caller_bucket)
        if customer_key and lanes.exposed_to:
            await lanes.transport.aclose()
            raise ConfigError(
                f"The customer key of sse would travel to {one_line(lanes.exposed_to)!r} over plain HTTP, where others "
                "can read it; give an endpoint that begins with https://. Only a server on this machine may have it so."
            )
        return lanes

    pacer = Pacer(limits.concurrency_start, traffic)
    lanes = await opened(target, lane)
    place = FollowingLanes(lanes, target, opened, notice)
    try:
        availability = None
        if watch is not None:
            prefix = f"{target.prefix}/" if target.prefix else ""

            async def probe() -> ObjectPage:
                return await place.send(ListObjects(prefix=prefix, max_keys=1))

            named = urlsplit(lanes.endpoint_url).netloc or f"bucket {target.bucket}"
            availability = Availability(named, watch, probe, stall_seconds=retry.stall_seconds, traffic=pacer.traffic)
        transport = RetryingTransport(
            ChecksumHeaders(place, lanes.checksums, choice=checksum, notice=notice),
            retry,
            traffic=pacer.traffic,
            follow=place.follow,
            availability=availability,
        )
        yield S3Stack(transport, pacer, lanes.name, lanes.endpoint_url, place, lanes.senders)
    finally:
        await place.aclose()
