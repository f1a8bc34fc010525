"""The producer: walks and routes in a thread, batch by batch, and puts every transfer on the queue.

A surveyed run (see survey.py) knows the last source of every key; a stream cannot be surveyed, so there the second
source that asks for a key is a Failure when it comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyio import CapacityLimiter

from asyncsink.engine.buffers import SMALL_BYTES
from asyncsink.engine.discover import BATCH, Discovery, batches
from asyncsink.engine.ledger import KeyLedger
from asyncsink.engine.pipeline import Batch, Found, Submit, Work
from asyncsink.model import Skip, SourceProblem, Transfer
from asyncsink.routing.collisions import collision_error

BATCH_FILES_MAX = 32
"""Reading so many small files in one thread hop makes the hop's cost disappear."""


async def feed_discovery(
    discovery: Discovery,
    submit: Submit,
    *,
    surveyed: bool,
    ledger: KeyLedger | None,
    batch_max: int,
    limiter: CapacityLimiter,
) -> None:
    """Submit everything that `discovery` yields.

    Args:
        ledger: None where keys cannot meet.
        batch_max: small files that may go to one worker together; see `batch_size`.
    """
    found: Iterator[Found] = iter(discovery)
    if ledger is not None:
        found = _last_only(found, ledger) if surveyed else first_only(found, ledger)
    # A stream's next line may be hours away: what has come must not wait for it.
    size = BATCH if discovery.source.replayable else 1
    async for batch in batches(found, limiter=limiter, size=size):
        for work in _group(batch, batch_max):
            await submit(work)


def batch_size(objects_total: int | None, workers: int) -> int:
    """How many small files one worker takes at a time: few where there are few, so that no worker ends late."""
    if objects_total is None:
        return 1
    return max(1, min(BATCH_FILES_MAX, objects_total // (workers * 4)))


def _group(found: list[Found], batch_max: int) -> Iterator[Work | Batch]:
    """Neighbours that are small become batches; everything else stays by itself."""
    together: list[Transfer] = []
    size_bytes = 0
    for item in found:
        small = isinstance(item, Transfer) and item.source.size_bytes <= SMALL_BYTES
        if small and isinstance(item, Transfer) and batch_max > 1:
            together.append(item)
            size_bytes += item.source.size_bytes
            if len(together) >= batch_max or size_bytes >= SMALL_BYTES:
                yield Batch(together)
                together, size_bytes = [], 0
        else:
            yield Work(item)
    if together:
        yield Batch(together)


def _last_only(found: Iterator[Found], ledger: KeyLedger) -> Iterator[Found]:
    """Leave out the sources whose key a later source takes (on_collision="last", rule 16)."""
    ordinal = 0
    for item in found:
        if not isinstance(item, Transfer):
            yield item
            continue
        last = ledger.last(item.key)
        later = last is not None and last[1] > ordinal and last[0] != item.source.path
        yield _superseded(item) if later else item
        ordinal += 1


def first_only(found: Iterator[Found], ledger: KeyLedger) -> Iterator[Found]:
    """Replace transfers whose key another source has already by KeyCollision problems. Blocks."""
    for item in found:
        yield _claim_first(item, ledger) if isinstance(item, Transfer) else item


def _claim_first(transfer: Transfer, ledger: KeyLedger) -> Transfer | SourceProblem:
    for key, first, second in ledger.claim([(transfer.key, transfer.source.path, 0)]):
        error = collision_error(key, first, second)
        return SourceProblem(second, error, entry=transfer.source.entry, skippable=False)
    return transfer


def _superseded(transfer: Transfer) -> Skip:
    return Skip(
        source=transfer.source.path,
        key=transfer.key,
        url="",
        size_bytes=transfer.source.size_bytes,
        reason="a later source has the same key",
        already_there=False,
        entry=transfer.source.entry,
    )
