"""What a split tells."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import count, duration, inert, size
from asyncsink.splitting.files import SplitPart, SplitPlan
from asyncsink.value import dataclass


@dataclass(slots=True, kw_only=True)
class SplitReport(BaseReport):
    """What a split has made.

    Attributes:
        directory: of the parts.
        plan: what its split.json says.
        elapsed_seconds: from the first look to the last file.
        objects_failed: files that are in no part because they cannot be read or named, with on_unreadable="skip".
        failures: the sentences of the first thousand of them.
        notices: what a person should know that is no failure.
    """

    directory: str
    plan: SplitPlan
    elapsed_seconds: float = 0.0
    objects_failed: int = 0
    failures: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file is in a part, or left out as it was asked for."""
        return not self.objects_failed

    @property
    def parts(self) -> tuple[SplitPart, ...]:
        """The parts, by their numbers."""
        return self.plan.parts

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "directory": self.directory,
            "source": self.plan.source,
            "destination": self.plan.destination,
            "ok": self.ok,
            "parts": len(self.parts),
            "objects_total": self.plan.objects,
            "bytes_total": self.plan.bytes,
            "left_out": self.plan.left_out,
            "objects_failed": self.objects_failed,
            "elapsed_seconds": self.elapsed_seconds,
            "notices": list(self.notices),
            "failures": list(self.failures),
        }

    def summary(self) -> str:
        """A few lines for a person; no line break at the end."""
        plan, parts = self.plan, len(self.parts)
        lines = [
            f"{count(plan.objects, 'file')} ({size(plan.bytes)}) for {plan.destination} are split into "
            f"{count(parts, 'part')} in {self.directory}, in {duration(self.elapsed_seconds)}."
        ]
        if self.objects_failed:
            lines.append(f"{count(self.objects_failed, 'file')} cannot be sent, and stand in no part.")
        if parts:
            numbers = "0" if parts == 1 else f"0 to {parts - 1}"
            lines.append(
                f"Publish a part with: asyncsink run {self.directory} --part I, where I is {numbers}, or auto."
            )
        return "\n".join(map(inert, lines))
