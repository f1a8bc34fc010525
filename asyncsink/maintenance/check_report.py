"""The report of a check: every compared file with rclone's marker, in the order of the keys, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import field
from itertools import islice
from typing import Any, Final, Literal

from asyncsink.paths import decoded_name, encoded_name
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import all_of, are, count, duration, inert, size
from asyncsink.temporary import TemporaryDatabase
from asyncsink.value import dataclass

Marker = Literal["=", "+", "-", "*", "!"]
"""As of `rclone check --combined`: the same, only in the source, only at the destination, different, not compared."""
SIZE_ALONE: Final = "size alone"
"""The reason of a file that is the same as far as its size says."""
ROWS_AT_ONCE: Final = 1000
_TABLES = """
CREATE TABLE listed (key BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE compared (key BLOB, number INTEGER, marker TEXT, source BLOB, reason BLOB, size INTEGER,
    PRIMARY KEY (key, number)) WITHOUT ROWID;
"""
_ONLY_LISTED = """
INSERT INTO compared SELECT key, 0, '-', x'', x'', size FROM listed
WHERE NOT EXISTS (SELECT 1 FROM compared WHERE compared.key = listed.key)
"""
_ROWS = """
SELECT key, number, marker, source, reason, size FROM compared
WHERE (key, number) > (?, ?) AND marker <> ? ORDER BY key, number LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """One file or object.

    Attributes:
        marker: see `Marker`.
        key: below the destination; the path of a file that has none.
        source: the file's path, or "".
        reason: how it differs, or why it was not compared; of the same, "" or SIZE_ALONE.
        size_bytes: of the file, or of an object without one.
    """

    marker: Marker
    key: str
    source: str
    reason: str
    size_bytes: int


class ComparedFiles:
    """All compared files, on disk beyond a few MB. Methods block, are for one thread at a time, and raise a
    JournalError where the directory for temporary files is full.

    Attributes:
        counts, bytes_total: numbers and sizes by marker.
        by_size: number of equal files of which nothing but the size was compared.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bytes_total: Counter[str] = Counter()
        self.by_size = 0
        self._database = TemporaryDatabase("The compared files", _TABLES)

    def __repr__(self) -> str:
        return f"<ComparedFiles {dict(self.counts)}>"

    def add_listed(self, objects: Iterable[tuple[str, int]]) -> None:
        """Add some of the destination's objects: keys below it, and sizes."""
        rows = ((encoded_name(key), size_bytes) for key, size_bytes in objects)
        with self._database.at_once():
            self._database.change_many("INSERT OR REPLACE INTO listed VALUES (?, ?)", rows)

    def add(self, files: Iterable[Compared]) -> None:
        """Add all files, and then the listed objects that are none of them."""
        numbered = enumerate(files, 1)
        with self._database.at_once():
            while some := list(islice(numbered, ROWS_AT_ONCE)):
                for _, each in some:
                    self.counts[each.marker] += 1
                    self.bytes_total[each.marker] += each.size_bytes
                    self.by_size += each.reason == SIZE_ALONE
                rows = [
                    (encoded_name(e.key), n, e.marker, encoded_name(e.source), encoded_name(e.reason), e.size_bytes)
                    for n, e in some
                ]
                self._database.change_many("INSERT INTO compared VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._database.change(_ONLY_LISTED)
            number, size_bytes = self._database.rows(
                "SELECT count(*), coalesce(sum(size), 0) FROM compared WHERE marker = '-'"
            )[0]
            self.counts["-"], self.bytes_total["-"] = number, size_bytes

    def each(self, *, differing: bool) -> Iterator[Compared]:
        """The files in the order of their keys; with `differing`, without those that are the same."""
        key, number = b"", -1
        while rows := self._database.rows(_ROWS, key, number, "=" if differing else "", ROWS_AT_ONCE):
            for key, number, marker, source, reason, size_bytes in rows:  # noqa: B007 - the last row begins the next page
                yield Compared(marker, decoded_name(key), decoded_name(source), decoded_name(reason), size_bytes)

    def close(self) -> None:
        """Release the database."""
        self._database.close()


@dataclass(slots=True)
class CheckReport(BaseReport):
    """The result of a check. `close` it, since its files are in a temporary database.

    Attributes:
        source, destination: what was compared, as people call it.
        files: all files.
        one_way: whether objects that only the destination has were not looked for.
        left_out: number of files that the options leave out.
        elapsed_seconds: of the comparison.
        incomplete: a sentence where not everything could be compared, or "".
        notices: sentences for people about what is no failure.
    """

    source: str
    destination: str
    files: ComparedFiles
    one_way: bool = False
    left_out: int = 0
    elapsed_seconds: float = 0.0
    incomplete: str = ""
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was compared, and nothing differs."""
        return not self.incomplete and self.differing == 0

    @property
    def differing(self) -> int:
        """Number of files and objects that are not the same on both sides, or could not be compared."""
        return self.files.counts.total() - self.files.counts["="]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON-ready values; the files themselves are `files.each`."""
        counts, sizes = self.files.counts, self.files.bytes_total
        return {
            "source": self.source,
            "destination": self.destination,
            "ok": self.ok,
            "one_way": self.one_way,
            "objects_total": counts.total(),
            "objects_same": counts["="],
            "objects_different": counts["*"],
            "objects_only_in_source": counts["+"],
            "objects_only_at_destination": counts["-"],
            "objects_failed": counts["!"],
            "objects_left_out": self.left_out,
            "bytes_same": sizes["="],
            "objects_same_by_size": self.files.by_size,
            "elapsed_seconds": self.elapsed_seconds,
            "incomplete": self.incomplete,
            "notices": list(self.notices),
        }

    def summary(self) -> str:
        """A few lines for people; the first one has the verdict."""
        source, destination, counts = inert(self.source), inert(self.destination), self.files.counts
        same = f"{all_of(counts['='], 'file')} ({size(self.files.bytes_total['='])})"
        if self.differing:
            lines = [f"{source} and {destination} differ in {count(self.differing, 'file')}."]
            said = (
                ("=", "the same"),
                ("*", "different"),
                ("+", f"only in {source}"),
                ("-", f"only in {destination}"),
                ("!", "not compared"),
            )
            found = [f"{counts[marker]:,} {words}" for marker, words in said if counts[marker] or marker == "="]
            lines.append(f"{', '.join(found)} ({duration(self.elapsed_seconds)}).")
        elif not counts["="]:
            lines = [
                f"{source} has no files to compare" + (f", nor has {destination} any." if not self.one_way else ".")
            ]
        else:
            also = "" if self.one_way or self.incomplete else ", and nothing else"
            lines = [
                f"{same} of {source} {are(counts['='])} in {destination}{also} ({duration(self.elapsed_seconds)})."
            ]
        if by_size := self.files.by_size:
            how = "by size alone" if by_size == counts["="] else f"by content, {by_size:,} of them by size alone"
        else:
            how = "by content: a checksum, or an ETag that is an MD5"
        if counts["="]:
            lines.append(f"Compared {how}.")
        if self.left_out:
            lines.append(f"Left out: {count(self.left_out, 'file')}.")
        lines += [inert(self.incomplete)] if self.incomplete else []
        return "\n".join(lines)

    def close(self) -> None:
        """Release the files."""
        self.files.close()
