"""How a thread waits for a socket, and how others end its wait."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Final

_POLL_MS_MAX: Final = 2**31 - 1


class Interrupted(Exception):
    """Whoever wanted the answer has given up."""


class Interrupt:
    """Wakes the thread that waits for a connection. `signal` may be called from any thread, also after `close`.

    Raises:
        OSError: no descriptors are free.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """What becomes readable."""
        return self._reader

    def signal(self) -> None:
        """End the present wait, and the ones to come until `clear`."""
        # The lock: a descriptor that was closed may be somebody else's by now.
        with self._lock:
            if not self._closed:
                # A full pipe wakes just as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"!")

    def clear(self) -> None:
        """Forget signals for what is over; only for the thread that waits."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    def close(self) -> None:
        """Give the descriptors back. Calling it twice is harmless."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._reader)
                os.close(self._writer)


class Waiter:
    """Waits for a socket, given by its descriptor, and an interrupt at once."""

    def __init__(self, descriptor: int, interrupt: Interrupt) -> None:
        self._descriptor = descriptor
        self._interrupt = interrupt.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, 0)
        self._poll.register(self._interrupt, select.POLLIN)

    def wait(self, events: int, seconds: float) -> int:
        """What the socket is ready for, or 0 where the time is up first.

        Raises:
            Interrupted: the interrupt came.
        """
        self._poll.modify(self._descriptor, events)
        ready = 0
        for descriptor, found in self._poll.poll(min(max(0.0, seconds * 1000), _POLL_MS_MAX)):
            if descriptor == self._interrupt:
                raise Interrupted
            ready = found
        return ready

    def wait_until(self, events: int, deadline: float) -> None:
        """Wait until the socket is ready.

        Raises:
            TimeoutError: the deadline (as of time.monotonic) came first.
            Interrupted: the interrupt came.
        """
        if not self.wait(events, deadline - time.monotonic()):
            raise TimeoutError("it did not answer in time")
