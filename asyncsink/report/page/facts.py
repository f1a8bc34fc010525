"""What ran: where from and to, with which options and versions, on which machine. Secrets are no part of it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any, Final

from asyncsink.options.schema import PANELS, LocalTarget, Settings
from asyncsink.options.settings import VERSION, RetryPolicy, Secret
from asyncsink.value import dataclass

_OWN_PLACE: Final = frozenset(("manifest", "report"))
"""Options that have places of their own on the page."""
_SHOWN_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What ran.

    Attributes:
        verb: "export" or "grab".
        sources: what was published or grabbed, as far as it has a name.
        prefix: of the keys, which the page shows names without: "" or with a "/" at the end.
        begun_seconds: since the epoch.
        options: those that differ from their defaults, in words.
    """

    verb: str
    sources: Sequence[str]
    prefix: str = ""
    begun_seconds: float = 0.0
    options: Mapping[str, str] = field(default_factory=dict)


def options_shown(settings: Settings) -> dict[str, str]:
    """The options that differ from their defaults, in the order of the help page. No value of a secret is in it."""
    parts = {type(part): part for part in _parts(settings)}
    shown = {}
    for option in (option for rows in PANELS.values() for option in rows):
        part = parts.get(option.part) if option.part is not None else None
        if part is None or option.name in _OWN_PLACE or callable(getattr(part, option.name)):
            continue
        value = getattr(part, option.name)
        if value != option.default:
            shown[option.name] = _in_words(value)
    if settings.objects.sse_customer_key is not None:
        shown["sse"] = "a key of your own"
    if settings.retry != RetryPolicy():
        shown["retry"] = _in_words(settings.retry)
    return shown


def _parts(settings: Settings) -> Iterator[Any]:
    yield settings
    for each in fields(settings):
        part = getattr(settings, each.name)
        if is_dataclass(part):
            yield part


def _in_words(value: Any) -> str:
    if isinstance(value, Secret):
        return "a secret"
    if isinstance(value, LocalTarget):
        return value.directory
    if isinstance(value, RetryPolicy):
        changed = {each.name: getattr(value, each.name) for each in fields(value)}
        usual = RetryPolicy()
        return ", ".join(f"{name}={its:g}" for name, its in changed.items() if its != getattr(usual, name))
    if isinstance(value, tuple):
        pairs = all(isinstance(each, tuple) and len(each) == 2 for each in value)
        text = ", ".join(f"{each[0]}={each[1]}" if pairs else str(each) for each in value)
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}…"


def machine() -> dict[str, str]:
    """Who ran it, where, and with what."""
    system = os.uname()
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    return {
        "asyncsink": VERSION,
        "Python": sys.version.partition(" ")[0],
        "system": f"{system.sysname} {system.release} {system.machine}",
        "host": system.nodename,
        "user": user,
    }
