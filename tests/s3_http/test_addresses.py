"""Where lanes connect to, and what they do where the system has no more to give."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import ConnectionLost
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, ChecksumAlgorithm, RetryPolicy
from asyncsink.s3.http import addresses as addresses_module
from asyncsink.s3.http.addresses import CACHED_SECONDS, THREADS, UNREACHABLE_SECONDS, Addresses
from asyncsink.s3.http.reading import ExchangeError
from asyncsink.s3.operations import PutObject
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import CannedPeer, canned
from tests.support.requests import STORED, Bodies, Open, at, header, part, read_request, whole

pytestmark = pytest.mark.anyio

PUT = PutObject(key="k", body=b"x")
HURRIED = RetryPolicy(connect_seconds=0.2)
ONE, TWO, THREE = ((socket.AF_INET, (f"127.0.0.{number}", 80)) for number in (1, 2, 3))


async def test_the_payload_is_signed_over_plain_http_to_others(
    wire: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        at(monkeypatch, port, "127.0.0.1")
        async with wire(f"http://s3.test:{port}") as transport:
            for body in (b"x", bytes(MIB), b""):
                await transport.send(PutObject(key="k", body=memoryview(body)))
                assert header(peer.heads.pop(), b"x-amz-content-sha256") == hashlib.sha256(body).hexdigest().encode()
            algorithms: tuple[ChecksumAlgorithm, ...] = ("CRC64NVME", "SHA256")
            for algorithm in algorithms:
                sent = await transport.send(part(file, MIB, 5 * MIB, algorithm=algorithm))
                body = bytes(file.read_part(MIB, 5 * MIB))
                assert header(peer.heads.pop(), b"x-amz-content-sha256") == hashlib.sha256(body).hexdigest().encode()
                assert sent.sent == checksum_of(body, algorithm)
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(part(file, 0, 5 * MIB))
        assert header(peer.heads.pop(), b"x-amz-content-sha256") == b"UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("at_once", [True, False])
async def test_connections_spread_over_the_addresses(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch, at_once: bool
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
    async with wire(f"http://s3.test:{port}") as transport:
        if at_once:
            await asyncio.gather(*(transport.send(bodies(1)) for _ in range(6)))
        else:
            for _ in range(6):
                await transport.send(bodies(1))
        assert sorted(reached) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.4"]
    for _ in reached:
        await ended.acquire()
    server.close()
    await server.wait_closed()


async def test_an_address_that_refuses_is_passed_over_and_comes_last(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        at(monkeypatch, port, "127.0.0.3", "127.0.0.2", "127.0.0.1")
        async with wire(f"http://s3.test:{port}") as transport:
            for _ in range(4):
                await transport.send(bodies(1))
            # Each of those that refuse was tried once at most: later it comes last.
            assert set(transport._lanes._addresses._failed_at) <= {
                (socket.AF_INET, (f"127.0.0.{n}", port)) for n in (2, 3)
            }
            assert transport._lanes._addresses._failed_at


async def test_an_address_of_the_other_family(wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        writer.write(canned(200, b"", 'ETag: "e"', "Connection: close"))
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with wire(f"http://[::1]:{port}") as transport:
            assert (await transport.send(bodies(1))).etag == "e"
    assert header(heads[0], b"host") == f"[::1]:{port}".encode()


async def test_a_server_that_is_not_there(wire: Open, bodies: Bodies) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with wire(f"http://127.0.0.1:{unused.getsockname()[1]}") as transport:
            for _ in range(2):
                with pytest.raises(ConnectionLost, match="could not be made: Connection refused"):
                    await transport.send(bodies(1))


async def test_a_server_that_does_not_take_the_connection(wire: Open, bodies: Bodies) -> None:
    """Its queue of connections is full: nothing answers the first packet."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        async with wire(f"http://127.0.0.1:{deaf.getsockname()[1]}", HURRIED) as transport:
            with pytest.raises(ConnectionLost, match="could not be made: it did not answer in time"):
                await transport.send(bodies(1))


