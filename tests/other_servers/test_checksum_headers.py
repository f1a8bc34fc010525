"""Servers that refuse checksum headers are published to, verified and grabbed from all the same, and told of once."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.maintenance.verify import verify_manifest
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject, error

pytestmark = pytest.mark.anyio
OpenS3 = Callable[..., QuirkyS3]
MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def refuses(status: int, code: str, *, mode: bool = False) -> Callable[[Request], Answer | None]:
    """Refuses requests with a checksum header; with `mode`, those that ask for checksums too."""

    def quirk(r: Request) -> Answer | None:
        bad = [name for name in r.headers if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))]
        bad = [name for name in bad if mode or name != "x-amz-checksum-mode"]
        return error(status, code, f"Header '{bad[0]}' not implemented") if bad else None

    return quirk


def tree(directory: Path, files: int = 40, large_bytes: int = 9 * MIB) -> Path:
    directory.mkdir()
    for number in range(files):
        (directory / f"f{number:03}.txt").write_text(f"content {number}")
    if large_bytes:
        (directory / "large.bin").write_bytes(os.urandom(large_bytes))
    return directory


def refused(s3: QuirkyS3) -> list[Request]:
    return [
        r for r in s3.log if r.method in {"PUT", "POST"} and any(n.startswith("x-amz-checksum-") for n in r.headers)
    ]


REFUSALS = [(501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest")]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
async def test_a_refused_header_costs_no_file(
    open_s3: OpenS3, tmp_path: Path, lane: Any, status: int, code: str
) -> None:
    s3 = open_s3(refuses(status, code), checksums=False)
    source = tree(tmp_path / "source")
    report = await asyncsink.export_directory(source, "s3://tryout/p", transport=lane, journal=False)
    assert not report.failures
    assert {receipt.confirmed_by for receipt in report.receipts} == {"etag"}
    assert s3.bodies() == {f"p/{path.name}": path.read_bytes() for path in source.iterdir()}
    assert len([notice for notice in report.notices if "Content-MD5" in notice]) == len(report.notices) == 1
    first = len(refused(s3))
    again = await asyncsink.export_directory(source, "s3://tryout/q", transport=lane, journal=False)
    assert not again.failures
    # Of all the requests that were on their way at first, each was refused once; none after the first answer.
    assert first <= 64
    assert all("content-md5" in r.headers for r in s3.requests("PUT") if r not in refused(s3))


async def test_parts_alone_refused(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    s3 = open_s3(lambda r: refuses(501, "NotImplemented")(r) if "uploadId" in r.query else None, checksums=False)
    source = tree(tmp_path / "source", files=0, large_bytes=20 * MIB)
    report = await asyncsink.export_directory(source, "s3://tryout/p", transport=lane, journal=False)
    assert not report.failures
    assert s3.bodies()["p/large.bin"] == (source / "large.bin").read_bytes()
    assert {receipt.confirmed_by for receipt in report.receipts} == {"etag"}


@pytest.mark.parametrize("status", [400, 501])
async def test_a_refused_mode_leaves_rerun_verify_and_grab(
    open_s3: OpenS3, tmp_path: Path, lane: Any, status: int
) -> None:
    s3 = open_s3(refuses(status, "InvalidArgument", mode=True), checksums=False)
    source, manifest = tree(tmp_path / "source"), tmp_path / "m.jsonl"
    options: dict[str, Any] = {"transport": lane, "journal": False}
    first = await asyncsink.export_directory(source, "s3://tryout/p", manifest=manifest, **options)
    assert not first.failures
    again = await asyncsink.export_directory(source, "s3://tryout/p", **options)
    assert not again.failures
    assert len(again.skips) == len(first.receipts)
    verified = await verify_manifest(manifest)
    assert verified.ok, verified.problems
    back = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not back.failures
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir() if p.is_file()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    looks = [r for r in s3.log if r.method in {"GET", "HEAD"} and "x-amz-checksum-mode" in r.headers]
    assert len(looks) <= 3 * 64


@pytest.mark.parametrize("where", ["environment", "profile"])
async def test_when_required_sends_none(
    open_s3: OpenS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: Any, where: str
) -> None:
    s3 = open_s3(checksums=False)
    if where == "environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")
    else:
        (tmp_path / "config").write_text(
            "[default]\nrequest_checksum_calculation = when_required\nresponse_checksum_validation = when_required\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    source = tree(tmp_path / "source")
    for expected in (41, 0):
        report = await asyncsink.export_directory(source, "s3://tryout/p", transport=lane, journal=False)
        assert not report.failures
        assert not report.notices
        assert len(report.receipts) == expected
    back = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not back.failures
    assert not [r for r in s3.log if any("checksum" in name for name in r.headers)]


async def test_a_named_checksum_goes_before_the_environment(
    open_s3: OpenS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: Any
) -> None:
    s3 = open_s3()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    source = tree(tmp_path / "source", files=2, large_bytes=0)
    report = await asyncsink.export_directory(source, "s3://tryout/p", transport=lane, journal=False, checksum="SHA256")
    assert not report.failures
    assert all("x-amz-checksum-sha256" in r.headers for r in s3.requests("PUT"))


async def test_a_setting_that_is_none_is_refused(
    open_s3: OpenS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: Any
) -> None:
    s3 = open_s3()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "never")
    source = tree(tmp_path / "source", files=1, large_bytes=0)
    with pytest.raises(asyncsink.ConfigError, match=r"AWS_REQUEST_CHECKSUM_CALCULATION.*'never'.*when_required"):
        await asyncsink.export_directory(source, "s3://tryout/p", transport=lane, journal=False)
    assert not s3.log


async def test_another_refusal_stays_what_it_is(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    """A storage class that the server does not have stops the run, and is told as what it is."""

    def quirk(r: Request) -> Answer | None:
        return error(400, "InvalidStorageClass", "no such class") if r.method == "PUT" else None

    s3 = open_s3(quirk)
    source = tree(tmp_path / "source", files=60, large_bytes=0)
    report = await asyncsink.export_directory(
        source, "s3://tryout/p", transport=lane, journal=False, storage_class="ODD"
    )
    assert "InvalidStorageClass" in report.stop_reason
    assert all("InvalidStorageClass" in failure.message for failure in report.failures)
    assert not [notice for notice in report.notices if "Content-MD5" in notice]
    assert len(s3.requests("PUT")) <= 60 + 8


# -- Servers that ignore ranges, or unzip objects on the way: what is grabbed and read back is what is stored ----------


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
