"""What a run and its processes say to each other: pickles over private pipes, each led by its length.

Both ends are ours, of one release, and the pipes are nobody else's: that is why pickle is no danger here. Settings,
with the secrets in them, travel this way only; arguments and environments of processes can be read by others.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from asyncsink import errors
from asyncsink.config import Settings
from asyncsink.destinations.base import Outlook
from asyncsink.engine.recorder import Passed
from asyncsink.errors import AsyncSinkError
from asyncsink.model import Event, Outcome, Resumable, SourceFile, Transfer, UploadStep

LENGTH = struct.Struct("!Q")


_Reducer = Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]


def _reducer(kind: type[Any]) -> _Reducer:
    values = attrgetter(*[each.name for each in fields(kind)])
    return lambda value: (kind, values(value))


# A frozen dataclass with slots is otherwise pickled, and set up again, field by field in Python: five times as slow.
_HOT = (SourceFile, Transfer)
_REDUCERS: dict[type, _Reducer] = {kind: _reducer(kind) for kind in _HOT}


@dataclass(frozen=True, slots=True)
class Begin:
    """To a process, first: what it is told, what the survey found, and whether the parent keeps a journal. After it
    come lists of `Work` and `Batch`, and `Noted`."""

    settings: Settings
    outlook: Outlook
    journalled: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """To a process: of the steps that it told since its start, the first `steps` are in the journal."""

    steps: int


@dataclass(frozen=True, slots=True)
class Finish:
    """To a process, last: no more work will come."""


@dataclass(frozen=True, slots=True)
class Leave:
    """To a process: stop now, and end what is under way. A pipe that ends without this message means that nobody is
    left to tell: the parent was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """From a process: what became of its work since the last news, and its counts since the start.

    Attributes:
        ready: the destination is open, and work may come.
        ended: the transfers that have ended, by their number in the order in which they were given.
        passed: what became of them.
        put_off: transfers, by number, that failed for a cause that may pass, and how.
        events: of the server's being gone. stopped: why the process stopped by itself, or "".
        steps, notices: new ones; steps are those of multipart uploads, for the journal.
        objects_in_hand, bytes_under_way: now.
        bytes_failed, bytes_moved, bytes_resumed, requests, retries: since the start.
        resumable: the uploads that stay open for a later run.
        limit: requests in flight that are allowed now; `reason`: why it is that.
        error: class name and sentence of the error that ended the process, or None.
    """

    ready: bool = False
    ended: list[int] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    put_off: list[tuple[int, Sequence[Outcome]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    stopped: str = ""
    steps: list[UploadStep] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    objects_in_hand: int = 0
    bytes_under_way: int = 0
    bytes_failed: int = 0
    bytes_moved: int = 0
    bytes_resumed: int = 0
    requests: int = 0
    retries: int = 0
    resumable: tuple[Resumable, ...] = ()
    limit: int = 0
    reason: str = ""
    error: tuple[str, str] | None = None


def pack(message: object) -> bytes:
    """One message, ready to be written."""
    buffer = io.BytesIO(bytes(LENGTH.size))
    buffer.seek(LENGTH.size)
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {**copyreg.dispatch_table, **_REDUCERS}
    pickler.dump(message)
    with buffer.getbuffer() as view:
        LENGTH.pack_into(view, 0, len(view) - LENGTH.size)
    return buffer.getvalue()


async def receive(read: Callable[[int], Awaitable[bytes]]) -> Any:
    """The next message. `read` returns exactly as many bytes as it is asked for, and raises where the pipe ends."""
    (length,) = LENGTH.unpack(await read(LENGTH.size))
    return pickle.loads(await read(length))  # noqa: S301 - written by our own process, see above


def told_error(name: str, message: str) -> AsyncSinkError:
    """The error that a process told, as its own class where that takes a sentence alone."""
    kind = getattr(errors, name, AsyncSinkError)
    if not issubclass(kind, AsyncSinkError) or issubclass(kind, (errors.IntegrityError, errors.ExportFailed)):
        kind = AsyncSinkError
    return kind(message)
