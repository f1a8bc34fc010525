"""The local directory and the memory destination keep the contract every destination keeps."""

from __future__ import annotations

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
from asyncsink.options.schema import LocalCopyMode, LocalTarget
from asyncsink.testing.destination_suite import DestinationSuite


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
