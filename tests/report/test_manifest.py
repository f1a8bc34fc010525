"""The manifest: what is in it is true and readable, whatever happened to the writer or the disk."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import aiofiles
import pytest

from asyncsink.errors import ConfigError, DestinationFull, JournalError
from asyncsink.model import Checksum, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, ManifestRecord, ManifestWriter, read_manifest
from asyncsink.report.outcomes import encoded

pytestmark = pytest.mark.anyio
HEADER = ManifestHeader(destination="s3://b/p", endpoint_url="http://127.0.0.1:1", region="r", addressing_style="path")
CHECKSUM = Checksum("CRC64NVME", "AAAAAAAAAAA=")
OUTCOMES: list[Outcome] = [
    Receipt("/d/\udc80\n", "p/a", "s3://b/p/a", 5, CHECKSUM, "e", "v", 2, 0.5, "/copy/a", "etag", 3),
    Skip("/d/b", "p/b", "s3://b/p/b", 6, "same checksum", checksum=CHECKSUM, etag="e", entry=4),
    Failure("/d/c", "p/c", "s3://b/p/c", "Stalled", "no byte\x1b moved", "upload", 8, 5),
    Planned("/d/d", "p/d", "s3://b/p/d", 7, "not there", 6),
]


async def write(path: Path, outcomes: list[Outcome], *, interrupted: bool = False) -> None:
    writer = ManifestWriter(path, HEADER)
    await writer.open()
    await writer.write(outcomes)
    await writer.close(interrupted=interrupted)


def partial_of(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def read(path: Path) -> list[ManifestRecord]:
    return list(read_manifest(path).records())


async def test_a_manifest_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path, HEADER)
    await writer.open()
    await writer.write(OUTCOMES[:2])
    await writer.write([])
    await writer.write(encoded(OUTCOMES[2:]))
    await writer.close(interrupted=True)
    await writer.close(interrupted=True)
    path = partial_of(path)
    manifest = read_manifest(path)
    assert manifest.header == HEADER
    *outcomes, end = manifest.records()
    assert outcomes == OUTCOMES
    assert isinstance(end, ManifestEnd)
    assert (end.receipts, end.skips, end.failures, end.planned, end.interrupted) == (1, 1, 1, 1, True)
    assert end.ended >= HEADER.started
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_file_is_ascii_lines_of_json_with_the_documented_names(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    await write(path, OUTCOMES)
    lines = path.read_text("ascii").splitlines()
    assert all(line.isprintable() for line in lines)
    first, receipt, *_, last = map(json.loads, lines)
    assert first["record"] == "run"
    assert first["asyncsink"]
    assert first["started"].endswith("+00:00")
    assert receipt["record"] == "receipt"
    assert receipt["checksum"] == "CRC64NVME:AAAAAAAAAAA="
    assert last["record"] == "end"
    assert last["interrupted"] is False


async def test_what_was_written_is_there_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path, HEADER)
    await writer.open()
    await writer.write(OUTCOMES)
    assert read(partial_of(path)) == OUTCOMES, "no end record, as after a kill"
    await writer.close(interrupted=False)


async def test_a_manifest_may_be_replaced_by_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    await write(path, OUTCOMES * 10)
    path.chmod(0o644)
    await write(path, [])
    assert [type(record) for record in read(path)] == [ManifestEnd]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"voxels", b"\x00\xff" * 99, b'{"record":"receipt"}\n', b"[]\n"])
async def test_a_file_that_is_no_manifest_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="exists and is no manifest"):
        await ManifestWriter(path, HEADER).open()
    assert path.read_bytes() == content


async def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "missing" / "m.jsonl", tmp_path / "file" / "m.jsonl", tmp_path / "fifo"):
        with pytest.raises(ConfigError, match="manifest"):
            await ManifestWriter(path, HEADER).open()
    with pytest.raises(ConfigError, match="no regular file"):
        await ManifestWriter("/dev/null", HEADER).open()


class FullDisk:
    """The writer's file on a disk with `space` bytes left."""

    def __init__(self, file: Any, space: int, fault: int) -> None:
        self.file, self.space, self.fault = file, space, fault

    async def write(self, data: memoryview) -> int:
        if not self.space:
            raise OSError(self.fault, os.strerror(self.fault))
        written: int = await self.file.write(data[: self.space])
        self.space -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("space", [0, 1, 300])
