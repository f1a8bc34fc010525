"""The errors of source paths, each worded in one sentence, and the examination of a named path.

Messages quote paths with `repr`, so that a name that is not UTF-8 (PEP 383) prints everywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final, TypeVar

from asyncsink.errors import SourceChanged, SourceError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.os_errors import remedy
from asyncsink.paths import on_disk, open_directory, real_path
from asyncsink.value import dataclass

_T = TypeVar("_T")

ANNEX: Final = "/.git/annex/objects/"
"""In the path of every file that git-annex keeps."""

_KINDS = {
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
}

_ADVICE = {
    errno.EACCES: "expected read permission; change its mode or owner, or publish as a user who may read it",
    errno.EPERM: "expected read permission; change its mode or owner, or publish as a user who may read it",
    errno.ELOOP: "it is a symbolic link loop; expected a link to a file; remove or repair the link",
    errno.ENAMETOOLONG: "expected a path that this system can open; shorten it or move the files up",
    errno.ENXIO: "expected a regular file; sockets and devices cannot be published; remove it from the outputs",
}


def translate(path: str, error: OSError) -> SourceError:
    """The SourceError for an OSError raised when `path` was examined, opened or read.

    ENOENT and ENOTDIR become SourceMissing, everything else SourceUnreadable.
    """
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceMissing(
            f"Source {path!r} does not exist; expected a file; check the path, or use on_missing='skip'."
        )
    usual = "expected a readable file; check the file system, then publish again"
    advice = remedy(error.errno) or _ADVICE.get(error.errno or 0, usual)
    return SourceUnreadable(f"Source {path!r} cannot be read ({error.strerror or error}): {advice}.")


def unusable(path: str, error: OSError, *, entry: int = 0, attribute: str = "") -> SourceProblem:
    """The problem for an OSError raised when `path` was examined: skippable only where nothing exists there.

    A directory that may not be read holds files that were never listed: skipping it would leave them out silently.
    """
    skippable = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return SourceProblem(path, translate(path, error), entry, attribute, skippable=skippable, unreadable=not skippable)


def not_regular(path: str, mode: int) -> SourceUnreadable:
    """The error for a path that is not a regular file; `mode` is its st_mode."""
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    return SourceUnreadable(
        f"Source {path!r} is {kind}; expected a regular file; remove it from the outputs, or use on_missing='skip'."
    )


def met_in_walk(path: str, mode: int, *, entry: int = 0, attribute: str = "") -> SourceProblem:
    """The problem for a FIFO, socket or device found in a directory: it is left out and reported, because it was not
    named and directories of running programs contain some."""
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    return SourceProblem(path, not_regular(path, mode), entry, attribute, skipped=True, reason=f"{kind}, not a file")


def is_directory(path: str) -> SourceUnreadable:
    """The error for a directory where only files are allowed."""
    return SourceUnreadable(f"Source {path!r} is a directory; list its files: each with a key of its own.")


def false_size(path: str, size_bytes: int, found: str) -> SourceUnreadable:
    """The error for a file at rest whose content differs in length from its size; `found` is "more" or "fewer"."""
    return SourceUnreadable(
        f"{path} has {found} than the {size_bytes:,} bytes that its file system gives as its size, as files of /proc, "
        "/sys and some FUSE file systems have; nothing was published under its key; copy it to an ordinary file and "
        "export that."
    )


def impossible_name(path: str, error: ValueError) -> SourceMissing:
    """The error for a text that no file system accepts as a path (a NUL, a surrogate that stands for no byte)."""
    return SourceMissing(f"Source {path!r} can be no file's path ({error}); expected a path; correct it.")


def broken_link(path: str, target: str) -> SourceMissing:
    """The error for a symbolic link to nothing; `target` is where it leads to."""
    if ANNEX in target:
        return absent_content(path)
    return SourceMissing(
        f"Source {path!r} is a symbolic link to something that does not exist; expected a link to a file; "
        "repair or remove the link, or use on_missing='skip'."
    )


def absent_content(path: str) -> SourceMissing:
    """The error for a file of a git-annex whose content is on another machine."""
    return SourceMissing(
        f"Source {path!r} is a file of git-annex whose content is not on this machine; run datalad get (or git annex "
        "get) for it first, or use on_missing='skip'."
    )


def link_loop(path: str) -> SourceUnreadable:
    """The error for a directory that contains itself through symbolic links."""
    return SourceUnreadable(
        f"Source {path!r} is a symbolic link loop: it leads back to a directory that holds it; "
        "expected links that end; remove the link, or use symlinks='skip'."
    )


def leaving_link(path: str, root: str, *, entry: int = 0, attribute: str = "") -> SourceProblem:
    """The problem for a symbolic link that leads out of `root` where `symlinks` forbids it (never skippable)."""
    error = SourceUnreadable(
        f"Source {path!r} is a symbolic link that leads out of {root!r}; expected links that stay inside; use "
        "symlinks='follow' to publish what it points to, or symlinks='skip' to leave it out."
    )
    return SourceProblem(path, error, entry, attribute, skippable=False)


def refused_link(path: str, symlinks: Symlinks, *, entry: int = 0, attribute: str = "") -> SourceProblem:
    """The problem for a symbolic link under the policy "skip" (already decided) or "error" (never skippable)."""
    error = SourceUnreadable(
        f"Source {path!r} is a symbolic link, and symlinks={symlinks!r}; expected a regular file or directory; "
        "use symlinks='follow' to publish what it points to."
    )
    skipped = symlinks == "skip"
    return SourceProblem(path, error, entry, attribute, skippable=skipped, skipped=skipped)


def took_its_place(path: str) -> SourceChanged:
    """The error for a path that became a symbolic link after it was found."""
    return SourceChanged(
        f"Source {path!r} changed while it was being published: a symbolic link took its place, or that of a directory "
        "on the way to it; expected what was found; nothing was published under its key; export it again when nobody "
        "moves it."
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A regular file or directory that was named explicitly.

    Attributes:
        status: of the target, links followed.
        real_path: as in SourceFile.
    """

    status: os.stat_result
    real_path: str

    def file(self, path: str, *, attribute: str, entry: int, key: str | None = None) -> SourceFile:
        """The file as a source of its own."""
        return SourceFile(
            path,
            self.status.st_size,
            self.status.st_mtime_ns,
            attribute,
            entry,
            path,
            key=key,
            ctime_ns=self.status.st_ctime_ns,
            inode=self.status.st_ino,
            real_path=self.real_path,
        )


