"""Paths as people and programs write them, made absolute."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from asyncsink.errors import ConfigError
from asyncsink.paths import as_text, current_directory, on_disk


def absolute(path: str, what: str, directory: str = "") -> str:
    """An absolute path without "." or ".." components (resolved as text, like DataSink does) or a trailing "/".

    Args:
        path: what was written, in a file or by a program, as UTF-8.
        what: for the message: "Output 'motion'".
        directory: where relative paths count from; "" is the current directory.

    Raises:
        ConfigError: `path` is "", leads to "/" (rule 6), or holds a NUL.
    """
    if not path:
        raise ConfigError(f"{what} is an empty path; expected a file or a directory; leave the value out instead.")
    if "\0" in path:
        raise ConfigError(f"{what} is {path!r}, which holds a NUL; expected a path; correct it.")
    if not path.startswith("/"):
        path = os.path.join(directory or current_directory(), path)
    # normpath keeps two slashes at the start (POSIX lets them mean something else; Linux and macOS do not).
    result = "/" + os.path.normpath(path).lstrip("/")
    if not result.strip("/"):
        raise ConfigError(f"{what} is {path!r}, the root of the file system; name a directory below it.")
    return result


def given_path(path: str, what: str) -> str:
    """The absolute path of what this interpreter opens as `path`; relative ones count from the current directory.

    Args:
        path: as a caller gave it.
        what: for the message: "Manifest".

    Raises:
        ConfigError: no file's name can be written so in the interpreter's encoding.
    """
    try:
        return as_text(os.path.abspath(path))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {path!r} can be no path ({error}); correct it.") from error


def open_regular(path: str, what: str) -> BinaryIO:
    """A file that describes sources, opened for reading bytes. A FIFO is refused, not waited for.

    Args:
        path: absolute path.
        what: for the message: "Manifest".

    Raises:
        ConfigError: it is missing, no regular file, or may not be read.
    """
    try:
        if stat.S_ISREG(os.stat(on_disk(path)).st_mode):
            return open(on_disk(path), "rb")
        why = "no regular file"
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:
        why = str(error)
    raise ConfigError(f"{what} {path!r} cannot be read ({why}); expected a readable file; check the path.")
