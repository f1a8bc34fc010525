"""From a source to routed transfers: scanning and routing in one blocking iterator, batch by batch in a thread."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.engine.reading import unreadable
from asyncsink.errors import ConfigError, InvalidKey, RoutingError
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.paths import real_path
from asyncsink.routing.router import Router
from asyncsink.sources.base import Source

T = TypeVar("T")
BATCH = 128
"""Entries per thread hop: a hop costs tens of microseconds, an entry a few."""


class Discovery:
    """Everything a source has, routed. Iterating blocks; each iteration walks the source again.

    Attributes:
        source, router: what is walked, and what names it.
        prefix: the destination's prefix inside its bucket, or "".
        records: absolute paths of the files that the run keeps its records in; they are not published.
        leaves_out_unreadable: files that may not be read are problems; else the survey refuses them.
    """

    def __init__(
        self,
        source: Source,
        router: Router,
        prefix: str,
        *,
        records: tuple[str, ...] = (),
        leaves_out_unreadable: bool = False,
    ) -> None:
        self.source = source
        self.router = router
        self.prefix = prefix
        self.records = records
        self.leaves_out_unreadable = leaves_out_unreadable
        # Paths can lead to one file in many ways; only those with its name are worth a closer look.
        self._record_names = tuple(f"/{os.path.basename(path)}" for path in records)

    def of(self, source: Source) -> Discovery:
        """The same of another source."""
        return Discovery(
            source, self.router, self.prefix, records=self.records, leaves_out_unreadable=self.leaves_out_unreadable
        )

    @property
    def may_collide(self) -> bool:
        """False where two files can never be given one key."""
        return not (self.source.injective and self.router.plain)

    @property
    def known_prefix(self) -> str:
        """What every key begins with, as far as it is known before the walk."""
        inside = self.router.folder if self.router.plain else ""
        return f"{self.prefix}/{inside}" if self.prefix else inside

    def route(self, file: SourceFile) -> Transfer | SourceProblem:
        """The transfer of one file, or why it can have none."""
        if self._record_names and file.path.endswith(self._record_names) and self._is_record(file.path):
            error: ConfigError = ConfigError(
                f"{file.path!r} is where this run keeps its own records, so it is not published; leave it out, or name "
                "another file for them."
            )
            return SourceProblem(file.path, error, entry=file.entry, attribute=file.attribute, skippable=False)
        try:
            route = self.router.route(file)
        except RoutingError as unroutable:
            return SourceProblem(
                file.path,
                unroutable,
                entry=file.entry,
                attribute=file.attribute,
                skippable=False,
                unreadable=isinstance(unroutable, InvalidKey),
            )
        if self.leaves_out_unreadable and (denied := unreadable(file)) is not None:
            return SourceProblem(
                file.path, denied, entry=file.entry, attribute=file.attribute, skippable=False, unreadable=True
            )
        key = f"{self.prefix}/{route.key}" if self.prefix else route.key
        return Transfer(file, key, route.local)

    def _is_record(self, path: str) -> bool:
        real = real_path(path)
        return any(real == real_path(record) for record in self.records)

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        for found in self.source.scan():
            yield found if isinstance(found, SourceProblem) else self.route(found)


async def batches(items: Iterator[T], *, limiter: CapacityLimiter, size: int = BATCH) -> AsyncIterator[list[T]]:
    """Lists of up to `size` items of a blocking iterator, each taken in one thread hop.

    Cancelled, it waits for the hop under way and takes no further one.
    """
    take = partial(taken, items, size)
    while batch := await anyio.to_thread.run_sync(take, limiter=limiter):
        yield batch


def taken(items: Iterator[T], size: int) -> list[T]:
    """The next `size` items, or those that are left. Blocks as the iterator does."""
    return list(islice(items, size))
