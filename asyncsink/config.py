"""What a run is told: frozen, keyword-only, validated when it is made.

`parse_options` turns the public options (DataSink's names and ours) into one `Settings`; everything it refuses is a
ConfigError of one sentence. No value here touches the network or the disk.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from asyncsink.errors import ConfigError
from asyncsink.model import ChecksumAlgorithm

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

Compat = Literal["strict", "nipype"]
SubstitutionScope = Literal["key", "full"]
StripDirMode = Literal["prefix", "replace"]
Overwrite = Literal["never", "always", "size", "size-mtime", "checksum"]
OnMissing = Literal["error", "skip"]
OnCollision = Literal["error", "last"]
OnUnreachable = Literal["error", "local"]
Symlinks = Literal["follow", "skip", "error"]
AddressingStyle = Literal["auto", "path", "virtual"]
SignPayload = Literal["auto", "always", "never"]
LaneChoice = Literal["auto", "wire", "aioboto3"]
LocalCopyMode = Literal["copy", "hardlink", "reflink"]
ChecksumChoice = Literal["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"]


class Secret:
    """Bytes that never show: neither in a repr, nor in a log, nor in an error message."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

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
    """

    directory: str
    url: str = ""
    mode: LocalCopyMode = "copy"


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
        concurrency_start, concurrency_max: for the adaptive limit.
        part_size_bytes: wanted size of a part; grows where 10,000 parts would not suffice.
        multipart_threshold_bytes: files of this size and more are sent in parts.
        memory_bytes: bytes of file content held at any moment, over all files and parts.
        queue_transfers: entries waiting between the walk and the workers: files, or batches of small ones.
        reader_threads: threads that read source files and write local copies.
    """

    concurrency: int | None = None
    concurrency_start: int = 32
    concurrency_max: int = 128
    part_size_bytes: int = 8 * MIB
    multipart_threshold_bytes: int = 8 * MIB
    memory_bytes: int = 256 * MIB
    queue_transfers: int = 1000
    reader_threads: int = 8


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
        attempts: how often a request is sent at most.
        backoff_seconds_base, backoff_seconds_max: full jitter between 0 and min(max, base * 2**(attempt - 1)).
        retry_after_seconds_max: the longest `Retry-After` that is honoured.
        connect_seconds: for the TCP and TLS handshakes.
        stall_seconds: no byte in either direction for so long is Stalled.
        complete_seconds: the same for CompleteMultipartUpload, whose answer S3 may prepare for minutes.
        abort_seconds: the longest that a cancelled run spends on aborting one multipart upload.
    """

    attempts: int = 8
    backoff_seconds_base: float = 0.2
    backoff_seconds_max: float = 20.0
    retry_after_seconds_max: float = 120.0
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    complete_seconds: float = 600.0
    abort_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """What to do where more than one thing would be reasonable.

    Attributes:
        overwrite: when an object that is already there is sent again.
        on_missing: sources that do not exist or are no regular files: an error, or a reported Skip.
        on_collision: two sources for one key: an error before anything is sent, or the last one wins.
        on_unreachable: the bucket cannot be reached: an error, or everything is kept in ~/s3_datasink_<bucket>.
        symlinks: follow (loops refused), skip (reported), or error.
        checksum: what is sent in the request header, or "none".
        related_files: files written locally bring .hdr/.img/.mat and .BRIK/.HEAD companions along (rule 30).
    """

    overwrite: Overwrite = "checksum"
    on_missing: OnMissing = "error"
    on_collision: OnCollision = "error"
    on_unreachable: OnUnreachable = "error"
    symlinks: Symlinks = "follow"
    checksum: ChecksumChoice = "CRC64NVME"
    related_files: bool = False

    @property
    def algorithm(self) -> ChecksumAlgorithm | None:
        """The checksum's algorithm, or None where checksums are off."""
        return None if self.checksum == "none" else self.checksum


