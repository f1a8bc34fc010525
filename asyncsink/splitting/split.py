"""A source is looked at once, and cut into parts that any number of machines publish."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Unpack

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.engine.planning.survey import Discovery, Survey, take_survey
from asyncsink.engine.planning.walk import check_not_nested, discovery_of, local_places, tops_of
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.transfer.outcomes import SUPERSEDED, problem_outcome
from asyncsink.errors import ConfigError
from asyncsink.event_loops import refuse_trio
from asyncsink.model import Skip, SourceProblem, Transfer
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import SPLIT_OPTIONS, ExportOptions, Policies, Settings
from asyncsink.options.values import read_integer, read_size
from asyncsink.os_errors import words_shortages
from asyncsink.paths import as_text
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import count, duration, inert, size
from asyncsink.routing.keys import fingerprint
from asyncsink.sources.base import Source, exclusion_of, given_path
from asyncsink.sources.opening import source_at
from asyncsink.sources.outputs import OutputsSource
from asyncsink.splitting.cutting import PART_BYTES, PART_OBJECTS, ByLimits, Cutter, IntoParts
from asyncsink.splitting.files import (
    SplitPart,
    SplitPlan,
    directory_of_split,
    make_empty,
    recorded_options,
    remove_all,
    write_parts,
    write_plan,
)
from asyncsink.splitting.spool import Spool, SpooledDiscovery
from asyncsink.value import dataclass

_PROBLEMS_KEPT = 1000


@dataclass(slots=True, kw_only=True)
class SplitReport(BaseReport):
    """What a split has made.

    Attributes:
        directory: of the parts.
        plan: what its split.json says.
        elapsed_seconds: from the first look to the last file.
        objects_failed: files that are in no part because they cannot be read or named, with on_unreadable="skip".
        failures: the sentences of the first thousand of them.
        notices: what a person should know that is no failure.
    """

    directory: str
    plan: SplitPlan
    elapsed_seconds: float = 0.0
    objects_failed: int = 0
    failures: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file is in a part, or left out as it was asked for."""
        return not self.objects_failed

    @property
    def parts(self) -> tuple[SplitPart, ...]:
        """The parts, by their numbers."""
        return self.plan.parts

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "directory": self.directory,
            "source": self.plan.source,
            "destination": self.plan.destination,
            "ok": self.ok,
            "parts": len(self.parts),
            "objects_total": self.plan.objects,
            "bytes_total": self.plan.bytes,
            "left_out": self.plan.left_out,
            "objects_failed": self.objects_failed,
            "elapsed_seconds": self.elapsed_seconds,
            "notices": list(self.notices),
            "failures": list(self.failures),
        }

    def summary(self) -> str:
        """A few lines for a person; no line break at the end."""
        plan, parts = self.plan, len(self.parts)
        lines = [
            f"{count(plan.objects, 'file')} ({size(plan.bytes)}) for {plan.destination} are split into "
            f"{count(parts, 'part')} in {self.directory}, in {duration(self.elapsed_seconds)}."
        ]
        if self.objects_failed:
            lines.append(f"{count(self.objects_failed, 'file')} cannot be sent, and stand in no part.")
        if parts:
            numbers = "0" if parts == 1 else f"0 to {parts - 1}"
            lines.append(
                f"Publish a part with: asyncsink run {self.directory} --part I, where I is {numbers}, or auto."
            )
        return "\n".join(map(inert, lines))


async def split(
    source: Any,
    destination: Any,
    directory: Any,
    *,
    parts: int | None = None,
    part_bytes: int | str | None = None,
    part_objects: int | None = None,
    **options: Unpack[ExportOptions],
) -> SplitReport:
    """Look at a source once, and cut it into parts, each a file in `directory`, that any machine publishes by itself.

    Nothing is sent, and no server is asked.

    Args:
        source: a directory, an outputs file, a source manifest, or outputs as `export` takes them.
        destination: "s3://bucket/prefix", or a local directory.
        directory: where the parts go: a new one, or an empty one.
        parts: how many; without, a part is closed before it exceeds one of the limits.
        part_bytes, part_objects: the limits of a part (default 4 GiB, 10,000 files).
        options: those of an export that name keys and objects.

    Raises:
        ConfigError, SourceError: as `export` before the first byte is sent; nothing was written.
    """
    settings = split_settings(destination, options)
    cutting = Cutting.of(parts, part_bytes, part_objects)
    walked = source if isinstance(source, Mapping) else os.fspath(source)
    return await split_source(settings, walked, directory, cutting)


