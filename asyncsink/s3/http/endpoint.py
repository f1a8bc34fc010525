"""Pure: which host a bucket's requests go to, and what their paths begin with.

Path style with an endpoint of one's own, virtual-host style at Amazon (config.S3Target.addressing_style). Names that
are no single DNS label (dots under TLS, where the wildcard certificate covers one label only; underscores; upper case)
and endpoints that are IP addresses use path style. Source: Amazon S3 User Guide, "Virtual hosting of buckets".
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from asyncsink.config import S3Target
from asyncsink.errors import ConfigError
from asyncsink.s3.addresses import is_special
from asyncsink.s3.client import payload_must_be_signed
from asyncsink.s3.error_map import one_line
from asyncsink.s3.http.signing import encode_path
from asyncsink.value import dataclass
from asyncsink.values import check_endpoint

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_REGION = re.compile(r"[A-Za-z0-9._-]+")
_PATH = re.compile(r"[A-Za-z0-9/_.~!$&'()*+,;=:@%-]*")
_OTHER_PARTITIONS = ("us-iso", "eu-iso", "eusc-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where requests for one bucket go.

    Attributes:
        url: for messages: "https://s3.example.org:9000", with the path that an endpoint may have.
        host: a name or an IP address, without brackets: what is resolved and what the certificate must name.
        port: TCP port.
        tls: HTTPS.
        authority: the Host header.
        base_path: what comes before a key: "/" or "/bucket/", URI-encoded.
        sign_payload: the body's SHA-256 belongs into the signature (plain HTTP to another machine).
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
        target: bucket, endpoint_url ("" is Amazon's own) and addressing_style count here.
        region: of the bucket; names the host where there is no endpoint_url.

    Raises:
        ConfigError: the endpoint_url or the region is malformed, the region is none whose host is known, or the bucket
            is of a kind that needs other requests than these (ARNs, S3 Express).
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
    virtual = virtual and not _is_address(name) and _can_be_host(target.bucket, tls)
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
    if not 3 <= len(bucket) <= 63 or _is_address(bucket) or not _HOST_NAME.fullmatch(bucket):
        return False
    return not (tls and "." in bucket)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
