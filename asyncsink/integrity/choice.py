"""Pure: why a file is not published, as it was chosen; the reasons of faults are others."""

from __future__ import annotations

from typing import Final

NOT_INCLUDED: Final = "not included"
OWN_FILE: Final = "asyncsink's own file"
_CHOSEN: Final = ("excluded by ", NOT_INCLUDED, OWN_FILE, "smaller than ", "larger than ", "older than ", "newer than ")


def was_chosen(reason: str) -> bool:
    """Whether a file was left out by an option or a pattern, as `sources.selection` words it, and not for a fault."""
    return reason.startswith(_CHOSEN)
