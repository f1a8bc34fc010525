"""What a reader gives: entries of a listing, also by folder, the answer of a HEAD, and content with its proof."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
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


# -- A listing by folder -----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class FolderEntry:
    """The objects of a listing that are in one folder of the first level, or in folders below it.

    Attributes:
        key: of the folder, with its "/".
        objects_total: number of objects, without those that only stand for a folder.
        size_bytes: sum over these objects.
        modified: when the newest of them was stored, timezone-aware, or None.
    """

    key: str
    objects_total: int = 0
    size_bytes: int = 0
    modified: datetime | None = None

    def add(self, entry: ObjectEntry) -> None:
        """Add an object of this folder."""
        if entry.key.endswith("/") and not entry.size_bytes:
            return
        self.objects_total += 1
        self.size_bytes += entry.size_bytes
        if entry.modified is not None and (self.modified is None or entry.modified > self.modified):
            self.modified = entry.modified


async def in_folders(entries: AsyncIterator[ObjectEntry]) -> AsyncIterator[ObjectEntry | FolderEntry]:
    """The objects that are in no folder, and in the place of the others their folders of the first level.

    One folder is in memory at a time. S3 lists the objects of a folder one after another; on a server that does not, a
    folder comes once for each run of its objects.
    """
    folder: FolderEntry | None = None
    async for entry in entries:
        name, slash, _ = entry.key.partition("/")
        key = name + slash
        if folder is not None and folder.key != key:
            yield folder
            folder = None
        if not slash:
            yield entry
            continue
        folder = FolderEntry(key=key) if folder is None else folder
        folder.add(entry)
    if folder is not None:
        yield folder
