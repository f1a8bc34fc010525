"""Moto's S3 on a port of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler


@contextmanager
def moto_server(port: int = 0) -> Iterator[str]:
    """A server of its own for the block; its URL."""
    # It writes head and body apart: the second would wait 40 ms for the first one's acknowledgement.
    WSGIRequestHandler.disable_nagle_algorithm = True
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
