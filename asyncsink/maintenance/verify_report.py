"""The report of a verification."""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from typing import Any

from asyncsink.maintenance.prover import Promise
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import Cause, all_of, are, count, grouped_failures, inert
from asyncsink.value import dataclass

_PROOFS = {"checksum": "checksum", "etag": "ETag", "read-back": "reading back"}
PROBLEMS_KEPT = 1000
"""Most problems that are kept with their sentences; all are counted."""

SENTENCES_SHOWN = 10
"""Most sentences about manifests in the summary."""


@dataclass(slots=True)
class VerifyReport(BaseReport):
    """The result of a verification.

    Attributes:
        manifest: path of the manifest, or how many there are.
        checked: number of records that were looked at.
        confirmed_by: how many were proven by "checksum", "etag" or "read-back".
        superseded: how many do not hold, and are followed by another record of the same object in their manifest: a
            service writes a key again. They are no problem.
        problems_total: how many of the others were not proven.
        problems: (source, url, sentence), the first thousand of them.
        incomplete: "" or sentences, one a line: the manifest's own run did not end in order, or did not publish
            everything, or parts of a split have no receipts.
        notices: sentences for people about what is no failure.
        manifests: of several manifests, the path of each, with a sentence as in `incomplete` or "".
    """

    manifest: str
    checked: int = 0
    confirmed_by: Counter[str] = field(default_factory=Counter)
    superseded: int = 0
    problems_total: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    incomplete: str = ""
    notices: list[str] = field(default_factory=list)
    manifests: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every promise holds and the run had ended in order."""
        return not self.problems_total and not self.incomplete

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "manifest": self.manifest,
            "ok": self.ok,
            "objects_total": self.checked,
            "objects_failed": self.problems_total,
            "objects_superseded": self.superseded,
            "confirmed_by": dict(self.confirmed_by),
            "incomplete": self.incomplete,
            "notices": list(self.notices),
            "failures": [{"source": s, "url": u, "message": m} for s, u, m in self.problems],
            **({"manifests": self.manifests} if self.manifests else {}),
        }

    def summary(self) -> str:
        """A few lines for people; the first one has the verdict."""
        name, checked, wrong = inert(self.manifest), self.checked, self.problems_total
        several = len(self.manifests) > 1
        says, lists = ("say", "list") if several else ("says", "lists")
        if wrong:
            lines = [f"{wrong:,} of {count(checked, 'object')} {are(wrong)} not as {name} {says}."]
        elif not checked:
            lines = [f"{name} {lists} no objects: there is nothing to verify."]
        elif self.incomplete:
            lines = [
                f"{name} {'do' if several else 'does'} not list everything; {all_of(checked, 'object').lower()} in "
                f"{'them' if several else 'it'} {are(checked)} as {'they say' if several else 'it says'}."
            ]
        else:
            lines = [f"{all_of(checked, 'object')} {are(checked)} as {name} {says}."]
        sentences = self.incomplete.splitlines()
        lines += map(inert, sentences[:SENTENCES_SHOWN])
        if len(sentences) > SENTENCES_SHOWN:
            lines.append(f"… and {len(sentences) - SENTENCES_SHOWN:,} more of such manifests.")
        if self.superseded:
            again = "an object that was" if self.superseded == 1 else "objects that were"
            lines.append(
                f"{count(self.superseded, 'earlier record')} of {again} written again: only the last one counts."
            )
        if len(self.confirmed_by) == 1:
            ((how, proven),) = self.confirmed_by.items()
            number = f"{proven:,} proven" if wrong else "Proven"
            lines.append(f"{number} by {_PROOFS[how]}.")
        elif self.confirmed_by:
            proofs = ", ".join(f"{_PROOFS[how]}: {number:,}" for how, number in self.confirmed_by.most_common())
            lines.append(f"Proven by {proofs}.")
        return "\n".join(lines)

    def causes(self) -> list[Cause]:
        """The kept problems, grouped by cause."""
        return grouped_failures((message, f"{url}: {message}", url) for _, url, message in self.problems)

    def problem(self, promise: Promise, message: str) -> None:
        """Count a promise that does not hold."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((promise.source, promise.url, message))
