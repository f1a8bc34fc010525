"""Little memory and few threads (`ulimit -v`, `ulimit -u`): a sentence that says so, and no bug of ours."""

from __future__ import annotations

import asyncio
import errno
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.cli.main import main
from asyncsink.cli.output import in_flags
from asyncsink.engine.limits.descriptors import ACCOUNT
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import SmallFiles
from asyncsink.errors import AsyncSinkError
from asyncsink.os_errors import shortage
from tests.support.processes import run
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
        ended = run(
            [sys.executable, "-m", "asyncsink.cli.main", command, *map(str, words)],
            env=server.environment(tmp_path),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most * MIB, most * MIB)),
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


ERRORS = [MemoryError(), RuntimeError("can't start new thread"), OSError(errno.ENOMEM, "Cannot allocate memory")]


async def use(how: str, source: Path) -> None:
    """Publish, or grab into, a directory, as a program does."""
    if how == "export":
        await asyncsink.export_directory(source, "s3://tryout/q", region="us-east-1")
    elif how == "grab":
        await asyncsink.grab("s3://tryout/q", source / "back", region="us-east-1")
    else:
        async with asyncsink.AsyncSink("s3://tryout/q", region="us-east-1") as sink:
            await sink.submit("x", source / "a.txt")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"a")
    return folder


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_shortage_is_worded_for_everybody(
    error: Exception, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a caller gets is what the command says; the exception itself is its cause."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(SmallFiles, "publish", fail)
    monkeypatch.setattr(Publisher, "publish", fail)
    with quirky_s3() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        for how in ("export", "sink"):
            with pytest.raises(AsyncSinkError) as caught:
                asyncio.run(use(how, source))
            assert str(caught.value) == shortage(error)
            assert caught.value.__cause__ is error
        assert main(["export", str(source), "s3://tryout/q"]) == 1
    assert f"asyncsink: error: {in_flags(shortage(error))}\n" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["export", "grab", "sink"])
def test_a_shortage_at_the_beginning_is_worded_too(how: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("can't start new thread")

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(ACCOUNT, "open", fail)
    with pytest.raises(AsyncSinkError, match="ulimit -u") as caught:
        asyncio.run(use(how, source))
    assert caught.value.__cause__ is error
