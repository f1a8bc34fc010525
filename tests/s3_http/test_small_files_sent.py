"""Small files as one operation: each is proven or given back, whatever happens to the others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    ClockSkew,
    ConnectionLost,
    ExpiredCredentials,
    ServerFault,
    SourceChanged,
    Stalled,
    Throttled,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import ChecksumAlgorithm, Secret
from asyncsink.s3.http import lane_pool
from asyncsink.s3.http.lane import Lane
from asyncsink.s3.operations import (
    NO_ATTRIBUTES,
    AbortMultipartUpload,
    Done,
    FilesPut,
    FileStored,
    FileToPut,
    HeadObject,
    ObjectAttributes,
    Ordinary,
    PutFiles,
    PutObject,
)
from asyncsink.s3.pacing import Bandwidth, Pacer
from asyncsink.testing.peers import CannedPeer, SilentPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT
from tests.support.requests import DENIED, SLOW_DOWN, Open, header, read_request, until

pytestmark = pytest.mark.anyio
Act = Callable[[str, bytes, bytes], bytes]


class Store(CannedPeer):
    """A server that stores what it is sent, repeats checksums, and does what it is told with some keys.

    Args:
        acts: by key, a function of key, head and body that gives the answer; b"" hangs up without one.
    """

    def __init__(self, **acts: Act) -> None:
        super().__init__(b"")
        self.acts = acts
        self.objects: dict[str, bytes] = {}
        self.attempts: Counter[str] = Counter()
        self.busy = self.busiest = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        while True:
            head, body = await read_request(reader)
            self.heads.append(head)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            await asyncio.sleep(0)
            key = head.split(b" ", 2)[1].removeprefix(b"/bkt/").decode()
            self.attempts[key] += 1
            answer = self.acts[key](key, head, body) if key in self.acts else self.stored(key, head, body)
            self.busy -= 1
            if not answer:
                return
            writer.write(answer)
            await writer.drain()

    def stored(self, key: str, head: bytes, body: bytes) -> bytes:
        """Store it, and repeat its checksum."""
        self.objects[key] = body
        return canned(200, b"", f'ETag: "{len(body)}"', *repeated(head))


def repeated(head: bytes) -> list[str]:
    """The checksum header of a request."""
    return [line.decode() for line in head.split(b"\r\n") if line.startswith(b"x-amz-checksum-")]


class Reader:
    """Gives each file its own bytes, which are its source, or does what its source does."""

    def __init__(self) -> None:
        self.closed = 0
        self.threads: set[str] = set()

    def read(self, source: Any, room: memoryview) -> bool:
        """Fill the room."""
        assert not self.closed
        self.threads.add(threading.current_thread().name)
        if callable(source):
            found = source()
            if isinstance(found, bool):
                return found
            source = found
        assert len(room) == len(source) + 1
        room[: len(source)] = source
        return True

    def close(self) -> None:
        """Count."""
        self.closed += 1


def batch(
    files: dict[str, Any], algorithm: ChecksumAlgorithm = "CRC64NVME", attributes: ObjectAttributes = NO_ATTRIBUTES
) -> tuple[PutFiles, Reader]:
    """The operation, and its reader; a source is its bytes, or a size and a function."""
    reader = Reader()
    wanted = []
    for key, source in files.items():
        size, what = source if isinstance(source, tuple) else (len(source), source)
        wanted.append(FileToPut(key, size, attributes, what))
    return PutFiles(files=wanted, algorithm=algorithm, reader=reader, results=[None] * len(wanted)), reader


def some(number: int) -> dict[str, bytes]:
    """Files of different sizes and bytes, an empty one among them."""
    return {f"k{each}": bytes([each % 251]) * (each * 37 % 4000) for each in range(number)}


async def send(transport: Any, files: dict[str, Any], **named: Any) -> dict[str, Any]:
    """Results by key."""
    operation, reader = batch(files, **named)
    answer = await transport.send(operation)
    assert isinstance(answer, FilesPut)
    assert reader.closed == 1
    assert len(operation.results) == len(files)
    assert answer.stored == sum(isinstance(result, FileStored) for result in operation.results)
    return dict(zip(files, operation.results, strict=True))


def given_back(results: Any, *kinds: type[BaseException]) -> None:
    """Nothing of it is stored: the first failed in one of these ways, and the others did too, or were not begun."""
    told = list(results)
    failed = [each for each in told if each is not None]
    assert failed
    assert all(isinstance(each, Ordinary) and isinstance(each.failed, kinds or type(None)) for each in failed)


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32", "CRC32C", "SHA256"])
async def test_each_file_is_proven(wire: Open, algorithm: ChecksumAlgorithm) -> None:
    files = some(60)
    async with Store() as peer, wire(peer.endpoint_url) as transport:
        results = await send(transport, files, algorithm=algorithm)
    assert peer.objects == files
    for key, body in files.items():
        result = results[key]
        assert isinstance(result, FileStored)
        assert result.checksum == checksum_of(body, algorithm)
        assert (result.etag, result.version_id, result.sse) == (str(len(body)), "", "")
        assert 0 <= result.seconds < 60
    assert transport._lanes._shared.pacer.traffic.requests == len(files)
    assert transport._lanes._shared.pacer.traffic.retries == 0
    assert transport._lanes._shared.pacer.take_window().bytes == sum(map(len, files.values()))


async def test_a_thousand_files_over_four_connections(wire: Open) -> None:
    files = some(1000)
    pacer = Pacer(4)
    async with Store() as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        results = await send(transport, files)
        assert peer.connections_total == 4
        assert peer.busiest <= 4
        assert pacer.in_flight == 0
        window = pacer.take_window()
        assert (window.requests, window.errors, window.throttled, window.saturated) == (1000, 0, 0, True)
    assert peer.objects == files
    assert all(isinstance(result, FileStored) for result in results.values())


@pytest.mark.parametrize("grows", [True, False])
async def test_a_queue_that_changes_while_an_exchange_ends_costs_no_token(
    wire: Open, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    """The event loop adds work, and others take it away, between any two looks of a lane at its queue."""

    class Changing:
        def __init__(self, queue: deque[Any]) -> None:
            self.append, self._looks = queue.append, 0

        def __bool__(self) -> bool:
            self._looks += 1
            return (self._looks == 1) != grows

    ended = Lane.ended

    def ended_meanwhile(self: Lane, *given: Any, **named: Any) -> None:
        queue, self._queue = self._queue, Changing(self._queue)  # type: ignore[assignment]
        try:
            ended(self, *given, **named)
        finally:
            self._queue = queue

    monkeypatch.setattr(Lane, "ended", ended_meanwhile)
    pacer = Pacer(4)
    async with Store() as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        groups = [{f"{group}-{key}": body for key, body in some(30).items()} for group in range(3)]
        async with asyncio.timeout(30):
            for results in await asyncio.gather(*(send(transport, files) for files in groups)):
                assert all(isinstance(result, FileStored) for result in results.values())
        await until(lambda: repr(pacer) == "<Pacer 0 of 4 in flight, 0 waiting>")


async def test_several_batches_share_the_connections(wire: Open) -> None:
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(8)) as transport:
        groups = [{f"{group}-{key}": body for key, body in some(50).items()} for group in range(10)]
        done = await asyncio.gather(*(send(transport, files) for files in groups))
        await transport.send(PutObject(key="x", body=b"x"))
        assert peer.connections_total <= 8
    assert all(isinstance(result, FileStored) for results in done for result in results.values())
    assert len(peer.objects) == 501


async def test_attributes_and_what_the_server_says_of_the_object(wire: Open) -> None:
    def answer(key: str, head: bytes, body: bytes) -> bytes:
        return canned(
            200, b"", 'ETag: "a.b-c_d"', "x-amz-version-id: 3/L4k+J=", "x-amz-server-side-encryption: aws:kms",
            *repeated(head),
        )  # fmt: skip

    attributes = ObjectAttributes(
        content_type="text/x", metadata=(("a", "b"),), sse_customer_key=Secret(b"0123456789abcdef0123456789abcdef")
    )
    async with Store(k=answer) as peer, wire(peer.endpoint_url) as transport:
        result = (await send(transport, {"k": b"x"}, attributes=attributes))["k"]
    assert (result.etag, result.version_id, result.sse) == ("a.b-c_d", "3/L4k+J=", "aws:kms")
    head = peer.heads[0]
    assert (header(head, b"content-type"), header(head, b"x-amz-meta-a")) == (b"text/x", b"b")
    assert base64.b64decode(header(head, b"x-amz-server-side-encryption-customer-key")).startswith(b"0123456789")


def chunked(key: str, head: bytes, body: bytes) -> bytes:
    """Proof in other words."""
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", 'ETag: "e"', *repeated(head), "", "0", "", ""]
    return "\r\n".join(lines).encode()


def said(answer: bytes) -> Act:
    """The same answer to everybody."""
    return lambda key, head, body: answer


PROVEN: dict[str, Act] = {
    "chunked": chunked,
    "with a body": lambda key, head, body: canned(200, b"<Ok/>", 'ETag: "e"', *repeated(head)),
    "after an interim one": lambda key, head, body: (
        b"HTTP/1.1 100 Continue\r\n\r\n" + canned(200, b"", 'ETag: "e"', *repeated(head))
    ),
    "and then closes": lambda key, head, body: canned(200, b"", 'ETag: "e"', "Connection: close", *repeated(head)),
}
UNPROVEN: dict[str, tuple[Act, type[BaseException] | None]] = {
    "denied": (said(DENIED), AccessDenied),
    "slow down": (said(SLOW_DOWN), Throttled),
    "bare": (said(canned(200, b"", 'ETag: "e"')), None),
    "another checksum": (said(canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")), None),
    "an error with status 200": (said(canned(200, b"<Error><Code>InternalError</Code></Error>")), ServerFault),
    "lost": (said(b""), ConnectionLost),
    "no HTTP": (said(b"\x16\x03\x01\x02\x00"), ConnectionLost),
    "composite": (
        lambda key, head, body: canned(200, b"", 'ETag: "e"', "x-amz-checksum-type: COMPOSITE", *repeated(head)),
        None,
    ),
}
NO_ANSWERS: dict[str, str] = {
    "a folded line": "X-A: b\r\n c: d",
    "a space before the colon": "x-amz-checksum-type : COMPOSITE",
    "a bare line feed in a name": "a\nTransfer-Encoding: chunked",
    "a bare line feed in a value": "x-amz-server-side-encryption: AES256\nX-A: b",
    "a bare carriage return": "a\rb: c",
    "a control character": "X-A: b\x01",
    "no name": ": c",
}
"""Lines that no HTTP answer has: who reads them in one way and who reads them in another see two answers."""


@pytest.mark.parametrize("how", NO_ANSWERS)
async def test_an_answer_that_is_no_http_proves_nothing(wire: Open, how: str) -> None:
    def answer(key: str, head: bytes, body: bytes) -> bytes:
        return canned(200, b"", 'ETag: "e"', *repeated(head), NO_ANSWERS[how])

    async with Store(k=answer) as peer, wire(peer.endpoint_url) as transport:
        given_back((await send(transport, {"k": b"x"})).values(), ConnectionLost)


async def test_values_behind_many_spaces_are_read_in_one_way_only(wire: Open) -> None:
    """Trying each number of spaces for each line would take years, and hold all threads of the process."""
    lines = [f"X-{number}:{' ' * 60}v" for number in range(12)]

    def answer(key: str, head: bytes, body: bytes) -> bytes:
        return canned(200, b"", *repeated(head), *lines, 'ETag: "!"')

    async with Store(k=answer) as peer, wire(peer.endpoint_url) as transport:
        assert (await send(transport, {"k": b"x"}))["k"].etag == "!"


async def test_a_control_character_in_an_answer_that_is_laid_out_as_those_before_is_refused(wire: Open) -> None:
    def dated(date: str) -> Act:
        return lambda key, head, body: canned(200, b"", f"Date: {date}", *repeated(head))

    async with Store(a=dated("x"), b=dated("x\0")) as peer, wire(peer.endpoint_url, pacer=Pacer(1)) as transport:
        results = await send(transport, {"a": b"a", "b": b"b"})
    assert isinstance(results["a"], FileStored)
    given_back([results["b"]], ConnectionLost)


@pytest.mark.parametrize("how", PROVEN)
async def test_proof_in_other_words_is_proof(wire: Open, how: str) -> None:
    files = some(20)
    async with Store(k7=PROVEN[how]) as peer, wire(peer.endpoint_url, pacer=Pacer(3)) as transport:
        results = await send(transport, files)
    assert all(isinstance(result, FileStored) for result in results.values())
    assert results["k7"].checksum == checksum_of(files["k7"], "CRC64NVME")
    assert results["k7"].etag == "e"


async def test_answers_that_are_laid_out_each_in_its_own_way(wire: Open) -> None:
    """Header names in any case and order, more or fewer of them: each object is told with what its own answer says."""
    layouts: list[tuple[list[str], tuple[str, str, str]]] = [
        (['ETag: "e1"', "x-amz-version-id: v1"], ("e1", "v1", "")),
        (["x-amz-version-id: v2", 'eTAG: "e2"', "x-amz-server-side-encryption: AES256"], ("e2", "v2", "AES256")),
        (["X-AMZ-VERSION-ID:v3", "etag:e3", "x-amz-server-side-encryption: aws:kms"], ("e3", "v3", "aws:kms")),
        (["x-amz-checksum-type: FULL_OBJECT", 'ETag: "e4"', "X-Own: a:b, c"], ("e4", "", "")),
        (["x-amz-server-side-encryption-customer-algorithm: AES256", 'ETag: W/"e 5"'], ("e 5", "", "customer")),
        (["Date: "], ("", "", "")),
        (['ETag: "e6"', 'ETag: "e7"'], ("e7", "", "")),
    ]  # fmt: skip

    def laid_out(lines: list[str]) -> Act:
        return lambda key, head, body: canned(200, b"", *lines, *repeated(head))

    order = [layouts[number * 5 % len(layouts)] for number in range(28)]
    files = {f"k{number}": bytes([number]) for number in range(len(order))}
    acts = {f"k{number}": laid_out(lines) for number, (lines, _) in enumerate(order)}
    async with Store(**acts) as peer, wire(peer.endpoint_url, pacer=Pacer(3)) as transport:
        results = await send(transport, files)
    told = [(results[key].etag, results[key].version_id, results[key].sse) for key in files]
    assert told == [expected for _, expected in order]
    assert all(results[key].checksum == checksum_of(body, "CRC64NVME") for key, body in files.items())


@pytest.mark.parametrize("how", UNPROVEN)
async def test_one_that_is_not_proven_is_given_back_and_ends_the_batch(wire: Open, how: str) -> None:
    """How sending it ended is told with it; what was under way is stored, and the rest is for the next batch."""
    files = some(20)
    pacer = Pacer(3)
    act, failed = UNPROVEN[how]
    async with Store(k7=act) as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        results = await send(transport, files)
        window = pacer.take_window()
        ordinary = results.pop("k7")
        left = {key: files[key] for key, result in results.items() if result is None}
        assert left
        results |= await send(transport, left)
    assert isinstance(ordinary, Ordinary)
    assert isinstance(ordinary.failed, failed or type(None))
    assert all(isinstance(result, FileStored) for result in results.values())
    # A kept connection that is lost before an answer may have been closed for being idle: once more, on a new one.
    assert peer.attempts["k7"] in ((1, 2) if how == "lost" else (1,))
    assert window.throttled == (how == "slow down")
    assert window.errors == (how in ("denied", "lost", "no HTTP", "an error with status 200"))


async def test_a_file_that_changed_is_its_own_failure_and_one_that_is_strange_is_given_back(wire: Open) -> None:
    def changed() -> bool:
        raise SourceChanged("it is another file now")

    def broken() -> bool:
        raise ZeroDivisionError

    files: dict[str, Any] = some(9)
    files |= {"changed": (3, changed), "strange": (3, lambda: False), "broken": (3, broken)}
    pacer = Pacer(2)
    async with Store() as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        results = await send(transport, files)
        assert pacer.take_window().requests == 9, "what was not sent is not counted"
    assert isinstance(results.pop("changed"), SourceChanged)
    assert (results.pop("strange"), results.pop("broken")) == (Ordinary(), Ordinary())
    assert all(isinstance(result, FileStored) for result in results.values())
    assert set(peer.objects) == set(results)


async def test_a_key_that_cannot_be_sent_is_its_own_failure(wire: Open) -> None:
    async with Store() as peer, wire(peer.endpoint_url) as transport:
        results = await send(transport, {"\udc80": b"x", "k": b"y"})
    assert isinstance(results["\udc80"], AsyncSinkError)
    assert peer.objects == {"k": b"y"}


async def test_nobody_there_gives_every_file_back(wire: Open) -> None:
    pacer = Pacer(4)
    async with wire("http://127.0.0.1:1", pacer=pacer) as transport:
        results = await send(transport, some(20))
        given_back(results.values(), ConnectionLost)
        tried = [each for each in results.values() if each is not None]
        assert pacer.take_window().errors == len(tried)
        assert 1 <= len(tried) <= 4, "whoever has no connection yet is not to wait for one in vain"
        assert all(isinstance(each.failed.__cause__, ConnectionRefusedError) for each in tried)


async def test_a_server_that_never_answers_gives_every_file_back(wire: Open) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        given_back((await send(transport, some(20))).values(), Stalled)


async def test_a_thread_that_cannot_be_had_raises_for_the_whole_batch(
    wire: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    async with Store() as peer, wire(peer.endpoint_url) as transport:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(ConnectionLost, match="no thread could be started"):
                await send(transport, some(3))
        assert len(await send(transport, some(3))) == 3


async def test_a_connection_that_went_stale_is_replaced(wire: Open) -> None:
    class Short(Store):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head, body = await read_request(reader)
            writer.write(self.stored(head.split(b" ", 2)[1].removeprefix(b"/bkt/").decode(), head, body))

    files = some(12)
    async with Short() as peer, wire(peer.endpoint_url, pacer=Pacer(2)) as transport:
        results = await send(transport, files)
    assert all(isinstance(result, FileStored) for result in results.values())
    assert peer.objects == files


async def test_cancelled_in_the_middle_nothing_more_is_sent(wire: Open) -> None:
    """And it propagates when nothing reads any more."""
    reached = asyncio.Event()
    release = asyncio.Event()

    class Slow(Store):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head, body = await read_request(reader)
                self.heads.append(head)
                if len(self.heads) >= 20:
                    reached.set()
                    await release.wait()
                writer.write(self.stored("k", head, body))

    pacer = Pacer(4)
    async with Slow() as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        operation, reader = batch(some(500))
        sending = asyncio.create_task(transport.send(operation))
        other = asyncio.create_task(transport.send(PutObject(key="other", body=b"x")))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert reader.closed == 1
        sent = len(peer.heads)
        release.set()
        assert (await other).etag
        assert len(await send(transport, {"k": b"x"})) == 1
        assert len(peer.heads) <= sent + 1 + 4, "what was under way, and what came after"
        assert pacer.in_flight == 0


async def test_cancelled_before_its_turn_nothing_is_sent_or_read(wire: Open) -> None:
    async with SilentPeer() as peer, wire(peer.endpoint_url, pacer=Pacer(1)) as transport:
        first = asyncio.create_task(transport.send(PutObject(key="k", body=b"x")))
        await until(lambda: peer.connections_total == 1)
        operation, reader = batch(some(50))
        second = asyncio.create_task(transport.send(operation))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second], timeout=30)
        assert second.cancelled()
        assert (reader.closed, reader.threads) == (1, set())
        first.cancel()
        await asyncio.wait([first])


async def test_closing_ends_a_batch(wire: Open) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url, pacer=Pacer(2)) as transport:
        operation, reader = batch(some(50))
        sending = asyncio.create_task(transport.send(operation))
        await until(lambda: peer.connections_total == 2)
        await transport.aclose()
        assert (await sending).stored == 0
        given_back(operation.results, ConnectionLost)
        assert reader.closed == 1
        with pytest.raises(ConnectionLost, match="closed"):
            await transport.send(batch(some(3))[0])


async def test_credentials_that_expire_in_the_middle(wire: Open, keys: Any) -> None:
    """The rest of the batch is not sent with them; the next request asks for others."""
    asked = 0

    async def credentials() -> Any:
        nonlocal asked
        asked += 1
        return keys(access_key_id=f"AKID{asked}")

    files = some(200)
    expired = canned(400, b"<Error><Code>ExpiredToken</Code></Error>")

    class Strict(Store):
        def stored(self, key: str, head: bytes, body: bytes) -> bytes:
            if b"AKID1/" in head and len(self.objects) >= 50:
                return expired
            return super().stored(key, head, body)

    async with Strict() as peer, wire(peer.endpoint_url, credentials=credentials, pacer=Pacer(4)) as transport:
        results = await send(transport, files)
        assert sum(isinstance(result, FileStored) for result in results.values()) == 50
        left = {key: result for key, result in results.items() if not isinstance(result, FileStored)}
        given_back(left.values(), ExpiredCredentials)
        assert len(peer.heads) <= 50 + 4, "those that were under way"
        again = await send(transport, {key: files[key] for key in left})
        assert all(isinstance(result, FileStored) for result in again.values())
        assert (asked, peer.objects) == (2, files)


async def test_a_clock_that_is_wrong(wire: Open) -> None:
    then = datetime.now(UTC) + timedelta(days=400)
    date = f"Date: {format_datetime(then, usegmt=True)}"
    skewed = canned(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", date)

    class Ahead(Store):
        def stored(self, key: str, head: bytes, body: bytes) -> bytes:
            ours = header(head, b"x-amz-date").startswith(then.strftime("%Y%m").encode())
            return super().stored(key, head, body) if ours else skewed

    files = some(40)
    async with Ahead() as peer, wire(peer.endpoint_url, pacer=Pacer(4)) as transport:
        given_back((await send(transport, files)).values(), ClockSkew)
        assert len(peer.heads) <= 4
        assert all(isinstance(each, FileStored) for each in (await send(transport, files)).values())
        with contextlib.suppress(ClockSkew):
            await transport.send(HeadObject(key="k"))


@contextlib.contextmanager
def hanging() -> Iterator[tuple[threading.Event, Callable[[], bytes]]]:
    """An event that is set when a read hangs, and the read; leaving the block lets go of it."""
    entered, release = threading.Event(), threading.Event()

    def read() -> bytes:
        entered.set()
        assert release.wait(60)
        return b"abc"

    try:
        yield entered, read
    finally:
        release.set()


@pytest.mark.parametrize("tokens", [2, 4, 64])
async def test_a_read_that_hangs_holds_up_its_own_lane_only(wire: Open, tokens: int) -> None:
    """What waits goes on in another lane, even where every token that there is was taken by the lane that hangs."""
    files: dict[str, Any] = some(200)
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(tokens)) as transport:
        with hanging() as (entered, read):
            operation, _ = batch({"hangs": (3, read), **files})
            sending = asyncio.create_task(transport.send(operation))
            await asyncio.to_thread(entered.wait)
            async with asyncio.timeout(30):
                assert await transport.send(PutObject(key="other", body=b"x"))
                assert len(await send(transport, some(50))) == 50
                # The rest of the batch is not held up either, but for what that lane had in its hands.
                await until(lambda: len(peer.objects) >= 201 - tokens)
            assert not sending.done()
        assert (await sending).stored == len(files) + 1
    assert peer.objects["hangs"] == b"abc"


async def test_an_abort_does_not_wait_for_a_read_that_hangs(wire: Open) -> None:
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(4)) as transport:
        peer.acts["k?uploadId=u"] = lambda key, head, body: canned(204, b"")
        with hanging() as (entered, read):
            sending = asyncio.create_task(transport.send(batch({"hangs": (3, read)})[0]))
            await asyncio.to_thread(entered.wait)
            async with asyncio.timeout(30):
                assert await transport.send(AbortMultipartUpload(key="k", upload_id="u")) == Done()
            assert not sending.done()
        assert (await sending).stored == 1


async def test_reads_that_hang_in_every_lane_are_bounded(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_pool, "STUCK_SECONDS", 0.02)
    monkeypatch.setattr(lane_pool, "HUNG_SECONDS", 0.05)
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(2)) as transport:
        with hanging() as (_, read):
            files = {f"hangs{number}": (3, read) for number in range(12)}
            sending = [asyncio.create_task(transport.send(batch({key: file})[0])) for key, file in files.items()]
            await until(
                lambda: sum(bool(lane.began_at) for lane in transport._lanes.small) == lane_pool.SMALL_LANES_MAX
            )
            assert len(transport._lanes.small) == lane_pool.SMALL_LANES_MAX
        for task in sending:
            assert (await task).stored == 1
        await until(lambda: repr(transport._lanes._shared.pacer) == "<Pacer 0 of 2 in flight, 0 waiting>")


async def test_cancelled_while_a_read_hangs_it_waits_for_that_read_and_sends_nothing(wire: Open) -> None:
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(1)) as transport:
        with hanging() as (entered, read):
            operation, reader = batch({"hangs": (3, read), **some(20)})
            sending = asyncio.create_task(transport.send(operation))
            await asyncio.to_thread(entered.wait)
            sending.cancel()
            await asyncio.sleep(0.01)
            assert not sending.done()
            assert not reader.closed
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert reader.closed == 1
        assert not peer.heads


async def test_a_limited_bandwidth_bounds_small_files_too(wire: Open) -> None:
    """Borrowed bodies that wait for their turn are not overwritten by those after them."""
    bandwidth = Bandwidth(1_000_000)
    files = {f"k{number}": os.urandom(20_000) for number in range(30)}
    async with Store() as peer, wire(peer.endpoint_url, pacer=Pacer(8), bandwidth=bandwidth) as transport:
        results = await send(transport, files)
    assert all(isinstance(result, FileStored) for result in results.values())
    assert peer.objects == files


@pytest.mark.parametrize("size", [100, 20_000, 900_000])
async def test_bodies_that_the_kernel_does_not_take_at_once(
    wire: Open, authority: Any, tls_proxy: Any, tmp_path: Path, size: int
) -> None:
    """Several are half sent at a time, plain and behind TLS; the lane's buffer serves them all."""

    class Small(Store):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.02)
            await super().serve(reader, writer)

    files = {f"k{number}": os.urandom(size) for number in range(12)}
    async with Small() as peer:
        host, port = peer.endpoint_url.removeprefix("http://").split(":")
        async with tls_proxy(host, int(port), authority.server_context("localhost")) as proxy:
            for url, ca_bundle in ((peer.endpoint_url, ""), (proxy.url, authority.path)):
                peer.objects.clear()
                async with wire(url, ca_bundle=ca_bundle) as transport:
                    results = await send(transport, files)
                assert all(isinstance(result, FileStored) for result in results.values())
                assert peer.objects == files


async def test_a_certificate_of_nobody_known_gives_every_file_back_unsent(wire: Open, authority: Any) -> None:
    async with CannedPeer(b"", tls=authority.server_context("127.0.0.1")) as peer:
        async with wire(peer.endpoint_url) as transport:
            given_back((await send(transport, some(5))).values())
        assert not peer.heads
