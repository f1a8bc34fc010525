"""Where a relative name lies below a directory, and that it lies nowhere else. Blocking; called in threads only."""

from __future__ import annotations

import os

from asyncsink.destinations.local_errors import shown
from asyncsink.errors import AccessDenied


def real_parent(directory: str, real_root: str, relative: str, transfer: object | None = None) -> tuple[str, str]:
    """The directory that a name lies in, with every link on the way followed, and the name's last part.

    Args:
        directory: absolute path, as the user knows it.
        real_root: the same with its links followed.
        relative: below `directory`, "/"-separated.
        transfer: for the error.

    Raises:
        AccessDenied: the name has an empty part, ".", ".." or NUL, or a link on the way leads out of the directory.
    """
    if "\0" in relative or any(part in ("", ".", "..") for part in relative.split("/")):
        raise AccessDenied(
            f"{relative!r} is no path below {shown(directory)}; give a key without empty parts, '.', '..' and NUL.",
            transfer=transfer,
            operation="local copy",
        )
    place = os.path.join(directory, relative)
    parent, name = os.path.split(place)
    parent = os.path.realpath(parent)
    if os.path.commonpath((parent, real_root)) != real_root:
        raise AccessDenied(
            f"{shown(place)} would be written outside {shown(directory)}, to {shown(parent)}; remove the symbolic link "
            "on the way.",
            transfer=transfer,
            operation="local copy",
        )
    return parent, name
