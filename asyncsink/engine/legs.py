"""One transfer's way to one destination: what is there, what was decided, how it ended.

A transfer has one leg per destination (S3, and the local copy if asked for). Legs share the bytes that are read and
nothing else: one leg's failure never ends another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import anyio

from asyncsink.config import Policies
from asyncsink.destinations.base import Destination, Existing, Stored
from asyncsink.errors import AsyncSinkError, JournalError
from asyncsink.integrity.sameness import (
    UNCHANGED_REASON,
    CompareWith,
    Decision,
    LookCloser,
    SkipIt,
    Upload,
    decide,
)
from asyncsink.model import Known, Transfer
from asyncsink.value import dataclass


@dataclass(slots=True)
class Leg:
    """State of one transfer at one destination.

    Attributes:
        known: what the journal has about the transfer at this destination, or None.
        decision: None until it was looked at.
        stored: the destination's proof, once it has one.
        error: why it has none.
    """

    destination: Destination
    known: Known | None = None
    existing: Existing | None = None
    decision: Decision | None = None
    stored: Stored | None = None
    error: AsyncSinkError | None = None

    @property
    def alive(self) -> bool:
        """Whether bytes are still to be sent this way."""
        return self.error is None and self.stored is None and isinstance(self.decision, Upload)

    @property
    def comparing(self) -> CompareWith | None:
        """What has to be computed from the file before it can be decided, if anything."""
        return self.decision if self.error is None and isinstance(self.decision, CompareWith) else None

    @property
    def same(self) -> bool:
        """Whether the destination has the file already."""
        return isinstance(self.decision, SkipIt)

    @property
    def published_etag(self) -> str:
        """The ETag that the object had when this very file was published, or ""."""
        return self.known.etag if self.known is not None and self.known.published else ""

    def outgoing(self, transfer: Transfer) -> Transfer:
        """The transfer as the destination is given it: with the ETag that the new object cannot have."""
        known_to_differ = isinstance(self.decision, Upload) and self.decision.differs
        if not known_to_differ or self.existing is None or not self.existing.etag:
            return transfer
        return replace(transfer, replaces=self.existing.etag)

    def by_journal(self, policies: Policies) -> Decision | None:
        """What the journal alone decides, if anything."""
        known = self.known
        if known is None:
            return None
        if known.published and policies.overwrite == "journal":
            return SkipIt(UNCHANGED_REASON)
        if known.upload is not None and known.upload.completing and known.upload.same_source:
            # The object may be there, or be about to: only its upload tells, so it is asked first (see resuming).
            return Upload("its upload was being completed")
        return None

    def check_size(self, transfer: Transfer) -> None:
        """A file that this destination cannot hold ends this leg."""
        try:
            self.destination.check_size(transfer)
        except AsyncSinkError as error:
            self.error = error

    async def look(
        self,
        transfer: Transfer,
        policies: Policies,
        *,
        cheap_md5_bytes_max: int,
        part_sizes: Sequence[int],
        closely: bool = False,
    ) -> None:
        """Decide whether to send; an error while looking ends this leg."""
        if self.error is not None:
            return
        self.decision = self.by_journal(policies)
        if self.decision is not None:
            return
        try:
            while True:
                if policies.overwrite != "always":
                    self.existing = await self.destination.look(transfer, closely=closely)
                self.decision = decide(
                    self.existing,
                    policy=policies.overwrite,
                    size_bytes=transfer.source.size_bytes,
                    mtime_ns=transfer.source.mtime_ns,
                    wanted=policies.algorithm,
                    cheap_md5_bytes_max=cheap_md5_bytes_max,
                    part_sizes=part_sizes,
                    published_etag=self.published_etag,
                )
                if not isinstance(self.decision, LookCloser):
                    return
                closely = True
        except AsyncSinkError as error:
            self.error = error

    async def attempt(self, action: Callable[[], Awaitable[Stored | None]]) -> None:
        """Run one step of this leg; its error ends this leg only."""
        try:
            stored = await action()
        except JournalError:
            raise  # no file's affair: the run stops
        except AsyncSinkError as error:
            self.error = error
        else:
            if stored is not None:
                self.stored = stored


async def each(legs: Sequence[Leg], step: Callable[[Leg], Coroutine[Any, Any, None]]) -> None:
    """Run `step` for every leg, several legs at the same time."""
    if len(legs) == 1:
        await step(legs[0])
        return
    async with anyio.create_task_group() as group:
        for leg in legs:
            group.start_soon(step, leg)
