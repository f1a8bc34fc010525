"""One HTTP/1.1 connection of a lane: it opens, carries one exchange after another, and is checked for stalls.

It never blocks. The lane calls `ready` when the selector reports the socket, `check` now and then for what is late, and
`start` with the next exchange. Each exchange ends once, however the peer behaves. Source: RFC 9112.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from asyncsink.errors import ServerFault, Stalled
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import Requested
from asyncsink.options.settings import KIB, MIB
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.http.addresses import Address
from asyncsink.s3.http.exchange import Exchange, ExchangeInterrupted
from asyncsink.s3.http.reading import Answer, AnswerReader, ExchangeError

if TYPE_CHECKING:
    from asyncsink.s3.http.lane import Lane

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
ADDRESSES_TRIED_MAX: Final = 4
"""Per connection; they share connect_seconds."""
PLAIN_SLICE_BYTES: Final = 4 * MIB
TLS_SLICE_BYTES: Final = 512 * KIB
"""Bytes given to the socket at once. A TLS write is offered again whole until it succeeds, so that a slice is also the
unit of progress on a slow link."""
PUSH_BYTES_MAX: Final = 4 * MIB
"""Bytes of one connection in one turn of the lane: a server that reads as fast as the lane sends never stops it."""
JOINED_BYTES_MAX: Final = 64 * KIB
"""Largest body that shares a TLS record with its head: a copy costs less than a second record."""
NEAR_SECONDS: Final = 0.001
NEAR_SEND_BUFFER_BYTES: Final = 512 * KIB
"""The kernel's send buffer for a plain connection that was made within NEAR_SECONDS: more than fills the path, and
little enough to stay in the processor's caches. Elsewhere the kernel finds the size that the path needs."""
ANSWER_RATE_MIN: Final = 64.0
"""Bytes a second; an answer that has come more slowly for stall_seconds is Stalled."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_AGAIN: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A connection that belongs to one lane, and is used in the lane's thread only.

    Args:
        lane: gives the selector, the clock and the limits.
        exchange: the first one to carry, once the connection is open.

    Attributes:
        exchange: the one under way, or None where the connection is idle.
        idle_since: lane time of the end of the last exchange.
    """

    def __init__(self, lane: Lane, exchange: Exchange) -> None:
        self._lane = lane
        self.exchange: Exchange | None = exchange
        self.idle_since = lane.now
        self.ready: Callable[[int], None] = self._unready
        self._socket: socket.socket | None = None
        self._watched = 0
        self._addresses: list[Address] = []
        self._address: Address | None = None
        self._opening = True
        self._began = lane.now
        self._deadline = lane.now + lane.retry.connect_seconds
        self._attempt_ends = self._deadline
        self._last: OSError | None = None
        self._kept = AnswerReader()
        self._reader: AnswerReader | None = None
        self._used = False
        self._out: list[memoryview] = []
        self._refused = False
        self._offered = 0
        self._paid = 0
        self._held = False
        self._moved_at = lane.now
        self._sent_at = self._first_at = 0.0
        self._status = 0
        self._answer_began = 0.0
        self._queued: int | None = None

    def __repr__(self) -> str:
        state = "opening" if self._opening else "busy" if self.exchange is not None else "idle"
        return f"<Connection {state if self._socket is not None or self._opening else 'closed'}>"

    # -- Opening -------------------------------------------------------------------------------------------------------

    def dial(self, addresses: Sequence[Address] | ExchangeError) -> None:
        """Connect to the first of the addresses that answers."""
        if self.exchange is None or not self._opening:
            return  # it was given up meanwhile
        if isinstance(addresses, ExchangeError):
            self._fail(addresses)
            return
        self._addresses = list(addresses[:ADDRESSES_TRIED_MAX])
        self._next_address()

    def _next_address(self) -> None:
        lane = self._lane
        while self._addresses:
            address = self._address = self._addresses.pop(0)
            family, place = address
            left = self._deadline - lane.clock()
            if left <= 0:
                break
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                self._last = error
                continue
            self._socket = opened
            try:
                opened.setblocking(False)
                # The last packet of a body must not wait for the acknowledgement of the one before.
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                code = opened.connect_ex(place)
            except OSError as error:
                code = error.errno or errno.EINVAL
            if code not in (0, errno.EINPROGRESS):
                self._lost_address(OSError(code, os.strerror(code)))
                continue
            self._began = lane.clock()
            self._attempt_ends = self._began + left / (len(self._addresses) + 1)
            self.ready = self._connected
            self._watch(WRITE)
            return
        last = self._last
        reason = one_line((last and (last.strerror or str(last))) or "it did not answer in time")
        failure = ExchangeError(f"the connection could not be made: {reason}")
        failure.__cause__ = last
        self._fail(failure)

    def _lost_address(self, error: OSError) -> None:
        self._last = error
        if self._address is not None:
            self._lane.addresses.failed(self._address)
        self._drop()

    def _connected(self, _events: int) -> None:
        opened = self._socket
        assert opened is not None
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lost_address(OSError(code, os.strerror(code)))
            self._next_address()
            return
        if self._address is not None:
            self._lane.addresses.reached(self._address)
        tls = self._lane.tls
        if tls is None:
            if self._lane.clock() - self._began < NEAR_SECONDS and self._lane.large:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_SEND_BUFFER_BYTES)
            self._opened()
            return
        self._watch(0)
        try:
            self._socket = tls.wrap_socket(
                opened, server_hostname=self._lane.host, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        except (OSError, ValueError) as error:
            self._lost_address(error if isinstance(error, OSError) else OSError(str(error)))
            self._next_address()
            return
        self.ready = self._handshaking
        self._handshaking(0)

    def _handshaking(self, _events: int) -> None:
        wrapped = self._socket
        assert isinstance(wrapped, ssl.SSLSocket)
        try:
            wrapped.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(READ)
        except ssl.SSLWantWriteError:
            self._watch(WRITE)
        except ssl.SSLCertVerificationError as error:
            self._fail(error)
        except OSError as error:
            self._lost_address(error)
            self._next_address()
        else:
            self._opened()

    def _opened(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        self._opening = False
        self._begin(exchange)

    # -- One exchange --------------------------------------------------------------------------------------------------

    def start(self, exchange: Exchange) -> None:
        """Carry the next exchange; the connection is idle."""
        self._used = True
        self._begin(exchange)

    def _begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.ready = self._exchanging
        self._reader = None
        self._queued = None
        self._refused = False
        self._first_at = 0.0
        self._status = 0
        try:
            head, body = exchange.begin(self._lane)
            if exchange.given_up:
                raise ExchangeInterrupted
        except BaseException as error:  # noqa: BLE001 - the caller of the exchange gets it
            exchange.failed(error)
            self._end(usable=True, begun=False)
            return
        self._moved_at = self._sent_at = self._lane.clock()
        if self._lane.bandwidth is None:
            self._send_first(head, body, exchange)
        else:
            self._out = [memoryview(head), memoryview(body).cast("B")] if len(body) else [memoryview(head)]
            if exchange.borrowed and len(body):
                self._out[1] = memoryview(bytes(body))
            self._offered = self._paid = 0
            if exchange.urgent:
                # It does not wait, and later requests wait the longer.
                self._paid = sum(map(len, self._out))
                self._lane.bandwidth.reserve(self._paid)
            self._push()

    def _send_first(self, head: bytes, body: ByteBody, exchange: Exchange) -> None:
        """Send as much as the socket takes at once, which is all of a small request; see `_push`."""
        opened = self._socket
        assert opened is not None
        size = len(body)
        self._paid = sys.maxsize
        self._offered = 0
        if self._lane.tls is not None:
            if size and (size <= JOINED_BYTES_MAX or exchange.borrowed):
                self._out = [memoryview(b"".join((head, body)))]
            else:
                self._out = [memoryview(head), memoryview(body).cast("B")] if size else [memoryview(head)]
            self._push()
            return
        # Where the server reads meanwhile, one call takes all that it is given.
        first = body if size <= PUSH_BYTES_MAX else memoryview(body).cast("B")[:PUSH_BYTES_MAX]
        try:
            sent = opened.sendmsg((head, first)) if size else opened.send(head)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._read_refusal(_reason(error))
            return
        if sent == len(head) + size:
            self._watch(READ)
            return
        rest: list[memoryview] = []
        if sent < len(head):
            rest.append(memoryview(head)[sent:])
        if size:
            left = memoryview(body).cast("B")[max(0, sent - len(head)) :]
            rest.append(memoryview(bytes(left)) if exchange.borrowed else left)
        self._out = rest
        self._watch(READ | WRITE)

    def _push(self) -> None:
        """Send as much as the socket takes, the bandwidth allows, and one turn of the lane may carry.

        In the turn between, an early answer is read and other connections send.
        """
        opened, bandwidth = self._socket, self._lane.bandwidth
        assert opened is not None
        left = PUSH_BYTES_MAX
        slice_bytes = PLAIN_SLICE_BYTES if self._lane.tls is None else TLS_SLICE_BYTES
        while self._out:
            piece = self._out[0]
            # TLS requires the same bytes to be offered again.
            size = self._offered or min(len(piece), slice_bytes)
            if bandwidth is not None and self._paid < size and not self._offered:
                if not self._paid:
                    self._paid = min(bandwidth.slice_bytes, sum(map(len, self._out)))
                    seconds = bandwidth.reserve(self._paid)
                    if seconds:
                        self._held = True
                        self._watch(READ)
                        self._lane.call_later(seconds, self._released)
                        return
                size = min(size, self._paid)
            try:
                sent = opened.send(piece[:size])
            except _AGAIN:
                if self._lane.tls is not None:
                    self._offered = size
                self._watch(READ | WRITE)
                return
            except OSError as error:
                self._read_refusal(_reason(error))
                return
            self._offered = 0
            self._paid -= sent
            self._moved_at = self._lane.clock()
            if sent == len(piece):
                del self._out[0]
            else:
                self._out[0] = piece[sent:]
            left -= sent
            if self._out and (sent < size or left <= 0):
                self._watch(READ | WRITE)
                return
        self._watch(READ)

    def _released(self) -> None:
        """Send on: the bandwidth limit allows the next bytes now."""
        if self._held:
            self._held = False
            self._moved_at = self._lane.clock()
            if self.exchange is not None and self._out:
                self._push()

    def _exchanging(self, events: int) -> None:
        if events & READ:
            self._receive()
        if events & WRITE and self._out and self.exchange is not None and not self._held:
            self._push()

    def _receive(self) -> None:
        exchange, opened, lane = self.exchange, self._socket, self._lane
        assert exchange is not None
        assert opened is not None
        more = True
        while more:
            reader = self._reader
            room = reader.room if reader is not None else None
            try:
                count = opened.recv_into(lane.view if room is None else room)
            except _AGAIN:
                return
            except OSError as error:
                self._no_more(_reason(error))
                return
            if not count:
                self._no_more("the server hung up")
                return
            self._moved_at = lane.now
            try:
                if reader is None:
                    self._first_at = lane.now
                    if not self._out and exchange.quick(lane.view[:count]):
                        self._status = exchange.quick_status
                        self._end(usable=True)
                        return
                    reader = self._reader = exchange.reader(self._kept)
                    self._answer_began = lane.now
                if room is None:
                    reader.feed(lane.view[:count])
                else:
                    reader.received_into_room(count)
            except BaseException as error:  # noqa: BLE001 - also what a taker of the bytes raises
                self._fail(error)
                return
            if reader.answer is not None:
                self._answered(reader.answer, reader)
                return
            if reader.status >= 300 and self._out:
                # The rest of the body is not sent to a server that has refused.
                self._refused = True
                self._out = []
                self._watch(READ)
            # The selector does not see bytes that TLS has already decrypted.
            more = isinstance(opened, ssl.SSLSocket) and opened.pending() > 0

    def _answered(self, answer: Answer, reader: AnswerReader) -> None:
        exchange = self.exchange
        assert exchange is not None
        whole = not self._out and not self._refused
        self._status = answer.status
        if not whole and answer.status < 300:
            self._fail(ExchangeError(f"the server answered {answer.status} before it had the whole body", ServerFault))
            return
        try:
            exchange.answered(answer)
        except BaseException as error:  # noqa: BLE001 - the caller of the exchange gets it
            exchange.failed(error)
        self._end(usable=whole and reader.keep_alive)

    def _read_refusal(self, reason: str) -> None:
        """Read the answer after a failed write: a server that refuses and hangs up has often sent the reason."""
        exchange, opened = self.exchange, self._socket
        assert exchange is not None
        assert opened is not None
        self._refused = True
        self._out = []
        try:
            reader = self._reader = self._reader or exchange.reader(self._kept)
            while reader.answer is None:
                try:
                    count = opened.recv_into(self._lane.view)
                except OSError:
                    count = 0
                if not count:
                    reader.end(reason)
                    break
                reader.feed(self._lane.view[:count])
        except BaseException as error:  # noqa: BLE001 - as in _receive
            self._fail(error)
            return
        assert reader.answer is not None
        self._answered(reader.answer, reader)

    def _no_more(self, reason: str) -> None:
        """The server sends nothing more: an answer without a length is whole, and any other fails."""
        exchange = self.exchange
        assert exchange is not None
        try:
            reader = self._reader = self._reader or exchange.reader(self._kept)
            reader.end(reason)
        except ExchangeError as error:
            self._fail(error)
            return
        assert reader.answer is not None
        self._answered(reader.answer, reader)

    def _fail(self, error: BaseException) -> None:
        """End the exchange without an answer, and the connection with it."""
        exchange = self.exchange
        assert exchange is not None
        stale = isinstance(error, ExchangeError) and error.unanswered and self._used
        if stale and not exchange.once and not exchange.given_up:
            # The server had just closed the idle connection.
            self.exchange = None
            self.close()
            self._lane.open_for(exchange)
            return
        exchange.failed(error)
        self._end(usable=False)

    def _end(self, *, usable: bool, begun: bool = True) -> None:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        unsent = bool(self._out) or self._refused
        self._out, self._refused = [], unsent and not usable
        self._held = False
        if self._reader is not None and self._reader is not self._kept:
            self._reader.close()
        self._reader = None
        if usable:
            self.idle_since = self._lane.clock()
            self.ready = self._unexpected
            self._watch(READ)
        else:
            self.close()
        self._lane.ended(self, exchange, usable=usable, begun=begun)

    def requested(self, exchange: Exchange) -> Requested:
        """The event of the exchange that has just ended."""
        operation, key = exchange.named()
        now, first_at = self._lane.clock(), self._first_at
        return Requested(
            operation,
            self._status,
            exchange.weight_bytes if 200 <= self._status < 300 else 0,
            now - self._sent_at,
            first_at - self._sent_at if first_at else None,
            key,
            self._lane.addresses.server,
        )

    # -- Between exchanges ---------------------------------------------------------------------------------------------

    def _unexpected(self, _events: int) -> None:
        """Close: a server that sends bytes without a request is closing, or out of step."""
        self.close()

    def _unready(self, _events: int) -> None:
        """Do nothing: no event is registered yet."""

    def fit(self) -> bool:
        """Whether another exchange can begin: the server has neither closed the connection nor sent anything."""
        opened = self._socket
        if opened is None:
            return False
        try:
            opened.recv(1)
        except _AGAIN:
            return True
        except OSError:
            return False
        return False

    # -- Time limits and closing ---------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """End what is late; called now and then."""
        lane, exchange = self._lane, self.exchange
        if exchange is None:
            if now - self.idle_since >= lane.keep_alive_seconds:
                self.close()
        elif self._opening:
            self._check_opening(now)
        elif self._held:
            # Held by the bandwidth limit, not by the server.
            self._moved_at = now
        else:
            self._check_progress(now, lane.retry.complete_seconds if exchange.patient else lane.retry.stall_seconds)

    def _check_opening(self, now: float) -> None:
        if self._socket is None and now >= self._deadline:
            seconds = self._lane.retry.connect_seconds
            self._fail(ExchangeError(f"the name {self._lane.host!r} was not resolved within {seconds:g} s"))
        elif self._socket is not None and now >= self._attempt_ends:
            self._lost_address(TimeoutError("it did not answer in time"))
            self._next_address()

    def _check_progress(self, now: float, stall_seconds: float) -> None:
        still = now - self._moved_at
        exchange = self.exchange
        assert exchange is not None
        if still < stall_seconds / 2:
            self._queued = None
            if self._reader is not None and not exchange.patient and now - self._answer_began > stall_seconds:
                rate = self._reader.received / (now - self._answer_began)
                if rate < ANSWER_RATE_MIN:
                    self._fail(ExchangeError(f"its answer came at {rate:.0f} bytes a second", Stalled))
            return
        queued = self._kernel_holds()
        if self._queued is None:
            self._queued = queued
        if still >= stall_seconds:
            # The kernel may hold megabytes for a slow server, and takes no more until a good share is acknowledged:
            # while they become fewer, bytes move.
            if queued < self._queued:
                self._queued, self._moved_at = queued, now
            else:
                self._fail(ExchangeError(f"no byte moved for {stall_seconds:g} s", Stalled))

    def _kernel_holds(self) -> int:
        """Bytes in the kernel that the server has not acknowledged; 0 where the system does not report them."""
        assert self._socket is not None
        try:
            told = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return 0
        return int.from_bytes(told, sys.byteorder)

    def give_up(self, error: BaseException) -> None:
        """End the exchange and the connection: its caller was cancelled, or the lane is closing."""
        exchange = self.exchange
        if exchange is not None:
            exchange.failed(error)
            self._end(usable=False)
        else:
            self.close()

    def close(self) -> None:
        """Close at once; bytes of an unfinished exchange in the kernel's buffers are not sent. Harmless when closed."""
        if self._socket is not None:
            if self._out or self._refused:
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._drop()
        self._opening = False
        self._kept.close()
        self._lane.closed(self)

    def _drop(self) -> None:
        self._watch(0)
        opened, self._socket = self._socket, None
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def _watch(self, events: int) -> None:
        if events != self._watched and self._socket is not None:
            self._lane.watch(self._socket, self._watched, events, self)
            self._watched = events


def _reason(error: OSError) -> str:
    return one_line(error.strerror or str(error) or type(error).__name__)
