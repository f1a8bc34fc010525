"""The producer: walks and routes in a thread, batch by batch, and puts every transfer on the queue.

After a survey (see survey.py), the ledger has the last source of every key, and each key is submitted once. A stream
cannot be surveyed: there, the second source of a key becomes a Failure when it comes, and transfers that may have one
key follow each other (see `KeyTurns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar, cast

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.engine.limits.memory import SMALL_BYTES
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.planning.key_ledger import Kept, KeyLedger
from asyncsink.engine.queue_entries import Batch, Entry, Skipped, Submit, Work
from asyncsink.engine.recording.recorder import KeyTurns
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.outcomes import REPEATED, SUPERSEDED
from asyncsink.event_loops import BATCH, taken
from asyncsink.model import Found, Skip, SourceProblem, Transfer
from asyncsink.routing.keys import collision_error

T = TypeVar("T")


async def feed_discovery(
    discovery: Discovery,
    submit: Submit,
    *,
    kept: Kept | None,
    surveyed: bool,
    ledger: KeyLedger | None,
    batch_size: Callable[[int | None], int],
    resources: Resources,
    journal: RunJournal | None = None,
) -> None:
    """Submit everything that `discovery` yields.

    Args:
        kept: everything that the survey found; None walks the source.
        ledger: None where keys cannot meet.
        batch_size: from the number of objects left, how many small files one worker is to take at a time.
        resources, journal: of the run.

    Raises:
        JournalError: the journal cannot be read.
    """
    objects_total, readers, limiter = resources.progress.objects_total, resources.readers, resources.threads
    found: Iterator[Found] = iter(discovery if kept is None else kept)
    if ledger is not None:
        found = last_only(found, ledger) if surveyed else first_only(found, ledger)
    # A stream's next line may be hours away: earlier lines must not wait for it.
    size = BATCH if discovery.source.replayable else 1
    take = partial(taken, found, size)
    if surveyed and journal is not None and journal.blank:
        # Every key comes once, and the journal had no row.
        journal = None
    if journal is not None and discovery.source.replayable:
        take = partial(_taken_with, journal, found, size)
    # Entries in memory are not worth a call to a thread; the ledger and the journal, which are on disk, are.
    in_memory = kept is not None and kept.in_memory and ledger is None and journal is None
    while True:
        if in_memory:
            batch = take()
        elif discovery.source.replayable:
            batch = await readers.run(take, stop=None if journal is None else journal.stop_asking)
        else:
            # Not in `readers`: the call may wait for hours, and shows nothing about the speed of reading files.
            batch = await anyio.to_thread.run_sync(take, limiter=limiter)
            batch = [await _in_turn(item, resources.key_turns, journal, limiter) for item in batch]
        if not batch:
            return
        for work in entries_of(batch, batch_size(objects_total)):
            await submit(work)
        if objects_total is not None:
            objects_total -= len(batch)


def _taken_with(journal: RunJournal, found: Iterator[Found], size: int) -> list[Found]:
    """As `taken`, with the rows of the journal. Blocks."""
    return journal.attach(taken(found, size))


async def _in_turn(found: Found, key_turns: KeyTurns, journal: RunJournal | None, limiter: CapacityLimiter) -> Found:
    """Wait for the turn of the entry's key; returns the entry with its row of the journal."""
    if not isinstance(found, Transfer):
        return found
    await key_turns.take(found.key)
    if journal is None:
        return found
    (known,) = await anyio.to_thread.run_sync(journal.attach, [found], limiter=limiter)
    if not isinstance(known, Transfer):
        key_turns.end((found.key,))
    return known


def is_small(transfer: Transfer) -> bool:
    """Whether a transfer may be in a batch: small, and without an upload that an earlier run left open."""
    known = transfer.known
    return transfer.source.size_bytes <= SMALL_BYTES and (known is None or known.upload is None)


def grouped(items: Iterable[T], found: Callable[[T], Found], batch_max: int) -> Iterator[list[T] | T]:
    """The items, small files in lists, and then everything else one by one: small files do not wait for a large one
    between them.

    Args:
        items: anything but lists.
        found: returns what an item stands for.
        batch_max: most small files in a list.
    """
    together: list[T] = []
    others: list[T] = []
    size_bytes = 0
    for item in items:
        transfer = found(item)
        if not isinstance(transfer, Transfer) or not is_small(transfer):
            others.append(item)
            continue
        together.append(item)
        size_bytes += transfer.source.size_bytes
        if len(together) >= batch_max or size_bytes >= SMALL_BYTES:
            yield together
            together, size_bytes = [], 0
    if together:
        yield together
    yield from others


def entries_of(found: list[Found], batch_max: int) -> Iterator[Entry]:
    """The entries of the queue: small files in batches, skips together."""
    skips = [item for item in found if isinstance(item, Skip)]
    if skips:
        yield Skipped(skips)
        found = [item for item in found if not isinstance(item, Skip)]
    for piece in grouped(found, _itself, batch_max):
        yield Batch(cast("list[Transfer]", piece)) if isinstance(piece, list) else Work(piece)


def _itself(found: Found) -> Found:
    return found


def last_only(found: Iterator[Found], ledger: KeyLedger) -> Iterator[Found]:
    """Leave out the sources whose key a later source takes (on_collision="last", rule 16), and repetitions."""
    ordinal = 0
    for item in found:
        if not isinstance(item, Transfer):
            yield item
            continue
        last = ledger.last(item.key)
        if last is not None and last[1] > ordinal and last[0] != item.source.path:
            yield _left_out(item, SUPERSEDED)
        elif ledger.repeated and ledger.given_before(item.key):
            yield _left_out(item, REPEATED)
        else:
            yield item
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


def _left_out(transfer: Transfer, reason: str) -> Skip:
    return Skip(
        source=transfer.source.path,
        key=transfer.key,
        url="",
        size_bytes=transfer.source.size_bytes,
        reason=reason,
        already_there=False,
        entry=transfer.source.entry,
        attribute=transfer.source.attribute,
    )
