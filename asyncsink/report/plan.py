"""The figures of a plan, in constant memory: what is new, changed and largest, by folder and kind, with the requests
and the cost of its export. Pure."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from operator import itemgetter
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.integrity.sameness import NOT_THERE
from asyncsink.model import Planned
from asyncsink.options.settings import GIB
from asyncsink.value import dataclass

LARGEST_KEPT = 3
FOLDER_LEVELS = 4
FOLDERS_KEPT = 5000
KINDS_KEPT = 1000
REASONS_KEPT = 20
LISTED = 20
"""Most folders and kinds in `PlanFigures.as_dict`."""
OTHERS = "others"
_PACKED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBasis:
    """What the figures of a plan are computed with.

    Attributes:
        destination: its URL, without a trailing "/".
        folder: the absolute path below which files are named: the source's directory, or the one that all top-level
            sources share; "" where there is none.
        parts: in how many parts the export sends a file of so many bytes, 0 for one PutObject; None where it sends no
            requests.
        looks: successful requests of the plan by operation; its export begins with the same.
    """

    destination: str = ""
    folder: str = ""
    parts: Callable[[int], int] | None = None
    looks: Mapping[str, int] = field(default_factory=dict)

    def below(self, path: str) -> str:
        """The part of a file's path below the folder."""
        folder = self.folder
        if folder and path.startswith(f"{folder}/"):
            return path[len(folder) + 1 :]
        return path.rpartition("/")[2] if path == folder else path

    def name(self, planned: Planned) -> str:
        """The name of the object below the destination."""
        return planned.url.removeprefix(f"{self.destination}/")


@dataclass(slots=True)
class Amount:
    """Files and their bytes."""

    objects: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int, objects: int = 1) -> None:
        """Count files of this many bytes together."""
        self.objects += objects
        self.size_bytes += size_bytes

    def as_dict(self) -> dict[str, int]:
        """Under the names of `--json`."""
        return {"objects": self.objects, "bytes": self.size_bytes}


class Amounts:
    """Amounts by name, at most `most` of them; further names count together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: dict[str, Amount] = {}
        self._others = Amount()

    def __len__(self) -> int:
        return len(self._named)

    def add(self, name: str, size_bytes: int) -> None:
        """Count one file."""
        amount = self._named.get(name)
        if amount is None:
            if len(self._named) >= self._most:
                self._others.add(size_bytes)
                return
            amount = self._named[name] = Amount()
        amount.add(size_bytes)

    def largest(self, most: int) -> list[tuple[str, Amount]]:
        """The names with most bytes; the rest is one amount, `OTHERS`, at the end."""
        by_size = sorted(self._named.items(), key=lambda item: (-item[1].size_bytes, -item[1].objects, item[0]))
        rest = Amount(self._others.objects, self._others.size_bytes)
        for _, amount in by_size[most:]:
            rest.add(amount.size_bytes, amount.objects)
        return [*by_size[:most], *([(OTHERS, rest)] if rest.objects else [])]


class FolderAmounts:
    """Amounts by folder, at the first level at which the names differ."""

    def __init__(self) -> None:
        self._levels = [Amounts(FOLDERS_KEPT) for _ in range(FOLDER_LEVELS)]

    def add(self, name: str, size_bytes: int) -> None:
        """Count one file by its name below the destination."""
        folders = name.split("/")[:-1]
        for number, level in enumerate(self._levels, 1):
            level.add("/".join(folders[:number]), size_bytes)

    def largest(self, most: int) -> list[tuple[str, Amount]]:
        """As `Amounts.largest`; files in no folder have the name ""."""
        level = next((each for each in self._levels if len(each) > 1), self._levels[-1])
        return level.largest(most)


def kind_of(name: str) -> str:
    """The kind of a file by its name: ".json", ".nii.gz", or "" without a suffix."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    if not stem or not dot:
        return ""
    kind = f".{suffix.lower()}"
    if kind in _PACKED:
        inner = stem.rpartition(".")
        return f".{inner[2].lower()}{kind}" if inner[0] and len(inner[2]) <= 5 else kind
    return kind


