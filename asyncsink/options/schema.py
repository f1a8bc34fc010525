"""The options: one row for each in `PANELS`, and the parts of `Settings` that their checked values make up.

Parsing, the flags of the command, Nipype's inputs, `help(asyncsink.ExportOptions)` and the guide's page options.md come
from the rows. A new option is a field of the part that it belongs to, its type in `typed`, and a row; a value that its
kind does not check has a function in `parse`.

All parts are frozen, keyword-only, and touch neither the network nor the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, get_args

from asyncsink.options.progress import ProgressSnapshot
from asyncsink.options.settings import (
    MIB,
    WORKERS_MAX,
    ChecksumAlgorithm,
    JournalChoice,
    RetryPolicy,
    Secret,
    Shard,
    Together,
)
from asyncsink.options.shared_limits import SharedLimits
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.model import Event  # values carry options

Compat = Literal["strict", "nipype"]
Overwrite = Literal["never", "always", "size", "size-mtime", "checksum", "journal"]
OnMissing = Literal["error", "skip"]
OnUnreadable = Literal["error", "skip"]
OnCollision = Literal["error", "last"]
OnUnreachable = Literal["error", "local"]
Preset = Literal["none", "bids", "datalad"]
Symlinks = Literal["inside", "follow", "skip", "error"]
AddressingStyle = Literal["auto", "path", "virtual"]
SignPayload = Literal["auto", "always", "never"]
LaneChoice = Literal["auto", "wire", "aioboto3"]
LocalCopyMode = Literal["copy", "hardlink"]
ChecksumChoice = Literal["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"]
TemplateSyntax = Literal["regex", "glob"]
Match = Literal["full", "start"]

# -- The parts of a run's settings; the rows below explain the fields --------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingOptions:
    """How attributes and paths become keys (Nipype rules 9 to 26)."""

    container: str = ""
    parameterization: bool = True
    parameterization_root: str = ""
    strip_dir: str = ""
    substitutions: tuple[tuple[str, str], ...] = ()
    regexp_substitutions: tuple[tuple[str, str], ...] = ()
    compat: Compat = "strict"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Target:
    """A bucket and a prefix, and how to reach them. "" leaves a value to the environment and the profile.

    Attributes:
        bucket, prefix: from s3://bucket/prefix; the prefix has no leading or trailing "/".
        url: the destination as the user wrote it, without a trailing "/" (rule 25: its case is kept in out_file).
    """

    bucket: str
    prefix: str = ""
    url: str = ""
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    creds_path: str = ""
    anonymous: bool = False
    request_payer: bool = False
    addressing_style: AddressingStyle = "auto"
    sign_payload: SignPayload = "auto"
    ca_bundle: str = ""

    def key_of(self, name: str) -> str:
        """The key of an object below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalTarget:
    """A directory on this machine.

    Attributes:
        directory: absolute path.
        url: the destination as the user wrote it, without a trailing "/".
        mode: "copy", or "hardlink", which falls back to a copy across file systems.
        stands_in: whether it gets the objects of a bucket that cannot be used.
    """

    directory: str
    url: str = ""
    mode: LocalCopyMode = "copy"
    stands_in: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTarget:
    """A caller's own destination.

    Attributes:
        destination: the object: a `Destination`, which this room does not know.
        url: its name.
    """

    destination: Any
    url: str


