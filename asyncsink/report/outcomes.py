"""The outcomes of a run, kept in bounded memory: a temporary file of JSON lines for each kind of outcome.

Nothing is on disk before 1 MiB of lines; after that the files have no name, so they are gone with the process.
"""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, field, fields
from functools import cache
from itertools import groupby
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Generic, TypeVar, cast, get_args, overload

from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.options.settings import MIB
from asyncsink.temporary import file_fault
from asyncsink.value import dataclass

# -- What a run amounts to so far, in numbers: counted outcome by outcome, in memory that does not grow with them ------

REASONS_MAX = 20
OTHER_REASONS = "other reasons"
NOT_PUBLISHED_KEPT = 1000


@dataclass(slots=True)
class Counts:
    """Numbers of outcomes by kind, and what belongs to them.

    Attributes:
        objects_failed: without failures of local copies: their objects are published, or counted already.
        bytes_uploaded, bytes_skipped, bytes_planned: sums of size_bytes over the receipts, skips and planned transfers.
        bytes_resumed: bytes that earlier runs had sent or received of large files, and this run did not once more.
        local_copies: how many receipts and skips have a local copy.
        local_copies_failed: how many failures are of the stage "local copy".
        confirmed_by: number of receipts by what the server's answer proved.
        skip_reasons: number of skips by reason; from the 21st reason on they count as "other reasons".
        left_out_reasons: of these, the skips that are not there already.
        not_published: source and reason of the first 1,000 skips that are not there already.
        not_published_total: number of all of these.
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
            self.objects_failed += outcome.stage != "local copy"
        else:
            self.objects_planned += 1
            self.bytes_planned += outcome.size_bytes

    def _add_skip(self, skip: Skip) -> None:
        self.objects_skipped += 1
        self.bytes_skipped += skip.size_bytes
        self.local_copies += skip.local_copy != ""
        # A reason that names its own file would be a reason of its own.
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
        """Count everything that `other` has counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.confirmed_by.update(other.confirmed_by)
        for reason, skips in other.skip_reasons.items():
            self._add_reason(reason, skips, left_out=other.left_out_reasons[reason])
        self.not_published += other.not_published[: NOT_PUBLISHED_KEPT - len(self.not_published)]

    @property
    def objects_total(self) -> int:
        """Uploaded + skipped + failed + planned."""
        return self.objects_uploaded + self.objects_skipped + self.objects_failed + self.objects_planned

    @property
    def already_there(self) -> int:
        """Skips whose object is what would have been sent."""
        return self.objects_skipped - self.not_published_total

    @property
    def there_reasons(self) -> Counter[str]:
        """`skip_reasons` of these."""
        return self.skip_reasons - self.left_out_reasons

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values, under the names that `--json` prints."""
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
    """A failure as JSON-ready values, under the names that `--json` prints."""
    return {
        "source": failure.source,
        "key": failure.key,
        "error": failure.error,
        "message": failure.message,
        "stage": failure.stage,
    }


# -- One outcome, one line of JSON: what the run's log keeps and the manifest holds ------------------------------------
# Lines are pure ASCII: control characters, line separators and the surrogates of names that are no UTF-8 (PEP 383) are
# escaped, so that a line is always one line, is inert on a terminal, and reads back exactly. (RFC 8259; jsonlines.org.)

# A line is put together by hand: json.dumps of a dictionary takes three times as long, and a run has one per object.


def _checksum(checksum: Checksum | None) -> str:
    return "null" if checksum is None else _quote(f"{checksum.algorithm}:{checksum.value}")


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
) -> str:
    """The line of a Receipt with these fields, for those who make many and need no Receipt."""
    return (
        f'{{"record":"receipt","source":{_quote(source)},"key":{_quote(key)},"url":{_quote(url)},'
        f'"size_bytes":{size_bytes},"checksum":{_checksum(checksum)},"etag":{_quote(etag)},'
        f'"version_id":{_quote(version_id)},"attempts":{attempts},"seconds":{seconds!r},'
        f'"local_copy":{_quote(local_copy)},"confirmed_by":{_quote(confirmed_by)},"entry":{entry}}}'
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
    )


def _skip(o: Skip) -> str:
    return (
        f'{{"record":"skip","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"already_there":{_bool(o.already_there)},'
        f'"checksum":{_checksum(o.checksum)},"etag":{_quote(o.etag)},"local_copy":{_quote(o.local_copy)},'
        f'"entry":{o.entry},"version_id":{_quote(o.version_id)},"attempts":{o.attempts},'
        f'"confirmed_by":{_quote(o.confirmed_by)}}}'
    )


def _failure(o: Failure) -> str:
    return (
        f'{{"record":"failure","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"error":{_quote(o.error)},"message":{_quote(o.message)},"stage":{_quote(o.stage)},'
        f'"attempts":{o.attempts},"entry":{o.entry}}}'
    )


def _planned(o: Planned) -> str:
    return (
        f'{{"record":"planned","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"entry":{o.entry}}}'
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
    """For each field of a record, the types that its value may have, and whether it may be missing."""
    return {each.name: (_KINDS.get(each.name, (str,)), each.default is not MISSING) for each in fields(_TYPES[name])}


def encode(outcome: Outcome) -> str:
    """The outcome as a JSON object on one ASCII line, without its newline.

    Every field of the model is there under its own name; a checksum is "ALGORITHM:base64" or null.
    """
    return _ENCODERS[type(outcome)](outcome)


def decode(line: str | bytes) -> Outcome:
    """The outcome that `encode` wrote.

    Raises:
        ValueError: the line is no JSON, or no outcome.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a record is a JSON object")  # noqa: TRY004 - it is the line that is wrong
    return outcome_of(record)


