"""One entry on its way onto the queue of a run whose keys can come twice: a sink's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio.to_thread

from asyncsink.engine.journalling import RunJournal
from asyncsink.engine.ledger import KeyLedger
from asyncsink.engine.pipeline import Found, Work
from asyncsink.engine.producer import first_only
from asyncsink.engine.turns import Turns
from asyncsink.model import SourceProblem, Transfer


async def queue_in_turn(
    work: Work,
    submit: Callable[[Work], Awaitable[None]],
    *,
    turns: Turns,
    journal: RunJournal | None,
    ledger: KeyLedger | None,
) -> None:
    """Submit `work` when its key is free, with what the journal knows then; the recorder ends its turn.

    Args:
        ledger: None where several sources may have one key.

    Raises:
        KeyCollision: another source has its key.
        JournalError: the journal cannot be read.

    Cancelled, it leaves nothing on the queue, unless that has begun already.
    """
    found = work.found
    if not isinstance(found, Transfer):
        await submit(work)
        return
    await turns.take(found.key)
    try:
        if not turns.closed and (journal is not None or ledger is not None):
            work.found = await anyio.to_thread.run_sync(partial(_claimed, found, journal, ledger))
        await submit(work)
    except BaseException:
        work.dropped = not work.taken
        if work.dropped:
            turns.end((found.key,))
        raise
    if not isinstance(work.found, Transfer):
        # What the journal has is told as it is: nothing is on its way to the key.
        turns.end((found.key,))


def _claimed(transfer: Transfer, journal: RunJournal | None, ledger: KeyLedger | None) -> Found:
    (found,) = [transfer] if ledger is None else first_only(iter([transfer]), ledger)
    if isinstance(found, SourceProblem):
        raise found.error
    return found if journal is None else journal.attach([found])[0]
