"""The command line is tested as people use it: a process, its exit code, its stdout and its stderr."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer

COMMAND = [sys.executable, "-W", "error", "-m", "asyncsink.cli.main"]


@dataclass
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """Stdout, which must be exactly one JSON object on one line."""
        assert self.stdout.count("\n") == 1
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


@dataclass
class Cli:
    """Runs `asyncsink` in `directory` against the test's server."""

    environment: dict[str, str]
    directory: Path
    secrets: list[str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    command: list[str] = field(default_factory=lambda: list(COMMAND))

    def __call__(self, *arguments: object, stdin: str = "", **variables: str) -> Ended:
        process = self.start(*arguments, stdin=subprocess.PIPE, **variables)
        return self.end(process, stdin)

    def start(self, *arguments: object, stdin: Any = subprocess.DEVNULL, **variables: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | variables,
            cwd=self.directory,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str], stdin: str | None = None) -> Ended:
        """Wait for its end; nothing it said may hold a secret or a traceback."""
        stdout, stderr = process.communicate(stdin, timeout=100)
        told = stdout + stderr
        assert "Traceback" not in told
        assert not any(secret in told for secret in self.secrets)
        return Ended(process.returncode, stdout, stderr)


@pytest.fixture
def cli(seaweed: DevServer, tmp_path: Path, keep_secret: Callable[[str], str]) -> Iterator[Cli]:
    """The command, with the test server's endpoint and credentials in its environment."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "TERM")}
    # Colours and terminal tricks of the machine that runs the tests must not change what is told.
    environment |= seaweed.environment | {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "TMPDIR": str(temporary),
        "NO_COLOR": "1",
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    cli = Cli(environment, tmp_path, [seaweed.secret_access_key, keep_secret("wrong/secret+not-to-be-shown-000000000")])
    yield cli
    for process in cli.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def inside(cli: Cli, run_inside: Callable[..., subprocess.CompletedProcess[bytes]]) -> Callable[..., Ended]:
    """The command in this process."""

    def run(*arguments: object, **variables: str) -> Ended:
        done = run_inside(*arguments, env=cli.environment | variables, cwd=cli.directory)
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ended.stdout + ended.stderr
        assert not any(secret in ended.stdout + ended.stderr for secret in cli.secrets)
        return ended

    return run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A small directory to publish: 4 files, 24 bytes."""
    folder = tmp_path / "results"
    for name, content in (
        ("a.txt", "alpha"),
        ("sub/b=1.nii", "beta"),
        ("sub/deep/c.json", '{"gamma": 3}'),
        ("é.par", "del"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def keys(s3: Any, bucket: str) -> Callable[[], list[str]]:
    """What is in the bucket now, sorted."""
    return lambda: sorted(o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", []))


class StallingProxy:
    """Passes every connection through to the server until the client has sent `limit` bytes on it; then it stalls.

    So a part of a large upload never arrives, and every small request does: an upload can be caught in its middle.
    """

    def __init__(self, port: int, limit: int) -> None:
        self._server = ("127.0.0.1", port)
        self._limit = limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._released = threading.Event()
        self.stalled = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for source, target, limit in ((client, server, self._limit), (server, client, sys.maxsize)):
                thread = threading.Thread(target=self._pass, args=(source, target, limit))
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                target.sendall(data)
                passed += len(data)
                if passed > limit:
                    self.stalled.set()
                    self._released.wait()
                    break
        except OSError:
            pass  # one side is gone, which the other learns below
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already

    def close(self) -> None:
        self._released.set()
        for end in list(self._sockets):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


@pytest.fixture
def stalling(seaweed: DevServer) -> Iterator[StallingProxy]:
    """A proxy that lets no part of 5 MiB through."""
    proxy = StallingProxy(seaweed.port, limit=2 << 20)
    yield proxy
    proxy.close()
