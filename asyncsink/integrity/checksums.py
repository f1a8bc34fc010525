"""Pure: checksums in S3's notation: of whole bodies, of bodies in pieces, and combined from those of parts.

Values are base64 of the big-endian digest (S3 User Guide, "Checking object integrity in Amazon S3"). awscrt computes
the CRCs with processor instructions; hashlib computes SHA-256 and MD5.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple, NoReturn, Protocol, get_args

from asyncsink.model import Checksum
from asyncsink.options.settings import ChecksumAlgorithm

ByteBody = bytes | bytearray | memoryview

HEADER_ALGORITHMS: tuple[ChecksumAlgorithm, ...] = tuple(a for a in get_args(ChecksumAlgorithm) if a != "MD5")
"""Algorithms that S3 stores and returns as x-amz-checksum-…; MD5 is Content-MD5 and comes back as the ETag."""

FULL_OBJECT_ALGORITHMS: frozenset[ChecksumAlgorithm] = frozenset({"CRC64NVME", "CRC32C", "CRC32"})
"""Algorithms whose value for a whole object follows from those of its parts, so that S3 keeps one for multipart objects
too (`x-amz-checksum-type: FULL_OBJECT`)."""

COMPOSITE_ALGORITHMS: frozenset[ChecksumAlgorithm] = frozenset({"CRC32C", "CRC32", "SHA256"})
"""Algorithms for which S3 defines a checksum of part checksums (`x-amz-checksum-type: COMPOSITE`)."""


class _Running(Protocol):
    """An unfinished digest, such as hashlib's objects."""

    def update(self, piece: ByteBody, /) -> None: ...

    def digest(self) -> bytes: ...


class _CrcKind(NamedTuple):
    compute: Callable[[ByteBody, int], int]
    combine: Callable[[int, int, int], int]


_WIDTHS_BYTES: Final[Mapping[ChecksumAlgorithm, int]] = {
    "CRC64NVME": 8,
    "CRC32C": 4,
    "CRC32": 4,
    "SHA256": 32,
    "MD5": 16,
}


@cache
def _crcs() -> Mapping[ChecksumAlgorithm, _CrcKind]:
    # Loading awscrt takes longer than all other work of a run without changes, so the first checksum, in a reader or
    # lane thread, loads it.
    from awscrt import checksums as crt

    return {
        "CRC64NVME": _CrcKind(crt.crc64nvme, crt.combine_crc64nvme),
        "CRC32C": _CrcKind(crt.crc32c, crt.combine_crc32c),
        "CRC32": _CrcKind(crt.crc32, crt.combine_crc32),
    }


_PLAIN_ETAG = re.compile(r"[0-9a-fA-F]{32}")


