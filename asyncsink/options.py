"""From the public options (DataSink's names and ours) to one validated `Settings`. Nothing is read or sent here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from asyncsink.config import (
    GIB,
    MIB,
    WRITE_METADATA_NAME,
    WRITE_TOKEN_CHARACTERS,
    AddressingStyle,
    ChecksumChoice,
    Compat,
    ExportOptions,
    LaneChoice,
    Limits,
    LocalCopyMode,
    LocalTarget,
    ObjectOptions,
    OnCollision,
    OnMissing,
    OnUnreachable,
    Overwrite,
    Policies,
    RetryPolicy,
    RoutingOptions,
    S3Target,
    Secret,
    Settings,
    Shard,
    SignPayload,
    StripDirMode,
    SubstitutionScope,
    Symlinks,
    check_option_names,
)
from asyncsink.errors import ConfigError
from asyncsink.values import (
    check_choice,
    choice_of,
    choices_of,
    flag_of,
    mapping_of,
    pairs_of,
    path_of,
    size_of,
    text_of,
)

TAGS_MAX = 10
METADATA_BYTES_MAX = 2048
CONCURRENCY_MAX = 1024
PROCESSES_MAX = 64
PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX = 5 * MIB, 5 * GIB

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ACCESS_POINT = re.compile(r"^(arn:aws[\w-]*:s3[\w-]*:[^/]*?:(?:accesspoint|outpost)[/:][^/]+)(?:/(.*))?$", re.DOTALL)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)


def parse_options(base_directory: Any, options: ExportOptions | Mapping[str, Any]) -> Settings:
    """Check every option and bring them into their parts.

    Raises:
        ConfigError: the first thing that is wrong, in one sentence.
    """
    given = dict(options)
    check_option_names(given)
    compat: Compat = choice_of(given, "compat", "strict", Compat)
    target = parse_target(base_directory, given)
    return Settings(
        target=target,
        routing=_routing(given, compat),
        objects=_objects(given),
        limits=_limits(given),
        retry=_retry(given),
        policies=_policies(given),
        local_copy=_local_copy(given, target),
        manifest=path_of(given, "manifest"),
        remove_dest_dir=flag_of(given, "remove_dest_dir", False),
        transport=choice_of(given, "transport", "auto", LaneChoice),
        processes=_processes(given),
        shard=_shard(given),
        caller_bucket=given.get("bucket"),
    )


def parse_target(base_directory: Any, options: Mapping[str, Any]) -> S3Target | LocalTarget:
    """`s3://bucket/prefix` (any case of the scheme, rule 25) or a directory.

    Raises:
        ConfigError: neither.
    """
    given = dict(options)
    try:
        text = os.fspath(base_directory)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text.strip():
        what = "empty" if isinstance(text, str) else f"of type {type(base_directory).__name__}"
        raise ConfigError(f"The destination is {what}; expected s3://bucket/prefix or a directory.")
    match = _SCHEME.match(text)
    if match is None and not text.lower().startswith("s3:"):
        mode: LocalCopyMode = choice_of(given, "local_copy_mode", "copy", LocalCopyMode)
        return LocalTarget(directory=os.path.abspath(text), url=os.path.abspath(text), mode=mode)
    if match is None or match[1].lower() != "s3":
        fault = "is malformed" if match is None else f"has the unknown scheme {match[1]}://"
        raise ConfigError(f"The destination {_shown(text)} {fault}; expected s3://bucket/prefix or a directory.")
    bucket, prefix = _split_bucket(text, match[2])
    if isinstance(given.get("bucket"), str):
        bucket = _check_bucket(given["bucket"], f"bucket={_shown(given['bucket'])}")
    request_payer = given.get("request_payer")
    if request_payer not in (None, True, False, "requester"):
        raise ConfigError(f"request_payer={request_payer!r} is not known; expected True, False or 'requester'.")
    return S3Target(
        bucket=bucket,
        prefix=prefix,
        url=text.rstrip("/"),
        endpoint_url=_endpoint(given),
        region=text_of(given, "region"),
        profile=text_of(given, "profile"),
        creds_path=path_of(given, "creds_path"),
        anonymous=_anonymous(given),
        request_payer=bool(request_payer),
        addressing_style=choice_of(given, "addressing_style", "auto", AddressingStyle),
        sign_payload=choice_of(given, "sign_payload", "auto", SignPayload),
        ca_bundle=path_of(given, "ca_bundle"),
    )


def _split_bucket(text: str, rest: str) -> tuple[str, str]:
    if match := _ACCESS_POINT.match(rest):
        bucket, prefix = match.group(1), match.group(2) or ""
    else:
        bucket, _, prefix = rest.partition("/")
        _check_bucket(bucket, f"the destination {_shown(text)}")
    segments = [segment for segment in prefix.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise ConfigError(f"The destination {_shown(text)} has '.' or '..' in its prefix; write it without them.")
    return bucket, "/".join(segments)


def _check_bucket(bucket: str, where: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        form = "3 to 63 lower-case letters, digits, '.' and '-', as in s3://my-bucket/prefix"
        raise ConfigError(f"The bucket's name in {where} is not legal; expected {form}.")
    return bucket


def _shown(text: str) -> str:
    """A destination for a message, unless it may hold credentials, which stand before an "@" (RFC 3986, 3.2.1)."""
    return repr(text) if "@" not in text else "(not shown: it has an '@'; credentials belong in creds_path or profile)"


def _endpoint(given: Mapping[str, Any]) -> str:
    url = text_of(given, "endpoint_url")
    if "@" in url:
        raise ConfigError(
            "endpoint_url has an '@'; expected http://host:port, and credentials by creds_path or profile."
        )
    if url and not re.fullmatch(r"https?://[^/?#\s]+/?", url):
        raise ConfigError(f"endpoint_url={url!r} is malformed; expected http://host:port or https://host:port.")
    return url.rstrip("/")


def _anonymous(given: Mapping[str, Any]) -> bool:
    anonymous = flag_of(given, "anonymous", False)
    if anonymous and (given.get("creds_path") or given.get("profile")):
        raise ConfigError("anonymous=True sends unsigned requests; leave creds_path and profile out, or anonymous.")
    if given.get("creds_path") and given.get("profile"):
        raise ConfigError("creds_path and profile both name credentials; give one of them.")
    return anonymous


def _routing(given: Mapping[str, Any], compat: Compat) -> RoutingOptions:
    nipype = compat == "nipype"
    strip_dir, root = path_of(given, "strip_dir"), path_of(given, "parameterization_root")
    return RoutingOptions(
        container=text_of(given, "container"),
        parameterization=flag_of(given, "parameterization", True),
        parameterization_root=os.path.abspath(root) if root else "",
        strip_dir=strip_dir if nipype or not strip_dir else os.path.abspath(strip_dir),
        substitutions=pairs_of(given, "substitutions"),
        regexp_substitutions=pairs_of(given, "regexp_substitutions"),
        compat=compat,
        substitution_scope=choice_of(given, "substitution_scope", "full" if nipype else "key", SubstitutionScope),
        strip_dir_mode=choice_of(given, "strip_dir_mode", "replace" if nipype else "prefix", StripDirMode),
        substitute_files=flag_of(given, "substitute_files", False),
    )


def _objects(given: Mapping[str, Any]) -> ObjectOptions:
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
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ConfigError(
                f"The metadata name {name!r} is not legal; expected letters, digits and '-' (an HTTP header name)."
            )
        if name.lower() == WRITE_METADATA_NAME:
            raise ConfigError(f"The metadata name {name!r} is asyncsink's own (its write token); choose another name.")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"The value of metadata {name!r} must be printable ASCII; S3 sends it as an HTTP header.")
    own_bytes = len(WRITE_METADATA_NAME) + WRITE_TOKEN_CHARACTERS
    if sum(len(name) + len(value) for name, value in metadata) > METADATA_BYTES_MAX - own_bytes:
        raise ConfigError(
            f"The metadata is too large: S3 takes {METADATA_BYTES_MAX} bytes of names and values per object, of which "
            f"asyncsink needs {own_bytes}; shorten it."
        )
    return metadata


def _limits(given: Mapping[str, Any]) -> Limits:
    default = Limits()
    concurrency = given.get("concurrency")
    fixed: int | None = None
    if concurrency not in (None, "auto"):
        try:
            fixed = int(concurrency)
        except (TypeError, ValueError, OverflowError):
            fixed = 0
        if isinstance(concurrency, bool) or not 1 <= fixed <= CONCURRENCY_MAX:
            raise ConfigError(
                f"concurrency={concurrency!r:.60} is out of range; expected 1 to {CONCURRENCY_MAX}, or 'auto'."
            )
    part = size_of(given, "part_size_bytes", default.part_size_bytes)
    memory = size_of(given, "memory_bytes", default.memory_bytes)
    if not PART_SIZE_BYTES_MIN <= part <= PART_SIZE_BYTES_MAX:
        raise ConfigError(f"part_size_bytes={part:,} is out of range; S3 takes parts of 5 MiB to 5 GiB.")
    if memory < part:
        raise ConfigError(f"memory_bytes={memory:,} is less than one part ({part:,} bytes); give at least that.")
    return Limits(
        concurrency=fixed,
        concurrency_start=fixed or default.concurrency_start,
        concurrency_max=fixed or default.concurrency_max,
        part_size_bytes=part,
        multipart_threshold_bytes=part,
        memory_bytes=memory,
    )


def _processes(given: Mapping[str, Any]) -> int | Literal["auto"]:
    value = given.get("processes")
    if value is None or value == "auto":
        return "auto" if value else 1
    number = _whole(value)
    if not 1 <= number <= PROCESSES_MAX:
        raise ConfigError(f"processes={value!r:.60} is out of range; expected 1 to {PROCESSES_MAX}, or 'auto'.")
    return number


def _shard(given: Mapping[str, Any]) -> Shard:
    value = given.get("shard")
    if value is None:
        return Shard()
    parts = value.split("/") if isinstance(value, str) else value
    index, count = map(_whole, parts) if isinstance(parts, (list, tuple)) and len(parts) == 2 else (-1, -1)
    if not 0 <= index < count:
        raise ConfigError(
            f"shard={value!r:.60} is no part of a whole; expected 'I/N' with I from 0 to N - 1, as '0/4' to '3/4'."
        )
    return Shard(index, count)


def _whole(value: object) -> int:
    """A whole number, also as decimal digits; -1 for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else -1
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _retry(given: Mapping[str, Any]) -> RetryPolicy:
    retry = given.get("retry")
    if retry is None:
        return RetryPolicy()
    if not isinstance(retry, RetryPolicy):
        raise ConfigError(f"retry is of type {type(retry).__name__}; expected asyncsink.RetryPolicy(…).")
    if retry.attempts < 1:
        raise ConfigError(f"retry.attempts={retry.attempts} must be at least 1.")
    return retry


