"""What a run is told: frozen, keyword-only, validated when it is made.

`options.parse_options` turns the public options (DataSink's names and ours) into one `Settings`; everything it refuses
is a ConfigError of one sentence. No value here touches the network or the disk.
"""

from __future__ import annotations

import threading
from dataclasses import field
from typing import Any, Literal

from asyncsink.model import ChecksumAlgorithm
from asyncsink.value import dataclass

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BANDWIDTH_BYTES_PER_SECOND_MIN = 16 * KIB
"""With less, two requests at a time would keep the server waiting too long."""

WORKERS_MAX = 128
"""Tasks that work on files at a time, at most, where nobody asks for more: each may have several requests in flight,
and holds a file open."""

WRITE_METADATA_NAME = "asyncsink-write"
"""User metadata (x-amz-meta-…) by which a write whose answer was lost is told from somebody else's."""
WRITE_TOKEN_CHARACTERS = 32

Compat = Literal["strict", "nipype"]
SubstitutionScope = Literal["key", "full"]
StripDirMode = Literal["prefix", "replace"]
Overwrite = Literal["never", "always", "size", "size-mtime", "checksum", "journal"]
OnMissing = Literal["error", "skip"]
OnUnreadable = Literal["error", "skip"]
OnCollision = Literal["error", "last"]
OnUnreachable = Literal["error", "local"]
Symlinks = Literal["inside", "follow", "skip", "error"]
AddressingStyle = Literal["auto", "path", "virtual"]
SignPayload = Literal["auto", "always", "never"]
LaneChoice = Literal["auto", "wire", "aioboto3"]
LocalCopyMode = Literal["copy", "hardlink", "reflink"]
ChecksumChoice = Literal["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"]


SECRETS_MAX = 256
"""Secrets that are remembered, the newest: credentials that were renewed every hour for ten days."""
_known: tuple[bytes, ...] = ()
_knowing = threading.Lock()


def known_secrets() -> tuple[bytes, ...]:
    """The values of every Secret of this process, those of credentials that have ended among them.

    Of the whole process, because what must not show must not show in anybody's messages or logs, also where one sink's
    server repeats what another sink was given.
    """
    return _known


def _remember(value: bytes) -> None:
    global _known  # noqa: PLW0603 - see known_secrets
    if value in _known:
        return
    with _knowing:
        _known = (*(each for each in _known if each != value), value)[-SECRETS_MAX:]