Target = S3Target | LocalTarget | OwnTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectOptions:
    """The properties of an object (S3 API, PutObject and CreateMultipartUpload); "" is the bucket's default.

    Attributes:
        sse_customer_key: 32 bytes (SSE-C), or None.
        tags, metadata: as (name, value) pairs.
    """

    sse: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    sse_kms_key_id: str = ""
    sse_customer_key: Secret | None = None
    storage_class: str = ""
    acl: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    content_type: str = "infer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of all queues, buffers and pools.

    Attributes:
        concurrency: most requests in flight; None lets the policy go from `concurrency_start` up to `concurrency_max`.
        concurrency_start, concurrency_max: bounds of the adaptive limit, which follows the network
            (engine/limits/concurrency.py): 1,024 in flight are 10,000 requests a second to a server 100 ms away.
        part_size_bytes: wanted size of a part; larger where 10,000 parts would not suffice.
        multipart_threshold_bytes: files of this size and more are sent in parts.
        memory_bytes: bytes of file content held at any moment, over all files and parts.
        queue_transfers: entries waiting between the walk and the workers: files, or batches of small ones.
        reader_threads: threads that read source files and write local copies.
        bandwidth_bytes_per_second: most bytes that are sent in a second, over all requests; None is no limit. A low one
            also lowers the concurrency, since each request must send before the server closes its connection.
    """

    concurrency: int | None = None
    concurrency_start: int = 64
    concurrency_max: int = 1024
    part_size_bytes: int = 8 * MIB
    multipart_threshold_bytes: int = 8 * MIB
    memory_bytes: int = 256 * MIB
    queue_transfers: int = 1000
    reader_threads: int = 8
    bandwidth_bytes_per_second: int | None = None

    @property
    def workers(self) -> int:
        """Tasks that work on files at a time. Requests in flight have their own limit."""
        return self.concurrency or min(self.concurrency_max, WORKERS_MAX)

    @property
    def parts_held(self) -> int:
        """Parts that may be in memory, or in lane threads, at a time."""
        return max(1, min(self.workers, self.memory_bytes // self.part_size_bytes))


PatternOptions = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """The choices between reasonable behaviours.

    Attributes:
        files_from: the path of a file of paths, or the paths.
        newer_than, older_than: seconds since the epoch.
        object_options: by pattern of a key below the destination, the fields of ObjectOptions that its objects have in
            the place of the run's; later ones go over earlier ones.
        checksum: the algorithm for the request header, or "none"; None is the default, CRC64NVME, unless environment
            and profile have another setting.
    """

    overwrite: Overwrite = "checksum"
    on_missing: OnMissing = "error"
    on_unreadable: OnUnreadable = "error"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_from: tuple[str, ...] = ()
    files_from: str | tuple[str, ...] = ()
    preset: Preset = "none"
    min_size_bytes: int | None = None
    max_size_bytes: int | None = None
    newer_than: float | None = None
    older_than: float | None = None
    object_options: tuple[PatternOptions, ...] = ()
    on_collision: OnCollision = "error"
    on_unreachable: OnUnreachable = "error"
    symlinks: Symlinks = "inside"
    checksum: ChecksumChoice | None = None
    related_files: bool = False
    retries: int = 1
    give_up_after_seconds: float = 600.0
    abort_on_interrupt: bool = False

    @property
    def algorithm(self) -> ChecksumAlgorithm | None:
        """The checksum's algorithm, or None where checksums are off."""
        return None if self.checksum == "none" else self.checksum or "CRC64NVME"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The validated options of a run, in parts.

    Attributes:
        caller_bucket: a boto3 or aioboto3 Bucket whose client settings are taken over (rule 47), or None.
        wrap_transport: makes the caller's own transport around that of asyncsink, or None.
        observe: called with every event, or None.
        progress: called with snapshots of the progress, or whether it is shown.
        shared: the limits that this run keeps together with others, or None; `limits` are its own within them.
        records_max: how many of its newest outcomes of each kind, and of its newest keys, a sink keeps; None: all.
        attempt: a name of this run, where other machines may write the manifest at the same time; else "".
    """

    target: Target
    routing: RoutingOptions = field(default_factory=RoutingOptions)
    objects: ObjectOptions = field(default_factory=ObjectOptions)
    limits: Limits = field(default_factory=Limits)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    policies: Policies = field(default_factory=Policies)
    together: Together = Together()
    local_copy: LocalTarget | None = None
    manifest: str = ""
    report: str = ""
    journal: JournalChoice = JournalChoice(enabled=False)
    remove_dest_dir: bool = False
    transport: LaneChoice = "auto"
    wrap_transport: Callable[[Any], Any] | None = None
    observe: Callable[[Event], None] | None = None
    progress: Callable[[ProgressSnapshot], object] | bool = False
    shared: SharedLimits | None = None
    shard: Shard = Shard()
    caller_bucket: Any = None
    records_max: int | None = None
    attempt: str = ""

    @property
    def walk_compat(self) -> Compat:
        """How directories are walked: DataSink leaves links to directories out on S3, and follows them locally (rule
        27)."""
        return "strict" if isinstance(self.target, LocalTarget) else self.routing.compat


# -- The rows ----------------------------------------------------------------------------------------------------------

Command = Literal[
    "export",
    "grab",
    "check",
    "ls",
    "verify",
    "merge",
    "abort-uploads",
    "split",
    "run",
    "runs",
    "bench",
    "reader",
]
Kind = Literal[
    "text", "path", "flag", "choice", "size", "duration", "pairs", "mapping", "texts", "moment", "paths", "listing",
    "object_options", "bucket", "payer", "concurrency", "count", "retry", "observer", "progress", "limits", "shard",
    "journal", "sse", "checksum", "transport", "templates", "arguments", "infields", "names",
]  # fmt: skip
"""How a value is written and checked: the first row serves many options, the others one each."""

_EXPORT: tuple[Command, ...] = ("export",)
_OBJECTS: tuple[Command, ...] = ("export", "split")
_WITH_SPLIT: tuple[Command, ...] = ("export", "split", "check")
_GRAB: tuple[Command, ...] = ("grab",)
_WITH_RUN: tuple[Command, ...] = ("export", "run")
_BOTH: tuple[Command, ...] = ("export", "grab", "run")
_WITH_READER: tuple[Command, ...] = ("export", "grab", "check", "run", "reader")
_WITH_VERIFY: tuple[Command, ...] = ("export", "grab", "check", "verify", "run", "reader")
_ALL: tuple[Command, ...] = ("export", "grab", "check", "ls", "verify", "abort-uploads", "run", "bench", "reader")
_WITH_BENCH: tuple[Command, ...] = (*_WITH_READER, "bench")


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        name: its name in Python.
        kind: how its value is written and checked.
        help: one sentence (or two) without the default. Python, the command, Nipype and the guide show the same.
        part: the part of Settings that has a field of this name, with the default; None where `preset` is the default.
        commands: the commands that take it. "export" stands for `plan`, `ExportOptions` and DataSink too, "grab" for
            `GrabOptions` and S3DataGrabber; "reader" is no command, but `ReaderOptions`.
        choices: the values of kind "choice", or the known values of another kind.
        flag: the flag of the command line; "" is the name with dashes.
        metavar: the placeholder for the value in the help page.
        sets: the value of the flag where none follows it.
        off, off_help: a flag that sets False, and its own sentence.
        no_flag: whether it is an option of Python and Nipype only.
        shown: the default in words, where the value itself does not show it.
        variables: environment variables that set the value where the option is not given.
    """

    name: str
    kind: Kind
    help: str
    part: type | None = None
    commands: tuple[Command, ...] = _EXPORT
    choices: tuple[str, ...] = ()
    flag: str = ""
    metavar: str = ""
    sets: Any = None
    off: str = ""
    off_help: str = ""
    no_flag: bool = False
    preset: Any = None
    shown: str = ""
    variables: str = ""

    @property
    def default(self) -> Any:
        """The value where none is given."""
        return self.part.__dataclass_fields__[self.name].default if self.part else self.preset  # type: ignore[attr-defined]

    @property
    def default_shown(self) -> str:
        """The default as people write it, or ""."""
        if self.kind == "choice" and not self.shown:
            return str(self.default)
        return self.shown or ("True" if self.default is True else "")

    @property
    def sentence(self) -> str:
        """The help with the default."""
        return f"{self.help[:-1]} (default {self.default_shown})." if self.default_shown else self.help

    @property
    def switch(self) -> str:
        """The flag of the command line, or ""."""
        return "" if self.no_flag else self.flag or f"--{self.name.replace('_', '-')}"


