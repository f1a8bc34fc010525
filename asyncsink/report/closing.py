"""What a run did after its files: extraneous objects deleted, the index, the completion marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from asyncsink.model import Receipt, Skip
from asyncsink.report.sentences import count, inert, size
from asyncsink.value import dataclass

EXAMPLES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Deletion:
    """An extraneous object that was deleted.

    Attributes:
        key, url, size_bytes, etag: of the object.
        version_id: of the delete marker in a bucket with versions, or "".
    """

    key: str
    url: str
    size_bytes: int
    etag: str
    version_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraneous:
    """The objects below the destination that no source maps to.

    Attributes:
        listed: the number of all objects below the destination, before the run.
        objects, size_bytes: the extraneous ones, and their bytes.
        examples: the first of their keys.
        deleted: how many of them the run has deleted.
        changed: how many were replaced during the run, and are left as they are.
        failed: how many the server did not delete.
        excess: why they may not be deleted, as a sentence, or "".
    """

    listed: int = 0
    objects: int = 0
    size_bytes: int = 0
    examples: Sequence[str] = ()
    deleted: int = 0
    changed: int = 0
    failed: int = 0
    excess: str = ""

    def lines(self, *, dry_run: bool) -> Iterator[str]:
        """Sentences for a person."""
        what = f"{count(self.objects, 'object')} ({size(self.size_bytes)}) that no source has"
        if not self.objects:
            yield "Extraneous objects: none."
        elif dry_run:
            yield f"Would be deleted: {what}:"
            yield from (f"  {inert(key)}" for key in self.examples)
            if self.objects > len(self.examples):
                yield f"  and {self.objects - len(self.examples):,} more"
            if self.excess:
                yield self.excess
        else:
            changed = f"; {self.changed:,} were replaced meanwhile, and are left" if self.changed else ""
            yield f"Deleted: {self.deleted:,} of {what}{changed}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The end of a run to a bucket.

    Attributes:
        index: the outcome of the index; None where there is none, or it was not published.
        index_objects: the number of objects that it lists.
        complete_marker: URL of the completion marker, or "".
        extraneous: what was deleted, or would be; None where that was not asked for.
    """

    index: Receipt | Skip | None = None
    index_objects: int = 0
    complete_marker: str = ""
    extraneous: Extraneous | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        index = self.index.url if self.index is not None else ""
        told: dict[str, Any] = {"index": index, "complete_marker": self.complete_marker}
        return told | ({"extraneous": asdict(self.extraneous)} if self.extraneous is not None else {})

    def lines(self, *, dry_run: bool = False) -> Iterator[str]:
        """Sentences for a person."""
        if self.extraneous is not None:
            yield from self.extraneous.lines(dry_run=dry_run)
        if self.index is not None:
            unchanged = ", and is unchanged" if isinstance(self.index, Skip) else ""
            yield f"Index: {inert(self.index.url)} lists {count(self.index_objects, 'object')}{unchanged}."
        if self.complete_marker:
            yield f"Complete: {inert(self.complete_marker)}."
