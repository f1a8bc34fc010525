"""What a run amounts to so far, in numbers: counted outcome by outcome, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import field, fields
from typing import Any

from asyncsink.model import Failure, Outcome, Receipt, Skip
from asyncsink.value import dataclass

REASONS_MAX = 20
OTHER_REASONS = "other reasons"
NOT_PUBLISHED_KEPT = 1000


@dataclass(slots=True)
class Counts:
    """Numbers of outcomes by kind, and what belongs to them.

    Attributes:
        objects_failed: without failures of local copies: their objects are published, or counted already.
        bytes_uploaded, bytes_skipped, bytes_planned: sums of size_bytes over the receipts, skips and planned transfers.
        bytes_resumed: bytes that earlier runs had sent or received of large files, and this run did not once more.
        local_copies: how many receipts and skips have a local copy.
        local_copies_failed: how many failures are of the stage "local copy".
        confirmed_by: number of receipts by what the server's answer proved.
        skip_reasons: number of skips by reason; from the 21st reason on they count as "other reasons".
        left_out_reasons: of these, the skips that are not there already.
        not_published: source and reason of the first 1,000 skips that are not there already.
        not_published_total: number of all of these.
    """

    objects_uploaded: int = 0
    objects_skipped: int = 0
    objects_failed: int = 0
    objects_planned: int = 0
    local_copies: int = 0
    local_copies_failed: int = 0
    bytes_uploaded: int = 0
    bytes_skipped: int = 0
    bytes_planned: int = 0
    bytes_resumed: int = 0
    confirmed_by: Counter[str] = field(default_factory=Counter)
    skip_reasons: Counter[str] = field(default_factory=Counter)
    left_out_reasons: Counter[str] = field(default_factory=Counter)
    not_published: list[tuple[str, str]] = field(default_factory=list)
    not_published_total: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome, Receipt):
            self.objects_uploaded += 1
            self.bytes_uploaded += outcome.size_bytes
            self.confirmed_by[outcome.confirmed_by] += 1
            self.local_copies += outcome.local_copy != ""
        elif isinstance(outcome, Skip):
            self._add_skip(outcome)
        elif isinstance(outcome, Failure):
            self.local_copies_failed += outcome.stage == "local copy"
            self.objects_failed += outcome.stage != "local copy"
        else:
            self.objects_planned += 1
            self.bytes_planned += outcome.size_bytes

    def _add_skip(self, skip: Skip) -> None:
        self.objects_skipped += 1
        self.bytes_skipped += skip.size_bytes
        self.local_copies += skip.local_copy != ""
        # A reason that names its own file would be a reason of its own.
        reason = skip.reason.replace(skip.source, "…") if skip.source else skip.reason
        self._add_reason(reason, 1, left_out=0 if skip.already_there else 1)
        if not skip.already_there:
            self.not_published_total += 1
            if len(self.not_published) < NOT_PUBLISHED_KEPT:
                self.not_published.append((skip.source or skip.key, skip.reason))

    def _add_reason(self, reason: str, skips: int, *, left_out: int) -> None:
        known = reason in self.skip_reasons or len(self.skip_reasons) < REASONS_MAX
        reason = reason if known else OTHER_REASONS
        self.skip_reasons[reason] += skips
        if left_out:
            self.left_out_reasons[reason] += left_out

    def merge(self, other: Counts) -> None:
        """Count everything that `other` has counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.confirmed_by.update(other.confirmed_by)
        for reason, skips in other.skip_reasons.items():
            self._add_reason(reason, skips, left_out=other.left_out_reasons[reason])
        self.not_published += other.not_published[: NOT_PUBLISHED_KEPT - len(self.not_published)]

    @property
    def objects_total(self) -> int:
        """Uploaded + skipped + failed + planned."""
        return self.objects_uploaded + self.objects_skipped + self.objects_failed + self.objects_planned

    @property
    def already_there(self) -> int:
        """Skips whose object is what would have been sent."""
        return self.objects_skipped - self.not_published_total

    @property
    def there_reasons(self) -> Counter[str]:
        """`skip_reasons` of these."""
        return self.skip_reasons - self.left_out_reasons

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values, under the names that `--json` prints."""
        return {
            "objects_total": self.objects_total,
            "objects_uploaded": self.objects_uploaded,
            "objects_skipped": self.objects_skipped,
            "objects_failed": self.objects_failed,
            "objects_planned": self.objects_planned,
            "local_copies_failed": self.local_copies_failed,
            "bytes_uploaded": self.bytes_uploaded,
            "bytes_skipped": self.bytes_skipped,
            "bytes_planned": self.bytes_planned,
            "bytes_resumed": self.bytes_resumed,
            "confirmed_by": dict(self.confirmed_by),
            "skip_reasons": dict(self.skip_reasons),
            "not_published": [{"source": source, "reason": reason} for source, reason in self.not_published],
        }


_SUMS = [each.name for each in fields(Counts) if each.type == "int"]


def failure_as_dict(failure: Failure) -> dict[str, str]:
    """A failure as JSON-ready values, under the names that `--json` prints."""
    return {
        "source": failure.source,
        "key": failure.key,
        "error": failure.error,
        "message": failure.message,
        "stage": failure.stage,
    }
