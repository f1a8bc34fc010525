"""A large file on its way, in ranges: preallocated, written at many places at once, continued after a kill.

Beside it lies its state, JSON lines: which object it is (ETag, size, range size), then each range that was written and
its checksum. A later run reads those ranges back and keeps the ones that agree, so that neither a torn line nor a disk
that lost what it had not synced is taken for data. Blocking; called in threads only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from datetime import datetime

import anyio.from_thread

from asyncsink.destinations.local_errors import translated
from asyncsink.grabbing.landing import finish, write_all
from asyncsink.grabbing.staging import Staging, lock
from asyncsink.integrity.checksums import ByteBody, Digester, checksum_of
from asyncsink.model import Checksum, ChecksumAlgorithm
from asyncsink.s3.part_plan import PartPlan

_NO_ALLOCATION = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class UnfinishedFile:
    """One large file; `open`, `write` and `note` each range, `publish`; `close` at the end, whatever happened.

    Args:
        staging: where it waits.
        relative: its path below the target directory.
        target: the real path it becomes.
        etag: of the object; "" is never continued.
        plan: its ranges.
        algorithm: of the ranges' checksums.

    Attributes:
        target: as given.
        path: where its bytes are now.
        done: the checksums of the ranges that are there, by part number.
    """

    def __init__(
        self, staging: Staging, relative: str, target: str, *, etag: str, plan: PartPlan, algorithm: ChecksumAlgorithm
    ) -> None:
        self.target = target
        self._mode = staging.mode
        self._plan = plan
        self._algorithm: ChecksumAlgorithm = algorithm
        self._alone = staging.whole()
        self.path, self._state_path = staging.unfinished(relative)
        self._identity = {
            "etag": etag,
            "size_bytes": plan.size_bytes,
            "part_size_bytes": plan.part_size_bytes,
            "algorithm": algorithm,
        }
        self._file = self._state = -1
        self._ended = False
        self.done: dict[int, Checksum] = {}

    def open(self) -> None:
        """Take up what a run before has left of the same object, or begin anew with all of its space.

        Cancelled, it stops between two ranges.

        Raises:
            DestinationFull, AccessDenied, PermanentError: there is no room, or no right.
        """
        with translated(self.target, None):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o600)
            if not lock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB) or not _is_at(self._file, self.path):
                # Another run is at the same object, or has just given it its name, or this file system has no locks:
                # nothing is shared then.
                os.close(self._file)
                self.path, self._state_path = self._alone, ""
                self._file = os.open(self.path, flags | os.O_EXCL, 0o600)
            else:
                self._state = os.open(self._state_path, flags | os.O_APPEND, 0o600)
                self._take_up()
            if not self.done:
                self._begin()

    def _take_up(self) -> None:
        lines = _read_all(self._state).split(b"\n")[:-1]  # what follows the last line break is torn, or nothing
        if not self._identity["etag"] or not lines or _parsed(lines[0]) != self._identity:
            return
        if os.fstat(self._file).st_size != self._plan.size_bytes:
            return
        for line in lines[1:]:
            entry = _parsed(line)
            number, value = entry.get("part"), entry.get("checksum")
            if not isinstance(number, int) or not 1 <= number <= self._plan.count:
                continue
            anyio.from_thread.check_cancelled()
            part = self._plan.part(number)
            found = checksum_of(os.pread(self._file, part.length, part.offset), self._algorithm)
            if found.value == value:
                self.done[number] = found

    def _begin(self) -> None:
        os.ftruncate(self._file, 0)
        try:
            # All of it now: a disk that is too small says so before anything is received.
            os.posix_fallocate(self._file, 0, self._plan.size_bytes)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
            os.ftruncate(self._file, self._plan.size_bytes)
        if self._state >= 0:
            os.ftruncate(self._state, 0)
            self._note(self._identity)

    def write(self, position: int, data: ByteBody, digester: Digester) -> None:
        """Write bytes of a range, and add them to its checksum. From any thread.

        Args:
            position: in the whole file.
            digester: made by `digester`; the range's own.

        Raises:
            DestinationFull, PermanentError: they cannot be written.
        """
        digester.update(data)
        with translated(self.target, None):
            write_all(self._file, position, data)

    def digester(self) -> Digester:
        """For one range, which is written from its beginning."""
        return Digester((self._algorithm,))

    def note(self, part_number: int, digester: Digester) -> None:
        """Note that a range is there: all of its bytes were written. From any thread.

        Raises:
            DestinationFull, PermanentError: it cannot be noted.
        """
        checksum = digester.result(self._algorithm)
        with translated(self.target, None):
            if self._state >= 0:
                self._note({"part": part_number, "checksum": checksum.value})
        self.done[part_number] = checksum

    def _note(self, entry: dict[str, object]) -> None:
        # One write of an appended line: lines of several threads do not mix.
        os.write(self._state, json.dumps(entry).encode() + b"\n")

    def publish(self, modified: datetime | None) -> None:
        """Rename to the target; the state goes.

        Raises:
            AccessDenied, DestinationFull, PermanentError: what was under the name is as it was.
        """
        with translated(self.target, None):
            finish(self._file, self._mode, modified)
            os.rename(self.path, self.target)
            self._ended = True
            self._remove_state()

    def discard(self) -> None:
        """Forget all of it: what is there is not the object.

        Raises:
            AccessDenied, PermanentError: it cannot be removed.
        """
        self._ended = True
        with translated(self.path, None, verb="removed"):
            for path in (self.path, self._state_path):
                if path:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
        self.close()

    def close(self) -> bool:
        """Let go. A file that has a state stays for a later run, one without goes. Harmless when repeated.

        Returns whether a later run goes on with it.
        """
        stays = self._state >= 0 and not self._ended and bool(self.done)
        for descriptor in (self._file, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._state = -1
        if not self._state_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        return stays

    def _remove_state(self) -> None:
        if self._state_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._state_path)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _parsed(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
