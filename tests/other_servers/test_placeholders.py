"""Empty objects that stand for folders, as several tools make them, are left out and counted; empty files arrive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from tests.support.quirky_s3 import QuirkyS3, StoredObject

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("order", ["S3's", "another"])
@pytest.mark.parametrize("page", [1, 1000])
async def test_placeholders_are_left_out(
    open_s3: Callable[..., QuirkyS3], tmp_path: Path, lane: Any, order: str, page: int
) -> None:
    s3 = open_s3(page=page)
    files = {"p/d/x": b"1", "p/d.txt": b"2", "p/e/f/y": b"3", "p/empty": b"", "p/d/none": b"", "p/real_$folder$": b"4"}
    markers = ["p/d", "p/d/", "p/e", "p/e/f", "p/e_$folder$", "p/"]
    s3.objects["tryout"] = {key: StoredObject(body) for key, body in (files | dict.fromkeys(markers, b"")).items()}
    if order == "another":

        def backwards(r: Any) -> Any:
            if r.method != "GET" or r.key:
                return None
            keys = sorted(s3.objects["tryout"], reverse=True)
            entries = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(s3.objects['tryout'][key].body)}</Size></Contents>"
                for key in keys
            )
            return 200, {}, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

        s3.quirk = backwards
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    found = {f"p/{p.relative_to(tmp_path / 'back')}": p for p in (tmp_path / "back").rglob("*") if p.is_file()}
    assert {key: path.read_bytes() for key, path in found.items()} == files
    assert {skip.key for skip in report.skips} == set(markers)
