"""The sink to memory, as the unit tests of a program use it."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import asyncsink
from asyncsink.testing import MemorySink, memory_sink
from tests.support.guide import example

pytestmark = pytest.mark.anyio

page = example("service.md", "In the unit tests of a service")
test_a_summary_is_published = page.test_a_summary_is_published
test_a_summary_that_is_there_is_not_sent_again = page.test_a_summary_that_is_there_is_not_sent_again


@pytest.fixture
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no network, no directory for temporary files and no home."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for name in ("XDG_STATE_HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_outside")
async def test_files_are_published_by_the_rules_of_any_sink(tree: Path) -> None:
    async with memory_sink(container="sub001", substitutions=[("large", "bold")]) as sink:
        assert isinstance(sink, MemorySink)
        receipt = await sink.put("motion", tree / "a.txt")
        assert sink.objects == {"sub001/motion/a.txt": b"alpha"}
        await sink.submit("func.@bold", tree / "sub/large.nii.gz")
        await sink.flush()
        assert sink.objects["sub001/func/bold.nii.gz"] == (tree / "sub/large.nii.gz").read_bytes()
        same = await sink.put("motion", tree / "a.txt")
    assert isinstance(receipt, asyncsink.Receipt)
    assert (receipt.key, receipt.confirmed_by) == ("sub001/motion/a.txt", "server-checksum")
    assert isinstance(same, asyncsink.Skip)
    assert list(sink.objects) == ["sub001/motion/a.txt", "sub001/func/bold.nii.gz"]
    assert (sink.report.ok, sink.report.objects_uploaded, sink.report.transport) == (True, 2, "memory")


@pytest.mark.usefixtures("nothing_outside")
async def test_content_without_files() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(30):
            yield bytes([number]) * 1_000_000

    async with memory_sink() as sink:
        receipt = await sink.put_bytes("qc/summary.json", b"{}", content_type="application/json", metadata={"a": "b"})
        same = await sink.put_bytes("qc/summary.json", b"{}")
        await sink.put_stream("raw/scan.dcm", pieces())
        async with sink.open("log.txt") as writer:
            await writer.write(b"done")
    assert isinstance(receipt, asyncsink.Receipt)
    assert isinstance(same, asyncsink.Skip)
    assert sink.objects["qc/summary.json"] == b"{}"
    assert sink.objects["raw/scan.dcm"] == b"".join(bytes([number]) * 1_000_000 for number in range(30))
    assert sink.objects["log.txt"] == b"done"


async def test_an_exact_key(tree: Path) -> None:
    async with memory_sink() as sink:
        await sink.put("motion", tree / "a.txt", key="exact/v1.2.txt", metadata={"run": "7"}, overwrite="always")
    assert sink.objects == {"exact/v1.2.txt": b"alpha"}


async def test_errors_are_those_of_any_sink(tree: Path) -> None:
    async with memory_sink(overwrite="never") as sink:
        await sink.put("x", tree / "a.txt")
        (tree / "a.txt").write_text("other")
        kept = await sink.put("x", tree / "a.txt")
        with pytest.raises(asyncsink.SourceError):
            await sink.put("x", tree / "gone.txt")
    assert isinstance(kept, asyncsink.Skip)
    assert sink.objects == {"x/a.txt": b"alpha"}
    with pytest.raises(asyncsink.ConfigError, match="is closed"):
        await sink.put("x", tree / "a.txt")
    with pytest.raises(asyncsink.ConfigError, match="Did you mean 'overwrite'"):
        memory_sink(overwrit="never")  # type: ignore[call-arg]
    with pytest.raises(asyncsink.ConfigError, match="journal is given"):
        memory_sink(journal="j")


async def test_many_producers_and_events(tmp_path: Path) -> None:
    sink = await memory_sink().start()
    events = sink.events()

    async def produce(number: int) -> None:
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(number))
        await sink.put("numbers", path)

    await asyncio.gather(*(produce(number) for number in range(50)))
    report = await sink.close()
    assert report.objects_uploaded == 50
    assert {key: json.loads(data) for key, data in sink.objects.items()} == {
        f"numbers/{number}.json": number for number in range(50)
    }
    assert len([event async for event in events if isinstance(event, asyncsink.Finished)]) == 50
