"""An S3 in memory whose answers a test can bend, for servers that differ from Amazon's.

It is no stand-in for S3 where S3 is what matters: it checks no signatures. A *quirk* is a function of one request that
returns the answer to give instead of the ordinary one (status, headers, body), `DROP` to close the connection without
an answer, or None for the ordinary answer.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

DROP: Literal["drop"] = "drop"
KEPT_HEADERS = (
    "content-type",
    "content-encoding",
    "cache-control",
    "content-disposition",
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-tagging",
)
COMMAND = Path(sys.executable).parent / "asyncsink"


@dataclass
class StoredObject:
    """What the server keeps of one object. `etag` is made from the body unless given."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    modified: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.etag = self.etag or f'"{hashlib.md5(self.body).hexdigest()}"'


@dataclass(frozen=True)
class Request:
    """One request as it came. `path` has the query; `number` counts from 0."""

    method: str
    path: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    number: int


Answer = tuple[int, dict[str, str], bytes]
Quirk = Callable[[Request], "Answer | Literal['drop'] | None"]


def error(status: int, code: str, message: str = "x", headers: dict[str, str] | None = None) -> Answer:
    """An S3 error document."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>R</RequestId></Error>"
    return status, {"Content-Type": "application/xml", **(headers or {})}, body.encode()


class QuirkyS3:
    """A server on a free port of 127.0.0.1 (or `host`), over TLS with a `certificate` (the path of it and its key).

    `checksums=False` keeps and repeats no checksum; `page` is the number of keys of one page of a listing;
    `encode=False` ignores encoding-type; `suffix` makes it understand buckets in the host's name (`bucket.SUFFIX`).
    """

    def __init__(
        self,
        quirk: Quirk | None = None,
        *,
        buckets: Sequence[str] = ("tryout",),
        certificate: str = "",
        checksums: bool = True,
        host: str = "127.0.0.1",
        encode: bool = True,
        page: int = 1000,
        suffix: str | None = None,
    ) -> None:
        self.quirk = quirk
        self.objects: dict[str, dict[str, StoredObject]] = {bucket: {} for bucket in buckets}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.log: list[Request] = []
        self.checksums, self.encode, self.page, self.suffix = checksums, encode, page, suffix
        self._lock = threading.Lock()
        self._server = _server(self, host)
        self.port = int(self._server.server_address[1])
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if certificate else 'http'}://{shown}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def requests(self, method: str, **query: str) -> list[Request]:
        """The requests so far with this method whose query has all of `query`."""
        with self._lock:
            return [r for r in self.log if r.method == method and query.items() <= r.query.items()]

    def bodies(self, bucket: str = "tryout") -> dict[str, bytes]:
        return {key: stored.body for key, stored in self.objects[bucket].items()}

    def environment(self, home: Path, **more: str | None) -> dict[str, str]:
        """An environment for the command: this server, made-up keys, an empty home. None takes a variable away."""
        names = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
        env: dict[str, str | None] = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") and name.lower() not in names
        }
        env |= {
            "HOME": str(home),
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
        }
        env |= more
        return {name: value for name, value in env.items() if value is not None}

    def answer(self, r: Request) -> Answer | Literal["drop"]:
        """What the request gets: the quirk's answer, or the ordinary one."""
        bent = self.quirk(r) if self.quirk else None
        return self.ordinary(r) if bent is None else bent

    def received(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
        raw, _, rest = target.partition("?")
        if raw.startswith("http://"):  # as a proxy is asked
            raw = "/" + raw.split("/", 3)[3]
        host, path = headers.get("host", "").split(":")[0], unquote(raw)[1:]
        if self.suffix and host.endswith("." + self.suffix):
            bucket, key = host.removesuffix("." + self.suffix), path
        else:
            bucket, _, key = path.partition("/")
        query = {name: values[0] for name, values in parse_qs(rest, keep_blank_values=True).items()}
        with self._lock:
            request = Request(method, target, bucket, key, query, headers, body, len(self.log))
            self.log.append(request)
        return request

    def ordinary(self, r: Request) -> Answer:
        """What an S3 would answer."""
        if r.bucket not in self.objects:
            return error(404, "NoSuchBucket")
        if not r.key:
            return self._bucket(r)
        with self._lock:
            if r.method == "PUT":
                return self._put(r)
            if r.method == "POST":
                return self._post(r)
            if r.method == "DELETE":
                known = self.uploads.pop(r.query["uploadId"], None) if "uploadId" in r.query else None
                if "uploadId" not in r.query:
                    self.objects[r.bucket].pop(r.key, None)
                elif known is None:
                    return error(404, "NoSuchUpload")
                return 204, {}, b""
            if "uploadId" in r.query:
                return self._parts(r)
            return self._get(r)

    def _bucket(self, r: Request) -> Answer:
        if r.method in ("HEAD", "PUT"):
            return 200, {}, b""
        if "location" in r.query:
            return 200, {}, b"<LocationConstraint/>"
        if "uploads" in r.query:
            return self._open_uploads(r)
        return self._list(r) if r.method == "GET" else error(501, "NotImplemented")

    def _put(self, r: Request) -> Answer:
        if "partNumber" in r.query:
            upload = self.uploads.get(r.query["uploadId"])
            if upload is None:
                return error(404, "NoSuchUpload")
            etag = f'"{hashlib.md5(r.body).hexdigest()}"'
            upload["parts"][int(r.query["partNumber"])] = (r.body, etag)
            return 200, {"ETag": etag, **self._checksums(r)}, b""
        if r.headers.get("if-none-match") == "*" and r.key in self.objects[r.bucket]:
            return error(412, "PreconditionFailed")
        stored = self.objects[r.bucket][r.key] = StoredObject(r.body, {**_kept(r), **self._checksums(r)})
        return 200, {"ETag": stored.etag, **self._checksums(r)}, b""

    def _post(self, r: Request) -> Answer:
        if "uploads" in r.query:
            upload_id = f"upload-{r.number}"
            self.uploads[upload_id] = {"key": r.key, "parts": {}, "headers": _kept(r), "started": time.time()}
            return _xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{r.bucket}</Bucket><Key>{escape(r.key)}</Key><UploadId>{upload_id}</UploadId>",
            )
        upload = self.uploads.pop(r.query.get("uploadId", ""), None)
        if upload is None:
            return error(404, "NoSuchUpload")
        parts = [upload["parts"][number] for number in sorted(upload["parts"])]
        digests = hashlib.md5(b"".join(hashlib.md5(body).digest() for body, _ in parts)).hexdigest()
        etag = f'"{digests}-{len(parts)}"'
        headers = {**upload["headers"], **self._checksums(r)}
        self.objects[r.bucket][r.key] = StoredObject(b"".join(body for body, _ in parts), headers, etag)
        return _xml(
            "CompleteMultipartUploadResult",
            f"<Bucket>{r.bucket}</Bucket><Key>{escape(r.key)}</Key><ETag>{escape(etag)}</ETag>",
        )

    def _get(self, r: Request) -> Answer:
        stored = self.objects[r.bucket].get(r.key)
        if stored is None:
            return error(404, "NoSuchKey")
        headers = {
            "ETag": stored.etag,
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            **stored.headers,
        }
        size = len(stored.body)
        if r.method == "HEAD":
            return 200, {**headers, "Content-Length": str(size)}, b""
        if wanted := r.headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or size - 1), size - 1)
            if start >= size:
                return error(416, "InvalidRange")
            return 206, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}, stored.body[start : end + 1]
        return 200, headers, stored.body

    def _list(self, r: Request) -> Answer:
        prefix = r.query.get("prefix", "")
        after = r.query.get("continuation-token") or r.query.get("start-after") or ""
        size = min(int(r.query.get("max-keys", self.page)), self.page)
        with self._lock:
            store = dict(self.objects[r.bucket])
        keys = sorted((k for k in store if k.startswith(prefix) and k.encode() > after.encode()), key=str.encode)
        url = self.encode and r.query.get("encoding-type") == "url"
        rows = "".join(
            f"<Contents><Key>{quote(key, safe='/') if url else escape(key)}</Key>"
            f"<LastModified>{_stamp(store[key].modified)}</LastModified><ETag>{escape(store[key].etag)}</ETag>"
            f"<Size>{len(store[key].body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys[:size]
        )
        more = len(keys) > size
        token = f"<NextContinuationToken>{escape(keys[size - 1])}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if url else ""
        return _xml(
            "ListBucketResult",
            f"<Name>{r.bucket}</Name><Prefix>{quote(prefix, safe='/') if url else escape(prefix)}</Prefix>"
            f"<KeyCount>{len(keys[:size])}</KeyCount><MaxKeys>{size}</MaxKeys>{encoding}"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}",
        )

    def _open_uploads(self, r: Request) -> Answer:
        prefix = r.query.get("prefix", "")
        with self._lock:
            rows = "".join(
                f"<Upload><Key>{escape(upload['key'])}</Key><UploadId>{upload_id}</UploadId>"
                f"<Initiated>{_stamp(upload['started'])}</Initiated></Upload>"
                for upload_id, upload in self.uploads.items()
                if upload["key"].startswith(prefix)
            )
        return _xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{rows}")

    def _parts(self, r: Request) -> Answer:
        upload = self.uploads.get(r.query["uploadId"])
        if upload is None:
            return error(404, "NoSuchUpload")
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag><Size>{len(body)}</Size></Part>"
            for number, (body, etag) in sorted(upload["parts"].items())
        )
        upload_id = f"<UploadId>{r.query['uploadId']}</UploadId>"
        return _xml("ListPartsResult", f"{upload_id}<IsTruncated>false</IsTruncated>{rows}")

    def _checksums(self, r: Request) -> dict[str, str]:
        named = {name: value for name, value in r.headers.items() if name.startswith("x-amz-checksum-")}
        return named if self.checksums else {}