def outcome_of(record: dict[str, Any]) -> Outcome:
    """The outcome in a decoded record; fields that the model does not have are ignored.

    Raises:
        ValueError: a field is missing or of the wrong kind, or the record is of no known type.
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
        ValueError: the text is not of that form, or the algorithm is none of S3's.
    """
    algorithm, colon, value = text.partition(":")
    if not colon or algorithm not in _ALGORITHMS:
        raise ValueError(f"checksum {text!r} is not of the form ALGORITHM:base64 with one of {', '.join(_ALGORITHMS)}")
    return Checksum(cast("ChecksumAlgorithm", algorithm), value)


# -- Outcomes as the run's log and the manifest keep them: their lines, ready to be appended, and what they amount to

RUN_LINES_MAX = 256
"""A run of lines is no longer."""


@dataclass(frozen=True, slots=True)
class LineRun:
    """Outcomes of one kind that follow each other.

    Attributes:
        kind: their class.
        count: how many they are, 1 to RUN_LINES_MAX.
        text: their lines in ASCII, each with its newline.
    """

    kind: type[Outcome]
    count: int
    text: bytes


@dataclass(slots=True)
class OutcomeLines:
    """Some outcomes, in order.

    Attributes:
        runs: all their lines.
        counts: what they amount to.
    """

    runs: list[LineRun] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __len__(self) -> int:
        """How many outcomes."""
        return sum([run.count for run in self.runs])

    def add(self, other: OutcomeLines) -> None:
        """Append all of another one."""
        self.runs += other.runs
        self.counts.merge(other.counts)

    @property
    def text(self) -> bytes:
        """The lines."""
        return b"".join([run.text for run in self.runs])

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes again, read back from their lines."""
        for run in self.runs:
            yield from map(decode, run.text.splitlines())


def encoded_receipts(lines: Sequence[str], bytes_uploaded: int, confirmed_by: ConfirmedBy) -> OutcomeLines:
    """Receipts without local copies, from their lines (`records.receipt_line`), all confirmed alike. Pure."""
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


# -- outcomes ----------------------------------------------------------------------------------------------------------

T = TypeVar("T", Receipt, Skip, Failure, Planned)

MEMORY_BYTES = 1 * MIB
BLOCK_LINES = RUN_LINES_MAX
"""Lines are read by so many at most, and only where a block begins is remembered: two blocks that follow each other
have more lines together, so that this takes 128 KB at most for a million outcomes."""


class OutcomeLog:
    """Takes outcomes as they come, and gives them back by kind, in order.

    Safe to read from any thread while one other thread appends.

    Attributes:
        counts: what they amount to.
    """

    def __init__(self, counts: Counts | None = None) -> None:
        """An empty log, which counts in `counts` where somebody else looks at them too."""
        self._lock = threading.Lock()
        self._kinds = {kind: _Lines() for kind in (Receipt, Skip, Failure, Planned)}
        for kind in self._kinds.values():
            weakref.finalize(self, kind.file.close)
        self.counts = Counts() if counts is None else counts

    def append(self, outcome: Outcome) -> None:
        """Keep one outcome. As `extend`."""
        self.extend((outcome,))

    def extend(self, outcomes: Sequence[Outcome] | OutcomeLines) -> None:
        """Keep several outcomes, which may be encoded already.

        Raises:
            JournalError: the temporary directory cannot take them; none of them is kept.
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
        """What was published."""
        return OutcomeView(self, Receipt)

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was deliberately not sent."""
        return OutcomeView(self, Skip)

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What was not published, and local copies that were not made."""
        return OutcomeView(self, Failure)

    @property
    def planned(self) -> OutcomeView[Planned]:
        """What a dry run would have sent."""
        return OutcomeView(self, Planned)

    def __len__(self) -> int:
        """All outcomes, of every kind."""
        return sum(kind.count for kind in self._kinds.values())

    def count(self, kind: type[Outcome]) -> int:
        """Outcomes of one kind by now."""
        return self._kinds[kind].count

    def read(self, kind: type[Outcome], number: int) -> tuple[int, list[bytes]]:
        """Line `number` of one kind among its neighbours, BLOCK_LINES at most, and the number of the first of these.
        Blocking; for OutcomeView."""
        with self._lock:
            return self._kinds[kind].read(number)


