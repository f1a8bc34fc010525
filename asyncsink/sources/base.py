"""The Source protocol, and the paths that describe sources."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.paths import as_text, current_directory, on_disk
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One top-level source, as the caller gave it.

    Attributes:
        attribute: the DataSink attribute it arrived on, or "".
        path: absolute path, no trailing "/".
    """

    attribute: str
    path: str


class Source(Protocol):
    """Something that can be walked for files to publish."""

    @property
    def replayable(self) -> bool:
        """True where `scan` can run twice: first to count and check, then to publish."""
        ...

    @property
    def injective(self) -> bool:
        """True where no two files can have the same relative key (a directory): no collision check is needed."""
        ...

    @property
    def entries(self) -> Sequence[SourceEntry] | None:
        """The top-level sources in the caller's order (they become `out_file`); None where each file is one."""
        ...

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Find the files. Blocking; memory does not grow with their number. Does not raise for a single bad file.

        Raises:
            ConfigError: the source as a whole is unusable (missing manifest, malformed JSON, …).
        """
        ...


# -- Absolute paths of sources -----------------------------------------------------------------------------------------


def absolute(path: str, what: str, directory: str = "") -> str:
    """An absolute path without "." or ".." components (resolved as text, like DataSink does) or a trailing "/".

    Args:
        path: as written in a file or passed by a program, UTF-8.
        what: for the message: "Output 'motion'".
        directory: base of relative paths; "" is the current directory.

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
    """The absolute path of the file that this interpreter opens as `path`, relative to the current directory.

    Args:
        path: the caller's path.
        what: for the message: "Manifest".

    Raises:
        ConfigError: the interpreter's encoding cannot represent the path.
    """
    try:
        return as_text(os.path.abspath(path))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {path!r} can be no path ({error}); correct it.") from error


def open_description(path: str, what: str) -> BinaryIO:
    """Open a file that describes sources, for reading bytes. A FIFO is refused, because opening it would block.

    Args:
        path: absolute path.
        what: for the message: "Manifest".

    Raises:
        ConfigError: the file is missing, not regular, or not readable.
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
