"""The look before the first byte is sent: count everything, and refuse what cannot be right.

A source that can be walked twice is walked once for this. It finds missing and unreadable sources, illegal keys and
collisions while nothing has been sent yet, and learns the totals and the keys' common prefix.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.config import Policies, Settings
from asyncsink.destinations.base import Outlook
from asyncsink.engine.discover import Discovery, batches
from asyncsink.engine.kept import Kept
from asyncsink.engine.ledger import AlikeKeys, KeyLedger
from asyncsink.engine.outcomes import forbids_run
from asyncsink.engine.progress import Progress
from asyncsink.engine.reading import too_large_for_memory, unreadable
from asyncsink.engine.shards import holds
from asyncsink.errors import AsyncSinkError
from asyncsink.model import SourceProblem, Transfer
from asyncsink.report.wording import count
from asyncsink.routing.collisions import collision_error
from asyncsink.routing.keys import show
from asyncsink.s3.part_plan import PARTS_MAX
from asyncsink.value import dataclass

LOCAL_CLAIM = "\0local:"
PROBLEMS_KEPT = 20
"""Problems that are remembered with their sentences; the rest are only counted."""
SURVEY_BATCH = 1000


@dataclass(slots=True)
class Survey:
    """What the walk found.

    Attributes:
        objects_total: files and reported skips of the run's shard.
        bytes_total: bytes of all these files.
        kept: everything that was found and is the run's shard's. The caller closes it.
        ledger: which source has which key, where keys could meet; else None.
        left_out: for each reason why something was left out, how often, and the first path.
        alike: as in Outlook.
    """

    objects_total: int = 0
    bytes_total: int = 0
    kept: Kept = field(default_factory=Kept)
    ledger: KeyLedger | None = None
    sample_key: str = ""
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    alike: frozenset[int] = frozenset()
    _least: str | None = None
    _greatest: str = ""
    _problems: list[AsyncSinkError] = field(default_factory=list)
    _problems_total: int = 0
    _unreadable_total: int = 0

    @property
    def outlook(self) -> Outlook:
        """What a destination wants to know."""
        # Character by character: S3 prefixes need not end at a "/".
        prefix = os.path.commonprefix([self._least or "", self._greatest])  # noqa: RUF071
        return Outlook(
            objects_total=self.objects_total, common_prefix=prefix, sample_key=self.sample_key, alike=self.alike
        )

    def notices(self, settings: Settings) -> Iterator[str]:
        """What a person should know of it, besides its problems."""
        if not self.objects_total:
            what = "source" if settings.shard.count == 1 else f"shard {settings.shard} of the source"
            yield f"The {what} holds no files: there is nothing to publish."
        for reason, (number, first) in self.left_out.items():
            others = f", and {count(number - 1, 'other')}" if number > 1 else ""
            yield f"Left out ({reason}): {show(first)}{others}."

    def add(self, found: Transfer | SourceProblem, settings: Settings) -> None:
        """Check one entry of the walk."""
        if isinstance(found, SourceProblem):
            if forbids_run(found, settings.policies):
                self.refuse(found.error, unreadable=found.unreadable)
            elif found.reason:
                number, first = self.left_out.get(found.reason, (0, found.path))
                self.left_out[found.reason] = number + 1, first
            return
        size = found.source.size_bytes
        if size > settings.limits.memory_bytes * PARTS_MAX:
            self.refuse(too_large_for_memory(found.source, settings.limits.memory_bytes))
        key = found.key
        if self._least is None:
            self._least = self._greatest = self.sample_key = key
        elif key < self._least:
            self._least = key
        elif key > self._greatest:
            self._greatest = key

    def count(self, own: Sequence[Transfer | SourceProblem]) -> None:
        """Count entries of the walk that are the run's shard's."""
        self.objects_total += len(own)
        self.bytes_total += sum(found.source.size_bytes for found in own if isinstance(found, Transfer))

    def close(self) -> None:
        """Release what is on disk."""
        self.kept.close()
        if self.ledger is not None:
            self.ledger.close()

    def refuse(self, error: AsyncSinkError, *, unreadable: bool = False) -> None:
        """Remember a problem that forbids the run; `unreadable` as in SourceProblem."""
        self._problems_total += 1
        self._unreadable_total += unreadable
        if len(self._problems) < PROBLEMS_KEPT:
            self._problems.append(error)

    def raise_problems(self) -> None:
        """Raise the first problem; its `problems` holds it and the others that were kept."""
        if not self._problems:
            return
        first = self._problems[0]
        if self._unreadable_total == self._problems_total:
            first.args = (f"{first} With on_unreadable='skip' it is reported, and the rest is sent.",)
        if self._problems_total > 1:
            others = self._problems_total - 1
            first.args = (
                f"{first} ({others:,} more {'problem' if others == 1 else 'problems'} found; nothing was sent)",
            )
        first.problems = tuple(self._problems)
        raise first


async def take_survey(
    discovery: Discovery, settings: Settings, *, limiter: CapacityLimiter, progress: Progress
) -> Survey:
    """Walk the source once, sending nothing; `progress.objects_found` grows meanwhile.

    Raises:
        ConfigError, SourceError: something cannot be published and no policy says to skip it.
    """
    survey, spellings = Survey(), AlikeKeys()
    for attribute in {entry.attribute: None for entry in discovery.source.entries or () if entry.attribute}:
        # Before the walk: a wrong name is the first thing to know, also where its sources are missing.
        discovery.router.check_attribute(attribute)
    if discovery.may_collide:
        survey.ledger = KeyLedger()
    try:
        ordinal = 0
        async for batch in batches(iter(discovery), limiter=limiter, size=SURVEY_BATCH):
            for found in batch:
                survey.add(found, settings)
            own = batch if settings.shard.count == 1 else [found for found in batch if holds(settings.shard, found)]
            survey.count(own)
            progress.objects_found += len(batch)
            keep = partial(survey.kept.add, own)
            examine = partial(_examine, batch, keep, spellings, not discovery.leaves_out_unreadable)
            for problem in await anyio.to_thread.run_sync(examine, limiter=limiter):
                survey.refuse(problem, unreadable=True)
            if survey.ledger is not None:
                claim = partial(_claim, survey, batch, ordinal, settings.policies)
                ordinal = await anyio.to_thread.run_sync(claim, limiter=limiter)
        survey.raise_problems()
        survey.alike = frozenset(spellings.found)
    except BaseException:
        survey.close()
        raise
    finally:
        spellings.close()
    return survey


def _examine(
    batch: list[Transfer | SourceProblem], keep: Callable[[], None], spellings: AlikeKeys, check_readable: bool
) -> list[AsyncSinkError]:
    """What blocks, in one hop: keep the batch's own entries, and look at all; the errors of files that may not be
    read."""
    keep()
    transfers = [found for found in batch if isinstance(found, Transfer)]
    spellings.add(transfer.key for transfer in transfers)
    found = (unreadable(transfer.source) for transfer in transfers) if check_readable else ()
    return [error for error in found if error is not None]


def _claim(survey: Survey, batch: list[Transfer | SourceProblem], ordinal: int, policies: Policies) -> int:
    assert survey.ledger is not None
    claims = []
    for found in batch:
        if isinstance(found, Transfer):
            claims.append((found.key, found.source.path, ordinal))
            if not found.key.endswith(found.local):
                # Full-scope substitutions may give two objects one local copy. No key holds a control character.
                claims.append((f"{LOCAL_CLAIM}{found.local}", found.source.path, ordinal))
            ordinal += 1
    for key, first, second in survey.ledger.claim(claims):
        if policies.on_collision == "error":
            survey.refuse(collision_error(key.removeprefix(LOCAL_CLAIM), first, second))
    return ordinal