class _Lines:
    """The lines of one kind of outcome, in their order, in blocks. For one thread at a time."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - lives as long as the log
        self.count = 0
        self._end = 0
        self._at_end = True
        # Of each block: the number of its first line, and where that begins.
        self._numbers = array("Q")
        self._places = array("Q")

    def write(self, runs: Sequence[LineRun]) -> None:
        """Write lines behind those that are kept. They can be written over until `keep` is called with them."""
        if not self._at_end:
            self.file.seek(self._end)
        self._at_end = False  # true again only when they are kept
        self.file.write(b"".join([run.text for run in runs]))
        self.file.flush()

    def keep(self, runs: Sequence[LineRun]) -> None:
        """Count what was written last."""
        for run in runs:
            if not self._numbers or self.count + run.count - self._numbers[-1] > BLOCK_LINES:
                self._numbers.append(self.count)
                self._places.append(self._end)
            self.count += run.count
            self._end += len(run.text)
        self._at_end = True

    def read(self, number: int) -> tuple[int, list[bytes]]:
        """The lines of the block that has this line, and the number of the first of them."""
        block = bisect_right(self._numbers, number) - 1
        first = self._numbers[block]
        after = self._numbers[block + 1] if block + 1 < len(self._numbers) else self.count
        self._at_end = False
        self.file.seek(self._places[block])
        return first, [self.file.readline() for _ in range(after - first)]


class OutcomeView(Sequence[T], Generic[T]):
    """The outcomes of one kind, read back as they are asked for: a sequence that holds none of them.

    A slice is such a view too. It equals a list or tuple of the same outcomes.
    """

    __slots__ = ("_kind", "_log", "_slice")

    def __init__(self, log: OutcomeLog, kind: type[T], numbers: range | None = None) -> None:
        """Look at the outcomes of a kind with these numbers; None means all, those to come included."""
        self._log = log
        self._kind: type[Outcome] = kind
        self._slice = numbers

    @property
    def _numbers(self) -> range:
        return range(self._log.count(self._kind)) if self._slice is None else self._slice

    def __len__(self) -> int:
        """How many there are by now."""
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> OutcomeView[T]: ...
    def __getitem__(self, index: int | slice) -> T | OutcomeView[T]:
        """One outcome, or a view of several. IndexError as for a list."""
        if isinstance(index, slice):
            return OutcomeView(self._log, cast("type[T]", self._kind), self._numbers[index])
        number = self._numbers[index]
        first, lines = self._log.read(self._kind, number)
        return cast("T", decode(lines[number - first]))

    def __iter__(self) -> Iterator[T]:
        """Read them in order, a block at a time."""
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
        """The number of outcomes."""
        return f"<{len(self)} outcomes>"
