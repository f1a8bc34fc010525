"""From the public options (DataSink's and asyncsink's) to one validated `Settings`. Nothing is read or sent here.

The kind of a row in `schema` checks most values; the functions here check what a kind does not cover.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from asyncsink.errors import ConfigError
from asyncsink.options.journal_choice import parse_journal
from asyncsink.options.schema import (
    GONE,
    OPTIONS,
    ChecksumChoice,
    Limits,
    LocalTarget,
    ObjectOptions,
    Option,
    OwnTarget,
    PatternOptions,
    Policies,
    RoutingOptions,
    S3Target,
    Settings,
    Target,
)
from asyncsink.options.settings import (
    GIB,
    MIB,
    WRITE_METADATA_NAME,
    WRITE_TOKEN_CHARACTERS,
    JournalChoice,
    RetryPolicy,
    Secret,
    Shard,
    Together,
)
from asyncsink.options.shared_limits import SharedLimits, read_shared_limits
from asyncsink.options.typed import ExportOptions
from asyncsink.options.values import (
    ARN,
    bucket_meant,
    check_choice,
    check_endpoint,
    did_you_mean,
    parse_duration,
    read_bandwidth,
    read_concurrency,
    read_flag,
    read_integer,
    read_listing,
    read_mapping,
    read_moment,
    read_observer,
    read_pairs,
    read_path,
    read_paths,
    read_progress,
    read_size,
    read_text,
    read_texts,
    requests_within,
    split_bucket,
)
from asyncsink.paths import as_text

RETRIES_MAX = 100
_DELETE_MAX = re.compile(r"[0-9]{1,12}|[0-9]{1,2}(\.[0-9]+)?%|100%")
INDEX_SUFFIXES = (".csv", ".json", ".jsonl")
PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX = 5 * MIB, 5 * GIB

_BUCKET = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,255}")
"""The names that botocore accepts: older buckets, and other servers, have names that are not DNS labels; the server
decides."""
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)

SettingsPart = TypeVar("SettingsPart")
_NAMES_OF: dict[type | None, list[str]] = {}
"""The names of the options that are fields of each part."""
for _option in OPTIONS.values():
    _NAMES_OF.setdefault(_option.part, []).append(_option.name)


def parse_options(
    base_directory: Any, options: ExportOptions | Mapping[str, Any], *, own: OwnTarget | None = None
) -> Settings:
    """Check every option, and make the parts of the settings.

    Args:
        own: the caller's own destination in the place of `base_directory`.

    Raises:
        ConfigError: an option is wrong; one sentence, about the first one.
    """
    given = dict(options)
    check_option_names(given)
    value_of(given, "compat")
    target = own if own is not None else parse_target(base_directory, given)
    if not isinstance(target, S3Target) and callable(given.get("transport")):
        raise ConfigError(
            f"transport is a callable, and nothing is sent to S3: the destination is {target.url}; leave it out.",
            option="transport",
        )
    journal = parse_journal(given, target)
    shared = value_of(given, "limits")
    return Settings(
        target=target,
        routing=_routing(given),
        objects=parse_objects(given),
        limits=_limits(given, shared),
        shared=shared,
        retry=_retry(given),
        policies=_policies(given, journal),
        together=_together(given, target),
        local_copy=_local_copy(given, target),
        manifest=value_of(given, "manifest"),
        report=value_of(given, "report"),
        journal=journal,
        remove_dest_dir=value_of(given, "remove_dest_dir"),
        **_transport(given),
        shard=_shard(given),
        caller_bucket=given.get("bucket"),
        observe=value_of(given, "observe"),
        progress=value_of(given, "progress") or False,
    )


def check_option_names(
    options: Iterable[str], known: Mapping[str, Option] = OPTIONS, *, what: str = "asyncsink"
) -> None:
    """Raise ConfigError for the first name that is no option, with the nearest option, or with its successor."""
    for name in options:
        if name in known:
            continue
        if name in GONE and known is OPTIONS:
            raise ConfigError(f"{name!r} is no option of asyncsink any more: {GONE[name]}.", option=name)
        hint = did_you_mean(name, known)
        raise ConfigError(f"{name!r} is no option of {what}.{hint}", option=name)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "text": read_text,
    "path": read_path,
    "flag": read_flag,
    "size": read_size,
    "duration": parse_duration,
    "pairs": read_pairs,
    "mapping": read_mapping,
    "texts": read_texts,
    "moment": read_moment,
    "paths": read_paths,
    "listing": read_listing,
    "observer": read_observer,
    "progress": read_progress,
    "limits": read_shared_limits,
}


def value_of(given: Mapping[str, Any], name: str, options: Mapping[str, Option] = OPTIONS) -> Any:
    """The option's value, checked by its kind, or its default.

    Raises:
        ConfigError: it is of another kind.
    """
    option, value = options[name], given.get(name)
    if value is None:
        return option.default
    try:
        if option.kind == "choice":
            check_choice(name, value, option.choices)
            return value
        return _READERS[option.kind](value, name)
    except ConfigError as error:
        raise error.about(name) from error.__cause__


def _part(part: type[SettingsPart], given: Mapping[str, Any], **own: Any) -> SettingsPart:
    """A part of the settings: `own` values, and all others from the options of the same name, checked by their
    kinds."""
    return part(**own, **{name: value_of(given, name) for name in _NAMES_OF[part] if name not in own})


def parse_target(base_directory: Any, options: Mapping[str, Any]) -> S3Target | LocalTarget:
    """`s3://bucket/prefix` (any case of the scheme, rule 25) or a directory.

    Raises:
        ConfigError: neither.
    """
    given = dict(options)
    text = os.fspath(base_directory) if isinstance(base_directory, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        what = "empty" if isinstance(text, str) else f"of type {type(base_directory).__name__}"
        raise ConfigError(f"The destination is {what}; expected s3://bucket/prefix or a directory.")
    match, meant = _SCHEME.match(text), bucket_meant(text)
    if match is None and not meant and not text.lower().startswith("s3:"):
        mode = value_of(given, "local_copy_mode")
        directory = _directory(text, "The destination")
        return LocalTarget(directory=directory, url=directory, mode=mode)
    if match is None or match[1].lower() != "s3":
        fault = "is malformed" if match is None else f"has the unknown scheme {match[1]}://"
        raise ConfigError(
            f"The destination {_shown(text)} {fault}; {meant or 'expected s3://bucket/prefix or a directory'}."
        )
    bucket, prefix = _split_bucket(text, match[2])
    if isinstance(given.get("bucket"), str):
        bucket = _check_bucket(given["bucket"], f"bucket={_shown(given['bucket'])}")
    request_payer = given.get("request_payer")
    if request_payer not in (None, True, False, "requester"):
        raise ConfigError(
            f"request_payer={request_payer!r} is not known; expected True, False or 'requester'.",
            option="request_payer",
            value=request_payer,
        )
    return _part(
        S3Target,
        given,
        bucket=bucket,
        prefix=prefix,
        url=text.rstrip("/"),
        endpoint_url=check_endpoint(value_of(given, "endpoint_url")),
        anonymous=_anonymous(given),
        request_payer=bool(request_payer),
    )


def _split_bucket(text: str, rest: str) -> tuple[str, str]:
    bucket, prefix = split_bucket(rest)
    _check_bucket(bucket, f"the destination {_shown(text)}")
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"The destination {_shown(text)} has a prefix that is not valid UTF-8; S3 takes no other, so name another."
        ) from None
    segments = [segment for segment in prefix.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise ConfigError(f"The destination {_shown(text)} has '.' or '..' in its prefix; write it without them.")
    return bucket, "/".join(segments)


def _check_bucket(bucket: str, where: str) -> str:
    if bucket.startswith("arn:") and not ARN.fullmatch(bucket):
        raise ConfigError(
            f"The ARN in {where} is none of an access point, an Object Lambda access point or an access point of an "
            "Outpost; expected such as s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/NAME/prefix."
        )
    if not bucket.startswith("arn:") and not _BUCKET.fullmatch(bucket):
        form = "letters, digits, '.', '-' and '_', as in s3://my-bucket/prefix"
        raise ConfigError(f"The bucket's name in {where} is not legal; expected {form}.")
    return bucket


def _shown(text: str) -> str:
    """A destination for a message, unless it may hold credentials, which precede an "@" (RFC 3986, 3.2.1)."""
    return repr(text) if "@" not in text else "(not shown: it has an '@'; credentials belong in creds_path or profile)"


def _anonymous(given: Mapping[str, Any]) -> bool:
    anonymous: bool = value_of(given, "anonymous")
    if anonymous and (given.get("creds_path") or given.get("profile")):
        raise ConfigError(
            "anonymous=True sends unsigned requests; leave creds_path= and profile= out, or anonymous=.",
            option="anonymous",
        )
    if given.get("creds_path") and given.get("profile"):
        raise ConfigError("creds_path= and profile= both name credentials; give one of them.", option="creds_path")
    return anonymous


def _routing(given: Mapping[str, Any]) -> RoutingOptions:
    strict = value_of(given, "compat") == "strict"
    strip_dir, root = value_of(given, "strip_dir"), value_of(given, "parameterization_root")
    return _part(
        RoutingOptions,
        given,
        parameterization_root=_directory(root, "parameterization_root") if root else "",
        strip_dir=_directory(strip_dir, "strip_dir", absolute=strict) if strip_dir else "",
    )


def _limits(given: Mapping[str, Any], shared: SharedLimits | None) -> Limits:
    default = Limits()
    fixed = read_concurrency(given.get("concurrency"))
    part, memory = value_of(given, "part_size_bytes"), value_of(given, "memory_bytes")
    if not PART_SIZE_BYTES_MIN <= part <= PART_SIZE_BYTES_MAX:
        raise ConfigError(
            f"part_size_bytes={part:,} is out of range; S3 takes parts of 5 MiB to 5 GiB.",
            option="part_size_bytes",
            value=part,
        )
    bandwidth, where = read_bandwidth(given.get("bandwidth_bytes_per_second")), ""
    most, readers = requests_within(bandwidth), default.reader_threads
    if shared is not None:
        # An own limit holds within the shared one.
        most, readers = min(most, shared.concurrency), shared.threads // 4
        if given.get("memory_bytes") is None or memory > shared.memory_bytes:
            memory, where = shared.memory_bytes, "limits."
    fixed = fixed and min(most, fixed)
    if memory < part:
        raise ConfigError(f"{where}memory_bytes={memory:,} is less than one part ({part:,} bytes); give at least that.")
    return Limits(
        concurrency=fixed,
        concurrency_start=fixed or min(most, default.concurrency_start),
        concurrency_max=fixed or min(most, default.concurrency_max),
        part_size_bytes=part,
        multipart_threshold_bytes=part,
        memory_bytes=memory,
        reader_threads=readers,
        bandwidth_bytes_per_second=bandwidth,
    )


def _transport(given: Mapping[str, Any]) -> dict[str, Any]:
    value = given.get("transport")
    if callable(value):
        return {"wrap_transport": value}
    if value is None:
        return {}
    if not isinstance(value, str):
        raise ConfigError(
            f"transport is of type {type(value).__name__}; expected 'auto', 'wire' or 'aioboto3', or a callable that "
            "makes a transport around the one that it gets: transport=lambda inner: MyTransport(inner).",
            option="transport",
        )
    check_choice("transport", value, OPTIONS["transport"].choices)
    return {"transport": value}


def _shard(given: Mapping[str, Any]) -> Shard:
    value = given.get("shard")
    if value is None:
        return Shard()
    parts = value.split("/") if isinstance(value, str) else value
    index, count = map(read_integer, parts) if isinstance(parts, (list, tuple)) and len(parts) == 2 else (-1, -1)
    if not 0 <= index < count:
        raise ConfigError(
            f"shard={value!r:.60} is no part of a whole; expected 'I/N' with I from 0 to N - 1, as '0/4' to '3/4'.",
            option="shard",
            value=value,
        )
    return Shard(index, count)


def _retries(given: Mapping[str, Any]) -> int:
    value = given.get("retries")
    rounds: int = OPTIONS["retries"].default if value is None else read_integer(value)
    if not 0 <= rounds <= RETRIES_MAX:
        fault = "is out of range" if re.fullmatch(r"-?[0-9]+", str(value)) else "is no number"
        raise ConfigError(
            f"retries={value!r:.60} {fault}; expected 0 to {RETRIES_MAX} further rounds.",
            option="retries",
            value=value,
        )
    return rounds


def _retry(given: Mapping[str, Any]) -> RetryPolicy:
    retry = given.get("retry")
    if retry is None:
        return RetryPolicy()
    if not isinstance(retry, RetryPolicy):
        raise ConfigError(
            f"retry is of type {type(retry).__name__}; expected asyncsink.RetryPolicy(…).", option="retry"
        )
    if retry.attempts < 1:
        raise ConfigError(f"retry.attempts={retry.attempts} must be at least 1.")
    if not retry.throttled_seconds >= 0:
        raise ConfigError(f"retry.throttled_seconds={retry.throttled_seconds} must be 0 or more seconds.")
    return retry


def _policies(given: Mapping[str, Any], journal: JournalChoice) -> Policies:
    checksum: str | None = None
    if "checksum" in given:
        checksum = "none" if given["checksum"] is None else str(given["checksum"])
        checksum = "none" if checksum.lower() == "none" else checksum.upper().replace("-", "")
        check_choice("checksum", checksum, OPTIONS["checksum"].choices)
    nipype = given.get("compat") == "nipype"
    # Nipype follows every link, and its working directories have many.
    defaults = {"overwrite": "journal" if journal.path else None, "symlinks": "follow" if nipype else None}
    defaults["on_unreadable"] = value_of(given, "on_missing")
    _check_window(given)
    return _part(
        Policies,
        {**given, **{name: value for name, value in defaults.items() if given.get(name) is None}},
        checksum=cast("ChecksumChoice | None", checksum),
        retries=_retries(given),
    )


def _together(given: Mapping[str, Any], target: Target) -> Together:
    most = given.get("delete_max")
    together = _part(Together, {**given, "delete_max": None if most is None else str(most)})
    if together.delete_max and not _DELETE_MAX.fullmatch(together.delete_max):
        raise ConfigError(f"delete_max={most!r} is no number of objects; expected one such as 500, or 5% of them.")
    if together.delete_max and not together.delete_extraneous:
        raise ConfigError("delete_max bounds delete_extraneous, which is not given; give both, or neither.")
    if together.delete_extraneous and given.get("files_from") is not None:
        raise ConfigError(
            "delete_extraneous and files_from contradict each other: the list names some of the files, and the objects "
            "of all others would be extraneous; give one of them."
        )
    if together.delete_extraneous and not isinstance(target, S3Target):
        raise ConfigError(
            f"delete_extraneous is given, but the destination {target.url} is no bucket; expected s3://bucket/prefix."
        )
    index = together.index
    for name, value in (("index", index), ("complete_marker", together.complete_marker)):
        if value and not isinstance(target, S3Target):
            raise ConfigError(
                f"{name} is given, but the destination {target.url} is no bucket; expected s3://bucket/prefix."
            )
    if index and not index.lower().endswith(INDEX_SUFFIXES):
        raise ConfigError(f"index={index!r} is of no known kind; expected a name that ends with .csv, .json or .jsonl.")
    if index and index == together.complete_marker:
        raise ConfigError(f"index and complete_marker both name {index!r}; give them different names.")
    return together


def _check_window(given: Mapping[str, Any]) -> None:
    least, most = value_of(given, "min_size_bytes"), value_of(given, "max_size_bytes")
    if least is not None and most is not None and least > most:
        raise ConfigError(f"min_size_bytes={least:,} is more than max_size_bytes={most:,}, so that no file is left.")
    since, until = value_of(given, "newer_than"), value_of(given, "older_than")
    if since is not None and until is not None and since >= until:
        raise ConfigError("newer_than is a later time than older_than, so that no file is left; exchange them.")


def _local_copy(given: Mapping[str, Any], target: Target) -> LocalTarget | None:
    if given.get("local_copy") is None:
        return None
    text = value_of(given, "local_copy")
    if not text.strip():
        raise ConfigError(
            "local_copy is empty; expected a directory (rule 35: an empty one would be the current directory).",
            option="local_copy",
        )
    if _SCHEME.match(text) or text.lower().startswith("s3:"):
        raise ConfigError("local_copy is a URL; expected a directory on this machine.", option="local_copy")
    directory = _directory(text, "local_copy")
    if isinstance(target, LocalTarget) and target.directory == directory:
        raise ConfigError(
            f"local_copy and the destination are the same directory, {directory}; leave local_copy out.",
            option="local_copy",
        )
    return LocalTarget(directory=directory, url=directory, mode=value_of(given, "local_copy_mode"))


def _directory(path: str, what: str, *, absolute: bool = True) -> str:
    """A directory in asyncsink's text: one that paths are compared with, or made below."""
    try:
        return as_text(os.path.abspath(path) if absolute else path)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {_shown(path)} can be no path ({error}); correct it.") from error


