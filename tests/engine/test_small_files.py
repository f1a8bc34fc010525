"""Batches of small files: what is sent, skipped, copied, and what is left to the ordinary way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter

from asyncsink.destinations.base import Existing, RunForecast, Stored, Unknown
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.memory import MemoryDestination
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import Callers, SmallFiles
from asyncsink.errors import AccessDenied, IntegrityError
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import Checksum, Failure, Outcome, Planned, Receipt, Skip, SourceFile, Transfer
from asyncsink.options.schema import Limits, LocalTarget, Policies
from tests.support.resources import resources

pytestmark = pytest.mark.anyio
Publish = Callable[..., Any]


class Counting(MemoryDestination):
    """Counts questions, and can refuse, damage, not know, or wait until so many are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_many = self.asked = 0
        self.unknown = False
        self.trouble: dict[str, Exception] = {}
        self.together = 1
        self._putting = 0
        self._met = anyio.Event()

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        self.asked_many += 1
        return [Unknown.UNKNOWN] * len(transfers) if self.unknown else await super().look_many(transfers)

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        self.asked += 1
        return await super().look(transfer, closely=closely)

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        if transfer.key in self.trouble:
            raise self.trouble.pop(transfer.key)
        self._putting += 1
        if self._putting >= self.together:
            self._met.set()
        with anyio.fail_after(30):
            await self._met.wait()
        return await super().put(transfer, body, checksum)


