"""Which lane carries the hot requests, decided once per target, and the router that keeps to the decision.

The wire lane is eligible where a request is nothing but head and body on a direct connection to a known host. A
proxy, an ARN or S3 Express bucket, accelerate, dual-stack or FIPS endpoints, and a caller's own bucket object (whose
event handlers must see every request) go through aioboto3.

Where options and environment alone decide (`environment.known_connection`), aioboto3 is loaded by the first operation
that needs it, which an export never sends.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio.to_thread

from asyncsink.config import LaneChoice, Limits, RetryPolicy, S3Target
from asyncsink.errors import ConfigError
from asyncsink.s3.addresses import is_special
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.checksum_headers import USUAL, ChecksumUse
from asyncsink.s3.client import exposed_to, find_credentials
from asyncsink.s3.environment import Connection, known_connection
from asyncsink.s3.http.client import HOT, HttpTransport, tls_context
from asyncsink.s3.http.keyring import CredentialsProvider
from asyncsink.s3.lazy import LazyTransport
from asyncsink.s3.operations import Operation, Response
from asyncsink.s3.pacing import PacedTransport, Pacer
from asyncsink.s3.renewing import SharedCredentials
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.s3.aioboto3_transport import Aioboto3Transport

R = TypeVar("R", bound=Response)
log = logging.getLogger("asyncsink.s3")


@dataclass(frozen=True, slots=True)
class Lanes:
    """What was decided for a target.

    Attributes:
        transport: carries every operation.
        name: the lane of the hot ones: "wire" or "aioboto3".
        endpoint_url: the server, or "" for Amazon's own.
        region: or "" where none is known.
        senders: how many UploadPartFrom and PutObjectFrom may be under way at once; 0 where no lane takes them.
        checksums: which checksum headers environment and profile want.
        exposed_to: as `client.exposed_to`.
    """

    transport: Transport
    name: str
    endpoint_url: str
    region: str
    senders: int = 0
    checksums: ChecksumUse = USUAL
    exposed_to: str = ""

    def bound(self, connections: int) -> None:
        """Keep `connections` of each lane at most; those that rest beyond that are closed."""
        if isinstance(self.transport, LaneRouter):
            self.transport.bound(connections)


class LaneRouter:
    """A Transport: hot operations go to the wire, all others through aioboto3."""

    def __init__(self, wire: HttpTransport, other: Transport) -> None:
        self._wire = wire
        self._other = other

    def __repr__(self) -> str:
        return f"LaneRouter({self._wire!r}, {self._other!r})"

    # No coroutine of its own: every object passes here.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` in its lane."""
        if isinstance(operation, HOT):
            return self._wire.send(operation)  # type: ignore[arg-type] # it is an Operation[R]
        return self._other.send(operation)

    def bound(self, connections: int) -> None:
        """As `Lanes.bound`; aiohttp closes what rests after a few seconds."""
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
    """Open the lanes for `target`, and decide between them. All of them share one limit on what is sent in a second,
    and the pacer's tokens.

    Raises:
        ConfigError: `choice` is "wire" and the target is not eligible; or as `Aioboto3Transport.open`.
    """
    rate = limits.bandwidth_bytes_per_second
    bandwidth = Bandwidth(rate) if rate is not None else None
    if choice != "aioboto3" and (caller_bucket is None or isinstance(caller_bucket, str)):
        known = await anyio.to_thread.run_sync(known_connection, target)
        if known is not None:
            return await _open_known(target, retry, limits, known, pacer=pacer, bandwidth=bandwidth)
    other = await _open_aioboto3(target, retry, limits, caller_bucket=caller_bucket, bandwidth=bandwidth)
    try:
        reason = "it was asked for" if choice == "aioboto3" else _ineligible(target, other.client, caller_bucket)
        if choice == "wire" and reason:
            raise ConfigError(f"transport='wire' cannot be used here: {reason}. Use transport='auto'.")
        if reason:
            log.info("transport aioboto3 for s3://%s: %s", target.bucket, reason)
            exposed = _exposed_to(other.client)
            paced = PacedTransport(other, pacer)
            return Lanes(paced, "aioboto3", *_place(other.client), checksums=other.checksums, exposed_to=exposed)
        wire = await _open_wire(target, retry, other.client, pacer, bandwidth)
    except BaseException:
        await other.aclose()
        raise
    _log_wire(target)
    router, exposed = LaneRouter(wire, PacedTransport(other, pacer)), _exposed_to(other.client)
    return Lanes(router, "wire", *_place(other.client), bodies_at_once(limits), other.checksums, exposed)


