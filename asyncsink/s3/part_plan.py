"""Pure: how an object is cut into parts.

S3 takes 1 to 10,000 parts of 5 MiB to 5 GiB each, the last may be smaller (S3 User Guide, "Amazon S3 multipart upload
limits"). The plan covers the object exactly, in order, with parts of one size; the size grows in whole MiB where
10,000 parts of the wanted size would not suffice.
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncsink.config import GIB, MIB
from asyncsink.value import dataclass

PART_SIZE_BYTES_MIN = 5 * MIB
PART_SIZE_BYTES_MAX = 5 * GIB
PARTS_MAX = 10_000
OBJECT_SIZE_BYTES_MAX = 50 * 1000**4
"""What S3's service model allows (50 TB); 10,000 parts of 5 GiB would be a little more."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `part_number` counts from 1; `offset` and `length` are bytes in the file."""

    part_number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How `size_bytes` are cut: every part has `part_size_bytes`, the last has the rest (at least one byte)."""

    size_bytes: int
    part_size_bytes: int

    @property
    def count(self) -> int:
        """Number of parts; at least 1."""
        return max(1, -(-self.size_bytes // self.part_size_bytes))

    def part(self, part_number: int) -> Part:
        """The part with this number (1 to `count`)."""
        offset = (part_number - 1) * self.part_size_bytes
        return Part(part_number, offset, min(self.part_size_bytes, self.size_bytes - offset))

    def __iter__(self) -> Iterator[Part]:
        return (self.part(number) for number in range(1, self.count + 1))


def plan_parts(size_bytes: int, part_size_bytes: int) -> PartPlan:
    """Cut an object of `size_bytes` (1 to 50 TB) into parts of about `part_size_bytes`.

    Raises:
        ValueError: the object is empty or larger than S3 allows; callers check sizes first.
    """
    if not 0 < size_bytes <= OBJECT_SIZE_BYTES_MAX:
        raise ValueError(f"{size_bytes} bytes cannot be sent in parts")
    wanted = min(max(part_size_bytes, PART_SIZE_BYTES_MIN), PART_SIZE_BYTES_MAX)
    if -(-size_bytes // wanted) > PARTS_MAX:
        needed = -(-size_bytes // PARTS_MAX)
        wanted = min(-(-needed // MIB) * MIB, PART_SIZE_BYTES_MAX)
    return PartPlan(size_bytes, wanted)
