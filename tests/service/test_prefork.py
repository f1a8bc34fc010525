"""Workers that a server forks before they open anything: one sink each, and journals that do not fight."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run

Stored = Callable[[], dict[str, bytes]]

SERVER = """
import asyncio, json, os, signal, sys
import asyncsink

destination, endpoint_url, workers, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]

async def work(number, told, go):
    loop = asyncio.get_running_loop()
    sink = asyncsink.AsyncSink(destination, endpoint_url=endpoint_url)
    events = sink.events()
    await sink.start()
    os.write(told, b".")
    await loop.run_in_executor(None, os.read, go, 1)
    outcomes = [type(await sink.put("m", path)).__name__ for path in files[number::workers]]
    if number == workers - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    report = await sink.close(deadline_seconds=30)
    report.raise_for_failures()
    os.write(1, (json.dumps([outcomes, list(report.notices)]) + "\\n").encode())  # whole, beside the others' lines

opened, (go, all_open) = os.pipe(), os.pipe()
children = []
for number in range(workers):
    child = os.fork()
    if not child:
        code = 1
        try:
            asyncio.run(work(number, opened[1], go))
            code = 0
        finally:
            os._exit(code)
    children.append(child)
for _ in children:
    os.read(opened[0], 1)
os.write(all_open, b"." * workers)
for child in children:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
"""


def test_each_worker_has_a_journal_and_is_told_where(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(8)]
    for path in paths:
        path.write_text(path.name)
    state = tmp_path / "state"
    command = [sys.executable, "-c", SERVER, f"s3://{bucket}/p", options["endpoint_url"], "4", *map(str, paths)]

    def serve() -> list[Any]:
        ended = run(command, env={**os.environ, "XDG_STATE_HOME": str(state)})
        assert ended.returncode == 0, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    for outcome in ("Receipt", "Skip"):  # again: every journal is free, also that of the killed worker
        told = serve()
        assert [outcomes for outcomes, _ in told] == [[outcome] * 2] * 3
        notices = [notice for _, notices in told for notice in notices]
        assert not [notice for notice in notices if "goes on without" in notice]
        # Four are open; the one that was killed may be any of them.
        assert len([notice for notice in notices if "The journal of this sink is" in notice]) in (2, 3)
        journals = sorted(path.name for path in (state / "asyncsink/journals").glob("*.sqlite"))
        assert [name.partition("-sink-")[2] for name in journals] == ["2.sqlite", "3.sqlite", "4.sqlite", ""]
    assert stored() == {f"p/m/{path.name}": path.name.encode() for path in paths}


FORKED = """
import asyncio, os, sys, asyncsink

async def main(target, name):
    sink = await asyncsink.AsyncSink(target).start()
    child = os.fork()
    if not child:
        code = 3
        try:
            getattr(sink, name)().send(None)
        except asyncsink.ConfigError as error:
            print(error, file=sys.stderr)
            code = 7
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (await sink.flush()).objects_total == 0
    await sink.close()
    print(code)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["flush", "close", "start", "__aenter__"])
def test_a_forked_child_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    ended = run([sys.executable, "-W", "ignore", "-c", FORKED, tmp_path / "out", name])
    assert (ended.stdout, ended.returncode) == ("7\n", 0), ended.stderr
    assert ("this is its fork" if name in ("flush", "close") else "used before") in ended.stderr
    assert ended.stderr.count("\n") == 1
