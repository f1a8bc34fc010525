"""Where the parts of a split end. Pure: a decision for each file, in the order of the keys.

A cutter is told the size of each file once, and answers whether a new part begins with it. Parts are contiguous, hold
one file at least, and are together the whole.
"""

from __future__ import annotations

from typing import Any, Protocol

from asyncsink.errors import ConfigError
from asyncsink.options.settings import GIB
from asyncsink.options.values import read_integer, read_size
from asyncsink.value import dataclass

PART_BYTES = 4 * GIB
PART_OBJECTS = 10_000
"""Half a minute to a few minutes of work for one machine, in ten pages of a listing."""


def spread(count: int) -> list[int]:
    """The order in which `count` ranges of keys are numbered: neighbouring numbers are far apart among the keys.

    S3 limits the requests to each range of keys, and whatever starts many parts begins with the lowest numbers: parts
    in the order of the keys would all be in one range. The order is that of the numbers with their bits reversed (van
    der Corput's sequence).
    """
    bits = (count - 1).bit_length()
    return sorted(range(count), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2)) if bits else list(range(count))


class Cutter(Protocol):
    """Decides where parts begin."""

    def begins(self, size_bytes: int) -> bool:
        """Whether the next file, which has `size_bytes`, is the first of a new part."""
        ...


class ByLimits:
    """Closes a part before it exceeds `bytes_max` or `objects_max`. A larger file is a part of its own."""

    def __init__(self, bytes_max: int = PART_BYTES, objects_max: int = PART_OBJECTS) -> None:
        self._bytes_max = bytes_max
        self._objects_max = objects_max
        self._bytes = 0
        self._objects = 0

    def begins(self, size_bytes: int) -> bool:
        """See Cutter."""
        full = self._objects == self._objects_max or self._bytes + size_bytes > self._bytes_max
        if new := not self._objects or full:
            self._bytes = self._objects = 0
        self._bytes += size_bytes
        self._objects += 1
        return new


class IntoParts:
    """Makes `parts` parts of about equal work, or one of each file where there are fewer.

    A file's work is its share of all bytes plus its share of all objects. A part ends at the file boundary next to its
    share of the work, so that none exceeds the mean by more than the work of one file.
    """

    def __init__(self, parts: int, *, objects_total: int, bytes_total: int) -> None:
        self._parts = min(parts, objects_total)
        self._left = objects_total
        # Whole numbers: the two shares, multiplied by both totals.
        self._for_each_byte = objects_total if bytes_total else 0
        self._for_each_object = bytes_total or 1
        self._work_total = bytes_total * self._for_each_byte + objects_total * self._for_each_object
        self._begun = 0
        self._work = 0

    def begins(self, size_bytes: int) -> bool:
        """See Cutter."""
        work = size_bytes * self._for_each_byte + self._for_each_object
        closer = 2 * self._begun * self._work_total < self._parts * (2 * self._work + work)
        needed = self._left == self._parts - self._begun  # each part that is left gets a file
        new = not self._begun or (self._begun < self._parts and (closer or needed))
        self._begun += new
        self._work += work
        self._left -= 1
        return new


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
                "parts= and the limits part_bytes= and part_objects= contradict each other; give one or the other."
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