class _Crc:
    __slots__ = ("_algorithm", "_value")

    def __init__(self, algorithm: ChecksumAlgorithm) -> None:
        self._algorithm = algorithm
        self._value = 0

    def update(self, piece: ByteBody, /) -> None:
        # Without bytes the value stays 0, and an unchanged empty file needs no awscrt.
        if len(piece):
            self._value = _crcs()[self._algorithm].compute(piece, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(_WIDTHS_BYTES[self._algorithm], "big")


def _unknown(algorithm: object) -> NoReturn:
    raise ValueError(f"checksum algorithm {algorithm!r} is not known; expected one of {', '.join(_WIDTHS_BYTES)}.")


def _begin(algorithm: ChecksumAlgorithm) -> _Running:
    if algorithm in FULL_OBJECT_ALGORITHMS:
        return _Crc(algorithm)
    if algorithm == "SHA256":
        return hashlib.sha256()
    if algorithm == "MD5":
        return hashlib.md5(usedforsecurity=False)
    _unknown(algorithm)


def _as_s3_writes(algorithm: ChecksumAlgorithm, digest: bytes) -> Checksum:
    return Checksum(algorithm, binascii.b2a_base64(digest, newline=False).decode("ascii"))


def digest_of(checksum: Checksum) -> bytes:
    """The digest of a full-object or part checksum, big-endian bytes.

    Raises:
        ValueError: the algorithm is not known, or the value is not base64 of a digest of its length (a composite value,
            for example).
    """
    if checksum.algorithm not in _WIDTHS_BYTES:
        _unknown(checksum.algorithm)
    try:
        digest = base64.b64decode(checksum.value, validate=True)
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != _WIDTHS_BYTES.get(checksum.algorithm):
        raise ValueError(f"{checksum} is no base64 of a {checksum.algorithm} digest.")
    return digest


def checksum_of(data: ByteBody, algorithm: ChecksumAlgorithm) -> Checksum:
    """The checksum of `data` (contiguous bytes).

    Raises:
        ValueError: the algorithm is not known.
    """
    running = _begin(algorithm)
    running.update(data)
    return _as_s3_writes(algorithm, running.digest())


def load_checksums(algorithm: ChecksumAlgorithm) -> None:
    """Load what computes checksums by `algorithm`: tenths of a second, once in a process, in which the interpreter's
    lock is held. A program that lives long has that behind it before it is used."""
    checksum_of(b"\0", algorithm)


class Digester:
    """Checksums by several algorithms at once, in one pass over a body's pieces.

    Raises:
        ValueError: an algorithm is not known.
    """

    def __init__(self, algorithms: Iterable[ChecksumAlgorithm]) -> None:
        self._running = {algorithm: _begin(algorithm) for algorithm in algorithms}

    def update(self, piece: ByteBody) -> None:
        """Add the next piece."""
        for running in self._running.values():
            running.update(piece)

    def result(self, algorithm: ChecksumAlgorithm) -> Checksum:
        """The checksum of all pieces so far; more may follow.

        Raises:
            ValueError: the digester was made without this algorithm.
        """
        if algorithm not in self._running:
            raise ValueError(f"{algorithm!r} is not among the algorithms this digester was made with.")
        return _as_s3_writes(algorithm, self._running[algorithm].digest())


def combine(algorithm: ChecksumAlgorithm, parts: Iterable[tuple[Checksum, int]]) -> Checksum:
    """The full-object checksum, from those of the parts in the object's order, without reading the bytes again.

    Args:
        algorithm: one of FULL_OBJECT_ALGORITHMS.
        parts: each part's checksum and its length in bytes. No parts give the checksum of an empty object.

    Raises:
        ValueError: the algorithm cannot be combined, or a part has another algorithm.
    """
    if algorithm not in FULL_OBJECT_ALGORITHMS:
        raise ValueError(
            f"{algorithm} values of parts say nothing about the whole object; "
            f"only {', '.join(sorted(FULL_OBJECT_ALGORITHMS))} can be combined."
        )
    join = _crcs()[algorithm].combine
    value = 0
    for checksum, length in parts:
        value = join(value, int.from_bytes(_digest_by(algorithm, checksum), "big"), length)
    return _as_s3_writes(algorithm, value.to_bytes(_WIDTHS_BYTES[algorithm], "big"))


def composite(algorithm: ChecksumAlgorithm, parts: Iterable[Checksum]) -> Checksum:
    """S3's COMPOSITE value: the checksum of the concatenated part digests, then "-" and the number of parts.

    Raises:
        ValueError: S3 defines none for this algorithm, or a part has another algorithm.
    """
    if algorithm not in COMPOSITE_ALGORITHMS:
        raise ValueError(
            f"S3 defines no composite {algorithm} checksum, only {', '.join(sorted(COMPOSITE_ALGORITHMS))}."
        )
    digests = [_digest_by(algorithm, part) for part in parts]
    whole = checksum_of(b"".join(digests), algorithm)
    return Checksum(algorithm, f"{whole.value}-{len(digests)}")


def of_parts(
    algorithm: ChecksumAlgorithm | None, parts: Iterable[Checksum | None], lengths: Iterable[int]
) -> Checksum | None:
    """The checksum that S3 has of an object in parts; for SHA-256 there is only the composite one, for MD5 none (the
    ETag serves). None also where a part's checksum is not known."""
    known: list[Checksum] = []
    for checksum in parts:
        if checksum is None:
            return None
        known.append(checksum)
    if algorithm is None:
        return None
    if algorithm in FULL_OBJECT_ALGORITHMS:
        return combine(algorithm, zip(known, lengths, strict=True))
    return composite(algorithm, known) if algorithm in COMPOSITE_ALGORITHMS else None


def _digest_by(algorithm: ChecksumAlgorithm, checksum: Checksum) -> bytes:
    if checksum.algorithm != algorithm:
        raise ValueError(f"a part has a {checksum.algorithm} checksum; {algorithm} was expected.")
    return digest_of(checksum)


def is_composite(value: str) -> bool:
    """Whether a value from S3 is a checksum of part checksums: plain base64 has no "-"."""
    return "-" in value


def multipart_etag(part_md5s: Iterable[bytes]) -> str:
    """The ETag of a multipart object that is not encrypted with SSE-KMS or SSE-C: the hexadecimal MD5 of the
    concatenated part MD5s, then "-" and the number of parts (S3 User Guide, "Using Content-MD5 and the ETag to verify
    uploaded objects")."""
    digests = list(part_md5s)
    whole = hashlib.md5(b"".join(digests), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(digests)}"


def etag_md5(etag: str) -> bytes | None:
    """The digest in a plain ETag (32 hexadecimal digits, no quotes), or None for any other ETag.

    Whether that digest is the content's MD5 depends on the object's encryption.
    """
    return bytes.fromhex(etag) if _PLAIN_ETAG.fullmatch(etag) else None
