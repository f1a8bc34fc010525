"""Sums over the outcomes of a run, in memory that does not grow with their number: by folder and kind, sizes and times,
the largest and the slowest, and the first files.

The outcomes are read back from the run's log when it has ended, block by block; nothing is counted for runs without a
page.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heappush, heappushpop
from operator import itemgetter
from typing import Any, Final

from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.plan import kind_of
from asyncsink.report.sentences import inert
from asyncsink.value import dataclass

FILES_MAX: Final = 5000
"""Files in the table; the receipt has all of them."""
FILES_BYTES_MAX: Final = 700_000
"""Bytes of the table, so that the page stays below 1 MB with long names too."""
FAILURES_FIRST: Final = 1000
"""Failures that come before all other files in the table."""
GROUPS_MAX: Final = 4000
"""Folders, and kinds, that are counted apart; further ones are counted together."""
TOP: Final = 20
TEXT_MAX: Final = 400
"""Characters of a message in the table."""
NAME_MAX: Final = 1200
"""Characters of a name; S3's keys have 1,024 bytes."""
STEPS_PER_DOUBLING: Final = 4
"""Buckets of the times for each factor of two: a percentile is right to 19 %."""
OTHERS: Final = "…"
COLUMNS: Final = ("state", "key", "size_bytes", "seconds", "attempts", "checksum", "confirmed_by", "note")
_STATES: Final[dict[type[Outcome], str]] = {
    Failure: "failed", Skip: "unchanged", Planned: "planned",
}  # fmt: skip


