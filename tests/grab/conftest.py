"""What the tests of grabs share: options that reach the test server, and a look at what lies in a directory."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer


@pytest.fixture
def options(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url}


@pytest.fixture
def put(s3: Any, bucket: str) -> Callable[..., None]:
    """Store objects with boto3: {key: bytes}."""

    def store(objects: dict[str, bytes], **given: Any) -> None:
        for key, body in objects.items():
            if body:
                s3.put_object(Bucket=bucket, Key=key, Body=body, **given)
                continue
            # After an empty body, boto3 and this server wait for each other for a minute on the kept connection.
            kind = "application/octet-stream"
            named = {"Bucket": bucket, "Key": key, "ContentType": kind}
            url = s3.generate_presigned_url("put_object", Params=named)
            request = urllib.request.Request(url, data=b"", method="PUT", headers={"Content-Type": kind})
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200

    return store


@pytest.fixture
def put_in_parts(s3: Any, bucket: str) -> Callable[..., None]:
    """Store an object with boto3 in parts of 5 MiB, with or without a checksum of the whole."""

    def store(key: str, body: bytes, *, checksum: bool = True, part_bytes: int = 5 << 20) -> None:
        extra = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if checksum else {}
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **extra)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), part_bytes), 1):
            piece = body[start : start + part_bytes]
            given = {"ChecksumAlgorithm": "CRC64NVME"} if checksum else {}
            stored = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece, **given)
            told = {"ChecksumCRC64NVME": stored["ChecksumCRC64NVME"]} if "ChecksumCRC64NVME" in stored else {}
            parts.append({"PartNumber": number, "ETag": stored["ETag"], **told})
        s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})

    return store


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a directory, hidden ones included: {path: bytes}."""

    def read(directory: Path) -> dict[str, bytes]:
        found = {}
        for folder, _, names in os.walk(directory):
            for name in names:
                path = Path(folder, name)
                found[path.relative_to(directory).as_posix()] = path.read_bytes()
        return found

    return read
