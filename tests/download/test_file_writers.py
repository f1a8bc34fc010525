"""How many threads land small objects: one where that is enough, more where each file waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter

from asyncsink.download.placement import BATCH_BODIES_MAX, Body, FileWriter, FileWriterBatcher, StagingDirectory
from asyncsink.errors import AsyncSinkError, IntegrityError, PermanentError
from asyncsink.integrity.checksums import checksum_of
from asyncsink.integrity.sameness import Existing, Proof

pytestmark = pytest.mark.anyio


def body(number: int, data: bytes | None = None) -> Body:
    right = b"%d" % number
    told = {"CRC64NVME": checksum_of(right, "CRC64NVME").value}
    existing = Existing(size_bytes=len(right), checksums=told, looked_closely=True)
    return Body(f"d/{number}", right if data is None else data, existing, f"s3://b/{number}")


class Held(FileWriter):
    """A landing whose hops wait to be let go."""

    def __init__(self, staging: StagingDirectory) -> None:
        super().__init__(staging)
        self.readers: list[int] = []
        self.go = threading.Event()
        self.broken = False

    def land(self, bodies: Sequence[Body]) -> list[Proof | AsyncSinkError]:
        self.readers.append(len(bodies))
        self.go.wait()
        if self.broken:
            raise RuntimeError("a bug")
        return super().land(bodies)


@pytest.fixture
def file_writer(tmp_path: Path) -> Held:
    staging = StagingDirectory(str(tmp_path / "target"))
    staging.open()
    return Held(staging)


async def until_calls(file_writer: Held, count: int) -> None:
    while len(file_writer.readers) < count:  # noqa: ASYNC110 - it happens in a thread
        await asyncio.sleep(0.001)


async def test_what_comes_while_a_hop_is_under_way_goes_together(file_writer: Held) -> None:
    results: dict[int, list[Proof | AsyncSinkError]] = {}
    async with anyio.create_task_group() as group:
        batcher = FileWriterBatcher(file_writer, CapacityLimiter(4), group)

        async def land(*bodies: Body) -> None:
            results[int(bodies[0].relative[2:])] = await batcher.land(bodies)

        group.start_soon(land, body(0))
        await until_calls(file_writer, 1)
        group.start_soon(land, body(10), body(11, b"xx"), body(12))
        group.start_soon(land, body(20))
        await anyio.wait_all_tasks_blocked()
        assert file_writer.readers == [1]
        file_writer.go.set()
    assert file_writer.readers == [1, 4]
    assert [isinstance(each, IntegrityError) for each in results[10]] == [False, True, False]
    assert [len(results[number]) for number in (0, 10, 20)] == [1, 3, 1]
    found = {path.name: path.read_bytes() for path in Path(file_writer.path("d")).iterdir()}
    assert found == {name: name.encode() for name in ("0", "10", "12", "20")}


async def test_more_threads_begin_where_much_waits_and_no_more_than_are_allowed(file_writer: Held) -> None:
    async with anyio.create_task_group() as group:
        batcher = FileWriterBatcher(file_writer, CapacityLimiter(2), group)
        for start in range(0, 8 * BATCH_BODIES_MAX, BATCH_BODIES_MAX // 2):
            group.start_soon(batcher.land, [body(start + each) for each in range(BATCH_BODIES_MAX // 2)])
        await until_calls(file_writer, 2)
        await anyio.wait_all_tasks_blocked()
        assert len(file_writer.readers) == 2
        file_writer.go.set()
    assert sum(file_writer.readers) == 8 * BATCH_BODIES_MAX
    assert max(file_writer.readers) <= BATCH_BODIES_MAX
    assert len(list(Path(file_writer.path("d")).iterdir())) == 8 * BATCH_BODIES_MAX


async def test_one_thread_writes_where_calls_return(file_writer: Held) -> None:
    """Others would only take the interpreter's lock from each other."""
    under_way = most = 0

    def land(bodies: Sequence[Body]) -> list[Proof | AsyncSinkError]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        under_way -= 1
        return [(None, "nothing")] * len(bodies)

    file_writer.land = land  # type: ignore[method-assign]
    async with anyio.create_task_group() as group:
        batcher = FileWriterBatcher(file_writer, CapacityLimiter(8), group)
        for start in range(0, 40 * BATCH_BODIES_MAX, BATCH_BODIES_MAX):
            group.start_soon(batcher.land, [body(start + each) for each in range(BATCH_BODIES_MAX)])
    assert most == 1


async def test_one_batch_larger_than_a_hop_lands(file_writer: Held) -> None:
    file_writer.go.set()
    async with anyio.create_task_group() as group:
        results = await FileWriterBatcher(file_writer, CapacityLimiter(2), group).land(
            [body(n) for n in range(BATCH_BODIES_MAX + 1)]
        )
    assert len(results) == BATCH_BODIES_MAX + 1


async def test_a_caller_that_is_cancelled_leaves_the_others_theirs(file_writer: Held) -> None:
    results: list[list[Proof | AsyncSinkError]] = []
    async with anyio.create_task_group() as group:
        batcher = FileWriterBatcher(file_writer, CapacityLimiter(1), group)

        async def land(number: int) -> None:
            results.append(await batcher.land([body(number)]))

        async with anyio.create_task_group() as impatient:
            impatient.start_soon(land, 1)
            await until_calls(file_writer, 1)
            impatient.start_soon(land, 2)
            group.start_soon(land, 3)
            await anyio.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        file_writer.go.set()
    assert len(results) == 1
    assert sorted(path.name for path in Path(file_writer.path("d")).iterdir()) == ["1", "2", "3"]


async def test_a_bug_ends_the_run(file_writer: Held) -> None:
    file_writer.broken = True
    file_writer.go.set()

    async def land() -> None:
        async with anyio.create_task_group() as group:
            await FileWriterBatcher(file_writer, CapacityLimiter(1), group).land([body(1)])

    with pytest.raises(BaseExceptionGroup) as caught:
        await land()
    assert [type(each) for each in caught.value.exceptions] == [RuntimeError]


def test_what_cannot_get_its_name_leaves_nothing_behind(file_writer: Held) -> None:
    file_writer.go.set()
    Path(file_writer.path("d/1")).mkdir(parents=True)
    first, second = file_writer.land([body(1), body(2)])
    assert isinstance(first, PermanentError)
    assert not isinstance(second, AsyncSinkError)
    staging = Path(file_writer.path(".asyncsink-grab"))
    assert [path.name for path in staging.iterdir()] == ["lock"]
