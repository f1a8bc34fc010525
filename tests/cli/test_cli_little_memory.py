"""Little memory and few threads (`ulimit -v`, `ulimit -u`): a sentence that says so, and no bug of ours."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from asyncsink.os_errors import shortage
from tests.support.quirky_s3 import StoredObject, quirky_s3

MIB = 1 << 20


@pytest.mark.parametrize("command", ["export", "grab"])
@pytest.mark.parametrize("most", [60, 90, 130, 200])
def test_little_memory_is_a_sentence(most: int, command: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number}.txt").write_bytes(bytes(1000))
    with quirky_s3() as server:
        server.objects["tryout"] = {f"p/{number}": StoredObject(bytes(1000)) for number in range(20)}
        words = {"export": [source, "s3://tryout/q"], "grab": ["s3://tryout/p", tmp_path / "back"]}[command]
        ended = subprocess.run(
            [sys.executable, "-m", "asyncsink.cli.main", command, *map(str, words)],
            env=server.environment(tmp_path),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most * MIB, most * MIB)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode in (0, 1, 2)  # 2 where no thread can be had for the first request
    assert "bug of asyncsink" not in ended.stderr
    assert "Traceback" not in ended.stderr
    if ended.returncode:
        assert "ulimit" in ended.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "ulimit -v"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ulimit -v"),
        (ImportError("libx.so: failed to map segment from shared object"), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (ImportError("No module named 'x'"), ""),
        (RuntimeError("anything else"), ""),
        (OSError(errno.EIO, "Input/output error"), ""),
    ],
)
def test_what_a_shortage_is(error: Exception, told: str) -> None:
    said = shortage(error)
    assert bool(said) == bool(told)
    assert told in said