@pytest.mark.parametrize(
    ("fault", "error"), [(errno.ENOSPC, DestinationFull), (errno.EDQUOT, DestinationFull), (errno.EIO, JournalError)]
)
async def test_a_full_disk_leaves_whole_records_only(tmp_path: Path, space: int, fault: int, error: type) -> None:
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path, HEADER)
    await writer.open()
    await writer.write(OUTCOMES[:1])
    disk = FullDisk(writer._file, space, fault)
    writer._file = disk  # type: ignore[assignment]
    with pytest.raises(error, match=f"manifest .* cannot be written: {os.strerror(fault)}"):
        await writer.write(OUTCOMES)
    assert read(partial_of(path)) == OUTCOMES[:1]
    disk.space = 10_000
    await writer.close(interrupted=True)
    *outcomes, end = read(partial_of(path))
    assert outcomes == OUTCOMES[:1]
    assert isinstance(end, ManifestEnd)
    assert end.receipts == 1


async def test_a_disk_that_is_full_at_the_end_still_closes_the_file(tmp_path: Path) -> None:
    writer = ManifestWriter(tmp_path / "manifest.jsonl", HEADER)
    await writer.open()
    file: Any = writer._file
    writer._file = FullDisk(file, 10, errno.ENOSPC)  # type: ignore[assignment]
    with pytest.raises(DestinationFull):
        await writer.close(interrupted=False)
    assert file.closed
    assert read(tmp_path / "manifest.jsonl.partial") == []
    assert not (tmp_path / "manifest.jsonl").exists()


async def test_a_header_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Any = aiofiles.open

    async def open_full(*arguments: Any, **options: Any) -> Any:
        return FullDisk(await opened(*arguments, **options), 5, errno.ENOSPC)

    monkeypatch.setattr(aiofiles, "open", open_full)
    writer = ManifestWriter(tmp_path / "manifest.jsonl", HEADER)
    with pytest.raises(DestinationFull):
        await writer.open()
    await writer.close(interrupted=True)
    assert list(tmp_path.iterdir()) == []


async def test_a_line_that_was_being_written_when_the_writer_was_killed_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    await write(path, OUTCOMES)
    whole = path.read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(ends[0] + 1, len(whole), 7):
        path.write_bytes(whole[:cut])
        expected = sum(end <= cut for end in ends[1:])  # a line without its newline is whole all the same
        assert len(read(path)) == expected


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "line 1: expected the header"),
        (["{}"], "line 1: expected the header"),
        (["source,key"], "line 1: this is no JSON object"),
        (['{"record":"run","destination":"s3://b"}'], "line 1: the header has no endpoint_url"),
        (["HEADER", "nonsense", "END"], "line 2: this is no JSON object"),
        (["HEADER", "[]", "END"], "line 2: this is no JSON object"),
        (["HEADER", "[" * 100_000, "END"], "line 2: this is no JSON object"),
        (["HEADER", '{"record":"planned","source":""}'], "line 2: key is missing"),
        (["HEADER", '{"record":"dance"}'], "line 2: record 'dance' is not one of"),
        (["HEADER", '{"record":"end"}'], "line 2: the end record"),
        (["HEADER", '{"record":"end","interrupted":false}'], "line 2: the end record lacks"),
        (["HEADER", "END", "END"], "line 3: expected nothing after the end record"),
        (["HEADER", '"' + "x" * (2 << 20)], "line 2: this is no JSON object"),
    ],
)
async def test_malformed_manifests(tmp_path: Path, lines: list[str], fault: str) -> None:
    path = tmp_path / "manifest.jsonl"
    await write(path, [])
    header, end = path.read_text().splitlines()
    content = [{"HEADER": header, "END": end}.get(line, line) for line in lines]
    path.write_text("".join(line + "\n" for line in content))
    with pytest.raises(ConfigError, match=fault) as caught:
        read(path)
    assert "manifest.jsonl" in str(caught.value)


async def test_a_missing_manifest_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "none")
