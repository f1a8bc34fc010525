"""Many receipt manifests as one: of the parts of a split, of shards, or of jobs that each exported their own outputs.

Records are kept by URL in a temporary database, so that memory does not grow with their number. Manifests are read in
the order in which their runs began, so that of two records the later one is known.

| two manifests say of one URL | the merged manifest has |
|---|---|
| a receipt, and a skip of the same object | the receipt |
| twice the same | the later record, and one with a checksum before one without |
| different checksums, sizes or ETags | the later record, and a failure: an overlap |
| a failure, and later a receipt or skip of the same source | the receipt or skip |
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.errors import ConfigError
from asyncsink.event_loops import batches, surface
from asyncsink.integrity.checksums import is_composite
from asyncsink.maintenance.manifests import (
    SEVERAL_BUCKETS,
    ManifestInput,
    ManifestInputs,
    ManifestPaths,
    gathered,
    is_unpublished,
    place_of,
)
from asyncsink.model import Failure, Outcome, Receipt, Skip, promise_of
from asyncsink.options.parse import parse_target
from asyncsink.options.schema import LocalTarget, S3Target
from asyncsink.paths import encoded_name
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, ManifestWriter
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.report.outcomes import Counts, decode, encode
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import Cause, count, grouped_failures, inert
from asyncsink.temporary import TemporaryDatabase
from asyncsink.value import dataclass

PROBLEMS_NAMED_MAX = 1000
"""Most problems that are kept with their sentences; all are counted."""
ROWS_AT_ONCE = 1000
_TABLES = """
CREATE TABLE promise (url BLOB PRIMARY KEY, manifest INTEGER, line BLOB);
CREATE TABLE other (url BLOB, manifest INTEGER, unpublished INTEGER, line BLOB);
"""


@dataclass(slots=True)
class MergeReport(BaseReport):
    """The result of a merge.

    Attributes:
        manifest: absolute path of the merged manifest.
        merged: number of manifests that it was made of.
        counts: its records, as of a run.
        overlaps: keys under which two manifests have different objects.
        problems_total: overlaps, and manifests that are missing, failed or interrupted.
        problems: (path or URL, sentence), the first thousand of them.
        interrupted: the value at its end: whether a manifest is missing, or its run did not end in order.
        notices: sentences for people about what is no failure.
    """

    manifest: str
    merged: int = 0
    counts: Counts = field(default_factory=Counts)
    overlaps: int = 0
    problems_total: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every manifest is there and complete, and no two of them contradict each other."""
        return not self.problems_total

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "manifest": self.manifest,
            "ok": self.ok,
            "manifests": self.merged,
            **self.counts.as_dict(),
            "overlaps": self.overlaps,
            "complete": not self.interrupted,
            "notices": list(self.notices),
            "problems_total": self.problems_total,
            "problems": [{"name": name, "message": message} for name, message in self.problems],
        }

    def summary(self) -> str:
        """A few lines for people; the first one names the merged manifest."""
        counts, name = self.counts, inert(self.manifest)
        there = counts.objects_uploaded + counts.already_there
        lines = [f"{name} has {count(there, 'object')} of {count(self.merged, 'manifest')}."]
        if counts.objects_failed:
            lines.append(f"{count(counts.objects_failed, 'failure')} stand in it.")
        if self.problems_total:
            lines.append(f"It does not prove everything: {count(self.problems_total, 'problem')}.")
        return "\n".join(lines)

    def causes(self) -> list[Cause]:
        """The kept problems, grouped by cause."""
        return grouped_failures((message, f"{name}: {message}", name) for name, message in self.problems)

    def problem(self, name: str, message: str) -> None:
        """Add a problem of a manifest or a URL."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_NAMED_MAX:
            self.problems.append((name, message))


async def merge_manifests(manifests: ManifestPaths, out_file: str | os.PathLike[str]) -> MergeReport:
    """Merge receipt manifests into one, which lists each object once and has a true end.

    Args:
        manifests: receipt manifests, or directories with receipts-*.jsonl, where `split.json` says which should be
            there. Each stands for its NAME.partial too, where an interrupted run left one.
        out_file: the merged manifest, written beside its name and renamed when it is complete. A manifest that is there
            is replaced, as by an export.

    Raises:
        ConfigError: a manifest is missing or malformed, there is none, they are of different servers, or `out_file` is
            one of them or no manifest; nothing was written.
        JournalError, DestinationFull: the disk, or that of temporary files, cannot hold it.

    Cancelled, it leaves nothing.
    """
    report: MergeReport | None = None

    async def merge() -> None:
        nonlocal report
        inputs, out = await anyio.to_thread.run_sync(_inputs, manifests, out_file)
        report = MergeReport(out, len(inputs.manifests), notices=list(inputs.left_open))
        await _write(inputs, report)

    try:
        # A task of its own: asyncio's cancellation would end the wait for a thread that is still using the files.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(merge)
    except BaseExceptionGroup as group:
        raise surface(group) from None
    assert report is not None
    return report


async def _write(inputs: ManifestInputs, report: MergeReport) -> None:
    writer = ManifestWriter(report.manifest, _header_of(inputs.manifests), report.notices.append)
    await writer.open()
    try:
        merger = await anyio.to_thread.run_sync(Merger, inputs.manifests, report)
        try:
            await _merge(merger, inputs, writer)
        finally:
            merger.close()
        await writer.close(interrupted=report.interrupted, merged=True)
    finally:
        await writer.withdraw()


async def _merge(merger: Merger, inputs: ManifestInputs, writer: ManifestWriter) -> None:
    report = merger.report
    limiter = anyio.to_thread.current_default_thread_limiter()
    for number, manifest in enumerate(inputs.manifests):
        async for records in batches(manifest.read(), limiter=limiter, size=ROWS_AT_ONCE):
            await anyio.to_thread.run_sync(merger.add, number, records)
    await anyio.to_thread.run_sync(merger.make_good)
    for where, sentence in inputs.missing:
        report.problem(where, sentence)
    for manifest in inputs.manifests:
        if sentence := manifest.incomplete():
            report.problem(manifest.path, sentence)
    unended = any(each.ended is None or each.ended.interrupted or each.lacks_files for each in inputs.manifests)
    report.interrupted = bool(inputs.missing) or unended
    async for outcomes in batches(merger.outcomes(), limiter=limiter, size=ROWS_AT_ONCE):
        written = await writer.carried(outcomes)
        await writer.write(written)
        for outcome in written:
            report.counts.add(outcome)


class Merger:
    """The records of all manifests, each URL once. Methods block, and are for one thread at a time.

    They raise a JournalError where the temporary directory cannot hold them.
    """

    def __init__(self, manifests: Sequence[ManifestInput], report: MergeReport) -> None:
        self.report = report
        self._manifests = manifests
        self._database = TemporaryDatabase("The records of the manifests", _TABLES)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, number: int, records: Iterable[Outcome | ManifestEnd]) -> None:
        """Add records of the manifest with this number; a higher number began later, and is added later."""
        with self._database.at_once():
            for record in records:
                if isinstance(record, ManifestEnd):
                    continue
                promise = promise_of(record)
                if promise is not None:
                    self._add_promise(number, promise)
                else:
                    self._add_other(number, record, unpublished=is_unpublished(record))

    def _add_promise(self, number: int, promise: Receipt | Skip) -> None:
        url = encoded_name(promise.url or promise.key)
        row = self._database.row("SELECT manifest, line FROM promise WHERE url = ?", url)
        if row is None:
            self._database.change("INSERT INTO promise VALUES (?, ?, ?)", url, number, encode(promise).encode("ascii"))
            return
        before = promise_of(decode(row[1]))
        assert before is not None
        # A sink may publish a key several times in one run, and its last record is the one that holds.
        if row[0] != number and (why := difference(before, promise)):
            self._overlap(row[0], number, before, promise, why)
        elif row[0] != number and _rank(before) > _rank(promise):
            # The same object: the object was there, or was sent again, when the later run looked at it.
            promise = before
        self._database.change(
            "UPDATE promise SET manifest = ?, line = ? WHERE url = ?", number, encode(promise).encode("ascii"), url
        )

    def _overlap(self, first: int, second: int, before: Receipt | Skip, after: Receipt | Skip, why: str) -> None:
        paths = f"{self._manifests[first].path!r} and {self._manifests[second].path!r}"
        sentence = f"Two manifests have different objects under this key, {paths}: {why}"
        self.report.overlaps += 1
        self.report.problem(after.url, sentence)
        lost = Failure(before.source, before.key, before.url, "KeyCollision", f"{sentence}.", "routing")
        self._add_other(second, lost, unpublished=False)

    def _add_other(self, number: int, record: Outcome, *, unpublished: bool) -> None:
        self._database.change(
            "INSERT INTO other VALUES (?, ?, ?, ?)",
            encoded_name(record.url or record.key),
            number,
            unpublished,
            encode(record).encode("ascii"),
        )

    def make_good(self) -> None:
        """Remove the failures of files that a later run published under the same key, and do not count them."""
        place = 0
        while rows := self._database.rows(
            "SELECT other.rowid, other.manifest, other.line, promise.line FROM other JOIN promise USING (url)"
            " WHERE other.rowid > ? AND other.unpublished AND promise.manifest > other.manifest"
            " ORDER BY other.rowid LIMIT ?",
            place,
            ROWS_AT_ONCE,
        ):
            place = rows[-1][0]
            with self._database.at_once():
                for row, number, failed, promised in rows:
                    if decode(failed).source == decode(promised).source:
                        self._database.change("DELETE FROM other WHERE rowid = ?", row)
                        self._manifests[number].failed -= 1

    def outcomes(self) -> Iterator[Outcome]:
        """All records: what is published in order of URLs, then the others in order of their manifests."""
        query = "SELECT url, line FROM promise WHERE url > ? ORDER BY url LIMIT ?"
        last: bytes | int = b""
        while rows := self._database.rows(query, last, ROWS_AT_ONCE):
            last = rows[-1][0]
            yield from (decode(line) for _, line in rows)
        query, last = "SELECT rowid, line FROM other WHERE rowid > ? ORDER BY rowid LIMIT ?", 0
        while rows := self._database.rows(query, last, ROWS_AT_ONCE):
            last = rows[-1][0]
            yield from (decode(line) for _, line in rows)


def difference(one: Receipt | Skip, other: Receipt | Skip) -> str:
    """Why two records of a key are of different objects, as a phrase, or "" where nothing shows it. Pure."""
    if one.size_bytes != other.size_bytes:
        return f"{one.size_bytes:,} and {other.size_bytes:,} bytes"
    first, second = one.checksum, other.checksum
    if (
        first is not None
        and second is not None
        and first.algorithm == second.algorithm
        and is_composite(first.value) == is_composite(second.value)
    ):
        return "" if first == second else f"the checksums {first} and {second}"
    # An ETag of the same content may differ where the object was sent again in parts, so it counts only in the end.
    return f"the ETags {one.etag} and {other.etag}" if one.etag and other.etag and one.etag != other.etag else ""


def _rank(promise: Receipt | Skip) -> tuple[bool, bool]:
    return isinstance(promise, Receipt), promise.checksum is not None


def _inputs(manifests: ManifestPaths, out_file: str | os.PathLike[str]) -> tuple[ManifestInputs, str]:
    out = str(Path(out_file).absolute())
    inputs = gathered(manifests, but=out, with_partial=True)
    written = {place_of(out), place_of(out + PARTIAL)} - {None}
    for each in inputs.manifests:
        if place_of(each.path) in written:
            raise ConfigError(
                f"The merged manifest {out!r} would replace {each.path!r}, which is one of those to be merged; choose "
                "another name."
            )
    inputs.manifests.sort(key=lambda each: each.header.started)
    return inputs, out


def _header_of(manifests: Sequence[ManifestInput]) -> ManifestHeader:
    """The header under which all objects are found again. Pure.

    Raises:
        ConfigError: they are at different servers.
    """
    headers = [each.header for each in manifests]
    endpoints = {header.place[0]: each for header, each in zip(headers, manifests, strict=True)}
    if len(endpoints) > 1:
        first, second, *_ = (f"{each.path!r} is of {name or 'Amazon S3'}" for name, each in endpoints.items())
        raise ConfigError(f"One manifest is of one server, but {first}, and {second}; merge those of each server.")
    return replace(
        ManifestHeader(destination=common_destination([header.destination for header in headers])),
        endpoint_url=headers[0].endpoint_url,
        region=_common(header.region for header in headers),
        addressing_style=_common(header.addressing_style for header in headers),
        started=min(header.started for header in headers),
    )


def _common(values: Iterable[str]) -> str:
    found = set(values)
    return found.pop() if len(found) == 1 else ""


def common_destination(destinations: Sequence[str]) -> str:
    """The bucket and prefix, or the directory, that has all destinations in it; "s3://" for several buckets. Pure.

    Raises:
        ConfigError: some are on S3, and some are not.
    """
    if len(set(destinations)) == 1:
        return destinations[0]
    targets = [parse_target(each, {}) for each in destinations if each != SEVERAL_BUCKETS]
    directories = [target.directory for target in targets if isinstance(target, LocalTarget)]
    if len(directories) == len(destinations):
        return os.path.commonpath(directories)
    if directories:
        raise ConfigError("Some of the manifests are of S3 and some of directories; merge each kind apart.")
    on_s3 = [target for target in targets if isinstance(target, S3Target)]
    if SEVERAL_BUCKETS in destinations or len({target.bucket for target in on_s3}) > 1:
        return SEVERAL_BUCKETS
    prefix: list[str] = []
    for level in zip(*(target.prefix.split("/") for target in on_s3), strict=False):
        if len(set(level)) > 1:
            break
        prefix.append(level[0])
    return "/".join([f"s3://{on_s3[0].bucket}", *filter(None, prefix)])
