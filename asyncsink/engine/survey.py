"""The look before the first byte is sent: count everything, and refuse what cannot be right.

A source that can be walked twice is walked once for this. It finds missing and unreadable sources, illegal keys and
collisions while nothing has been sent yet, and learns the totals and the keys' common prefix.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.config import Policies, Settings
from asyncsink.destinations.base import Outlook
from asyncsink.engine.discover import Discovery, batches
from asyncsink.engine.ledger import AlikeKeys, KeyLedger
from asyncsink.engine.outcomes import forbids_run
from asyncsink.engine.progress import Progress
from asyncsink.engine.reading import too_large_for_memory, unreadable
from asyncsink.errors import AsyncSinkError
from asyncsink.model import SourceProblem, Transfer
from asyncsink.report.wording import count
from asyncsink.routing.collisions import collision_error
from asyncsink.routing.keys import show
from asyncsink.s3.part_plan import PARTS_MAX

LOCAL_CLAIM = "\0local:"
PROBLEMS_KEPT = 20
"""Problems that are remembered with their sentences; the rest are only counted."""
SURVEY_BATCH = 1000
KEPT_MAX = 25_000
"""Files that are kept from the survey: about 15 MB. A larger tree is walked again while it is published."""


@dataclass(slots=True)
class Survey:
    """What the walk found.

    Attributes:
        objects_total: files and reported skips.
        bytes_total: bytes of all files.
        kept: everything that was found, where that is little enough to be kept; else None.
        ledger: which source has which key, where keys could meet; else None. The caller closes it.
        left_out: for each reason why something was left out, how often, and the first path.
        alike: as in Outlook.
    """

    objects_total: int = 0
    bytes_total: int = 0
    kept: list[Transfer | SourceProblem] | None = None
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
        """Count one entry of the walk."""
        self.objects_total += 1
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
        self.bytes_total += size
        key = found.key
        if self._least is None:
            self._least = self._greatest = self.sample_key = key
        elif key < self._least:
            self._least = key
        elif key > self._greatest:
            self._greatest = key

    def keep(self, batch: list[Transfer | SourceProblem]) -> None:
        """Keep what was found, so that it need not be walked again, until it is too much."""
        if self.kept is not None:
            self.kept += batch
            if len(self.kept) > KEPT_MAX:
                self.kept = None

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
    survey, spellings = Survey(kept=[]), AlikeKeys()
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
            progress.objects_found += len(batch)
            survey.keep(batch)
            examine = partial(_examine, batch, spellings, not discovery.leaves_out_unreadable)
            for problem in await anyio.to_thread.run_sync(examine, limiter=limiter):
                survey.refuse(problem, unreadable=True)
            if survey.ledger is not None:
                claim = partial(_claim, survey, batch, ordinal, settings.policies)
                ordinal = await anyio.to_thread.run_sync(claim, limiter=limiter)
        survey.raise_problems()
        survey.alike = frozenset(spellings.found)
    except BaseException:
        if survey.ledger is not None:
            survey.ledger.close()
        raise
    finally:
        spellings.close()
    return survey


def _examine(batch: list[Transfer | SourceProblem], spellings: AlikeKeys, check_readable: bool) -> list[AsyncSinkError]:
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