# -- Options of the objects: encryption, storage class, ACL, tags, metadata, media type --------------------------------
# Limits: S3 API, PutObject; S3 User Guide, "Object tagging" and "Working with object metadata".

TAGS_MAX = 10
METADATA_BYTES_MAX = 2048


def parse_objects(given: Mapping[str, Any]) -> ObjectOptions:
    """The ObjectOptions of `given`. No error repeats a customer key.

    Raises:
        ConfigError: one is wrong, or does not go with another one.
    """
    sse: Any = "" if given.get("sse") is None else given["sse"]
    customer_key = None
    if isinstance(sse, (bytes, bytearray)):
        if len(sse) != 32:
            raise ConfigError(f"A customer key for sse has 32 bytes (256 bits); this one has {len(sse)}.")
        sse, customer_key = "", Secret(bytes(sse))
    elif sse not in ("", "AES256", "aws:kms", "aws:kms:dsse"):
        # The value may be a customer key that was given as text, so it is not repeated.
        raise ConfigError(
            "sse is of no known kind; expected 'AES256', 'aws:kms', 'aws:kms:dsse', or a customer key of 32 bytes.",
            option="sse",
        )
    if value_of(given, "encrypt_bucket_keys"):
        if customer_key is not None or sse not in ("", "AES256"):
            raise ConfigError(
                "encrypt_bucket_keys asks for AES256, and sse for something else; give one of them.",
                option="encrypt_bucket_keys",
            )
        sse = "AES256"
    kms_key = value_of(given, "sse_kms_key_id")
    if kms_key and sse not in ("aws:kms", "aws:kms:dsse"):
        raise ConfigError(
            "sse_kms_key_id is given but sse is not 'aws:kms' or 'aws:kms:dsse'; set sse too.", option="sse_kms_key_id"
        )
    content_type = value_of(given, "content_type") or "infer"
    if content_type != "infer" and "/" not in content_type:
        raise ConfigError(
            f"content_type={content_type!r} is no media type; expected 'infer', or one as 'text/plain'.",
            option="content_type",
            value=content_type,
        )
    storage_class = value_of(given, "storage_class")
    if storage_class and not re.fullmatch(r"[A-Z][A-Z0-9_-]*", storage_class):
        raise ConfigError(
            f"storage_class={storage_class!r} is none; expected a name such as 'STANDARD_IA'.",
            option="storage_class",
            value=storage_class,
        )
    acl = value_of(given, "acl")
    if acl:
        check_choice(
            "acl",
            acl,
            ("private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
             "bucket-owner-read", "bucket-owner-full-control"),
        )  # fmt: skip
    return _part(
        ObjectOptions,
        given,
        sse=sse,
        sse_customer_key=customer_key,
        tags=_tags(given),
        metadata=_metadata(given),
        content_type=content_type,
    )


