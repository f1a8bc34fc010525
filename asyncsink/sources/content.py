"""Content in memory as a source: it has the methods of an open file, and needs no memory of the run's own.

Bytes are read where they are. Other buffers may be written to while they are sent: small ones are copied first; of
large ones each part is copied when it is sent, and its checksum is that of the copy, so that an object never has other
bytes than its checksum says. That the whole stayed as it was is compared at the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from asyncsink.errors import ConfigError, SourceChanged
from asyncsink.integrity.checksums import ByteBody, Digester
from asyncsink.model import BYTES, SourceFile
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.sources.reader import AtRest, Buffer, OpenSource

_FINGERPRINT: ChecksumAlgorithm = "CRC64NVME"


def bytes_of(data: Any, what: str) -> memoryview:
    """A flat view of the bytes of a buffer, in C order; what is not contiguous is copied.

    Args:
        what: names it, as the beginning of a sentence.

    Raises:
        ConfigError: it is no buffer.
    """
    if type(data) is bytes:
        return memoryview(data)
    if isinstance(data, str):
        raise ConfigError(f"{what} is a str; expected bytes: encode it, for example with .encode().")
    try:
        view = memoryview(data)
        if not view.nbytes or not view.c_contiguous:
            return memoryview(view.tobytes())
        return view if view.format == "B" and view.ndim == 1 else view.cast("B")
    except (TypeError, ValueError, BufferError) as error:
        raise ConfigError(
            f"{what} is of type {type(data).__name__}; expected bytes, bytearray, memoryview or another buffer."
        ) from error


class MemoryFile(SourceFile):
    """Content in memory that is published; its mtime is the time of the call.

    Attributes:
        view: its bytes.
        stable: whether nobody can change them.
    """

    __slots__ = ("stable", "view")

    def __init__(self, data: Any, *, copied_bytes_max: int, what: str) -> None:
        """Take the bytes of `data`; `what` and errors as `bytes_of`. Buffers that can change are copied where they have
        fewer than `copied_bytes_max` bytes."""
        view = bytes_of(data, what)
        stable = isinstance(view.obj, bytes)
        if not stable and view.nbytes < copied_bytes_max:
            view, stable = memoryview(bytes(view)), True
        self.view = view
        self.stable = stable
        super().__init__(BYTES, view.nbytes, time.time_ns())


class OpenContent:
    """Content in memory, with the methods of OpenSource. They block for as long as copying and checksums take."""

    __slots__ = ("_first", "_source", "_view")

    def __init__(self, source: MemoryFile) -> None:
        self._source = source
        self._view = source.view
        self._first = None if source.stable else self._fingerprint()

    def __repr__(self) -> str:
        return f"<OpenContent {self.size_bytes} bytes>"

    @property
    def size_bytes(self) -> int:
        """Number of bytes."""
        return self._view.nbytes

    def read_all(self, into: Buffer | None = None) -> Buffer:
        """The whole content; see `read_part`."""
        return self.read_part(0, self.size_bytes, into)

    def read_part(self, offset: int, length: int, into: Buffer | None = None) -> Buffer:
        """Exactly `length` bytes from `offset`: a copy, or a view of the first `length` of `into`."""
        piece = self._view[offset : offset + length]
        if into is None:
            return bytearray(piece)
        view = memoryview(into).cast("B")[:length]
        view[:] = piece
        return view

    def check_unchanged(self) -> None:
        """Prove that the content stayed the same.

        Raises:
            SourceChanged: it was written to.
        """
        if self._first is not None and self._first != self._fingerprint():
            raise SourceChanged(
                "The buffer was written to while it was being published; expected that it stays as it is until the "
                "call returns; nothing was published under its key. Give bytes, or a copy."
            )

    def close(self) -> None:
        """Do nothing: the caller's buffer is released with its source."""

    def __enter__(self) -> OpenContent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fingerprint(self) -> object:
        digester = Digester([_FINGERPRINT])
        digester.update(self._view)
        return digester.result(_FINGERPRINT)


class SmallReader:
    """Reader of small files at rest and of small contents for a lane; see `s3.operations.FileReader`."""

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: AtRest | None = None

    def read(self, source: SourceFile, room: memoryview) -> bool:
        """Copy content; a file as `AtRest.read`."""
        if isinstance(source, MemoryFile):
            room[: source.size_bytes] = source.view
            return True
        if self._files is None:
            self._files = AtRest()
        return self._files.read(source, room)

    def close(self) -> None:
        """As `AtRest.close`."""
        if self._files is not None:
            self._files.close()


def opened(source: SourceFile) -> OpenSource | OpenContent:
    """The source, open for reading; raises as `OpenSource`. Blocking."""
    return OpenContent(source) if isinstance(source, MemoryFile) else OpenSource(source)


def in_memory(source: SourceFile) -> ByteBody | None:
    """The bytes of a content that stays as it is; None of anything else."""
    return source.view if isinstance(source, MemoryFile) and source.stable else None


def memory_cost(sources: Sequence[SourceFile]) -> int:
    """Bytes of the budget that small sources take: content in memory is its caller's."""
    return sum([source.size_bytes for source in sources if not isinstance(source, MemoryFile)])