class ExportOptions(TypedDict, total=False):
    """The public options, with their defaults. DataSink's own names keep their meaning.

    Names of the objects
        container: folder below the destination; None.
        parameterization: keep the folders of a source's path that begin with "_"; True.
        parameterization_root: only folders below this directory count for that; None is all of them.
        strip_dir: directory that is left out of the sources' paths; None.
        strip_dir_mode: "prefix", or "replace" it anywhere (the default with compat="nipype").
        substitutions: (old, new) pairs, applied one after another; ().
        regexp_substitutions: (pattern, replacement) pairs, applied after them; ().
        substitution_scope: "key" (below the destination), or "full" URL or path (the default with compat="nipype").
        substitute_files: apply both to the files inside a directory of `outputs` too; False.
        compat: "strict", or "nipype": DataSink's ways wherever they lose nothing.
    Connection and credentials
        endpoint_url: S3 server other than Amazon's, "http://host:port"; None.
        region: region of the bucket; None is what the environment and the profile say.
        profile: profile of ~/.aws; None.
        creds_path: credentials file as Amazon hands it out; None is the usual chain (environment, profile, role).
        anonymous: send unsigned requests; False.
        bucket: a name, boto3 Bucket or aioboto3 Bucket to use instead of the destination's; None.
        request_payer: accept the charges of a requester-pays bucket: True or "requester"; False.
        addressing_style: "auto", "path" or "virtual".
        sign_payload: whether the body's SHA-256 is part of the signature: "always", "never", or "auto": only over plain
            HTTP to another machine, where nothing else guards the request.
        ca_bundle: file of certificates to trust; None is the system's.
        transport: how objects are sent: "auto", "wire" (own HTTP) or "aioboto3".
    What every object is given
        encrypt_bucket_keys: the same as sse="AES256"; False.
        sse: "AES256", "aws:kms", "aws:kms:dsse", or your own key of 32 bytes; None.
        sse_kms_key_id: key for the two kms kinds; None is the account's own.
        storage_class: S3's name, such as "STANDARD_IA"; None.
        acl: canned ACL, such as "bucket-owner-full-control"; None.
        tags: {name: value}, up to 10; None.
        metadata: {name: value}, up to 2 KiB; None.
        content_type: "infer" (from the name), or one media type for all.
        checksum: "CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5" or "none".
    What to do when
        overwrite: the object exists: send where the "checksum" differs, "size", "size-mtime", "never", "always".
        on_missing: a source is missing or no regular file: "error", or "skip" and report it.
        on_collision: two sources have one key: "error", or the "last" wins.
        on_unreachable: the bucket cannot be used: "error", or "local": keep all in ~/s3_datasink_<bucket>/<prefix>.
        symlinks: a source is a link: "follow" (loops refused), "skip" (reported) or "error".
    Local copy and records
        local_copy: directory that gets a copy of everything; None.
        local_copy_mode: "copy", "hardlink" or "reflink".
        related_files: files written locally bring .hdr/.img/.mat and .BRIK/.HEAD partners along; False.
        remove_dest_dir: empty the local folders that directories are copied to first (never on S3); False.
        manifest: file that gets a record of every object, for verify_manifest; None.
    Limits
        concurrency: requests in flight; None (or "auto") adapts.
        part_size_bytes: size of the parts of large files, as a number or "16MiB"; 8 MiB.
        memory_bytes: most file content held at once, likewise; 256 MiB.
        retry: a RetryPolicy.
        processes: how many processes share the work, or "auto": as many as pay for this source; 1.
        shard: publish only one part of N, on this machine: "I/N" or (I, N), I from 0 to N - 1; None is all.
    """

    container: str | None
    parameterization: bool
    strip_dir: str | None
    substitutions: Iterable[tuple[str, str]]
    regexp_substitutions: Iterable[tuple[str, str]]
    creds_path: Any
    encrypt_bucket_keys: bool
    bucket: Any
    local_copy: Any
    remove_dest_dir: bool
    endpoint_url: str | None
    region: str | None
    profile: str | None
    anonymous: bool
    request_payer: bool | str | None
    addressing_style: AddressingStyle
    sign_payload: SignPayload
    ca_bundle: Any
    sse: str | bytes | None
    sse_kms_key_id: str | None
    storage_class: str | None
    acl: str | None
    tags: Mapping[str, str] | None
    metadata: Mapping[str, str] | None
    content_type: str
    checksum: str | None
    overwrite: Overwrite
    on_missing: OnMissing
    on_collision: OnCollision
    on_unreachable: OnUnreachable
    symlinks: Symlinks
    concurrency: int | str | None
    part_size_bytes: int | str
    memory_bytes: int | str
    manifest: Any
    compat: Compat
    substitution_scope: SubstitutionScope
    strip_dir_mode: StripDirMode
    substitute_files: bool
    parameterization_root: Any
    local_copy_mode: LocalCopyMode
    related_files: bool
    retry: RetryPolicy
    transport: LaneChoice
    processes: int | str | None
    shard: str | tuple[int, int] | None


OPTION_NAMES: tuple[str, ...] = tuple(ExportOptions.__annotations__)


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
    remove_dest_dir: bool = False
    transport: LaneChoice = "auto"
    processes: int | Literal["auto"] = 1
    shard: Shard = Shard()
    caller_bucket: Any = None
    """A boto3 or aioboto3 Bucket whose client settings are taken over (rule 47), or None."""

    @property
    def walk_compat(self) -> Compat:
        """How directories are walked: DataSink leaves links to directories out on S3, and follows them locally (27)."""
        return "strict" if isinstance(self.target, LocalTarget) else self.routing.compat


def check_option_names(options: Mapping[str, object]) -> None:
    """Raise ConfigError, with the nearest name, for the first option that does not exist."""
    for name in options:
        if name not in OPTION_NAMES:
            near = difflib.get_close_matches(name, OPTION_NAMES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{name!r} is no option of asyncsink.{hint}")
