"""How a command runs: the first signal cancels its coroutine, and later ones do not disturb its clean-up."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GARBAGE_OBJECTS = 50_000
"""New objects between two runs of the garbage collector: some 10 MB. With Python's 700, the collector traverses the
entries of a survey again and again, which takes a fifth of a re-run without changes."""


class Interrupted(Exception):
    """A signal ended the run, which has cleaned up. `exit_code` is 128 + its number, as shells count."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run_until_signalled(main: Callable[[], Coroutine[Any, Any, T]], on_signal: Callable[[], None] | None = None) -> T:
    """Run `main()` in an event loop of its own and return its result.

    The first of `SIGNALS` calls `on_signal` (on the loop) and cancels `main`; later ones are ignored until the clean-up
    has ended. A signal that is ignored from the start (nohup, a shell's background) stays ignored.

    Raises:
        Interrupted: a signal ended `main`; its cause is the error that the clean-up raised, if any.
    """
    from asyncsink.event_loops import run_to_end

    if not gc.isenabled():
        # Imported modules live to the end of the process: the collector never traverses them again.
        gc.freeze()
        gc.enable()
        gc.set_threshold(GARBAGE_OBJECTS)
    return run_to_end(lambda: _supervised(main, on_signal))


async def _supervised(main: Callable[[], Coroutine[Any, Any, T]], on_signal: Callable[[], None] | None) -> T:
    import asyncio  # not loaded for a help page

    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            if on_signal is not None:
                on_signal()
            work.cancel()

    # A task of its own: the present one is never cancelled, so that it always gets the result of `main`.
    work = asyncio.ensure_future(main())
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop, number)
    try:
        await asyncio.wait({work})
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            if received:
                signal.signal(number, signal.SIG_IGN)  # only the result is left to be printed
    if received and work.cancelled():
        raise Interrupted(received[0])
    if received and (error := work.exception()) is not None:
        raise Interrupted(received[0]) from error
    return work.result()
