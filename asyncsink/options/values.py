"""Reads single values of options: sizes, choices, texts, paths, flags, pairs. Every error is one sentence."""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from asyncsink.errors import ConfigError
from asyncsink.options.settings import BANDWIDTH_BYTES_PER_SECOND_MIN, CONCURRENCY_MAX, KIB

SIZE_BYTES_MAX = 2**63 - 1
SMALL_REQUEST_BYTES = 64 * KIB
"""Bodies up to this size are sent in one piece."""
TURN_SECONDS_MAX = 10
"""Most seconds between two pieces of a body under a bandwidth limit: S3 answers RequestTimeout after about twice
that."""

_SIZE = r"(?i)^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$"
ARN = re.compile(
    r"arn:aws[a-z-]*:(?:s3|s3-object-lambda):[a-z0-9-]*:[0-9]{12}:accesspoint[/:][A-Za-z0-9.-]{1,63}"
    r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[/:][A-Za-z0-9-]{1,63}[/:]accesspoint[/:][A-Za-z0-9-]{1,63}"
)
"""ARNs that S3 takes in place of a bucket's name (botocore's handlers.py); that of an access point may have slashes."""
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(value: int | str, name: str) -> int:
    """A number of bytes from 268435456, "256MiB", "256M" (both 2**20) or "256MB" (10**6).

    Raises:
        ConfigError: the text is no size, or the size is not positive.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError(
            f"{name}={value!r} is no size; give bytes or a text such as '256MiB'.", option=name, value=value
        )
    if isinstance(value, int):
        size = value
    else:
        match = re.match(_SIZE, value)
        if match is None:
            raise ConfigError(
                f"{name}={value!r} is no size; give bytes or a text such as '256MiB'.", option=name, value=value
            )
        number, unit, binary = match.groups()
        decimal = unit and not binary and value.strip().lower().endswith("b")
        size = int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.lower()])
    if size <= 0:
        raise ConfigError(f"{name}={value!r} must be more than 0 bytes.", option=name, value=value)
    return size


def parse_duration(value: str | float | timedelta, name: str) -> float:
    """Seconds from "90s", "15m", "24h" or "7d", from a number of seconds, or from a timedelta.

    Raises:
        ConfigError: it is no duration, or negative.
    """
    seconds = -1.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    if seconds < 0:
        raise ConfigError(
            f"{name}={value!r:.60} is no duration; expected a number and a unit, as 90s, 15m, 24h or 7d.",
            option=name,
            value=value,
        )
    return seconds


def deadline_of(value: float | None) -> float | None:
    """The argument `deadline_seconds` of a method: seconds from now, or None for no deadline.

    Raises:
        ConfigError: it is no number of seconds, or negative.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and (0 <= value <= sys.float_info.max or value == math.inf)):
        raise ConfigError(f"deadline_seconds={value!r:.60} is no number of seconds; expected 0 or more, or None.")
    return value


CLOSE = 0.75
"""The least ratio of difflib between a word that may be another tool's and the one that is proposed."""


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str:
    """A sentence with the known word that is nearest to this one, or "".

    Args:
        prefix: what the words begin with, and are not compared by: it would make all of them alike.
        cutoff: least likeness, from 0 to 1, as of `difflib.get_close_matches`.
    """
    import difflib  # only for an error

    own = [each.removeprefix(prefix) for each in known]
    near = difflib.get_close_matches(word.removeprefix(prefix), own, 1, cutoff)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


_MEANT = re.compile(
    r"s3:/?(?P<place>[^/@\s][^@]*)|arn:aws[\w-]*:s3:::(?P<named>[^@]+)"
    r"|https?://(?P<bucket>[^/@]+)\.s3[.\w-]*\.amazonaws\.com(?P<key>/[^@]*)?"
    r"|https?://s3[.\w-]*\.amazonaws\.com/(?P<path>[^/@][^@]*)",
    re.IGNORECASE,
)


def bucket_meant(text: str) -> str:
    """What to write for a bucket in another form: s3:/, an ARN without a region, or an HTTP address; else "". Pure."""
    found = _MEANT.fullmatch(text)
    if found is None:
        return ""
    return f"write s3://{found['place'] or found['named'] or found['path'] or found['bucket'] + (found['key'] or '')}"


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError, with the nearest choice named, unless `value` is one of `choices`."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ConfigError(
            f"{name}={value!r} is not known; expected one of {', '.join(map(repr, choices))}.{hint}",
            option=name,
            value=value,
        )


