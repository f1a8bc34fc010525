"""The options that callers write, by name and type: DataSink's own and asyncsink's. `options` checks their values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypedDict

from asyncsink.errors import ConfigError
from asyncsink.options.settings import (
    WRITE_METADATA_NAME,
    WRITE_TOKEN_CHARACTERS,
    AddressingStyle,
    Compat,
    LaneChoice,
    LocalCopyMode,
    ObjectOptions,
    OnCollision,
    OnMissing,
    OnUnreachable,
    OnUnreadable,
    Overwrite,
    RetryPolicy,
    Secret,
    SignPayload,
    StripDirMode,
    SubstitutionScope,
    Symlinks,
)
from asyncsink.options.values import check_choice, flag_of, mapping_of, text_of


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
        overwrite: the object exists: send where the "checksum" differs, "size", "size-mtime", "never", "always"; or
            "journal": skip what the journal has as published from the same unchanged file, without asking the server,
            and go by the checksum for the rest. "journal" where a journal is named, else "checksum".
        on_missing: a source is missing or no regular file: "error", or "skip" and report it.
        on_unreadable: a file or folder may not be read, or its name makes no legal key (no UTF-8, control characters,
            over 1,024 bytes, ".."): "error" (nothing is sent), or "skip": it is a Failure in the report, and the rest
            is sent. "skip" where on_missing="skip" is given, else "error".
        exclude: patterns as in a .gitignore file: what they match in a directory that is published is left out, and
            reported; ().
        on_collision: two sources have one key: "error", or the "last" wins.
        on_unreachable: the bucket cannot be used: "error", or "local": keep all in ~/s3_datasink_<bucket>/<prefix>.
        symlinks: a source is a link: "inside" follows one that was named, or that stays inside its directory, and
            refuses one that leads out; "follow" follows all (the default with compat="nipype"), "skip" (reported) or
            "error".
        retries: further rounds at the end of a run over the files that failed for a cause that may pass; 1. AsyncSink
            and streams have none.
        give_up_after_seconds: a server that is gone is waited for so long, as a number, a timedelta or "10m"; then the
            run stops, and a put fails; 600.
        abort_on_interrupt: a run that is stopped (Ctrl-C, SIGTERM, cancellation) aborts its multipart uploads; False
            leaves those that the journal has for the next run to go on with.
    Local copy and records
        local_copy: directory that gets a copy of everything; None.
        local_copy_mode: "copy", "hardlink" or "reflink".
        related_files: files written locally bring .hdr/.img/.mat and .BRIK/.HEAD partners along; False.
        remove_dest_dir: empty the local folders that directories are copied to first (never on S3); False.
        manifest: file that gets a record of every object, for verify_manifest; None.
        journal: file that remembers what was published and which uploads are open, so that the next run of the same
            destination reads no unchanged file again, and goes on where a killed one stopped; None is a file of the
            destination's own in ~/.local/state/asyncsink/journals, False is none. Local destinations have none.
    Limits
        concurrency: requests in flight; None (or "auto") adapts.
        part_size_bytes: size of the parts of large files, as a number or "16MiB"; 8 MiB.
        memory_bytes: most file content held at once, likewise; 256 MiB.
        bandwidth_bytes_per_second: most bytes sent in a second, likewise; None is no limit.
        retry: a RetryPolicy.
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
    on_unreadable: OnUnreadable
    exclude: Iterable[str]
    on_collision: OnCollision
    on_unreachable: OnUnreachable
    symlinks: Symlinks
    retries: int
    give_up_after_seconds: float | str | timedelta
    abort_on_interrupt: bool
    concurrency: int | str | None
    part_size_bytes: int | str
    memory_bytes: int | str
    bandwidth_bytes_per_second: int | str | None
    manifest: Any
    journal: Any
    compat: Compat
    substitution_scope: SubstitutionScope
    strip_dir_mode: StripDirMode
    substitute_files: bool
    parameterization_root: Any
    local_copy_mode: LocalCopyMode
    related_files: bool
    retry: RetryPolicy
    transport: LaneChoice
    shard: str | tuple[int, int] | None


OPTION_NAMES: tuple[str, ...] = tuple(ExportOptions.__annotations__)


def check_option_names(options: Mapping[str, object]) -> None:
    """Raise ConfigError, with the nearest name, for the first option that does not exist."""
    for name in options:
        if name not in OPTION_NAMES:
            near = difflib.get_close_matches(name, OPTION_NAMES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{name!r} is no option of asyncsink.{hint}")


# -- Reading the options of what every object is given: encryption, storage class, ACL, tags, metadata, media type -----
# Limits: S3 API, PutObject; S3 User Guide, "Object tagging" and "Working with object metadata".

TAGS_MAX = 10
METADATA_BYTES_MAX = 2048


def object_options(given: Mapping[str, Any]) -> ObjectOptions:
    """The checked ObjectOptions of the public options `given`.

    Raises:
        ConfigError: a value is wrong, or two contradict each other; a customer key is never repeated.
    """
    sse: Any = "" if given.get("sse") is None else given["sse"]
    customer_key = None
    if isinstance(sse, (bytes, bytearray)):
        if len(sse) != 32:
            raise ConfigError(f"A customer key for sse has 32 bytes (256 bits); this one has {len(sse)}.")
        sse, customer_key = "", Secret(bytes(sse))
    elif sse not in ("", "AES256", "aws:kms", "aws:kms:dsse"):
        # It may be a customer key that was given as text: it is not repeated.
        raise ConfigError(
            "sse is of no known kind; expected 'AES256', 'aws:kms', 'aws:kms:dsse', or a customer key of 32 bytes."
        )
    if flag_of(given, "encrypt_bucket_keys", False):
        if customer_key is not None or sse not in ("", "AES256"):
            raise ConfigError("encrypt_bucket_keys asks for AES256, and sse for something else; give one of them.")
        sse = "AES256"
    kms_key = text_of(given, "sse_kms_key_id")
    if kms_key and sse not in ("aws:kms", "aws:kms:dsse"):
        raise ConfigError("sse_kms_key_id is given but sse is not 'aws:kms' or 'aws:kms:dsse'; set sse too.")
    content_type = text_of(given, "content_type") or "infer"
    if content_type != "infer" and "/" not in content_type:
        raise ConfigError(f"content_type={content_type!r} is no media type; expected 'infer', or one as 'text/plain'.")
    storage_class = text_of(given, "storage_class")
    if storage_class and not re.fullmatch(r"[A-Z][A-Z0-9_-]*", storage_class):
        raise ConfigError(f"storage_class={storage_class!r} is none; expected a name such as 'STANDARD_IA'.")
    acl = text_of(given, "acl")
    if acl:
        check_choice(
            "acl",
            acl,
            ("private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
             "bucket-owner-read", "bucket-owner-full-control"),
        )  # fmt: skip
    return ObjectOptions(
        sse=sse,
        sse_kms_key_id=kms_key,
        sse_customer_key=customer_key,
        storage_class=storage_class,
        acl=acl,
        tags=_tags(given),
        metadata=_metadata(given),
        content_type=content_type,
    )


def _tags(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    tags = mapping_of(given, "tags")
    if len(tags) > TAGS_MAX:
        raise ConfigError(f"{len(tags)} tags are given; S3 takes at most {TAGS_MAX} per object.")
    for name, value in tags:
        if not 1 <= len(name) <= 128 or len(value) > 256:
            raise ConfigError(
                f"The tag {name!r} is too long; S3 takes names of 1 to 128, values of up to 256 characters."
            )
    return tags


def _metadata(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    metadata = mapping_of(given, "metadata")
    for name, value in metadata:
        if name.lower() == WRITE_METADATA_NAME:
            raise ConfigError(f"The metadata name {name!r} is asyncsink's own (its write token); choose another name.")
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ConfigError(
                f"The metadata name {name!r} is not legal; expected letters, digits and '-' (an HTTP header name)."
            )
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"The value of metadata {name!r} must be printable ASCII; S3 sends it as an HTTP header.")
    own_bytes = len(WRITE_METADATA_NAME) + WRITE_TOKEN_CHARACTERS
    if sum(len(name) + len(value) for name, value in metadata) > METADATA_BYTES_MAX - own_bytes:
        raise ConfigError(
            f"The metadata is too large: S3 takes {METADATA_BYTES_MAX} bytes of names and values per object, of which "
            f"asyncsink needs {own_bytes}; shorten it."
        )
    return metadata
