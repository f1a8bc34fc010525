"""What a run published after its files: the index and the completion marker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncsink.model import Receipt, Skip
from asyncsink.report.sentences import count, inert
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The end of a run to a bucket.

    Attributes:
        index: the outcome of the index; None where there is none, or it was not published.
        index_objects: the number of objects that it lists.
        complete_marker: URL of the completion marker, or "".
    """

    index: Receipt | Skip | None = None
    index_objects: int = 0
    complete_marker: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        index = self.index.url if self.index is not None else ""
        return {"index": index, "complete_marker": self.complete_marker}

    def lines(self) -> Iterator[str]:
        """Sentences for a person."""
        if self.index is not None:
            unchanged = ", and is unchanged" if isinstance(self.index, Skip) else ""
            yield f"Index: {inert(self.index.url)} lists {count(self.index_objects, 'object')}{unchanged}."
        if self.complete_marker:
            yield f"Complete: {inert(self.complete_marker)}."
