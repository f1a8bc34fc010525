"""What a run left on SeaweedFS, compared with the files by boto3, which no contender shares its state with."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from benchmarks.lineup.scenarios import DATA, MIB, DataSet
from benchmarks.servers.running import RunningServer

_THREADS = 16
_WHOLE_BYTES_MAX = 32 * MIB
_RANGES_PER_LARGE_FILE = 16
A = TypeVar("A")


def reader_of(server: RunningServer) -> Any:
    """A boto3 client of the server."""
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=_THREADS),
    )


def list_bucket(client: Any, bucket: str) -> dict[str, tuple[int, str]]:
    """{key: (size, ETag without quotes)} of everything in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {
        entry["Key"]: (entry["Size"], entry["ETag"].strip('"')) for page in pages for entry in page.get("Contents", ())
    }


def verify(
    client: Any, bucket: str, found: dict[str, tuple[int, str]], data: DataSet, *, content_objects_max: int | None
) -> tuple[str, list[str]]:
    """Compare every key and size, and the content: read back, whole up to 32 MiB, beyond that in ranges.

    Args:
        found: from `list_bucket`.
        content_objects_max: how many objects are read back (a seeded sample); None is all. The MD5 that the server
            computed while it stored an object (its ETag) is compared for every object that has one.

    Returns:
        What was compared, as a phrase, and the differences (empty where there are none).
    """
    wanted = {f"{DATA}/{member.path}": member.size_bytes for member in data.members}
    problems = [f"{key} is missing" for key in wanted.keys() - found.keys()]
    problems += [f"{key} should not be there" for key in found.keys() - wanted.keys()]
    common = sorted(wanted.keys() & found.keys())
    sizes = ((key, found[key][0], wanted[key]) for key in common)
    problems += [f"{key} has {there} bytes, not {size}" for key, there, size in sizes if there != size]
    sample = common
    if content_objects_max is not None and len(common) > content_objects_max:
        sample = sorted(random.Random(0).sample(common, content_objects_max))
    folder = data.directory.parent

    def by_md5(key: str) -> str:
        etag = found[key][1]
        path = folder / key
        if len(etag) != 32 or path.stat().st_size > _WHOLE_BYTES_MAX:
            return ""
        same = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == etag
        return "" if same else f"{key} has another MD5"

    def by_content(key: str) -> str:
        return "" if all(_ranges_equal(client, bucket, key, folder / key)) else f"{key} has other content"

    problems += _all(by_md5, common) + _all(by_content, sample)
    return f"keys and sizes of all, MD5 where the server has it, content of {len(sample):,}", sorted(problems)


def _all(check: Callable[[A], str], items: Iterable[A]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as threads:
        return [problem for problem in threads.map(check, items) if problem]


def _ranges_equal(client: Any, bucket: str, key: str, path: Path) -> Iterable[bool]:
    size = path.stat().st_size
    if size <= _WHOLE_BYTES_MAX:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        yield body == path.read_bytes()
        return
    chance = random.Random(key)
    offsets = [0, size - MIB, *(chance.randrange(size - MIB) for _ in range(_RANGES_PER_LARGE_FILE - 2))]
    with path.open("rb") as file:
        for offset in offsets:
            wanted = f"bytes={offset}-{offset + MIB - 1}"
            body = client.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].read()
            file.seek(offset)
            yield body == file.read(MIB)
