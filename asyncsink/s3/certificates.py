"""The certificates that HTTPS connections of both lanes trust."""

from __future__ import annotations

import os
import ssl
import stat
from typing import Final

from asyncsink.errors import ConfigError

CA_BUNDLE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Mozilla's list of certificates has a quarter of a MiB."""


def context_trusting(ca_bundle: str) -> ssl.SSLContext:
    """A context that trusts the certificates of a PEM file, or the system's for "". Blocking; never waits for a FIFO.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        # OpenSSL would wait for the writer of a FIFO, and read a device without end.
        fault = _fault_of(os.stat(ca_bundle)) if ca_bundle else ""
        if not fault:
            return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(f"ca_bundle={ca_bundle!r} cannot be used ({error}); expected PEM certificates.") from error
    raise ConfigError(f"ca_bundle={ca_bundle!r} cannot be used ({fault}); expected a file of PEM certificates.")


def _fault_of(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    return f"it has {found.st_size:,} bytes" if found.st_size > CA_BUNDLE_BYTES_MAX else ""
