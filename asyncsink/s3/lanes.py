"""Which lane carries the hot requests, decided once per target, and the router that keeps to the decision.

The wire lane is eligible where a request is nothing but head and body on a direct connection to a known host. A
proxy, an ARN or S3 Express bucket, accelerate, dual-stack or FIPS endpoints, and a caller's own bucket object (whose
event handlers must see every request) go through aioboto3.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from asyncsink.config import LaneChoice, Limits, RetryPolicy, S3Target, Secret
from asyncsink.errors import ConfigError
from asyncsink.s3.aioboto3_transport import Aioboto3Transport
from asyncsink.s3.client import find_credentials
from asyncsink.s3.credentials import freeze
from asyncsink.s3.operations import Operation, Response
from asyncsink.s3.transport import Transport
from asyncsink.s3.wire.keyring import CredentialsLike
from asyncsink.s3.wire.transport import HOT, WireTransport

R = TypeVar("R", bound=Response)
log = logging.getLogger("asyncsink.s3")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCredentials:
    """What the wire lane signs with, and until when."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Lanes:
    """What was decided for a target.

    Attributes:
        transport: carries every operation.
        name: the lane of the hot ones: "wire" or "aioboto3".
        endpoint_url: the server, or "" for Amazon's own.
        region: or "" where none is known.
    """

    transport: Transport
    name: str
    endpoint_url: str
    region: str


class LaneRouter:
    """A Transport: hot operations go to the wire, all others through aioboto3."""

    def __init__(self, wire: WireTransport, other: Aioboto3Transport) -> None:
        self._wire = wire
        self._other = other

    def __repr__(self) -> str:
        return f"LaneRouter({self._wire!r}, {self._other!r})"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation` in its lane."""
        if isinstance(operation, HOT):
            return await self._wire.send(operation)  # type: ignore[arg-type] # it is an Operation[R]
        return await self._other.send(operation)

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
    *,
    choice: LaneChoice,
    caller_bucket: Any = None,
) -> Lanes:
    """Open the lanes for `target`, and decide between them.

    Raises:
        ConfigError: `choice` is "wire" and the target is not eligible; or as `Aioboto3Transport.open`.
    """
    other = await Aioboto3Transport.open(target, retry, limits, caller_bucket=caller_bucket)
    try:
        reason = "it was asked for" if choice == "aioboto3" else _ineligible(target, other.client, caller_bucket)
        if choice == "wire" and reason:
            raise ConfigError(f"transport='wire' cannot be used here: {reason}. Use transport='auto'.")
        if reason:
            log.info("transport aioboto3 for s3://%s: %s", target.bucket, reason)
            return Lanes(other, "aioboto3", *_place(other.client))
        wire = await _open_wire(target, retry, limits, other.client)
    except BaseException:
        await other.aclose()
        raise
    log.info("transport wire for s3://%s: plain requests to a known host", target.bucket)
    return Lanes(LaneRouter(wire, other), "wire", *_place(other.client))


def _place(client: Any) -> tuple[str, str]:
    endpoint = client.meta.endpoint_url
    return "" if _is_amazon(urlsplit(endpoint).hostname or "") else endpoint, client.meta.region_name or ""


def _ineligible(target: S3Target, client: Any, caller_bucket: Any) -> str:
    """Why the wire lane is not for this target, or ""."""
    if caller_bucket is not None and not isinstance(caller_bucket, str):
        return "the bucket object is the caller's own, with its own client"
    if target.bucket.startswith("arn:") or target.bucket.endswith("--x-s3"):
        return "ARN and S3 Express buckets need other requests"
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
    if _is_amazon(host) and not target.region:
        # The profile's region may not be the bucket's; aioboto3 follows S3's redirects, the wire lane does not.
        return "the bucket's region is not certain; give region"
    return ""


def _is_amazon(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


async def _open_wire(target: S3Target, retry: RetryPolicy, limits: Limits, client: Any) -> WireTransport:
    endpoint = client.meta.endpoint_url
    amazon = _is_amazon(urlsplit(endpoint).hostname or "")
    verify = client._endpoint.http_session._verify
    bound = replace(
        target,
        endpoint_url="" if amazon else endpoint,
        ca_bundle=target.ca_bundle or (verify if isinstance(verify, str) else ""),
    )
    held: list[Any] = [client._request_signer._credentials]

    async def provide() -> CredentialsLike:
        # The client's own the first time; asked again, they are looked up from the beginning, as after a new login.
        source = held.pop() if held else await find_credentials(target)
        frozen = await freeze(source)
        return HeldCredentials(
            access_key_id=frozen.access_key_id,
            secret_access_key=frozen.secret_access_key,
            session_token=frozen.session_token,
            expires_at=getattr(source, "_expiry_time", None),
        )

    return await WireTransport.open(
        bound,
        retry,
        limits,
        region=client.meta.region_name,
        credentials=None if target.anonymous else provide,
        verify=verify is not False,
    )
