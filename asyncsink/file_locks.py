"""Locks of files (flock(2)), and whether a file still has its name when it is locked. Blocking."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Errors of file systems without locks: some network file systems."""


def lock(descriptor: int, how: int) -> bool:
    """Lock a file (flock(2)); False where another process holds the lock, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if isinstance(error, BlockingIOError) or error.errno in NO_LOCKS:
            return False
        raise
    return True


def has_name(descriptor: int, path: str) -> bool:
    """Whether an opened file still has the name `path`: between opening and locking, another process may have renamed,
    replaced or removed it."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
