"""The outcomes of a run: their numbers, their lines of JSON, and their log, in bounded memory.

The log has a temporary file for each kind, in memory up to 1 MiB, and without a name, so that it ends with the process.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, field, fields
from functools import cache
from itertools import groupby
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Generic, TypeVar, cast, get_args, overload

from asyncsink.model import Checksum, ConfirmedBy, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.report.kept_lines import BLOCK_LINES, KeptLines
from asyncsink.temporary import file_fault
from asyncsink.value import dataclass

# -- Numbers of a run so far, counted in constant memory ---------------------------------------------------------------

REASONS_MAX = 20
OTHER_REASONS = "other reasons"
NOT_PUBLISHED_KEPT = 1000


@dataclass(slots=True)
class Counts:
    """Numbers of outcomes by kind, and related sums.

    Attributes:
        objects_failed: without failures of local copies, whose objects are published, or counted already, and without
            extraneous objects that were not deleted.
        bytes_uploaded, bytes_skipped, bytes_planned: sums of size_bytes over the receipts, skips and planned transfers.
        bytes_resumed: bytes of large files that earlier runs had sent or received, and this run did not transfer again.
        local_copies: receipts and skips with a local copy.
        local_copies_failed: failures of the stage "local copy".
        confirmed_by: number of receipts by the proof in the server's answer.
        skip_reasons: number of skips by reason; from the 21st reason on they count as "other reasons".
        left_out_reasons: the same, without skips of objects that are already there.
        not_published: source and reason of the first 1,000 skips whose object is not there.
        not_published_total: number of all such skips.
    """

    objects_uploaded: int = 0
    objects_skipped: int = 0
    objects_failed: int = 0
    objects_planned: int = 0
    local_copies: int = 0
    local_copies_failed: int = 0
    bytes_uploaded: int = 0
    bytes_skipped: int = 0
    bytes_planned: int = 0
    bytes_resumed: int = 0
    confirmed_by: Counter[str] = field(default_factory=Counter)
    skip_reasons: Counter[str] = field(default_factory=Counter)
    left_out_reasons: Counter[str] = field(default_factory=Counter)
    not_published: list[tuple[str, str]] = field(default_factory=list)
    not_published_total: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome, Receipt):
            self.objects_uploaded += 1
            self.bytes_uploaded += outcome.size_bytes
            self.confirmed_by[outcome.confirmed_by] += 1
            self.local_copies += outcome.local_copy != ""
        elif isinstance(outcome, Skip):
            self._add_skip(outcome)
        elif isinstance(outcome, Failure):
            self.local_copies_failed += outcome.stage == "local copy"
            self.objects_failed += outcome.stage not in ("local copy", "delete")
        else:
            self.objects_planned += 1
            self.bytes_planned += outcome.size_bytes

    def _add_skip(self, skip: Skip) -> None:
        self.objects_skipped += 1
        self.bytes_skipped += skip.size_bytes
        self.local_copies += skip.local_copy != ""
        # A reason that names its own file would be counted separately for each file.
        reason = skip.reason.replace(skip.source, "…") if skip.source else skip.reason
        self._add_reason(reason, 1, left_out=0 if skip.already_there else 1)
        if not skip.already_there:
            self.not_published_total += 1
            if len(self.not_published) < NOT_PUBLISHED_KEPT:
                self.not_published.append((skip.source or skip.key, skip.reason))

    def _add_reason(self, reason: str, skips: int, *, left_out: int) -> None:
        known = reason in self.skip_reasons or len(self.skip_reasons) < REASONS_MAX
        reason = reason if known else OTHER_REASONS
        self.skip_reasons[reason] += skips
        if left_out:
            self.left_out_reasons[reason] += left_out

    def merge(self, other: Counts) -> None:
        """Add the counts of `other`."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.confirmed_by.update(other.confirmed_by)
        for reason, skips in other.skip_reasons.items():
            self._add_reason(reason, skips, left_out=other.left_out_reasons[reason])
        self.not_published += other.not_published[: NOT_PUBLISHED_KEPT - len(self.not_published)]

    @property
    def objects_total(self) -> int:
        """Number of outcomes: uploaded, skipped, failed and planned."""
        return self.objects_uploaded + self.objects_skipped + self.objects_failed + self.objects_planned

    @property
    def already_there(self) -> int:
        """Skips whose object is already what would have been sent."""
        return self.objects_skipped - self.not_published_total

    @property
    def there_reasons(self) -> Counter[str]:
        """`skip_reasons` of the objects that are already there."""
        return self.skip_reasons - self.left_out_reasons

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values, under the names of `--json`."""
        return {
            "objects_total": self.objects_total,
            "objects_uploaded": self.objects_uploaded,
            "objects_skipped": self.objects_skipped,
            "objects_failed": self.objects_failed,
            "objects_planned": self.objects_planned,
            "local_copies_failed": self.local_copies_failed,
            "bytes_uploaded": self.bytes_uploaded,
            "bytes_skipped": self.bytes_skipped,
            "bytes_planned": self.bytes_planned,
            "bytes_resumed": self.bytes_resumed,
            "confirmed_by": dict(self.confirmed_by),
            "skip_reasons": dict(self.skip_reasons),
            "not_published": [{"source": source, "reason": reason} for source, reason in self.not_published],
        }


_SUMS = [each.name for each in fields(Counts) if each.type == "int"]


def failure_as_dict(failure: Failure) -> dict[str, str]:
    """A failure as JSON-ready values, under the names of `--json`."""
    return {
        "source": failure.source,
        "key": failure.key,
        "error": failure.error,
        "message": failure.message,
        "stage": failure.stage,
    }


# -- One outcome as one line of JSON, in the run's log and in the manifest ---------------------------------------------
# Lines are pure ASCII: control characters, line separators and the surrogates of names that are not UTF-8 (PEP 383) are
# escaped, so that a record is one line, is inert on a terminal, and reads back exactly. (RFC 8259; jsonlines.org.)

# Lines are formatted by hand: json.dumps of a dictionary takes three times as long, and a run has one line per object.


def _checksum(checksum: Checksum | None) -> str:
    return "null" if checksum is None else _quote(f"{checksum.algorithm}:{checksum.value}")


def _attribute(attribute: str) -> str:
    return f',"attribute":{_quote(attribute)}' if attribute else ""


def receipt_line(
    source: str,
    key: str,
    url: str,
    size_bytes: int,
    *,
    checksum: Checksum | None,
    etag: str,
    version_id: str,
    attempts: int,
    seconds: float,
    local_copy: str,
    confirmed_by: str,
    entry: int,
    attribute: str = "",
) -> str:
    """The line of a Receipt with these fields, made without the Receipt itself, because a run has many."""
    return (
        f'{{"record":"receipt","source":{_quote(source)},"key":{_quote(key)},"url":{_quote(url)},'
        f'"size_bytes":{size_bytes},"checksum":{_checksum(checksum)},"etag":{_quote(etag)},'
        f'"version_id":{_quote(version_id)},"attempts":{attempts},"seconds":{seconds!r},'
        f'"local_copy":{_quote(local_copy)},"confirmed_by":{_quote(confirmed_by)},"entry":{entry}{_attribute(attribute)}}}'
    )


def _receipt(o: Receipt) -> str:
    return receipt_line(
        o.source,
        o.key,
        o.url,
        o.size_bytes,
        checksum=o.checksum,
        etag=o.etag,
        version_id=o.version_id,
        attempts=o.attempts,
        seconds=o.seconds,
        local_copy=o.local_copy,
        confirmed_by=o.confirmed_by,
        entry=o.entry,
        attribute=o.attribute,
    )


def _skip(o: Skip) -> str:
    return (
        f'{{"record":"skip","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"already_there":{_bool(o.already_there)},'
        f'"checksum":{_checksum(o.checksum)},"etag":{_quote(o.etag)},"local_copy":{_quote(o.local_copy)},'
        f'"entry":{o.entry},"version_id":{_quote(o.version_id)},"attempts":{o.attempts},'
        f'"confirmed_by":{_quote(o.confirmed_by)}{_attribute(o.attribute)}}}'
    )


def _failure(o: Failure) -> str:
    return (
        f'{{"record":"failure","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"error":{_quote(o.error)},"message":{_quote(o.message)},"stage":{_quote(o.stage)},'
        f'"attempts":{o.attempts},"entry":{o.entry}{_attribute(o.attribute)}}}'
    )


def _planned(o: Planned) -> str:
    return (
        f'{{"record":"planned","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"entry":{o.entry}{_attribute(o.attribute)}}}'
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


_ENCODERS: dict[type, Callable[[Any], str]] = {
    Receipt: _receipt,
    Skip: _skip,
    Failure: _failure,
    Planned: _planned,
}
_TYPES: dict[str, type[Receipt | Skip | Failure | Planned]] = {
    "receipt": Receipt,
    "skip": Skip,
    "failure": Failure,
    "planned": Planned,
}

_ALGORITHMS: tuple[str, ...] = get_args(ChecksumAlgorithm)
_KINDS: dict[str, tuple[type, ...]] = {
    "size_bytes": (int,),
    "attempts": (int,),
    "entry": (int,),
    "seconds": (float, int),
    "already_there": (bool,),
    "checksum": (str, type(None)),
}


@cache
def _fields_of(name: str) -> dict[str, tuple[tuple[type, ...], bool]]:
    """For each field of a record, the types of its value, and whether it may be missing."""
    return {each.name: (_KINDS.get(each.name, (str,)), each.default is not MISSING) for each in fields(_TYPES[name])}


def encode(outcome: Outcome) -> str:
    """The outcome as a JSON object on one ASCII line, without a newline.

    Every field of the model has its own name; a checksum is "ALGORITHM:base64" or null.
    """
    return _ENCODERS[type(outcome)](outcome)


def decode(line: str | bytes) -> Outcome:
    """The inverse of `encode`.

    Raises:
        ValueError: the line is not JSON, or not an outcome.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a record is a JSON object")  # noqa: TRY004 - it is the line that is wrong
    return outcome_of(record)