# fmt: off
PANELS: dict[str, tuple[Option, ...]] = {
    "Which objects (all below SOURCE without a template)": (
        Option("template", "text", "Regular expression of the keys below SOURCE, with %s; the same for every output.",
               None, _GRAB, metavar="PATTERN", preset=""),
        Option("field_template", "templates", "The template of one output; repeatable.",
               None, _GRAB, metavar="FIELD=PATTERN"),
        Option("template_args", "arguments", """What fills the %s: {"func": [["subject", "run-1"]]}.""",
               None, _GRAB, metavar="JSON", shown="all infields, in order"),
        Option("infields", "infields", "Value for an argument NAME; several values are gone through together.",
               None, _GRAB, flag="--infield", metavar="NAME=VALUE"),
        Option("outfields", "names", "Names of the outputs.",
               None, _GRAB, no_flag=True, shown="those of template_args and field_template, else outfiles"),
        Option("template_syntax", "choice", "Templates are globs: *, ?, sets in brackets, ** for folders; or regex.",
               None, _GRAB, get_args(TemplateSyntax), flag="--glob", sets="glob", preset="regex"),
        Option("match", "choice", "A template need only match a key's start, as S3DataGrabber has it; or the full key.",
               None, _GRAB, get_args(Match), flag="--match-start", sets="start", preset="full"),
        Option("raise_on_empty", "flag", "A template (or the source) without objects is an error.",
               None, _GRAB, preset=True, no_flag=True,
               off="--allow-empty", off_help="A template without objects is no error."),
        Option("manifest", "path",
               "The exporter's receipt manifest: it proves every byte; what is missing, or not in it, is told.",
               None, _GRAB, metavar="FILE", preset=""),
        Option("sort_filelist", "flag", "Sort what a template found, run-2 before run-10.",
               None, _GRAB, preset=True, no_flag=True),
    ),
    "Which files of SOURCE": (
        Option("include", "texts",
               "Publish only what matches in a directory, as in .gitignore; repeatable. What is excluded stays out.",
               Policies, _WITH_SPLIT, metavar="PATTERN"),
        Option("exclude", "texts",
               "Leave out (and report) what matches in a directory, as in .gitignore; repeatable. !PATTERN undoes it.",
               Policies, _WITH_SPLIT, metavar="PATTERN"),
        Option("exclude_from", "paths", "The same with the patterns of a file; repeatable.",
               Policies, _WITH_SPLIT, metavar="FILE"),
        Option("files_from", "listing",
               "Publish only these files and folders: a list of paths below SOURCE, one a line (in Python also the "
               "paths themselves).",
               Policies, _WITH_SPLIT, metavar="FILE"),
        Option("preset", "choice",
               "Leave out what a kind of dataset has besides its data: datalad (.git, .datalad), bids (these, work "
               "folders, .DS_Store and the like), or none.",
               Policies, _WITH_SPLIT, get_args(Preset), metavar="NAME"),
        Option("min_size_bytes", "size", "Leave out smaller files.",
               Policies, _WITH_SPLIT, flag="--min-size", metavar="SIZE"),
        Option("max_size_bytes", "size", "Leave out larger files.",
               Policies, _WITH_SPLIT, flag="--max-size", metavar="SIZE"),
        Option("newer_than", "moment", "Leave out files that were changed earlier: 7d (ago), or a date.",
               Policies, _WITH_SPLIT, metavar="WHEN"),
        Option("older_than", "moment", "Leave out files that were changed later: 1h (ago), or a date.",
               Policies, _WITH_SPLIT, metavar="WHEN"),
    ),
    "Local copy and records": (
        Option("local_copy", "path", "Also write everything here, from the same bytes.",
               Settings, metavar="DIR"),
        Option("local_copy_mode", "choice", "How local files are made: copy or hardlink.",
               None, choices=get_args(LocalCopyMode), metavar="MODE", preset="copy"),
        Option("related_files", "flag", "Local copies bring .hdr/.img/.mat and .BRIK/.HEAD partners along.",
               Policies),
        Option("remove_dest_dir", "flag", "Empty the local folders that directories are copied to first; never on S3.",
               Settings, no_flag=True),
        Option("manifest", "path", "Write a record of every object, for `asyncsink verify`.",
               Settings, metavar="FILE"),
        Option("report", "path", "Write a page about the run when it ends: .html for a browser, or .json.",
               Settings, _BOTH, metavar="FILE"),
        Option("journal", "journal",
               "Remember what is published here, so that a re-run skips it unread and goes on where it was stopped; "
               "local destinations have none.",
               None, _WITH_RUN, metavar="FILE", off="--no-journal", variables="XDG_STATE_HOME, XDG_RUNTIME_DIR",
               off_help="Remember nothing: each run compares everything with the server.",
               shown="a file per destination in ~/.local/state/asyncsink"),
    ),
    "Published together": (
        Option("index", "text",
               "Then publish a list of what is there, with size, checksum, ETag and version: NAME below DESTINATION, "
               ".csv, .json or .jsonl.",
               Together, metavar="NAME"),
        Option("complete_marker", "text",
               "At the very end publish NAME below DESTINATION, if everything succeeded; it is removed before a run "
               "changes an object.",
               Together, metavar="NAME"),
        Option("delete_extraneous", "flag",
               "When all is published, delete objects below DESTINATION that no source has and exclude does not match.",
               Together),
        Option("delete_max", "text",
               "Most objects to delete: a number, or a share of those that are there (5%); else nothing is sent.",
               Together, metavar="N|P%", shown="10%, at least 10 and at most 1,000"),
    ),
    "What to do when": (
        Option("overwrite", "choice",
               "The object exists: send it if its checksum differs (checksum), size, size-mtime, never, always; or ask "
               "the journal first (journal).",
               Policies, _WITH_RUN, get_args(Overwrite), metavar="POLICY",
               shown="checksum; journal where one is named"),
        Option("on_missing", "choice", "A source is missing or no regular file: error, or skip and report it.",
               Policies, _WITH_SPLIT, choices=get_args(OnMissing), metavar="POLICY"),
        Option("on_unreadable", "choice",
               "A file or folder cannot be read, or its name makes no legal key: error (nothing is sent), or skip: "
               "report it as a failure (exit code 1) and send the rest.",
               Policies, _WITH_SPLIT, get_args(OnUnreadable), metavar="POLICY", shown="as for a missing source"),
        Option("on_collision", "choice", "Two sources go to one key: error, or the last one.",
               Policies, _WITH_SPLIT, choices=get_args(OnCollision), metavar="POLICY"),
        Option("on_unreachable", "choice",
               "The bucket cannot be used: error, or local: keep all in ~/s3_datasink_BUCKET.",
               Policies, choices=get_args(OnUnreachable), metavar="POLICY"),
        Option("symlinks", "choice",
               "Links: inside (none that leads out of its directory), follow, skip (reported) or error.",
               Policies, _WITH_SPLIT, get_args(Symlinks), metavar="POLICY",
               shown="inside, or follow with compat nipype"),
        Option("abort_on_interrupt", "flag",
               "Ctrl-C aborts open multipart uploads; without, the next run goes on with what the journal has of them.",
               Policies, _WITH_RUN),
        Option("retries", "count", "Further rounds over files that failed for a passing cause, at the end of a run.",
               Policies, _BOTH, metavar="N", shown="1"),
        Option("give_up_after_seconds", "duration", "The server is gone: wait so long, and stop.",
               Policies, _WITH_VERIFY, flag="--give-up-after", metavar="TIME", shown="10m"),
        Option("observe", "observer",
               "A function to call with every event (asyncsink.Event), on the event loop; it must return quickly.",
               Settings, _WITH_READER, no_flag=True),
        Option("progress", "progress",
               "True shows the progress in a notebook, on a terminal, or as lines on stderr; a function is called "
               "every half second with an asyncsink.ProgressSnapshot, on the event loop.",
               Settings, ("export", "grab"), no_flag=True),
    ),
    "Connection and credentials": (
        Option("endpoint_url", "text", "S3 server other than Amazon's.",
               S3Target, _ALL, metavar="URL", variables="AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL"),
        Option("region", "text", "Region of the bucket.",
               S3Target, _ALL, metavar="NAME", variables="AWS_REGION, AWS_DEFAULT_REGION"),
        Option("profile", "text", "Profile of ~/.aws to use.",
               S3Target, _ALL, metavar="NAME", variables="AWS_PROFILE"),
        Option("creds_path", "path", "Credentials file as Amazon hands it out (CSV or two lines).",
               S3Target, _ALL, metavar="FILE", variables="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        Option("anonymous", "flag", "Send unsigned requests.",
               S3Target, _ALL),
        Option("request_payer", "payer", "Accept the charges of a requester-pays bucket.",
               S3Target, _ALL),
        Option("addressing_style", "choice", "How requests name the bucket: auto, path or virtual.",
               S3Target, _ALL, get_args(AddressingStyle), metavar="STYLE"),
        Option("sign_payload", "choice",
               "Sign the body's SHA-256 too: auto (over plain HTTP to another machine), always (where a bucket's "
               "policy asks for it) or never.",
               S3Target, _ALL, get_args(SignPayload), metavar="WHEN"),
        Option("ca_bundle", "path", "Certificates to trust instead of the system's.",
               S3Target, _ALL, metavar="FILE", variables="AWS_CA_BUNDLE"),
        Option("bucket", "bucket", "Bucket to use instead of the one in the URL: a name, a boto3 or aioboto3 Bucket.",
               None, _ALL, metavar="NAME"),
        Option("sse", "sse", "Your own 32-byte key, where the objects are encrypted with it.",
               None, ("grab", "check", "verify", "run", "reader"), metavar="file:PATH"),
        Option("retry", "retry", "How one request is tried again: an asyncsink.RetryPolicy.",
               None, _WITH_READER, no_flag=True),
    ),
    "Names of the objects": (
        Option("container", "text", "Folder below the destination.",
               RoutingOptions, _WITH_SPLIT, metavar="NAME"),
        Option("parameterization", "flag", "Keep the folders of a source's path that begin with _.",
               RoutingOptions, _WITH_SPLIT, off="--no-parameterization",
               off_help="Leave out the folders of a source's path that begin with _."),
        Option("parameterization_root", "path", "Only folders below this directory count for parameterization.",
               RoutingOptions, _WITH_SPLIT, no_flag=True),
        Option("strip_dir", "path", "Leave this directory out of the sources' paths.",
               RoutingOptions, _WITH_SPLIT, metavar="DIR"),
        Option("substitutions", "pairs", r"Replace OLD in names by NEW; repeatable. Write \= for a = in OLD.",
               RoutingOptions, _WITH_SPLIT, flag="--substitute", metavar="OLD=NEW"),
        Option("regexp_substitutions", "pairs", "The same with a regular expression, afterwards; repeatable.",
               RoutingOptions, _WITH_SPLIT, flag="--regexp-substitute", metavar="PATTERN=NEW"),
        Option("compat", "choice",
               "strict, or nipype: DataSink's ways wherever they lose nothing (substitutions see the whole URL, "
               "strip_dir is cut out anywhere, links are followed).",
               RoutingOptions, _WITH_SPLIT, choices=get_args(Compat), metavar="MODE"),
    ),
    "What every object is given": (
        Option("encrypt_bucket_keys", "flag", "Encrypt on the server (the same as AES256 for sse).",
               None, _OBJECTS, preset=False),
        Option("sse", "sse", "AES256, aws:kms, aws:kms:dsse, or your own 32-byte key (on a command line: file:PATH).",
               ObjectOptions, _OBJECTS, metavar="KIND"),
        Option("sse_kms_key_id", "text", "Key for the two kms kinds.",
               ObjectOptions, _OBJECTS, metavar="ID"),
        Option("storage_class", "text", "Such as STANDARD_IA or GLACIER_IR.",
               ObjectOptions, _OBJECTS, metavar="CLASS"),
        Option("acl", "text", "Canned ACL, such as bucket-owner-full-control.",
               ObjectOptions, _OBJECTS, metavar="ACL"),
        Option("tags", "mapping", "Object tag; up to 10.",
               ObjectOptions, _OBJECTS, flag="--tag", metavar="NAME=VALUE"),
        Option("metadata", "mapping", "User metadata, up to 2 KiB; repeatable.",
               ObjectOptions, _OBJECTS, metavar="NAME=VALUE"),
        Option("content_type", "text", "Media type: infer (from the name), or one type for all.",
               ObjectOptions, _OBJECTS, metavar="TYPE", shown="infer"),
        Option("object_options", "object_options",
               "Other values for keys that match a pattern (as in .gitignore): '*.json:content_type=text/plain'; also "
               "storage_class, acl, sse, sse_kms_key_id, tag, metadata; repeatable, the last one wins.",
               Policies, _OBJECTS, flag="--set", metavar="RULE"),
        Option("checksum", "checksum", "What proves an object: CRC64NVME, CRC32C, CRC32, SHA256, MD5 or none.",
               Policies, (*_OBJECTS, "bench"), choices=get_args(ChecksumChoice), metavar="NAME", shown="CRC64NVME",
               variables="AWS_REQUEST_CHECKSUM_CALCULATION"),
    ),
    "Speed and memory": (
        Option("concurrency", "concurrency", "Requests at the same time: a number, or auto.",
               Limits, _WITH_READER, metavar="N", shown="auto"),
        Option("part_size_bytes", "size", "Size of the parts of large files.",
               Limits, _WITH_BENCH, flag="--part-size", metavar="SIZE", shown="8MiB"),
        Option("transport", "transport",
               "How objects travel: auto, wire (own HTTP), or aioboto3 (in Python also a callable: a transport of your "
               "own around these).",
               Settings, _WITH_BENCH, get_args(LaneChoice), metavar="LANE", shown="auto"),
        Option("memory_bytes", "size", "Most file content held at once.",
               Limits, _WITH_BENCH, flag="--memory", metavar="SIZE", shown="256MiB"),
        Option("limits", "limits",
               "Limits that several sinks, readers, exports and grabs of this process keep together: an "
               "asyncsink.SharedLimits.",
               None, _WITH_READER, no_flag=True),
        Option("bandwidth_bytes_per_second", "size", "Most bytes sent in a second, such as 50MB.",
               Limits, _WITH_RUN, flag="--bandwidth", metavar="SIZE", shown="no limit"),
        Option("shard", "shard", "Publish part I of N only, I from 0 to N-1: for N machines on one source.",
               metavar="I/N"),
    ),
}
# fmt: on

GONE = {
    "substitution_scope": "compat='nipype' applies substitutions to the whole URL, compat='strict' to the key",
    "strip_dir_mode": "compat='nipype' cuts strip_dir out anywhere, compat='strict' at the beginning of a path",
    "substitute_files": "export_directory applies substitutions to each file of a directory",
}
"""Options of earlier versions, and their successors."""


def options_of_command(command: Command) -> Iterator[Option]:
    """The options of a command, in the order of the help page."""
    return (option for rows in PANELS.values() for option in rows if command in option.commands)


OPTIONS = {option.name: option for option in options_of_command("export")}
GRAB_OPTIONS = {option.name: option for option in options_of_command("grab")}
READER_OPTIONS = {option.name: option for option in options_of_command("reader")}
SPLIT_OPTIONS = {option.name: option for option in options_of_command("split")}
RUN_OPTIONS = {option.name: option for option in options_of_command("run")}
