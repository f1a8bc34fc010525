"""The open multipart uploads of a run, in a file of JSON lines: a journal for a directory that several machines share.

SQLite needs locks that network file systems lack, and one database would make every machine wait for the others. Here
each run (an attempt) appends to a file of its own, NAME.ATTEMPT, and the next attempt takes over the file of one that
has ended: it goes on with those uploads, or aborts them. The file of an attempt that is under way is locked, and left
alone; two attempts then send the same bytes, each in an upload of its own. A file without open uploads is removed.

Published objects are not recorded: receipts and the listing tell what is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any, Final

import anyio
import anyio.to_thread

from asyncsink.errors import AsyncSinkError, DestinationFull, JournalError
from asyncsink.file_locks import has_name, lock
from asyncsink.journal.base import OptionsDigests, PublishedRow
from asyncsink.journal.opening import Identity, UnusableJournal
from asyncsink.journal.states import UploadState, after
from asyncsink.model import (
    Checksum,
    JournalEntry,
    PendingUpload,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
    UploadStep,
)
from asyncsink.options.schema import ObjectOptions
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.paths import decoded_name, sync_directory_of

FORMAT: Final = "asyncsink open uploads"
VERSION: Final = 1
FILE_BYTES_MAX: Final = 256 << 20
SALT_BYTES: Final = 32
_STEPS: Final = {
    UploadCreating: "creating",
    UploadOpened: "opened",
    UploadPartStored: "part",
    UploadCompleting: "completing",
    UploadGone: "gone",
}


_Line = dict[str, Any]
_Lines = dict[str, list[_Line]]
"""By key, the lines of its open upload: "creating" first."""
_STATES: Final[Mapping[str, UploadState]] = {
    "creating": "creating",
    "opened": "open",
    "part": "open",
    "completing": "completing",
}
"""The state of an upload by its last line."""


class OpenUploads:
    """See `base.Journal`. Created by `open_uploads`."""

    def __init__(self, path: str, head: _Line, digests: OptionsDigests, left: _Lines) -> None:
        """Write to `path`, below `head`; `left` is what earlier attempts have left open."""
        self._path = path
        self._head = head
        self._digests = digests
        self._writing = threading.Lock()
        self._descriptor = -1
        self._open = left
        self._blank = not left

    def __repr__(self) -> str:
        return f"<OpenUploads {self._path!r}, {len(self._open)} open>"

    @property
    def path(self) -> str:
        """See `base.Journal.path`."""
        return self._path

    @property
    def blank(self) -> bool:
        """See `base.Journal.blank`."""
        return self._blank

    def in_place(self) -> bool:
        """See `base.Journal.in_place`."""
        return self._descriptor < 0 or os.path.lexists(self._path)

    def take_over(self) -> None:
        """Write down what earlier attempts have left open. Blocking."""
        if self._open:
            self._append(list(chain.from_iterable(self._open.values())), durable=True)

    def known(self, transfers: Sequence[Transfer]) -> list[JournalEntry | None]:
        """See `base.Journal.known`; no object is known as published."""
        with self._writing:
            return [self._entry(transfer) for transfer in transfers]

    def _entry(self, transfer: Transfer) -> JournalEntry | None:
        lines = self._open.get(transfer.key)
        if lines is None:
            return None
        options = self._digests.of(transfer.objects).hex()
        same = (lines[0]["stat"], lines[0]["options"]) == (_stat(transfer.source), options)
        return JournalEntry(upload=_pending(lines, same_source=same))

    def contents_left(self) -> list[str]:
        """None: parts of a split have files alone."""
        return []

    def forget(self, keys: Sequence[str]) -> None:
        """Do nothing: no object is recorded."""

    async def publish(self, published: Sequence[PublishedRow]) -> None:
        """End the uploads of these keys; see `base.Journal.publish`."""
        if self._open:
            for key in self._open.keys() & {decoded_name(row[0]) for row in published}:
                await self.step(UploadGone(key))

    async def step(self, step: UploadStep) -> None:
        """See `base.Journal.step`."""
        await anyio.to_thread.run_sync(self._step, step)

    def _step(self, step: UploadStep) -> None:
        with self._writing:
            lines = self._open.get(step.key, [])
            after(_STATES[lines[-1]["step"]] if lines else "none", step)
            said: _Line = {"step": _STEPS[type(step)], "key": step.key}
            if isinstance(step, UploadCreating):
                said |= {
                    "stat": _stat(step.source),
                    "options": self._digests.of(step.objects).hex(),
                    "part_size_bytes": step.part_size_bytes,
                    "algorithm": step.algorithm,
                    "token": step.token,
                    "begun_seconds": time.time(),
                }
            elif isinstance(step, UploadOpened):
                said["upload_id"] = step.upload_id
            elif isinstance(step, UploadPartStored):
                said |= asdict(step.part)
            self._append([said], durable=isinstance(step, UploadOpened))
            _add(self._open, said)

    def _append(self, lines: Sequence[_Line], *, durable: bool) -> None:
        try:
            if self._descriptor < 0:
                self._create()
                lines = [self._head, *lines]
            written = memoryview(b"".join(json.dumps(line).encode("ascii") + b"\n" for line in lines))
            while written:
                written = written[os.write(self._descriptor, written) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise _not_written(self._path, error) from error

    def _create(self) -> None:
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            lock(descriptor, fcntl.LOCK_EX)
            if has_name(descriptor, self._path):
                self._descriptor = descriptor
                sync_directory_of(self._path)
                return
            os.close(descriptor)  # another attempt found it empty before it was locked, and removed it

    def stop_asking(self) -> None:
        """Do nothing: no call waits."""

    def withdraw(self) -> None:
        """Do nothing: an upload that is no longer there as the file says is looked for, and not found."""

    def release(self) -> None:
        """Close the file, and leave it as it is. Harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def aclose(self, seconds: float | None = None) -> None:
        """Release the file, and remove it where no upload is open; see `base.Journal.aclose`."""
        with anyio.move_on_after(seconds, shield=True):
            await anyio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    def _close(self) -> None:
        with self._writing:
            if self._descriptor < 0:
                return
            try:
                if not self._open:
                    os.unlink(self._path)
            except FileNotFoundError:
                pass  # it was removed by hand
            except OSError as error:
                raise _not_written(self._path, error) from error
            finally:
                self.release()


