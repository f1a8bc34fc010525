"""Where sender threads connect to, and what they do where the system has no more to give."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.config import MIB
from asyncsink.errors import (
    ConnectionLost,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import ChecksumAlgorithm, SourceFile
from asyncsink.s3.wire import sender_connection
from asyncsink.s3.wire.sender import PartToSend, SenderPool
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.faulty_peers import CannedPeer
from asyncsink.testing.transport_kit import IMPATIENT, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
PART = PartToSend(key="k", upload_id="u", part_number=3, algorithm="CRC64NVME")
SIZE = 32 * MIB
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Open = Callable[..., contextlib.AbstractAsyncContextManager[SenderPool]]


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def open_source(path: Path) -> OpenSource:
    status = path.stat()
    return OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns))


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(header(head, b"content-length")))


def header(head: bytes, name: bytes) -> bytes:
    [value] = [line[len(name) + 1 :].strip() for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return value


def at(monkeypatch: pytest.MonkeyPatch, port: int, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
    lookup = socket.getaddrinfo

    def answer(host: Any, *args: Any, **kwargs: Any) -> Any:
        return found if host == "s3.test" else lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


async def test_the_payload_is_signed_over_plain_http_to_others(
    senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        at(monkeypatch, port, "127.0.0.1")
        async with senders(f"http://s3.test:{port}") as pool:
            algorithms: tuple[ChecksumAlgorithm, ...] = ("CRC64NVME", "SHA256")
            for algorithm in algorithms:
                part = PartToSend(key="k", upload_id="u", part_number=1, algorithm=algorithm)
                _, checksum = await pool.send_part(file, MIB, 5 * MIB, part)
                body = file.read_part(MIB, 5 * MIB)
                assert header(peer.heads.pop(), b"x-amz-content-sha256") == hashlib.sha256(body).hexdigest().encode()
                assert checksum == checksum_of(body, algorithm)
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        await pool.send_part(file, 0, 5 * MIB, PART)
        assert header(peer.heads.pop(), b"x-amz-content-sha256") == b"UNSIGNED-PAYLOAD"


async def test_connections_spread_over_the_addresses(
    senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    ended = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        await read_request(reader)
        writer.write(canned(200, b"", 'ETag: "e"', "Connection: close"))
        writer.close()
        ended.release()

    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    at(monkeypatch, port, "127.0.0.2", "127.0.0.3", "127.0.0.4")
    async with senders(f"http://s3.test:{port}") as pool:
        for _ in range(6):
            await pool.send_part(file, 0, 1, PART)
        assert sorted(reached) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.4"]
    for _ in reached:
        await ended.acquire()
    server.close()
    await server.wait_closed()


async def test_an_address_that_refuses_is_passed_over_and_remembered(
    senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        at(monkeypatch, port, "127.0.0.3", "127.0.0.1", "127.0.0.2")
        async with senders(f"http://s3.test:{port}") as pool:
            for _ in range(4):
                await pool.send_part(file, 0, 1, PART)
            poor = [(socket.AF_INET, (f"127.0.0.{number}", port)) for number in (2, 3)]
            assert poor[0] in pool._post.failed_at or poor[1] in pool._post.failed_at


def test_addresses_that_failed_lately_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = addresses = [(socket.AF_INET, (f"127.0.0.{number}", 80)) for number in (1, 2, 3)]
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    assert sender_connection.in_turn(addresses, 0, {}) == [one, two, three]
    assert sender_connection.in_turn(addresses, 4, {}) == [two, three, one]
    assert sender_connection.in_turn(addresses, 4, {two: 990.0, one: 900.0}) == [three, one, two]


async def test_a_server_that_is_not_there(senders: Open, file: OpenSource) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with senders(f"http://127.0.0.1:{unused.getsockname()[1]}") as pool:
            for _ in range(2):
                with pytest.raises(ConnectionLost, match="could not be made: Connection refused"):
                    await pool.send_part(file, 0, 1, PART)


async def test_a_name_that_nobody_knows(senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with senders("http://s3.test") as pool:
        with pytest.raises(ConnectionLost, match=r"'s3\.test' cannot be resolved: Name or service"):
            await pool.send_part(file, 0, 1, PART)


async def test_a_lookup_that_hangs(senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait() and [])
    async with senders("http://s3.test", IMPATIENT) as pool:
        with pytest.raises(ConnectionLost, match=r"'s3\.test' was not resolved within 0\.2 s"):
            await pool.send_part(file, 0, 1, PART)
        release.set()
        with pytest.raises(ConnectionLost, match=r"'s3\.test' has no address"):
            await pool.send_part(file, 0, 1, PART)


@pytest.mark.parametrize("scarce", ["descriptors", "threads"])
async def test_a_system_that_has_no_more(
    senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files") if scarce == "descriptors" else RuntimeError("can't start new thread")

    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        with monkeypatch.context() as patch:
            if scarce == "descriptors":
                patch.setattr(os, "pipe", none_left)
            else:
                patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(ConnectionLost, match="no thread could be started"):
                await pool.send_part(file, 0, 1, PART)
        await pool.send_part(file, 0, 1, PART)


def test_a_pool_that_nobody_closed_does_not_keep_the_program(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from asyncsink.config import RetryPolicy, S3Target
        from asyncsink.model import SourceFile
        from asyncsink.s3.wire import sender_thread
        from asyncsink.s3.wire.endpoint import endpoint_of
        from asyncsink.s3.wire.keyring import Keyring
        from asyncsink.s3.wire.sender import PartToSend, SenderPool
        from asyncsink.sources.reader import OpenSource

        sender_thread.KEEP_ALIVE_SECONDS = 0.05

        async def main():
            endpoint = endpoint_of(S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1", anonymous=True), "x")
            pool = SenderPool("bkt", endpoint, Keyring(endpoint, "x", None), RetryPolicy(), None)
            status = os.stat(sys.argv[1])
            with OpenSource(SourceFile(sys.argv[1], status.st_size, status.st_mtime_ns)) as source:
                try:
                    await pool.send_part(source, 0, 1, PartToSend(key="k", upload_id="u", part_number=1))
                finally:
                    print(pool)

        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "<SenderPool http://127.0.0.1:1: 1 threads, 0 sending>\n"
    assert "asyncsink.errors.ConnectionLost: UploadPart of part 1 of s3://bkt/k failed" in done.stderr
    assert done.returncode == 1
