"""Pure: the remedies for errors of the operating system, worded once for reading and writing."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from asyncsink.errors import AsyncSinkError

P = ParamSpec("P")
T = TypeVar("T")

_REMEDIES = {
    errno.EMFILE: "this process has too many open files; raise `ulimit -n` or lower `concurrency`, then run it again",
    errno.ENFILE: "this machine has too many open files; raise the system's limit or lower `concurrency`, then run it "
    "again",
    errno.ENOMEM: "the system has no memory left for this process; raise `ulimit -v` or the container's limit, or "
    "lower `memory_bytes` and `concurrency`, then run it again",
    errno.EIO: "expected storage that works; check the disk or the network mount, then run it again",
    errno.ESTALE: "its file handle is stale, also when it is opened once more; expected the file that was found; "
    "remount the network file system, then run it again",
}


def remedy(number: int | None) -> str:
    """The remedy for an errno that does not concern one file alone, as the end of a sentence; "" for all others."""
    return _REMEDIES.get(number or 0, "")


def shortage(error: BaseException) -> str:
    """A sentence where an exception means that the process cannot have more memory, threads or open files; else "".

    Python reports that in many ways: a MemoryError, a RuntimeError where no thread can be started, an ImportError where
    a library cannot be mapped, an OSError.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return f"The run cannot go on: {os.strerror(number)}; raise `ulimit -n`, or close other programs."
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return (
            "The run cannot go on: the system has no thread, or no memory for one, left for this process; raise "
            "`ulimit -u` and `ulimit -v` or the container's limits, or lower `concurrency`."
        )
    unmapped = isinstance(error, ImportError) and ("failed to map" in text or "cannot allocate memory" in text.lower())
    if isinstance(error, MemoryError) or number == errno.ENOMEM or unmapped:
        return f"The run cannot go on: {remedy(errno.ENOMEM)}."
    if number == errno.EAGAIN:
        return f"The run cannot go on: {os.strerror(number)}; raise `ulimit -u`, or close other programs."
    return ""


def words_shortages(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The function, raising a `shortage` as an AsyncSinkError with that sentence, caused by the exception."""

    @wraps(function)
    async def worded(*values: P.args, **named: P.kwargs) -> T:
        try:
            return await function(*values, **named)
        except AsyncSinkError:
            raise
        except Exception as error:
            if sentence := shortage(error):
                raise AsyncSinkError(sentence) from error
            raise

    return worded