async def open_uploads(
    path: str,
    attempt: str,
    identity: Identity,
    *,
    objects: ObjectOptions,
    algorithm: ChecksumAlgorithm | None,
    dry_run: bool = False,
) -> OpenUploads:
    """Open the file of a new attempt, with the open uploads of attempts that have ended.

    Args:
        path: the common beginning of the names of all attempts' files.
        attempt: a name that no other attempt has.
        identity: files of another destination are left alone.
        objects, algorithm: as in `sqlite.open_journal`.
        dry_run: change nothing.

    Raises:
        UnusableJournal: the directory cannot be read or written.
    """
    opening = partial(_opened, path, attempt, identity, objects=objects, algorithm=algorithm, dry_run=dry_run)
    return await anyio.to_thread.run_sync(opening)


def _opened(
    path: str,
    attempt: str,
    identity: Identity,
    *,
    objects: ObjectOptions,
    algorithm: ChecksumAlgorithm | None,
    dry_run: bool,
) -> OpenUploads:
    salt = secrets.token_bytes(SALT_BYTES)
    own = OptionsDigests(objects, algorithm, salt)
    head = {"format": FORMAT, "version": VERSION, **asdict(identity), "salt": salt.hex()}
    left: _Lines = {}
    taken: list[_TakenFile] = []
    try:
        directory, name = os.path.split(path)
        for entry in sorted(os.listdir(directory)):
            if entry.startswith(f"{name}."):
                file = _TakenFile(os.path.join(directory, entry))
                taken.append(file)
                if not file.read(identity):
                    continue
                if left.keys() & file.open.keys():
                    file.is_taken = False  # two attempts at once had an upload each: a later attempt ends the second
                    continue
                same = OptionsDigests(objects, algorithm, bytes.fromhex(file.salt)).of(None).hex()
                for lines in file.open.values():
                    lines[0]["options"] = own.of(None).hex() if lines[0]["options"] == same else ""
                left |= file.open
        opened = OpenUploads(f"{path}.{attempt}", head, own, left)
        if not dry_run:
            try:
                opened.take_over()
            except BaseException:
                opened.release()
                raise
            for file in taken:
                file.remove()
        return opened
    except OSError as error:
        raise UnusableJournal(_not_written(path, error)) from error
    except (JournalError, DestinationFull) as error:
        raise UnusableJournal(error) from error
    finally:
        for file in taken:
            file.close()


