"""Journals of the tests' own, and the words to fill them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsink.journal.base import PublishedRow, published_row
from asyncsink.journal.sqlite import open_journal
from asyncsink.model import Checksum, SourceFile, Transfer
from asyncsink.options.schema import ObjectOptions, S3Target
from asyncsink.options.settings import JournalChoice

Open = Callable[..., Awaitable[Any]]


def source_of(number: int, **changed: Any) -> SourceFile:
    values = {"size_bytes": number, "mtime_ns": 10**18 + number, "ctime_ns": 10**18 + number, "inode": number}
    return SourceFile(f"/data/{number}.nii", **(values | changed))


def published_of(number: int, key: str = "") -> PublishedRow:
    checksum = Checksum("CRC64NVME", "AAAAAAAAAAA=")
    return published_row(transfer_of(number, key), f"etag-{number}", "", checksum)


def transfer_of(number: int, key: str = "", **changed: Any) -> Transfer:
    return Transfer(source_of(number, **changed), key or f"study/{number}.nii", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def open_it(path: Path, notices: list[str]) -> Open:
    """Open a journal as a run does; by default the one named `path`."""

    def opened(**changed: Any) -> Awaitable[Any]:
        values: dict[str, Any] = {
            "choice": JournalChoice(path=str(path), required=True),
            "target": S3Target(bucket="results", prefix="study"),
            "endpoint_url": "http://127.0.0.1:8333",
            "objects": ObjectOptions(),
            "algorithm": "CRC64NVME",
            "notice": notices.append,
        }
        return open_journal(**(values | changed))

    return opened


PREAMBLE = """
import asyncio, sys
from asyncsink.options.schema import ObjectOptions, S3Target
from asyncsink.options.settings import JournalChoice
from asyncsink.errors import AsyncSinkError
from asyncsink.journal.sqlite import open_journal
from asyncsink.journal.base import published_row
from asyncsink.model import *

def open_it(path):
    return open_journal(
        JournalChoice(path=path, required=True), S3Target(bucket="results", prefix="study"),
        endpoint_url="http://127.0.0.1:8333", objects=ObjectOptions(), algorithm="CRC64NVME", notice=print,
    )

def source_of(number):
    return SourceFile(f"/data/{number}.nii", number, 10**18 + number, ctime_ns=10**18 + number, inode=number)

def published_of(number):
    transfer = Transfer(source_of(number), f"study/{number}.nii", "")
    return published_row(transfer, f"etag-{number}", "", Checksum("CRC64NVME", "AAAAAAAAAAA="))
"""


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process of its own that runs `async def main(path)`; it is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def process(code: str, **options: Any) -> subprocess.Popen[str]:
        text = f"{PREAMBLE}\n{code}\nasyncio.run(main({str(path)!r}))"
        command = [sys.executable, "-W", "error", "-c", text]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.communicate()
