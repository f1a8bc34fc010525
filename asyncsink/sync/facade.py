"""An asynchronous object for synchronous code: opened by its first use, in the process's background loop.

All objects of a process share that loop, which has a thread of its own (`event_loops.BACKGROUND`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial, wraps
from typing import Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from asyncsink.errors import ConfigError
from asyncsink.event_loops import BACKGROUND


class Openable(Protocol):
    """What a façade opens and closes."""

    async def start(self) -> object:
        """Open it."""
        ...

    async def close(self) -> object:
        """Close it."""
        ...


A = TypeVar("A", bound=Openable)
P = ParamSpec("P")
T = TypeVar("T")


class Facade(Generic[A]):
    """An asynchronous object, opened by its first use, and used in the background loop by any thread."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._make = make
        self._inner = make()
        self._opening: Future[None] | None = None
        self._opened_in = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._inner!r}>"

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Open it now, instead of by its first use; returns it when that is done.

        Raises:
            ConfigError: it was closed, or opened in the parent of this forked process.
            CredentialsError, TransferError: it cannot be opened; another call tries again.
        """
        BACKGROUND.check_thread()
        with BACKGROUND.lock:
            if self._closed:
                raise ConfigError(f"This {type(self).__name__} is closed; make another one.")
            opening, first = self._opening, self._opening is None
            if opening is None:
                opening, self._opened_in = Future(), os.getpid()
                self._opening = opening
        if not first:
            self._check_process()
            opening.result()
            return self
        try:
            BACKGROUND.run(self._inner.start)
        except BaseException as error:
            with BACKGROUND.lock:
                self._inner, self._opening = self._make(), None
            opening.set_exception(error)
            raise
        BACKGROUND.keep(self, self._end)
        opening.set_result(None)
        return self

    def _check_process(self) -> None:
        if self._opened_in not in (0, os.getpid()):
            raise ConfigError(
                f"This {type(self).__name__} was opened in process {self._opened_in}, and this is its fork "
                f"{os.getpid()}, in which nothing of it runs; make another one here."
            )

    def _end(self) -> Awaitable[object]:
        return self._inner.close()

    def _run(self, call: Callable[[A], Awaitable[T]]) -> T:
        self.start()
        return BACKGROUND.run(partial(call, self._inner))

    def _ended(self) -> bool:
        """Take nothing more; whether there is something to close.

        Raises:
            ConfigError: it was opened in the parent of this forked process.
        """
        self._check_process()
        BACKGROUND.drop(self)
        with BACKGROUND.lock:
            self._closed = True
            return self._opening is not None


def blocking(
    method: Callable[Concatenate[A, P], Awaitable[T]],
) -> Callable[Concatenate[Facade[A], P], T]:
    """The synchronous form of an asynchronous method, with the same arguments."""

    @wraps(method)
    def call(facade: Facade[A], /, *values: P.args, **named: P.kwargs) -> T:
        async def main(inner: A) -> T:
            return await method(inner, *values, **named)

        return facade._run(main)

    owner = method.__qualname__.partition(".")[0]
    call.__doc__ = f"As `{owner}.{method.__name__}`; waits for it. KeyboardInterrupt cancels it."
    return call
