"""Names of hosts that lead to this machine, in the lanes of the process that asks."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
import pytest


def every_host_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve every name to 127.0.0.1."""
    real = socket.getaddrinfo

    def loopback(_: str, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1", *more, **named)

    async def resolve(_: Any, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    # uvloop does not ask the socket module.
    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", aiohttp.ThreadedResolver)