class _TakenFile:
    """The file of another attempt, while it is read; locked where the file system has locks.

    Attributes:
        salt: of the digests in it, hexadecimal.
        open: its open uploads.
        is_taken: whether the file can be removed, because another one has all of them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self.salt = ""
        self.open: _Lines = {}
        self.is_taken = False

    def read(self, identity: Identity) -> bool:
        """Whether the attempt has ended, its destination is this one, and its uploads are known now."""
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False  # it was removed meanwhile, or is no file that an attempt has written
        mode = os.fstat(self._descriptor).st_mode
        # Without locks nothing shows that the attempt has ended; `merge` names its file then.
        if not stat.S_ISREG(mode) or not lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        if not has_name(self._descriptor, self._path):
            return False  # another attempt has taken it over meanwhile
        with open(self._descriptor, "rb", closefd=False) as file:
            lines = file.read(FILE_BYTES_MAX).split(b"\n")[:-1]
        if not lines:
            self.is_taken = True  # its attempt ended before it began anything
            return False
        said = list(_said(lines))
        head = said[0] if said else {}
        of_whom = {name: head.get(name) for name in ("format", "version", "endpoint_url", "bucket", "prefix")}
        if of_whom != {"format": FORMAT, "version": VERSION, **asdict(identity)}:
            return False
        self.salt = str(head.get("salt", ""))
        for line in said[1:]:
            _add(self.open, line)
        # A damaged file stays, because it may tell of uploads that cannot be read any more; `merge` names it.
        self.is_taken = len(said) == len(lines)
        return True

    def remove(self) -> None:
        """Remove the file, where it is taken."""
        if self.is_taken:
            with contextlib.suppress(FileNotFoundError):  # another attempt was faster
                os.unlink(self._path)

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _said(texts: Sequence[bytes]) -> Iterator[_Line]:
    """The lines until one that is none: a full disk may have cut it, or a power cut emptied it."""
    known: _Lines = {}
    for number, text in enumerate(texts):
        try:
            line = json.loads(text)
            if number:
                _add(known, line)
                if line["key"] in known:
                    _pending([known[line["key"]][0], line], same_source=False)
            else:
                bytes.fromhex(line["salt"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        yield line


def _stat(source: SourceFile) -> list[int]:
    # Without the path, which another machine may have elsewhere.
    return [source.size_bytes, source.mtime_ns, source.ctime_ns, source.inode]


def _add(uploads: _Lines, line: _Line) -> None:
    """Change `uploads` as a line says."""
    if line["step"] == "gone":
        uploads.pop(line["key"], None)
    elif line["step"] == "creating":
        uploads[line["key"]] = [line]
    else:
        uploads[line["key"]].append(line)


def _pending(lines: Sequence[_Line], *, same_source: bool) -> PendingUpload:
    """The upload of these lines. Raises ValueError, KeyError or TypeError where they are none."""
    begun, upload_id, parts = lines[0], "", dict[int, StoredPart]()
    for line in lines[1:]:
        if line["step"] == "opened":
            upload_id = str(line["upload_id"])
        elif line["step"] == "part":
            checksum = None if line["checksum"] is None else Checksum(**line["checksum"])
            parts[int(line["part_number"])] = StoredPart(int(line["part_number"]), str(line["etag"]), checksum)
    return PendingUpload(
        upload_id=upload_id,
        part_size_bytes=int(begun["part_size_bytes"]),
        algorithm=begun["algorithm"],
        token=str(begun["token"]),
        begun_seconds=float(begun["begun_seconds"]),
        completing=_STATES[lines[-1]["step"]] == "completing",
        same_source=same_source,
        parts=tuple(parts[number] for number in sorted(parts)),
    )


def _not_written(path: str, error: OSError) -> AsyncSinkError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DestinationFull(
            f"The record of open uploads {path!r} cannot be written: no space is left; free some.", operation="journal"
        )
    return JournalError(
        f"The record of open uploads {path!r} cannot be written: {error.strerror or error}; look at the file system it "
        "is on."
    )