OF_A_PATTERN = ("storage_class", "content_type", "acl", "sse", "sse_kms_key_id", "tags", "metadata")


def read_object_options(value: Any, name: str) -> tuple[PatternOptions, ...]:
    """The fields of ObjectOptions by pattern, from {pattern: {option: value}}.

    Raises:
        ConfigError: it is no such mapping, or a value is wrong.
    """
    if not isinstance(value, Mapping) or not all(isinstance(each, Mapping) for each in value.values()):
        raise ConfigError(f"{name} is no mapping; expected {{'*.nii.gz': {{'storage_class': 'GLACIER_IR'}}}}.")
    found: list[PatternOptions] = []
    for pattern, given in value.items():
        if not isinstance(pattern, str) or not pattern.strip("!/ "):
            raise ConfigError(f"{name} has the pattern {pattern!r}; expected one as in .gitignore, as '*.nii.gz'.")
        if pattern.startswith("!"):
            raise ConfigError(f"{name} has the pattern {pattern!r}, which chooses nothing; write one without a '!'.")
        check_option_names(given, {each: OPTIONS[each] for each in OF_A_PATTERN}, what=f"a pattern of {name}")
        if isinstance(given.get("sse"), (bytes, bytearray)):
            raise ConfigError(f"{name} has a customer key, which is one for all objects; give it to sse.")
        objects = parse_objects(given)
        fields = {each: getattr(objects, each) for each in given}
        if "sse" in fields:
            fields |= {"sse_kms_key_id": objects.sse_kms_key_id, "sse_customer_key": None}
        found.append((pattern, tuple(fields.items())))
    return tuple(found)


