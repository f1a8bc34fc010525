"""Legal keys, joining of names into keys, collisions of keys, and keys that some servers treat as equal.

The rules are stricter than S3's own ("Naming Amazon S3 objects", S3 User Guide): a key that S3 accepts but that a
client, a file system or a look-alike would fold, cut or climb out of is refused before anything is sent.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_plus

from asyncsink.errors import ConfigError, InvalidKey, KeyCollision

KEY_BYTES_MAX = 1024
"""Longest key, in bytes of UTF-8 (S3 User Guide, "Naming Amazon S3 objects")."""
PATH_BYTES_MAX = 4095
"""Longest path of a local file, in bytes (PATH_MAX without its closing NUL)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BAD_SEGMENT = re.compile(r"(?:\A|/)(\.{0,2})(?=/|\Z)")
_SHOWN_CHARACTERS_MAX = 120


def show(name: str) -> str:
    """A name for a message: quoted, on one line, control characters and surrogates escaped, long names shortened."""
    if len(name) > _SHOWN_CHARACTERS_MAX:
        half = _SHOWN_CHARACTERS_MAX // 2
        name = f"{name[:half]}…{name[-half:]}"
    return repr(name)


def check_key(key: str, *, bytes_max: int = KEY_BYTES_MAX) -> None:
    """Raise InvalidKey unless `key` can be stored, listed and copied to a file system under exactly this name.

    Legal keys have 1 to `bytes_max` bytes of UTF-8, no control characters (C0, DEL, C1), no leading or trailing "/" and
    no segment that is empty, "." or ".." (Nipype rules 12 and 23).

    Args:
        key: relative to its destination.
        bytes_max: the limit less the destination's own prefix, in bytes.
    """
    # A run checks millions of keys; plain ones are accepted here. An empty key falls through: "" is in "/.".
    if (
        key.isascii()
        and key.isprintable()
        and len(key) <= bytes_max
        and key[:1] not in "/."
        and key[-1] != "/"
        and "//" not in key
        and "/." not in key
    ):
        return
    fault = _fault(key, bytes_max)
    if fault:
        raise InvalidKey(f"The key {show(key)} {fault}.")


def given_key(key: object, *, bytes_max: int) -> str:
    """An exact key that a caller gives, as plain text; checked as `check_key` does.

    Raises:
        ConfigError: it is no str.
        InvalidKey: it is not legal.
    """
    if not isinstance(key, str):
        raise ConfigError(
            f"The key is of type {type(key).__name__}; expected a str, relative to the destination, such as "
            "'qc/summary.json'."
        )
    key = str.__str__(key)  # a member of an Enum becomes its plain text
    check_key(key, bytes_max=bytes_max)
    return key


def _fault(key: str, bytes_max: int) -> str:
    """The fault of the key and its remedy, or ""."""
    if not key:
        return "is empty; give the file a name below the destination"
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8, and S3 takes no other; give it, or the file, a name that is"
    control = _CONTROL.search(key)
    if control:
        return f"holds the control character U+{ord(control[0]):04X}; leave it out: rename the file, or substitute it"
    segment = _BAD_SEGMENT.search(key)
    if segment:
        return _segment_fault(key, segment)
    if size_bytes > bytes_max:
        limit = f"{bytes_max} are allowed below this destination"
        return f"has {size_bytes} bytes in UTF-8, but at most {limit}; shorten folder or file names"
    return ""


def _segment_fault(key: str, segment: re.Match[str]) -> str:
    if segment[1]:
        return f"has the segment {segment[1]!r}, which file systems resolve; write the name without it"
    if key.startswith("/"):
        return 'starts with "/"; keys are relative to the destination, write it without'
    if key.endswith("/"):
        return 'ends with "/" and so names a folder; give the file a name'
    return 'has an empty segment ("//"), which several servers fold; write a single "/"'


def join_key(*parts: str) -> str:
    """Join parts with single slashes; empty parts, "//" and outer slashes vanish (rule 23)."""
    joined = "/".join(parts)
    if "//" in joined or joined[:1] == "/" or joined[-1:] == "/":
        joined = "/".join(filter(None, joined.split("/")))
    return joined


# -- Collisions: two sources with one key (Nipype rule 16) -------------------------------------------------------------


def collision_error(key: str, first: str, second: str) -> KeyCollision:
    """The KeyCollision for two sources routed to one key.

    Args:
        key: the key, or its URL.
        first, second: absolute paths of the sources, in the order of discovery.
    """
    if first == second:
        return KeyCollision(
            f"The source {show(first)} is named twice for the key {show(key)}; name it once, "
            "or set on_collision='last'."
        )
    return KeyCollision(
        f"The sources {show(first)} and {show(second)} would both be published as {show(key)}; give them different "
        "keys, attributes or containers, keep parameterization=True, tell them apart with substitutions, "
        "or set on_collision='last' to publish only the second."
    )


# -- Pure: keys that some servers treat as equal -----------------------------------------------------------------------
# S3 compares keys byte by byte. Look-alikes that keep objects in a file system may read a backslash as a slash
# (SeaweedFS), fold case (Windows, macOS), compose or decompose accents (macOS), drop dots and spaces at the end of a
# name (Windows), or decode percent signs once too often.

_ENDS = re.compile(r"[. ]+(?=/|\Z)")
_SLASHES = re.compile(r"//+")


def alike(key: str) -> str:
    """The same text for all keys that some server treats as equal. Takes about half a microsecond."""
    if "%" in key or "+" in key:
        key = unquote_plus(key)
    if "\\" in key:
        key = key.replace("\\", "/")
    if not key.isascii():
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())
    else:
        key = key.lower()
    if key[-1:] in (".", " ") or "./" in key or " /" in key:
        key = _ENDS.sub("", key)
    return _SLASHES.sub("/", key) if "//" in key else key


def fingerprint(key: str) -> int:
    """An integer shared by alike keys, small enough to be kept for every key of a run; valid in this process only."""
    return hash(alike(key))
