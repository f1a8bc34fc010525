"""A sink that is used where it was not opened says so, in one sentence, instead of waiting for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError

pytestmark = pytest.mark.anyio
USES: dict[str, Callable[[asyncsink.AsyncSink, Path], Coroutine[Any, Any, Any]]] = {}


def use(function: Callable[[asyncsink.AsyncSink, Path], Coroutine[Any, Any, Any]]) -> Any:
    USES[function.__name__] = function
    return function


@use
async def put(sink: asyncsink.AsyncSink, path: Path) -> None:
    await sink.put("x", path)


@use
async def submit(sink: asyncsink.AsyncSink, path: Path) -> None:
    await sink.submit("x", [path])


@use
async def events(sink: asyncsink.AsyncSink, _: Path) -> None:
    await anext(sink.events())


@use
async def leave(sink: asyncsink.AsyncSink, _: Path) -> None:
    await sink.__aexit__(None, None, None)


@use
async def enter(sink: asyncsink.AsyncSink, _: Path) -> None:
    await sink.__aenter__()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("a")
    return tmp_path / "a.txt"


def refusal(what: Callable[[], Any]) -> str:
    """The ConfigError's text, or "" where something else came of it."""
    try:
        what()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", USES)
async def test_from_another_loop(name: str, path: Path, tmp_path: Path) -> None:
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        told = await asyncio.wait_for(
            asyncio.to_thread(refusal, lambda: asyncio.run(USES[name](sink, path))), timeout=20
        )
        assert ("from another event loop" if name != "enter" else "used before") in told
        await sink.put("x", path)  # and here it goes on
    assert len(sink.report.receipts) == 1


async def test_a_reader_in_another_loop_is_refused_also_where_it_subscribed_here(path: Path, tmp_path: Path) -> None:
    sink = asyncsink.AsyncSink(tmp_path / "out")
    reader = sink.events()

    async def read() -> Any:
        return await anext(reader)

    async with sink:
        await sink.put("x", path)
        told = await asyncio.to_thread(refusal, lambda: asyncio.run(read()))
        assert "from another event loop" in told
        await reader.aclose()
        assert [event async for event in reader]  # what was told before is read here


async def test_from_a_thread_without_a_loop(path: Path, tmp_path: Path) -> None:
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        told = await asyncio.to_thread(refusal, sink.events)
        assert "outside of any event loop" in told
        assert "run_coroutine_threadsafe" in told
        loop, receipts = asyncio.get_running_loop(), []

        def advised() -> None:
            receipts.append(asyncio.run_coroutine_threadsafe(sink.put("x", path), loop).result())

        thread = threading.Thread(target=advised)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(receipts) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["put", "submit"])
async def test_before_and_after_its_block(when: str, name: str, path: Path, tmp_path: Path) -> None:
    sink = asyncsink.AsyncSink(tmp_path / "out")
    if when == "after":
        async with sink:
            pass
    with pytest.raises(ConfigError, match="is not open; use it inside its `async with` block"):
        await USES[name](sink, path)


FORKED = """
import asyncio, os, sys, warnings, asyncsink
warnings.simplefilter("ignore", DeprecationWarning)
async def main(source, target, kind):
    async with asyncsink.AsyncSink(target) as sink:
        await sink.put("x", source)
        child = os.fork()
        if not child:
            async def use():
                await (sink.put("x", source) if kind == "put" else anext(sink.events()))
            code = 3
            try:
                if kind == "fresh":
                    asyncio._set_running_loop(None)
                    report = asyncio.run(asyncsink.export({"y": source}, target))
                    code = 7 if len(report.receipts) == 1 else 4
                else:
                    use().send(None)
            except asyncsink.ConfigError as error:
                print(error, file=sys.stderr)
                code = 7
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    print(len(sink.report.receipts))
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["put", "events", "fresh"])
def test_after_a_fork(kind: str, path: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORKED, path, tmp_path / "out", kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.returncode) == ("7\n1\n", 0), ended.stderr
    if kind != "fresh":
        assert "this is its fork" in ended.stderr
        assert ended.stderr.count("\n") == 1


ELSEWHERE = """
import asyncio, sys, asyncsink
async def main():
    async with asyncsink.AsyncSink(sys.argv[2]) as sink:
        try:
            await asyncio.to_thread(lambda: asyncio.run(sink.put("x", sys.argv[1])))
        except asyncsink.ConfigError as error:
            print(error)
asyncio.run(main())
"""


def test_a_refused_program_ends_cleanly_in_dev_mode(path: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", ELSEWHERE, path, tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ},
    )
    said = [line for line in ended.stderr.splitlines() if not line.startswith("Executing <")]  # a slow import
    assert (ended.returncode, said) == (0, [])
    assert "from another event loop" in ended.stdout
    assert ended.stdout.count("\n") == 1


async def test_a_grabber_belongs_to_no_loop(seaweed: Any, bucket: str, s3: Any, path: Path, tmp_path: Path) -> None:
    """Its settings are all that it has: it runs again, in any loop."""
    s3.put_object(Bucket=bucket, Key="a.txt", Body=b"a")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environment.items():
            patch.setenv(name, value)
        grabber = asyncsink.S3Grabber(f"s3://{bucket}", tmp_path / "back")
        first = await grabber.run()
        second = await asyncio.to_thread(lambda: asyncio.run(grabber.run()))
    assert (first.objects_fetched, len(second.skips)) == (1, 1)