@contextmanager
def quirky_s3(quirk: Quirk | None = None, **how: Any) -> Iterator[QuirkyS3]:
    """A `QuirkyS3` that is closed at the end of the block."""
    server = QuirkyS3(quirk, **how)
    try:
        yield server
    finally:
        server.close()


def run_command(
    *words: object, env: dict[str, str], stdin: bytes = b"", cwd: Path | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """Run the `asyncsink` command of this environment; fails the test when it takes more than `seconds`."""
    return subprocess.run(
        [COMMAND, *(word if isinstance(word, bytes) else str(word) for word in words)],
        env=env,
        input=stdin,
        capture_output=True,
        cwd=cwd,
        timeout=seconds,
        check=False,
    )


def _kept(r: Request) -> dict[str, str]:
    return {name: v for name, v in r.headers.items() if name in KEPT_HEADERS or name.startswith("x-amz-meta-")}


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def _xml(root: str, content: str) -> Answer:
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    body = f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{namespace}">{content}</{root}>'
    return 200, {"Content-Type": "application/xml"}, body.encode()


def _server(s3: QuirkyS3, host: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        # Head and body are two writes: the second would wait 40 ms for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

        def _handle(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length") or 0))
            answer = s3.answer(s3.received(self.command, self.path, headers, body))
            if answer == DROP:
                self.close_connection = True
                return
            status, out, content = answer
            # With a Date and a Server of its own, unless the answer brings a Date.
            (self.send_response_only if "Date" in out else self.send_response)(status)
            for name, value in out.items():
                self.send_header(name, value)
            if not {"Content-Length", "Transfer-Encoding"} & set(out):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """A client that goes away is no error of the server's."""

    if ":" in host:
        import socket

        Server.address_family = socket.AF_INET6
    return Server((host, 0), Handler)
