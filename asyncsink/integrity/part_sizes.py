"""Pure: with which part size may another tool have written a multipart object?

A multipart ETag is an MD5 over the parts' MD5s. The number of parts stands behind its "-"; the part size does not
stand anywhere, but few sizes are in use, and most of them would have given another number of parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from asyncsink.config import GIB, MIB

PART_SIZE_CANDIDATES_MAX = 8
"""Every candidate costs one MD5 over the whole file."""

_MB = 1000**2

# The most usual ones first: defaults of AWS' own tools and SDKs, MinIO's, rclone, s3cmd, s5cmd, Cyberduck, Hadoop and
# their kin; then what people type, in binary and in decimal units.
TYPICAL_PART_SIZES_BYTES: tuple[int, ...] = (
    *(size * MIB for size in (8, 5, 16, 64, 15, 50, 10, 100, 32, 128, 25, 20, 6, 256, 512)),
    GIB,
    *(size * _MB for size in (8, 5, 10, 16, 50, 100, 15, 20, 25, 32, 64, 128, 256, 500, 512, 1000)),
    *(size * MIB for size in (7, 12, 24, 30, 40, 48, 60, 75, 80, 96, 150, 200, 250, 300, 400, 500)),
    2 * GIB,
    5 * GIB,
)
_MULTIPART_ETAG = re.compile(r"[0-9a-fA-F]{32}-([1-9][0-9]{0,4})")


def parts_of_etag(etag: str) -> int | None:
    """The number of parts that a multipart ETag ("hex-N", no quotes) tells, or None for any other ETag."""
    match = _MULTIPART_ETAG.fullmatch(etag)
    return int(match.group(1)) if match else None


def candidate_part_sizes(
    etag: str, size_bytes: int, *, known: int | None, preferred: Sequence[int] = ()
) -> tuple[int, ...]:
    """Part sizes in bytes that fit an object of `size_bytes` with this multipart ETag, most likely first.

    Args:
        etag: without quotes.
        size_bytes: of the object, more than 0.
        known: the size of the object's first part where the server told it: then there is no other candidate.
        preferred: sizes to try before the typical ones (our own plan's).

    Returns:
        At most PART_SIZE_CANDIDATES_MAX sizes; none where the ETag is no multipart ETag, or nothing fits.
    """
    count = parts_of_etag(etag)
    if count is None:
        return ()
    if count == 1:
        return (size_bytes,)
    if known is not None:
        return tuple(_fitting([known], size_bytes, count))
    # Tools that let the part size grow with the file round it up to whole MiB.
    grown = -(-size_bytes // (count * MIB)) * MIB
    fitting = _fitting((*preferred, *TYPICAL_PART_SIZES_BYTES, grown), size_bytes, count)
    return tuple(fitting)[:PART_SIZE_CANDIDATES_MAX]


def _fitting(sizes: Iterable[int], size_bytes: int, count: int) -> dict[int, None]:
    return dict.fromkeys(size for size in sizes if size > 0 and -(-size_bytes // size) == count)
