"""Clients of the service: each uploads one body after another, and some vanish in the middle of one."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_PIECE_BYTES: Final = 64 * 1024
_MEDIAN_BYTES, _SIGMA, _BYTES_MAX = 256 * 1024, 1.6, 48 * 1024 * 1024
_ANSWER_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client knows of one upload.

    Attributes:
        phase, name, size_bytes: of the object.
        status: of the answer; 0 where there was none.
        vanished: the client closed its connection before the end of its body.
        seconds: from the request's first byte to the answer.
        error: what the service said, of an upload that failed.
    """

    phase: str
    name: str
    size_bytes: int
    status: int
    vanished: bool
    seconds: float
    error: str = ""


def body_of(name: str, size_bytes: int) -> Iterator[bytes]:
    """The body of an object, which its name decides, in pieces. Pure."""
    piece = hashlib.sha256(name.encode()).digest() * (_PIECE_BYTES // 32)
    for at in range(0, size_bytes, _PIECE_BYTES):
        yield piece[: min(_PIECE_BYTES, size_bytes - at)]


async def run_clients(
    port: int, phase: str, *, clients: int, seconds: float, vanishing: float, seed: int
) -> list[Upload]:
    """Upload with `clients` at once; no body begins after `seconds`.

    Args:
        vanishing: the share of the uploads whose client vanishes.
    """
    done: list[Upload] = []
    ends = time.monotonic() + seconds

    async def client(number: int) -> None:
        dice = random.Random(f"{seed} {phase} {number}")
        count = 0
        while time.monotonic() < ends:
            name = f"{phase}/{number:03}-{count:05}"
            size_bytes = min(_BYTES_MAX, int(dice.lognormvariate(0, _SIGMA) * _MEDIAN_BYTES))
            stop = int(dice.random() * size_bytes) if dice.random() < vanishing else None
            done.append(await _upload(port, phase, name, size_bytes, stop))
            if done[-1].status == 0 and stop is None:
                await asyncio.sleep(0.2)  # the service is gone, or going
            count += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return done


async def _upload(port: int, phase: str, name: str, size_bytes: int, stop: int | None) -> Upload:
    """One upload; with `stop`, the client vanishes after so many bytes of the body."""
    began, status, error = time.monotonic(), 0, ""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                lines = f"PUT /{name} HTTP/1.1", "Host: service", f"Content-Length: {size_bytes}", "Connection: close"
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
                sent = 0
                for piece in body_of(name, size_bytes):
                    if stop is not None and sent >= stop:
                        break
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                if stop is None:
                    status = int((await reader.readline()).split()[1])
                    error = "" if status == 201 else (await reader.read()).decode(errors="replace").split("\n")[-1]
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, IndexError, ValueError):
        status = 0
    return Upload(phase, name, size_bytes, status, stop is not None, time.monotonic() - began, error)
