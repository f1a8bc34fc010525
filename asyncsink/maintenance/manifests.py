"""Several receipt manifests as one input: the files, the missing ones, and the runs that did not end in order.

A directory stands for every `receipts-*.jsonl` in it. With a `split.json` beside them, the parts without receipts are
missing. NAME.partial was left by an interrupted run of NAME, or is being written. Attempts at one part that ran at the
same time have names of their own: receipts-00003.jsonl.ATTEMPT, and the same with .partial.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field

from asyncsink.errors import ConfigError
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.options.typed import StrPath
from asyncsink.report.closing import Deletion
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, ManifestRecord, read_manifest
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.splitting.files import SPLIT_FILE, read_plan
from asyncsink.value import dataclass

_RECEIPTS = re.compile(r"receipts-(?P<name>.+?)\.jsonl(?:\.[0-9a-f]{16}(?:\.\d+)?)?(?P<partial>\.partial)?")
_UPLOADS = re.compile(r"uploads-(?P<number>\d{5})\.jsonl\.[0-9a-f]{16}")
_RECORDS = {Receipt: "receipts", Skip: "skips", Failure: "failures", Planned: "planned objects"}
SEVERAL_BUCKETS = "s3://"
"""The destination in the header of a merged manifest whose objects are in several buckets."""

ManifestPaths = StrPath | Sequence[StrPath]
"""A manifest or a directory, or several of them."""


@dataclass(slots=True)
class ManifestInput:
    """One manifest to be read.

    Attributes:
        path: as it was given, or below the directory that was given.
        header: its first line.
        objects: of the part of a split whose receipts it has; None where there is no split.
        ended, found, failed, copies_failed: its last line, its records by kind, those of objects that were not
            published, and those of local copies that failed: known once it was read.
    """

    path: str
    header: ManifestHeader
    objects: int | None = None
    ended: ManifestEnd | None = None
    found: dict[type, int] = field(default_factory=dict)
    failed: int = 0
    copies_failed: int = 0

    def read(self) -> Iterator[Outcome | ManifestEnd]:
        """Its outcomes and its end, which are counted as they pass. Blocking.

        Raises:
            ConfigError: as `read_manifest`.
        """
        self.ended, self.found, self.failed, self.copies_failed = None, {}, 0, 0
        for record in read_manifest(self.path).records():
            if isinstance(record, Deletion):
                continue
            if isinstance(record, ManifestEnd):
                self.ended = record
            else:
                self.found[type(record)] = self.found.get(type(record), 0) + 1
                self.failed += is_unpublished(record)
                self.copies_failed += isinstance(record, Failure) and record.stage == "local copy"
            yield record

    @property
    def files(self) -> int:
        """The number of source files that its records are about."""
        return sum(self.found.values()) - self.copies_failed

    @property
    def lacks_files(self) -> bool:
        """Whether it has records of fewer files than its part."""
        return self.objects is not None and self.files < self.objects

    def incomplete(self) -> str:
        """Sentences about how its run ended, or "" where it ended in order and published everything."""
        if self.ended is None:
            return "The manifest has no end: its run was killed or goes on, and may have published more than it lists."
        sentences = _changed(self.ended, self.found)
        if self.ended.interrupted:
            sentences.append("The manifest's run was interrupted before everything was published.")
        elif self.failed:
            left = f"{self.failed:,} {'entry' if self.failed == 1 else 'entries'}"
            sentences.append(f"The manifest's own run left {left} unpublished.")
        if not sentences and self.lacks_files:
            sentences.append(f"The manifest lists {self.files:,} of the {self.objects:,} files of its part.")
        return " ".join(sentences)


@dataclass(slots=True)
class ManifestInputs:
    """The manifests that paths stand for.

    Attributes:
        manifests: those that are there, in order.
        missing: (directory, sentence) for each split that lacks receipts of some parts.
        several: whether more than one manifest, or a directory, was given.
        left_open: a sentence for each interrupted attempt of a part whose multipart uploads may be open.
    """

    manifests: list[ManifestInput]
    missing: list[tuple[str, str]]
    several: bool
    left_open: list[str]

    @property
    def name(self) -> str:
        """The manifest, or how many there are."""
        return f"{len(self.manifests):,} manifests" if len(self.manifests) > 1 else self.manifests[0].path


def is_unpublished(record: ManifestRecord) -> bool:
    """Whether the record is of an object that its run did not publish. Pure."""
    return isinstance(record, Planned) or (isinstance(record, Failure) and record.stage != "local copy")


def bucket_of(promise: Receipt | Skip) -> str:
    """The bucket of an object on S3, from its URL, which ends with its key. Pure."""
    return promise.url.removeprefix(SEVERAL_BUCKETS).removesuffix(f"/{promise.key}")


def _changed(ended: ManifestEnd, found: Mapping[type, int]) -> list[str]:
    sentences = []
    counted = {Receipt: ended.receipts, Skip: ended.skips, Failure: ended.failures, Planned: ended.planned}
    for kind, number in counted.items():
        has = found.get(kind, 0)
        if has != number:
            what = f"{abs(number - has):,} {'fewer' if has < number else 'more'} {_RECORDS[kind]}"
            sentences.append(f"The manifest was changed: it has {what} than the {number:,} that its end counts.")
    return sentences


def gathered(paths: ManifestPaths, *, but: str = "", with_partial: bool = False) -> ManifestInputs:
    """The manifests that paths stand for, with their headers. Blocking.

    Args:
        but: a file that is not taken from a directory, nor is its NAME.partial.
        with_partial: a single file too stands for its NAME.partial, as each of several files does.

    Raises:
        ConfigError: a file is missing or is no manifest, a directory holds none, or nothing was given.
    """
    given = [os.fspath(paths)] if isinstance(paths, (str, os.PathLike)) else [os.fspath(path) for path in paths]
    if not given:
        raise ConfigError("No manifest was given; name the files, or their directory.")
    several = len(given) > 1 or os.path.isdir(given[0])
    missing: list[tuple[str, str]] = []
    files: list[tuple[str, int | None]] = []
    left_open: list[str] = []
    for path in given:
        if os.path.isdir(path):
            its, sentence = _in_directory(path, but)
            files += its
            missing += [(path, sentence)] if sentence else []
            left_open += _left_open(path)
        elif several or with_partial:
            files += [(name, None) for name in _with_partial(path)]
        else:
            files.append((path, None))
    return ManifestInputs(list(_opened(files)), missing, several, left_open)


def _opened(files: Iterable[tuple[str, int | None]]) -> Iterator[ManifestInput]:
    seen: set[tuple[int, int] | None] = set()
    for path, objects in files:
        header = read_manifest(path).header
        place = place_of(path)
        if place is None or place not in seen:
            seen |= {place} - {None}
            yield ManifestInput(path, header, objects)


def _with_partial(path: str) -> list[str]:
    partial = path + PARTIAL
    left = [partial] if _has_begun(partial) else []
    # A manifest that is missing without a .partial is kept, so that reading it raises.
    return [path, *left] if os.path.lexists(path) or not left else left


@dataclass(frozen=True, slots=True)
class Receipts:
    """A manifest in a directory. `name` is the middle of the file's name: the number of a part, where it is one."""

    path: str
    name: str
    partial: bool

    @property
    def number(self) -> int:
        """The number of its part, or -1."""
        return int(self.name) if self.name.isascii() and self.name.isdecimal() else -1


