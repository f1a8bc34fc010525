"""Paths as people and programs write them, made absolute."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from asyncsink.errors import ConfigError


def absolute(path: str, what: str, directory: str = "") -> str:
    """An absolute path without "." or ".." components (resolved as text, like DataSink does) or a trailing "/".

    Args:
        path: what was written.
        what: for the message: "Output 'motion'".
        directory: where relative paths count from; "" is the current directory.

    Raises:
        ConfigError: `path` is "", leads to "/" (rule 6), or holds a NUL.
    """
    if not path:
        raise ConfigError(f"{what} is an empty path; expected a file or a directory; leave the value out instead.")
    if "\0" in path:
        raise ConfigError(f"{what} is {path!r}, which holds a NUL; expected a path; correct it.")
    result = os.path.abspath(os.path.join(directory, path))
    if not result.strip("/"):
        raise ConfigError(f"{what} is {path!r}, the root of the file system; name a directory below it.")
    return result


def open_regular(path: str, what: str) -> BinaryIO:
    """A file that describes sources, opened for reading bytes. A FIFO is refused, not waited for.

    Args:
        path: absolute path.
        what: for the message: "Manifest".

    Raises:
        ConfigError: it is missing, no regular file, or may not be read.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return open(path, "rb")
        why = "no regular file"
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:
        why = str(error)
    raise ConfigError(f"{what} {path!r} cannot be read ({why}); expected a readable file; check the path.")
