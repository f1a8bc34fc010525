"""Pure: what is to be grabbed, and whether its key can be a path below a directory."""

from __future__ import annotations

from asyncsink.errors import InvalidKey, ServerFault
from asyncsink.grabbing.staging import FOLDER
from asyncsink.routing.keys import show
from asyncsink.s3.operations import ListedObject
from asyncsink.value import dataclass

PLACEHOLDERS_MAX = 50_000
"""Empty objects, and folders, that are remembered until a listing has ended: about 20 MB."""
PATH_BYTES_MAX = 4095
"""Longest path, in bytes (PATH_MAX without its closing NUL)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object and its place.

    Attributes:
        listed: what a listing (or a HEAD) said of it.
        relative: its path below the target directory.
    """

    listed: ListedObject
    relative: str


def is_marker(listed: ListedObject) -> bool:
    """Whether it only stands for a folder ("a/" as the S3 console makes it, "a_$folder$" as Hadoop does, empty)."""
    return listed.key.endswith(("/", "_$folder$")) and not listed.size_bytes


class Placeholders:
    """Empty objects that may stand for folders: "a" beside "a/b", as some tools make them. A file system has one place.

    They wait until everything was listed, since an order of keys cannot be relied on. Beyond PLACEHOLDERS_MAX empty
    objects, or as many folders, nothing more is known: what cannot be written is a failure then.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._waiting: list[Wanted] = []

    def add(self, wanted: Wanted) -> bool:
        """Take note of an object; whether it is to wait."""
        folder = wanted.relative.rpartition("/")[0]
        while folder and folder not in self._folders and len(self._folders) < PLACEHOLDERS_MAX:
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]
        if wanted.listed.size_bytes or len(self._waiting) >= PLACEHOLDERS_MAX:
            return False
        self._waiting.append(wanted)
        return True

    def sort_out(self) -> tuple[list[Wanted], list[Wanted]]:
        """What waited: the files, and what only stands for a folder."""
        files = [wanted for wanted in self._waiting if wanted.relative not in self._folders]
        return files, [wanted for wanted in self._waiting if wanted.relative in self._folders]


def check_asked_for(key: str, prefix: str) -> None:
    """Refuse a key that a listing holds although it was not asked for.

    Raises:
        ServerFault: the key does not begin with `prefix`, which every key of the listing must begin with.
    """
    if not key.startswith(prefix):
        raise ServerFault(
            f"The server listed the key {show(key)}, which was not asked for: it does not begin with {show(prefix)}; "
            "nothing is written. Check that the endpoint is S3.",
            operation="ListObjectsV2",
        )


def check_relative(relative: str, key: str) -> None:
    """Refuse a key that is no path below a directory; S3 takes any text of up to 1,024 bytes for a key.

    Args:
        relative: what comes after the prefix that is left out.
        key: the whole key, for the message.

    Raises:
        InvalidKey: with the reason.
    """
    fault = ""
    if "\0" in relative:
        fault = "holds a NUL character"
    elif relative.startswith("/"):
        fault = 'would be an absolute path, since "//" stands in it or "/" before it'
    else:
        parts = relative.split("/")
        if ".." in parts or "." in parts:
            fault = "has '.' or '..' between slashes, which file systems resolve"
        elif "" in parts:
            fault = 'has an empty name between slashes ("//"), which file systems fold'
        elif parts[0] == FOLDER:
            fault = f"begins with {FOLDER}, which is where unfinished files lie"
        elif len(relative.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
            fault = f"is longer than a path may be ({PATH_BYTES_MAX} bytes)"
    if fault:
        raise InvalidKey(f"The key {show(key)} {fault}; nothing is written. Copy the object under another key first.")