class PlanFigures:
    """The figures of planned transfers, added one by one.

    Attributes:
        new: files whose objects are not there.
        changed: files whose objects differ, by how.
        folders, kinds: of all planned transfers.
        requests: those of the export, by operation of S3, without repeated ones; empty for a local destination.
    """

    def __init__(self, basis: PlanBasis, planned: Iterable[Planned] = ()) -> None:
        self.basis = basis
        self.new = Amount()
        self.changed = Amounts(REASONS_KEPT)
        self.folders = FolderAmounts()
        self.kinds = Amounts(KINDS_KEPT)
        self.requests: Counter[str] = Counter(basis.looks)
        self._renamed: Planned | None = None
        self._largest: list[tuple[int, str, str, Planned]] = []
        for each in planned:
            self.add(each)

    @property
    def size_bytes(self) -> int:
        """Bytes that would be sent."""
        return self.new.size_bytes + sum(amount.size_bytes for _, amount in self.changed.largest(REASONS_KEPT))

    @property
    def largest(self) -> list[Planned]:
        """The largest planned transfers, the largest first."""
        return [planned for *_, planned in self._largest]

    @property
    def example(self) -> Planned | None:
        """A planned transfer that shows how keys are made: the first whose name changes, or else the largest."""
        return self._renamed or next(iter(self.largest), None)

    def add(self, planned: Planned) -> None:
        """Count one."""
        size, name = planned.size_bytes, self.basis.name(planned)
        if planned.reason == NOT_THERE:
            self.new.add(size)
        else:
            self.changed.add(planned.reason, size)
        self.folders.add(name, size)
        self.kinds.add(kind_of(name), size)
        if len(self._largest) < LARGEST_KEPT or -size <= self._largest[-1][0]:
            # By key where sizes are equal: outcomes come in no order.
            insort(self._largest, (-size, planned.key, planned.source, planned), key=itemgetter(0, 1, 2))
            del self._largest[LARGEST_KEPT:]
        if name != self.basis.below(planned.source) and (self._renamed is None or planned.key < self._renamed.key):
            self._renamed = planned
        if self.basis.parts is not None:
            self._add_requests(self.basis.parts(size))

    def _add_requests(self, parts: int) -> None:
        if not parts:
            self.requests["PutObject"] += 1
            return
        self.requests["CreateMultipartUpload"] += 1
        self.requests["UploadPart"] += parts
        self.requests["CompleteMultipartUpload"] += 1

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return {
            "new": self.new.as_dict(),
            "changed": [{"reason": why, **each.as_dict()} for why, each in self.changed.largest(REASONS_KEPT)],
            "largest": [{"source": each.source, "key": each.key, "bytes": each.size_bytes} for each in self.largest],
            "folders": [{"folder": name, **each.as_dict()} for name, each in self.folders.largest(LISTED)],
            "kinds": [{"kind": name, **each.as_dict()} for name, each in self.kinds.largest(LISTED)],
            "requests": dict(self.requests),
        }


# -- The cost of an export, by prices that the user gives --------------------------------------------------------------

_FREE = ("DeleteObject", "AbortMultipartUpload")
_READS = ("GetObject", "HeadObject")
"""Operations of the second price class: the first one has PUT, COPY, POST and LIST (Amazon S3 pricing, requests)."""
PRICES = "put=0.005,get=0.0004,storage=0.023,currency=USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a store.

    Attributes:
        put: of 1,000 requests PUT, COPY, POST or LIST. get: of 1,000 other requests.
        storage: of one GiB in one month.
        currency: its name, or "".
    """

    put: float = 0.0
    get: float = 0.0
    storage: float = 0.0
    currency: str = ""

    def requests(self, requests: Mapping[str, int]) -> float:
        """The price of requests, by operation."""
        reads = sum(number for name, number in requests.items() if name in _READS)
        free = sum(number for name, number in requests.items() if name in _FREE)
        return (self.get * reads + self.put * (sum(requests.values()) - reads - free)) / 1000

    def month(self, size_bytes: int) -> float:
        """The price of keeping this many bytes for a month."""
        return self.storage * size_bytes / GIB


def prices_of(given: Mapping[str, Any], what: str) -> Prices:
    """Prices from their names and values; `what` names their origin in messages.

    Raises:
        ConfigError: a name is unknown, or a value is no price.
    """
    if not given:
        raise ConfigError(f"{what} has no prices; expected some of {PRICES}.")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "currency":
            values[name] = str(value)
            continue
        if name not in ("put", "get", "storage"):
            raise ConfigError(f"{what} has {name!r}, which is no price; expected some of {PRICES}.")
        try:
            price = float(value)
        except (TypeError, ValueError):
            price = -1.0
        if isinstance(value, bool) or not 0 <= price < float("inf"):
            raise ConfigError(f"{what} has {name}={value!r:.60}, which is no price; expected a number such as 0.005.")
        values[name] = price
    return Prices(**values)


def money(amount: float, currency: str = "") -> str:
    """An amount: "12.34 USD", "0.0121 USD"; never 0 where it is more."""
    small = f"{amount:.2g}" if amount >= 0.0001 else "less than 0.0001"
    return f"{f'{amount:,.2f}' if amount >= 1 or not amount else small} {currency}".strip()


def requests_in_words(requests: Mapping[str, int]) -> list[str]:
    """Each operation with its number, writes first: "2,291 PutObject"."""
    order = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
    known = [name for name in order if requests.get(name)]
    others = sorted(name for name, number in requests.items() if number and name not in order)
    return [f"{requests[name]:,} {name}" for name in (*known, *others)]