async def test_a_name_that_nobody_knows(wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with wire("http://s3.test") as transport:
        with pytest.raises(ConnectionLost, match=r"'s3\.test' cannot be resolved: Name or service"):
            await transport.send(bodies(1))


async def test_a_lookup_that_hangs(wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(60) and [])
    monkeypatch.setattr(addresses_module, "CACHED_SECONDS", 0.1)
    async with wire("http://s3.test", HURRIED) as transport:
        with pytest.raises(ConnectionLost, match=r"'s3\.test' was not resolved within 0\.2 s"):
            await transport.send(bodies(1))
        release.set()
        with pytest.raises(ConnectionLost, match=r"'s3\.test' has no address"):
            await transport.send(bodies(1))


async def test_one_lookup_that_hangs_does_not_hold_up_the_next(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, asked = threading.Event(), list[str]()
    lookup = socket.getaddrinfo

    def hang_once(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        if len(asked) == 1:
            release.wait(60)
        return lookup("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(addresses_module, "CACHED_SECONDS", 0.1)
    try:
        async with CannedPeer(STORED) as peer:
            port = int(peer.endpoint_url.rsplit(":", 1)[1])
            monkeypatch.setattr(socket, "getaddrinfo", hang_once)
            async with wire(f"http://s3.test:{port}", RetryPolicy(connect_seconds=1)) as transport:
                with pytest.raises(ConnectionLost, match="was not resolved"):
                    await transport.send(bodies(1))
                assert (await transport.send(bodies(1))).etag == "e"
    finally:
        release.set()


@pytest.mark.parametrize("scarce", ["descriptors", "threads"])
async def test_a_system_that_has_no_more(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files") if scarce == "descriptors" else RuntimeError("can't start new thread")

    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        before = len(os.listdir("/dev/fd"))
        with monkeypatch.context() as patch:
            if scarce == "descriptors":
                patch.setattr(os, "pipe", none_left)
            else:
                patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(ConnectionLost, match="no thread could be started"):
                await transport.send(bodies(1))
        assert len(os.listdir("/dev/fd")) == before
        await transport.send(bodies(1))


async def test_a_system_without_a_thread_for_a_look_up(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def lanes_only(self: threading.Thread) -> None:
        if self.name.startswith("asyncsink-resolver"):
            raise RuntimeError("can't start new thread")
        start(self)

    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        at(monkeypatch, port, "127.0.0.1")
        async with wire(f"http://s3.test:{port}") as transport:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", lanes_only)
                for _ in range(2):
                    with pytest.raises(ConnectionLost, match=r"look the name up\..*ulimit -u"):
                        await transport.send(bodies(1))
            await transport.send(bodies(1))
        async with wire(peer.endpoint_url) as transport:
            monkeypatch.setattr(threading.Thread, "start", lanes_only)
            await transport.send(bodies(1))  # an address needs none


async def test_a_system_without_a_socket_or_a_buffer_to_spare(
    wire: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    def no_memory(*_: Any, **__: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        request: Any
        for request in (PUT, part(file, 0, MIB)):
            with monkeypatch.context() as patch:
                patch.setattr("asyncsink.s3.http.connection.socket.socket", none_left)
                with pytest.raises(ConnectionLost, match="Too many open files"):
                    await transport.send(request)
        with monkeypatch.context() as patch:
            patch.setattr("asyncsink.s3.http.lane.mmap.mmap", no_memory)
            for request in (part(file, 0, MIB), whole(file, MIB)):
                with pytest.raises(ConnectionLost, match="buffer of 1,048,576 bytes cannot be had"):
                    await transport.send(request)
        assert not peer.heads
        await transport.send(part(file, 0, MIB))


def test_a_transport_that_nobody_closed_does_not_keep_the_program(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from asyncsink.options.schema import S3Target
        from asyncsink.options.settings import RetryPolicy
        from asyncsink.model import SourceFile
        from asyncsink.s3.http import lane
        from asyncsink.s3.http.client import HttpTransport
        from asyncsink.s3.operations import PutObject, UploadPartFrom
        from asyncsink.s3.pacing import Pacer
        from asyncsink.sources.reader import OpenSource

        lane.KEEP_ALIVE_SECONDS = 0.05

        async def main():
            target = S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1", anonymous=True)
            transport = await HttpTransport.open(target, RetryPolicy(), region="x", credentials=None, pacer=Pacer(2))
            status = os.stat(sys.argv[1])
            with OpenSource(SourceFile(sys.argv[1], status.st_size, status.st_mtime_ns)) as source:
                part = UploadPartFrom(key="k", upload_id="u", part_number=1, source=source, offset=0, length=1)
                ends = await asyncio.gather(
                    transport.send(PutObject(key="k", body=b"")), transport.send(part), return_exceptions=True
                )
                print(transport)
                raise ends[1]

        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "<HttpTransport s3://bkt at http://127.0.0.1:1, 2 lanes>\n"
    assert "asyncsink.errors.ConnectionLost: UploadPart of part 1 of s3://bkt/k failed" in done.stderr
    assert done.returncode == 1


# -- the table of addresses --------------------------------------------------------------------------------------------


class Resolver:
    """Answers look-ups when it is told to. `now` is the clock."""

    def __init__(self, *found: Any) -> None:
        self.found = list(found)
        self.now = 1000.0
        self.asked = 0
        self.may_answer = threading.Semaphore(0)

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        assert (host, port) == ("s3.test", 80)
        assert self.may_answer.acquire(timeout=60)
        if not self.found:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(family, socket.SOCK_STREAM, 6, "", place) for family, place in self.found]

    def table(self) -> Addresses:
        """The addresses of s3.test."""
        return Addresses("s3.test", 80, lookup=self, clock=lambda: self.now)


def asked(table: Addresses) -> tuple[Callable[[], Any], Any]:
    """What `ask` gave at once, and a function that waits for what is told later."""
    told: list[Any] = []
    came = threading.Event()

    def tell(found: Any) -> None:
        told.append(found)
        came.set()

    at_once = table.ask(tell)

    def later() -> Any:
        assert came.wait(60)
        [found] = told
        return found

    return later, at_once


def test_addresses_take_turns_and_those_that_failed_lately_come_last() -> None:
    resolver = Resolver(ONE, TWO, THREE, ONE)
    table = resolver.table()
    later, at_once = asked(table)
    assert at_once is None
    resolver.may_answer.release()
    assert later() == [ONE, TWO, THREE]
    assert asked(table)[1] == [TWO, THREE, ONE]
    table.failed(THREE)
    assert asked(table)[1] == [ONE, TWO, THREE]
    assert asked(table)[1] == [ONE, TWO, THREE]
    table.reached(THREE)
    assert asked(table)[1] == [TWO, THREE, ONE]
    table.failed(TWO)
    table.failed(ONE)
    table.failed(THREE)
    assert asked(table)[1] == [THREE, ONE, TWO], "all failed: the order is as ever"
    assert (resolver.asked, repr(table)) == (1, "<Addresses of s3.test: 3 known>")
    table.close()


def test_a_failure_is_forgotten_after_a_while_and_addresses_sooner() -> None:
    resolver = Resolver(ONE, TWO)
    table = resolver.table()
    resolver.may_answer.release(3)
    asked(table)[0]()
    table.failed(ONE)
    resolver.now += CACHED_SECONDS
    later, at_once = asked(table)
    assert at_once is None, "asked anew"
    assert later() == [TWO, ONE]
    resolver.now += UNREACHABLE_SECONDS
    first = asked(table)[0]()
    assert {first[0], asked(table)[1][0]} == {ONE, TWO}, "both come first again"
    assert resolver.asked == 3
    table.close()


def test_those_who_ask_meanwhile_share_one_look_up_and_its_failure() -> None:
    resolver = Resolver()
    table = resolver.table()
    waiting = [asked(table)[0] for _ in range(5)]
    resolver.may_answer.release()
    failures = [later() for later in waiting]
    assert {type(each) for each in failures} == {ExchangeError}
    assert "'s3.test' cannot be resolved: Temporary failure" in failures[0].reason
    assert resolver.asked == 1
    resolver.found.append(ONE)
    resolver.may_answer.release()
    assert asked(table)[0]() == [ONE], "a failure is not kept"
    table.close()


def test_beside_look_ups_that_hang_others_are_begun_but_not_without_end() -> None:
    resolver = Resolver(ONE)
    table = resolver.table()
    waiting = []
    for _ in range(3 * THREADS):
        waiting.append(asked(table)[0])
        waiting.append(asked(table)[0])
        resolver.now += CACHED_SECONDS
    resolver.may_answer.release()
    assert {tuple(later()) for later in waiting} == {(ONE,)}
    assert resolver.asked == THREADS
    resolver.may_answer.release(THREADS)
    table.close()


def test_a_closed_table_says_so() -> None:
    resolver = Resolver(ONE)
    table = resolver.table()
    table.close()
    later, at_once = asked(table)
    assert at_once is None
    assert later().reason == "the transport was closed"
    assert resolver.asked == 0
