"""One HTTP/1.1 connection for a thread of its own: every wait has a deadline, and can be ended from another thread.

The socket is non-blocking; the thread waits in `poll` only, for the socket and for its `Interrupt`. A plain blocking
socket could be stopped by closing it under the thread's feet alone, and its timeouts count a whole call, not progress.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Final

from asyncsink.config import MIB, RetryPolicy
from asyncsink.errors import ServerFault, Stalled
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.client import KEEP_ALIVE_SECONDS
from asyncsink.s3.error_map import one_line
from asyncsink.s3.wire.answers import Answer
from asyncsink.s3.wire.endpoint import Endpoint
from asyncsink.s3.wire.pieces import PieceReader
from asyncsink.s3.wire.reading import AnswerReader, ExchangeError
from asyncsink.s3.wire.tls_socket import TlsSocket
from asyncsink.s3.wire.waiting import Interrupt, Waiter

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""Family and socket address, as `socket.getaddrinfo` gives them."""

ADDRESSES_TRIED_MAX: Final = 4
"""Per connection; they share connect_seconds."""
FAILED_ADDRESS_SECONDS: Final = 30.0
"""So long an address that could not be reached comes last."""
SLICE_BYTES: Final = 4 * MIB
"""Handed to the socket at once; between slices the thread looks for an early answer and for the interrupt."""
RECEIVE_BYTES: Final = 64 * 1024
NEAR_SECONDS: Final = 0.001
NEAR_SEND_BUFFER_BYTES: Final = 512 * 1024
"""What the kernel holds for a server that took a plain connection within NEAR_SECONDS: more than is needed to fill the
path, and little enough to stay in the processor's caches. Elsewhere the kernel finds the size that the path needs."""
_BOTH: Final = select.POLLIN | select.POLLOUT
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class SenderConnection:
    """A connection for one exchange after another, all in one thread. Made by `connect`.

    Args:
        connected: a non-blocking socket, with TLS already where it is to have any.
        interrupt: ends every wait.
        stall_seconds: see config.RetryPolicy.
        bandwidth: the limit on what is sent in a second, or None.
    """

    def __init__(
        self,
        connected: socket.socket | TlsSocket,
        interrupt: Interrupt,
        stall_seconds: float,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._socket = connected
        self._waiter = Waiter(connected.fileno(), interrupt)
        self._stall_seconds = stall_seconds
        self._bandwidth = bandwidth
        self._reader = AnswerReader()
        self._idle_since = time.monotonic()
        self._usable = True

    def __repr__(self) -> str:
        return f"<SenderConnection {'idle' if self._usable else 'busy or closed'}>"

    @property
    def recent(self) -> bool:
        """Whether the last exchange left the connection open, less than KEEP_ALIVE_SECONDS ago. Asks nobody."""
        return self._usable and time.monotonic() - self._idle_since < KEEP_ALIVE_SECONDS

    def fit(self) -> bool:
        """Whether another exchange can begin: recent, and the server has neither hung up nor said anything."""
        if not self.recent:
            return False
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def exchange(self, head: bytes, body: memoryview) -> Answer:
        """Send a request and wait for the whole answer.

        Where the server refuses while the body is still on its way, the rest of the body is not sent; the answer is
        returned, and the connection is not used again.

        Raises:
            ExchangeError: there is no answer, or it is broken; Stalled where nothing moved for stall_seconds.
            Interrupted: the interrupt came.
        """
        self._usable = False
        self._reader.begin(bodiless=False)
        whole = self._send(memoryview(head)) and self._send(body)
        while (answer := self._reader.answer) is None:
            self._wait(select.POLLIN)
            self._receive()
        if not whole and answer.status < 300:
            raise ExchangeError(f"the server answered {answer.status} before it had the whole body", ServerFault)
        self._usable = whole and self._reader.keep_alive
        self._idle_since = time.monotonic()
        return answer

    def fetch(self, head: bytes, reader: PieceReader) -> Answer:
        """Send a request without a body; the body of its answer goes to `reader`, which has begun, piece by piece.

        Raises:
            ExchangeError, Interrupted: as `exchange`.
            Exception: what the reader's `take` raises; the connection is not used again.
        """
        self._usable = False
        self._reader = reader
        self._send(memoryview(head))
        while (answer := reader.answer) is None:
            self._take(reader)
        self._usable = reader.keep_alive
        self._idle_since = time.monotonic()
        return answer

    def close(self) -> None:
        """Close at once; what an unfinished exchange still has in the kernel's buffers is not sent."""
        if not self._usable:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._usable = False
        self._reader.close()
        self._socket.close()

    def _send(self, piece: memoryview) -> bool:
        """Whether all of `piece` is sent; else the server has refused, and (part of) its answer is there."""
        position = 0
        bandwidth, paid = self._bandwidth, len(piece) if self._bandwidth is None else 0
        while position < len(piece):
            if bandwidth is not None and position == paid:
                paid = min(paid + bandwidth.slice_bytes, len(piece))
                if not self._hold(bandwidth.reserve(paid - position)):
                    return False
            ready = self._wait(_BOTH)
            if ready & ~select.POLLOUT:
                self._receive()
                if self._reader.answer is not None or self._reader.status >= 300:
                    return False
            if not ready & select.POLLOUT:
                continue
            try:
                # Where TLS waits, the same slice must be offered again: position has not moved.
                position += self._socket.send(piece[position : min(position + SLICE_BYTES, paid)])
            except BlockingIOError:
                continue
            except OSError as error:
                self._read_last_words(_reason(error))
                return False
        return True

    def _hold(self, seconds: float) -> bool:
        """Wait for our own turn, which is no stall; False where the server refuses meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if self._waiter.wait(select.POLLIN, left):
                self._receive()
                if self._reader.answer is not None or self._reader.status >= 300:
                    return False
        return True

    def _receive(self) -> None:
        """Take what has come, if anything has."""
        more = True
        while more and self._reader.answer is None:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._reader.end(_reason(error))
                return
            if not data:
                self._reader.end("the server hung up")
                return
            self._reader.feed(data)
            # What TLS has received already is seen by no poll.
            more = isinstance(self._socket, TlsSocket) and self._socket.pending() > 0

    def _read_last_words(self, reason: str) -> None:
        """After a failed write: a server that refuses and hangs up has often said why.

        Raises:
            ExchangeError: it has not.
        """
        while self._reader.answer is None:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError:
                data = b""
            if data:
                self._reader.feed(data)
            else:
                self._reader.end(reason)

    def _take(self, reader: PieceReader) -> None:
        """Take what has come, into the reader's own room where it has one; wait where nothing has."""
        room = reader.room
        data = b""
        try:
            if room is None:
                data = self._socket.recv(RECEIVE_BYTES)
            count = self._socket.recv_into(room) if room is not None else len(data)
        except BlockingIOError:
            self._wait(select.POLLIN)
        except OSError as error:
            reader.end(_reason(error))
        else:
            if not count:
                reader.end("the server hung up")
            elif room is not None:
                reader.received_into_room(count)
            else:
                reader.feed(data)

    def _wait(self, events: int) -> int:
        queued = self._queued()
        while not (ready := self._waiter.wait(events, self._stall_seconds)):
            # Megabytes wait in the kernel on their way to a slow server; it takes no more before a good share is gone.
            before, queued = queued, self._queued()
            if queued >= before:
                raise ExchangeError(f"no byte moved for {self._stall_seconds:g} s", Stalled)
        return ready

    def _queued(self) -> int:
        """Bytes that the kernel holds and the server has not acknowledged; 0 where the system does not tell."""
        try:
            told = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return 0
        return int.from_bytes(told, sys.byteorder)


def connect(
    endpoint: Endpoint,
    addresses: Sequence[Address],
    tls: ssl.SSLContext | None,
    interrupt: Interrupt,
    retry: RetryPolicy,
    *,
    failed_at: dict[Address, float],
    bandwidth: Bandwidth | None = None,
) -> SenderConnection:
    """A connection to the first of `addresses` that takes one.

    Args:
        endpoint: its host is what the certificate must name.
        addresses: at least one; ADDRESSES_TRIED_MAX are tried, within connect_seconds altogether.
        tls: the context for HTTPS, None for plain HTTP.
        interrupt: ends the attempt.
        retry: connect_seconds and stall_seconds.
        failed_at: when (time.monotonic) an address could not be reached; kept up to date here.
        bandwidth: see SenderConnection.

    Raises:
        ExchangeError: none took it.
        ssl.SSLCertVerificationError: the server is not who it says.
        Interrupted: the interrupt came.
    """
    deadline = time.monotonic() + retry.connect_seconds
    last: OSError | None = None
    wanted = addresses[:ADDRESSES_TRIED_MAX]
    for left, address in zip(range(len(wanted), 0, -1), wanted, strict=True):
        share_ends = time.monotonic() + (deadline - time.monotonic()) / left
        try:
            connected = _open(address, endpoint.host, tls, interrupt, share_ends)
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            last = error
            failed_at[address] = time.monotonic()
        else:
            failed_at.pop(address, None)
            return SenderConnection(connected, interrupt, retry.stall_seconds, bandwidth)
    reason = one_line((last and (last.strerror or str(last))) or "it did not answer in time")
    raise ExchangeError(f"the connection could not be made: {reason}") from last


def in_turn(addresses: Sequence[Address], turn: int, failed_at: Mapping[Address, float]) -> list[Address]:
    """The addresses (one at least) as connection `turn` is to try them: spread, those that failed lately last."""
    first = turn % len(addresses)
    now = time.monotonic()
    return sorted(
        [*addresses[first:], *addresses[:first]],
        key=lambda address: now - failed_at.get(address, float("-inf")) < FAILED_ADDRESS_SECONDS,
    )


def _open(
    address: Address, host: str, tls: ssl.SSLContext | None, interrupt: Interrupt, deadline: float
) -> socket.socket | TlsSocket:
    family, place = address
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        # The last packet of a body must not wait for the acknowledgement of the one before.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiter, began = Waiter(opened.fileno(), interrupt), time.monotonic()
        code = opened.connect_ex(place)
        if code == errno.EINPROGRESS:
            waiter.wait_until(select.POLLOUT, deadline)
            code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if tls is None and time.monotonic() - began < NEAR_SECONDS:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_SEND_BUFFER_BYTES)
        if tls is None:
            return opened
        wrapped = TlsSocket(opened, tls, host)
        _shake_hands(wrapped, waiter, deadline)
        return wrapped
    except BaseException:
        opened.close()
        raise


def _shake_hands(wrapped: TlsSocket, waiter: Waiter, deadline: float) -> None:
    while True:
        try:
            wrapped.do_handshake()
        except ssl.SSLWantReadError:
            waiter.wait_until(select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            waiter.wait_until(select.POLLOUT, deadline)
        else:
            return


def _reason(error: OSError) -> str:
    return one_line(error.strerror or str(error) or type(error).__name__)
