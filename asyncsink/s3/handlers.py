"""The event handlers that somebody registered on a client, or on its session, for a client of ours to call them too.

botocore has no public door to the handlers of an emitter, nor to who registered them: they are read from its prefix
tree, and the SDK's own are known by the modules they come from.
Source: Boto3 documentation, "Extensibility guide".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from asyncsink.value import dataclass

_SDK = ("botocore", "aiobotocore", "boto3", "aioboto3", "s3transfer")
_OTHER_PHASES = ("docs", "getattr", "creating-client-class", "creating-resource-class", "creating-serializer")
"""Events of making a client or its documentation: they are over."""
_POSITIONS = {"first": "register_first", "middle": "register", "last": "register_last"}


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler.

    Attributes:
        event: the name it was registered for, wildcards included.
        position: "first", "middle" or "last".
        call: itself.
    """

    event: str
    position: str
    call: Any


def handlers_of(client: Any) -> list[Handler]:
    """What the client's user has registered on it, or on its session before it was made. In the order of each event."""
    return [handler for handler in _all_of(client) if _is_a_users(handler)]


def is_unsigned(handlers: Sequence[Handler]) -> bool:
    """Whether `disable_signing` is among them, which is how clients are made anonymous."""
    return any(handler.event.startswith("choose-signer") and _is_disable_signing(handler.call) for handler in handlers)


def adopt(client: Any, handlers: Sequence[Handler]) -> None:
    """Have `client`, an aiobotocore one, call them with its own requests. It calls plain and async ones."""
    known = {(handler.event, id(handler.call)) for handler in _all_of(client)}
    for handler in handlers:
        if (handler.event, id(handler.call)) not in known:
            getattr(client.meta.events, _POSITIONS[handler.position])(handler.event, handler.call)


def _all_of(client: Any) -> Iterator[Handler]:
    events = client.meta.events
    root = getattr(events, "_emitter", events)._handlers._root
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, node = waiting.pop()
        if node["values"]:
            for position in _POSITIONS:
                for call in getattr(node["values"], position):
                    yield Handler(path, position, call)
        waiting += [(f"{path}.{name}" if path else name, child) for name, child in node["children"].items()]


def _is_a_users(handler: Handler) -> bool:
    phase = handler.event.partition(".")[0]
    if phase in _OTHER_PHASES:
        return False
    if _is_disable_signing(handler.call):
        # The SDK registers it for other services only.
        return handler.event.split(".")[1:2] in ([], ["s3"], ["*"])
    module = _module_of(handler.call)
    return module.partition(".")[0] not in _SDK or module == "botocore.stub"


def _module_of(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    return str(getattr(call if owner is None else type(owner), "__module__", ""))


def _is_disable_signing(call: Any) -> bool:
    return _module_of(call) == "botocore.handlers" and getattr(call, "__name__", "") == "disable_signing"
