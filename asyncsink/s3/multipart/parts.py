"""Pure: the division of an object into parts, and the proof that the parts became the object.

S3 takes 1 to 10,000 parts of 5 MiB to 5 GiB each, the last may be smaller (S3 User Guide, "Amazon S3 multipart upload
limits"). The plan covers the object exactly, in order, with parts of one size; the size grows in whole MiB where 10,000
parts of the wanted size would not suffice. The parts of a stream of unknown length grow with what was sent before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import COMPOSITE_ALGORITHMS, composite, etag_md5, is_composite, multipart_etag
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.settings import MIB, ChecksumAlgorithm
from asyncsink.s3.operations import (
    OBJECT_SIZE_BYTES_MAX,
    PART_SIZE_BYTES_MAX,
    PART_SIZE_BYTES_MIN,
    PARTS_MAX,
    CompletedPart,
    ObjectHead,
    ObjectStored,
)
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `part_number` counts from 1; `offset` and `length` are bytes in the file."""

    part_number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PartPlan:
    """The division of `size_bytes`: every part has `part_size_bytes`, the last has the rest (at least one byte)."""

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
    """Divide an object of `size_bytes` (1 to 50 TB) into parts of about `part_size_bytes`.

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


# -- Streams, whose length is known at their end -----------------------------------------------------------------------

GROWTH = 64
"""A part of a stream has the wanted size, or this fraction of everything before it. 10,000 parts of 5 GiB at most carry
50 TB then, whatever the wanted size is, and only streams of more than 512 times that size have larger parts at all."""


def stream_part_size(offset: int, part_size_bytes: int, part_size_bytes_max: int) -> int:
    """The size of the part of a stream that begins at `offset`: whole MiB above `part_size_bytes`."""
    grown = -(-(offset // GROWTH) // MIB) * MIB
    return min(max(part_size_bytes, grown), part_size_bytes_max)


class StreamPlan(PartPlan):
    """The parts of a stream so far: each was full when the next one was begun.

    Args:
        part_size_bytes: of the first part.
        part_size_bytes_max: of the largest one; at least `part_size_bytes`.
    """

    __slots__ = ("_most", "_offsets", "_wanted")

    def __init__(self, part_size_bytes: int, part_size_bytes_max: int) -> None:
        self._wanted = part_size_bytes
        self._most = part_size_bytes_max
        self._offsets = [0]

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<StreamPlan {self.count} parts, {self.size_bytes} bytes>"

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts so far."""
        return self._offsets[-1]

    @property
    def part_size_bytes(self) -> int:
        """Size of the first part, unless it is the only one."""
        return self._wanted

    @property
    def count(self) -> int:
        """Number of parts so far."""
        return len(self._offsets) - 1

    @property
    def next_size(self) -> int:
        """Size of the next part, where it is not the last; 0 where S3 takes no further part."""
        if self.count >= PARTS_MAX or self.size_bytes >= OBJECT_SIZE_BYTES_MAX:
            return 0
        return stream_part_size(self.size_bytes, self._wanted, self._most)

    def add(self, length: int) -> Part:
        """The next part, of `length` bytes."""
        part = Part(self.count + 1, self.size_bytes, length)
        self._offsets.append(self.size_bytes + length)
        return part

    def part(self, part_number: int) -> Part:
        """The part with this number (1 to `count`)."""
        offset = self._offsets[part_number - 1]
        return Part(part_number, offset, self._offsets[part_number] - offset)


# -- Proof by the answer to CompleteMultipartUpload, or by the object under its key ------------------------------------
# Source: S3 User Guide, "Checking object integrity": full-object and composite checksums, and the ETag of multipart
# objects (the MD5 of the parts' MD5s).


