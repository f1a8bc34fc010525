"""The servers that contenders publish to, each in a process of its own on 127.0.0.1, gone with the block."""

from __future__ import annotations

import contextlib
import json
import os
import select
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asyncsink.devserver import watchdog
from asyncsink.devserver.seaweedfs import REGION, DevServer
from benchmarks.servers.certificates import make_certificates
from benchmarks.servers.compiling import null_server
from benchmarks.servers.zeros import reset_order

ServerKind = Literal["null", "null-tls", "seaweed"]
_START_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """What a contender is told, and what the harness asks.

    Attributes:
        kind: which server.
        url: endpoint; path-style addresses.
        access_key_id, secret_access_key: accepted by the server.
        ca_bundle: PEM file to trust, or "".
    """

    kind: ServerKind
    url: str
    access_key_id: str = "AKIANULLSERVER"
    secret_access_key: str = field(repr=False, default="checked-by-nobody")
    ca_bundle: str = ""

    @property
    def is_null(self) -> bool:
        """It counts what arrives, and keeps nothing."""
        return self.kind != "seaweed"

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

    @contextlib.contextmanager
    def in_environment(self) -> Iterator[None]:
        """Have this process, and those that it starts, use the server in the block."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def reset(self, zeros: Mapping[str, int] | None = None) -> None:
        """Make a null server forget everything, have objects of zeros ({path: size}), and start its CPU clock again."""
        if self.is_null:
            self._ask("/-/reset", reset_order(zeros or {}))

    def stats(self) -> dict[str, Any]:
        """A null server's counts, and its CPU seconds, since `reset`; {} of another server."""
        counts: dict[str, Any] = json.loads(self._ask("/-/stats")) if self.is_null else {}
        return counts

    def _ask(self, target: str, body: bytes | None = None) -> bytes:
        context = ssl.create_default_context(cafile=self.ca_bundle) if self.ca_bundle else None
        with urllib.request.urlopen(self.url + target, body, timeout=60, context=context) as answer:
            content: bytes = answer.read()
            return content


@contextlib.contextmanager
def running_server(
    kind: ServerKind, directory: Path, *, delay_ms: float = 0.0, bytes_per_second: float = 0.0
) -> Iterator[RunningServer]:
    """Start a server and stop it with the block. `directory` is for its files; it must exist.

    Args:
        delay_ms: a null server answers so much later, as from a distant region (handshakes are not delayed).
        bytes_per_second: no connection to a null server carries more, either way; 0 is no limit.

    Raises:
        ConfigError: SeaweedFS is not installed, or did not start.
        RuntimeError: a null server could not be compiled, or did not start.
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
    command = [str(null_server()), "--delay-ms", f"{delay_ms:g}", "--bytes-per-second", f"{bytes_per_second:g}"]
    scheme, ca_bundle = "http", ""
    if kind == "null-tls":
        made = make_certificates(directory)
        command += ["--certificate", str(made.server)]
        scheme, ca_bundle = "https", str(made.authority)
    with _watched(command) as process:
        yield RunningServer(kind=kind, url=f"{scheme}://127.0.0.1:{_read_port(process)}", ca_bundle=ca_bundle)


@contextlib.contextmanager
def _watched(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command under the development server's watchdog: it ends with the block, or with this process."""
    order = json.dumps({"command": command, "grace_seconds": 3, "directory": "", "leftovers": []})
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
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
        raise RuntimeError("The null server did not start; its message is above.")
    return int(line)
