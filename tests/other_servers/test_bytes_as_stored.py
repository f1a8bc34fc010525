"""Servers that ignore ranges, or unzip objects on the way: what is grabbed and read back is what is stored."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.maintenance.verify import verify_manifest
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject

pytestmark = pytest.mark.anyio
OpenS3 = Callable[..., QuirkyS3]
MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ignore_ranges(r: Request) -> Answer | None:
    r.headers.pop("range", None)
    return None


def chunked(s3: QuirkyS3) -> Callable[[Request], Answer | None]:
    """Ignores ranges, and does not say how long the object is."""

    def quirk(r: Request) -> Answer | None:
        if r.method != "GET" or not r.key:
            return None
        stored = s3.objects["tryout"][r.key]
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in _pieces(stored.body)) + b"0\r\n\r\n"
        return 200, {"ETag": stored.etag, "Transfer-Encoding": "chunked"}, body

    return quirk


def _pieces(body: bytes) -> list[bytes]:
    return [body[at : at + 65536] for at in range(0, len(body), 65536)]


@pytest.mark.parametrize("how", ["with a length", "chunked"])
async def test_a_large_object_is_read_in_one_piece(open_s3: OpenS3, tmp_path: Path, lane: Any, how: str) -> None:
    s3 = open_s3(ignore_ranges)
    if how == "chunked":
        s3.quirk = chunked(s3)
    bodies = {"small": b"1", "big": os.urandom(20 * MIB), "bigger": os.urandom(21 * MIB + 1)}
    s3.objects["tryout"] = {f"p/{name}": StoredObject(body) for name, body in bodies.items()}
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir()} == bodies


async def test_a_large_object_is_read_back_in_one_piece(open_s3: OpenS3, tmp_path: Path) -> None:
    s3 = open_s3(ignore_ranges)
    source, manifest = tmp_path / "source", tmp_path / "m.jsonl"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_bytes(os.urandom(20 * MIB))
    await asyncsink.export_directory(source, "s3://tryout/p", manifest=manifest, journal=False)
    good = await verify_manifest(manifest, read_back=True)
    assert good.ok, good.problems
    assert good.confirmed_by == {"read-back": 2}
    stored = s3.objects["tryout"]["p/b"]
    stored.body = b"!" + stored.body[1:]
    bad = await verify_manifest(manifest, read_back=True)
    assert [problem[1] for problem in bad.problems] == ["s3://tryout/p/b"]


async def test_an_object_replaced_meanwhile_is_no_success(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    s3 = open_s3()
    other = os.urandom(20 * MIB)

    def replaced(r: Request) -> Answer | None:
        return (200, {"ETag": '"other"'}, other) if r.method == "GET" and r.key else None

    s3.quirk = replaced
    s3.objects["tryout"]["p/big"] = StoredObject(os.urandom(20 * MIB))
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert len(report.failures) == 1
    assert not (tmp_path / "back" / "big").exists()


@pytest.mark.parametrize("size", [12_000, 40 * MIB])
async def test_an_unzipping_server_gives_what_is_stored(open_s3: OpenS3, tmp_path: Path, lane: Any, size: int) -> None:
    raw = os.urandom(size // 4) * 4
    zipped = gzip.compress(raw, compresslevel=1)
    s3 = open_s3()

    def unzips(r: Request) -> Answer | None:
        if r.method in {"GET", "HEAD"} and r.key and "gzip" not in r.headers.get("accept-encoding", ""):
            headers = {"ETag": s3.objects["tryout"][r.key].etag, "Warning": "214 UploadServer gunzipped"}
            return 200, {**headers, "Content-Length": str(len(raw))}, raw if r.method == "GET" else b""
        return None

    s3.quirk = unzips
    s3.objects["tryout"]["p/participants.tsv"] = StoredObject(zipped, {"Content-Encoding": "gzip"})
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert (tmp_path / "back" / "participants.tsv").read_bytes() == zipped
