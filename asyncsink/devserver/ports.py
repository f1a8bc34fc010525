"""Free TCP ports on loopback for SeaweedFS and its inner services."""

from __future__ import annotations

import random
import socket

from asyncsink.errors import ConfigError
from asyncsink.value import dataclass

# Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections, so that a client's
# socket never takes a port between its choice here and its use by the server.
_FIRST, _LAST = 10240, 32767
_GRPC_OFFSET = 10000
"""SeaweedFS' admin worker dials the admin port plus this, whatever port was configured."""
_SERVICES = ("master", "volume", "filer")
_TRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ports:
    """The S3 port, and every port of the server by its `weed mini` option ("s3.port", "filer.port.grpc", …)."""

    s3: int
    by_option: dict[str, int]


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_ports(s3_port: int = 0) -> Ports:
    """Ports that are free now; another process may still take one before the server does.

    Args:
        s3_port: the port S3 must have, or 0 for any.

    Raises:
        ConfigError: `s3_port` is no port or is taken, or the machine has no free ports.
    """
    if not 0 <= s3_port <= 65535:
        raise ConfigError(f"Port {s3_port} does not exist; give a number from 1 to 65535, or 0 for any free port.")
    if s3_port and not is_free(s3_port):
        raise ConfigError(
            f"Port {s3_port} on 127.0.0.1 is taken (or not yours to use); choose another one, or 0 for any free port."
        )
    taken = {s3_port}
    by_option: dict[str, int] = {"s3.port": s3_port or _choose(taken)}
    by_option["s3.port.grpc"] = _choose(taken)
    for service in _SERVICES:
        by_option[f"{service}.port"] = _choose(taken)
        by_option[f"{service}.port.grpc"] = _choose(taken)
    by_option["admin.port"] = _choose(taken, partner=_GRPC_OFFSET)
    by_option["admin.port.grpc"] = by_option["admin.port"] + _GRPC_OFFSET
    return Ports(by_option["s3.port"], by_option)


def _choose(taken: set[int], partner: int = 0) -> int:
    for _ in range(_TRIES_MAX):
        port = random.randint(_FIRST, _LAST)  # noqa: S311
        if not {port, port + partner} & taken and is_free(port) and is_free(port + partner):
            taken.update((port, port + partner))
            return port
    raise ConfigError(f"No free TCP port was found on 127.0.0.1 between {_FIRST} and {_LAST}; stop other servers.")
