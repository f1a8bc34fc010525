"""A large file on its way, in ranges: preallocated, written at many places at once, continued after a kill.

Beside it lies its state, JSON lines: which object it is (ETag, size, range size), then each range that was written and
its checksum. A later run reads those ranges back and keeps the ones that agree, so that neither a torn line nor a disk
that lost what it had not synced is taken for data. Blocking; called in threads only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from datetime import datetime

import anyio.from_thread

from asyncsink.config import MIB
from asyncsink.destinations.local_errors import moved_meanwhile, translated
from asyncsink.grabbing.landing import Landing, finish, write_all
from asyncsink.grabbing.staging import Staging, lock
from asyncsink.integrity.checksums import ByteBody, Digester, checksum_of
from asyncsink.model import Checksum, ChecksumAlgorithm
from asyncsink.s3.part_plan import PartPlan

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
_NO_FILE_OF_OURS = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM})
STATE_BYTES_MAX = 4 * MIB
"""Of a state file: 10,000 ranges, each noted a few times over, in some 80 bytes."""
_NO_ALLOCATION = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class UnfinishedFile:
    """One large file; `open`, `write` and `note` each range, `publish`; `close` at the end, whatever happened.

    Args:
        staging: where it waits.
        landing: has the place it gets.
        relative: its path below the target directory.
        etag: of the object; "" is never continued.
        plan: its ranges.
        algorithm: of the ranges' checksums.

    Attributes:
        descriptor: of the file, once it is open.
        done: the checksums of the ranges that are there, by part number.
    """

    def __init__(
        self,
        staging: Staging,
        landing: Landing,
        relative: str,
        *,
        etag: str,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm,
    ) -> None:
        self._staging = staging
        self._landing = landing
        self._relative = relative
        self.target = landing.path(relative)
        self._plan = plan
        self._algorithm: ChecksumAlgorithm = algorithm
        self._alone = staging.whole()
        self._name, self._state_name = staging.unfinished(relative)
        self._identity = {
            "etag": etag,
            "size_bytes": plan.size_bytes,
            "part_size_bytes": plan.part_size_bytes,
            "algorithm": algorithm,
        }
        self.descriptor = self._state = -1
        self._ended = False
        self.done: dict[int, Checksum] = {}

    def open(self) -> None:
        """Take up what a run before has left of the same object, or begin anew with all of its space.

        Cancelled, it stops between two ranges.

        Raises:
            DestinationFull, AccessDenied, PermanentError: there is no room, or no right.
        """
        with translated(self.target, None):
            if not self._open_shared():
                # Nothing is shared then, and nothing is kept for a later run.
                self._name, self._state_name = self._alone, ""
                self.descriptor = self._staging.open_file(self._name, _FLAGS | os.O_EXCL)
            else:
                self._take_up()
            if not self.done:
                self._begin()

    def _open_shared(self) -> bool:
        """Open the file that every run has for this object, and its state.

        False where another run is at it, or has just given it its name; where this file system has no locks; and where
        either was put there by somebody else: a link, another name of a file elsewhere, or another user's.
        """
        try:
            self.descriptor = self._staging.open_file(self._name, _FLAGS)
            if (
                lock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                and self._staging.holds(self._name, self.descriptor)
                and _is_our_own(self.descriptor)
            ):
                self._state = self._staging.open_file(self._state_name, _FLAGS | os.O_APPEND)
                if _is_our_own(self._state):
                    return True
        except OSError as error:
            if error.errno not in _NO_FILE_OF_OURS:
                raise
        self._let_go()
        return False

    def _take_up(self) -> None:
        lines = _read_all(self._state).split(b"\n")[:-1]  # what follows the last line break is torn, or nothing
        if not self._identity["etag"] or not lines or _parsed(lines[0]) != self._identity:
            return
        if os.fstat(self.descriptor).st_size != self._plan.size_bytes:
            return
        for line in lines[1:]:
            entry = _parsed(line)
            number, value = entry.get("part"), entry.get("checksum")
            if not isinstance(number, int) or not 1 <= number <= self._plan.count:
                continue
            anyio.from_thread.check_cancelled()
            part = self._plan.part(number)
            found = checksum_of(os.pread(self.descriptor, part.length, part.offset), self._algorithm)
            if found.value == value:
                self.done[number] = found

    def _begin(self) -> None:
        os.ftruncate(self.descriptor, 0)
        try:
            # All of it now: a disk that is too small says so before anything is received.
            os.posix_fallocate(self.descriptor, 0, self._plan.size_bytes)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
            os.ftruncate(self.descriptor, self._plan.size_bytes)
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
            write_all(self.descriptor, position, data)

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
        with translated(self.target, None), self._landing.place(self._relative) as place:
            finish(self.descriptor, self._staging.mode, modified)
            self._staging.publish(self._name, place)
            self._ended = True
            self._remove_state()
            if not place.is_there():
                raise moved_meanwhile(self.target)

    def discard(self) -> None:
        """Forget all of it: what is there is not the object.

        Raises:
            AccessDenied, PermanentError: it cannot be removed.
        """
        self._ended = True
        with translated(self._staging.folder, None, verb="removed"):
            self._staging.remove(self._name)
            self._remove_state()
        self.close()

    def close(self) -> bool:
        """Let go. A file that has a state stays for a later run, one without goes. Harmless when repeated.

        Returns whether a later run goes on with it.
        """
        stays = self._state >= 0 and not self._ended and bool(self.done)
        self._let_go()
        if not self._state_name:
            self._staging.remove(self._name)
        return stays

    def _let_go(self) -> None:
        for descriptor in (self.descriptor, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._state = -1

    def _remove_state(self) -> None:
        if self._state_name:
            self._staging.remove(self._state_name)


def _is_our_own(descriptor: int) -> bool:
    """Whether it is a regular file of this user's that has one name: what is written to it is written nowhere else."""
    seen = os.fstat(descriptor)
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_uid == os.geteuid()


def _read_all(descriptor: int) -> bytes:
    """What a state file says; "" for one that is longer than any of ours."""
    size_bytes = os.fstat(descriptor).st_size
    return os.pread(descriptor, size_bytes, 0) if size_bytes <= STATE_BYTES_MAX else b""


def _parsed(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # not of our making: whatever it is, it says nothing
    return value if isinstance(value, dict) else {}
