"""Where a page is written: checked before anything is sent, and written atomically (temporary file, fsync, rename).

All functions block.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Final

from asyncsink.errors import ConfigError
from asyncsink.paths import sync_directory_of

GENERATOR: Final = "asyncsink page"
"""A page names it, so that a later run knows what it may replace."""
_BEGINNING: Final = 600
"""Bytes in which a page names itself."""
_JSON: Final = b'{"asyncsink_page"'


def is_json(path: str) -> bool:
    """Whether a page of this name is JSON."""
    return path.lower().endswith(".json")


def check_place(path: str) -> None:
    """Refuse a name under which no page can be written.

    Raises:
        ConfigError: it ends otherwise than .html or .json, is a directory or a file that is no page, or its directory
            is missing or may not be written to.
    """
    if not path.lower().endswith((".html", ".htm", ".json")):
        raise ConfigError(f"report={path!r} is neither a page nor JSON; expected a name that ends in .html or .json.")
    check_replaceable(path)
    probe = _temporary(_real(path))
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise ConfigError(
            f"The report {path!r} cannot be created: {error.strerror}; give the name of a file in a directory that "
            "exists and that you may write to."
        ) from error


def check_replaceable(path: str) -> None:
    """Refuse to replace what is no page of an earlier run; raises ConfigError."""
    beginning = b""
    try:
        with open(os.open(_real(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as there:
            beginning = there.read(_BEGINNING)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise ConfigError(f"The report {path!r} is a directory; give the name of a file.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The report {path!r} cannot be replaced ({error}); give another name.") from error
    if beginning and not beginning.startswith(_JSON) and GENERATOR.encode() not in beginning:
        raise ConfigError(
            f"{path!r} exists and is no report of asyncsink, so it is left as it is; choose another name, or remove it "
            "first."
        )


def write_page(path: str, content: bytes) -> None:
    """Write the page, so that its name is always that of a whole page.

    Raises:
        ConfigError: a file that is no page has the name by now. OSError: the file system refuses.
    """
    check_replaceable(path)
    real = _real(path)
    temporary = _temporary(real)
    # With the permissions that the user's other files get: a page is for others to read.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, real)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory_of(real)


def _real(path: str) -> str:
    """A link stays, and its target is replaced."""
    return os.path.realpath(path)


def _temporary(real: str) -> str:
    directory, name = os.path.split(real)
    return os.path.join(directory, f".{name[:100]}.{secrets.token_hex(6)}.partial")
