"""From the public options (DataSink's names and ours) to one validated `Settings`. Nothing is read or sent here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from asyncsink.errors import ConfigError
from asyncsink.options.names import ExportOptions, check_option_names, object_options
from asyncsink.options.settings import (
    BANDWIDTH_BYTES_PER_SECOND_MIN,
    GIB,
    KIB,
    MIB,
    AddressingStyle,
    ChecksumChoice,
    Compat,
    JournalChoice,
    LaneChoice,
    Limits,
    LocalCopyMode,
    LocalTarget,
    OnCollision,
    OnMissing,
    OnUnreachable,
    OnUnreadable,
    Overwrite,
    Policies,
    RetryPolicy,
    RoutingOptions,
    S3Target,
    Settings,
    Shard,
    SignPayload,
    StripDirMode,
    SubstitutionScope,
    Symlinks,
)
from asyncsink.options.values import (
    ARN,
    SIZE_BYTES_MAX,
    check_choice,
    check_endpoint,
    choice_of,
    choices_of,
    flag_of,
    pairs_of,
    parse_duration,
    path_of,
    size_of,
    split_bucket,
    text_of,
)
from asyncsink.paths import as_text

CONCURRENCY_MAX = 1024
RETRIES_MAX = 100
SMALL_REQUEST_BYTES = 64 * KIB
"""Bodies up to this size are sent in one piece."""
TURN_SECONDS_MAX = 10
"""S3 answers RequestTimeout where the next bytes of a body take about twice as long."""
PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX = 5 * MIB, 5 * GIB

_BUCKET = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,255}")
"""What botocore sends: older buckets, and other servers, have names that are no DNS labels; the server decides."""
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
    journal = _journal(given, target)
    return Settings(
        target=target,
        routing=_routing(given, compat),
        objects=object_options(given),
        limits=_limits(given),
        retry=_retry(given),
        policies=_policies(given, journal),
        local_copy=_local_copy(given, target),
        manifest=path_of(given, "manifest"),
        journal=journal,
        remove_dest_dir=flag_of(given, "remove_dest_dir", False),
        transport=choice_of(given, "transport", "auto", LaneChoice),
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
        directory = _directory(text, "The destination")
        return LocalTarget(directory=directory, url=directory, mode=mode)
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
        endpoint_url=check_endpoint(text_of(given, "endpoint_url")),
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
    """A destination for a message, unless it may hold credentials, which stand before an "@" (RFC 3986, 3.2.1)."""
    return repr(text) if "@" not in text else "(not shown: it has an '@'; credentials belong in creds_path or profile)"


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
        parameterization_root=_directory(root, "parameterization_root") if root else "",
        strip_dir=_directory(strip_dir, "strip_dir", absolute=not nipype) if strip_dir else "",
        substitutions=pairs_of(given, "substitutions"),
        regexp_substitutions=pairs_of(given, "regexp_substitutions"),
        compat=compat,
        substitution_scope=choice_of(given, "substitution_scope", "full" if nipype else "key", SubstitutionScope),
        strip_dir_mode=choice_of(given, "strip_dir_mode", "replace" if nipype else "prefix", StripDirMode),
        substitute_files=flag_of(given, "substitute_files", False),
    )


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
    bandwidth = _bandwidth(given)
    # What waits for its turn must get it before the server takes it for dead.
    most = max(1, (bandwidth or SIZE_BYTES_MAX) * TURN_SECONDS_MAX // SMALL_REQUEST_BYTES)
    fixed = fixed and min(most, fixed)
    if memory < part:
        raise ConfigError(f"memory_bytes={memory:,} is less than one part ({part:,} bytes); give at least that.")
    return Limits(
        concurrency=fixed,
        concurrency_start=fixed or min(most, default.concurrency_start),
        concurrency_max=fixed or min(most, default.concurrency_max),
        part_size_bytes=part,
        multipart_threshold_bytes=part,
        memory_bytes=memory,
        bandwidth_bytes_per_second=bandwidth,
    )


def _bandwidth(given: Mapping[str, Any]) -> int | None:
    name = "bandwidth_bytes_per_second"
    if given.get(name) is None:
        return None
    rate = size_of(given, name, BANDWIDTH_BYTES_PER_SECOND_MIN)
    if rate < BANDWIDTH_BYTES_PER_SECOND_MIN:
        raise ConfigError(
            f"{name}={rate:,} is too little: servers hang up where nothing comes for seconds; expected at least "
            f"{BANDWIDTH_BYTES_PER_SECOND_MIN:,}."
        )
    return rate


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


def _retries(given: Mapping[str, Any]) -> int:
    value = given.get("retries")
    rounds = Policies().retries if value is None else _whole(value)
    if not 0 <= rounds <= RETRIES_MAX:
        raise ConfigError(f"retries={value!r:.60} is out of range; expected 0 to {RETRIES_MAX} further rounds.")
    return rounds


def _give_up_after(given: Mapping[str, Any]) -> float:
    value = given.get("give_up_after_seconds")
    return Policies().give_up_after_seconds if value is None else parse_duration(value, "give_up_after_seconds")


def _retry(given: Mapping[str, Any]) -> RetryPolicy:
    retry = given.get("retry")
    if retry is None:
        return RetryPolicy()
    if not isinstance(retry, RetryPolicy):
        raise ConfigError(f"retry is of type {type(retry).__name__}; expected asyncsink.RetryPolicy(…).")
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
        check_choice("checksum", checksum, choices_of(ChecksumChoice))
    on_missing: OnMissing = choice_of(given, "on_missing", "error", OnMissing)
    return Policies(
        overwrite=choice_of(given, "overwrite", "journal" if journal.path else "checksum", Overwrite),
        on_missing=on_missing,
        on_unreadable=choice_of(given, "on_unreadable", on_missing, OnUnreadable),
        exclude=_exclude(given),
        on_collision=choice_of(given, "on_collision", "error", OnCollision),
        on_unreachable=choice_of(given, "on_unreachable", "error", OnUnreachable),
        # Nipype follows every link, and its working directories are full of them.
        symlinks=choice_of(given, "symlinks", "follow" if given.get("compat") == "nipype" else "inside", Symlinks),
        checksum=cast("ChecksumChoice | None", checksum),
        related_files=flag_of(given, "related_files", False),
        retries=_retries(given),
        give_up_after_seconds=_give_up_after(given),
        abort_on_interrupt=flag_of(given, "abort_on_interrupt", False),
    )


def _journal(given: Mapping[str, Any], target: S3Target | LocalTarget) -> JournalChoice:
    value = given.get("journal")
    asked_for = given.get("overwrite") == "journal"
    if value is False:
        if asked_for:
            raise ConfigError("overwrite='journal' needs a journal; leave journal=False out, or use 'checksum'.")
        return JournalChoice(enabled=False)
    if value is True:
        raise ConfigError("journal=True names no file; expected the path of a file, None or False.")
    if isinstance(target, LocalTarget):
        if value is not None or asked_for:
            what = "journal is" if value is not None else "overwrite='journal' is"
            raise ConfigError(
                f"{what} given, but the destination {target.url} is a local directory, which has none; expected "
                "s3://bucket/prefix."
            )
        return JournalChoice(enabled=False)
    path = path_of(given, "journal")
    if value is not None and not path.strip():
        raise ConfigError("journal is empty; expected the path of a file, None or False.")
    return JournalChoice(
        path=os.path.abspath(path) if path else "",
        required=bool(path) or asked_for,
        state_directory=_state_directory(),
    )


def _state_directory() -> str:
    """Where the user keeps such files: $XDG_STATE_HOME, unless it is relative (XDG Base Directory Specification)."""
    said = os.environ.get("XDG_STATE_HOME", "")
    return said if os.path.isabs(said) else JournalChoice().state_directory


def _exclude(given: Mapping[str, Any]) -> tuple[str, ...]:
    patterns = given.get("exclude")
    if patterns is None:
        return ()
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ConfigError(f"exclude is of type {type(patterns).__name__}; expected a list of patterns, ['*.tmp'].")
    found = tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in found):
        raise ConfigError("exclude holds something that is no text; expected a list of patterns, ['*.tmp'].")
    return found


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
    directory = _directory(text, "local_copy")
    if isinstance(target, LocalTarget) and target.directory == directory:
        raise ConfigError(f"local_copy and the destination are the same directory, {directory}; leave local_copy out.")
    return LocalTarget(
        directory=directory, url=directory, mode=choice_of(given, "local_copy_mode", "copy", LocalCopyMode)
    )


def _directory(path: str, what: str, *, absolute: bool = True) -> str:
    """A directory that names are compared with, or made below, as asyncsink's text."""
    try:
        return as_text(os.path.abspath(path) if absolute else path)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {_shown(path)} can be no path ({error}); correct it.") from error
