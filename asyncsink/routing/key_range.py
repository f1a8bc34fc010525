"""The range of keys that one part has, as a listing is asked for it. Pure.

S3 lists in the order of UTF-8, in which "a.txt" precedes "a/b". Servers that keep objects in folders (SeaweedFS) list
folder by folder, "a/b" before "a.txt", and leave out a whole folder where a listing starts after its name. A range
begins and ends so that both orders cover it; a listing in neither order proves nothing about what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from asyncsink.value import dataclass

_STEPS = {"a": "_", "_": "Z", "A": "9", ".": "-"} | {
    chr(code): chr(code - 1)
    for first, last in (("1", "9"), ("B", "Z"), ("b", "z"))
    for code in range(ord(first), ord(last) + 1)
}
"""Characters that a start position may end in, by the one that follows: none is special to a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """The keys of a part.

    Attributes:
        prefix: the longest that all keys share.
        start_after: a text before all keys and near the first one, or "": then the prefix says enough.
        last, last_by_folder: the last key in either order.
        alike: for keys that some server takes for a key of another part, those.
    """

    prefix: str
    start_after: str
    last: str
    last_by_folder: str
    alike: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def is_passed(self, key: str) -> bool:
        """Whether a listing that has come to `key`, in either order, has no more keys of the range."""
        return key > self.last and by_folder(key) > by_folder(self.last_by_folder)


class RangeFinder:
    """Learns a range from its keys, which come in any order."""

    def __init__(self) -> None:
        self._first = self._last = self._first_by_folder = self._last_by_folder = ""
        self._any = False

    def add(self, key: str) -> None:
        """Take over a key."""
        if not self._any:
            self._any = True
            self._first = self._last = self._first_by_folder = self._last_by_folder = key
            return
        self._first, self._last = min(self._first, key), max(self._last, key)
        self._first_by_folder = min(self._first_by_folder, key, key=by_folder)
        self._last_by_folder = max(self._last_by_folder, key, key=by_folder)

    def found(self, alike: Mapping[str, tuple[str, ...]]) -> KeyRange:
        """The range of all keys."""
        prefix = shared(self._first, self._last)
        start = before(shared(self._first, self._first_by_folder))
        return KeyRange(
            prefix=prefix,
            start_after=start if len(start) > len(prefix) and start.startswith(prefix) else "",
            last=self._last,
            last_by_folder=self._last_by_folder,
            alike=alike,
        )


class ListingOrder:
    """Whether the keys of a listing came in one of the two orders."""

    def __init__(self) -> None:
        self._latest: str | None = None
        self._by_text = self._by_folder = True

    def add(self, keys: Iterable[str]) -> None:
        """Take over the keys of the next page."""
        for key in keys:
            if self._latest is not None:
                self._by_text = self._by_text and self._latest < key
                self._by_folder = self._by_folder and by_folder(self._latest) < by_folder(key)
            self._latest = key

    @property
    def latest(self) -> str | None:
        """The last key that came."""
        return self._latest

    @property
    def is_known(self) -> bool:
        """Whether all keys came in the same one of the orders."""
        return self._by_text or self._by_folder


def by_folder(key: str) -> list[str]:
    """What keys are compared by, where folders are listed one by one."""
    return key.split("/")


def shared(first: str, second: str) -> str:
    """The longest common prefix."""
    length = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return first[:length] if length is not None else min(first, second, key=len)


def before(text: str) -> str:
    """A text that precedes all keys that begin with `text`, in both orders, with as few others between as possible; ""
    where there is none."""
    while text:
        head, character = text[:-1], text[-1]
        if character in _STEPS:
            return f"{head}{_STEPS[character]}~"
        text = head
    return ""
