"""What the null server remembers (keys and sizes, never bytes), and its answers to everything that is not hot.

No signature is checked.
"""

from __future__ import annotations

import json
import resource
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from benchmarks.null_answers import (
    Answer,
    Request,
    Stored,
    checksum_lines,
    contents,
    error,
    object_headers,
    part,
    tags,
    xml,
    zeros_of,
)

STATS_TARGET = "/-/stats"
RESET_TARGET = "/-/reset"


@dataclass(slots=True)
class Upload:
    """A multipart upload under way."""

    path: str
    parts: dict[int, Stored] = field(default_factory=dict)


class NullStore:
    """The state of one null server; one thread only."""

    def __init__(self) -> None:
        self._uploads_made = 0
        self.reset()

    def reset(self, zeros: Mapping[str, int] | None = None) -> None:
        """Forget everything, as a fresh server; then have objects of zeros ({path: size}), which can be read."""
        described = {size: zeros_of(size) for size in set((zeros or {}).values())}
        self.objects: dict[str, Stored] = {path: described[size] for path, size in (zeros or {}).items()}
        self.readable = frozenset(self.objects)
        self.gets = 0
        self._uploads: dict[str, Upload] = {}
        self.puts = self.parts = self.bytes_received = self.others = 0
        self.checks: Counter[bytes] = Counter()
        self._cpu_before = _cpu_seconds()

    # -- hot ----------------------------------------------------------------------------------------------------

    def put(self, target: str, stored: Stored) -> bool:
        """Remember an object or a part; False for a part of an upload that does not exist."""
        path, _, query = target.partition("?")
        if "%" in path:
            path = unquote(path)
        self.bytes_received += stored.size_bytes
        if "partNumber=" not in query:
            self.puts += 1
            self.objects[path] = stored
            return True
        given = dict(parse_qsl(query))
        upload = self._uploads.get(given.get("uploadId", ""))
        if upload is None or not given["partNumber"].isdigit():
            return False
        self.parts += 1
        upload.parts[int(given["partNumber"])] = stored
        return True

    def get(self, target: str) -> Stored | None:
        """An object that can be read, or None."""
        path = target.partition("?")[0]
        if "%" in path:
            path = unquote(path)
        if path not in self.readable:
            return None
        self.gets += 1
        return self.objects.get(path)

    # -- everything else ----------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """The answer to a request that stores no bytes."""
        raw_path, _, query = request.target.partition("?")
        path, given = unquote(raw_path), dict(parse_qsl(query, keep_blank_values=True))
        if path == STATS_TARGET:
            return Answer("200 OK", body=json.dumps(self._stats()).encode())
        if path == RESET_TARGET:
            self.reset(json.loads(request.body or b"{}"))
            return Answer("200 OK")
        self.others += 1
        bucket, _, key = path[1:].partition("/")
        if key:
            return self._of_object(request, path, key, given)
        return self._of_bucket(request.method, bucket, given)

    def _stats(self) -> dict[str, object]:
        return {
            "puts": self.puts,
            "gets": self.gets,
            "parts": self.parts,
            "objects": len(self.objects),
            "bytes_received": self.bytes_received,
            "bytes_stored": sum(stored.size_bytes for stored in self.objects.values()),
            "other_requests": self.others,
            "open_uploads": len(self._uploads),
            "checks": {name.decode("latin-1").lower(): count for name, count in self.checks.items()},
            "cpu_seconds": _cpu_seconds() - self._cpu_before,
        }

    def _of_object(self, request: Request, path: str, key: str, given: dict[str, str]) -> Answer:
        method, upload_id = request.method, given.get("uploadId", "")
        if method == "HEAD":
            found = self.objects.get(path)
            return Answer("404 Not Found") if found is None else Answer("200 OK", object_headers(found))
        if method == "POST" and "uploads" in given:
            self._uploads_made += 1
            upload_id = f"upload-{self._uploads_made:08d}"
            self._uploads[upload_id] = Upload(path)
            bucket = path[1:].partition("/")[0]
            return xml("InitiateMultipartUploadResult", tags(Bucket=bucket, Key=key, UploadId=upload_id))
        if upload_id:
            upload = self._uploads.get(upload_id)
            if upload is None:
                return error("404 Not Found", "NoSuchUpload")
            if method == "POST":
                return self._complete(request, upload_id, upload)
            if method == "DELETE":
                del self._uploads[upload_id]
                return Answer("204 No Content")
            return xml("ListPartsResult", "".join(part(number, upload.parts[number]) for number in upload.parts))
        if method == "DELETE":
            self.objects.pop(path, None)
            return Answer("204 No Content")
        # The bytes are gone: whoever asks for them must not take an answer for proof.
        return error("501 Not Implemented", "NotImplemented")

    def _complete(self, request: Request, upload_id: str, upload: Upload) -> Answer:
        named = request.body.count(b"<PartNumber>")
        if not upload.parts or named != len(upload.parts):
            return error("400 Bad Request", "InvalidPart")
        del self._uploads[upload_id]
        size = sum(stored.size_bytes for stored in upload.parts.values())
        checksums = checksum_lines(request.head, request.head.lower())
        etag = f'"{"0" * 32}-{named}"'
        self.objects[upload.path] = Stored(size, etag.encode(), checksums)
        bucket, _, key = upload.path[1:].partition("/")
        elements = tags(Location=upload.path, Bucket=bucket, Key=key, ETag=etag)
        for line in checksums.decode("latin-1").splitlines():
            name, _, value = line.partition(":")
            kind = name.lower().removeprefix("x-amz-checksum-").upper()
            elements += tags(**{"ChecksumType" if kind == "TYPE" else f"Checksum{kind}": value.strip()})
        return xml("CompleteMultipartUploadResult", elements)

    def _of_bucket(self, method: str, bucket: str, given: dict[str, str]) -> Answer:
        if method == "DELETE":
            return Answer("204 No Content")
        if method in ("HEAD", "PUT"):
            return Answer("200 OK", b"x-amz-bucket-region: us-east-1\r\n")
        if not bucket:
            return xml("ListAllMyBucketsResult", "<Buckets/>")
        if "location" in given:
            return xml("LocationConstraint", "")
        if "uploads" in given:
            return xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
        return self._list(bucket, given)

    def _list(self, bucket: str, given: dict[str, str]) -> Answer:
        """One page of ListObjects (marker) or ListObjectsV2 (continuation-token, start-after)."""
        prefix, delimiter = given.get("prefix", ""), given.get("delimiter", "")
        limit = min(int(given.get("max-keys", "1000")), 1000)
        after = given.get("continuation-token") or given.get("start-after") or given.get("marker") or ""
        encode = quote if given.get("encoding-type") == "url" else str
        start = f"/{bucket}/"
        keys = sorted(path[len(start) :] for path in self.objects if path.startswith(start + prefix))
        entries: dict[str, str] = {}
        last, truncated = "", False
        for key in keys[bisect_right(keys, after) :]:
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            group = key[: cut + len(delimiter)] if cut >= 0 else ""
            if group and (group in entries or (after and after.startswith(group))):
                last = key
                continue
            if len(entries) == limit:
                truncated = True
                break
            entries[group or key] = (
                f"<CommonPrefixes>{tags(Prefix=encode(group))}</CommonPrefixes>"
                if group
                else contents(encode(key), self.objects[start + key])
            )
            last = key
        about = tags(Name=bucket, Prefix=encode(prefix), KeyCount=str(len(entries)), MaxKeys=str(limit))
        about += f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
        if truncated:
            about += tags(NextContinuationToken=last, NextMarker=encode(last))
        if "encoding-type" in given:
            about += tags(EncodingType=given["encoding-type"])
        return xml("ListBucketResult", about + "".join(entries.values()))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
