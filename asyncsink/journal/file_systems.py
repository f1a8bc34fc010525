"""Whether a journal's place is on a network file system, and a place on this machine instead.

SQLite's log (WAL) "does not work over a network filesystem" (sqlite.org/wal.html), and locks of the process that was
killed on one host are told late, or never, on another one. A rollback journal needs working locks only while a run
writes (sqlite.org/howtocorrupt.html, 2.1). All functions block.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from typing import Final

from asyncsink.errors import JournalError

FUSE_TYPE: Final = 0x65735546
"""FUSE_SUPER_MAGIC of linux/magic.h: any program may be behind it, and the table of mounts names it."""
NETWORK_TYPES: Final = {
    # include/uapi/linux/magic.h of the Linux kernel
    0x6969: "NFS",  # NFS_SUPER_MAGIC
    0x517B: "SMB",  # SMB_SUPER_MAGIC
    0xFF534D42: "SMB",  # CIFS_SUPER_MAGIC
    0xFE534D42: "SMB",  # SMB2_SUPER_MAGIC
    0x00C36400: "Ceph",  # CEPH_SUPER_MAGIC
    0x5346414F: "AFS",  # AFS_SUPER_MAGIC
    0x6B414653: "AFS",  # AFS_FS_MAGIC
    # File systems outside of the kernel: src/stat.c of GNU coreutils
    0x0BD00BD0: "Lustre",  # S_MAGIC_LUSTRE
    0x47504653: "GPFS",  # S_MAGIC_GPFS
    0x19830326: "BeeGFS",  # S_MAGIC_FHGFS, its earlier name
    0xAAD7AAEA: "PanFS",  # S_MAGIC_PANFS
}
"""`f_type` of statfs(2), and the file system that people know by that name."""
LOCAL_FUSE: Final = {
    "fuseblk", "virtiofs", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.gocryptfs", "fuse.encfs",
    "fuse.cryfs",
}  # fmt: skip
"""Types of FUSE mounts whose files are on this machine; those of all others count as being elsewhere."""
MOUNTS: Final = "/proc/self/mountinfo"
_STATFS_BYTES: Final = 512
"""More than any `struct statfs` has."""


def network_file_system(path: str) -> str:
    """The name of the network file system on which an absolute path is, or would be made; "" for a local one.

    Linux only; on other systems, and where the system does not answer, the file system counts as local.
    """
    if not sys.platform.startswith("linux"):
        return ""
    place = os.path.realpath(path)
    while True:
        try:
            kind = statfs_type(place)
            break
        except OSError as error:
            parent = os.path.dirname(place)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or parent == place:
                return ""
            place = parent
    return _fuse_name(place) if kind == FUSE_TYPE else NETWORK_TYPES.get(kind, "")


def statfs_type(path: str) -> int:
    """`f_type` of statfs(2), which `os.statvfs` does not have.

    Raises:
        OSError: the system refuses.
    """
    import ctypes  # takes a millisecond to load

    library = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if library.statfs(os.fsencode(path), answer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    # The first field: a long, and an unsigned int on s390x, where its bytes are the first four as well.
    size = 4 if os.uname().machine.startswith("s390") else ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(answer.raw[:size], sys.byteorder) & 0xFFFFFFFF


def _fuse_name(path: str) -> str:
    kind = mount_type(path)
    return "" if kind in LOCAL_FUSE else kind.removeprefix("fuse.") or "FUSE"


def mount_type(path: str) -> str:
    """The type of the mount that holds an existing path, as in "fuse.sshfs"; "" where it is not listed."""
    try:
        device = os.stat(path).st_dev
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            # proc_pid_mountinfo(5): the third field is major:minor, and the type is the first one after the hyphen.
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split(" ")[2] == f"{os.major(device)}:{os.minor(device)}":
                    return after.split(" ")[0]
    except OSError:
        return ""
    return ""


def local_directory(runtime_directory: str) -> str:
    """A directory of this user on this machine, for journals: below the directory for temporary files, or else
    `runtime_directory` (XDG_RUNTIME_DIR, which ends with the session); "" where both are on a network file system."""
    places = []
    try:
        places.append(os.path.join(tempfile.gettempdir(), f"asyncsink-{os.geteuid()}"))
    except OSError:
        places.clear()  # no directory is writable
    if runtime_directory:
        places.append(os.path.join(runtime_directory, "asyncsink"))
    return next((place for place in places if not network_file_system(place)), "")


def check_is_own(directory: str, *, make: bool) -> None:
    """Make a directory in one that others may write to, or check that one that is there is this user's alone.

    Raises:
        JournalError: it is another user's, or others may write to it. OSError: it cannot be made.
    """
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        if make:
            os.mkdir(directory, 0o700)
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise JournalError(
            f"{directory!r}, where it would be kept, is not a directory of yours alone; remove it, or name a file with "
            "journal=."
        )