class Bench:
    """Ten small files, a destination, a local copy, and whatever is under test between them."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "source"
        self.directory.mkdir()
        self.copies = tmp_path / "copies"
        for number in range(10):
            (self.directory / f"{number}.txt").write_bytes(os.urandom(100 * number))
        self.destination = Counting()
        self.limiter = CapacityLimiter(2)
        self.copy = LocalDestination(LocalTarget(directory=str(self.copies)), limiter=self.limiter, use_local_key=True)
        self.progress = Progress()

    def transfers(self) -> list[Transfer]:
        found = []
        for path in sorted(self.directory.iterdir()):
            status = path.stat()
            found.append(Transfer(SourceFile(str(path), status.st_size, status.st_mtime_ns), path.name, path.name))
        return found

    @property
    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}

    async def publish(
        self, *, copy: bool = False, dry_run: bool = False, transfers: list[Transfer] | None = None, **policies: Any
    ) -> list[Outcome]:
        shared = resources(
            limits=Limits(memory_bytes=1 << 20, concurrency=4, reader_threads=2),
            policies=Policies(**policies),
            progress=self.progress,
            dry_run=dry_run,
        )
        copies = self.copy if copy else None
        publisher = Publisher(shared, self.destination, copies)
        small_files = SmallFiles(shared, publisher, self.destination, copies)
        outcomes: list[Outcome] = []
        given = self.transfers() if transfers is None else transfers
        await small_files.publish(
            given,
            Callers(lambda ended, _: outcomes.extend(ended), lambda passed: outcomes.extend(passed.written.outcomes())),
        )
        assert not shared.budget.held_bytes
        shared.readers.close()
        return outcomes


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    await bench.copy.prepare(RunForecast(objects_total=None, common_prefix="", sample_key=""))
    return bench


def kinds(outcomes: Sequence[Outcome]) -> set[type]:
    return {type(outcome) for outcome in outcomes}


@pytest.mark.parametrize("copy", [False, True])
async def test_new_files_are_sent_with_one_question(bench: Bench, copy: bool) -> None:
    outcomes = await bench.publish(copy=copy)
    assert kinds(outcomes) == {Receipt}
    assert bench.destination.objects == bench.contents
    assert bench.destination.asked_many == 1
    assert bench.progress.bytes_moved == 100 * 45
    if copy:
        assert {path.name: path.read_bytes() for path in bench.copies.iterdir()} == bench.contents
        assert {outcome.local_copy for outcome in outcomes if isinstance(outcome, Receipt)} == {
            str(bench.copies / name) for name in bench.contents
        }


@pytest.mark.parametrize("copy", [False, True])
async def test_what_is_there_is_compared_and_only_changes_are_sent(bench: Bench, copy: bool) -> None:
    await bench.publish(copy=copy)
    (bench.directory / "3.txt").write_bytes(os.urandom(300))
    (bench.directory / "new.txt").write_bytes(b"new")
    outcomes = await bench.publish(copy=copy)
    assert {outcome.key for outcome in outcomes if isinstance(outcome, Receipt)} == {"3.txt", "new.txt"}
    assert sum(isinstance(outcome, Skip) for outcome in outcomes) == 9
    assert bench.destination.objects == bench.contents
    if copy:
        assert {path.name: path.read_bytes() for path in bench.copies.iterdir()} == bench.contents


async def test_a_lost_local_copy_is_made_again_and_nothing_is_sent(bench: Bench) -> None:
    await bench.publish(copy=True)
    (bench.copies / "4.txt").unlink()
    outcomes = await bench.publish(copy=True)
    assert kinds(outcomes) == {Skip}
    assert (bench.copies / "4.txt").read_bytes() == bench.contents["4.txt"]


@pytest.mark.parametrize("way", ["changed", "copied", "unknown"])
async def test_all_of_a_batch_are_sent_at_the_same_time(bench: Bench, way: str) -> None:
    """Where the server is far away, a batch takes as long as one file."""
    if way == "changed":
        await bench.publish()
        for path in bench.directory.iterdir():
            path.write_bytes(path.read_bytes() + b"!")
    bench.destination.unknown = way == "unknown"
    bench.destination.together = 10
    assert kinds(await bench.publish(copy=way == "copied")) == {Receipt}
    assert bench.destination.objects == bench.contents


async def test_what_is_new_among_others_is_sent_as_such(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.publish()
    (bench.directory / "new.txt").write_bytes(b"new")
    new: list[str] = []
    publish_new = SmallFiles._publish_new

    async def noted(self: SmallFiles, transfers: Sequence[Transfer], *given: Any) -> Any:
        new.extend(transfer.key for transfer in transfers)
        return await publish_new(self, transfers, *given)

    monkeypatch.setattr(SmallFiles, "_publish_new", noted)
    outcomes = await bench.publish()
    assert sum(isinstance(outcome, Skip) for outcome in outcomes) == 10
    assert new == ["new.txt"]
    assert bench.destination.objects == bench.contents


async def test_always_asks_nobody_and_sends_everything(bench: Bench) -> None:
    await bench.publish()
    bench.destination.asked_many = 0
    assert kinds(await bench.publish(overwrite="always")) == {Receipt}
    assert not bench.destination.asked_many


async def test_a_dry_run_sends_and_copies_nothing(bench: Bench) -> None:
    assert kinds(await bench.publish(copy=True, dry_run=True)) == {Planned}
    assert not bench.destination.objects
    assert not list(bench.copies.iterdir())


async def test_a_destination_that_has_to_ask_takes_the_ordinary_way(bench: Bench) -> None:
    bench.destination.unknown = True
    assert kinds(await bench.publish()) == {Receipt}
    assert bench.destination.asked == 10
    assert bench.destination.objects == bench.contents


@pytest.mark.parametrize("copy", [False, True])
async def test_an_answer_that_contradicts_is_repaired_once(bench: Bench, copy: bool) -> None:
    bench.destination.trouble["5.txt"] = IntegrityError("damaged", expected="a", actual="b")
    assert kinds(await bench.publish(copy=copy)) == {Receipt}
    assert bench.destination.objects == bench.contents


@pytest.mark.parametrize("copy", [False, True])
async def test_one_failure_is_one_failure(bench: Bench, copy: bool) -> None:
    bench.destination.trouble["5.txt"] = AccessDenied("not you")
    outcomes = await bench.publish(copy=copy)
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert (failed.key, failed.error) == ("5.txt", "AccessDenied")
    assert len(bench.destination.objects) == 9


async def test_a_local_copy_that_fails_fails_alone(bench: Bench) -> None:
    (bench.copies / "5.txt").mkdir()
    outcomes = await bench.publish(copy=True)
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert (failed.key, failed.stage) == ("5.txt", "local copy")
    assert bench.destination.objects == bench.contents


@pytest.mark.parametrize("copy", [False, True])
async def test_files_that_changed_since_they_were_found(bench: Bench, copy: bool) -> None:
    found = bench.transfers()
    (bench.directory / "1.txt").unlink()
    (bench.directory / "2.txt").write_bytes(b"grown" * 100)
    os.utime(bench.directory / "3.txt", ns=(1, 1))
    outcomes = await bench.publish(copy=copy, transfers=found)
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert (failed.key, failed.error) == ("1.txt", "SourceMissing")
    assert bench.destination.objects == bench.contents


@pytest.mark.parametrize("overwrite", ["size", "never"])
async def test_policies_that_do_not_read(bench: Bench, overwrite: str) -> None:
    await bench.publish()
    for path in bench.directory.iterdir():
        path.chmod(0)
        os.utime(path, ns=(1, 1))
    assert kinds(await bench.publish(overwrite=overwrite)) == {Skip}
