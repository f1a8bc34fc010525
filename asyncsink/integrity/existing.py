"""What is known about the object that is stored under a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from asyncsink.model import ChecksumAlgorithm
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What is stored under a key now.

    Attributes:
        size_bytes: of the object.
        etag: without quotes, or "" (local files).
        modified: timezone-aware, or None.
        checksums: full-object checksums that are known, by algorithm, base64.
        looked_closely: True after a HEAD (or a read): there is nothing more to learn from the destination.
        part_size_bytes: size of the first part of a multipart object, or None where unknown.
        etag_is_md5: False where encryption makes the ETag something else (SSE-KMS, SSE-C).
        outdated: why it has to be replaced although its bytes may be the same ("encryption differs"), or "".
        keeps_mtime: True where `modified` is the source's own time (local copies keep it), not the time of storing.
    """

    size_bytes: int
    etag: str = ""
    modified: datetime | None = None
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    looked_closely: bool = False
    part_size_bytes: int | None = None
    etag_is_md5: bool = True
    keeps_mtime: bool = False
    outdated: str = ""
