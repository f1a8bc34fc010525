"""Many callers at once: their files go together, and each caller gets what became of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.calls import Call
from asyncsink.engine.limits.memory import SMALL_BYTES
from asyncsink.engine.recording.recorder import Completion
from asyncsink.errors import ConfigError, ExportFailed, JournalError, KeyCollision, SourceMissing
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Receipt, Skip, Transfer
from asyncsink.report.manifest import ManifestWriter, read_manifest
from asyncsink.sources.problems import examine
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import DROP, Answer, Request, StoredObject, error, quirky_s3
from tests.support.requests import until

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


@pytest.fixture
async def proxy(seaweed: DevServer) -> AsyncIterator[HoldingProxy]:
    """In front of the server; it holds the answers that a test names."""
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield proxy


def small(directory: Path, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:04}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


def right(receipt: Any, path: Path, bucket: str, prefix: str) -> bool:
    """Whether it is this file's own receipt."""
    key = f"{prefix}/{path.name}"
    return (
        isinstance(receipt, Receipt)
        and (receipt.source, receipt.key, receipt.url) == (str(path), key, f"s3://{bucket}/{key}")
        and receipt.size_bytes == path.stat().st_size
        and receipt.checksum == checksum_of(path.read_bytes(), "CRC64NVME")
        and receipt.confirmed_by == "server-checksum"
    )


async def test_every_caller_gets_its_own_receipt_and_the_manifest_one_line_for_each(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths, manifest = small(tmp_path / "s", 500), tmp_path / "manifest"
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}/p", manifest=manifest, **options) as sink:
        receipts = await asyncio.gather(*[sink.put("m", path) for path in paths])
    assert all(right(receipt, path, bucket, "p/m") for receipt, path in zip(receipts, paths, strict=True))
    assert stored() == {f"p/m/{path.name}": path.read_bytes() for path in paths}
    lines = Counter(record.key for record in read_manifest(manifest) if isinstance(record, Receipt))
    assert lines == Counter(f"p/m/{path.name}" for path in paths)
    assert sink.report.requests == 501  # one listing, and nothing is looked at that it covers


