"""SyncSink and SyncReader: synchronous code of any thread over one loop in the background, in forks, at exit, and when
it is interrupted."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.options.settings import KIB, MIB
from tests.support.processes import run
from tests.support.quirky_s3 import QuirkyS3, StoredObject, error

LARGE = os.urandom(3 * MIB + 17)


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "asyncsink-loop"]


def test_reading(options: dict[str, Any], put: Any, bucket: str) -> None:
    put({"p/small": b"small", "p/large": LARGE, "p/a/b.nii": b"1"})
    with asyncsink.SyncReader(f"s3://{bucket}/p", **options) as reader:
        assert reader.get("small") == b"small"
        assert reader.get("large", -5) == LARGE[-5:]
        assert reader.get_object("large").confirmed_by in ("server-checksum", "etag")
        assert reader.head("small").size_bytes == 5
        assert [entry.key for entry in reader.list(match="**/*.nii")] == ["a/b.nii"]
        stream = reader.stream("large")
        assert b"".join(stream) == LARGE
        assert (stream.size_bytes, stream.etag) == (len(LARGE), reader.head("large").etag)
        assert stream.confirmed_by in ("server-checksum", "etag")
        with reader.stream("large") as left:
            assert len(next(left)) == 256 * KIB
        with pytest.raises(asyncsink.ObjectMissing):
            reader.get("none")
        with pytest.raises(asyncsink.InvalidKey):
            reader.stream("../x")
        with pytest.raises(asyncsink.ConfigError, match="match="):
            next(reader.list(match=""))
    with pytest.raises(asyncsink.ConfigError, match="This SyncReader is closed; make another one"):
        reader.get("small")
    reader.close()


def test_a_listing_of_many_entries(server: QuirkyS3) -> None:
    server.objects["tryout"] = {f"{number:04}": StoredObject(b"") for number in range(1234)}
    with asyncsink.SyncReader("s3://tryout", endpoint_url=server.url) as reader:
        assert len({entry.key for entry in reader.list()}) == 1234


def test_many_threads_share_one_loop(options: dict[str, Any], put: Any, bucket: str) -> None:
    put({str(number): str(number).encode() for number in range(40)})
    reader = asyncsink.SyncReader(f"s3://{bucket}", **options)
    other = asyncsink.SyncReader(f"s3://{bucket}", **options)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda number: (reader if number % 2 else other).get(str(number)), range(40)))
    assert found == [str(number).encode() for number in range(40)]
    assert len(loops()) == 1
    reader.close()
    other.close()


def test_publishing(options: dict[str, Any], tree: Path, bucket: str, stored: Callable[[], dict[str, bytes]]) -> None:
    with asyncsink.SyncSink(f"s3://{bucket}/p", **options) as sink:
        receipt = sink.put("motion", tree / "a.txt")
        assert isinstance(receipt, asyncsink.Receipt)
        assert sink.submit("many", [tree / "empty", tree / "sub"]) > 1
        assert sink.put_bytes("bytes.json", b"{}", content_type="application/json").key == "p/bytes.json"
        with (tree / "sub" / "large.nii.gz").open("rb") as file:
            sink.put_stream("file", file)
        sink.put_stream("chunks", iter([b"one", b"two"]), size_bytes=6)
        sink.flush()
        assert "p/motion/a.txt" in stored()
        assert (stored()["p/chunks"], len(stored()["p/file"])) == (b"onetwo", (1 << 24) + 1)
        assert sink.stats().published == 8
        with pytest.raises(asyncsink.SourceMissing):
            sink.put("motion", tree / "nowhere")
        with pytest.raises(asyncsink.SourceError) as caught:
            sink.put_stream("broken", (1 // number for number in (0,)))  # type: ignore[arg-type]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(asyncsink.ConfigError):
            sink.put_stream("wrong", 5)  # type: ignore[arg-type]
    assert [failure.key for failure in sink.report.failures] == ["p/broken"]
    assert sink.close() is sink.close()
    assert len(stored()) == 8
    with pytest.raises(asyncsink.ConfigError, match="This SyncSink is closed"):
        sink.put("motion", tree / "a.txt")
    assert asyncsink.SyncSink(f"s3://{bucket}", **options).close().counts.objects_total == 0


def test_an_iterable_is_published_whole_or_not_at_all(
    options: dict[str, Any], bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    given: Any
    with asyncsink.SyncSink(f"s3://{bucket}", **options) as sink:
        sink.put_stream("empty-pieces", [b"", b"one", bytearray(), b"two"])
        for given in ([b"one", None, b"two"], [b"one", "two"]):
            with pytest.raises(asyncsink.SourceError, match="Nothing was published"):
                sink.put_stream("not-bytes", given)
        for given in (b"whole", "text"):
            with pytest.raises(asyncsink.ConfigError, match="The stream is of type"):
                sink.put_stream("whole", given)
    assert stored() == {"empty-pieces": b"onetwo"}


def test_an_iterable_that_hangs_is_left_at_the_deadline(options: dict[str, Any], bucket: str) -> None:
    go_on = threading.Event()

    def hanging() -> Iterator[bytes]:
        yield b"one"
        go_on.wait()

    with asyncsink.SyncSink(f"s3://{bucket}", **options) as sink:
        try:
            with pytest.raises(asyncsink.DeadlinePassed):
                sink.put_stream("hanging", hanging(), deadline_seconds=0.1)
        finally:
            go_on.set()
    assert sink.report.counts.objects_uploaded == 0


def test_an_error_in_the_block_is_the_callers(options: dict[str, Any], tree: Path, bucket: str) -> None:
    sink = asyncsink.SyncSink(f"s3://{bucket}", **options)

    def block() -> None:
        with sink:
            sink.put("motion", tree / "a.txt")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert sink.report.counts.objects_uploaded == 1


def test_what_cannot_be_opened_is_tried_again(server: QuirkyS3) -> None:
    server.quirk = lambda _: error(403, "InvalidAccessKeyId")
    server.objects["tryout"] = {"k": StoredObject(b"v")}
    reader = asyncsink.SyncReader("s3://tryout", endpoint_url=server.url)
    for _ in range(2):
        with pytest.raises(asyncsink.CredentialsError):
            reader.get("k")
    server.quirk = None
    assert reader.get("k") == b"v"
    reader.close()


def test_an_observer_may_not_call_back(server: QuirkyS3) -> None:
    server.objects["tryout"] = {"k": StoredObject(b"v")}
    refused: list[BaseException] = []

    def observe(_: Any) -> None:
        try:
            reader.get("k")
        except asyncsink.ConfigError as error:
            refused.append(error)

    retry = asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.001, throttled_seconds=0)
    reader = asyncsink.SyncReader("s3://tryout", endpoint_url=server.url, observe=observe, retry=retry)
    with reader:
        assert reader.get("k") == b"v"
        server.quirk = lambda request: error(503, "SlowDown") if request.key else None
        with pytest.raises(asyncsink.Throttled):
            reader.get("k")
    assert all("would wait for itself" in str(each) for each in refused)
    assert refused


def test_an_interrupted_call_is_cancelled(server: QuirkyS3) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold(request: Any) -> None:
        if request.key:
            asked.set()
            go_on.wait(60)

    server.quirk = hold
    server.objects["tryout"] = {"k": StoredObject(b"v")}

    def interrupt() -> None:
        asked.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with asyncsink.SyncReader("s3://tryout", endpoint_url=server.url) as reader:
        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            reader.get("k")
        helper.join()
        go_on.set()
        server.quirk = None
        assert reader.get("k") == b"v"


def program(text: str, *words: object, **options: Any) -> str:
    """What a program writes that ends well."""
    ended = run([sys.executable, "-W", "error", "-c", textwrap.dedent(text), *words], **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_a_fork_has_a_loop_of_its_own(options: dict[str, Any], put: Any, bucket: str) -> None:
    put({"k": b"v"})
    told = program(
        """
        import os, sys
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of processes with threads
        import asyncsink
        source = sys.argv[1]
        unused, used = asyncsink.SyncReader(source), asyncsink.SyncReader(source)
        sink = asyncsink.SyncSink(source + "/out")
        assert used.get("k") == b"v"
        sink.flush()
        if not (pid := os.fork()):
            for call in (lambda: used.get("k"), used.close, sink.flush, sink.close):
                try:
                    call()
                except asyncsink.ConfigError as error:
                    print(str(error).partition(",")[2])
            print(unused.get("k"), asyncsink.SyncReader(source).get("k"), flush=True)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        print(used.get("k"), unused.get("k"))
        """,
        f"s3://{bucket}",
    )
    *refused, child, parent = told.splitlines()
    assert len(refused) == 4
    assert all("in which nothing of it runs; make another one here." in each for each in refused)
    assert (child, parent) == ("b'v' b'v'", "b'v' b'v'")


def test_the_end_of_a_program_publishes_what_was_accepted(
    options: dict[str, Any], many: Path, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    """Without `close`."""
    text = """
        import sys, pathlib
        import asyncsink
        sink, reader = asyncsink.SyncSink(sys.argv[1]), asyncsink.SyncReader(sys.argv[1])
        list(reader.list())
        print(sink.submit("many", sorted(pathlib.Path(sys.argv[2]).iterdir())))
        """
    assert program(text, f"s3://{bucket}/p", many) == "300\n"
    assert len(stored()) == 300


@pytest.mark.timeout(60)
def test_the_end_of_a_program_is_bounded(tree: Path, tmp_path: Path) -> None:
    """At a server that hangs, it takes seconds."""
    from tests.support.quirky_s3 import quirky_s3

    go_on = threading.Event()
    with quirky_s3(lambda request: go_on.wait(100) and None if request.method == "PUT" else None) as server:
        text = """
            import sys
            import asyncsink
            sink = asyncsink.SyncSink("s3://tryout", journal=False)
            print(sink.submit("many", sys.argv[1]))
            """
        env = os.environ | server.environment(tmp_path)
        try:
            assert program(text, tree / "a.txt", env=env) == "1\n"
        finally:
            go_on.set()
