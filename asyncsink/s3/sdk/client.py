"""The aioboto3 client, opened without those defaults of botocore that cost time, hang, or add retries of their own.

Every setting here answers a measured or documented trap: botocore's own retries (one layer of retries is enough), the
SHA-256 of every payload, checksums in trailers, keep-alive beyond S3's idle time of about five seconds, a pool of ten
connections, the 100-continue round trip. Credentials are looked up before anything is sent to S3.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio.to_thread

from asyncsink.errors import ConfigError
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.options.values import check_endpoint
from asyncsink.s3.checksum_headers import SETTINGS as CHECKSUM_SETTINGS
from asyncsink.s3.checksum_headers import ChecksumUse, checksum_use
from asyncsink.s3.credentials.chain import new_session, none_found, source_of, translated_configuration
from asyncsink.s3.credentials.file import BucketSettings, Credentials, adopt, bucket_settings, freeze, is_unsigned, lost
from asyncsink.s3.endpoint import KEEP_ALIVE_SECONDS, exposed_to, is_special, payload_must_be_signed, tls_context
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, one_line, redact_logs
from asyncsink.s3.get_object import AS_STORED
from asyncsink.s3.transport import MEASURED
from asyncsink.value import dataclass

CONNECTIONS_BESIDE_TRANSFERS = 8
"""Listing, aborting and looking must not wait for a transfer's connection."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """The limits of reading an answer.

    Attributes:
        bytes_max: most bytes of its body.
        moved: called with the size of every piece of the body as it arrives, or None.
        object_bytes: it has an object's bytes, which are taken as they are stored, and read by the caller.
    """

    bytes_max: int = ANSWER_BYTES_MAX
    moved: Callable[[int], None] | None = None
    object_bytes: bool = False


HEARING: ContextVar[Hearing] = ContextVar("HEARING", default=Hearing())  # noqa: B039 - it is frozen
"""For the request that the current task sends."""


class AnswerTooLong(Exception):
    """A body has more bytes than `Hearing.bytes_max`; the text is a phrase for a person."""


class OpenedClient(NamedTuple):
    """A client, and what the other lane has to know about it, most of which botocore has in private attributes only.

    Attributes:
        client: an aiobotocore S3 client.
        bucket: the name of its bucket.
        checksums: the checksum headers that environment and profile enable: the client itself adds none.
    """

    client: Any
    bucket: str
    checksums: ChecksumUse

    @property
    def endpoint_url(self) -> str:
        """The server, or "" for Amazon's own."""
        endpoint: str = self.client.meta.endpoint_url
        return "" if _is_amazon(urlsplit(endpoint).hostname or "") else endpoint

    @property
    def region(self) -> str:
        """What requests are signed for, or ""."""
        return self.client.meta.region_name or ""

    @property
    def credentials(self) -> Any:
        """botocore's own object, or None."""
        return self.client._request_signer._credentials

    @property
    def verifies(self) -> bool:
        """Whether certificates are checked."""
        return self.client._endpoint.http_session._verify is not False

    @property
    def exposed_to(self) -> str:
        """As `endpoint.exposed_to`."""
        return exposed_to(self.client.meta.endpoint_url, self._proxy_url())

    def bound(self, target: S3Target) -> S3Target:
        """`target` with the client's endpoint, addressing style and certificates."""
        verify = self.client._endpoint.http_session._verify
        style = (self.client.meta.config.s3 or {}).get("addressing_style")
        return replace(
            target,
            endpoint_url=self.endpoint_url,
            ca_bundle=target.ca_bundle or (verify if isinstance(verify, str) else ""),
            addressing_style=style or target.addressing_style,
        )

    def ineligible(self, target: S3Target, caller_bucket: Any) -> str:
        """Why the wire lane is not for `target`, or ""."""
        if caller_bucket is not None and not isinstance(caller_bucket, str):
            return "the bucket object is the caller's own, with its own client"
        if is_special(target.bucket):
            return "ARN, Outposts and S3 Express buckets need other requests"
        if self._proxy_url():
            return "a proxy is configured"
        config = self.client.meta.config
        s3 = config.s3 or {}
        if s3.get("use_accelerate_endpoint") or s3.get("use_dualstack_endpoint"):
            return "accelerate and dual-stack endpoints need other hosts"
        if config.use_dualstack_endpoint or config.use_fips_endpoint:
            return "dual-stack and FIPS endpoints need other hosts"
        if not self.region:
            return "no region is known"
        host = urlsplit(self.client.meta.endpoint_url).hostname or ""
        if _is_amazon(host) and host != "s3.amazonaws.com" and not host.startswith(f"s3.{self.region}.amazon"):
            return "special endpoints of Amazon need other hosts"
        if _is_amazon(host) and not target.region:
            # The profile's region may not be the bucket's; only aioboto3 follows S3's redirects.
            return "the bucket's region is not certain; give region"
        return ""

    def _proxy_url(self) -> str:
        proxies = self.client._endpoint.http_session._proxy_config
        return proxies.proxy_url_for(self.client.meta.endpoint_url) or ""


