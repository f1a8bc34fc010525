"""Who is compared: what each checks, and in which scenarios it takes part.

All get the same files. Where a scenario says how many requests may be in flight at once, all that have the knob get
that number, and parts of 8 MiB; otherwise everybody has its own defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.lineup.commands import (
    Work,
    asyncsink,
    asyncsink_api,
    asyncsink_grab,
    asyncsink_uvloop,
    beside_python,
    needs,
    needs_program,
    rclone,
    rclone_grab,
    rclone_path,
    rclone_size_only,
    s5cmd,
    s5cmd_grab,
    s5cmd_path,
    script,
)
from benchmarks.lineup.pythons import Python
from benchmarks.lineup.scenarios import (
    AIOBOTO3_BYTES,
    AIOBOTO3_GET,
    DATASINK,
    DIRECTORY,
    GET,
    OBSTORE_BYTES,
    OBSTORE_GET,
    OBSTORE_PATH,
    OTHER_LOOP,
    OUR_DATASINK,
    PUT,
    PUT_BYTES,
    REFERENCE,
    REFERENCE_ENGINE,
    SERVICES,
    SUBMIT,
    DataSet,
    Scenario,
)

BUCKET = "bench"
OBSTORE = "obstore-unsigned"
_ELSEWHERE = (OUR_DATASINK, OTHER_LOOP, *SERVICES)
"""Those that take part only in scenarios that name them."""
_WHOLE_FILE_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to publish a directory, and perhaps to bring it back.

    Attributes:
        title: for tables.
        command: argv for a piece of work; its first item is an absolute path.
        missing: "" where it can run here, or why it cannot.
        checks: what it sends for the server to check, and what it checks in the answer, by its documentation.
        repeats: how it finds out that a file is there already; "" where it sends everything again.
        own_clock: it reports seconds of its own, without the interpreter's start and imports. For compiled programs
            the whole process is the engine.
        grabs: argv of a grab; None where it does not take part in those.
        proves: what it compares what it received with.
        only_repeats: a setting that matters only where everything is there already.
        whole_files: it holds whole files in memory, so that it sits out scenarios with files of more than 256 MB.
        every_python: it runs under the second Python too, where there is one.
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
    every_python: bool = False
    grabs: Callable[[Work], list[str]] | None = None
    proves: str = ""

    def takes_part(self, scenario: Scenario) -> bool:
        """Whether the scenario is meant for it."""
        if scenario.contenders:
            return self.name in scenario.contenders
        return self.name not in _ELSEWHERE and (self.grabs is not None or not scenario.grab)

    def argv(self, work: Work) -> list[str]:
        """The command line for a piece of work."""
        return self.grabs(work) if work.data.scenario.grab and self.grabs is not None else self.command(work)

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


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender under an interpreter. Compiled programs run beside the first one only."""

    contender: Contender
    python: Python

    @property
    def name(self) -> str:
        """In results: the contender's, marked where the interpreter is the second."""
        return marked(self.contender.name, self.python.tag)


def marked(contender: str, tag: str) -> str:
    """A contender's name under the Python of that tag."""
    return f"{contender}@{tag}" if tag else contender


def entrants_of(contenders: Sequence[Contender], pythons: Sequence[Python]) -> list[Entrant]:
    """All of these under each Python that they run under."""
    return [Entrant(each, python) for each in contenders for python in pythons if not python.tag or each.every_python]


_OURS = "CRC64NVME of every object and part; the answer is compared; sources are watched for changes; manifest"
_OURS_IN_SERVICE = _OURS.removesuffix("; manifest")
_BOTOCORE = "CRC32, botocore's default; over plain HTTP also SHA-256 in the signature"
_PROVEN = "CRC64NVME of every object, as the server has it; a file appears whole and proven, or not at all"
_COMPARED = "CRC64NVME of every object, as the server has it"
_BOTOCORES_PROOF = "the server's checksum, where a request asks for the whole object"

_BY_DEFAULT = "its journal, and the listing's ETag"


def _command_missing() -> str:
    return "" if beside_python("asyncsink") else "asyncsink is not installed"


def _command_line(name: str, flags: str, repeats: str) -> Contender:
    """Our command with flags that matter only where everything is there already."""
    return Contender(
        name,
        f"asyncsink, {flags}",
        lambda work: [*asyncsink(work), *flags.split()],
        _command_missing,
        _OURS,
        repeats=repeats,
        own_clock=False,
        only_repeats=True,
    )


