"""The journal that a run leaves which was killed in an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncsink.journal.sqlite import open_journal
from asyncsink.model import SourceFile, UploadCompleting, UploadCreating, UploadOpened
from asyncsink.options.parse import parse_options

PART_SIZE_BYTES = 5 << 20


async def killed_in_an_upload(
    bucket: str,
    file: Path,
    options: dict[str, Any],
    key: str,
    *,
    upload_id: str = "",
    completing: bool = False,
    algorithm: str = "CRC64NVME",
) -> None:
    """Write it: `file` was being uploaded as `key`; without an `upload_id`, its begin was not answered."""
    settings = parse_options(f"s3://{bucket}/p", options)
    journal = await open_journal(
        settings.journal,
        settings.target,  # type: ignore[arg-type]
        endpoint_url=options["endpoint_url"],
        objects=settings.objects,
        algorithm=settings.policies.algorithm,
        notice=print,
    )
    assert journal is not None
    found = file.stat()
    source = SourceFile(str(file), found.st_size, found.st_mtime_ns, ctime_ns=found.st_ctime_ns, inode=found.st_ino)
    await journal.step(
        UploadCreating(key, source, PART_SIZE_BYTES, None if algorithm == "none" else algorithm, "t" * 32)
    )
    if upload_id:
        await journal.step(UploadOpened(key, upload_id))
    if completing:
        await journal.step(UploadCompleting(key))
    await journal.aclose()
