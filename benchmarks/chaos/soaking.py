"""The process that a soak measures: exports a directory again and again, with a sink beside it that stays open.

    python -m benchmarks.chaos.soaking '{"tree": …, "url": "s3://bucket", "endpoint_url": …, "journals": …, "stop": …}'

Writes one line of JSON for every round; ends with the first round that began when the file `stop` was there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncsink
from asyncsink.errors import SourceError, TransferError
from asyncsink.model import Failure, Finished, Receipt
from asyncsink.options.settings import MIB, RetryPolicy
from benchmarks.chaos.tree import PART_BYTES

LASTING, AGAIN = "lasting", "again"
"""Folders of the bucket: of the sink that stays open, and of the exports that come one after the other."""
# A stall is over in a second, so that a soak of minutes meets as many as a run of hours does.
RETRY = RetryPolicy(
    backoff_seconds_base=0.05, backoff_seconds_max=1, connect_seconds=2, stall_seconds=1, complete_seconds=2
)
_OTHER_LANE_EVERY, _ALL_COMPARED_EVERY = 5, 7
_MEMORY_BYTES = 64 * MIB


async def soak(order: dict[str, str]) -> None:
    """Go on until `stop` is there, and once more: that round finds everything at rest."""
    options: dict[str, Any] = {
        "endpoint_url": order["endpoint_url"],
        "part_size_bytes": PART_BYTES,
        "memory_bytes": _MEMORY_BYTES,
        "retry": RETRY,
        # Who exports a tree that others change says so: what vanishes while it is walked does not refuse the rest.
        "on_missing": "skip",
    }
    journals, tree, stop = Path(order["journals"]), Path(order["tree"]), Path(order["stop"])
    outcomes: Counter[str] = Counter()
    async with (
        asyncio.TaskGroup() as group,
        asyncsink.AsyncSink(f"{order['url']}/{LASTING}", journal=journals / LASTING, **options) as sink,
    ):
        watching = asyncio.Event()
        group.create_task(_count(sink, watching, outcomes))
        await watching.wait()
        number, last = 0, False
        while not last:
            last = await asyncio.to_thread(stop.exists)
            began = time.monotonic()
            told = await _export(tree, f"{order['url']}/{AGAIN}", number, {**options, "journal": journals / AGAIN})
            await _submit(sink, tree, outcomes)
            number += 1
            _tell({"round": number, "seconds": time.monotonic() - began, AGAIN: told, LASTING: _taken(outcomes)})
    _tell({"round": number + 1, "seconds": 0.0, AGAIN: {}, LASTING: _taken(outcomes)})


async def _export(tree: Path, url: str, number: int, options: dict[str, Any]) -> Counter[str]:
    """What became of the files: by the error's name, or "published", "skipped", and "retries" of requests."""
    if number % _OTHER_LANE_EVERY == 1:
        options["transport"] = "aioboto3"
    if number % _ALL_COMPARED_EVERY == 2:
        options["overwrite"] = "checksum"
    try:
        report = await asyncsink.export_directory(tree, url, **options)
    except (SourceError, TransferError) as error:
        return Counter({f"refused by {type(error).__name__}: {error}": 1})
    counted = Counter(_word(failure) for failure in report.failures)
    counted.update(published=report.objects_uploaded, skipped=report.objects_skipped, retries=report.retries)
    return counted


async def _submit(sink: asyncsink.AsyncSink, tree: Path, outcomes: Counter[str]) -> None:
    for place in await asyncio.to_thread(lambda: sorted(tree.glob("*/*"))):
        attribute = f"{place.parent.name}.@{place.name}"
        try:
            await sink.submit(attribute, place)
        except SourceError as error:
            outcomes[type(error).__name__] += 1


async def _count(sink: asyncsink.AsyncSink, watching: asyncio.Event, outcomes: Counter[str]) -> None:
    events = sink.events()
    watching.set()
    async for event in events:
        if not isinstance(event, Finished):
            continue
        outcome = event.outcome
        if isinstance(outcome, Failure):
            outcomes[_word(outcome)] += 1
        else:
            outcomes["published" if isinstance(outcome, Receipt) else "skipped"] += 1


def _word(failure: Failure) -> str:
    """A source's own trouble by its name; anything else with what it says, for it is not expected."""
    return failure.error if failure.error.startswith("Source") else f"{failure.error}: {failure.message}"


def _taken(outcomes: Counter[str]) -> Counter[str]:
    taken = outcomes.copy()
    outcomes.clear()
    return taken


def _tell(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(soak(json.loads(sys.argv[1])))
