"""Discovery, sharding and the survey: a source's files get their keys, and are checked before the first byte is sent.

A source that can be walked twice is walked once for the survey. It finds missing and unreadable sources, illegal keys
and collisions while nothing has been sent, the totals, and the keys' common prefix.
"""

from __future__ import annotations

import os
import os.path
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.destinations.base import RunForecast
from asyncsink.engine.planning.discovery import Discovery, shard_key
from asyncsink.engine.planning.key_ledger import AlikeKeys, Kept, KeyLedger
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.transfer.destination_state import too_large_for_memory, unreadable
from asyncsink.engine.transfer.outcomes import forbids_run
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.event_loops import batches
from asyncsink.model import SourceProblem, Transfer
from asyncsink.options.schema import Policies, Settings
from asyncsink.report.outcomes import OTHER_REASONS, REASONS_MAX
from asyncsink.report.sentences import count
from asyncsink.routing.keys import collision_error, show
from asyncsink.value import dataclass

LOCAL_CLAIM = "\0local:"
PROBLEMS_KEPT = 20
"""Most problems that are kept with their sentences; the rest are only counted."""
SURVEY_BATCH = 1000


@dataclass(slots=True)
class Survey:
    """The result of the walk.

    Attributes:
        discovery: what was walked.
        objects_total: files and reported skips of the run's shard.
        bytes_total: bytes of all these files.
        kept: everything that was found in the run's shard. The caller closes it.
        ledger: the source of each key, where keys could meet; else None.
        left_out: the number and the first path for each reason why something was left out.
        alike: as in RunForecast.
    """

    discovery: Discovery | None = None
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
    _unmatched: int = 0

    @property
    def forecast(self) -> RunForecast:
        """The forecast for a destination."""
        # Character by character, since S3 prefixes need not end at a "/".
        prefix = os.path.commonprefix([self._least or "", self._greatest])  # noqa: RUF071
        return RunForecast(
            objects_total=self.objects_total, common_prefix=prefix, sample_key=self.sample_key, alike=self.alike
        )

    def notices(self, settings: Settings) -> Iterator[str]:
        """Sentences for people, besides the problems."""
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
                # Files of patterns may have any number of them.
                known = found.reason in self.left_out or len(self.left_out) < REASONS_MAX
                reason = found.reason if known else OTHER_REASONS
                number, first = self.left_out.get(reason, (0, found.path))
                self.left_out[reason] = number + 1, first
                self._unmatched += found.unmatched
            return
        if (too_large := too_large_for_memory(found.source, settings.limits.memory_bytes)) is not None:
            self.refuse(too_large)
        key = found.key
        if self._least is None:
            self._least = self._greatest = self.sample_key = key
        elif key < self._least:
            self._least = key
        elif key > self._greatest:
            self._greatest = key

    def count(self, own: Sequence[Transfer | SourceProblem]) -> None:
        """Count entries of the walk that are in the run's shard."""
        self.objects_total += len(own)
        self.bytes_total += sum(found.source.size_bytes for found in own if isinstance(found, Transfer))

    def close(self) -> None:
        """Release the files on disk."""
        self.kept.close()
        if self.ledger is not None:
            self.ledger.close()

    def refuse(self, error: AsyncSinkError, *, unreadable: bool = False) -> None:
        """Keep a problem that forbids the run; `unreadable` as in SourceProblem."""
        self._problems_total += 1
        self._unreadable_total += unreadable
        if len(self._problems) < PROBLEMS_KEPT:
            self._problems.append(error)

    def check_chosen(self) -> None:
        """Refuse patterns that leave nothing: they are mistyped more often than meant.

        Raises:
            ConfigError: nothing is left of files that are there. Sizes and ages may leave nothing.
        """
        found = sum(number for number, _ in self.left_out.values())
        if self._least is None and not self._problems_total and self._unmatched and self._unmatched == found:
            reasons = "; ".join(f"{reason}: {number:,}" for reason, (number, _) in self.left_out.items())
            raise ConfigError(
                f"Nothing is left to publish: all files are left out ({reasons}); correct the patterns, or take them "
                "out."
            )

    def raise_problems(self) -> None:
        """Raise the first problem, if any; its `problems` holds all that were kept."""
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
    """Walk the source once, sending nothing; `progress.objects_found` grows meanwhile. A stream is not walked; it only
    gets a ledger where keys could meet.

    Raises:
        ConfigError, SourceError: something cannot be published and no policy says to skip it.
    """
    if not discovery.source.replayable:
        collides = discovery.may_collide and settings.policies.on_collision == "error"
        return Survey(discovery, ledger=KeyLedger() if collides else None)
    survey, spellings, shard = Survey(discovery), AlikeKeys(), settings.shard
    for attribute in {entry.attribute: None for entry in discovery.source.entries or () if entry.attribute}:
        # Before the walk: a wrong name is refused first, also where its sources are missing.
        discovery.router.check_attribute(attribute)
    if discovery.may_collide:
        survey.ledger = KeyLedger()
    try:
        ordinal = 0
        async for batch in batches(iter(discovery), limiter=limiter, size=SURVEY_BATCH):
            for found in batch:
                survey.add(found, settings)
            own = batch if shard.count == 1 else [found for found in batch if shard.holds(shard_key(found))]
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
        if discovery.source.entries is None:  # a node of a workflow may have nothing but what is left out
            survey.check_chosen()
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
    """The blocking work of a batch, in one call: keep the shard's entries, and note the spelling of all keys. Returns
    the errors of files that may not be read."""
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
                # Full-scope substitutions may give two objects one local copy. LOCAL_CLAIM collides with no key: no key
                # holds a control character.
                claims.append((f"{LOCAL_CLAIM}{found.local}", found.source.path, ordinal))
            ordinal += 1
    for key, first, second in survey.ledger.claim(claims):
        if policies.on_collision == "error":
            survey.refuse(collision_error(key.removeprefix(LOCAL_CLAIM), first, second))
    return ordinal
