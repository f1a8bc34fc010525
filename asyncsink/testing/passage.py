"""One request on its way through a fault proxy, and all that a toxic can do with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Literal, NoReturn

from asyncsink.testing.s3_requests import Head, Request, read_body, read_head

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Send = Callable[[bytes], Awaitable[None]]
Carry = Callable[[Send, bytes], Awaitable[None]]
"""Passes one piece on by `Send`: later, in slices, changed, or not at all."""
OnAnswer = Callable[[Head], Awaitable[None]]

End = Literal["reset", "close", "hang", "half_close"]
"""How a client's connection ends: with a TCP reset; closed; open but silent; or closed on the server's side, while what
the client still sends is read, so that the last answer reaches it."""
_NEVER_A_BODY = (204, 304)


class Cut(Exception):
    """The client's connection ends here. Not an error: it is what a toxic is for."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


class Passage:
    """One request, its answer, and the two connections. Belongs to the proxy's event loop.

    Args:
        request: its head is read, its body is not.
        client: where it came from.
        connect: opens, or gives again, the connection to the server.
        dice: this request's own, so that what befalls it does not depend on the others.
        note: called with what was done to it.
        answered: called with the status of the server's answer.
    """

    def __init__(
        self,
        request: Request,
        client: Stream,
        connect: Callable[[], Awaitable[Stream]],
        dice: random.Random,
        note: Callable[[str], None],
        answered: Callable[[int], None],
    ) -> None:
        self.request = request
        self.dice = dice
        self.reusable = True
        """Whether the client's connection serves for another request; final when the toxic is done."""
        self._client = client
        self._connect = connect
        self._note = note
        self._answered = answered

    def hit(self, what: str) -> None:
        """Remember that the fault happens now. Called once per passage, when nothing can prevent it any more."""
        self._note(what)

    def end(self, how: End) -> NoReturn:
        """End the client's connection, and the server's."""
        raise Cut(how)

    async def to_client(self, data: bytes) -> None:
        """Send bytes of an answer."""
        self._client[1].write(data)
        await self._client[1].drain()

    async def discard_body(self) -> None:
        """Read the request's body, and send it nowhere."""
        async for _ in read_body(self._client[0], self.request.head):
            pass

    async def relay(self, *, carry: Carry | None = None, answer: OnAnswer | None = None) -> None:
        """Bring the request to the server, and the answer back.

        Args:
            carry: passes each piece of the request's body on; None as it is.
            answer: called with the head of the final answer instead of `pass_answer`.

        Raises:
            Cut: by `carry` or `answer`.
            asyncio.IncompleteReadError, OSError: one of the two sides is gone.
        """
        server = await self._connect()
        server[1].write(self.request.head.raw)
        sending = asyncio.create_task(self._send_body(server[1], carry))
        reading = asyncio.create_task(self._final_head(server[0]))
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() or not reading.done():
                await sending
            head = await reading
            self._answered(head.status)
            await (answer or self.pass_answer)(head)
            if not sending.done():
                # A refusal before the end of the body: the rest of it would be taken for the next request.
                self.end("half_close")
            self.reusable = "close" not in head.headers.get("connection", "").lower() and (
                head.chunked or head.length is not None or self._bodiless(head)
            )
        finally:
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def pass_answer(self, head: Head, carry: Carry | None = None) -> None:
        """Give the client the server's answer, each piece by `carry`."""
        await _passed(head.raw, self.to_client, carry)
        async for piece in self._answer_body(head):
            await _passed(piece, self.to_client, carry)

    async def whole_body(self, head: Head) -> bytes:
        """The body of the server's answer, without its transfer coding."""
        pieces = [piece async for piece in self._answer_body(head)]
        return b"".join(pieces) if not head.chunked else _unchunked(b"".join(pieces))

    async def _answer_body(self, head: Head) -> AsyncIterator[bytes]:
        if not self._bodiless(head):
            reader, _ = await self._connect()
            async for piece in read_body(reader, head, until_end=True):
                yield piece

    def _bodiless(self, head: Head) -> bool:
        return self.request.head.first_line.startswith("HEAD ") or head.status in _NEVER_A_BODY

    async def _send_body(self, server: asyncio.StreamWriter, carry: Carry | None) -> None:
        refused = False

        async def send(piece: bytes) -> None:
            nonlocal refused
            try:
                server.write(piece)
                await server.drain()
            except ConnectionError:
                refused = True

        async for piece in read_body(self._client[0], self.request.head):
            # A server that has hung up has often said why: its answer is passed on, and the body leads nowhere.
            if not refused:
                await _passed(piece, send, carry)

    async def _final_head(self, server: asyncio.StreamReader) -> Head:
        while (head := await read_head(server)).status < 200:
            await self.to_client(head.raw)
        return head


async def serve_end(how: End, client: Stream) -> None:
    """Let a client's connection end as a toxic wanted; whoever calls this closes it afterwards.

    Runs until the client goes away, or (hang) until it is cancelled.
    """
    reader, writer = client
    with suppress(ConnectionError):
        if how == "half_close":
            writer.write_eof()
            while await reader.read(65536):
                pass
        elif how == "hang":
            # Nothing is read any more: what the client still sends fills the kernel's buffers, and stops.
            await asyncio.Event().wait()
        elif how == "close":
            writer.close()
            await writer.wait_closed()


async def _passed(piece: bytes, send: Send, carry: Carry | None) -> None:
    if carry is None:
        await send(piece)
    else:
        await carry(send, piece)


def _unchunked(coded: bytes) -> bytes:
    body, position = [], 0
    while position < len(coded):
        end = coded.index(b"\r\n", position)
        size = int(coded[position:end].split(b";")[0], 16)
        if not size:
            break
        body.append(coded[end + 2 : end + 2 + size])
        position = end + size + 4
    return b"".join(body)