def short(text: str, length: int = TEXT_MAX) -> str:
    """A text from outside, inert, and of bounded length."""
    text = inert(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


_LINE: Final = r'\{"record":"\w+","source":"[^"\\]*","key":"([^"\\]+)","url":"[^"\\]*","size_bytes":(\d+),%s[^\n]*\n?'
_PLAIN: Final = re.compile(_LINE % "")
_PLAIN_RECEIPT: Final = re.compile(
    _LINE % r'"checksum":[^,]*,"etag":"[^"\\]*","version_id":"[^"\\]*","attempts":\d+,"seconds":([^,]+),'
)


def _columns_of(kind: type[Outcome], lines: Sequence[bytes]) -> tuple[Sequence[str], Sequence[int], Sequence[float]]:
    """Keys (sources of files without one) and sizes, and of receipts the seconds.

    Most lines have no escaped character: a regular expression finds these values in a fifth of the time that decoding
    takes. Where it does not find all of them, the lines are decoded.
    """
    text = b"".join(lines).decode("ascii")
    found = (_PLAIN_RECEIPT if kind is Receipt else _PLAIN).findall(text)
    if len(found) == len(lines):
        columns = list(zip(*found, strict=True))
        return columns[0], list(map(int, columns[1])), list(map(float, columns[2])) if kind is Receipt else []
    records = _decoded(lines)
    keys = [record["key"] or record["source"] for record in records]
    sizes = [record.get("size_bytes", 0) for record in records]
    return keys, sizes, [record["seconds"] for record in records] if kind is Receipt else []


def _decoded(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    decoded: list[dict[str, Any]] = json.loads(b"[%b]" % b",".join(lines))
    return decoded


def _written_bytes(rows: list[list[Any]]) -> int:
    """The size of rows in the page."""
    text = json.dumps(rows, ensure_ascii=False)
    return len(text.encode()) + 5 * text.count("<")


def kind_in_bids(name: str) -> str:
    """The kind of a file by its name: its suffix (".json"), of names as BIDS has them with what stands before it
    ("bold.nii.gz"). Pure."""
    kind = kind_of(name)
    if name.startswith("sub-") and "_" in name:
        return name.rpartition("_")[2].partition(".")[0] + kind
    return kind or "no suffix"


@dataclass(slots=True)
class Group:
    """Files together: how many, their bytes, and how many of them failed."""

    objects: int = 0
    bytes: int = 0
    failed: int = 0


class Aggregates:
    """The sums.

    Args:
        prefix: of the destination's keys, which folders and names are shown without; "" or with a "/" at the end.
        moved: the state of a receipt, "sent" or "received".

    Attributes:
        folders, kinds: by name.
        sizes: number of files by the bit length of their size.
        times: number of receipts by the step of their seconds, see `seconds_of_step`.
        files: rows of COLUMNS. files_full: whether there are more files than rows.
        objects: outcomes that are counted.
    """

    def __init__(self, prefix: str = "", moved: str = "sent") -> None:
        self.prefix = prefix
        self._moved = moved
        self.folders: dict[str, Group] = {}
        self.kinds: dict[str, Group] = {}
        self.sizes: Counter[int] = Counter()
        self.times: Counter[int] = Counter()
        self.files: list[list[Any]] = []
        self.files_full = False
        self.objects = 0
        self._files_bytes = 0
        self._endings: dict[str, Group] = {}
        # The second value, which no two have, keeps the first of equals.
        self._largest: list[tuple[float, int, bytes]] = []
        self._slowest: list[tuple[float, int, bytes]] = []

    def __repr__(self) -> str:
        return f"<Aggregates of {self.objects:,} outcomes>"

    def read(self, log: OutcomeLog) -> None:
        """Count everything that the log has. Blocking."""
        for kind in (Failure, Receipt, Skip, Planned):
            number, total = log.first(kind), log.count(kind)
            while number < total:
                start, lines = log.read(kind, number)
                lines = lines[number - start :]
                number += len(lines)
                self._count(kind, lines)
                if not self.files_full and (kind is not Failure or len(self.files) < FAILURES_FIRST):
                    self._show(kind, lines)

    def _count(self, kind: type[Outcome], lines: Sequence[bytes]) -> None:
        keys, sizes, seconds = _columns_of(kind, lines)
        self._group(keys, sizes, failed=int(kind is Failure))
        first, self.objects = self.objects, self.objects + len(lines)
        if kind is Failure:
            return
        self.sizes.update(map(int.bit_length, sizes))
        self.times.update(map(step_of_seconds, seconds))
        for heap, values in ((self._largest, sizes), (self._slowest, seconds)):
            if values and (len(heap) < TOP or max(values) > heap[0][0]):
                for number, value in enumerate(values):
                    if len(heap) < TOP:
                        heappush(heap, (value, -first - number, lines[number]))
                    elif value > heap[0][0]:
                        heappushpop(heap, (value, -first - number, lines[number]))

    def _group(self, keys: Sequence[str], sizes: Sequence[int], *, failed: int) -> None:
        folders, kinds, endings = self.folders, self.kinds, self._endings
        for key, size in zip(keys, sizes, strict=True):
            folder, _, name = key.rpartition("/")
            group = folders.get(folder)
            if group is None:
                group = folders.setdefault(folder if len(folders) < GROUPS_MAX else OTHERS, Group())
            group.objects += 1
            group.bytes += size
            group.failed += failed
            # A study has few endings, and many names.
            ending = name[name.rfind("_") :] if name.startswith("sub-") else name
            group = endings.get(ending)
            if group is None:
                kind = kind_in_bids(name)
                group = kinds.get(kind)
                if group is None:
                    group = kinds.setdefault(kind if len(kinds) < GROUPS_MAX else OTHERS, Group())
                if len(endings) < GROUPS_MAX:
                    endings[ending] = group
            group.objects += 1
            group.bytes += size
            group.failed += failed

    def _show(self, kind: type[Outcome], lines: Sequence[bytes]) -> None:
        """Add rows to the table, as long as there is room."""
        rows = [self.row(kind, record) for record in _decoded(lines[: FILES_MAX - len(self.files)])]
        self._files_bytes += _written_bytes(rows)
        while rows and self._files_bytes > FILES_BYTES_MAX:
            self._files_bytes -= _written_bytes([rows.pop()])
            self.files_full = True
        self.files += rows
        self.files_full = self.files_full or len(self.files) == FILES_MAX

    def row(self, kind: type[Outcome], record: dict[str, Any]) -> list[Any]:
        """The values of COLUMNS."""
        state = _STATES.get(kind, self._moved)
        if kind is Skip and not record["already_there"]:
            state = "left out"
        checksum = record.get("checksum") or (f"ETag:{record['etag']}" if record.get("etag") else "")
        note = record.get("message") or record.get("reason") or ""
        if kind is Failure:
            note = f"{record['error']}: {note}"
        seconds = record.get("seconds")
        return [
            state,
            self.name(record),
            record.get("size_bytes"),
            None if seconds is None else round(seconds, 4),
            record.get("attempts", 0),
            short(checksum) if checksum else "",
            record.get("confirmed_by", ""),
            short(note) if note else "",
        ]

    def name(self, record: dict[str, Any]) -> str:
        """The key below the prefix; of a file without a key, its source."""
        key: str = record["key"]
        return short(key.removeprefix(self.prefix) if key else record["source"], NAME_MAX)

    def largest(self) -> list[dict[str, Any]]:
        """The largest files, the largest first."""
        return [self._top(line) for _, _, line in sorted(self._largest, key=itemgetter(0, 1), reverse=True)]

    def slowest(self) -> list[dict[str, Any]]:
        """The files that took longest, from the first read to the last confirmation, the slowest first."""
        return [self._top(line) for _, _, line in sorted(self._slowest, key=itemgetter(0, 1), reverse=True)]

    def _top(self, line: bytes) -> dict[str, Any]:
        record = json.loads(line)
        seconds = record.get("seconds")
        return {
            "key": self.name(record),
            "size_bytes": record["size_bytes"],
            "seconds": None if seconds is None else round(seconds, 4),
            "attempts": record.get("attempts", 0),
        }

    def percentile(self, percent: float) -> float | None:
        """Seconds within which this share of the receipts was published; None without receipts."""
        left = math.ceil(sum(self.times.values()) * percent / 100)
        for step in sorted(self.times):
            left -= self.times[step]
            if left <= 0:
                return seconds_of_step(step)
        return None

    def by_folder(self, groups_max: int) -> list[tuple[str, Group]]:
        """The folders below the prefix at the depth where they differ, the largest first; the last may be OTHERS."""
        below = [(folder.removeprefix(self.prefix), group) for folder, group in self.folders.items()]
        depth = _depth([folder for folder, _ in below])
        folded: dict[str, Group] = {}
        for folder, group in below:
            name = "/".join(folder.split("/")[:depth])
            _add(folded.setdefault(name, Group()), group)
        return _first(folded, groups_max)

    def by_kind(self, groups_max: int) -> list[tuple[str, Group]]:
        """The kinds, those with the most bytes first; the last may be OTHERS."""
        return _first(self.kinds, groups_max)


def step_of_seconds(seconds: float) -> int:
    """The bucket of a duration. Pure."""
    return math.floor(STEPS_PER_DOUBLING * math.log2(max(seconds, 1e-6)))


def seconds_of_step(step: int) -> float:
    """The end of a bucket, in seconds. Pure."""
    return float(2 ** ((step + 1) / STEPS_PER_DOUBLING))


def _depth(folders: Sequence[str]) -> int:
    """How many levels of folders name a group: more than one, where all files are in one folder."""
    split = [folder.split("/") for folder in folders]
    depth = 1
    while len({tuple(each[:depth]) for each in split}) == 1 and any(len(each) > depth for each in split):
        depth += 1
    return depth


def _first(groups: Mapping[str, Group], groups_max: int) -> list[tuple[str, Group]]:
    ordered = sorted(groups.items(), key=lambda item: (item[0] == OTHERS, -item[1].bytes, -item[1].objects, item[0]))
    if len(ordered) <= groups_max:
        return ordered
    others = Group()
    for _, group in ordered[groups_max - 1 :]:
        _add(others, group)
    return [*ordered[: groups_max - 1], (OTHERS, others)]


def _add(total: Group, group: Group) -> None:
    total.objects += group.objects
    total.bytes += group.bytes
    total.failed += group.failed