def outcome_of(record: dict[str, Any]) -> Outcome:
    """The outcome of a decoded record; fields that the model lacks are ignored.

    Raises:
        ValueError: a field is missing or of the wrong type, or the record is of unknown kind.
    """
    name = record.get("record")
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        raise ValueError(f"record {name!r} is not one of {', '.join(_TYPES)}")
    values = {}
    for key, (expected, optional) in _fields_of(name).items():
        if key in record:
            values[key] = value = record[key]
            if type(value) not in expected:
                raise ValueError(f"{key} has the value {value!r}")
        elif not optional:
            raise ValueError(f"{key} is missing")
    if values.get("checksum") is not None:
        values["checksum"] = parse_checksum(values["checksum"])
    return kind(**values)


def parse_checksum(text: str) -> Checksum:
    """The inverse of str(Checksum), "ALGORITHM:base64".

    Raises:
        ValueError: the text has another form, or the algorithm is not one of S3's.
    """
    algorithm, colon, value = text.partition(":")
    if not colon or algorithm not in _ALGORITHMS:
        raise ValueError(f"checksum {text!r} is not of the form ALGORITHM:base64 with one of {', '.join(_ALGORITHMS)}")
    return Checksum(cast("ChecksumAlgorithm", algorithm), value)


# -- Encoded outcomes: their lines, ready to be appended, and their counts ---------------------------------------------

