"""TLS in memory, on a socket that takes little at a time."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncsink.config import MIB
from asyncsink.s3.wire.tls_socket import PIECE_BYTES, TlsSocket
from asyncsink.s3.wire.transport import tls_context

HOST = "localhost"
Serve = Callable[[ssl.SSLSocket], None]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def server_context(request: pytest.FixtureRequest, authority: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = authority.server_context(HOST)
    context.minimum_version = context.maximum_version = request.param
    return context


@pytest.fixture
def connected(server_context: ssl.SSLContext, authority: Any) -> Iterator[Callable[[Serve], TlsSocket]]:
    """A TlsSocket whose peer is a thread that runs a function; its own buffer is small, so that it often waits."""
    threads, sockets = list[threading.Thread](), list[Any]()

    def connect(serve: Serve) -> TlsSocket:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        theirs.settimeout(30)

        def run() -> None:
            with server_context.wrap_socket(theirs, server_side=True) as wrapped:
                serve(wrapped)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        tls = TlsSocket(ours, tls_context(authority.path), HOST)
        sockets.append(tls)
        again(tls, tls.do_handshake)
        return tls

    yield connect
    for each in sockets:
        each.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def again(tls: TlsSocket, call: Callable[[], Any]) -> Any:
    """The result of `call`, repeated when the socket is ready for what it waits for."""
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            assert any(select.select([tls.fileno()], [], [], 30))
        except ssl.SSLWantWriteError:
            assert any(select.select([], [tls.fileno()], [], 30))


def receive(tls: TlsSocket, size: int) -> bytes:
    """Exactly `size` bytes, or what comes before the end."""
    room, filled = memoryview(bytearray(size)), 0
    while filled < size:
        try:
            count = tls.recv_into(room[filled:]) if filled % 2 else len(data := tls.recv(min(1000, size - filled)))
        except BlockingIOError:
            assert any(select.select([tls.fileno()], [], [], 30))
            continue
        if not count:
            break
        if not filled % 2:
            room[filled : filled + count] = data
        filled += count
    return bytes(room[:filled])


def test_what_is_sent_in_pieces_arrives_and_comes_back(connected: Callable[[Serve], TlsSocket]) -> None:
    content = os.urandom(3 * MIB + 12_345)

    def echo(peer: ssl.SSLSocket) -> None:
        got = bytearray()
        while len(got) < len(content):
            got += peer.recv(70_000)
        peer.sendall(got)
        assert peer.recv(1) == b""

    tls, view, position = connected(echo), memoryview(content), 0
    waits = 0
    while position < len(view):
        try:
            count = tls.send(view[position:])
        except BlockingIOError:
            waits += 1
            assert any(select.select([], [tls.fileno()], [], 30))
            continue
        assert 0 < count <= PIECE_BYTES
        position += count
    assert waits, "the kernel's buffers held it all: nothing was shown about waiting"
    assert receive(tls, len(content)) == content


def test_what_has_come_and_was_not_asked_for_is_pending(connected: Callable[[Serve], TlsSocket]) -> None:
    told = threading.Event()

    def speak(peer: ssl.SSLSocket) -> None:
        for _ in range(3):
            peer.sendall(b"x" * 100)  # a record each
        told.set()
        assert peer.recv(1) == b""

    tls = connected(speak)
    assert told.wait(30)
    assert receive(tls, 100) == b"x" * 100
    assert tls.pending() > 0
    assert receive(tls, 200) == b"x" * 200
    with pytest.raises(BlockingIOError):
        tls.recv(1)


@pytest.mark.parametrize("orderly", [True, False])
def test_the_end(connected: Callable[[Serve], TlsSocket], orderly: bool) -> None:
    def leave(peer: ssl.SSLSocket) -> None:
        peer.sendall(b"bye")
        if orderly:
            try:
                peer.unwrap()
            except (ssl.SSLError, OSError):
                return  # ours does not say good-bye

    tls = connected(leave)
    assert receive(tls, 10) == b"bye"
    assert tls.recv(1) == b""
    assert tls.recv_into(memoryview(bytearray(5))) == 0


def test_a_peer_that_speaks_no_tls(authority: Any) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        tls = TlsSocket(ours, tls_context(authority.path), HOST)
        with pytest.raises(ssl.SSLError):
            again(tls, tls.do_handshake)
        tls.close()


def test_a_peer_that_is_somebody_else_is_told(authority: Any, server_context: ssl.SSLContext) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(30)
    errors = []

    def serve() -> None:
        try:
            with server_context.wrap_socket(theirs, server_side=True) as peer:
                peer.recv(1)
        except ssl.SSLError as error:
            errors.append(error.reason)

    thread = threading.Thread(target=serve)
    thread.start()
    tls = TlsSocket(ours, tls_context(authority.path), "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        again(tls, tls.do_handshake)
    thread.join(30)
    tls.close()
    assert "CERTIFICATE" in str(errors)
