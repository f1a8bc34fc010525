"""What a reader gives: entries of a listing, the answer of a HEAD, and content with its proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEntry:
    """One object of a listing (S3 API, ListObjectsV2).

    Attributes:
        key: below the reader's prefix: what `get` takes.
        size_bytes: of its content.
        etag: without quotes, or "".
        modified: when it was stored, timezone-aware, or None.
    """

    key: str
    size_bytes: int
    etag: str = ""
    modified: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What S3 tells of one object (S3 API, HeadObject).

    Attributes:
        key: below the reader's prefix.
        size_bytes: of its content.
        etag: without quotes, or "".
        modified: when it was stored, timezone-aware, or None.
        content_type: media type, or "".
        metadata: user metadata, lower-case names.
        checksums: every checksum that S3 has, by algorithm, base64.
        composite: whether these are checksums of part checksums.
        version_id, storage_class: or "" ("" is also the class STANDARD).
        sse: "AES256", "aws:kms", …, "customer" for a customer key (SSE-C), or "".
    """

    key: str
    size_bytes: int
    etag: str = ""
    modified: datetime | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    composite: bool = False
    version_id: str = ""
    storage_class: str = ""
    sse: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectContent:
    """The content of an object, or a range of it, with what proves it.

    Attributes:
        key: below the reader's prefix.
        data: the bytes.
        start: position of the first of them in the object.
        size_bytes: of the whole object.
        etag: without quotes, or "". As `etag=` of a later call it makes sure that the object is still this one.
        version_id: or "".
        checksum: S3's, with which the bytes were compared, or None.
        confirmed_by: what proves a whole object: "server-checksum", "etag" (an MD5), or "size" where S3 has neither.
            "nothing" for a range, of which S3 has no checksum.
    """

    key: str
    data: bytes
    start: int
    size_bytes: int
    etag: str = ""
    version_id: str = ""
    checksum: Checksum | None = None
    confirmed_by: ConfirmedBy = "nothing"