RUN_LINES_MAX = BLOCK_LINES
"""Most lines of one run of lines."""


@dataclass(frozen=True, slots=True)
class LineRun:
    """Consecutive outcomes of one kind.

    Attributes:
        kind: their class.
        count: their number, 1 to RUN_LINES_MAX.
        text: their lines in ASCII, each with its newline.
    """

    kind: type[Outcome]
    count: int
    text: bytes


@dataclass(slots=True)
class OutcomeLines:
    """Encoded outcomes, in order.

    Attributes:
        runs: all their lines.
        counts: their counts.
    """

    runs: list[LineRun] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __len__(self) -> int:
        return sum([run.count for run in self.runs])

    def add(self, other: OutcomeLines) -> None:
        """Append the outcomes of `other`."""
        self.runs += other.runs
        self.counts.merge(other.counts)

    @property
    def text(self) -> bytes:
        """The lines."""
        return b"".join([run.text for run in self.runs])

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes, decoded from their lines."""
        for run in self.runs:
            yield from map(decode, run.text.splitlines())


def encoded_receipts(lines: Sequence[str], bytes_uploaded: int, confirmed_by: ConfirmedBy) -> OutcomeLines:
    """Receipts without local copies, from their lines (`receipt_line`), all confirmed alike. Pure."""
    batch = OutcomeLines()
    batch.counts.objects_uploaded = len(lines)
    batch.counts.bytes_uploaded = bytes_uploaded
    batch.counts.confirmed_by[confirmed_by] = len(lines)
    _add_lines(batch, Receipt, lines)
    return batch


def encoded(outcomes: Sequence[Outcome]) -> OutcomeLines:
    """The lines and counts of some outcomes. Pure."""
    batch = OutcomeLines()
    for outcome in outcomes:
        batch.counts.add(outcome)
    for kind, group in groupby(outcomes, type):
        _add_lines(batch, kind, [encode(outcome) for outcome in group])
    return batch


def _add_lines(batch: OutcomeLines, kind: type[Outcome], lines: Sequence[str]) -> None:
    for start in range(0, len(lines), RUN_LINES_MAX):
        some = lines[start : start + RUN_LINES_MAX]
        batch.runs.append(LineRun(kind, len(some), "\n".join([*some, ""]).encode("ascii")))


# -- The log of a run's outcomes, and views of it ----------------------------------------------------------------------

T = TypeVar("T", Receipt, Skip, Failure, Planned)


class OutcomeLog:
    """A log of outcomes, readable by kind, in order.

    It may be read from any thread while one other thread appends.

    Attributes:
        counts: the counts of the logged outcomes.
    """

    def __init__(self, counts: Counts | None = None, *, records_max: int | None = None) -> None:
        """Create an empty log; `counts` is shared with a caller that displays them. With `records_max`, so many of the
        newest outcomes of each kind are kept, see `KeptLines`; the counts are of all."""
        self._lock = threading.Lock()
        self._kinds = {kind: KeptLines(records_max) for kind in (Receipt, Skip, Failure, Planned)}
        for kind in self._kinds.values():
            weakref.finalize(self, kind.close)
        self.counts = Counts() if counts is None else counts

    def append(self, outcome: Outcome) -> None:
        """Append one outcome, as `extend`."""
        self.extend((outcome,))

    def extend(self, outcomes: Sequence[Outcome] | OutcomeLines) -> None:
        """Append several outcomes, encoded or not.

        Raises:
            JournalError: the temporary directory cannot hold them; none of them is appended.
        """
        batch = outcomes if isinstance(outcomes, OutcomeLines) else encoded(outcomes)
        by_kind: dict[type[Outcome], list[LineRun]] = {}
        for run in batch.runs:
            by_kind.setdefault(run.kind, []).append(run)
        with self._lock:
            try:
                for kind, its in by_kind.items():
                    self._kinds[kind].write(its)
            except OSError as error:
                raise file_fault("The outcomes of the run", error) from error
            for kind, its in by_kind.items():
                self._kinds[kind].keep(its)
            self.counts.merge(batch.counts)

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """The published objects."""
        return OutcomeView(self, Receipt)

    @property
    def skips(self) -> OutcomeView[Skip]:
        """The objects that were deliberately not sent."""
        return OutcomeView(self, Skip)

    @property
    def failures(self) -> OutcomeView[Failure]:
        """The objects that were not published, and the local copies that were not made."""
        return OutcomeView(self, Failure)

    @property
    def planned(self) -> OutcomeView[Planned]:
        """The objects that a dry run would have sent."""
        return OutcomeView(self, Planned)

    def __len__(self) -> int:
        return sum(kind.count for kind in self._kinds.values())

    def lines(self) -> OutcomeLines:
        """All outcomes as they are stored, kind by kind, with the counts of the log. Blocking."""
        whole = OutcomeLines(counts=self.counts)
        for kind in self._kinds:
            number = self.first(kind)
            while number < self.count(kind):
                number, block = self.read(kind, number)
                whole.runs.append(LineRun(kind, len(block), b"".join(block)))
                number += len(block)
        return whole

    def count(self, kind: type[Outcome]) -> int:
        """The number of outcomes of one kind so far."""
        return self._kinds[kind].count

    def first(self, kind: type[Outcome]) -> int:
        """The number of the first outcome of one kind that is kept."""
        return self._kinds[kind].first

    @property
    def dropped(self) -> int:
        """Outcomes that are not kept any more."""
        return sum(kind.first for kind in self._kinds.values())

    def read(self, kind: type[Outcome], number: int) -> tuple[int, list[bytes]]:
        """The number of a block's first line, and its lines (at most BLOCK_LINES, line `number` among them). Blocking;
        for OutcomeView."""
        with self._lock:
            return self._kinds[kind].read(number)


class OutcomeView(Sequence[T], Generic[T]):
    """The outcomes of one kind as a sequence that decodes them when they are accessed, and holds none in memory.

    A slice is a view too. A view equals a list or tuple of the same outcomes.
    """

    __slots__ = ("_kind", "_log", "_slice")

    def __init__(self, log: OutcomeLog, kind: type[T], numbers: range | None = None) -> None:
        """View the outcomes of a kind with these numbers; None means all, later ones included."""
        self._log = log
        self._kind: type[Outcome] = kind
        self._slice = numbers

    @property
    def _numbers(self) -> range:
        if self._slice is not None:
            return self._slice
        return range(self._log.first(self._kind), self._log.count(self._kind))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> OutcomeView[T]: ...
    def __getitem__(self, index: int | slice) -> T | OutcomeView[T]:
        if isinstance(index, slice):
            return OutcomeView(self._log, cast("type[T]", self._kind), self._numbers[index])
        number = self._numbers[index]
        first, lines = self._log.read(self._kind, number)
        return cast("T", decode(lines[number - first]))

    def __iter__(self) -> Iterator[T]:
        """Decode them in order, a block at a time."""
        first, lines = 0, list[bytes]()
        for number in self._numbers:
            if not first <= number < first + len(lines):
                first, lines = self._log.read(self._kind, number)
            yield cast("T", decode(lines[number - first]))

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a view, list or tuple, has equal outcomes in the same order."""
        if not isinstance(other, (OutcomeView, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} outcomes>"
