"""Pure: AWS Signature Version 4 for the requests of the wire lane, and the hosts and paths of these requests.

The signing key is derived once per day, credentials and region; the rest of a signature is one SHA-256 of the canonical
request and one HMAC. Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header (AWS
Signature Version 4)" and "Signature Calculations for the Authorization Header".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from asyncsink.errors import ConfigError
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import Secret
from asyncsink.options.values import check_endpoint
from asyncsink.s3.endpoint import is_ip_address, is_special, payload_must_be_signed
from asyncsink.s3.errors_map import one_line
from asyncsink.value import dataclass

UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
EMPTY_PAYLOAD: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_BLOCK_BYTES: Final = 64
"""Of SHA-256 (FIPS 180-4)."""
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9/_.~-]*")


def encode_path(key: str) -> str:
    """`key` as S3 signs and reads it: UTF-8, everything but unreserved characters (RFC 3986, 2.3) and "/" as %XX.

    Raises:
        UnicodeEncodeError: the key holds a lone surrogate.
    """
    # The usual key needs no encoding, and a match costs a tenth of quote().
    return key if _PLAIN_PATH.fullmatch(key) else quote(key, safe="/-_.~")


def canonical_query(parameters: Iterable[tuple[str, str]]) -> str:
    """The query string, encoded and in the order that SigV4 signs; it is sent in the same form."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