def _is_amazon(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


@asynccontextmanager
async def open_client(
    target: S3Target, retry: RetryPolicy, limits: Limits, *, caller_bucket: Any = None
) -> AsyncIterator[OpenedClient]:
    """Open an aiobotocore S3 client for `target`; leaving the block closes its connections.

    Over HTTPS and on loopback, payloads are not hashed (UNSIGNED-PAYLOAD: TLS and the checksum header guard the bytes);
    over plain HTTP to another machine they are signed, since nothing else would detect a changed byte (S3 API
    Reference, "Authenticating Requests: Using the Authorization Header").

    Args:
        target: its explicit options precede those of `caller_bucket`.
        retry: connect_seconds, stall_seconds and complete_seconds become the client's timeouts.
        limits: the pool has a connection per request in flight, and a few beside them.
        caller_bucket: a bucket's name, a boto3 Bucket or an aioboto3 Bucket whose settings and event handlers are taken
            over, or None. Handlers are called on the event loop.

    Raises:
        CredentialsError: none found, incomplete, unreadable, expired for good, or an unknown profile.
        ConfigError: a malformed endpoint_url, an unusable ca_bundle or region, a checksum setting that is none, or no
            bucket in `caller_bucket`.
    """
    settings = await bucket_settings(caller_bucket) if caller_bucket is not None else BucketSettings(name=target.bucket)
    verify = await anyio.to_thread.run_sync(_check_ca_bundle, target.ca_bundle) if target.ca_bundle else settings.verify
    anonymous = target.anonymous or (settings.anonymous and not target.creds_path and not target.profile)
    redact_logs()
    # In a thread, because the import takes most of a second.
    session = await anyio.to_thread.run_sync(partial(new_session, target, settings, retry, ask=True))
    with translated_configuration(session):
        told = {name: session._session.get_config_variable(name) for name in CHECKSUM_SETTINGS}
        checksums = checksum_use({**told, **settings.checksums})
        endpoint = check_endpoint(target.endpoint_url or settings.endpoint_url) or _configured_endpoint(session)
        config = _client_config(target, retry, limits, endpoint, anonymous=anonymous, section=_s3_section(session))
        if not anonymous:
            await _require_credentials(session)
        context = session.client(
            "s3",
            region_name=target.region or settings.region or None,
            endpoint_url=endpoint or None,
            verify=verify,
            config=config,
        )
        client = await context.__aenter__()
    try:
        client.meta.events.register("before-send.s3.*", _skip_continue)
        client.meta.events.register_last("before-sign.s3", _Sessions().lend)
        client.meta.events.register_last("before-parameter-build.s3", _follow_no_region)
        _read_times_leniently(client)
        check_proxy(client)
        adopt(client, [each for each in settings.handlers if anonymous or not is_unsigned([each])])
        yield OpenedClient(client, settings.name, checksums)
    finally:
        await context.__aexit__(None, None, None)


async def find_credentials(target: S3Target, retry: RetryPolicy, *, caller_bucket: Any = None) -> Any:
    """Look up the credentials of requests to `target` from the beginning, as botocore's own credentials object.

    Files and environment are read again, roles and SSO queried again, without a prompt for an MFA code.

    Raises:
        CredentialsError: there are none, or they cannot be retrieved.
        ConfigError: `caller_bucket` is no bucket, or the configuration cannot be used.
    """
    settings = await bucket_settings(caller_bucket) if caller_bucket is not None else BucketSettings(name=target.bucket)
    session = await anyio.to_thread.run_sync(partial(new_session, target, settings, retry, ask=False))
    return await _require_credentials(session)


async def _require_credentials(session: Any) -> Any:
    held = await session.get_credentials()
    if held is None:
        raise none_found()
    # Roles and SSO are queried now, so that an expired login is found before the first request.
    await freeze(held)
    return held


def check_proxy(client: Any) -> None:
    """Refuse a SOCKS proxy, which neither aiohttp nor botocore supports, before it is used as an HTTP proxy.

    Raises:
        ConfigError: names the proxy and its variable.
    """
    proxy = proxy_of(client)
    scheme = proxy.partition("://")[0].rpartition(" ")[2].lower()
    if proxy and scheme not in ("http", "https"):
        raise ConfigError(
            f"{proxy[0].upper()}{proxy[1:]} cannot be used: {scheme} proxies are not supported; give an HTTP proxy, or "
            "name the endpoint's host in NO_PROXY."
        )


def proxy_of(client: Any) -> str:
    """The proxy in front of the endpoint, for a sentence: "the proxy http://… of HTTP_PROXY"; "" where none is."""
    url = client.meta.endpoint_url
    found = client._endpoint.http_session._proxy_config.proxy_url_for(url)
    if not found:
        return ""
    # botocore makes "http://socks5h://…" of what has another scheme.
    scheme, _, rest = (found.removeprefix("http://") if "://" in found[len("http://") :] else found).partition("://")
    variable = f"{urlsplit(url).scheme}_proxy"
    name = next((each for each in (variable, variable.upper()) if os.environ.get(each)), variable.upper())
    # Before an "@" stand a user and a password, whatever characters they have.
    return f"the proxy {one_line(scheme)}://{one_line(rest.rpartition('@')[2])} of {name}"


def _configured_endpoint(session: Any) -> str:
    """The endpoint of the variables, the profile or its services section, or ""."""
    from botocore.configprovider import ConfiguredEndpointProvider

    core = session._session
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return ""
    found = ConfiguredEndpointProvider(
        full_config=core.full_config, scoped_config=core.get_scoped_config(), client_name="s3"
    ).provide()
    said = (name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name))
    return check_endpoint(str(found or ""), next(said, "endpoint_url"))