async def _open_aioboto3(
    target: S3Target,
    retry: RetryPolicy,
    limits: Limits,
    *,
    caller_bucket: Any = None,
    bandwidth: Bandwidth | None,
) -> Aioboto3Transport:
    # Here, because a run whose connection is known never opens it.
    from asyncsink.s3.aioboto3_transport import Aioboto3Transport

    return await Aioboto3Transport.open(target, retry, limits, caller_bucket=caller_bucket, bandwidth=bandwidth)


async def _open_known(
    target: S3Target,
    retry: RetryPolicy,
    limits: Limits,
    known: Connection,
    *,
    pacer: Pacer,
    bandwidth: Bandwidth | None,
) -> Lanes:
    if target.ca_bundle:
        # Also where nothing needs it: an option that cannot be used is told.
        await anyio.to_thread.run_sync(tls_context, target.ca_bundle)
    bound = replace(target, endpoint_url=known.endpoint_url, ca_bundle=known.ca_bundle)
    provider, region = _provider(target, retry, known.credentials), known.region
    wire = await HttpTransport.open(bound, retry, region=region, credentials=provider, pacer=pacer, bandwidth=bandwidth)
    opener = partial(_open_aioboto3, target, retry, limits, bandwidth=bandwidth)
    other = PacedTransport(LazyTransport(f"aioboto3 s3://{target.bucket}", opener), pacer)
    _log_wire(target)
    router, exposed = LaneRouter(wire, other), exposed_to(known.endpoint_url)
    return Lanes(router, "wire", known.endpoint_url, region, bodies_at_once(limits), known.checksums, exposed)


def bodies_at_once(limits: Limits) -> int:
    """How many parts and whole files may be sent at once: as many as requests may be in flight, and as memory holds."""
    in_flight = limits.concurrency or limits.concurrency_max
    return max(1, min(in_flight, limits.memory_bytes // limits.part_size_bytes))


def _log_wire(target: S3Target) -> None:
    log.info("transport wire for s3://%s: plain requests to a known host", target.bucket)


def _place(client: Any) -> tuple[str, str]:
    endpoint = client.meta.endpoint_url
    return "" if _is_amazon(urlsplit(endpoint).hostname or "") else endpoint, client.meta.region_name or ""


def _exposed_to(client: Any) -> str:
    endpoint = client.meta.endpoint_url
    return exposed_to(endpoint, client._endpoint.http_session._proxy_config.proxy_url_for(endpoint) or "")


def _ineligible(target: S3Target, client: Any, caller_bucket: Any) -> str:
    """Why the wire lane is not for this target, or ""."""
    if caller_bucket is not None and not isinstance(caller_bucket, str):
        return "the bucket object is the caller's own, with its own client"
    if is_special(target.bucket):
        return "ARN, Outposts and S3 Express buckets need other requests"
    session = client._endpoint.http_session
    if session._proxy_config.proxy_url_for(client.meta.endpoint_url):
        return "a proxy is configured"
    s3 = client.meta.config.s3 or {}
    if s3.get("use_accelerate_endpoint") or s3.get("use_dualstack_endpoint"):
        return "accelerate and dual-stack endpoints need other hosts"
    if client.meta.config.use_dualstack_endpoint or client.meta.config.use_fips_endpoint:
        return "dual-stack and FIPS endpoints need other hosts"
    if not client.meta.region_name:
        return "no region is known"
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if _is_amazon(host) and host != "s3.amazonaws.com" and not host.startswith(f"s3.{client.meta.region_name}.amazon"):
        return "special endpoints of Amazon need other hosts"
    if _is_amazon(host) and not target.region:
        # The profile's region may not be the bucket's; aioboto3 follows S3's redirects, the wire lane does not.
        return "the bucket's region is not certain; give region"
    return ""


def _is_amazon(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


async def _open_wire(
    target: S3Target, retry: RetryPolicy, client: Any, pacer: Pacer, bandwidth: Bandwidth | None
) -> HttpTransport:
    endpoint = client.meta.endpoint_url
    amazon = _is_amazon(urlsplit(endpoint).hostname or "")
    verify = client._endpoint.http_session._verify
    bound = replace(
        target,
        endpoint_url="" if amazon else endpoint,
        ca_bundle=target.ca_bundle or (verify if isinstance(verify, str) else ""),
        addressing_style=(client.meta.config.s3 or {}).get("addressing_style") or target.addressing_style,
    )
    region, trusts = client.meta.region_name, verify is not False
    provider = _provider(target, retry, client._request_signer._credentials)
    return await HttpTransport.open(
        bound, retry, region=region, credentials=provider, pacer=pacer, verify=trusts, bandwidth=bandwidth
    )


def _provider(target: S3Target, retry: RetryPolicy, first: Any) -> CredentialsProvider | None:
    """A provider of credentials for `target`, beginning with `first`: ours, or the client's own."""
    return None if target.anonymous else SharedCredentials(first, partial(find_credentials, target, retry)).provider()
