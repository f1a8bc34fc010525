"""What an OSError of a local file means to a person."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from asyncsink.errors import (
    AccessDenied,
    DestinationFull,
    EntityTooLarge,
    PermanentError,
    SourceChanged,
    SourceMissing,
    SourceUnreadable,
)
from asyncsink.os_errors import remedy

NAME_BYTES_MAX = 255

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_DIRECTORY = frozenset({errno.ENOTDIR, errno.EEXIST})


def shown(path: str) -> str:
    """A path for a message: a name that is no UTF-8 shows its bytes as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def translated(path: str, transfer: object | None, *, verb: str = "written") -> Iterator[None]:
    """Turn the OSErrors of writing `path` (or what else `verb` says) into errors of this package.

    Raises:
        DestinationFull, AccessDenied, EntityTooLarge, PermanentError: with the file, the reason and the remedy.
    """
    try:
        yield
    except OSError as error:
        raise _translate(error, path, transfer, verb) from error


def _translate(error: OSError, path: str, transfer: object | None, verb: str) -> PermanentError:
    target, directory, number = shown(path), shown(os.path.dirname(path)), error.errno
    kind: type[PermanentError] = PermanentError
    if number in _FULL:
        kind = DestinationFull
        text = f"No space, or no quota, is left for {target}; free some, or choose another directory."
    elif number in _DENIED:
        kind = AccessDenied
        text = (
            f"{target} cannot be {verb} ({error.strerror}); change the permissions of it and of {directory}, "
            "or choose another directory."
        )
    elif number == errno.EFBIG:
        kind = EntityTooLarge
        text = f"{target} is larger than its file system stores; choose another file system, or split the file."
    elif number == errno.EISDIR:
        text = f"{target} is a directory and a file was expected there; move the directory, or choose another key."
    elif number in _NO_DIRECTORY:
        text = f"{target} needs a directory where a file stands ({_named(error, directory)}); move it."
    elif number == errno.ELOOP:
        text = (
            f"{target} is not {verb}: a symbolic link took the place of a directory on the way to it, or links lead in "
            "a circle; run it again when nobody moves them."
        )
    elif number == errno.ENAMETOOLONG:
        text = f"{target} has a name longer than its file system allows ({NAME_BYTES_MAX} bytes); choose a shorter key."
    else:
        what = remedy(number) or "check the disk and the mount, then run it again"
        text = f"{target} cannot be {verb}: {error.strerror}; {what}."
    return kind(text, transfer=transfer, operation="local copy")


def moved_meanwhile(path: str) -> PermanentError:
    """The error for a file whose directory is no longer where it was when the file was begun."""
    return PermanentError(
        f"The directory of {shown(path)} was moved, or a symbolic link took its place, while the file was written; "
        "run it again when nobody moves directories there.",
        operation="local copy",
    )


def _named(error: OSError, directory: str) -> str:
    name = error.filename
    path = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name or directory)
    return shown(path) if path.startswith("/") else directory


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn the OSErrors of reading `source` into SourceMissing, SourceChanged and SourceUnreadable."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceMissing(f"{shown(source)} does not exist any more; export it again when it is at rest.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceChanged(
                f"{shown(source)} changed: a symbolic link took its place, or that of a directory on the way to it; "
                "export it again when it is at rest."
            ) from error
        raise SourceUnreadable(
            f"{shown(source)} cannot be read: {error.strerror}; make it readable, then export it again."
        ) from error
