"""What a program may do to a file while it is being published."""

from __future__ import annotations

import os
from pathlib import Path


def truncate(path: Path) -> None:
    """Half of the bytes."""
    os.truncate(path, path.stat().st_size // 2)


def grow(path: Path) -> None:
    """A few more bytes."""
    with path.open("ab") as file:
        file.write(b"more")


def edit(path: Path) -> None:
    """Other bytes of the same number, and another time."""
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"new")
    os.utime(path, ns=(1, 1))


def edit_in_secret(path: Path) -> None:
    """Other bytes of the same number, and the old time: only ctime differs."""
    before = path.stat()
    edit(path)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file of the same size and time."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_mtime_ns, before.st_mtime_ns))
    other.rename(path)
