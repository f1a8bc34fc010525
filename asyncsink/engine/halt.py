"""Stopping a run from inside, for a reason that is no file's own: what is under way is cancelled, no more is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from asyncsink.errors import AsyncSinkError, ConfigError, TransferError


class Halt:
    """Ends the blocks that are inside `bounds`, now or later.

    Attributes:
        reason: why, as a sentence; "" until then.
    """

    def __init__(self) -> None:
        """Nothing is to be stopped."""
        self.reason = ""
        self._scopes: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Halt {self.reason or 'not needed'}>"

    def stop(self, reason: str) -> None:
        """Cancel every block. Only the first reason counts. On the event loop."""
        self.reason = self.reason or reason
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def bounds(self) -> Iterator[None]:
        """A block that `stop` ends; `reason` is set then. What its last requests raise for that reason is left out."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.reason:
                    scope.cancel()
                yield
            except (AsyncSinkError, BaseExceptionGroup) as error:
                if not self.reason or not _of_requests(error):
                    raise
            finally:
                self._scopes.discard(scope)


def _of_requests(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_of_requests, error.exceptions))
    return isinstance(error, (TransferError, ConfigError))