async def test_what_concerns_one_caller_is_told_to_this_caller_alone(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths = small(tmp_path / "s", 30)
    (twin,) = small(tmp_path / "t", 1)
    large, folder, twice = tmp_path / "large", tmp_path / "folder", tmp_path / "twice"
    large.write_bytes(b"l" * (SMALL_BYTES + 1))
    small(folder, 2)
    twice.write_text("twice")
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        first = [asyncio.create_task(sink.put("m", path)) for path in paths[:15]]
        missing = asyncio.create_task(sink.put("m", tmp_path / "nowhere"))
        collision = asyncio.create_task(sink.put("m", twin))
        of_large = asyncio.create_task(sink.put("m", large))
        many = asyncio.create_task(sink.put("m", folder))
        none = asyncio.create_task(sink.put("m", []))
        both = [asyncio.create_task(sink.put("m", twice)) for _ in range(2)]
        queued = asyncio.create_task(sink.submit("n", [folder, tmp_path / "nowhere", twice]))
        rest = [asyncio.create_task(sink.put("m", path)) for path in paths[15:]]
        receipts = await asyncio.gather(*first, *rest)
        assert all(right(receipt, path, bucket, "m") for receipt, path in zip(receipts, paths, strict=True))
        with pytest.raises(SourceMissing, match="nowhere"):
            await missing
        with pytest.raises(KeyCollision, match="m/0000"):
            await collision
        assert right(await of_large, large, bucket, "m")
        with pytest.raises(ConfigError, match=r"folder.* has more than one file; put takes one file"):
            await many
        with pytest.raises(ConfigError, match=r"\[\] has no file"):
            await none
        assert [type(outcome) for outcome in await asyncio.gather(*both)] == [Receipt, Skip]
        with pytest.raises(SourceMissing, match="nowhere"):
            await queued
    contents = {f"m/{path.name}": path.read_bytes() for path in [*paths, large, twice]}
    # What came before the missing one was queued, and nothing after it.
    assert stored() == contents | {f"n/folder/{name}": name[-1:].encode() for name in ("0000", "0001")}
    assert sink.report.objects_failed == 0


async def test_a_submit_stops_at_a_collision_and_leaves_later_keys_to_others(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    first, second, third = small(tmp_path / "s", 3)
    twins = small(tmp_path / "t", 3)
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", second)
        with pytest.raises(KeyCollision, match="m/0001"):
            await sink.submit("m", twins)
        assert right(await sink.put("m", third), third, bucket, "m")
        with pytest.raises(KeyCollision, match="m/0000"):
            await sink.put("m", first)
        await sink.put("m", twins[0])
    assert stored() == {"m/0000": b"0", "m/0001": b"1", "m/0002": b"2"}


async def test_cancelled_callers_take_nobody_with_them_and_nothing_away(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    """Some of a batch that is under way: it goes on. Some that have not been looked at yet: they are never sent."""
    paths, late = small(tmp_path / "s", 40), small(tmp_path / "t", 40)
    options["endpoint_url"] = proxy.endpoint_url
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        puts = [asyncio.create_task(sink.put("m", path, on_cancel="detach")) for path in paths]
        await until(lambda: proxy.seen.count("Put") == 40)
        for each in puts[::2]:
            each.cancel()
        after = [asyncio.create_task(sink.put("n", path)) for path in late]
        await asyncio.sleep(0)  # each has called, and none was taken up
        for each in after[::2]:
            each.cancel()
        ended = await asyncio.gather(*puts, *after, return_exceptions=True)
        # A key whose caller gave up before anything was queued is free.
        assert right(await sink.put("n", late[0]), late[0], bucket, "n")
    told = dict(zip([*paths, *late], ended, strict=True))
    for path in [*paths[1::2], *late[1::2]]:
        assert isinstance(told[path], Receipt)
    for path in [*paths[::2], *late[::2]]:
        assert isinstance(told[path], (asyncio.CancelledError, Receipt))
    kept = {f"m/{path.name}": path.read_bytes() for path in paths}
    kept |= {f"n/{path.name}": path.read_bytes() for path in [late[0], *late[1::2]]}
    assert stored() == kept
    assert sink.report.objects_uploaded == len(kept)


async def test_puts_of_one_key_follow_each_other_and_a_cancelled_one_lets_the_next_pass(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    sources = [tmp_path / name / "f" for name in "abcd"]
    for source in sources:
        source.parent.mkdir()
        source.write_text(source.parent.name)
    going_on = False
    proxy.hold = lambda name: "request" if name == "Put" and not going_on else ""
    options |= {"endpoint_url": proxy.endpoint_url, "retry": asyncsink.RetryPolicy(stall_seconds=1)}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", on_collision="last", **options) as sink:
        puts = [asyncio.create_task(sink.put("m", source)) for source in sources]
        await proxy.held.wait()
        assert proxy.seen.count("Put") == 1
        puts[1].cancel()
        going_on = True
        first, second, *others = await asyncio.gather(*puts, return_exceptions=True)
    assert isinstance(second, asyncio.CancelledError)
    assert all(isinstance(each, Receipt) for each in (first, *others))
    assert [receipt.source for receipt in sink.report.receipts] == [str(sources[number]) for number in (0, 2, 3)]
    assert stored() == {"m/f": b"d"}


async def test_what_is_there_already_is_found_in_the_listing_and_not_sent_again(
    tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    paths = small(tmp_path / "s", 100)
    report = await asyncsink.export({"m": [str(path) for path in paths[:60]]}, f"s3://{bucket}", **options)
    report.raise_for_failures()
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths])
    assert [type(outcome) for outcome in outcomes] == [Skip] * 60 + [Receipt] * 40
    assert sink.report.requests == 41


async def test_a_journal_skips_together_too(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    paths = small(tmp_path / "s", 50)
    options |= {"journal": tmp_path / "j.sqlite", "overwrite": "journal"}
    for expected in (Receipt, Skip):
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths])
            assert {type(outcome) for outcome in outcomes} == {expected}
            again = await asyncio.gather(*[sink.put("m", path) for path in paths])
            assert {type(outcome) for outcome in again} == {Skip}


async def test_leaving_publishes_what_callers_have_brought(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths = small(tmp_path / "s", 50)
    async with asyncio.timeout(60):
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            puts = [asyncio.create_task(sink.put("m", path)) for path in paths]
            await asyncio.sleep(0)
        assert {type(outcome) for outcome in await asyncio.gather(*puts)} == {Receipt}
        with pytest.raises(ConfigError, match="The sink is closed"):
            await sink.put("m", paths[0])
    assert len(stored()) == 50


async def test_a_file_that_takes_long_keeps_nobody_of_its_batch_back(
    tmp_path: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    paths = small(tmp_path / "s", 20)
    held: list[str] = []

    def hold_one(name: str) -> Any:
        if name == "Put" and not held:
            held.append(name)
            return "request"
        return ""

    proxy.hold = hold_one
    options |= {"endpoint_url": proxy.endpoint_url, "retry": asyncsink.RetryPolicy(stall_seconds=10)}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        puts = [asyncio.create_task(sink.put("m", path)) for path in paths]
        waiting = set(puts)
        while len(waiting) > 1:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert all(isinstance(each.result(), Receipt) for each in done)
        assert proxy.seen.count("Put") == 20  # the one that is held was not tried again yet
        assert isinstance(await waiting.pop(), Receipt)
    assert sink.report.objects_uploaded == 20


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """Paths that hang in their file system, until the event is set."""
    paths: list[str] = []
    going_on = threading.Event()

    def examine_slowly(path: str, *given: Any, **named: Any) -> Any:
        if path in paths:
            assert going_on.wait(60)
        return examine(path, *given, **named)

    monkeypatch.setattr("asyncsink.sources.outputs.examine", examine_slowly)
    yield paths, going_on
    going_on.set()


async def test_a_path_that_hangs_in_its_file_system_delays_nobody_else(
    tmp_path: Path, bucket: str, options: dict[str, Any], hanging: tuple[list[str], threading.Event]
) -> None:
    hung, *paths = small(tmp_path / "s", 20)
    hanging[0].append(str(hung))
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        puts = [asyncio.create_task(sink.put("m", path)) for path in [*paths[:10], hung, *paths[10:]]]
        late = puts.pop(10)
        try:
            assert {type(outcome) for outcome in await asyncio.gather(*puts)} == {Receipt}
            assert isinstance(await sink.put("n", paths[0]), Receipt)
            assert not late.done()
        finally:
            hanging[1].set()
        assert isinstance(await late, Receipt)


async def test_a_path_that_hangs_does_not_keep_a_sink_open_that_is_stopped(
    tmp_path: Path, bucket: str, options: dict[str, Any], hanging: tuple[list[str], threading.Event]
) -> None:
    hung, path = small(tmp_path / "s", 2)
    hanging[0].append(str(hung))
    async with asyncio.timeout(50):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
                late = asyncio.create_task(sink.put("m", hung))
                await sink.put("m", path)
                _ = 1 / 0
        with pytest.raises(ExportFailed, match=r"closed before .*0000.* was published"):
            await late


async def test_more_paths_that_hang_than_there_are_threads_begin_nothing_more(
    tmp_path: Path,
    bucket: str,
    options: dict[str, Any],
    hanging: tuple[list[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncsink.engine.intake.HANGING_SECONDS", 0.001)
    hung = small(tmp_path / "s", 100)
    hanging[0].extend(map(str, hung))
    async with asyncio.timeout(50), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        intake = sink._session.intake
        assert intake is not None
        puts: list[asyncio.Task[Any]] = []
        while intake.thread_calls < intake._threads_max:
            puts.append(asyncio.create_task(sink.put("m", hung[len(puts)])))
            await asyncio.sleep(0.01)
        puts += [asyncio.create_task(sink.put("m", path)) for path in hung[len(puts) :]]
        await asyncio.sleep(0.05)
        before = len(asyncio.all_tasks())
        await asyncio.sleep(0.2)
        assert len(asyncio.all_tasks()) == before
        hanging[1].set()
        assert {type(outcome) for outcome in await asyncio.gather(*puts)} == {Receipt}


async def test_a_caller_who_gives_up_on_a_path_that_hangs_leaves_nothing_behind(
    tmp_path: Path, bucket: str, options: dict[str, Any], hanging: tuple[list[str], threading.Event]
) -> None:
    """Its key is free, and the sink is left as if it had never come."""
    (hung, late), (twin, _) = small(tmp_path / "s", 2), small(tmp_path / "t", 2)
    hanging[0].append(str(hung))
    async with asyncio.timeout(50), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        intake = sink._session.intake
        assert intake is not None
        put = asyncio.create_task(sink.put("m", hung))
        await asyncio.sleep(0)
        await until(lambda: intake.thread_calls == 1)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        hanging[1].set()
        await until(lambda: intake.thread_calls == 0)
        assert isinstance(await sink.put("m", twin), Receipt)
        hanging[1].clear()
        hanging[0].append(str(late))
        put = asyncio.create_task(sink.put("n", late))
        await asyncio.sleep(0)
        await until(lambda: intake.thread_calls == 1)
        put.cancel()
    assert not hanging[1].is_set()
    assert sink.report.objects_uploaded == 1


async def test_callers_that_come_while_a_sink_breaks_down_are_told_why(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every turn of the event loop comes one, also in those in which the sink ends what is under way."""
    paths = small(tmp_path / "s", 50)
    puts: list[asyncio.Task[Any]] = []

    async def full(self: ManifestWriter, lines: Any) -> None:
        raise JournalError("no space left")

    async def keep_coming(sink: asyncsink.AsyncSink) -> None:
        while sink._session.fault is None:
            puts.append(asyncio.create_task(sink.put("m", paths[len(puts) % len(paths)])))
            await asyncio.sleep(0)

    monkeypatch.setattr(ManifestWriter, "write", full)
    async with asyncio.timeout(50):
        with pytest.raises(JournalError, match="no space left"):
            async with asyncsink.AsyncSink(f"s3://{bucket}", manifest=tmp_path / "manifest", **options) as sink:
                await keep_coming(sink)
        told = await asyncio.gather(*puts, return_exceptions=True)
    assert {type(each) for each in told} == {ExportFailed}


# -- keys that no listing tells of -------------------------------------------------------------------------------------


async def test_where_the_listing_is_old_each_key_is_asked_once_and_what_is_there_is_not_sent_again(
    tmp_path: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncsink.destinations.existing_objects.LISTING_SECONDS_MAX", -1.0)
    paths = small(tmp_path / "s", 100)
    report = await asyncsink.export({"m": [str(path) for path in paths[:60]]}, f"s3://{bucket}", **options)
    report.raise_for_failures()
    paths[59].write_text("changed")
    options["endpoint_url"] = proxy.endpoint_url
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths])
    assert [type(outcome) for outcome in outcomes] == [Skip] * 59 + [Receipt] * 41
    assert Counter(proxy.seen) == {"List": 1, "Head": 100, "Put": 41}
    assert sink.report.requests == 142


@pytest.mark.parametrize("heads", ["allowed", "denied"])
async def test_credentials_that_may_not_list_ask_by_head_and_are_told_of_it_once(
    tmp_path: Path, heads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = small(tmp_path / "s", 30)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")

    def quirk(r: Request) -> Answer | None:
        if not r.key and r.method == "GET":
            return error(403, "AccessDenied")
        if r.query.get("partNumber"):
            return error(404, "NoSuchUpload")
        return error(403, "AccessDenied") if r.method == "HEAD" and heads == "denied" else None

    with quirky_s3(quirk) as s3:
        for path in paths[:10]:
            s3.objects["tryout"][f"m/{path.name}"] = StoredObject(path.read_bytes())
        options = {"endpoint_url": s3.url, "region": "us-east-1"}
        async with asyncio.timeout(60), asyncsink.AsyncSink("s3://tryout", journal=False, **options) as sink:
            outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths])
        there: type = Skip if heads == "allowed" else Receipt
        assert [type(outcome) for outcome in outcomes] == [there] * 10 + [Receipt] * 20
        assert len([request for request in s3.requests("GET") if not request.key]) == 1
        assert len(s3.requests("HEAD")) == 30
    assert len([notice for notice in sink.report.notices if "listed" in notice or "HEAD" in notice]) == 1


async def test_a_head_that_says_nothing_of_use_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, a connection that is closed without an answer, and a size that is none: none of them is "not there"."""
    paths = small(tmp_path / "s", 30)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setattr("asyncsink.destinations.existing_objects.LISTING_SECONDS_MAX", -1.0)
    harmed: set[str] = set()

    def quirk(r: Request) -> Answer | Literal["drop"] | None:
        if r.method != "HEAD" or r.key in harmed:
            return None
        harmed.add(r.key)
        number = int(r.key[-2:])
        if number == 7:
            return DROP
        return error(503, "SlowDown") if number == 8 else error(404, "x", headers={"Connection": "close"})

    with quirky_s3(quirk) as s3:
        for path in paths:
            s3.objects["tryout"][f"m/{path.name}"] = StoredObject(path.read_bytes())
        options = {"endpoint_url": s3.url, "region": "us-east-1", "overwrite": "never"}
        retry = asyncsink.RetryPolicy(backoff_seconds_base=0.01)
        async with (
            asyncio.timeout(60),
            asyncsink.AsyncSink("s3://tryout", journal=False, retry=retry, **options) as sink,
        ):
            outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths[7:9]])
        assert [type(outcome) for outcome in outcomes] == [Skip] * 2
        assert not s3.requests("PUT")


async def test_what_is_done_leaves_nothing_in_memory(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    """Neither in workers that wait for more, nor in circles that only a pause for the garbage collector ends."""
    paths = small(tmp_path / "s", 200)

    def left() -> list[object]:
        return [each for each in gc.get_objects() if type(each) in (Call, Transfer, Receipt, Completion)]

    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        gc.collect()
        gc.disable()
        try:
            before = len(left())
            await asyncio.gather(*[sink.put("m", path) for path in paths])
            await asyncio.gather(*[sink.submit("n", path) for path in paths])
            await until(lambda: sink._session.run is not None and sink._session.run.log.counts.objects_uploaded == 400)
            await until(lambda: len(left()) <= before)
        finally:
            gc.enable()
