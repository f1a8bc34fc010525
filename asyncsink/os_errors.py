"""Pure: what is to be done about an error of the operating system, worded once for files that are read and written."""

from __future__ import annotations

import errno

_REMEDIES = {
    errno.EMFILE: "this process has too many open files; raise `ulimit -n` or lower `concurrency`, then run it again",
    errno.ENFILE: "this machine has too many open files; raise the system's limit or lower `concurrency`, then run it "
    "again",
    errno.ENOMEM: "the system has no memory left for this process; raise `ulimit -v` or the container's limit, or "
    "lower `memory_bytes` and `concurrency`, then run it again",
    errno.EIO: "expected storage that works; check the disk or the network mount, then run it again",
    errno.ESTALE: "its file handle is stale, also when it is opened once more; expected the file that was found; "
    "remount the network file system, then run it again",
}


def remedy(number: int | None) -> str:
    """What to do about an errno that is not of one file alone, as the end of a sentence; "" for all others."""
    return _REMEDIES.get(number or 0, "")
