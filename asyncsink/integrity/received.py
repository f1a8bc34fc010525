"""Pure: whether bytes that were received are the object that the server described.

By the strongest thing that the server told: its full-object checksum, else an ETag that is an MD5 (of the bytes, or of
the MD5s of parts whose size is known or usual), else the size. Source: S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.sameness import CompareWith, Digests, SamenessDigester, decide, same
from asyncsink.model import Checksum, ConfirmedBy

Proof = tuple[Checksum | None, ConfirmedBy]
"""The checksum that was compared, if it was one, and what the comparison proves."""


def comparison(existing: Existing) -> CompareWith | None:
    """What to compute from the bytes, or None where only their number can be compared."""
    decision = decide(
        existing, policy="checksum", size_bytes=existing.size_bytes, mtime_ns=0, wanted=None, cheap_md5_bytes_max=0
    )
    return decision if isinstance(decision, CompareWith) else None


def prove(existing: Existing, pieces: Iterable[ByteBody], where: str) -> Proof:
    """Compare all bytes of an object, in order, with what the server told of it.

    Args:
        existing: looked at closely; its size was compared already.
        where: for the message: the object's URL.

    Raises:
        IntegrityError: they differ.
    """
    compare = comparison(existing)
    if compare is None:
        return None, "size"
    digester = SamenessDigester(compare)
    for piece in pieces:
        digester.update(piece)
    return conclude_proof(existing, compare, digester.digests(), where)


def conclude_proof(existing: Existing, compare: CompareWith, digests: Digests, where: str) -> Proof:
    """As `prove`, where the digests are known already."""
    found = digests.checksums.get(compare.algorithms[0]) if compare.algorithms else None
    agrees = same(compare, existing, digests)
    if found is None:
        # Only some part sizes were tried: that none gives this ETag proves nothing.
        return None, "etag" if agrees else "size"
    told = existing.checksums.get(found.algorithm)
    if not agrees:
        expected = f"{found.algorithm}:{told}" if told is not None else f"ETag {existing.etag}"
        raise IntegrityError(
            f"The bytes received for {where} are not those the server described: {expected} was expected, they have "
            f"{found}. Grab it again; if that repeats, suspect the network, a proxy on the way, or the server's disks.",
            expected=expected,
            actual=str(found),
        )
    return found, "server-checksum" if told is not None else "etag"
