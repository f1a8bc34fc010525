"""How much of a run fits into the open files that this process may have: bounded at its beginning, not found out later.

A run that meets EMFILE in its middle would fail files that could have been published.
"""

from __future__ import annotations

import os
import resource
from dataclasses import replace

from asyncsink.config import Limits
from asyncsink.errors import ConfigError

BESIDE = 16
"""What a run opens once: the event loop's own, its log of outcomes, manifest, journal, the walk, a name's look-up."""
PER_READER = 3
"""A source, a file that is written, and the directory that is synced."""
PER_TRANSFER = 7
"""At worst: a source in parts and its local copy, a sender thread with its connection and its pipe, and a connection
that each lane keeps."""


def within_descriptors(limits: Limits) -> Limits:
    """`limits`, lowered to what RLIMIT_NOFILE leaves free now; the same object where nothing has to be lowered.

    Raises:
        ConfigError: not even one transfer at a time fits; nothing was sent.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return limits
    try:
        # The listing's own descriptor is among them.
        free = most - len(os.listdir("/dev/fd")) + 1
    except OSError as error:
        raise _too_few(most) from error
    return fitted(limits, free, most)


def fitted(limits: Limits, free: int, most: int) -> Limits:
    """Pure: `limits`, lowered to what `free` of `most` open files allow.

    Raises:
        ConfigError: as `within_descriptors`.
    """
    rest = free - BESIDE
    if rest < PER_READER + PER_TRANSFER:
        raise _too_few(most)
    # A fifth reads, the rest sends.
    readers = min(limits.reader_threads, max(1, rest // (5 * PER_READER)))
    transfers = (rest - readers * PER_READER) // PER_TRANSFER
    if transfers >= limits.concurrency_max and readers == limits.reader_threads:
        return limits
    return replace(
        limits,
        reader_threads=readers,
        concurrency=None if limits.concurrency is None else min(limits.concurrency, transfers),
        concurrency_start=min(limits.concurrency_start, transfers),
        concurrency_max=min(limits.concurrency_max, transfers),
    )


def _too_few(most: int) -> ConfigError:
    return ConfigError(
        f"This process may have {most} open files at a time, and too few of them are free for a run; expected about "
        f"{BESIDE + PER_READER + PER_TRANSFER} free ones at least; raise `ulimit -n`. Nothing was sent."
    )
