"""The local directory and the memory destination keep the contract every destination keeps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from anyio import CapacityLimiter

from asyncsink.destinations.base import Destination
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.files import TEMPORARY_SUFFIX
from asyncsink.destinations.memory import MemoryDestination
from asyncsink.errors import UploadMissing
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.schema import LocalCopyMode, LocalTarget
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.testing.destination_suite import DestinationSuite, transfer_of

pytestmark = pytest.mark.anyio


class TestMemory(DestinationSuite):
    @asynccontextmanager
    async def destination(self) -> AsyncIterator[Destination]:
        self.memory = MemoryDestination()
        yield self.memory
        await self.memory.aclose()

    async def read_back(self, key: str) -> bytes | None:
        return self.memory.objects.get(key)

    async def leftovers(self) -> Sequence[str]:
        return [repr(writer) for writer in self.memory.open_writers]


class TestLocal(DestinationSuite):
    refuses_wrong_checksums = False
    mode: LocalCopyMode = "copy"

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "published"

    @asynccontextmanager
    async def destination(self) -> AsyncIterator[Destination]:
        target = LocalTarget(directory=str(self.directory), mode=self.mode)
        local = LocalDestination(target, limiter=CapacityLimiter(4), use_local_key=False)
        yield local
        await local.aclose()

    async def read_back(self, key: str) -> bytes | None:
        path = self.directory / key
        return path.read_bytes() if path.exists() else None

    async def leftovers(self) -> Sequence[str]:
        return [name for _, _, names in os.walk(self.directory) for name in names if name.endswith(TEMPORARY_SUFFIX)]


class TestLocalWithHardlinksRefused(TestLocal):
    """The sources are nowhere, so every hardlink falls back to the bytes."""

    mode = "hardlink"


# -- What the memory destination adds to the contract: it answers as S3 does -------------------------------------------


async def test_a_whole_body_has_its_md5_as_etag() -> None:
    memory = MemoryDestination(url="memory://test/")
    transfer, checksum = transfer_of("a/x", b"abc"), checksum_of(b"abc", "SHA256")
    stored = await memory.put(transfer, b"abc", checksum)
    assert stored.location == "memory://test/a/x"
    assert stored.etag == hashlib.md5(b"abc", usedforsecurity=False).hexdigest()
    assert stored.confirmed_by == "server-checksum"
    listed, looked = [await memory.look(transfer, closely=closely) for closely in (False, True)]
    assert listed is not None
    assert looked is not None
    assert dict(listed.checksums) == {}
    assert dict(looked.checksums) == {"SHA256": checksum.value}
    assert looked.etag == listed.etag == stored.etag
    assert memory.objects == {"a/x": b"abc"}


async def test_parts_have_a_multipart_etag_and_a_full_object_checksum() -> None:
    memory = MemoryDestination()
    transfer = transfer_of("x", b"abc")
    writer = await memory.start(transfer, PartPlan(3, 2), "SHA256")
    await writer.write_part(2, 2, b"c", None)
    await writer.write_part(1, 0, memoryview(b"ab"), checksum_of(b"ab", "SHA256"))
    assert memory.open_writers == {writer}
    stored = await writer.complete(None)
    assert stored.etag.endswith("-2")
    looked = await memory.look(transfer, closely=True)
    assert looked is not None
    assert looked.part_size_bytes == 2
    assert dict(looked.checksums) == {"CRC64NVME": checksum_of(b"abc", "CRC64NVME").value}
    with pytest.raises(UploadMissing, match="memory:/x is not being written any more"):
        await writer.complete(None)
    await writer.abort()
    assert memory.objects == {"x": b"abc"}


async def test_closing_aborts_what_is_open_and_keeps_the_objects() -> None:
    memory = MemoryDestination()
    await memory.put(transfer_of("kept", b"abc"), b"abc", None)
    await memory.start(transfer_of("x", b"abc"), PartPlan(3, 2), None)
    await memory.aclose()
    assert not memory.open_writers
    assert memory.objects == {"kept": b"abc"}
    assert repr(memory) == "MemoryDestination('memory:', 1 objects)"
