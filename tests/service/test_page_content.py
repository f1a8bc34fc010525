"""The section of the guide's page about services on content without files."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import asyncsink
from tests.support.guide import example
from tests.support.streams import PART_BYTES, body_of, pieces

pytestmark = pytest.mark.anyio


async def test_content_without_files(
    bucket: str, stored: Callable[[], dict[str, bytes]], options: dict[str, Any]
) -> None:
    page, data = example("service.md", "Content without files"), body_of(6 << 20)

    async def lines() -> AsyncIterator[str]:
        for number in range(100):
            yield f"{number}\n"

    whole = "".join([line async for line in lines()]).encode()
    async with asyncsink.AsyncSink(f"s3://{bucket}", part_size_bytes=PART_BYTES, **options) as sink:
        assert (await page.summarize(sink, "sub-01", "<p>fine</p>")).key == "sub-01/qc/summary.html"
        md5 = hashlib.md5(data).digest()
        assert await page.receive(sink, "raw/scan.dcm", pieces(data), md5) == len(data)
        with pytest.raises(asyncsink.IntegrityError):
            await page.receive(sink, "raw/other.dcm", pieces(data + b"x"), md5)
        assert await page.log(sink, lines()) == f"s3://{bucket}/log.txt {hashlib.md5(whole).hexdigest()}"
    assert stored() == {"sub-01/qc/summary.html": b"<p>fine</p>", "raw/scan.dcm": data, "log.txt": whole}
