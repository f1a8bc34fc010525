"""Names of hosts that lead to this machine, in the lanes of the process that asks."""

from __future__ import annotations

import socket
import socketserver
import threading
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


class ConnectProxy:
    """An HTTP proxy that connects whoever asks for any host to one port of this machine, and notes the hosts."""

    def __init__(self, port: int) -> None:
        self.hosts: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                first = self.rfile.readline().decode()
                while self.rfile.readline().strip():
                    pass
                outer.hosts.append(first.split()[1])
                with socket.create_connection(("127.0.0.1", port)) as there:
                    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    back = threading.Thread(target=_pump, args=(there, self.connection), daemon=True)
                    back.start()
                    _pump(self.connection, there)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one of them hung up
