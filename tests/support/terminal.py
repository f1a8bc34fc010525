"""A terminal of so many columns: what a person sees of what was written to it."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(?P<arguments>[?\d;]*)(?P<command>[A-Za-z])|(?P<character>[\s\S])")


class Screen:
    """Takes what a program writes; knows the sequences that a live display uses.

    Attributes:
        lines: as they stand now; a line that is too long goes on in the next one, as terminals wrap.
        shown: every text that any line had whenever the cursor left it or the program paused.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.shown: list[str] = []
        self.cursor_visible = True
        self._row = self._column = 0

    def write(self, text: str) -> None:
        """Show `text`."""
        for token in _TOKEN.finditer(text):
            if token["command"]:
                self._obey(token["command"], token["arguments"])
            else:
                self._put(token["character"])
        self.shown += self.lines

    def _obey(self, command: str, arguments: str) -> None:
        if command == "A":
            self._row = max(0, self._row - int(arguments or 1))
        elif command == "K":
            assert arguments in ("", "0", "2"), arguments
            kept = "" if arguments == "2" else self.lines[self._row][: self._column]
            self.lines[self._row] = kept
        elif arguments == "?25":
            self.cursor_visible = command == "h"
        else:
            assert command == "m", f"ESC[{arguments}{command} is not known here"

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_row()
        else:
            if self._column == self.columns:
                self._column = 0
                self._next_row()
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _next_row(self) -> None:
        self.shown.append(self.lines[self._row])
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")
