"""Where files wait until they are whole: a hidden folder in the target directory, on its file system.

Every run holds a shared lock on it. The run that leaves last sweeps it: files that a killed run left go at once,
unfinished large files when nobody has continued them for a week; an empty folder goes too. Blocking; called in threads
only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from itertools import count

from asyncsink.destinations.local_errors import shown, translated
from asyncsink.destinations.local_files import make_directories, usual_mode
from asyncsink.errors import ConfigError

FOLDER = ".asyncsink-grab"
UNFINISHED_SECONDS_MAX = 7 * 24 * 3600
"""So long an unfinished large file is kept for a run that continues it."""
_LOCK, _WHOLE, _PART, _STATE = "lock", ".whole", ".part", ".state"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Staging:
    """The folder of one run.

    Attributes:
        directory: absolute path of the target.
        fresh: nothing was in the target when the run began.
        mode: what files are given when they appear: what the target gives to new ones.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.folder = os.path.join(directory, FOLDER)
        self.fresh = False
        self.mode = 0o600
        self._lock = -1
        self._locked = False
        self._token = secrets.token_hex(8)
        self._numbers = count(1)

    def open(self) -> None:
        """Make the target and the folder where they are missing.

        Raises:
            ConfigError: a file stands in the place of either.
            AccessDenied, DestinationFull, PermanentError: nothing can be written there.
        """
        for path in (self.directory, self.folder):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise ConfigError(f"{shown(path)} is no directory; move it, or choose another directory.")
        if os.path.islink(self.folder):
            raise ConfigError(f"{shown(self.folder)} is a symbolic link; remove it, or choose another directory.")
        with translated(self.directory, None):
            make_directories(self.directory)
            self.mode = usual_mode(self.directory)
            while not self._enter():
                continue  # another run was just taking the folder away
            self.fresh = set(os.listdir(self.directory)) == {FOLDER} and set(os.listdir(self.folder)) == {_LOCK}

    def _enter(self) -> bool:
        """Lock the folder; False where it vanished on the way."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        path = os.path.join(self.folder, _LOCK)
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return False
        self._locked = lock(self._lock, fcntl.LOCK_SH)
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        if there is not None and os.path.samestat(there, os.fstat(self._lock)):
            return True
        os.close(self._lock)
        self._lock = -1
        return False

    def whole(self) -> str:
        """A fresh path for a file that is written at once."""
        return os.path.join(self.folder, f"{self._token}-{next(self._numbers)}{_WHOLE}")

    def unfinished(self, relative: str) -> tuple[str, str]:
        """The paths of a large file and of its state, the same in every run."""
        stem = os.path.join(self.folder, hashlib.sha256(os.fsencode(relative)).hexdigest()[:32])
        return stem + _PART, stem + _STATE

    def close(self) -> None:
        """Leave; the last one sweeps. Harmless when repeated, or where `open` failed.

        Raises:
            PermanentError and its kinds: what is left there cannot be removed.
        """
        if self._lock < 0:
            return
        try:
            if self._locked and lock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                with translated(self.folder, None, verb="removed"):
                    self._sweep()
        finally:
            os.close(self._lock)
            self._lock = -1

    def _sweep(self) -> None:
        with os.scandir(self.folder) as entries:
            modified = {entry.name: entry.stat(follow_symlinks=False).st_mtime for entry in entries}
        oldest, kept = time.time() - UNFINISHED_SECONDS_MAX, False
        for name in modified:
            stem, suffix = os.path.splitext(name)
            part, state = (modified.get(stem + each, 0.0) for each in (_PART, _STATE))
            unfinished = suffix in {_PART, _STATE}
            # A file that could not get its name has the object's time already; its state tells when it was written.
            if unfinished and part and max(part, state) > oldest:
                kept = True
            elif unfinished or suffix == _WHOLE:
                os.unlink(os.path.join(self.folder, name))
        if not kept:
            os.unlink(os.path.join(self.folder, _LOCK))
            try:
                os.rmdir(self.folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # something of somebody else's lies there
                    raise


def lock(descriptor: int, how: int) -> bool:
    """Lock a file (flock(2)); False where somebody else holds it, or where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if isinstance(error, BlockingIOError) or error.errno in _NO_LOCKS:
            return False
        raise
    return True


def regular_size(path: str) -> int | None:
    """The size of the regular file at `path`, or None where there is none (a link is none)."""
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return seen.st_size if stat.S_ISREG(seen.st_mode) else None