def examine(path: str, symlinks: Symlinks, *, entry: int = 0, attribute: str = "") -> Seen | SourceProblem:
    """Examine an explicitly named path, without opening it.

    Args:
        path: absolute path.
        symlinks: applied to the last component of `path`; links above it are followed, as by every open. "inside"
            follows a named link, because its target was chosen by the caller.
        entry, attribute: origin of the path, for the problem.
    """
    try:
        status, real = _seen(path)
        if stat.S_ISLNK(status.st_mode):
            if symlinks in ("skip", "error"):
                return refused_link(path, symlinks, entry=entry, attribute=attribute)
            real = real_path(path)
            try:
                status = os.stat(on_disk(real))
            except FileNotFoundError:
                return SourceProblem(path, broken_link(path, real), entry, attribute)
    except OSError as error:
        return unusable(path, error, entry=entry, attribute=attribute)
    except ValueError as error:
        return SourceProblem(path, impossible_name(path, error), entry, attribute)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return Seen(status, real)
    return SourceProblem(path, not_regular(path, status.st_mode), entry, attribute)


def _seen(path: str) -> tuple[os.stat_result, str]:
    """The status of `path` itself, links above it followed, and its real path as in SourceFile."""
    try:
        return again_if_stale(lambda: status_of(path)), ""
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    directory, _, name = path.rpartition("/")
    real = f"{real_path(directory or '/').rstrip('/')}/{name}"
    return again_if_stale(lambda: status_of(real)), real


def status_of(path: str) -> os.stat_result:
    """The status of `path` itself, reached without following a link. Blocking."""
    directory, _, name = path.rpartition("/")
    descriptor = open_directory(directory or "/")  # `directory_of` takes twice as long
    try:
        return os.stat(on_disk(name), dir_fd=descriptor, follow_symlinks=False)
    finally:
        os.close(descriptor)


def again_if_stale(look: Callable[[], _T]) -> _T:
    """The result of `look`; where its handle is stale (NFS), `look` runs once more: its path gets a fresh handle.

    Raises:
        OSError: as `look`; ESTALE where the second handle was stale too.
    """
    try:
        return look()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    return look()
