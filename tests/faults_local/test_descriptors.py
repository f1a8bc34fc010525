"""Few open files: a run takes as many transfers at a time as it has descriptors for, or is refused before it begins."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.config import Limits
from asyncsink.engine.descriptors import BESIDE, PER_READER, PER_TRANSFER, fitted, within_descriptors
from asyncsink.errors import ConfigError

MIB = 1 << 20
FEWEST = BESIDE + PER_READER + PER_TRANSFER


@given(
    free=st.integers(FEWEST, 3000),
    fixed=st.none() | st.integers(1, 300),
    readers=st.integers(1, 64),
)
def test_what_is_taken_fits(free: int, fixed: int | None, readers: int) -> None:
    asked = Limits(
        concurrency=fixed, concurrency_start=fixed or 32, concurrency_max=fixed or 128, reader_threads=readers
    )
    limits = fitted(asked, free, free)
    taken = BESIDE + limits.reader_threads * PER_READER + limits.concurrency_max * PER_TRANSFER
    assert taken <= free
    assert 1 <= limits.reader_threads <= readers
    assert 1 <= limits.concurrency_start <= limits.concurrency_max <= asked.concurrency_max
    assert limits.concurrency is None or limits.concurrency == limits.concurrency_max
    assert limits.memory_bytes == asked.memory_bytes


@pytest.mark.parametrize("free", [-5, 0, FEWEST - 1])
def test_too_few_are_refused(free: int) -> None:
    with pytest.raises(ConfigError, match=r"may have 20 open files.*ulimit -n.*Nothing was sent\."):
        fitted(Limits(), free, 20)


def test_the_usual_limit_of_a_system_lowers_nothing() -> None:
    limits = Limits()
    assert fitted(limits, 1024 - 20, 1024) is limits


def test_what_this_process_has_open_counts() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 512), before[1]))
    held: list[int] = []
    try:
        first = within_descriptors(Limits())
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(70)]
        second = within_descriptors(Limits())
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert first.concurrency_max - second.concurrency_max == 70 // PER_TRANSFER
    assert replace(second, concurrency_max=128, concurrency_start=32) == Limits()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Many small files, some for threads of their own, and two in parts."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(200):
        (folder / f"small-{number}.txt").write_bytes(os.urandom(2000))
    for number in range(6):
        (folder / f"whole-{number}.bin").write_bytes(os.urandom(MIB + 5))
    for number in range(2):
        (folder / f"parts-{number}.bin").write_bytes(os.urandom(16 * MIB))
    return folder


def export(seaweed: Any, most: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that may have `most` open files."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return subprocess.run(
        [sys.executable, "-m", "asyncsink.cli.main", "export", *map(str, arguments), "--json"],
        env={**os.environ, **seaweed.environment},
        preexec_fn=lower,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("most", [128, 48])
def test_a_run_ends_well_with_few(
    lane: str,
    most: int,
    root: Path,
    tmp_path: Path,
    seaweed: Any,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    files_in: Callable[[Path], dict[str, bytes]],
) -> None:
    copies = tmp_path / "copies"
    ended = export(seaweed, most, root, f"s3://{bucket}", "--transport", lane, "--local-copy", copies)
    assert (ended.returncode, json.loads(ended.stdout)["failures"]) == (0, [])
    assert "few open files" in ended.stderr
    assert "at a time at most" in ended.stderr
    assert stored() == files_in(root) == files_in(copies)


@pytest.mark.parametrize(("most", "code"), [(30, 2), (12, 1)])
def test_a_run_with_too_few_is_refused_in_one_sentence(
    most: int, code: int, root: Path, seaweed: Any, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    ended = export(seaweed, most, root, f"s3://{bucket}")
    assert ended.returncode == code
    assert ended.stderr.startswith("asyncsink: error: ")
    assert "ulimit -n" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert stored() == {}