def _s3_section(session: Any) -> dict[str, Any]:
    """The profile's own settings of S3."""
    found = session._session.get_scoped_config().get("s3", {})
    if not isinstance(found, dict):
        raise ConfigError(
            f"The setting s3 = {one_line(str(found))} of {source_of(session).place} is no section; expected "
            "indented lines below 's3 =', such as 'addressing_style = virtual'."
        )
    return found


def _client_config(
    target: S3Target, retry: RetryPolicy, limits: Limits, endpoint: str, *, anonymous: bool, section: dict[str, Any]
) -> Any:
    from aiobotocore.config import AioConfig
    from botocore import UNSIGNED

    style = target.addressing_style
    if style == "auto":
        style = section.get("addressing_style") or ("path" if endpoint else "auto")
    signs = payload_must_be_signed(endpoint, target.sign_payload)
    return AioConfig(
        connector_args={"keepalive_timeout": KEEP_ALIVE_SECONDS},
        http_session_cls=_session_class(),
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"payload_signing_enabled": signs, "addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        signature_version=UNSIGNED if anonymous else None,
        max_pool_connections=(limits.concurrency or limits.concurrency_max) + CONNECTIONS_BESIDE_TRANSFERS,
        connect_timeout=retry.connect_seconds,
        # The transport's progress watchdog is finer; this timeout must not cut a Complete short.
        read_timeout=max(retry.stall_seconds, retry.complete_seconds),
        user_agent_extra="asyncsink",
    )