_READERS["object_options"] = read_object_options


def _tags(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    tags: tuple[tuple[str, str], ...] = value_of(given, "tags")
    if len(tags) > TAGS_MAX:
        raise ConfigError(f"{len(tags)} tags are given; S3 takes at most {TAGS_MAX} per object.", option="tags")
    for name, value in tags:
        if not 1 <= len(name) <= 128 or len(value) > 256:
            raise ConfigError(
                f"The tag {name!r} is too long; S3 takes names of 1 to 128, values of up to 256 characters.",
                option="tags",
            )
    return tags


def _metadata(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    metadata: tuple[tuple[str, str], ...] = value_of(given, "metadata")
    for name, value in metadata:
        if name.lower() == WRITE_METADATA_NAME:
            raise ConfigError(
                f"The metadata name {name!r} is asyncsink's own (its write token); choose another name.",
                option="metadata",
            )
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ConfigError(
                f"The metadata name {name!r} is not legal; expected letters, digits and '-' (an HTTP header name).",
                option="metadata",
            )
        if not value.isascii() or not value.isprintable():
            raise ConfigError(
                f"The value of metadata {name!r} must be printable ASCII; S3 sends it as an HTTP header.",
                option="metadata",
            )
    own_bytes = len(WRITE_METADATA_NAME) + WRITE_TOKEN_CHARACTERS
    if sum(len(name) + len(value) for name, value in metadata) > METADATA_BYTES_MAX - own_bytes:
        raise ConfigError(
            f"The metadata is too large: S3 takes {METADATA_BYTES_MAX} bytes of names and values per object, of which "
            f"asyncsink needs {own_bytes}; shorten it.",
            option="metadata",
        )
    return metadata
