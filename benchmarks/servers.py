"""The servers that contenders publish to, each in processes of its own on 127.0.0.1, gone with the block."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from asyncsink.devserver import watchdog
from asyncsink.devserver.seaweedfs import REGION, DevServer
from benchmarks.certificates import make_certificates
from benchmarks.null_store import RESET_TARGET, STATS_TARGET

ServerKind = Literal["null", "null-tls", "seaweed"]
TlsBy = Literal["auto", "nginx", "uvloop"]
_START_SECONDS = 20.0
_ROOT = Path(__file__).resolve().parent.parent


class _Keys(TypedDict):
    access_key_id: str
    secret_access_key: str


_ANY_KEYS: _Keys = {"access_key_id": "AKIANULLSERVER", "secret_access_key": "checked-by-nobody"}
_NGINX = """daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 256k;
  keepalive_requests 100000000; keepalive_timeout 75;
  client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  upstream null {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{
      proxy_pass http://null; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """What a contender is told, and what the harness asks.

    Attributes:
        kind: which server.
        url: endpoint; path-style addresses.
        access_key_id, secret_access_key: accepted by the server.
        ca_bundle: PEM file to trust, or "".
        tls_by: what terminates TLS ("nginx", "uvloop"), or "".
        control_url: where a null server is asked for its counts, or "".
        nginx_pid: its process, or 0.
    """

    kind: ServerKind
    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    ca_bundle: str = ""
    tls_by: str = ""
    control_url: str = ""
    nginx_pid: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which S3 clients find and trust the server."""
        variables = {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self.ca_bundle:
            variables |= {"AWS_CA_BUNDLE": self.ca_bundle, "SSL_CERT_FILE": self.ca_bundle}
        return variables

    def reset(self, zeros: Mapping[str, int] | None = None) -> None:
        """Make a null server forget everything, have objects of zeros ({path: size}), and start its CPU clock again."""
        if self.control_url:
            self._ask(RESET_TARGET, json.dumps(zeros or {}).encode())

    def stats(self) -> dict[str, Any]:
        """A null server's counts since `reset`; {} for others. "cpu_seconds" are its own, without nginx's."""
        counts: dict[str, Any] = json.loads(self._ask(STATS_TARGET)) if self.control_url else {}
        return counts

    def _ask(self, target: str, body: bytes | None = None) -> bytes:
        secure = self.control_url.startswith("https:")
        context = ssl.create_default_context(cafile=self.ca_bundle) if secure else None
        with urllib.request.urlopen(self.control_url + target, body, timeout=60, context=context) as answer:
            content: bytes = answer.read()
            return content

    def nginx_cpu_seconds(self) -> float:
        """CPU that nginx used so far; 0.0 where there is none."""
        if not self.nginx_pid:
            return 0.0
        fields = Path(f"/proc/{self.nginx_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_server(
    kind: ServerKind, directory: Path, *, delay_ms: float = 0.0, tls_by: TlsBy = "auto"
) -> Iterator[RunningServer]:
    """Start a server and stop it with the block. `directory` is for its files; it must exist.

    Args:
        delay_ms: a null server answers so much later, as from a distant region (handshakes are not delayed).
        tls_by: what terminates TLS before a null server: nginx in a process of its own (auto: where it is
            installed), or the null server itself.

    Raises:
        ConfigError: SeaweedFS is not installed, or did not start.
        RuntimeError: a null server or nginx did not start, or nginx is asked for and not installed.
    """
    if kind == "seaweed":
        with DevServer(directory=directory / "seaweed") as weed:
            yield RunningServer(
                kind=kind,
                url=weed.endpoint_url,
                access_key_id=weed.access_key_id,
                secret_access_key=weed.secret_access_key,
            )
        return
    command = [sys.executable, "-m", "benchmarks.null_server", f"--delay-ms={delay_ms}"]
    if kind == "null":
        with _watched(command) as process:
            url = f"http://127.0.0.1:{_read_port(process)}"
            yield RunningServer(kind=kind, url=url, control_url=url, **_ANY_KEYS)
        return
    made = make_certificates(directory)
    nginx = shutil.which("nginx") if tls_by != "uvloop" else None
    if tls_by == "nginx" and nginx is None:
        raise RuntimeError("nginx is not installed; install it, or leave TLS to the null server with --tls-by uvloop.")
    if nginx is None:
        with _watched([*command, f"--certificate={made.server}"]) as process:
            url = f"https://127.0.0.1:{_read_port(process)}"
            ca = str(made.authority)
            yield RunningServer(kind=kind, url=url, control_url=url, ca_bundle=ca, tls_by="uvloop", **_ANY_KEYS)
        return
    with _watched(command) as process:
        upstream, port = _read_port(process), _free_port()
        text = _NGINX.format(
            directory=directory, upstream=upstream, port=port, certificate=made.server, key=made.server_key
        )
        config = directory / "nginx.conf"
        config.write_text(text)
        with _watched([nginx, "-e", str(directory / "error.log"), "-c", str(config)]) as proxy:
            _wait_for_port(port, proxy)
            yield RunningServer(
                kind=kind,
                url=f"https://127.0.0.1:{port}",
                control_url=f"http://127.0.0.1:{upstream}",
                ca_bundle=str(made.authority),
                tls_by="nginx",
                nginx_pid=_read_pid(directory / "nginx.pid"),
                **_ANY_KEYS,
            )


@contextlib.contextmanager
def _watched(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command under the development server's watchdog: it ends with the block, or with this process."""
    order = json.dumps({"command": command, "grace_seconds": 3, "directory": "", "leftovers": []})
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(_START_SECONDS)


def _read_port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline() if readable else b""
    if not line.strip().isdigit():
        raise RuntimeError("The null server did not start; run python -m benchmarks.null_server to see why.")
    return int(line)


def _read_pid(path: Path) -> int:
    """The number in a pid file, which nginx makes before it writes to it."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).strip().isdigit():
            return int(text)
        time.sleep(0.05)
    raise RuntimeError("nginx wrote no pid file; its message is above.")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx did not start in front of the null server; its message is above.")
