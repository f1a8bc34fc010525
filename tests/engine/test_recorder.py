"""Outcomes are written down before anybody hears of them, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asyncsink.engine.recording.events import Events
from asyncsink.engine.recording.recorder import (
    BATCH,
    QUEUE_OUTCOMES,
    QUEUE_PASSED,
    Completion,
    KeyTurns,
    Passed,
    QueuedOutcomes,
    Recorder,
)
from asyncsink.errors import JournalError
from asyncsink.model import Event, Failure, Finished, Receipt
from asyncsink.report.manifest import ManifestHeader, ManifestWriter, read_manifest
from asyncsink.report.outcomes import OutcomeLog, encoded

pytestmark = pytest.mark.anyio


def outcome(number: int) -> Receipt:
    return Receipt(
        source=f"/s/{number}", key=str(number), url=f"s3://b/{number}", size_bytes=1, checksum=None, etag="e",
        version_id="", attempts=1, seconds=0.0, local_copy="", confirmed_by="etag", entry=0,
    )  # fmt: skip


def passed(*numbers: int) -> Passed:
    receipts = [outcome(number) for number in numbers]
    return Passed(encoded(receipts), [], lambda: receipts)


async def test_everything_is_recorded_in_order_and_told_afterwards(tmp_path: Path) -> None:
    manifest = ManifestWriter(tmp_path / "m", ManifestHeader(destination="d"))
    await manifest.open()
    log, heard = OutcomeLog(), []

    def observe(event: Event) -> None:
        assert isinstance(event, Finished)
        assert isinstance(event.outcome, Receipt)
        assert f'"key":"{event.outcome.key}"' in (tmp_path / "m.partial").read_text()
        heard.append(event.outcome.key)

    recorder = Recorder(log, manifest, Events(observe))
    async with anyio.create_task_group() as group:
        group.start_soon(recorder.run)
        for number in range(700):
            recorder.add([outcome(number)])
            await recorder.room()
        completion = Completion()
        recorder.add([outcome(700)], completion=completion)
        await completion.done.wait()
        assert completion.outcomes == [outcome(700)]
        recorder.add([outcome(701)])
        recorder.finish()
    await manifest.close(interrupted=False)
    assert heard == [str(number) for number in range(702)]
    assert [receipt.key for receipt in log.receipts] == heard
    assert [json.loads(line).get("key") for line in (tmp_path / "m").read_text().splitlines()][1:-1] == heard


FAILED = Failure("/s/f", "f", "s3://b/f", "Throttled", "Too many.", "upload")


@pytest.mark.parametrize("failures_only", [False, True])
async def test_what_batches_pass_on_is_recorded_before_it_is_told(tmp_path: Path, failures_only: bool) -> None:
    manifest, log = ManifestWriter(tmp_path / "m", ManifestHeader(destination="d")), OutcomeLog()
    await manifest.open()
    order: list[object] = []

    class Journal:
        async def record(self, ended: Sequence[QueuedOutcomes], passed: Sequence[Passed], /) -> None:
            order.extend([*(group[0] for group, _, _ in ended), *(row[0] for each in passed for row in each.rows)])

    def observe(event: Event) -> None:
        assert isinstance(event, Finished)
        order.append(event.outcome)

    recorder = Recorder(log, manifest, Events(watch=observe, failures_only=failures_only), Journal())
    waiting = Completion()
    first = passed(1, 2)
    first.rows, first.completions = [(b"1", b"", "", "", "", "")], [(waiting, outcome(2))]
    recorder.pass_on(first)
    recorder.add([outcome(3)])
    recorder.add([FAILED])
    recorder.pass_on(passed(4))
    recorder.finish()
    await recorder.run()
    await manifest.close(interrupted=False)
    told = [FAILED] if failures_only else [outcome(3), FAILED, outcome(1), outcome(2), outcome(4)]
    assert order == [outcome(3), FAILED, b"1", *told]
    assert waiting.done.is_set()
    assert waiting.outcomes == [outcome(2)]
    assert list(log.receipts) == [outcome(3), outcome(1), outcome(2), outcome(4)]
    assert list(log.failures) == [FAILED]
    assert (log.counts.objects_uploaded, log.counts.objects_failed, log.counts.bytes_uploaded) == (4, 1, 4)
    records = read_manifest(tmp_path / "m").records()
    assert list(records)[:-1] == [outcome(3), FAILED, outcome(1), outcome(2), outcome(4)]


async def test_what_is_passed_on_holds_back_too() -> None:
    recorder = Recorder(OutcomeLog(), None, Events())
    recorder.pass_on(passed(*range(QUEUE_PASSED)))
    waited = anyio.Event()

    async def wait() -> None:
        await recorder.room()
        waited.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not waited.is_set()
        recorder.finish()
        await recorder.run()
        await waited.wait()


async def test_finishing_an_empty_recorder() -> None:
    recorder = Recorder(OutcomeLog(), None, Events())
    recorder.finish()
    await recorder.run()


async def test_a_full_queue_holds_back_and_a_broken_recorder_tells() -> None:
    class Full(OutcomeLog):
        def extend(self, *_: Any) -> None:
            raise JournalError("no space")

    recorder = Recorder(Full(), None, Events())
    for number in range(QUEUE_OUTCOMES):
        recorder.add([outcome(number)])
    with anyio.move_on_after(0.05) as waited:
        await recorder.room()
    assert waited.cancelled_caught
    released = anyio.Event()

    async def wait() -> None:
        await recorder.room()
        released.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(JournalError):
            await recorder.run()
        with anyio.fail_after(5):
            await released.wait()
    with pytest.raises(anyio.BrokenResourceError):
        recorder.add([outcome(0)])


async def test_commits_are_few_and_nobody_who_waits_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the clock would end the gathering, a ticket, a full batch, a subscriber or the end does."""
    monkeypatch.setattr("asyncsink.engine.recording.recorder.COMMIT_GATHER_SECONDS", 3600.0)
    events, commits = Events(), list[int]()

    class Journal:
        async def record(self, ended: Sequence[QueuedOutcomes], _passed: Sequence[Passed], /) -> None:
            commits.append(len(ended))

    recorder = Recorder(OutcomeLog(), None, events, Journal())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(recorder.run)
            for number in range(BATCH):
                recorder.add([outcome(number)])
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            recorder.add([outcome(1)])
            completion = Completion()
            recorder.add([outcome(2)], completion=completion)
            await completion.done.wait()
            subscription = events.subscribe()
            recorder.add([outcome(3)])
            await anext(subscription)
            recorder.add([outcome(4)])
            recorder.finish()
    assert commits == [BATCH, 2, 1, 1]


