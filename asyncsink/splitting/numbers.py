"""Which parts of a split are meant: a number, a range, the task of an array job, or those that are missing."""

from __future__ import annotations

import os
import re

from asyncsink.errors import ConfigError
from asyncsink.options.array_task import array_task
from asyncsink.report.manifest import read_end
from asyncsink.splitting.files import SplitPlan

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def numbers_of(directory: str, plan: SplitPlan, parts: object) -> list[int]:
    """The numbers of the parts, in order. Blocking.

    Args:
        directory, plan: of the split.
        parts: 3, "3", "3-7", "auto" or "missing".

    Raises:
        ConfigError: it is none of these, or a part that does not exist.
    """
    if parts == "missing":
        return [number for number in range(len(plan.parts)) if not _is_complete(directory, plan, number)]
    text = str(array_task()) if parts == "auto" else str(parts)
    found = _RANGE.fullmatch(text) if not isinstance(parts, bool) else None
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise ConfigError(f"part={text!r:.60} is no part; expected a number, a range as 3-7, auto or missing.")
    first, last = int(found[1]), int(found[2] or found[1])
    if last >= len(plan.parts):
        has = f"parts 0 to {len(plan.parts) - 1}" if len(plan.parts) > 1 else f"{len(plan.parts)} part(s), from 0"
        raise ConfigError(f"Part {last} does not exist: {directory!r} has {has}.")
    return list(range(first, last + 1))


def _is_complete(directory: str, plan: SplitPlan, number: int) -> bool:
    """Whether the receipts of a part are there, and no file of it has failed."""
    try:
        end = read_end(os.path.join(directory, plan.parts[number].receipts))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{plan.parts[number].receipts!r} cannot be read: {error.strerror or error}.") from error
    return end is not None and not end.interrupted and not end.failures