def split_settings(destination: Any, options: ExportOptions | Mapping[str, Any]) -> Settings:
    """The settings of a split.

    Raises:
        ConfigError: an option is wrong, or none of a split.
    """
    check_option_names(options, SPLIT_OPTIONS, what="a split")
    if isinstance(options.get("sse"), (bytes, bytearray)):
        raise ConfigError("sse is a customer key, which the files of a split must not hold; give it to run instead.")
    return parse_options(destination, {**options, "journal": False})


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a source is cut: into a number of parts, or by limits."""

    parts: int = 0
    bytes_max: int = PART_BYTES
    objects_max: int = PART_OBJECTS

    @classmethod
    def of(cls, parts: Any, part_bytes: Any, part_objects: Any) -> Cutting:
        """From the caller's values.

        Raises:
            ConfigError: one is wrong, or they contradict each other.
        """
        if parts is not None and (part_bytes is not None or part_objects is not None):
            raise ConfigError(
                "parts and the limits part_bytes and part_objects contradict each other; give one or the other."
            )
        return cls(
            0 if parts is None else _number(parts, "parts"),
            PART_BYTES if part_bytes is None else read_size(part_bytes, "part_bytes"),
            PART_OBJECTS if part_objects is None else _number(part_objects, "part_objects"),
        )

    def cutter(self, objects_total: int, bytes_total: int) -> Cutter:
        """The cutter of a source with these totals."""
        if self.parts:
            return IntoParts(self.parts, objects_total=objects_total, bytes_total=bytes_total)
        return ByLimits(self.bytes_max, self.objects_max)


def _number(value: Any, name: str) -> int:
    number = read_integer(value)
    if number < 1:
        raise ConfigError(f"{name}={value!r:.60} is no number of them; expected 1 or more.")
    return number


@words_shortages
async def split_source(
    settings: Settings,
    source: str | Mapping[str, Any],
    directory: Any,
    cutting: Cutting,
    progress: Progress | None = None,
) -> SplitReport:
    """As `split`; `progress` grows meanwhile."""
    refuse_trio()
    began = time.monotonic()
    walked = _opened(source, settings)
    name = given_path(source, "Source") if isinstance(source, str) else ""
    place = directory_of_split(directory)
    limiter = CapacityLimiter(1)
    await anyio.to_thread.run_sync(check_not_nested, tops_of(walked), [*local_places(settings), as_text(place)])
    made = await anyio.to_thread.run_sync(make_empty, place)
    survey, spool = Survey(), Spool()
    try:
        discovery = _CountingDiscovery(discovery_of(settings, settings.target, walked), spool, settings.policies, name)
        survey = await take_survey(discovery, settings, limiter=limiter, progress=progress or Progress())
        write = partial(_write, place, discovery, cutting, survey.alike, settings)
        plan = await anyio.to_thread.run_sync(write, limiter=limiter)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(remove_all, place, made=made))
        raise
    finally:
        survey.close()
        spool.close()
    return SplitReport(
        directory=place,
        plan=plan,
        elapsed_seconds=time.monotonic() - began,
        objects_failed=discovery.failed,
        failures=discovery.failures,
        notices=list(survey.notices(settings)),
    )


def _opened(source: str | Mapping[str, Any], settings: Settings) -> Source:
    if isinstance(source, str):
        return source_at(source, settings)
    policies = settings.policies
    exclude = exclusion_of(policies.exclude)
    return OutputsSource(source, symlinks=policies.symlinks, compat=settings.walk_compat, exclude=exclude)


class _CountingDiscovery(SpooledDiscovery):
    """A spooled walk that remembers what is in no part.

    Attributes:
        name: of the source, as it was given.
        left_out: by reason, the number of files that were left out as a policy says.
        failed: the number of files that no policy leaves out; failures: the sentences of the first of them.
    """

    def __init__(self, whole: Discovery, spool: Spool, policies: Policies, name: str) -> None:
        super().__init__(whole, spool)
        self._policies = policies
        self.name = name
        self.left_out: Counter[str] = Counter()
        self.failed = 0
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        for found in super().__iter__():
            if isinstance(found, SourceProblem):
                outcome = problem_outcome(found, self._policies)
                if isinstance(outcome, Skip):
                    self.left_out[outcome.reason] += 1
                else:
                    self.failed += 1
                    if len(self.failures) < _PROBLEMS_KEPT:
                        self.failures.append(str(found.error))
            yield found


def _write(
    directory: str, found: _CountingDiscovery, cutting: Cutting, alike: frozenset[int], settings: Settings
) -> SplitPlan:
    spool = found.spool
    objects_total, bytes_total = spool.totals()
    if spool.added > objects_total:
        found.left_out[SUPERSEDED] += spool.added - objects_total
    cutter = cutting.cutter(objects_total, bytes_total)
    plan = SplitPlan(
        asyncsink=version("asyncsink"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=found.name,
        destination=settings.target.url,
        options=recorded_options(settings),
        objects=objects_total,
        bytes=bytes_total,
        left_out=dict(found.left_out),
        parts=tuple(write_parts(directory, spool, cutter, alike_keys(spool, alike))),
    )
    write_plan(directory, plan)
    return plan


def alike_keys(spool: Spool, alike: frozenset[int]) -> dict[int, list[str]]:
    """The keys that have these fingerprints, which are few."""
    keys: dict[int, list[str]] = {}
    for transfer in spool if alike else ():
        number = fingerprint(transfer.key)
        if number in alike:
            keys.setdefault(number, []).append(transfer.key)
    return keys
