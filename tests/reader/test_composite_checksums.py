"""Objects in parts of which S3 has a checksum of part checksums only, and an ETag that proves nothing (SSE-KMS)."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import pytest

import asyncsink
from asyncsink.integrity.checksums import checksum_of, composite
from asyncsink.options.settings import MIB
from tests.support.quirky_s3 import QuirkyS3, Request, StoredObject

pytestmark = pytest.mark.anyio
PART = 5 * MIB
DATA = os.urandom(2 * PART + 100)


def described(data: bytes, parts: list[bytes]) -> dict[str, str]:
    whole = composite("SHA256", [checksum_of(part, "SHA256") for part in parts])
    return {
        "ETag": f'"{hashlib.md5(b"not its MD5").hexdigest()}-{len(parts)}"',
        "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
        "x-amz-checksum-sha256": whole.value,
        "x-amz-checksum-type": "COMPOSITE",
        "x-amz-server-side-encryption": "aws:kms",
    }


@pytest.mark.parametrize("given", [DATA, DATA[:-1] + bytes([DATA[-1] ^ 1])], ids=["right", "damaged"])
@pytest.mark.parametrize("size", [len(DATA), 1000])
async def test_they_are_proven(server: QuirkyS3, given: bytes, size: int) -> None:
    right = DATA if size == len(DATA) else DATA[-size:]
    data = given if size == len(DATA) else given[-size:]
    parts = [right[start : start + PART] for start in range(0, size, PART)]

    def answer(request: Request) -> Any:
        if not request.key:
            return None
        headers = described(right, parts)
        if request.method == "HEAD":
            number = request.query.get("partNumber")
            length = len(parts[int(number) - 1]) if number else size
            return 200, {**headers, "Content-Length": str(length), "x-amz-mp-parts-count": str(len(parts))}, b""
        wanted = re.match(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if wanted is None:
            return 200, headers, data
        first, last = int(wanted[1]), min(int(wanted[2]), size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, headers, data[first : last + 1]

    server.quirk = answer
    server.objects["tryout"] = {"k": StoredObject(b"")}
    async with asyncsink.S3Reader("s3://tryout", endpoint_url=server.url) as reader:
        if data == right:
            content = await reader.get_object("k")
            assert (content.data == data, content.confirmed_by) == (True, "server-checksum")
            stream = reader.stream("k")
            assert b"".join([chunk async for chunk in stream]) == data
            assert (stream.confirmed_by, stream.checksum) == ("server-checksum", content.checksum)
            return
        with pytest.raises(asyncsink.IntegrityError, match="SHA256"):
            await reader.get("k")
        with pytest.raises(asyncsink.IntegrityError, match="SHA256"):
            async for _ in reader.stream("k"):
                pass
