"""Pure: the XML of an answer as names and texts, read as a stream (expat).

Nothing but what is wanted is kept, nesting is bounded, and a document type, which could declare entities, is refused.
"""

from __future__ import annotations

from typing import Final
from xml.parsers import expat

from asyncsink.s3.answer_limits import ENTRIES_MAX

DEPTH_MAX: Final = 16
"""Of elements; S3's answers have four."""


class Refused(Exception):
    """What was read cannot be the answer."""


NOT_UNDERSTOOD: Final = (Refused, expat.ExpatError, KeyError, ValueError)
"""What reading an answer that is not S3's raises: the reader, or those who convert what it found."""


class XmlReader:
    """Keeps the entries of an answer, and what its first level says. Reads one answer.

    Args:
        root: the outermost element, or "" for any.
        told: elements of the first level to keep.
        entry: the repeated element of the first level, or "".
        fields: what to keep of each entry.

    Attributes:
        root: the outermost element that was read, without its namespace.
    """

    def __init__(self, root: str, told: tuple[str, ...], entry: str = "", fields: tuple[str, ...] = ()) -> None:
        self.told: dict[str, str] = {}
        self.found: list[dict[str, str]] = []
        self.root = ""
        self._expected = root
        self._wanted = told
        self._entry = entry
        self._fields = fields
        self._depth = 0
        self._inside = False
        self._name = ""
        self._text: list[str] | None = None

    def read(self, body: bytes) -> None:
        """Read a whole answer.

        Raises:
            Refused, ExpatError: it is another one, or none.
        """
        # With namespaces told apart, names come as "namespace name", whichever prefix the server chose.
        parser = expat.ParserCreate("UTF-8", " ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = _refuse_doctype
        # Spaces that kept a connection alive may come first, where XML wants its declaration.
        parser.Parse(body.lstrip(), True)

    def _start(self, name: str, _: dict[str, str]) -> None:
        plain = name.rpartition(" ")[2]
        self._depth += 1
        self._text = None
        if self._depth == 1:
            self.root = plain
            if self._expected and plain != self._expected:
                raise Refused("another outermost element")
        elif self._depth == 2:
            self._inside = plain == self._entry
            if self._inside:
                if len(self.found) >= ENTRIES_MAX:
                    raise Refused("too many entries")
                self.found.append({})
            elif plain in self._wanted:
                self._name, self._text = plain, []
        elif self._depth == 3:
            if self._inside and plain in self._fields:
                self._name, self._text = plain, []
        elif self._depth > DEPTH_MAX:
            raise Refused("nesting")

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, _: str) -> None:
        if self._text is not None:
            into = self.found[-1] if self._depth == 3 else self.told
            into[self._name] = _unwrapped("".join(self._text))
            self._text = None
        self._depth -= 1


def _unwrapped(text: str) -> str:
    """A value without the line breaks and the indentation that a pretty-printer puts around it."""
    return text.strip() if text[:1] == "\n" and text.rstrip(" \t")[-1:] == "\n" else text


def _refuse_doctype(*_: object) -> None:
    raise Refused("document type")
