"""Bucket names that only the AWS SDK can address, trusted certificates, and exposure over plain HTTP.

Access points, multi-region access points, Outposts and Object Lambda by their ARN; directory buckets (S3 Express) and
their access points; Outposts by their alias. Other aliases are ordinary names. Source: S3 User Guide, "Using a
bucket-style alias for your access point", "Directory bucket naming rules".
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from typing import Final
from urllib.parse import urlsplit

from asyncsink.errors import ConfigError
from asyncsink.options.schema import SignPayload
from asyncsink.s3.errors_map import one_line


def is_special(bucket: str) -> bool:
    """Whether only the SDK knows the bucket's host and kind of signature. Pure."""
    return is_arn(bucket) or is_directory_bucket(bucket) or bucket.endswith("--op-s3")


def is_arn(bucket: str) -> bool:
    """Whether it is an ARN. Pure."""
    return bucket.startswith("arn:")


def is_directory_bucket(bucket: str) -> bool:
    """Whether it is a directory bucket of S3 Express, or an access point of one. Pure."""
    return bucket.endswith(("--x-s3", "--xa-s3"))


# -- Idle time and certificates of both lanes' connections -------------------------------------------------------------

KEEP_ALIVE_SECONDS: Final = 4.0
"""Seconds that an idle connection is kept: S3 closes it after about 5 s, and a request must not meet that."""
CA_BUNDLE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Mozilla's list of certificates has a quarter of a MiB."""


def tls_context(ca_bundle: str, verify: bool = True) -> ssl.SSLContext:
    """The context for HTTPS: certificates and host names are checked, TLS 1.2 or later. Blocking: reads certificates,
    but never waits for a FIFO.

    Args:
        ca_bundle: PEM file with the certificates to trust, or "" for the system's.
        verify: False checks nothing.

    Raises:
        ConfigError: the ca_bundle cannot be used.
    """
    try:
        # OpenSSL would wait for the writer of a FIFO, and read a device without end.
        fault = _fault_of(os.stat(ca_bundle)) if ca_bundle else ""
        if fault:
            raise ConfigError(f"ca_bundle={ca_bundle!r} cannot be used ({fault}); expected a file of PEM certificates.")
        context = ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else error.strerror
        if isinstance(error, ssl.SSLError):
            why = "it holds no certificate that can be read"
        raise ConfigError(f"ca_bundle={ca_bundle!r} cannot be used ({why}); expected PEM certificates.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With renegotiation a write may have to wait for a read. TLS 1.3 has none, and S3 requests none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _fault_of(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    return f"it has {found.st_size:,} bytes" if found.st_size > CA_BUNDLE_BYTES_MAX else ""


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's words, by release, for an answer to its greeting that is no TLS (ERR_reason_error_string)."""


def speaks_no_tls(error: object) -> bool:
    """Whether a handshake failed because the server answered in plain text. Pure."""
    return getattr(error, "reason", "") in _NO_TLS


def no_tls(request: str, url: str) -> ConfigError:
    """The error for `request`, whose handshake failed so. Pure."""
    return ConfigError(
        f"{request} failed: {url} does not speak TLS, but plain HTTP; give the endpoint as http://…, or its TLS port."
    )


# -- Exposure over plain HTTP ------------------------------------------------------------------------------------------


def payload_must_be_signed(endpoint_url: str, choice: SignPayload = "auto") -> bool:
    """Whether the signature covers the body's SHA-256: by choice, else only over plain HTTP to another host. Pure."""
    return choice == "always" if choice != "auto" else bool(exposed_to(endpoint_url))


def exposed_to(endpoint_url: str, proxy_url: str = "") -> str:
    """The host to which requests travel over plain HTTP, unless that is this machine; "" otherwise. Pure.

    Args:
        proxy_url: of the proxy in use, or "".
    """
    if urlsplit(endpoint_url).scheme != "http":
        return ""  # also through a proxy, which forwards encrypted bytes
    for url in filter(None, (proxy_url, endpoint_url)):
        host = urlsplit(url if "://" in url else f"//{url}").hostname or ""
        if host and not _is_this_machine(host):
            return host
    return ""


def key_exposed(host: str) -> ConfigError:
    """The error for a customer key that would travel to `host`. Pure."""
    return ConfigError(
        f"The customer key of sse would travel to {one_line(host)!r} over plain HTTP, where others can read it; give "
        "an endpoint that begins with https://. Only a server on this machine may have it so."
    )


def _is_this_machine(host: str) -> bool:
    return host == "localhost" or (is_ip_address(host) and ipaddress.ip_address(host).is_loopback)


def is_ip_address(host: str) -> bool:
    """Whether a host, without brackets, is an IPv4 or IPv6 address and no name. Pure."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
