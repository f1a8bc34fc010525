"""Pure: what the answer to a CompleteMultipartUpload, or the object under its key, proves about what was sent.

Source: S3 User Guide, "Checking object integrity": full-object and composite checksums, and the ETag of multipart
objects (the MD5 of the parts' MD5s).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import etag_md5, multipart_etag
from asyncsink.integrity.sameness import confirm
from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy
from asyncsink.s3.operations import CompletedPart, ObjectHead, ObjectStored


class UploadProof:
    """What one upload has sent.

    Args:
        key: for messages.
        size_bytes: of the whole object.
        algorithm: of the parts' checksums, or None where they had none.
        etag_is_md5: whether a part's ETag is its MD5 (no SSE-KMS, no SSE-C).
        parts: what the server confirmed, by part number; grows meanwhile.
        confirmed: what its answers to the parts proved; likewise.
    """

    def __init__(
        self,
        key: str,
        size_bytes: int,
        algorithm: ChecksumAlgorithm | None,
        etag_is_md5: bool,
        *,
        parts: Mapping[int, CompletedPart],
        confirmed: AbstractSet[ConfirmedBy],
    ) -> None:
        self._key = key
        self._size_bytes = size_bytes
        self._algorithm = algorithm
        self._etag_is_md5 = etag_is_md5
        self._parts = parts
        self._confirmed = confirmed

    def of_answer(self, stored: ObjectStored, full: Checksum | None) -> ConfirmedBy | None:
        """What the answer proves; None where the object has to be looked at.

        Args:
            full: the whole object's checksum, as it was sent, or None.

        Raises:
            IntegrityError: the answer contradicts it.
        """
        if full is not None and stored.checksum is not None and stored.checksum.algorithm == full.algorithm:
            return confirm(sent=full, answered=stored.checksum, etag="", md5_of_body=None, etag_is_md5=False)
        expected = self._expected_etag()
        if expected is not None and stored.etag == expected:
            # Every part's MD5 was compared or sent, and the ETag binds them together in order.
            return "etag"
        return "server-checksum" if full is None and self._parts_are_proved() else None

    def of_object(self, head: ObjectHead, full: Checksum | None) -> ConfirmedBy:
        """What the object under the key proves.

        Raises:
            IntegrityError: it is not what was sent.
        """
        size, answered = self._size_bytes, full and head.checksums.get(full.algorithm)
        if head.size_bytes != size:
            raise self._other(f"{size:,} bytes", f"{head.size_bytes:,} bytes")
        if full is not None and answered is not None and not head.composite:
            if answered != full.value:
                raise self._other(str(full), f"{full.algorithm}:{answered}")
            return "server-checksum"
        if (expected := self._expected_etag()) is not None:
            if head.etag != expected:
                raise self._other(f"ETag {expected}", f"ETag {head.etag}")
            return "etag"
        return "server-checksum" if full is None and self._parts_are_proved() else "size"

    def _parts_are_proved(self) -> bool:
        """The server repeated the checksum of every part, and Complete named them all."""
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
