"""A tree of files that somebody works on while it is exported, and what may be told of their content afterwards.

A file is one line of 64 bytes, again and again: its name, its version, and how many lines there are. So the bytes of
one version cannot be taken for another's, nor for a mixture of two.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Final

LINE_BYTES: Final = 64
REPLACED, IN_PLACE = "replaced", "in-place"
_SMALL_LINES, _LARGE_LINES = 128, (110_000, 220_000)
_SMALL: Final = 240
_LARGE: Final = 4
_PIECE_LINES: Final = 20_000
_PAUSE_SECONDS: Final = 0.02
_LARGE_EVERY: Final = 150
"""Changes of small files for one of a large one."""


def lines(name: str, version: int, count: int) -> bytes:
    """The whole content of a file. Pure."""
    return f"{name} v{version} n{count}".ljust(LINE_BYTES - 1).encode() + b"\n"


def is_one_version(content: bytes) -> bool:
    """Whether these are all bytes of one version of one file. Pure."""
    first = content[:LINE_BYTES]
    count = first.rpartition(b" n")[2].strip()
    return count.isdigit() and content == first * int(count)


class ChangingTree:
    """Files below `directory`, and a thread that changes them from entering the block until leaving it.

    Below "replaced" a file is only ever renamed into its place or removed, so that every version that anybody sees is
    whole. Below "in-place" files are written to where they are: rewritten, cut, and made longer, in pieces.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory, self._dice = directory, random.Random(f"changes {seed}")
        self._beside = directory.with_name(f"{directory.name}-beside")
        self.changes = 0
        """So many were made."""
        self.names: set[str] = set()
        """Of all files that ever were, as paths below the directory."""
        self._version = 0
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="changing-tree")
        self._small = {kind: [f"{kind}/sub-{n % 8}/small-{n:03}.json" for n in range(_SMALL)] for kind in _KINDS}
        self._large = {kind: [f"{kind}/sub-{n % 8}/large-{n}.nii" for n in range(_LARGE)] for kind in _KINDS}

    def __enter__(self) -> ChangingTree:
        self._beside.mkdir(parents=True)
        for name in [name for names in (self._small, self._large) for kind in _KINDS for name in names[kind]]:
            (self._directory / name).parent.mkdir(parents=True, exist_ok=True)
            self._replace(name, self._new(name, large="large" in name))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Change nothing more; what is being written is finished. Raises what went wrong. Blocking."""
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_PAUSE_SECONDS):
                self._change()
                self.changes += 1
        except Exception as error:  # noqa: BLE001 - raised by stop
            self._error = error

    def _change(self) -> None:
        large = self._dice.randrange(_LARGE_EVERY) == 0
        kind = self._dice.choice(_KINDS)
        name = self._dice.choice((self._large if large else self._small)[kind])
        if kind == IN_PLACE:
            self._rewrite(name, self._new(name, large=large))
        elif (self._directory / name).exists() and self._dice.random() < 0.3:
            (self._directory / name).unlink()
        else:
            self._replace(name, self._new(name, large=large))

    def _new(self, name: str, *, large: bool) -> bytes:
        self._version += 1
        count = self._dice.randint(*_LARGE_LINES) if large else self._dice.randint(1, _SMALL_LINES)
        return lines(name, self._version, count) * count

    def _replace(self, name: str, content: bytes) -> None:
        self.names.add(name)
        beside = self._beside / "next"
        beside.write_bytes(content)
        beside.replace(self._directory / name)

    def _rewrite(self, name: str, content: bytes) -> None:
        """Old bytes stand behind new ones until they are overwritten or cut off."""
        descriptor = os.open(self._directory / name, os.O_WRONLY)
        try:
            piece = max(LINE_BYTES, min(len(content) // 2, _PIECE_LINES * LINE_BYTES))
            for start in range(0, len(content), piece):
                os.pwrite(descriptor, content[start : start + piece], start)
                self._stopping.wait(_PAUSE_SECONDS / 4)
            os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)


_KINDS: Final = (REPLACED, IN_PLACE)
