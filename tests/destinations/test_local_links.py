"""Hardlinks and companions of local files, and what becomes of them where they are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import CapacityLimiter

from asyncsink.destinations.base import PartWriter
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.files import TEMPORARY_SUFFIX, related_files
from asyncsink.errors import PermanentError, SourceChanged, SourceError
from asyncsink.model import SourceFile, Transfer
from asyncsink.options.schema import LocalCopyMode, LocalTarget
from asyncsink.s3.multipart.parts import PartPlan

pytestmark = pytest.mark.anyio


def destination(directory: Path, *, mode: LocalCopyMode = "copy", related_files: bool = False) -> LocalDestination:
    return LocalDestination(
        LocalTarget(directory=str(directory), mode=mode),
        limiter=CapacityLimiter(4),
        use_local_key=False,
        related_files=related_files,
    )


def transfer_from(path: Path, key: str) -> Transfer:
    seen = path.stat()
    real = str(path.resolve()) if path.is_symlink() else ""
    source = SourceFile(path=str(path), size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns, real_path=real)
    return Transfer(source, key, key)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def temporaries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


async def both_ways(local: LocalDestination, transfer: Transfer, body: bytes, *, parts: bool) -> None:
    if not parts:
        await local.put(transfer, body, None)
        return
    plan = PartPlan(len(body), 3)
    writer: PartWriter = await local.start(transfer, plan, None)
    try:
        for part in reversed(list(plan)):
            await writer.write_part(part.part_number, part.offset, body[part.offset :][: part.length], None)
        await writer.complete(None)
    finally:
        await writer.abort()


@pytest.fixture(params=[False, True], ids=["whole", "parts"])
def parts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_hardlinks(out: Path, source_file: Callable[[str, bytes], Path], parts: bool) -> None:
    source = source_file("work/x.nii", b"content")
    source.chmod(0o640)
    before = source.stat()
    local = destination(out, mode="hardlink")
    for _ in range(2):
        await both_ways(local, transfer_from(source, "sub/x.nii"), b"content", parts=parts)
        assert (out / "sub/x.nii").samefile(source)
    after = source.stat()
    assert (before.st_mode, before.st_mtime_ns, before.st_size) == (after.st_mode, after.st_mtime_ns, after.st_size)
    assert after.st_nlink == 2
    assert tree(out) == ["sub", "sub/x.nii"]


async def test_a_hardlink_of_a_symbolic_link_is_one_of_its_file(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool
) -> None:
    source = source_file("work/x.nii", b"content")
    link = source.with_name("link.nii")
    link.symlink_to(source)
    await both_ways(destination(out, mode="hardlink"), transfer_from(link, "x.nii"), b"content", parts=parts)
    assert not (out / "x.nii").is_symlink()
    assert (out / "x.nii").samefile(source)


async def test_a_copy_takes_the_place_of_a_hardlink(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    for mode in ("hardlink", "copy"):
        await destination(out, mode=mode).put(transfer_from(source, "x.nii"), b"content", None)
    assert not (out / "x.nii").samefile(source)
    assert (out / "x.nii").read_bytes() == source.read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
async def test_hardlinks_that_are_refused_become_copies(
    out: Path, source_file: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch, parts: bool, number: int
) -> None:
    source = source_file("work/x.nii", b"content")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    await both_ways(destination(out, mode="hardlink"), transfer_from(source, "x.nii"), b"content", parts=parts)
    assert (out / "x.nii").read_bytes() == b"content"
    assert not (out / "x.nii").samefile(source)
    assert (out / "x.nii").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert tree(out) == ["x.nii"]


async def test_another_file_system(small_disk: Path, source_file: Callable[[str, bytes], Path], parts: bool) -> None:
    source = source_file("work/x.nii", b"content")
    await both_ways(destination(small_disk, mode="hardlink"), transfer_from(source, "x.nii"), b"content", parts=parts)
    assert (small_disk / "x.nii").read_bytes() == b"content"
    assert tree(small_disk) == ["x.nii"]


async def test_a_source_that_changed_is_not_linked(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    transfer = transfer_from(source, "x.nii")
    source.write_bytes(b"changed!")
    local = destination(out, mode="hardlink")
    await both_ways(local, transfer, b"content", parts=False)
    assert (out / "x.nii").read_bytes() == b"content", "the bytes that were read are published"
    (out / "x.nii").unlink()
    with pytest.raises(SourceChanged, match=r"work/x\.nii changed while it was copied"):
        await both_ways(local, transfer, b"content", parts=True)
    assert tree(out) == []


async def test_a_source_that_went_away_is_not_linked(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    local, transfer = destination(out, mode="hardlink"), transfer_from(source, "x.nii")
    writer = await local.start(transfer, PartPlan(7, 7), None)
    await writer.write_part(1, 0, b"content", None)
    source.unlink()
    with pytest.raises(SourceError, match=r"work/x\.nii does not exist any more"):
        await writer.complete(None)
    await writer.abort()
    assert tree(out) == []


async def test_a_fifo_in_the_sources_place_does_not_block(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool
) -> None:
    source = source_file("work/x.nii", b"content")
    transfer = transfer_from(source, "x.nii")
    source.unlink()
    os.mkfifo(source)
    local = destination(out, mode="hardlink")
    if parts:
        with pytest.raises(SourceError):
            await both_ways(local, transfer, b"content", parts=True)
    else:
        await both_ways(local, transfer, b"content", parts=False)
        assert (out / "x.nii").is_file()
    assert not temporaries(out)


@pytest.mark.parametrize(
    ("name", "target", "beside", "expected"),
    [
        ("a.img", "b.img", ["a.hdr", "a.mat", "a.nii"], ["b.hdr", "b.mat"]),
        ("a.hdr", "a.hdr", ["a.img.gz"], ["a.img.gz"]),
        ("a.img.gz", "a.img.gz", ["a.hdr", "a.hdr.gz", "a.img"], ["a.hdr", "a.hdr.gz"]),
        ("a.nii", "a.nii", ["a.mat", "a.hdr"], ["a.mat"]),
        ("a.nii.gz", "a.nii.gz", ["a.mat"], []),
        ("a.mat", "a.mat", ["a.hdr", "a.img", "a.nii"], ["a.hdr", "a.img", "a.nii"]),
        ("a+orig.BRIK", "a+orig.BRIK", ["a+orig.HEAD"], ["a+orig.HEAD"]),
        ("a+orig.BRIK.gz", "a+orig.BRIK.gz", ["a+orig.HEAD"], ["a+orig.HEAD"]),
        ("a+orig.HEAD", "a+orig.HEAD", ["a+orig.BRIK.gz"], ["a+orig.BRIK.gz"]),
        ("a.b.img", "a.b.img", ["a.b.hdr", "a.hdr"], ["a.b.hdr"]),
        ("a.img", "a.nii", ["a.hdr"], []),
        ("a.txt", "a.txt", ["a.hdr"], []),
        ("a.gz", "a.gz", ["a.hdr"], []),
    ],
)
def test_which_files_are_related(
    tmp_path: Path, name: str, target: str, beside: list[str], expected: list[str]
) -> None:
    for file in [name, *beside]:
        (tmp_path / file).write_bytes(b"")
    found = related_files(str(tmp_path / name), f"/there/{target}")
    assert [place for _, place in found] == [f"/there/{place}" for place in expected]


@pytest.mark.parametrize("mode", ["copy", "hardlink"])
async def test_companions_come_along(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool, mode: LocalCopyMode
) -> None:
    source = source_file("work/x.img", b"image")
    header = source_file("work/x.hdr", b"header")
    source_file("work/unrelated.hdr", b"unrelated")
    local = destination(out, mode=mode, related_files=True)
    for _ in range(2):
        await both_ways(local, transfer_from(source, "sub/y.img"), b"image", parts=parts)
        assert tree(out) == ["sub", "sub/y.hdr", "sub/y.img"]
        assert (out / "sub/y.hdr").read_bytes() == b"header"
    assert (out / "sub/y.hdr").stat().st_mtime_ns == header.stat().st_mtime_ns
    header.write_bytes(b"other")
    await both_ways(local, transfer_from(source, "sub/y.img"), b"image", parts=parts)
    assert (out / "sub/y.hdr").read_bytes() == b"other"


async def test_companions_stay_where_they_are_by_default(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source_file("work/x.hdr", b"header")
    source = source_file("work/x.img", b"image")
    await destination(out).put(transfer_from(source, "x.img"), b"image", None)
    assert tree(out) == ["x.img"]


async def test_a_companion_that_cannot_be_copied_keeps_the_file_away(
    out: Path, source_file: Callable[[str, bytes], Path]
) -> None:
    source_file("work/x.hdr", b"header")
    source = source_file("work/x.img", b"image")
    (out / "x.hdr").mkdir(parents=True)
    with pytest.raises(PermanentError, match=r"x\.hdr is a directory"):
        await destination(out, related_files=True).put(transfer_from(source, "x.img"), b"image", None)
    assert tree(out) == ["x.hdr"]