def _policies(given: Mapping[str, Any]) -> Policies:
    checksum = given.get("checksum", "CRC64NVME")
    checksum = "none" if checksum is None else str(checksum)
    checksum = "none" if checksum.lower() == "none" else checksum.upper().replace("-", "")
    check_choice("checksum", checksum, choices_of(ChecksumChoice))
    return Policies(
        overwrite=choice_of(given, "overwrite", "checksum", Overwrite),
        on_missing=choice_of(given, "on_missing", "error", OnMissing),
        on_collision=choice_of(given, "on_collision", "error", OnCollision),
        on_unreachable=choice_of(given, "on_unreachable", "error", OnUnreachable),
        symlinks=choice_of(given, "symlinks", "follow", Symlinks),
        checksum=cast("ChecksumChoice", checksum),
        related_files=flag_of(given, "related_files", False),
    )


def _local_copy(given: Mapping[str, Any], target: S3Target | LocalTarget) -> LocalTarget | None:
    if given.get("local_copy") is None:
        return None
    text = path_of(given, "local_copy")
    if not text.strip():
        raise ConfigError(
            "local_copy is empty; expected a directory (rule 35: an empty one would be the current directory)."
        )
    if _SCHEME.match(text) or text.lower().startswith("s3:"):
        raise ConfigError("local_copy is a URL; expected a directory on this machine.")
    directory = os.path.abspath(text)
    if isinstance(target, LocalTarget) and target.directory == directory:
        raise ConfigError(f"local_copy and the destination are the same directory, {directory}; leave local_copy out.")
    return LocalTarget(
        directory=directory, url=directory, mode=choice_of(given, "local_copy_mode", "copy", LocalCopyMode)
    )
