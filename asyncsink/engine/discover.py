"""From a source to routed transfers: scanning and routing in one blocking iterator, batch by batch in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.errors import RoutingError
from asyncsink.model import SourceFile, SourceProblem, Transfer
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
    """

    def __init__(self, source: Source, router: Router, prefix: str) -> None:
        self.source = source
        self.router = router
        self.prefix = prefix

    @property
    def may_collide(self) -> bool:
        """False where two files can never be given one key."""
        return not (self.source.injective and self.router.plain)

    def route(self, file: SourceFile) -> Transfer | SourceProblem:
        """The transfer of one file, or why it can have none."""
        try:
            route = self.router.route(file)
        except RoutingError as error:
            return SourceProblem(file.path, error, entry=file.entry, attribute=file.attribute, skippable=False)
        key = f"{self.prefix}/{route.key}" if self.prefix else route.key
        return Transfer(file, key, route.local)

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
