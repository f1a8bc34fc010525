"""Writes lines: on a terminal wrapped at words, with colours unless NO_COLOR is set; elsewhere as they are."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from asyncsink.errors import DestinationFull
from asyncsink.report.sentences import inert

COLUMNS_MIN = 20
RED, GREEN, YELLOW, CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
_END = "\x1b[0m"

_BLANK = "\x00"
"""Stands for a blank that no line is broken at; text from outside holds no control character here."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_LABEL = re.compile(r"asyncsink: (?P<kind>error|note):|(?P<hint>  try:|  for example:|Try:)|(?P<mark>[✔✘])")
_COLOURS = {"error": RED, "note": YELLOW}


def write(stream: TextIO | None, text: str, *, flush: bool = True) -> None:
    """Write a text as it is.

    Raises:
        DestinationFull: standard output cannot be written to.
    """
    if stream is None:
        return  # the process was started with it closed
    # The proxy of a display's stream has no encoding of its own.
    encoding = getattr(stream, "rich_proxied_file", stream).encoding or "utf-8"
    if not encoding.lower().startswith("utf") or not locale_is_utf8():
        text = text.replace("…", "...")
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except OSError as error:
        discard(stream)
        # A closed pipe (head, a pager) needs no error; a closed terminal cannot show one.
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise DestinationFull(
                f"The run is over, but its result cannot be written to standard output ({error.strerror}).",
                operation="stdout",
            ) from error


def discard(stream: TextIO) -> None:
    """Write nothing more to a stream, not even the rest of its buffer at the end of the process."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def locale_is_utf8() -> bool:
    """Whether the locale's characters are UTF-8: this process may write UTF-8 in any locale, and a terminal of another
    one would not show it."""
    named = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return not named or "utf8" in named.lower().replace("-", "")


def write_line(stream: TextIO | None, text: str) -> None:
    """Write a line as it is, with what a terminal does not print as itself escaped."""
    write(stream, f"{inert(text)}\n")


def write_lines(stream: TextIO | None, text: str) -> None:
    """Write lines for people: see `laid_out`."""
    columns = columns_of(stream)
    if columns:
        lines = (laid_out(line, columns, colours=colours_wanted()) for line in text.split("\n"))
        text = "\n".join(lines)
    write(stream, f"{text}\n")


def columns_of(stream: TextIO | None) -> int:
    """The columns of the terminal that the stream is, or 0 where it is none."""
    terminal = getattr(stream, "rich_proxied_file", stream)
    if terminal is None or not terminal.isatty():
        return 0
    said = os.environ.get("COLUMNS", "")
    try:
        columns = int(said) if said.isdecimal() else os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        columns = 80
    return max(COLUMNS_MIN, columns or 80)


def colours_wanted() -> bool:
    """Whether a terminal gets colours (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def laid_out(line: str, columns: int, *, colours: bool) -> str:
    """A line in lines of `columns`, broken at blanks only, so that no word, path or URL is cut; what is longer stays
    whole. A quoted text is not broken either. With colours, an error is red, and what to do about it cyan. Pure."""
    label = _LABEL.match(line)
    if len(line) <= columns:
        return _coloured(line, label) if colours else line
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()))
    kept = _QUOTED.sub(lambda quoted: quoted[0].replace(" ", _BLANK) if len(quoted[0]) < columns else quoted[0], line)
    wrapped = textwrap.fill(
        kept,
        columns,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    ).replace(_BLANK, " ")
    return _coloured(wrapped, label) if colours else wrapped


def _coloured(text: str, label: re.Match[str] | None) -> str:
    """The text with its label in its colour, and with the cure of an error in cyan."""
    if label is None:
        return text
    if label["mark"]:
        return f"{GREEN if text[0] == '✔' else RED}{text[0]}{_END}{text[1:]}"
    if label["hint"]:
        return f"{CYAN}{text}{_END}"
    start, rest = text[: label.end()], text[label.end() :]
    # What to do stands behind the last semicolon.
    said, semicolon, cure = rest.rpartition("; ") if label["kind"] == "error" else ("", "", rest)
    cure = f"{CYAN}{cure}{_END}" if semicolon else cure
    return f"{_COLOURS[label['kind']]}{start}{_END}{said}{semicolon}{cure}"