def canonical_headers(headers: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The block of canonical headers (each line ended by a newline) and the list of their names, joined by ";".

    Args:
        headers: each name once; letter case and order do not matter. Values are printable ASCII.
    """
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers)
    return "".join(f"{name}:{value}\n" for name, value in lines), ";".join(name for name, _ in lines)


class Day(NamedTuple):
    """What signatures of one day have in common.

    Attributes:
        day: "20260131".
        scope: day, region and service, as they are signed.
        inner, outer: SHA-256 after the key's inner and outer padding (RFC 2104): signing with copies takes half the
            time of an object of `hmac`.
    """

    day: str
    scope: str
    inner: hashlib._Hash
    outer: hashlib._Hash

    def signature(self, text: str) -> str:
        """The HMAC-SHA256 of the text that SigV4 signs, hexadecimal."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class Signer:
    """Signs requests with one set of credentials for one region. May be used from any thread.

    Args:
        access_key_id: names the key pair.
        secret_access_key: shown nowhere.
        region: of the bucket ("us-east-1").
        session_token: of temporary credentials, or None; it is a header, which the caller adds and has signed.
        service: "s3".
    """

    __slots__ = ("_access_key_id", "_day", "_region", "_secret", "_service", "session_token")

    def __init__(
        self,
        access_key_id: str,
        secret_access_key: Secret,
        region: str,
        session_token: Secret | None = None,
        service: str = "s3",
    ) -> None:
        self._access_key_id = access_key_id
        self._secret = secret_access_key
        self._region = region
        self._service = service
        self.session_token = session_token
        self._day: Day | None = None

    def __repr__(self) -> str:
        return f"<Signer for {self._service} in {self._region}>"

    def authorization(
        self,
        *,
        method: str,
        path: str,
        query: str,
        headers: str,
        header_names: str,
        payload_hash: str,
        timestamp: str,
    ) -> str:
        """The value of the Authorization header.

        Args:
            method: "PUT", "HEAD".
            path: as `encode_path` writes it, with its leading "/".
            query: as `canonical_query` writes it.
            headers, header_names: as `canonical_headers` writes them; they include host, x-amz-date and
                x-amz-content-sha256.
            payload_hash: hexadecimal SHA-256 of the body, or UNSIGNED_PAYLOAD.
            timestamp: the value of x-amz-date, "20260131T235959Z".
        """
        day, signed, before = self.begun(timestamp, header_names)
        request = f"{method}\n{path}\n{query}\n{headers}\n{header_names}\n{payload_hash}"
        return f"{before}{day.signature(signed + hashlib.sha256(request.encode()).hexdigest())}"

    def begun(self, timestamp: str, header_names: str) -> tuple[Day, str, str]:
        """What all requests of one moment with these header names have in common: the day, the signed text up to the
        canonical request's hexadecimal SHA-256, and the Authorization header's value up to the signature."""
        day = self._day
        if day is None or not timestamp.startswith(day.day):
            day = self._day = self._derived(timestamp[:8])
        return (
            day,
            f"{_ALGORITHM}\n{timestamp}\n{day.scope}\n",
            f"{_ALGORITHM} Credential={self._access_key_id}/{day.scope}, SignedHeaders={header_names}, Signature=",
        )

    def _derived(self, day: str) -> Day:
        key = b"AWS4" + self._secret.reveal()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        # Not longer than a block: the derived key is a SHA-256.
        block = key.ljust(_BLOCK_BYTES, b"\0")
        inner, outer = (hashlib.sha256(bytes(byte ^ padding for byte in block)) for padding in (0x36, 0x5C))
        return Day(day, f"{day}/{self._region}/{self._service}/aws4_request", inner, outer)


# -- Hosts and paths of a bucket's requests ----------------------------------------------------------------------------
# Path style with a custom endpoint, virtual-host style at Amazon (options.settings.S3Target.addressing_style). Names
# that are no single DNS label (dots under TLS, where the wildcard certificate covers one label only; underscores; upper
# case) and endpoints that are IP addresses use path style. Source: Amazon S3 User Guide, "Virtual hosting of buckets".

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_REGION = re.compile(r"[A-Za-z0-9._-]+")
_PATH = re.compile(r"[A-Za-z0-9/_.~!$&'()*+,;=:@%-]*")
_OTHER_PARTITIONS = ("us-iso", "eu-iso", "eusc-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The destination of requests for one bucket.

    Attributes:
        url: for messages: "https://s3.example.org:9000", with the path that an endpoint may have.
        host: a name or an IP address, without brackets: it is resolved, and the certificate must name it.
        port: TCP port.
        tls: HTTPS.
        authority: the Host header.
        base_path: the path before a key: "/" or "/bucket/", URI-encoded.
        sign_payload: the signature covers the body's SHA-256 (plain HTTP to another machine).
    """

    url: str
    host: str
    port: int
    tls: bool
    authority: str
    base_path: str
    sign_payload: bool


def endpoint_of(target: S3Target, region: str) -> Endpoint:
    """The endpoint for `target.bucket`.

    Args:
        target: its bucket, endpoint_url ("" is Amazon's own) and addressing_style apply.
        region: of the bucket; names the host where there is no endpoint_url.

    Raises:
        ConfigError: the endpoint_url or the region is malformed, the host of the region is not known, or the bucket is
            of a kind that needs other requests than these (ARNs, S3 Express).
    """
    given = check_endpoint(target.endpoint_url)
    if not _REGION.fullmatch(region):
        raise ConfigError(f"region={region!r} is no region's name; expected one such as 'us-east-1'.")
    if is_special(target.bucket):
        raise ConfigError(f"The wire lane does not know the endpoint of the bucket {target.bucket!r}; use aioboto3.")
    url = given or _amazon(region)
    parts = urlsplit(url)
    name, tls = parts.hostname or "", parts.scheme == "https"
    if not name.isascii() or name.startswith(".") or ".." in name or not _PATH.fullmatch(parts.path):
        raise ConfigError(f"endpoint_url={one_line(url)!r} is malformed; write other letters as xn-- or as %XX.")
    virtual = target.addressing_style == "virtual" or (target.addressing_style == "auto" and not target.endpoint_url)
    virtual = virtual and not is_ip_address(name) and _can_be_host(target.bucket, tls)
    host = f"{target.bucket}.{name}" if virtual else name
    port = parts.port or (443 if tls else 80)
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == (443 if tls else 80) else f"{shown}:{port}"
    prefix = parts.path.rstrip("/") + "/"
    return Endpoint(
        url=f"{parts.scheme}://{authority}{parts.path}",
        host=host,
        port=port,
        tls=tls,
        authority=authority,
        base_path=prefix if virtual else f"{prefix}{encode_path(target.bucket)}/",
        sign_payload=payload_must_be_signed(url, target.sign_payload),
    )


def _amazon(region: str) -> str:
    if region.startswith(_OTHER_PARTITIONS) or not _HOST_NAME.fullmatch(region):
        raise ConfigError(f"region={region!r} has no endpoint that is known here; give endpoint_url=.")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://s3.{region}.{domain}"


def _can_be_host(bucket: str, tls: bool) -> bool:
    if not 3 <= len(bucket) <= 63 or is_ip_address(bucket) or not _HOST_NAME.fullmatch(bucket):
        return False
    return not (tls and "." in bucket)
