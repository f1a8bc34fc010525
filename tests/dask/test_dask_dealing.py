"""Parts are dealt to workers that come and go, and each is recorded once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from asyncsink.adapters import dask_dealing
from asyncsink.adapters.dask_dealing import Dealer
from asyncsink.model import SourceFile, Transfer
from asyncsink.options.parse import parse_options
from asyncsink.report.outcomes import OutcomeLines
from asyncsink.splitting.cutting import ByLimits
from asyncsink.splitting.part_engine import PartOutcome
from asyncsink.splitting.part_of_run import PartOfRun, parts_of_run

pytestmark = pytest.mark.anyio


def client_of(ncores: Callable[[], Awaitable[dict[str, int]]]) -> Any:
    """A client whose scheduler knows these workers, and remembers nothing."""

    async def get_metadata(keys: list[str], default: object) -> object:
        return default

    async def ncores_running() -> dict[str, int]:
        return {"bad": 1, "good": 1, "worker": 1}

    scheduler = SimpleNamespace(ncores=ncores, ncores_running=ncores_running, get_metadata=get_metadata)
    lease = SimpleNamespace(cancelled=lambda: False)
    return SimpleNamespace(scheduler=scheduler, status="running", submit=lambda *_, **__: lease)


class Workers(Dealer):
    """A dealer whose workers are played here: "good" publishes, "bad" loses every part, and is gone after a while."""

    published: list[int]

    async def _proves(self, worker: str) -> bool:
        return True

    async def _published(self, worker: str, part: PartOfRun) -> PartOutcome | None:
        await anyio.sleep(0.01)
        if worker == "bad":
            return None
        self.published.append(part.number)
        return PartOutcome(OutcomeLines())


async def test_a_part_that_its_worker_has_lost_is_dealt_once_more_and_not_twice() -> None:
    looks = 0

    async def ncores() -> dict[str, int]:
        nonlocal looks
        looks += 1
        return {"bad": 1} if looks == 1 else {"good": 1}  # "bad" is gone while it holds what it has lost

    settings = parse_options("s3://bucket/study", {})
    dealer = Workers(client_of(ncores), "run", settings, [("/sample", 0, 0)], [].append)
    dealer.published = []
    transfers = [Transfer(SourceFile(f"/{n:02}", 1, 0), f"{n:02}", f"{n:02}") for n in range(20)]
    recorded: list[PartOutcome] = []

    async def record(outcome: PartOutcome) -> None:
        recorded.append(outcome)

    await dealer.deal(parts_of_run(transfers, ByLimits(objects_max=2), {}), record)
    assert sorted(dealer.published) == list(range(10))
    assert len(recorded) == 10
    assert dealer.out == 0


def test_the_files_of_a_part_travel_whole() -> None:
    odd = SourceFile("/a/\udcff é", 7, 8, entry=3, ctime_ns=9, inode=2**64 - 1, real_path="/b/\udcff")
    (part,) = parts_of_run([Transfer(odd, "k", "k")], ByLimits(), {})
    (transfer,) = part.transfers()
    found = transfer.source
    assert (found.path, found.size_bytes, found.mtime_ns, found.entry) == (odd.path, 7, 8, 3)
    assert (found.ctime_ns, found.inode, found.real_path, found.pinned) == (9, 2**64 - 1, odd.real_path, True)


class Losing(Dealer):
    """A dealer whose worker is there, and loses every part."""

    async def _proves(self, worker: str) -> bool:
        return True

    async def _result(self, worker: str, name: str, work: Any, *values: Any) -> None:
        return None


async def test_a_part_that_has_lost_several_workers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ncores() -> dict[str, int]:
        return {"worker": 1}

    monkeypatch.setattr(dask_dealing, "BEAT_SECONDS", 0.001)
    dealer = Losing(client_of(ncores), "run", parse_options("s3://bucket/study", {}), [("/sample", 0, 0)], [].append)
    transfers = [Transfer(SourceFile(f"/{n}", 5, 0), f"study/{n}", f"{n}") for n in range(4)]
    recorded: list[PartOutcome] = []

    async def record(outcome: PartOutcome) -> None:
        recorded.append(outcome)

    await dealer.deal(parts_of_run(transfers, ByLimits(objects_max=2), {}), record)
    failures = [failure for outcome in recorded for failure in outcome.lines.outcomes()]
    assert sorted(failure.key for failure in failures) == [f"study/{n}" for n in range(4)]
    assert all("has lost 5 workers" in getattr(failure, "message", "") for failure in failures)
    assert [outcome.bytes_failed for outcome in recorded] == [10, 10]
