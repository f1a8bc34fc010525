"""The files of a manifest: NAME.partial during its run, NAME once that is complete. All functions block.

NAME.partial is created, locked, and renamed to NAME at the end, so that NAME is always the whole manifest of a run that
ended. The NAME.partial of an interrupted run is never written to: the next run moves it to NAME.partial.1 (.2, …), and
removes it when its own manifest has all of its receipts.

The receipts of a part may be written by several machines at once, over a network file system without locks. Each
attempt then has a partial file of its own, NAME.ATTEMPT.partial, and none replaces a file: the manifest that has the
name when an attempt is complete is renamed to NAME.ATTEMPT, and removed only where its receipts are carried over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import field

from asyncsink.errors import ConfigError, JournalError
from asyncsink.file_locks import NO_LOCKS, has_name, lock
from asyncsink.paths import sync_directory_of
from asyncsink.value import dataclass

PARTIAL = ".partial"
ASIDE_MAX = 9999
"""Most files kept beside one manifest."""
LEFT_MAX = 16
"""Most files of interrupted runs whose receipts are taken over, the latest; older ones stay unchanged."""
OPEN_ATTEMPTS_MAX = 20
"""Attempts to create the partial file while other runs move it away at the same moment."""
_Place = tuple[int, int]


@dataclass(slots=True)
class ManifestFiles:
    """The files opened for one run.

    Attributes:
        name: the manifest, as the user wrote it.
        real: the same, links resolved: a link stays, and its target is replaced.
        descriptor: of the partial file, locked; its creator closes it.
        left: files of interrupted runs, the oldest first.
        replaces: device and inode of the existing manifest, or None.
        moved: the partial file of the previous run, under its new name, or "".
        attempt: the name of this attempt, or "" where only one run writes the manifest.
    """

    name: str
    real: str
    descriptor: int = -1
    left: list[str] = field(default_factory=list)
    replaces: _Place | None = None
    moved: str = ""
    attempt: str = ""

    @property
    def partial(self) -> str:
        """The file that is written until the run is complete."""
        return f"{self.real}.{self.attempt}{PARTIAL}" if self.attempt else self.real + PARTIAL

    def is_ours(self) -> bool:
        """Whether the partial file is still the opened one."""
        return has_name(self.descriptor, self.partial)

    def complete(self, *, keep: bool) -> str:
        """Rename the partial file to NAME. With `keep` an existing manifest keeps its receipts under another name,
        which is returned; else the result is "".

        Raises:
            JournalError: the partial file is gone, or another file has one of these names; nothing was changed.
            OSError: the file system refuses.
        """
        if not self.is_ours():
            raise JournalError(
                f"The manifest's file {self.partial!r} was removed or replaced while the run went on, so the receipts "
                "of this run are lost; run the same command again to have them written."
            )
        if self.attempt:
            return self._complete_attempt(keep=keep)
        there = _place(self.real)
        if there not in (None, self.replaces):
            raise JournalError(
                f"The manifest {self.name!r} was replaced by somebody else while the run went on, and is left as it "
                f"is; the receipts of this run are in {self.partial!r}."
            )
        kept = _move_aside(self.real, keep_name=True) if keep and there is not None else ""
        os.rename(self.partial, self.real)
        sync_directory_of(self.real)
        return kept

    def _complete_attempt(self, *, keep: bool) -> str:
        kept = ""
        for number in range(OPEN_ATTEMPTS_MAX):
            if _take_free_name(self.partial, self.real):
                sync_directory_of(self.real)
                return kept
            aside = f"{self.real}.{self.attempt}" + (f".{number}" if number else "")
            try:
                os.rename(self.real, aside)
            except FileNotFoundError:
                continue  # another attempt has moved it
            if _place(aside) == self.replaces and not keep:
                os.unlink(aside)
            else:
                kept = aside
        raise JournalError(
            f"Other runs replace the manifest {self.name!r} all the time; the receipts of this run are in "
            f"{self.partial!r}."
        )

    def remove(self, path: str) -> None:
        """Remove what an interrupted run left; a file that another attempt may still be writing stays."""
        if not self.attempt:
            os.unlink(path)
            return
        try:
            descriptor = open_regular_descriptor(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # it was completed
        try:
            if lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        finally:
            os.close(descriptor)

    def withdraw(self) -> None:
        """Remove a partial file without records; the file that was moved aside for it gets its name back."""
        if not self.is_ours():
            return
        if self.moved:
            os.rename(self.moved, self.partial)
        else:
            os.unlink(self.partial)


def open_files(path: str, is_manifest: Callable[[int], bool], attempt: str = "") -> ManifestFiles:
    """Create and lock the partial file of the manifest at the absolute `path`, with mode 0600.

    Args:
        is_manifest: whether the content of a descriptor begins as a manifest does.
        attempt: as in ManifestFiles; a name that no other attempt has.

    Raises:
        ConfigError: the name is a directory, a FIFO, a device or a stream, or a file that is not a manifest; another
            run is writing the manifest; or the directory cannot be written. Nothing was changed.
    """
    try:
        if _leads_to_a_stream(path):
            raise ConfigError(f"The manifest {path!r} is a stream of this process; give the name of a file.")
        files = ManifestFiles(path, os.path.realpath(path), attempt=attempt)
        found = _look(path, is_manifest)
        files.replaces = None if found is None else _place_of(found)
        files.descriptor = _make_partial(files, is_manifest)
        files.left = (_other_attempts(files) if attempt else _asides(files.partial))[-LEFT_MAX:]
        return files
    except OSError as error:
        raise ConfigError(
            f"The manifest {path!r} cannot be created: {error.strerror}; give the name of a file in a directory that "
            "exists and that you may write to."
        ) from error
    except ValueError as error:
        raise ConfigError(f"The manifest's name {path!r} is none that a file can have ({error}).") from error


def open_regular_descriptor(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the regular file at `path`. Does not block on a FIFO, nor open a device.

    Raises:
        ConfigError: the file is not regular.
        OSError: the file cannot be opened.
    """
    # Opening may have an effect on a device, so the name is examined first, and the opened file once more.
    _check_regular(os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW), path)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ConfigError(f"The manifest {path!r} is {kind}; give the name of a file.")


