"""Pure: what a receipt says of an object, as a description that received bytes are compared with."""

from __future__ import annotations

from dataclasses import replace

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import is_composite
from asyncsink.integrity.sameness import Existing
from asyncsink.model import Receipt, Skip


def existing_by_receipt(promise: Receipt | Skip) -> Existing:
    """The object as its receipt describes it."""
    checksum = promise.checksum
    told = {} if checksum is None else {checksum.algorithm: checksum.value}
    composite = checksum is not None and is_composite(checksum.value)
    return Existing(
        size_bytes=promise.size_bytes,
        etag=promise.etag,
        checksums={} if composite else told,
        composites=told if composite else {},
        described_by="receipt",
    )


def promised(existing: Existing, receipt: Existing, where: str) -> Existing:
    """What the bytes of an object have to be by its receipt.

    The whole object's checksum in the receipt is the only description that counts: the server's ETag and checksums may
    be those of another way to store the same bytes. Without it, the object has to be the one of the receipt, by its
    checksum of part checksums or its ETag, and its bytes are those that the server describes.

    Args:
        existing: the object as the server describes it.
        receipt: of `existing_by_receipt`.
        where: for the message: the object's URL.

    Raises:
        IntegrityError: the object is known not to be the one of the receipt.
    """
    if existing.size_bytes != receipt.size_bytes:
        raise _other(where, f"{receipt.size_bytes:,} bytes", f"{existing.size_bytes:,} bytes")
    for algorithm, value in receipt.checksums.items():
        told = existing.checksums.get(algorithm)
        if told is not None and told != value:
            raise _other(where, f"{algorithm}:{value}", f"{algorithm}:{told}")
        return replace(
            existing, checksums=receipt.checksums, composites={}, looked_closely=True, described_by="receipt"
        )
    for algorithm, value in receipt.composites.items():
        told = existing.composites.get(algorithm)
        if told is not None:
            if told != value:
                raise _other(where, f"{algorithm}:{value}", f"{algorithm}:{told}")
            return replace(existing, described_by="receipt")
    if receipt.etag and existing.etag:
        if receipt.etag != existing.etag:
            raise _other(where, f"ETag {receipt.etag}", f"ETag {existing.etag}")
        return replace(existing, described_by="receipt")
    return existing


def _other(where: str, expected: str, actual: str) -> IntegrityError:
    return IntegrityError(
        f"{where} is not the object that the manifest lists: {expected} was published, it has {actual} now. It was "
        "replaced since; export it again, or grab it without the manifest.",
        expected=expected,
        actual=actual,
    )