def read_size(value: Any, name: str) -> int:
    """The bytes of an option such as 268435456 or "256MiB".

    Raises:
        ConfigError: it is no size, or larger than any file.
    """
    try:
        size = parse_size(value, name)
    except OverflowError:
        size = SIZE_BYTES_MAX + 1
    if size > SIZE_BYTES_MAX:
        raise ConfigError(
            f"{name} is more than any file or memory has; give bytes or a text such as '256MiB'.", option=name
        )
    return size


def read_text(value: Any, name: str) -> str:
    """A text, or ConfigError."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a text.", option=name)
    return value


def read_path(value: Any, name: str) -> str:
    """A path with ~ expanded.

    Raises:
        ConfigError: no path, or one with a NUL character; for `creds_path` also the content of a file.
    """
    try:
        path = os.fspath(value)
    except TypeError:
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a path.", option=name) from None
    text = os.fsdecode(path)
    if name == "creds_path" and "\n" in text:
        # The text may be the content of a credentials file, so it is not repeated.
        raise ConfigError(f"{name} has several lines; expected the path of a file.", option=name)
    if "\0" in text:
        raise ConfigError(f"{name} holds a NUL character, which no file name can; expected a path.", option=name)
    return os.path.expanduser(text)


def read_flag(value: Any, name: str) -> bool:
    """True or False, or ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected True or False.", option=name)
    return value


def read_pairs(value: Any, name: str) -> tuple[tuple[str, str], ...]:
    """Pairs of texts, or ConfigError."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r} is no list of pairs; expected [(old, new), …].", option=name, value=value)
    pairs = []
    for pair in value:
        items = pair if isinstance(pair, (tuple, list)) else ()
        if len(items) != 2 or not all(isinstance(item, str) for item in items):
            raise ConfigError(
                f"{name} holds {pair!r}; expected pairs of two texts, as in [('old', 'new')].", option=name
            )
        pairs.append((items[0], items[1]))
    return tuple(pairs)


def read_mapping(value: Any, name: str) -> tuple[tuple[str, str], ...]:
    """The items of a mapping of texts, or ConfigError."""
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise ConfigError(f"{name} is no mapping of texts; expected {{'name': 'value'}}.", option=name)
    return tuple(value.items())


def read_texts(value: Any, name: str) -> tuple[str, ...]:
    """Patterns, or ConfigError."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(
            f"{name} is of type {type(value).__name__}; expected a list of patterns, ['*.tmp'].", option=name
        )
    found = tuple(value)
    if not all(isinstance(pattern, str) for pattern in found):
        raise ConfigError(
            f"{name} holds something that is no text; expected a list of patterns, ['*.tmp'].", option=name
        )
    return found


def read_paths(value: Any, name: str) -> tuple[str, ...]:
    """One path or several, as `read_path`."""
    if isinstance(value, (str, os.PathLike)):
        value = (value,)
    elif not isinstance(value, Iterable):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a path, or a list of paths.")
    return tuple(read_path(path, name) for path in value)


def read_listing(value: Any, name: str) -> str | tuple[str, ...]:
    """The path of a file of paths, or the paths themselves.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, (str, os.PathLike)):
        path = read_path(value, name)
        if not path.strip():
            raise ConfigError(f"{name} is empty; expected the path of a file of paths.")
        return path
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected the path of a file, or a list of paths.")
    paths = tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in value)
    if not paths or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f"{name} holds no path, or something else; expected a list of paths below the source.")
    return paths


def read_moment(value: Any, name: str) -> float:
    """A time in seconds since the epoch: so long ago ("7d", as `parse_duration`), or a date ("2026-11-30",
    "2026-11-30T12:00+01:00", a datetime); without a zone it is local time.

    Raises:
        ConfigError: it is neither.
    """
    try:
        date = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(date, datetime):
            return date.timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return time.time() - parse_duration(value, name)
    except ConfigError:
        raise ConfigError(
            f"{name}={value!r:.60} is no time; expected how long ago, as 90s, 15m, 24h or 7d, or a date, as 2026-11-30 "
            "or 2026-11-30T12:00."
        ) from None


def read_observer(value: Any, name: str) -> Any:
    """A function to call, or ConfigError."""
    if not callable(value):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected a function of one event.", option=name)
    if inspect.iscoroutinefunction(value):
        raise ConfigError(
            f"{name} is a coroutine function, which nobody would await; expected a plain function.", option=name
        )
    return value


def read_progress(value: Any, name: str) -> Any:
    """True, False, or a function to call.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool):
        return value
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise ConfigError(
            f"{name}={value!r:.60} is neither True nor a plain function; expected progress=True, or a function of one "
            "ProgressSnapshot.",
            option=name,
        )
    return value


