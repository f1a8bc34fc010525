"""The options of a reader, and the keys and patterns of its calls, checked before any request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncsink.download.options import parse_source
from asyncsink.errors import ConfigError, InvalidKey
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import READER_OPTIONS, S3Target, Settings
from asyncsink.options.typed import ReaderOptions
from asyncsink.routing.keys import KEY_BYTES_MAX, show
from asyncsink.routing.templates import Pattern, glob_pattern

_RESOLVED = re.compile(r"(?:\A|/)\.{1,2}(?:/|\Z)")


def parse_reader(source: Any, options: ReaderOptions | Mapping[str, Any]) -> Settings:
    """Check every option. Nothing is read or sent.

    Raises:
        ConfigError: an option is wrong; one sentence, about the first one.
    """
    given: dict[str, Any] = dict(options)
    check_option_names(given, READER_OPTIONS, what="a reader")
    if given.get("sse") is not None and not isinstance(given["sse"], (bytes, bytearray)):
        raise ConfigError(
            "sse is no key; a reader takes a customer key of 32 bytes, and needs nothing for other kinds."
        )
    settings = parse_options(parse_source(source, "a reader"), given)
    if not isinstance(settings.target, S3Target):
        raise ConfigError(f"The source {settings.target.url!r} is a local directory; expected s3://bucket/prefix.")
    return settings


def base_of(settings: Settings) -> str:
    """The beginning of all keys of a reader: the prefix with its "/", or ""."""
    target = settings.target
    assert isinstance(target, S3Target)
    return f"{target.prefix}/" if target.prefix else ""


def whole_key(base: str, key: object) -> str:
    """The key in the bucket, for a key below `base`: exactly the text, spaces, "+" and "//" included.

    Raises:
        InvalidKey: it is no text, or none that S3 takes; or it has "." or ".." between slashes, which leads out of the
            prefix on some servers and proxies.
    """
    if not isinstance(key, str):
        raise InvalidKey(f"The key is of type {type(key).__name__}; expected a text, relative to the prefix.")
    if not key:
        raise InvalidKey("The key is empty; expected the name of an object below the prefix.")
    whole = base + key
    if not (key.isascii() and len(whole) <= KEY_BYTES_MAX):
        try:
            size_bytes = len(whole.encode())
        except UnicodeEncodeError:
            raise InvalidKey(
                f"The key {show(key)} is not valid UTF-8; S3 takes no other, so no object has it."
            ) from None
        if size_bytes > KEY_BYTES_MAX:
            raise InvalidKey(
                f"The key {show(key)} has {size_bytes} bytes with the prefix; S3 takes {KEY_BYTES_MAX} at most, so no "
                "object has it."
            )
    if "." in key and _RESOLVED.search(key):
        raise InvalidKey(
            f"The key {show(key)} has '.' or '..' between slashes, which leads out of the prefix on some servers; name "
            "the object without it."
        )
    return whole


def check_slice(start: object, end: object) -> None:
    """Refuse anything but the bounds of a slice.

    Raises:
        ConfigError: `start` is no integer, or `end` neither an integer nor None.
    """
    for name, value in (("start", start), ("end", end)):
        if isinstance(value, bool) or not (isinstance(value, int) or (name == "end" and value is None)):
            raise ConfigError(
                f"{name}={value!r:.60} is no position; expected an integer{' or None' if name == 'end' else ''}, as in "
                "a slice of Python."
            )


def listing_prefix(base: str, prefix: object, pattern: Pattern | None) -> str | None:
    """The longest beginning of all keys that begin with `prefix`, below `base`, and match the pattern; None where there
    can be none.

    Raises:
        ConfigError: `prefix` is no text that a key can begin with.
    """
    if not isinstance(prefix, str):
        raise ConfigError(f"prefix is of type {type(prefix).__name__}; expected a text, below the reader's own prefix.")
    below = base + prefix
    try:
        below.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"prefix={show(prefix)} is not valid UTF-8, so that no key begins with it.") from None
    if pattern is None or below.startswith(pattern.prefix):
        return below
    return pattern.prefix if pattern.prefix.startswith(below) else None


def pattern_of(base: str, match: object) -> Pattern | None:
    """The pattern of a listing: a glob for the whole key below `base`, as `asyncsink grab --glob` has it.

    Raises:
        ConfigError: it is no text, empty, or no glob.
    """
    if match is None:
        return None
    if not isinstance(match, str) or not match:
        raise ConfigError(f"match={match!r:.60} is no pattern; expected a glob such as '**/*.nii.gz', or None.")
    return glob_pattern(match, base)