class Secret:
    """Bytes that never show: neither in a repr, nor in a log, nor in an error message."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value
        _remember(value)

    def reveal(self) -> bytes:
        """The bytes themselves; only for the code that sends them."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingOptions:
    """How attributes and paths become keys (Nipype rules 9 to 26).

    Attributes:
        container: folder below base_directory, or "".
        parameterization: keep the components of a source's absolute path that start with "_" (rule 14).
        parameterization_root: only components below this absolute directory count, or "" for all.
        strip_dir: absolute directory whose prefix is removed before the "_" components are looked for, or "".
        substitutions: (old, new) pairs, applied one after another; they cascade (rule 19).
        regexp_substitutions: (pattern, replacement) pairs, applied after `substitutions`.
        compat: "strict" repairs what Nipype misplaces; "nipype" keeps it wherever it succeeds.
        substitution_scope: "key" (below base_directory) or "full" (the whole URL or path; the base must survive).
        strip_dir_mode: "prefix" is path-aware, "replace" is Nipype's str.replace (rule 15).
        substitute_files: also apply substitutions to the files inside a directory source (rule 22).
    """

    container: str = ""
    parameterization: bool = True
    parameterization_root: str = ""
    strip_dir: str = ""
    substitutions: tuple[tuple[str, str], ...] = ()
    regexp_substitutions: tuple[tuple[str, str], ...] = ()
    compat: Compat = "strict"
    substitution_scope: SubstitutionScope = "key"
    strip_dir_mode: StripDirMode = "prefix"
    substitute_files: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Target:
    """A bucket and a prefix, and how to reach them.

    Attributes:
        bucket, prefix: from s3://bucket/prefix; the prefix has no leading or trailing "/".
        url: the destination as the user wrote it, without a trailing "/" (rule 25: its case is kept in out_file).
        endpoint_url, region, profile, creds_path: "" where the chain of aioboto3 decides.
        anonymous: send unsigned requests.
        request_payer: accept the charges of a requester-pays bucket.
        addressing_style: "auto" is path style with an endpoint_url and virtual-host style without.
        sign_payload: whether the signature holds the body's SHA-256: "auto" is over plain HTTP to another machine only.
        ca_bundle: file with the certificates to trust, or "" for the system's.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalTarget:
    """A directory on this machine.

    Attributes:
        directory: absolute path.
        url: the destination as the user wrote it, without a trailing "/".
        mode: "copy", "hardlink" (falls back to a copy across file systems) or "reflink" (likewise).
        stands_in: it is given what a bucket would have been given, because that cannot be used.
    """

    directory: str
    url: str = ""
    mode: LocalCopyMode = "copy"
    stands_in: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectOptions:
    """What every object is given (S3 API, PutObject and CreateMultipartUpload).

    Attributes:
        sse: "", "AES256", "aws:kms" or "aws:kms:dsse".
        sse_kms_key_id: for the two kms forms; "" is the account's default key.
        sse_customer_key: 32 bytes (SSE-C), or None.
        storage_class, acl: S3's names, or "" for the bucket's default.
        tags, metadata: as (name, value) pairs.
        content_type: "infer" (from the file's name), or one media type for all.
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
    """Every queue, buffer and pool has its limit here.

    Attributes:
        concurrency: most requests in flight; None lets the policy go from `concurrency_start` up to `concurrency_max`.
        concurrency_start, concurrency_max: for the adaptive limit. How far it goes, the network decides
            (engine/concurrency.py): 1,024 in flight are 10,000 requests a second to a server that is 100 ms away.
        part_size_bytes: wanted size of a part; grows where 10,000 parts would not suffice.
        multipart_threshold_bytes: files of this size and more are sent in parts.
        memory_bytes: bytes of file content held at any moment, over all files and parts.
        queue_transfers: entries waiting between the walk and the workers: files, or batches of small ones.
        reader_threads: threads that read source files and write local copies.
        bandwidth_bytes_per_second: most bytes that are sent in a second, over all requests; None is no limit. A low one
            also lowers the concurrency, since each request must get its turn before the server hangs up.
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


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a run's transfers: `index` is from 0 to count - 1. The default is the whole."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """One layer of retries around one S3 request.

    Attributes:
        attempts: how often a request is sent at most. Answers that ask to slow down (503 SlowDown, 429) do not count:
            the server works, and has said that a later request will do. With full jitter, eight attempts are over after
            13 s on average, and S3 may throttle for minutes while it partitions a prefix.
        throttled_seconds: for so long a request that is throttled is sent again, from its first attempt on; it has
            `attempts` in any case. 0 makes those answers count as all others do.
        backoff_seconds_base, backoff_seconds_max: full jitter between 0 and min(max, base * 2**(attempt - 1)).
        retry_after_seconds_max: the longest `Retry-After` that is honoured.
        connect_seconds: for the TCP and TLS handshakes.
        stall_seconds: no byte in either direction for so long is Stalled.
        complete_seconds: the same for CompleteMultipartUpload, whose answer S3 may prepare for minutes.
        abort_seconds: the longest that a cancelled run spends on aborting one multipart upload.
        credentials_seconds: the longest wait for one answer of a source of credentials (a credential process, STS, SSO,
            a metadata service).
    """

    attempts: int = 8
    throttled_seconds: float = 300.0
    backoff_seconds_base: float = 0.2
    backoff_seconds_max: float = 20.0
    retry_after_seconds_max: float = 120.0
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    complete_seconds: float = 600.0
    abort_seconds: float = 10.0
    credentials_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """What to do where more than one thing would be reasonable.

    Attributes:
        overwrite: when an object that is already there is sent again.
        on_missing: sources that do not exist or are no regular files: an error, or a reported Skip.
        on_unreadable: sources that may not be read, or have no legal key: an error before anything is sent, or a
            Failure each, and the rest is published.
        exclude: patterns as in .gitignore: what they match in a directory is left out, and reported.
        on_collision: two sources for one key: an error before anything is sent, or the last one wins.
        on_unreachable: the bucket cannot be reached: an error, or everything is kept in ~/s3_datasink_<bucket>.
        symlinks: links below a directory: follow those that stay inside it (the others are refused), or all, or skip
            (reported), or error. Loops are refused.
        checksum: what is sent in the request header, or "none"; None is the default, CRC64NVME, as far as environment
            and profile do not say otherwise.
        related_files: files written locally bring .hdr/.img/.mat and .BRIK/.HEAD companions along (rule 30).
        retries: further rounds, at the end of a run whose source can be walked again, over files that failed for a
            cause that may pass.
        give_up_after_seconds: the longest that a run waits for a server that is gone.
        abort_on_interrupt: a run that is stopped aborts its multipart uploads, also where the journal has their parts.
    """

    overwrite: Overwrite = "checksum"
    on_missing: OnMissing = "error"
    on_unreadable: OnUnreadable = "error"
    exclude: tuple[str, ...] = ()
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
class JournalChoice:
    """Whether a run keeps a journal, and where.

    Attributes:
        enabled: False: none is read, and none is written.
        path: absolute path of the file, or "" for the destination's own below `state_directory`.
        required: the run is refused where the journal cannot be used: one was named, or overwrite="journal" asks for
            one. Else the run goes on without, and says so.
        state_directory: the user's (XDG Base Directory Specification, XDG_STATE_HOME); "~" is expanded where it is
            used.
    """

    enabled: bool = True
    path: str = ""
    required: bool = False
    state_directory: str = "~/.local/state"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a run is told, in its parts."""

    target: S3Target | LocalTarget
    routing: RoutingOptions = field(default_factory=RoutingOptions)
    objects: ObjectOptions = field(default_factory=ObjectOptions)
    limits: Limits = field(default_factory=Limits)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    policies: Policies = field(default_factory=Policies)
    local_copy: LocalTarget | None = None
    manifest: str = ""
    journal: JournalChoice = JournalChoice(enabled=False)
    remove_dest_dir: bool = False
    transport: LaneChoice = "auto"
    shard: Shard = Shard()
    caller_bucket: Any = None
    """A boto3 or aioboto3 Bucket whose client settings are taken over (rule 47), or None."""

    @property
    def walk_compat(self) -> Compat:
        """How directories are walked: DataSink leaves links to directories out on S3, and follows them locally (27)."""
        return "strict" if isinstance(self.target, LocalTarget) else self.routing.compat