def _session_class() -> type[Any]:
    from aiobotocore.httpsession import AIOHTTPSession

    class StrictSession(AIOHTTPSession):  # type: ignore[misc, unused-ignore]
        """Host names are checked, redirects are answers, and connections that are given up are aborted, not closed.

        botocore's TLS context leaves the name in a certificate to urllib3, which is not used here: without this
        setting, a certificate trusted for one host would do for every host.

        aiohttp follows a redirect to any host, with the body and with headers such as X-Amz-Security-Token. S3 never
        requires that: botocore reads the answer, and sends a request of its own to another region of Amazon's.

        asyncio's close() goes on sending what is buffered, and waits for ever for a peer that has stopped reading: a
        cancelled PUT could still succeed, and a stalled connection would never end.
        """

        def _get_ssl_context(self) -> Any:
            context = super()._get_ssl_context()
            context.check_hostname = True
            return context

        async def _get_session(self, proxy_url: str | None) -> Any:
            return _Unredirected(await super()._get_session(proxy_url))

        def _create_connector(self, proxy_url: str | None) -> Any:
            connector = super()._create_connector(proxy_url)
            release = connector._release

            def abort_or_release(key: Any, protocol: Any, *, should_close: bool = False) -> None:
                if should_close and protocol.transport is not None:
                    protocol.transport.abort()
                release(key, protocol, should_close=should_close)

            connector._release = abort_or_release
            return connector

    return StrictSession


class _Unredirected:
    """An aiohttp session that follows no redirect, and reads an answer within its limits (`HEARING`).

    botocore's layer calls nothing but `request`, and takes an answer's body only when it is complete, without a limit.
    """

    __slots__ = ("_session",)

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, **named: Any) -> Any:
        """As the session's own `request`, with the body already read, unless it is an object's.

        Raises:
            AnswerTooLong: the body is longer than its limit.
        """
        hearing = HEARING.get()
        named["allow_redirects"] = False
        if hearing.object_bytes:
            named["headers"]["Accept-Encoding"] = AS_STORED
        if (measurement := MEASURED.get()) is not None:
            measurement.server = f"{named['url'].host}:{named['url'].port}"
        response = await self._session.request(method, **named)
        if measurement is not None:
            measurement.began(response.status)
        if not (hearing.object_bytes and response.status < 300):
            await _read_body(response, method, hearing)
        return response


async def _read_body(response: Any, method: str, hearing: Hearing) -> None:
    if method == "HEAD":
        return
    pieces: list[bytes] = []
    left = hearing.bytes_max
    try:
        async for piece in response.content.iter_any():
            if hearing.moved is not None:
                hearing.moved(len(piece))
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise AnswerTooLong(f"the answer is longer than {hearing.bytes_max} bytes")
    except BaseException:
        response.close()
        raise
    response._body = b"".join(pieces)  # what `read` gives then


def _read_times_leniently(client: Any) -> None:
    """Read a malformed time as None: one odd entry of a listing must not make the whole answer unreadable."""
    from aiobotocore.parsers import AioResponseParserFactory
    from botocore.utils import parse_timestamp

    def parse(value: Any) -> Any:
        try:
            return parse_timestamp(value)
        except (ValueError, OverflowError):
            return None

    # For this client alone: answers of an STS keep the strict reading.
    client._endpoint._response_parser_factory = factory = AioResponseParserFactory()
    factory.set_parser_defaults(timestamp_parser=parse)


class _Sessions:
    """A client's sessions with directory buckets (S3 API, CreateSession), in the place of aiobotocore's cache.

    That cache keeps failures: a session that was refused once, or whose first request was cancelled, would fail every
    later request of the client.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._held: dict[str, Any] = {}
        self._cache: Any = None

    def lend(self, request: Any, **_: Any) -> None:
        """Take the place of the cache that the request would use."""
        signing = request.context.get("signing", {})
        if (cache := signing.get("identity_cache")) is not None and cache is not self:
            self._cache, signing["identity_cache"] = cache, self

    async def get_credentials(self, bucket: str) -> Any:
        """A session with `bucket`, renewed before it expires; botocore's own errors where there is none now."""
        async with self._lock:
            if bucket not in self._held:
                from aiobotocore.utils import AioIdentityCache

                self._held[bucket] = await AioIdentityCache.get_credentials(self._cache, bucket=bucket)
            return self._held[bucket]


def _follow_no_region(context: dict[str, Any], **_: Any) -> None:
    """Mark botocore's own redirect to another region as done: `s3.retry` follows regions, for both lanes."""
    context.get("s3_redirect", {})["redirected"] = True


def _skip_continue(request: Any, **_: Any) -> None:
    """Remove Expect: S3 needs no 100-continue, and aiohttp would wait for it without a limit."""
    request.headers.pop("Expect", None)