def read_concurrency(value: Any) -> int | None:
    """Requests at the same time; None for "auto" and None.

    Raises:
        ConfigError: it is no number, or out of range.
    """
    if value in (None, "auto"):
        return None
    fault = "is out of range"
    try:
        fixed = int(value)
    except OverflowError:
        fixed = 0
    except (TypeError, ValueError):
        fixed, fault = 0, "is no number"
    if isinstance(value, bool) or not 1 <= fixed <= CONCURRENCY_MAX:
        raise ConfigError(
            f"concurrency={value!r:.60} {fault}; expected 1 to {CONCURRENCY_MAX}, or 'auto'.",
            option="concurrency",
            value=value,
        )
    return fixed


def read_bandwidth(value: Any, name: str = "bandwidth_bytes_per_second") -> int | None:
    """Bytes in a second, or None.

    Raises:
        ConfigError: it is no size, or too little.
    """
    if value is None:
        return None
    rate = read_size(value, name)
    if rate < BANDWIDTH_BYTES_PER_SECOND_MIN:
        raise ConfigError(
            f"{name}={rate:,} is too little: servers hang up where nothing comes for seconds; expected at least "
            f"{BANDWIDTH_BYTES_PER_SECOND_MIN:,}.",
            option=name,
            value=rate,
        )
    return rate


def requests_within(bandwidth_bytes_per_second: int | None) -> int:
    """Most requests at the same time under a bandwidth limit: each must send before the server ends its connection."""
    rate = bandwidth_bytes_per_second or SIZE_BYTES_MAX
    return max(1, min(CONCURRENCY_MAX, rate * TURN_SECONDS_MAX // SMALL_REQUEST_BYTES))


def read_integer(value: object) -> int:
    """A whole number, also as decimal digits; -1 for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else -1
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def split_bucket(rest: str) -> tuple[str, str]:
    """The bucket, or the ARN in its place, and the prefix in what follows "s3://". Pure."""
    match = ARN.match(rest)
    if match is not None and rest[match.end() : match.end() + 1] in ("", "/"):
        return match[0], rest[match.end() + 1 :]
    bucket, _, prefix = rest.partition("/")
    return bucket, prefix


def check_endpoint(endpoint_url: str, name: str = "endpoint_url") -> str:
    """The endpoint in its usual form: the scheme in lower case, no slash at its end. "" is Amazon's own. Pure.

    Args:
        endpoint_url: as the user wrote it; it may have a path.
        name: of the option or variable that it comes from, for messages.

    Raises:
        ConfigError: it is no http(s) URL, or holds a query or credentials; a password in it is not repeated.
    """
    if not endpoint_url:
        return ""
    try:
        parts = urlsplit(endpoint_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if "@" in endpoint_url:
        raise ConfigError(
            f"{name} holds an '@', and perhaps a user name or password; expected an endpoint such as "
            "'https://s3.example.org', and credentials by creds_path or profile.",
            option=name,
        )
    malformed = port == 0 or any(c in endpoint_url for c in "?#\\") or re.search(r"\s", endpoint_url)
    if parts.scheme not in ("http", "https") or not host or malformed:
        raise ConfigError(
            f"{name}={endpoint_url!r:.300} is malformed; expected an endpoint such as 'https://s3.example.org', "
            "'http://127.0.0.1:8333' or 'https://example.org/storage/v1/s3', without a query.",
            option=name,
            value=endpoint_url,
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
