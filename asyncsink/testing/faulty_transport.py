"""A transport around a real one that injects faults into chosen requests: for runs in which any request may fail.

`Faults` chooses the requests and their faults, and records every request:

    faults = Faults(nth_request(7, "lose"))
    report = await asyncsink.export_directory(…, transport=lambda inner: FaultyTransport(inner, faults))
    assert faults.hits

With a transport of one's own small files are sent one by one. Batches of them have faults too where `open_lanes`
replaces that of `s3.stack`, so that the faults lie above both lanes and the lane threads:

    monkeypatch.setattr("asyncsink.s3.stack.open_lanes", faults.open_lanes)

Faults of a server or a network in the bytes of a connection belong to `fault_proxy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import anyio

from asyncsink.errors import AccessDenied, ConnectionLost, PermanentError, Stalled
from asyncsink.s3.operations import Operation, PutObjectFrom, Response, UploadPartFrom
from asyncsink.s3.stack import Lanes, open_lanes
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

R = TypeVar("R", bound=Response)
Fault = Literal[
    "fail",  # ConnectionLost; nothing was sent
    "refuse",  # PermanentError; nothing was sent
    "deny",  # AccessDenied; nothing was sent
    "lose",  # sent and done, then ConnectionLost: the answer is lost
    "stall",  # nothing was sent; Stalled, after `stall_seconds`
]
Choose = Callable[[int, Operation[Any]], Fault | None]
"""The fault of a request, or None, by its number (from 1, in the order of all attempts) and its operation."""

_PLACE = ("key", "upload_id", "part_number", "version_id", "prefix", "token", "marker", "key_marker")


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request.

    Attributes:
        operation: S3's name.
        key: or the listed prefix.
        fault: the injected fault, or None.
    """

    operation: str
    key: str
    fault: Fault | None


class Faults:
    """The faults of a run, and its recorded requests. For one event loop; several transports may share it.

    Args:
        choose: called for every request, retries included.
        stall_seconds: duration of a stall, which in a real lane a watchdog bounds; short here.

    Attributes:
        requests: all requests, in order.
    """

    def __init__(self, choose: Choose = lambda _number, _operation: None, *, stall_seconds: float = 0.02) -> None:
        self.choose = choose
        self.stall_seconds = stall_seconds
        self.requests: list[Request] = []

    def __repr__(self) -> str:
        return f"<Faults: {len(self.hits)} of {len(self.requests)} requests>"

    @property
    def hits(self) -> list[Request]:
        """The requests with a fault, in order."""
        return [request for request in self.requests if request.fault is not None]

    def meet(self, operation: Operation[Any]) -> Fault | None:
        """Record a request; its fault, or None."""
        fault = self.choose(len(self.requests) + 1, operation)
        self.requests.append(Request(operation.name, _key(operation), fault))
        return fault

    async def open_lanes(self, *args: Any, **kwargs: Any) -> Lanes:
        """`s3.stack.open_lanes` with these faults before the lanes; same arguments and errors."""
        lanes = await open_lanes(*args, **kwargs)
        return replace(lanes, transport=FaultyTransport(lanes.transport, self))


class FaultyTransport:
    """A Transport that injects `faults` into the requests to `inner`, those to lane threads included."""

    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __repr__(self) -> str:
        return f"FaultyTransport({self._faults!r}, {self._inner!r})"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation`, or fail with its fault. Besides the errors of `inner`:

        Raises:
            ConnectionLost: it was not sent ("fail"), or it was and its answer is lost ("lose").
            Stalled: after `Faults.stall_seconds`.
            PermanentError, AccessDenied: it was not sent.

        Cancellation propagates, also out of a stall.
        """
        fault = self._faults.meet(operation)
        if fault is None:
            return await self._inner.send(operation)
        what = f"{operation.name} of {_key(operation)!r} failed on purpose"
        if fault == "refuse":
            raise PermanentError(f"{what}: it was refused.", operation=operation.name, code="Invalid", status=400)
        if fault == "deny":
            raise AccessDenied(f"{what}: it was denied.", operation=operation.name, code="AccessDenied", status=403)
        if fault == "stall":
            await anyio.sleep(self._faults.stall_seconds)
            raise Stalled(f"{what}: no byte moved.", operation=operation.name)
        if fault == "lose":
            await self._inner.send(_unheard(operation))
        how = "its answer was lost" if fault == "lose" else "it was not sent"
        raise ConnectionLost(f"{what}: {how}.", operation=operation.name)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def nth_request(number: int, fault: Fault, *, for_good: bool = False) -> Choose:
    """A fault in request `number` (from 1); `for_good` repeats it in every later request with the same operation, key,
    upload and part: its further attempts, and requests that are repeated because it failed."""
    marked: object = None

    def choose(count: int, operation: Operation[Any]) -> Fault | None:
        nonlocal marked
        if count == number:
            marked = _place(operation)
            return fault
        return fault if for_good and marked is not None and marked == _place(operation) else None

    return choose


def _key(operation: Operation[Any]) -> str:
    return str(getattr(operation, "key", "") or getattr(operation, "prefix", ""))


def _place(operation: Operation[Any]) -> object:
    """The identity of a request, without its body, whose buffer may have other content by now."""
    return operation.name, [getattr(operation, name, None) for name in _PLACE]


def _unheard(operation: Operation[R]) -> Operation[R]:
    """The same operation without the callbacks that receive an answer during the request."""
    if isinstance(operation, (UploadPartFrom, PutObjectFrom)):
        return cast("Operation[R]", replace(operation, confirm=None))
    return operation
