"""Short blocking calls in threads, for one event loop.

Such a call costs a quarter of `anyio.to_thread.run_sync`, whose copied context, cancel scope and worker's idle time are
not needed here: work is put on a thread's own queue, and its end is one callback on the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, NamedTuple

THREAD_NAME: Final = "asyncsink-intake"
Over = Callable[[BaseException | None], None]


class _Piece(NamedTuple):
    work: Callable[[], None]
    over: Over


_Pieces = SimpleQueue[_Piece | None]


class CallThreads:
    """Threads for the event loop in which this is made; started when they are needed, and one is kept, which waits
    without waking up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: _Pieces | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<CallThreads {'closed' if self._closed else 'one idle' if self._idle else 'busy or not started'}>"

    def begin(self, work: Callable[[], None], over: Over) -> None:
        """Call `work()` in a thread, and then `over` with its error, or None, on the event loop.

        Raises:
            OSError, RuntimeError: no thread could be started.
        """
        pieces, self._idle = self._idle, None
        if pieces is None:
            pieces = SimpleQueue()
            # A daemon: a call that hangs in a file system must not keep the process.
            threading.Thread(target=self._carry_out, args=(pieces,), name=THREAD_NAME, daemon=True).start()
        pieces.put(_Piece(work, over))

    def close(self) -> None:
        """Let the threads end, each after its call. `over` is called even then."""
        self._closed = True
        if self._idle is not None:
            self._idle.put(None)
            self._idle = None

    def _carry_out(self, pieces: _Pieces) -> None:
        while (piece := pieces.get()) is not None:
            error: BaseException | None = None
            try:
                piece.work()
            except BaseException as raised:  # noqa: BLE001 - handed over
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._end, pieces, piece.over, error)
            except RuntimeError:
                return  # the loop has ended before this call
            del piece, error  # a waiting thread keeps nothing of its last call

    def _end(self, pieces: _Pieces, over: Over, error: BaseException | None) -> None:
        if self._closed or self._idle is not None:
            pieces.put(None)
        else:
            self._idle = pieces
        over(error)
