"""From the public options (DataSink's names and ours) to one validated `Settings`. Nothing is read or sent here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from asyncsink.config import (
    GIB,
    MIB,
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
    StripDirMode,
    SubstitutionScope,
    Symlinks,
    check_choice,
    check_option_names,
    choices_of,
    parse_size,
)
from asyncsink.errors import ConfigError

TAGS_MAX = 10
METADATA_BYTES_MAX = 2048
CONCURRENCY_MAX = 1024
PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX = 5 * MIB, 5 * GIB
SIZE_BYTES_MAX = 2**63 - 1

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
    compat: Compat = _choice(given, "compat", "strict", Compat)
    target = parse_target(base_directory, given)
    return Settings(
        target=target,
        routing=_routing(given, compat),
        objects=_objects(given),
        limits=_limits(given),
        retry=_retry(given),
        policies=_policies(given),
        local_copy=_local_copy(given, target),
        manifest=_path(given, "manifest"),
        remove_dest_dir=_flag(given, "remove_dest_dir", False),
        transport=_choice(given, "transport", "auto", LaneChoice),
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
        mode: LocalCopyMode = _choice(given, "local_copy_mode", "copy", LocalCopyMode)
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
        region=_text(given, "region"),
        profile=_text(given, "profile"),
        creds_path=_path(given, "creds_path"),
        anonymous=_anonymous(given),
        request_payer=bool(request_payer),
        addressing_style=_choice(given, "addressing_style", "auto", AddressingStyle),
        ca_bundle=_path(given, "ca_bundle"),
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
    url = _text(given, "endpoint_url")
    if "@" in url:
        raise ConfigError(
            "endpoint_url has an '@'; expected http://host:port, and credentials by creds_path or profile."
        )
    if url and not re.fullmatch(r"https?://[^/?#\s]+/?", url):
        raise ConfigError(f"endpoint_url={url!r} is malformed; expected http://host:port or https://host:port.")
    return url.rstrip("/")


def _anonymous(given: Mapping[str, Any]) -> bool:
    anonymous = _flag(given, "anonymous", False)
    if anonymous and (given.get("creds_path") or given.get("profile")):
        raise ConfigError("anonymous=True sends unsigned requests; leave creds_path and profile out, or anonymous.")
    if given.get("creds_path") and given.get("profile"):
        raise ConfigError("creds_path and profile both name credentials; give one of them.")
    return anonymous


def _routing(given: Mapping[str, Any], compat: Compat) -> RoutingOptions:
    nipype = compat == "nipype"
    strip_dir, root = _path(given, "strip_dir"), _path(given, "parameterization_root")
    return RoutingOptions(
        container=_text(given, "container"),
        parameterization=_flag(given, "parameterization", True),
        parameterization_root=os.path.abspath(root) if root else "",
        strip_dir=strip_dir if nipype or not strip_dir else os.path.abspath(strip_dir),
        substitutions=_pairs(given, "substitutions"),
        regexp_substitutions=_pairs(given, "regexp_substitutions"),
        compat=compat,
        substitution_scope=_choice(given, "substitution_scope", "full" if nipype else "key", SubstitutionScope),
        strip_dir_mode=_choice(given, "strip_dir_mode", "replace" if nipype else "prefix", StripDirMode),
        substitute_files=_flag(given, "substitute_files", False),
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
    if _flag(given, "encrypt_bucket_keys", False):
        if customer_key is not None or sse not in ("", "AES256"):
            raise ConfigError("encrypt_bucket_keys asks for AES256, and sse for something else; give one of them.")
        sse = "AES256"
    kms_key = _text(given, "sse_kms_key_id")
    if kms_key and sse not in ("aws:kms", "aws:kms:dsse"):
        raise ConfigError("sse_kms_key_id is given but sse is not 'aws:kms' or 'aws:kms:dsse'; set sse too.")
    content_type = _text(given, "content_type") or "infer"
    if content_type != "infer" and "/" not in content_type:
        raise ConfigError(f"content_type={content_type!r} is no media type; expected 'infer', or one as 'text/plain'.")
    storage_class = _text(given, "storage_class")
    if storage_class and not re.fullmatch(r"[A-Z][A-Z0-9_-]*", storage_class):
        raise ConfigError(f"storage_class={storage_class!r} is none; expected a name such as 'STANDARD_IA'.")
    acl = _text(given, "acl")
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
    tags = _mapping(given, "tags")
    if len(tags) > TAGS_MAX:
        raise ConfigError(f"{len(tags)} tags are given; S3 takes at most {TAGS_MAX} per object.")
    for name, value in tags:
        if not 1 <= len(name) <= 128 or len(value) > 256:
            raise ConfigError(
                f"The tag {name!r} is too long; S3 takes names of 1 to 128, values of up to 256 characters."
            )
    return tags


def _metadata(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    metadata = _mapping(given, "metadata")
    for name, value in metadata:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ConfigError(
                f"The metadata name {name!r} is not legal; expected letters, digits and '-' (an HTTP header name)."
            )
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"The value of metadata {name!r} must be printable ASCII; S3 sends it as an HTTP header.")
    if sum(len(name) + len(value) for name, value in metadata) > METADATA_BYTES_MAX:
        raise ConfigError(f"The metadata is larger than the {METADATA_BYTES_MAX} bytes that S3 takes per object.")
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
    part = _size(given, "part_size_bytes", default.part_size_bytes)
    memory = _size(given, "memory_bytes", default.memory_bytes)
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


def _size(given: Mapping[str, Any], name: str, default: int) -> int:
    value = given.get(name)
    try:
        size = default if value is None else parse_size(value, name)
    except OverflowError:
        size = SIZE_BYTES_MAX + 1
    if size > SIZE_BYTES_MAX:
        raise ConfigError(f"{name} is more than any file or memory has; give bytes or a text such as '256MiB'.")
    return size


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
        overwrite=_choice(given, "overwrite", "checksum", Overwrite),
        on_missing=_choice(given, "on_missing", "error", OnMissing),
        on_collision=_choice(given, "on_collision", "error", OnCollision),
        on_unreachable=_choice(given, "on_unreachable", "error", OnUnreachable),
        symlinks=_choice(given, "symlinks", "follow", Symlinks),
        checksum=cast("ChecksumChoice", checksum),
        related_files=_flag(given, "related_files", False),
    )


def _local_copy(given: Mapping[str, Any], target: S3Target | LocalTarget) -> LocalTarget | None:
    if given.get("local_copy") is None:
        return None
    text = _path(given, "local_copy")
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
        directory=directory, url=directory, mode=_choice(given, "local_copy_mode", "copy", LocalCopyMode)
    )


def _choice(given: Mapping[str, Any], name: str, default: str, literal: Any) -> Any:
    value = given.get(name)
    if value is None:
        return default
    check_choice(name, value, choices_of(literal))
    return value


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a text.")
    return value


def _path(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    try:
        path = os.fspath(value)
    except TypeError:
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a path.") from None
    text = os.fsdecode(path)
    if name == "creds_path" and "\n" in text:
        # The content of a credentials file, say: it is not repeated.
        raise ConfigError(f"{name} has several lines; expected the path of a file.")
    return os.path.expanduser(text)


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected True or False.")
    return value


def _pairs(given: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    value = given.get(name)
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r} is no list of pairs; expected [(old, new), …].")
    pairs = []
    for pair in value:
        items = pair if isinstance(pair, (tuple, list)) else ()
        if len(items) != 2 or not all(isinstance(item, str) for item in items):
            raise ConfigError(f"{name} holds {pair!r}; expected pairs of two texts, as in [('old', 'new')].")
        pairs.append((items[0], items[1]))
    return tuple(pairs)


def _mapping(given: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    value = given.get(name)
    if value is None:
        return ()
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise ConfigError(f"{name} is no mapping of texts; expected {{'name': 'value'}}.")
    return tuple(value.items())