def _service(name: str, title: str, words: str, missing: Callable[[], str], checks: str) -> Contender:
    """A service written with a library: a script of ours and what it calls, with the scenario's producers."""
    return Contender(
        name,
        title,
        lambda work: [*script(*words.split())(work), str(work.data.scenario.producers)],
        missing,
        checks,
        every_python=True,
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            REFERENCE,
            "asyncsink (command line)",
            asyncsink,
            _command_missing,
            _OURS,
            repeats=_BY_DEFAULT,
            own_clock=False,
            every_python=True,
            grabs=asyncsink_grab,
            proves=_PROVEN,
        ),
        Contender(
            REFERENCE_ENGINE,
            "asyncsink (Python)",
            asyncsink_api,
            needs("asyncsink"),
            _OURS,
            repeats=_BY_DEFAULT,
            every_python=True,
            grabs=script("asyncsink_grab", grab=True),
            proves=_PROVEN,
        ),
        Contender(OTHER_LOOP, "asyncsink (Python), on uvloop", asyncsink_uvloop, needs("uvloop"), _OURS),
        _command_line("asyncsink-checksum", "--no-journal", "checksum of every file"),
        _command_line("asyncsink-mtime", "--overwrite size-mtime", "size and time"),
        Contender(
            "asyncsink-journal",
            "asyncsink, --journal FILE",
            lambda work: [*asyncsink(work), "--journal", str(work.scratch / f"{work.bucket}.journal")],
            _command_missing,
            _OURS,
            repeats="its journal: size, mtime, ctime, inode",
            own_clock=False,
            only_repeats=True,
            every_python=True,
        ),
        Contender(
            OBSTORE,
            "obstore, unsigned_payload=True",
            script("obstore_put", "unsigned"),
            needs("obstore"),
            "nothing",
            every_python=True,
        ),
        Contender(
            "obstore",
            "obstore, default",
            script("obstore_put", "default"),
            needs("obstore"),
            "SHA-256 of the payload, in the signature",
            every_python=True,
            grabs=script("obstore_get", grab=True),
            proves="nothing",
        ),
        Contender(
            "s5cmd",
            "s5cmd",
            s5cmd,
            needs_program(s5cmd_path, "s5cmd"),
            "MD5 of objects and parts, and SHA-256 in the signature",
            repeats="size and time",
            own_clock=False,
            grabs=s5cmd_grab,
            proves="nothing",
        ),
        Contender(
            "rclone",
            "rclone",
            rclone,
            needs_program(rclone_path, "rclone"),
            "MD5 of objects and parts (no HEAD afterwards)",
            repeats="size and time",
            own_clock=False,
            grabs=rclone_grab,
            proves="MD5 where the ETag is one",
        ),
        Contender(
            "rclone-size-only",
            "rclone --size-only",
            rclone_size_only,
            needs_program(rclone_path, "rclone"),
            "MD5 of objects and parts",
            repeats="size",
            own_clock=False,
            only_repeats=True,
        ),
        Contender(
            "fast-s3",
            "fast-s3",
            script("fast_s3_upload"),
            needs("fast_s3"),
            "SHA-256 of the payload, in the signature",
            whole_files=True,
        ),
        Contender(
            "aioboto3",
            "aioboto3 upload_file",
            script("aioboto3_upload"),
            needs("aioboto3"),
            _BOTOCORE,
        ),
        Contender(
            "boto3",
            "boto3 TransferManager",
            script("boto3_transfer"),
            needs("boto3"),
            _BOTOCORE,
            grabs=script("boto3_transfer", "grab", grab=True),
            proves=_BOTOCORES_PROOF,
        ),
        _service(PUT, "AsyncSink.put", "asyncsink_service put", _command_missing, _OURS_IN_SERVICE),
        _service(SUBMIT, "AsyncSink.submit", "asyncsink_service submit", _command_missing, _OURS_IN_SERVICE),
        _service(PUT_BYTES, "AsyncSink.put_bytes", "asyncsink_service put_bytes", _command_missing, _OURS_IN_SERVICE),
        _service(
            DIRECTORY, "export_directory", "asyncsink_service export_directory", _command_missing, _OURS_IN_SERVICE
        ),
        _service(OBSTORE_BYTES, "obstore, put_async of bytes", "obstore_service bytes", needs("obstore"), "nothing"),
        _service(OBSTORE_PATH, "obstore, put_async of a path", "obstore_service path", needs("obstore"), "nothing"),
        _service(AIOBOTO3_BYTES, "aioboto3, put_object", "aioboto3_service bytes", needs("aioboto3"), _BOTOCORE),
        _service(GET, "S3Reader.get", "asyncsink_service get", _command_missing, _COMPARED),
        _service(OBSTORE_GET, "obstore, get_async", "obstore_service get", needs("obstore"), "nothing"),
        _service(AIOBOTO3_GET, "aioboto3, get_object", "aioboto3_service get", needs("aioboto3"), _BOTOCORES_PROOF),
        Contender(
            OUR_DATASINK,
            "asyncsink's DataSink",
            script("nipype_datasink", "asyncsink"),
            needs("nipype"),
            _OURS.removesuffix("; manifest"),
            repeats="checksum",
        ),
        Contender(
            DATASINK,
            "Nipype DataSink",
            script("nipype_datasink", "nipype"),
            needs("nipype"),
            _BOTOCORE,
            repeats="MD5 = ETag",
        ),
    )
}
