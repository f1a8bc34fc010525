"""The files of the kill runs, and what a bucket has of them, read by boto3."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from asyncsink.options.settings import KIB, MIB

PART_BYTES: Final = 5 * MIB
SMALL_FILES: Final = 150
_READERS: Final = 8

Files = Mapping[str, bytes]


def make_tree(directory: Path, seed: int) -> Files:
    """Write the files below `directory`, and return {path: content}: small ones, whole ones of some MiB that a thread
    sends, and three of 3 to 6 parts, the last of one byte."""
    dice = random.Random(f"tree {seed}")
    sizes = {f"sub-{n % 10:02}/func/small-{n:03}.json": dice.randrange(16 * KIB) for n in range(SMALL_FILES)}
    sizes |= {"sub-00/empty.txt": 0, "sub-01/byte.txt": 1}
    sizes |= {f"sub-{n:02}/anat/whole-{n}.nii": 2 * MIB + dice.randrange(MIB) for n in range(3)}
    sizes |= {
        "sub-00/func/bold-0.nii.gz": 3 * PART_BYTES - dice.randrange(MIB),
        "sub-04/func/bold-1.nii.gz": 4 * PART_BYTES,
        "sub-07/func/bold-2.nii.gz": 5 * PART_BYTES + 1,
    }
    files = {path: dice.randbytes(size) for path, size in sizes.items()}
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return files


@dataclass(slots=True)
class Found:
    """What is not as it should be below a prefix: objects with other bytes, without an object, without a source, and
    multipart uploads that are open still."""

    wrong: int = 0
    missing: int = 0
    extra: int = 0
    open_uploads: int = 0

    def __iadd__(self, other: Found) -> Found:
        for name, number in asdict(other).items():
            setattr(self, name, getattr(self, name) + number)
        return self

    def __bool__(self) -> bool:
        return any(asdict(self).values())


def compare(client: Any, bucket: str, prefix: str, files: Files) -> Found:
    """Read every object below `prefix`, and list the open uploads. Blocking."""
    keys = {key.removeprefix(prefix) for key in keys_below(client, bucket, prefix)}

    def differs(path: str) -> bool:
        body: bytes = client.get_object(Bucket=bucket, Key=prefix + path)["Body"].read()
        return body != files[path]

    with ThreadPoolExecutor(_READERS) as threads:
        wrong = sum(threads.map(differs, sorted(keys & files.keys())))
    uploads = uploads_below(client, bucket, prefix)
    return Found(wrong, len(files.keys() - keys), len(keys - files.keys()), len(uploads))


def keys_below(client: Any, bucket: str, prefix: str) -> list[str]:
    """All keys that begin with `prefix`. Blocking."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def uploads_below(client: Any, bucket: str, prefix: str) -> list[str]:
    """The keys of open uploads that begin with `prefix`. Blocking."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    keys = [upload["Key"] for page in pages for upload in page.get("Uploads", ())]
    return [key for key in keys if key.startswith(prefix)]
