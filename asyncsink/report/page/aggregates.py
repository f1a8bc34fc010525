"""Sums over the outcomes of a run, in memory that does not grow with their number: by folder and kind, sizes and times,
the largest and the slowest, and the first files.

The outcomes are read back from the run's log when it has ended, block by block; nothing is counted for runs without a
page. A block is decoded by one call of `json.loads`: an `Outcome` for each line would take three times as long.
"""

from __future__ import annotations

import json
import math
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
        self.sizes: dict[int, int] = {}
        self.times: dict[int, int] = {}
        self.files: list[list[Any]] = []
        self.files_full = False
        self.objects = 0
        self._files_bytes = 0
        # The second value, which no two have, decides between equals: records cannot be compared.
        self._largest: list[tuple[int, int, dict[str, Any]]] = []
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    def __repr__(self) -> str:
        return f"<Aggregates of {self.objects:,} outcomes>"

    def read(self, log: OutcomeLog) -> None:
        """Count everything that the log has. Blocking."""
        for kind in (Failure, Receipt, Skip, Planned):
            number, total = log.first(kind), log.count(kind)
            while number < total:
                start, lines = log.read(kind, number)
                records = json.loads(b"[%b]" % b",".join(lines))[number - start :]
                self._count(kind, records)
                if kind is not Failure or len(self.files) < FAILURES_FIRST:
                    self._show(kind, records)
                number = start + len(lines)

    def _count(self, kind: type[Outcome], records: Sequence[dict[str, Any]]) -> None:
        folders, kinds, sizes, times = self.folders, self.kinds, self.sizes, self.times
        failed, timed = int(kind is Failure), kind is Receipt
        largest, slowest = self._largest, self._slowest
        for number, record in enumerate(records, self.objects):
            folder, _, name = (record["key"] or record["source"]).rpartition("/")
            size = record.get("size_bytes", 0)
            its_kind = kind_in_bids(name)
            for groups, its in ((folders, folder), (kinds, its_kind)):
                group = groups.get(its)
                if group is None:
                    group = groups.setdefault(its if len(groups) < GROUPS_MAX else OTHERS, Group())
                group.objects += 1
                group.bytes += size
                group.failed += failed
            if failed:
                continue
            bits = size.bit_length()
            sizes[bits] = sizes.get(bits, 0) + 1
            if len(largest) < TOP:
                heappush(largest, (size, -number, record))
            elif size > largest[0][0]:
                heappushpop(largest, (size, -number, record))
            if timed:
                seconds = record["seconds"]
                step = step_of_seconds(seconds)
                times[step] = times.get(step, 0) + 1
                if len(slowest) < TOP:
                    heappush(slowest, (seconds, -number, record))
                elif seconds > slowest[0][0]:
                    heappushpop(slowest, (seconds, -number, record))
        self.objects += len(records)

    def _show(self, kind: type[Outcome], records: Sequence[dict[str, Any]]) -> None:
        """Add rows to the table, as long as there is room."""
        if self.files_full:
            return
        for record in records:
            row = self.row(kind, record)
            self._files_bytes += len(json.dumps(row, ensure_ascii=False).encode()) + 2
            self.files_full = len(self.files) == FILES_MAX or self._files_bytes > FILES_BYTES_MAX
            if self.files_full:
                return
            self.files.append(row)

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
            short(checksum),
            record.get("confirmed_by", ""),
            short(note),
        ]

    def name(self, record: dict[str, Any]) -> str:
        """The key below the prefix; of a file without a key, its source."""
        key: str = record["key"]
        return short(key.removeprefix(self.prefix) if key else record["source"], NAME_MAX)

    def largest(self) -> list[dict[str, Any]]:
        """The largest files, the largest first."""
        return [self._top(record) for _, _, record in sorted(self._largest, key=itemgetter(0, 1), reverse=True)]

    def slowest(self) -> list[dict[str, Any]]:
        """The files that took longest, from the first read to the last confirmation, the slowest first."""
        return [self._top(record) for _, _, record in sorted(self._slowest, key=itemgetter(0, 1), reverse=True)]

    def _top(self, record: dict[str, Any]) -> dict[str, Any]:
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