# -- Turns of a key: the order of arrival, whoever gives up on the way, and the end of the run -------------------------


async def test_whoever_comes_first_is_served_first_and_other_keys_are_free() -> None:
    key_turns, served = KeyTurns(), list[int]()

    async def take(number: int) -> None:
        await key_turns.take("k")
        served.append(number)

    await key_turns.take("k")
    await key_turns.take("other")
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(take, number)
            await anyio.wait_all_tasks_blocked()
        assert served == []
        for expected in ([0], [0, 1], [0, 1, 2]):
            key_turns.end(["k", "nobody's"])
            await anyio.wait_all_tasks_blocked()
            assert served == expected
    key_turns.end(["k", "other"])
    assert repr(key_turns) == "<KeyTurns of 0 keys>"


@pytest.mark.parametrize("given", [False, True])
async def test_a_cancelled_one_lets_nobody_pass_early_and_stops_nobody(given: bool) -> None:
    key_turns, served = KeyTurns(), list[str]()

    async def take(name: str) -> None:
        await key_turns.take("k")
        served.append(name)

    await key_turns.take("k")
    second, third = asyncio.create_task(take("second")), asyncio.create_task(take("third"))
    await anyio.wait_all_tasks_blocked()
    if given:
        key_turns.end(["k"])
    second.cancel()  # asyncio's own, which also reaches a task whose event was just set
    await anyio.wait_all_tasks_blocked()
    assert served == (["third"] if given else [])
    key_turns.end(["k"])
    await third
    assert second.cancelled()
    assert served == ["third"]


async def test_nobody_waits_for_a_run_that_is_over() -> None:
    key_turns = KeyTurns()
    await key_turns.take("k")
    async with anyio.create_task_group() as group:
        group.start_soon(key_turns.take, "k")
        await anyio.wait_all_tasks_blocked()
        key_turns.close()
    await key_turns.take("k")


def test_whoever_waits_without_a_task_is_called_in_order_and_may_leave() -> None:
    key_turns, called = KeyTurns(), list[str]()
    waiting = {name: partial(called.append, name) for name in ("second", "third", "fourth")}
    assert key_turns.enter("k", partial(called.append, "first"))
    assert not any(key_turns.enter("K", given) for given in waiting.values())
    assert key_turns.leave("k", waiting["third"])
    assert not key_turns.leave("k", waiting["third"])
    key_turns.end(["k"])
    assert called == ["second"]
    assert not key_turns.leave("k", waiting["second"])
    key_turns.close()
    assert called == ["second", "fourth"]
    assert key_turns.enter("k", waiting["third"])
    assert repr(key_turns) == "<KeyTurns of 0 keys>"
