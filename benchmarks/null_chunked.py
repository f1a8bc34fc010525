"""Finds the end of a body in HTTP's chunked transfer coding (RFC 9112, 7.1) and keeps nothing of it."""

from __future__ import annotations

LINE_BYTES_MAX = 8192


class ChunkedBody:
    """Fed piece by piece; `done` once the last line of the trailer section was seen.

    Clients send checksums in trailers this way (S3's aws-chunked coding lies inside and is not looked at).
    """

    __slots__ = ("_data", "_last", "_line", "done")

    def __init__(self) -> None:
        self.done = False
        self._data = 0
        self._last = False
        self._line = b""

    def feed(self, buffer: bytearray, position: int, end: int) -> int:
        """Consume `buffer[position:end]` as far as the body goes; returns where it stopped.

        Raises:
            ValueError: what should be a size is none, or a line is too long.
        """
        while position < end and not self.done:
            if self._data:
                taken = min(self._data, end - position)
                self._data -= taken
                position += taken
                continue
            stop = buffer.find(b"\n", position, end)
            if stop < 0:
                self._line += buffer[position:end]
                if len(self._line) > LINE_BYTES_MAX:
                    raise ValueError("a line of the chunked body is too long")
                return end
            line, self._line = (self._line + buffer[position:stop]).strip(), b""
            position = stop + 1
            self._take(line)
        return position

    def _take(self, line: bytes) -> None:
        if self._last:
            self.done = not line
            return
        size = int(line.partition(b";")[0], 16)
        if size:
            self._data = size + 2  # the CRLF that ends the data
        else:
            self._last = True