class UploadProof:
    """What one upload has sent.

    Args:
        key: for messages.
        plan: of the whole object; that of a stream grows meanwhile.
        algorithm: of the parts' checksums, or None where they had none.
        etag_is_md5: whether a part's ETag is its MD5 (no SSE-KMS, no SSE-C).
        parts: those that the server confirmed, by part number; grows meanwhile.
        confirmed: the proofs in its answers to the parts; grows meanwhile.
    """

    def __init__(
        self,
        key: str,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        etag_is_md5: bool,
        *,
        parts: Mapping[int, CompletedPart],
        confirmed: AbstractSet[ConfirmedBy],
    ) -> None:
        self._key = key
        self._plan = plan
        self._algorithm = algorithm
        self._etag_is_md5 = etag_is_md5
        self._parts = parts
        self._confirmed = confirmed

    def of_answer(self, stored: ObjectStored, full: Checksum | None) -> ConfirmedBy | None:
        """The proof in the answer; None where the object must be examined.

        Args:
            full: the whole object's checksum, as it was sent, or None.

        Raises:
            IntegrityError: the answer contradicts it.
        """
        if stored.checksum is not None and self._agrees(stored.checksum, full):
            return "server-checksum"
        expected = self._expected_etag()
        if expected is not None and stored.etag == expected:
            # Every part's MD5 was compared or sent, and the ETag binds them together in order.
            return "etag"
        return "server-checksum" if full is None and self._parts_are_proved() else None

    def of_object(self, head: ObjectHead, full: Checksum | None) -> ConfirmedBy:
        """The proof in the object under the key.

        Raises:
            IntegrityError: it is not what was sent.
        """
        if head.size_bytes != self._plan.size_bytes:
            raise self._other(f"{self._plan.size_bytes:,} bytes", f"{head.size_bytes:,} bytes")
        told = [
            Checksum(algorithm, value)
            for algorithm, value in head.checksums.items()
            if is_composite(value) or not head.composite
        ]
        # A list, so that each is compared, also where one would do.
        if [checksum for checksum in told if self._agrees(checksum, full)]:
            return "server-checksum"
        if (expected := self._expected_etag()) is not None:
            if head.etag != expected:
                raise self._other(f"ETag {expected}", f"ETag {head.etag}")
            return "etag"
        return "server-checksum" if full is None and self._parts_are_proved() else "size"

    def _agrees(self, told: Checksum, full: Checksum | None) -> bool:
        """Whether a checksum of the object from the server is ours; False where ours is not known.

        Raises:
            IntegrityError: it is another.
        """
        ours = self._composite(told.algorithm) if is_composite(told.value) else full
        if ours is None or ours.algorithm != told.algorithm:
            return False
        if ours != told:
            raise self._other(str(ours), str(told))
        return True

    def _composite(self, algorithm: ChecksumAlgorithm) -> Checksum | None:
        """The checksum of the parts' checksums, where those are known by `algorithm`."""
        known = [self._parts[number].checksum for number in sorted(self._parts)]
        parts = [checksum for checksum in known if checksum is not None and checksum.algorithm == algorithm]
        if algorithm not in COMPOSITE_ALGORITHMS or len(parts) != len(known):
            return None
        return composite(algorithm, parts)

    def _parts_are_proved(self) -> bool:
        """Whether the server repeated the checksum of every part; Complete named them all."""
        return self._confirmed == {"server-checksum"} and self._algorithm is not None

    def _expected_etag(self) -> str | None:
        """The ETag that S3's rule gives (MD5 of the parts' MD5s), or None where a part's ETag is no compared MD5."""
        if not self._etag_is_md5 or not self._confirmed <= {"etag", "server-checksum"}:
            return None
        if "server-checksum" in self._confirmed and self._algorithm != "MD5":
            return None
        digests = [etag_md5(self._parts[number].etag) for number in sorted(self._parts)]
        known = [digest for digest in digests if digest is not None]
        return multipart_etag(known) if len(known) == len(digests) else None

    def _other(self, expected: str, actual: str) -> IntegrityError:
        return IntegrityError(
            f"{self._key!r} was stored with {actual} instead of {expected}; export it again.",
            expected=expected,
            actual=actual,
        )
