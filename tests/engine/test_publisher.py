"""One transfer: sources that change under our hands, damage on the way, and legs that fail alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.destinations.base import PartWriter, Stored
from asyncsink.destinations.memory import MemoryDestination
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.errors import ConnectionLost, IntegrityError
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import Checksum, Failure, Outcome, Receipt, Skip, SourceFile, Transfer
from asyncsink.options.schema import Limits, Policies
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.multipart.parts import PartPlan
from tests.support.changes import edit, grow, truncate
from tests.support.resources import resources

pytestmark = pytest.mark.anyio
MIB = 1 << 20
PART = 5 * MIB


class Meddling(MemoryDestination):
    """A destination that calls `meddle` before it takes bytes, and counts."""

    def __init__(self, meddle: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        self.meddle = meddle
        self.calls = 0

    def _next(self) -> None:
        self.calls += 1
        self.meddle(self.calls)

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        self._next()
        return await super().put(transfer, body, checksum)

    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        writer = await super().start(transfer, plan, algorithm)
        write = writer.write_part

        async def write_part(part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
            self._next()
            await write(part_number, offset, body, checksum)

        writer.write_part = write_part  # type: ignore[method-assign]
        return writer


def publisher(destination: MemoryDestination, copy: MemoryDestination | None = None, **policies: Any) -> Publisher:
    limits = Limits(part_size_bytes=PART, multipart_threshold_bytes=PART, concurrency_max=1, memory_bytes=64 * MIB)
    return Publisher(resources(limits=limits, policies=Policies(**policies)), destination, copy)


def transfer(path: Path, key: str = "k") -> Transfer:
    status = path.stat()
    return Transfer(SourceFile(str(path), status.st_size, status.st_mtime_ns), key, key)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 * PART))
    return path


def only(ended: tuple[list[Outcome], Transfer]) -> Any:
    (outcome,), _ = ended
    return outcome


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("change", [truncate, grow, edit, replace, os.unlink])
async def test_a_source_that_changes_while_it_is_read_is_not_published(large: Path, change: Any) -> None:
    destination = Meddling(lambda number: change(large) if number == 1 else None)
    outcome = only(await publisher(destination).publish(transfer(large)))
    assert isinstance(outcome, Failure)
    assert (outcome.error, outcome.stage) == ("SourceChanged", "source")
    assert str(large) in outcome.message
    assert destination.objects == {}
    assert not destination.open_writers


@pytest.mark.parametrize("change", [truncate, grow, edit])
async def test_a_source_that_changed_between_walk_and_reading_is_published_as_it_is(large: Path, change: Any) -> None:
    found = transfer(large)
    change(large)
    destination = MemoryDestination()
    outcome = only(await publisher(destination).publish(found))
    assert isinstance(outcome, Receipt)
    assert outcome.size_bytes == large.stat().st_size
    assert destination.objects["k"] == large.read_bytes()


async def test_a_source_that_is_gone_is_one_failure(large: Path) -> None:
    found = transfer(large)
    large.unlink()
    destination = MemoryDestination()
    outcome = only(await publisher(destination).publish(found))
    assert (outcome.error, outcome.stage) == ("SourceMissing", "source")
    assert destination.objects == {}


@pytest.mark.parametrize("size", [100, 3 * PART])
async def test_damage_on_the_way_is_repaired_once(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))

    def damage(number: int) -> None:
        if number == 1:
            raise IntegrityError("the server got other bytes.", expected="a", actual="b")

    destination = Meddling(damage)
    outcome = only(await publisher(destination).publish(transfer(path)))
    assert isinstance(outcome, Receipt)
    assert destination.objects == {"k": path.read_bytes()}
    assert not destination.open_writers


@pytest.mark.parametrize("size", [100, 3 * PART])
async def test_damage_that_repeats_is_reported(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))

    def damage(number: int) -> None:
        raise IntegrityError("the server got other bytes.", expected="a", actual="b")

    destination = Meddling(damage)
    outcome = only(await publisher(destination).publish(transfer(path)))
    assert (outcome.error, outcome.stage) == ("IntegrityError", "upload")
    assert destination.objects == {}
    assert not destination.open_writers


def lose(number: int) -> None:
    raise ConnectionLost("The connection was lost.", operation="UploadPart", attempts=3)


@pytest.mark.parametrize("size", [0, 100, 3 * PART])
async def test_the_copy_is_kept_when_the_destination_fails(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    failing, copy = Meddling(lose), MemoryDestination()
    outcome = only(await publisher(failing, copy).publish(transfer(path)))
    assert (outcome.error, outcome.stage, outcome.attempts) == ("ConnectionLost", "upload", 3)
    assert copy.objects == {"k": path.read_bytes()}
    assert failing.objects == {}
    assert not failing.open_writers


@pytest.mark.parametrize("size", [0, 100, 3 * PART])
async def test_the_destination_is_served_when_the_copy_fails(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    destination, failing = MemoryDestination(), Meddling(lose)
    (receipt, failure), _ = await publisher(destination, failing).publish(transfer(path))
    assert isinstance(receipt, Receipt)
    assert receipt.local_copy == ""
    assert isinstance(failure, Failure)
    assert failure.stage == "local copy"
    assert destination.objects == {"k": path.read_bytes()}
    assert failing.objects == {}


async def test_a_missing_copy_is_made_again_although_the_object_is_there(large: Path) -> None:
    destination, copy = MemoryDestination(), MemoryDestination()
    await publisher(destination).publish(transfer(large))
    outcome = only(await publisher(destination, copy).publish(transfer(large)))
    assert isinstance(outcome, Skip)
    assert outcome.local_copy
    assert copy.objects == {"k": large.read_bytes()}


@pytest.mark.parametrize("size", [100, 3 * PART])
async def test_cancellation_aborts_and_propagates(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    scope = anyio.CancelScope()
    destination, copy = Meddling(lambda number: scope.cancel()), MemoryDestination()
    work = publisher(destination, copy)
    with scope:
        await work.publish(transfer(path))
    assert scope.cancelled_caught
    assert not destination.open_writers
    assert not copy.open_writers