def _look(path: str, is_manifest: Callable[[int], bool]) -> os.stat_result | None:
    """The status of the file with a manifest's name, which has to be a manifest; None where there is none."""
    try:
        descriptor = open_regular_descriptor(path)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if found.st_size and not is_manifest(descriptor):
            raise ConfigError(
                f"{path!r} exists and is no manifest, so it is left as it is; choose another name, or remove it first."
            )
        return found
    finally:
        os.close(descriptor)


def _make_partial(files: ManifestFiles, is_manifest: Callable[[int], bool]) -> int:
    for _ in range(OPEN_ATTEMPTS_MAX):
        try:
            descriptor = os.open(
                files.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except FileExistsError:
            _take_over(files, is_manifest)
            continue
        try:
            _lock(descriptor, files.name)
            if has_name(descriptor, files.partial):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _in_use(files.name)


def _take_over(files: ManifestFiles, is_manifest: Callable[[int], bool]) -> None:
    """Move the file of an interrupted run aside.

    Raises:
        ConfigError: another run is writing the file, or it is not a manifest.
    """
    try:
        descriptor = open_regular_descriptor(files.partial, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor, files.name)
        if not has_name(descriptor, files.partial):
            return  # it was renamed meanwhile: that run is complete
        if not os.fstat(descriptor).st_size:
            os.unlink(files.partial)
        elif is_manifest(descriptor):
            files.moved = _move_aside(files.partial)
        else:
            raise ConfigError(
                f"{files.partial!r}, where the manifest is written until the run is complete, exists and is no "
                "manifest; choose another name, or remove it first."
            )
    finally:
        os.close(descriptor)


def _lock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(name) from None
    except OSError as error:
        # Some network file systems have no locks. A second run then moves the file of the first, which notices it.
        if error.errno not in NO_LOCKS:
            raise


def _in_use(name: str) -> ConfigError:
    return ConfigError(
        f"The manifest {name!r} is being written by another run; give every run a manifest of its own, or wait for the "
        "other to end."
    )


def _move_aside(path: str, *, keep_name: bool = False) -> str:
    """Give the file at `path` the first free name of path.1, path.2, …; with `keep_name`, as a second name."""
    for number in range(1, ASIDE_MAX + 1):
        aside = f"{path}.{number}"
        try:
            os.link(path, aside, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:
            # Not every file system has hard links.
            if os.path.lexists(aside):
                continue
            os.rename(path, aside)
            return aside
        if not keep_name:
            os.unlink(path)
        return aside
    raise ConfigError(f"More than {ASIDE_MAX:,} files stand beside {path!r}; move them away.")


def _asides(partial: str) -> list[str]:
    """The files that were moved aside, ordered by number."""
    directory, name = os.path.split(partial)
    numbers = [entry.removeprefix(f"{name}.") for entry in os.listdir(directory) if entry.startswith(f"{name}.")]
    return [f"{partial}.{number}" for number in sorted(map(int, filter(str.isdecimal, numbers)))]


def _other_attempts(files: ManifestFiles) -> list[str]:
    """The partial files of other attempts, that are under way or were interrupted."""
    directory, name = os.path.split(files.real)
    found = [os.path.join(directory, entry) for entry in os.listdir(directory) if entry.startswith(f"{name}.")]
    return sorted(path for path in found if path.endswith(PARTIAL) and path != files.partial)


def _take_free_name(partial: str, real: str) -> bool:
    """Rename a file to a name that no file has; False where one has it."""
    try:
        os.link(partial, real, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError:
        # Not every file system has hard links.
        if os.path.lexists(real):
            return False
        os.rename(partial, real)
        return True
    os.unlink(partial)
    return True


def _leads_to_a_stream(path: str) -> bool:
    """Whether a name is that of a descriptor (/dev/stdout, /dev/fd/1, /proc/self/fd/1), directly or through links."""
    for _ in range(40):
        if os.path.realpath(os.path.dirname(path)).startswith("/proc/"):
            return True
        if not os.path.islink(path):
            return False
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def _place(path: str) -> _Place | None:
    try:
        return _place_of(os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _place_of(found: os.stat_result) -> _Place:
    return found.st_dev, found.st_ino
