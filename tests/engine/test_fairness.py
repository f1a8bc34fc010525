"""One large file and many tiny ones in one run: neither waits for the end of the other."""

from __future__ import annotations

import threading
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import asyncsink
from asyncsink.s3.operations import Done, PutObject, UploadPart
from asyncsink.s3.pacing import Pacer
from tests.support.quirky_s3 import Answer, Request, quirky_s3

pytestmark = pytest.mark.anyio
PART_BYTES = 5 << 20
PARTS = 20
TINY = 800
LATENCY_SECONDS = 0.005


class Arrivals:
    """A server that answers late, and the order in which parts and tiny files come to it."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        if request.method == "PUT":
            with self._lock:
                self.kinds.append("part" if "partNumber" in request.query else "tiny")
            threading.Event().wait(LATENCY_SECONDS)
        return None

    def longest(self, kind: str) -> int:
        """Most requests of one kind that came one after another, between the first and the last part."""
        first, last = self.kinds.index("part"), len(self.kinds) - self.kinds[::-1].index("part")
        runs = [(each, len([*run])) for each, run in groupby(self.kinds[first:last])]
        return max((length for each, length in runs if each == kind), default=0)


@pytest.mark.parametrize("concurrency", [8])  # with more, all parts of the large file are in flight at once
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_neither_starves_the_other(
    lane: Any, concurrency: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for folder in ("a", "z"):
        (source / folder).mkdir(parents=True)
        for number in range(TINY // 2):
            (source / folder / f"{number:05}").write_bytes(b"%d" % number)
    with (source / "large").open("wb") as sparse:
        sparse.truncate(PARTS * PART_BYTES)
    arrivals = Arrivals()
    with quirky_s3(arrivals.answer) as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        report = await asyncsink.export_directory(
            source, "s3://tryout", transport=lane, part_size_bytes=PART_BYTES, concurrency=concurrency, journal=False
        )
    assert (len(report.receipts), report.failures) == (TINY + 1, [])
    assert arrivals.kinds[arrivals.kinds.index("part") :].count("tiny") > TINY // 8, "both are under way together"
    assert arrivals.longest("part") < PARTS // 2
    assert arrivals.longest("tiny") < TINY // 3


async def test_every_task_has_its_turn_after_at_most_one_of_each_other() -> None:
    """A few tasks with parts, and many with tiny files, all of which want the next token as soon as they gave one back:
    first come, first served is enough."""
    pacer = Pacer(4)
    parts, tiny = 8, 40
    sent: list[str] = []

    class Held:
        async def send(self, operation: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            sent.append(operation.key)
            return Done()

        async def aclose(self) -> None: ...

    async def work(operation: Any) -> None:
        while len(sent) < 2000:
            await pacer.send(Held(), operation)

    async with anyio.create_task_group() as group:
        for number in range(parts):
            body = b"x" * 1000
            group.start_soon(work, UploadPart(key=f"part-{number}", upload_id="u", part_number=1, body=body))
        for number in range(tiny):
            group.start_soon(work, PutObject(key=f"tiny-{number}", body=b"x"))
    for key in {*sent}:
        places = [place for place, each in enumerate(sent) if each == key]
        assert places[0] < parts + tiny + pacer.limit
        assert max(after - before for before, after in pairwise(places)) <= parts + tiny + pacer.limit
    assert len({*sent}) == parts + tiny
