"""Lines of a stream, in bounded memory: a line that is too long is a fault, not an allocation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from asyncsink.value import dataclass

LINE_SIZE_MAX = 1 << 20
"""Longest line: 1 MiB of a binary stream, as many characters of a text stream."""

_DISCARD_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, and its text without the line end, or what is wrong with it ("" for nothing)."""

    number: int
    text: str
    fault: str = ""


def bounded_lines(stream: IO[str] | IO[bytes]) -> Iterator[Line]:
    """Every line of a stream, UTF-8 where it is binary; a byte order mark at the start is dropped.

    Blocking. A line that is too long, or no UTF-8, is a fault and the next line follows. A stream that fails (OSError,
    or text that its own decoder refuses) is a fault and the last line: what comes after it cannot be read.
    """
    number = 0
    while True:
        number += 1
        try:
            raw = stream.readline(LINE_SIZE_MAX + 1)
            if not raw:
                return
            whole = len(raw) <= LINE_SIZE_MAX or raw[-1] in ("\n", 10)
            if not whole:
                _discard_rest(stream)
        except UnicodeDecodeError as error:
            yield Line(number, "", f"is no text in the stream's encoding ({error.encoding}); nothing after it was read")
            return
        except OSError as error:
            yield Line(number, "", f"cannot be read ({error.strerror or error}); nothing after it was read")
            return
        yield _line(number, raw) if whole else Line(number, "", f"is longer than {LINE_SIZE_MAX} bytes")


def _discard_rest(stream: IO[str] | IO[bytes]) -> None:
    while (piece := stream.readline(_DISCARD_SIZE)) and piece[-1] not in ("\n", 10):
        pass


def _line(number: int, raw: str | bytes) -> Line:
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return Line(number, "", f"is not UTF-8 (byte {error.start + 1} of the line)")
    else:
        text = raw
    if number == 1:
        text = text.removeprefix("\ufeff")
    return Line(number, text.removesuffix("\n").removesuffix("\r"))
