"""Pure: numbers and foreign texts as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable

from asyncsink.model import Failure, Resumable

GOING_ON_SHOWN = 5
_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(size_bytes: float) -> str:
    """A number of bytes: "512 bytes", "1.5 MiB" (2**20)."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return count(int(value), "byte")
    return f"{value:.0f} {_SIZES[unit]}" if value >= 100 else f"{value:.1f} {_SIZES[unit]}"


def share_of_size(done_bytes: int, total_bytes: int) -> str:
    """A number of bytes of a total, in the unit of the total: "34.8/215.1 MiB"; never rounded up to more than is
    done."""
    value, unit = float(total_bytes), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    tenths = done_bytes * 10 // 1024**unit
    done = f"{done_bytes:,}" if unit == 0 else f"{tenths // 10}.{tenths % 10}"
    return f"{done}/{value:,.0f} {_SIZES[unit]}" if unit == 0 else f"{done}/{value:.1f} {_SIZES[unit]}"


def count(number: int, noun: str) -> str:
    """A number of things: "1 object", "1,200 objects"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time: "0.42 s", "12.3 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def goes_on(left: Iterable[Resumable]) -> str:
    """How far large files are that a later run goes on with: "2 large files go on at 62 % and 18 % with the next run.",
    or ""."""
    shares = sorted((100 * each.bytes_stored // (each.size_bytes or 1) for each in left), reverse=True)
    if not shares:
        return ""
    places = [f"{share} %" for share in shares[:GOING_ON_SHOWN]]
    more = len(shares) - len(places)
    if more:
        places.append(f"{more:,} more")
    where = f"{', '.join(places[:-1])} and {places[-1]}" if len(places) > 1 else places[0]
    verb = "goes" if len(shares) == 1 else "go"
    return f"{count(len(shares), 'large file')} {verb} on at {where} with the next run."


def inert(text: str) -> str:
    """The text with everything escaped that a terminal would not show as itself: control characters, line breaks,
    direction marks, and the surrogates of names that are no UTF-8."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def failure_line(failure: Failure, *, with_error: bool = True) -> str:
    """One line: whose failure it is, unless its message says so, the error's class, and the message."""
    name = failure.source or failure.key
    named = repr(name) in failure.message or failure.message.startswith(name)
    parts = [] if named else [name]
    return inert(": ".join([*parts, *([failure.error] if with_error else []), failure.message]))