def _in_directory(directory: str, but: str) -> tuple[list[tuple[str, int | None]], str]:
    """The manifests of a directory, each with the number of objects of its part, and a sentence about missing parts."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise ConfigError(f"The directory {directory!r} cannot be read: {error.strerror}.") from error
    found = [
        Receipts(path, match["name"], partial=bool(match["partial"]))
        for name in names
        if (match := _RECEIPTS.fullmatch(name))
        if not _is_same_file(path := os.path.join(directory, name), but) and not _is_same_file(path, but + PARTIAL)
        if not match["partial"] or _has_begun(path)
    ]
    missing = ""
    files: list[tuple[str, int | None]]
    if SPLIT_FILE not in names:
        files = [(each.path, None) for each in found]
    else:
        parts = {number: part.objects for number, part in enumerate(read_plan(directory).parts)}
        # The remains of a second attempt at a finished part add nothing to the finished one.
        finished = {each.number for each in found if not each.partial}
        of_parts = [each for each in found if each.number >= 0 and not (each.partial and each.number in finished)]
        files = [(each.path, parts.get(each.number)) for each in sorted(of_parts, key=lambda each: each.number)]
        missing = _missing(directory, sorted(parts.keys() - {each.number for each in of_parts}), len(parts))
    if not files:
        why = missing or f"{directory!r} holds no receipts-*.jsonl; name the manifests themselves."
        raise ConfigError(f"There is nothing to read: {why}")
    return files, missing


def _left_open(directory: str) -> list[str]:
    names = [match for name in sorted(os.listdir(directory)) if (match := _UPLOADS.fullmatch(name))]
    return [
        f"{match[0]!r}: an attempt of part {int(match['number'])} left large files incomplete; publish the part again, "
        "which goes on with them, or ends their multipart uploads. Where the file stays, asyncsink abort-uploads ends "
        "them."
        for match in names
    ]


def _missing(directory: str, numbers: Sequence[int], total: int) -> str:
    if not numbers:
        return ""
    named = f"Part {numbers[0]}" if len(numbers) == 1 else f"Parts {in_ranges(numbers)}"
    has = "has" if len(numbers) == 1 else "have"
    return (
        f"{named} of the {total:,} parts of the split {directory!r} {has} no receipts; publish what is missing with "
        f"`asyncsink run {shlex.quote(directory)} --part missing`."
    )


def in_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as a text: "3, 5-7". Pure."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def place_of(path: str) -> tuple[int, int] | None:
    """Device and inode of a file, links followed; None where there is none. Blocking."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_same_file(path: str, other: str) -> bool:
    place = place_of(other)
    return place is not None and place == place_of(path)


def _has_begun(partial: str) -> bool:
    """Whether a run has written to its partial file; one that is complete by now has renamed it."""
    try:
        return os.path.isfile(partial) and os.path.getsize(partial) > 0
    except FileNotFoundError:
        return False
