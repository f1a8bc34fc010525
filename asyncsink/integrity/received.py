"""Pure: whether bytes that were received are the object that the server described.

By the strongest thing that the server told: its full-object checksum, else an ETag that is an MD5 (of the bytes, or of
the MD5s of parts whose size is known or usual), else the size. Source: S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.part_sizes import parts_of_etag
from asyncsink.integrity.sameness import CompareWith, Digests, SamenessDigester, decide, same
from asyncsink.model import Checksum, ConfirmedBy

Proof = tuple[Checksum | None, ConfirmedBy]
"""The checksum that was compared, if it was one, and what the comparison proves."""


def comparison(existing: Existing) -> CompareWith | None:
    """What to compute from the bytes, or None where only their number can be compared."""
    decision = decide(
        existing, policy="checksum", size_bytes=existing.size_bytes, mtime_ns=0, wanted=None, cheap_md5_bytes_max=0
    )
    return decision if isinstance(decision, CompareWith) and decision != CompareWith() else None


def prove(existing: Existing, pieces: Iterable[ByteBody], where: str, *, received_before: str = "") -> Proof:
    """Compare all bytes of an object, in order, with what the server told of it.

    Args:
        existing: looked at closely; its size was compared already.
        where: for the message: the object's URL.
        received_before: `actual` of the IntegrityError that the attempt before ended with, or "".

    Raises:
        IntegrityError: they differ, or they may: where only usual part sizes could be tried on a multipart ETag, the
            same bytes have to be received twice before their size is taken for a proof.
    """
    compare = comparison(existing)
    if compare is None:
        return None, "size"
    digester = SamenessDigester(compare)
    for piece in pieces:
        digester.update(piece)
    return conclude_proof(existing, compare, digester.digests(), where, received_before=received_before)


def conclude_proof(
    existing: Existing, compare: CompareWith, digests: Digests, where: str, *, received_before: str = ""
) -> Proof:
    """As `prove`, where the digests are known already."""
    found = digests.checksums.get(compare.algorithms[0]) if compare.algorithms else None
    told = existing.checksums.get(found.algorithm) if found is not None else None
    if same(compare, existing, digests):
        return found, "server-checksum" if told is not None else "etag"
    expected = f"{found.algorithm}:{told}" if found is not None and told is not None else f"ETag {existing.etag}"
    actual = str(found) if found is not None else "ETag " + " or ".join(digests.etags.values())
    if found is None and not _part_sizes_are_sure(existing) and actual == received_before:
        # No part size that was tried gives this ETag, and what came on the way twice is what the server has.
        return None, "size"
    raise IntegrityError(
        f"The bytes received for {where} are not those the server described: {expected} was expected, they have "
        f"{actual}. Grab it again; if that repeats, suspect the network, a proxy on the way, or the server's disks.",
        expected=expected,
        actual=actual,
    )


def _part_sizes_are_sure(existing: Existing) -> bool:
    """Whether the ETag can have been made of no other parts than those that were tried."""
    return parts_of_etag(existing.etag) == 1 or existing.part_size_bytes is not None