async def check_certificates(client: Any) -> None:
    """Refuse unusable certificates that a variable or a profile names.

    Raises:
        ConfigError: names the file.
    """
    path = client._endpoint.http_session._verify
    if isinstance(path, str):  # over plain HTTP too: aiohttp opens the file all the same
        await anyio.to_thread.run_sync(_check_ca_bundle, path)


def _check_ca_bundle(path: str) -> str:
    tls_context(path)
    return path


# -- The server's clock and new credentials, with which a retry after RequestTimeTooSkewed or ExpiredToken succeeds ----
# botocore corrects neither. Both are applied where a request's signer is chosen, so that a retry signs anew.

_CORRECTED = {"s3v4": "S3SigV4Auth", "v4": "S3SigV4Auth", "v4-s3express": "S3ExpressAuth"}
"""Kinds of signature, and botocore's class for each. SigV4A has none but the CRT's.

Named here, because where awscrt is installed botocore's own table has the CRT's signers, which read the local clock.
"""


def utc_now() -> datetime.datetime:
    """The local clock, timezone-aware."""
    return datetime.datetime.now(datetime.UTC)


class Resigner:
    """Corrects a client's signatures by a clock offset, and by credentials that replace the client's own.

    Args:
        client: an aiobotocore S3 client.
        renew: looks the credentials up again (profile, file, environment, role), as botocore's credentials object; None
            where the client's owner renews them.
        now: the local clock.
    """

    def __init__(
        self,
        client: Any,
        renew: Callable[[], Awaitable[Any]] | None = None,
        *,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self._renew = renew
        self._now = now
        self._lock = asyncio.Lock()
        self._held: Any = None
        self._known: Credentials | None = None
        self._failed: ConfigError | None = None
        self.offset = datetime.timedelta(0)
        """The server's clock minus the local one."""
        self.renewals = 0
        """Times that the credentials were looked up again."""
        client.meta.events.register_first("choose-signer.s3", self._choose)

    def __repr__(self) -> str:
        return f"<Resigner {self.offset.total_seconds():+.0f} s, {self.renewals} renewals>"

    def learn_clock(self, date: str) -> None:
        """Take the clock from an answer's `Date` header (RFC 9110, 6.6.1); an unreadable one changes nothing."""
        try:
            told = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            return
        if told.tzinfo is not None:
            self.offset = told - self._now()

    async def renew(self, seen: int) -> None:
        """Look the credentials up again, unless that happened since `renewals` was `seen`.

        Raises:
            ExpiredCredentials: they cannot be had now; a login, or the service that issues them, may come back.
        """
        if self._renew is None:
            return
        async with self._lock:
            if self.renewals != seen:
                if self._failed is not None:
                    raise lost(self._failed) from None
                return
            try:
                held = await self._renew()
                found = await freeze(held) if held is not None else None
            except ConfigError as error:
                self._failed = error
                raise lost(error) from error
            else:
                self._failed = None
            finally:
                # Last: requests signed meanwhile have the old ones, and their failures must not repeat the look-up.
                self.renewals += 1
            if found is not None and found != self._known:
                self._held, self._known = held, found

    def _choose(self, signature_version: Any, context: dict[str, Any], **_: Any) -> str | None:
        from botocore import UNSIGNED

        if signature_version is UNSIGNED:
            return None
        if self._held is not None:
            context.setdefault("signing", {})["request_credentials"] = self._held
        if not self.offset or signature_version not in _CORRECTED:
            return None
        context["asyncsink_now"] = self._now() + self.offset
        return _corrected_signer(signature_version)


def _corrected_signer(signature_version: str) -> str:
    """The name under which botocore finds the signer that takes the time from the request's context."""
    from botocore import auth

    name = f"{signature_version}-asyncsink"
    if name not in auth.AUTH_TYPE_MAPS:
        signer: Any = getattr(auth, _CORRECTED[signature_version])

        class Corrected(signer):  # type: ignore[misc, unused-ignore]
            def _modify_request_before_signing(self, request: Any) -> None:
                # The timestamp was just set from the local clock, and nothing was derived from it yet.
                request.context["timestamp"] = request.context["asyncsink_now"].strftime(auth.SIGV4_TIMESTAMP)
                super()._modify_request_before_signing(request)

        auth.AUTH_TYPE_MAPS[name] = Corrected
    return name
