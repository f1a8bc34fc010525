"""Where files wait until they are whole: a hidden folder in the target directory, on its file system.

Every run holds a shared lock on it. The run that leaves last sweeps it: files that a killed run left go at once,
unfinished large files when nobody has continued them for a week; an empty folder goes too. It stays open, and all that
is done in it is done relative to it, whatever its path leads to by then. Blocking; called in threads only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from itertools import count

from asyncsink.destinations.local_errors import shown, translated
from asyncsink.destinations.local_files import make_directories, usual_mode
from asyncsink.destinations.local_places import Place, PlacesBelow
from asyncsink.errors import ConfigError
from asyncsink.paths import LIST, on_disk

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
        places: below the target, as it was when it was opened, whatever its path leads to later.
        mode: what files are given when they appear: what the target gives to new ones.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.folder = f"{directory.rstrip('/')}/{FOLDER}"
        self.fresh = False
        self.mode = 0o600
        self.places: PlacesBelow
        self._root = self._folder = self._lock = -1
        self._locked = False
        self._token = secrets.token_hex(8)
        self._numbers = count(1)

    def open(self) -> None:
        """Make the target and the folder where they are missing.

        Raises:
            ConfigError: a file stands in the place of either, or the folder is another user's.
            AccessDenied, DestinationFull, PermanentError: nothing can be written there.
        """
        for path in (self.directory, self.folder):
            if os.path.lexists(on_disk(path)) and not os.path.isdir(on_disk(path)):
                raise ConfigError(f"{shown(path)} is no directory; move it, or choose another directory.")
        if os.path.islink(on_disk(self.folder)):
            raise ConfigError(f"{shown(self.folder)} is a symbolic link; remove it, or choose another directory.")
        with translated(self.directory, None):
            make_directories(self.directory)
            self.places = PlacesBelow(self.directory)
            with self.places.open(FOLDER) as place:
                self.mode = usual_mode(place)
                self._root = os.dup(place.directory)
            while not self._enter():
                continue  # another run was just taking the folder away
            self.fresh = set(os.listdir(self._root)) == {FOLDER} and set(os.listdir(self._folder)) == {_LOCK}

    def _enter(self) -> bool:
        """Lock the folder; False where it vanished on the way."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=self._root)
        try:
            self._folder = os.open(FOLDER, LIST | os.O_NOFOLLOW, dir_fd=self._root)
            if os.fstat(self._folder).st_uid != os.geteuid():
                raise ConfigError(
                    f"{shown(self.folder)} belongs to another user, who could exchange what is received there; remove "
                    "it, or choose another directory."
                )
            self._lock = self.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
            self._locked = lock(self._lock, fcntl.LOCK_SH)
            if self._is_at(FOLDER, self._root, self._folder) and self.holds(_LOCK, self._lock):
                return True
        except FileNotFoundError:
            pass
        except BaseException:
            self._let_go()
            raise
        self._let_go(keep_root=True)
        return False

    def _let_go(self, *, keep_root: bool = False) -> None:
        for descriptor in (self._lock, self._folder, *(() if keep_root else (self._root,))):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._folder = -1
        if not keep_root:
            self._root = -1

    def whole(self) -> str:
        """A fresh name for a file that is written at once."""
        return f"{self._token}-{next(self._numbers)}{_WHOLE}"

    def unfinished(self, relative: str) -> tuple[str, str]:
        """The names of a large file and of its state, the same in every run."""
        stem = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return stem + _PART, stem + _STATE

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of a file in the folder; a link is not followed. The caller closes it."""
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)

    def holds(self, name: str, descriptor: int) -> bool:
        """Whether `name` is that open file."""
        return self._is_at(name, self._folder, descriptor)

    @staticmethod
    def _is_at(name: str, directory: int, descriptor: int) -> bool:
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def publish(self, name: str, place: Place) -> None:
        """Give a file in the folder its place.

        Raises:
            OSError, PermanentError: as `Place.take`.
        """
        place.take(name, self._folder)

    def remove(self, name: str) -> None:
        """Remove a file of the folder; harmless where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

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
            self._let_go()

    def _sweep(self) -> None:
        with os.scandir(self._folder) as entries:
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
                self.remove(name)
        if not kept:
            self.remove(_LOCK)
            try:
                os.rmdir(FOLDER, dir_fd=self._root)
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
