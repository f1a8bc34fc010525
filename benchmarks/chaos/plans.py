"""When a run is killed, and how it is started: drawn from a seed, before anything runs. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

How = Literal["KILL", "INT", "TERM"]
Phase = Literal["request", "late", "body", "answer"]
KILLS_MAX: Final = 3
_OPERATIONS: Final = {
    # An operation, and of how many of its requests one is drawn
    "ListObjectsV2": 1,
    "PutObject": 120,
    "CreateMultipartUpload": 3,
    "UploadPart": 12,
    "CompleteMultipartUpload": 3,
}
_ONLY_AFTER_A_KILL: Final = {"ListParts": 3}
_SIGNALS: Final[tuple[How, ...]] = ("KILL", "KILL", "INT", "TERM")
_WITH_A_BODY: Final = ("PutObject", "UploadPart")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One SIGKILL, or one of the signals that ask a run to stop: what it leaves is to be the same.

    Attributes:
        fraction: of the time that an undisturbed run takes; where there is no operation.
        operation, nth: or when the n-th request of this operation is at `phase`: "request": it has begun to come, and
            gets no further; "late": the same, but it reaches the server after its sender is dead; "body": half of its
            body came; "answer": the server has done it, and the client does not hear of it.
        how: the signal.
    """

    fraction: float = 0.0
    operation: str = ""
    nth: int = 0
    phase: Phase = "request"
    how: How = "KILL"

    def as_dict(self) -> dict[str, object]:
        """For the result."""
        place: dict[str, object] = {"fraction": round(self.fraction, 4)}
        if self.operation:
            place = {"operation": self.operation, "nth": self.nth, "phase": self.phase}
        return {**place, "how": self.how}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run: its options, and when it is killed, one attempt after the other. The attempt after the last is left."""

    number: int
    concurrency: int
    transport: Literal["auto", "aioboto3"]
    overwrite: Literal["journal", "checksum"]
    kills: Sequence[Kill]

    @property
    def options(self) -> list[str]:
        """For `asyncsink export`."""
        return ["--concurrency", str(self.concurrency), "--overwrite", self.overwrite, "--transport", self.transport]


def draw(seed: int, runs: int) -> list[Plan]:
    """`runs` plans; the same for the same seed and number.

    Half of the first kills are spread evenly over the whole duration, beginning and end included; the other half wait
    for a request, because an upload is created and completed in moments that a clock hardly ever hits.
    """
    dice = random.Random(f"kill {seed} {runs}")
    moments = [(number + dice.random()) / runs for number in range(runs)]
    dice.shuffle(moments)
    return [_plan(number, moment, dice) for number, moment in enumerate(moments)]


def _plan(number: int, moment: float, dice: random.Random) -> Plan:
    kills = []
    for place in range(dice.choice((1, 1, 2, KILLS_MAX))):
        if dice.random() < 0.5:
            fraction = moment if not place else dice.random()
            kills.append(Kill(fraction=fraction, how=dice.choice(_SIGNALS)))
            continue
        known = _OPERATIONS | (_ONLY_AFTER_A_KILL if place else {})
        operation = dice.choice(list(known))
        phases: list[Phase] = ["request", "late", "answer"]
        phases += ["body"] if operation in _WITH_A_BODY else []
        nth = dice.randint(1, known[operation])
        how = dice.choice(_SIGNALS)
        kills.append(Kill(operation=operation, nth=nth, phase=dice.choice(phases), how=how))
    return Plan(
        number=number,
        concurrency=dice.choice((2, 4, 8)),
        transport="aioboto3" if number % 6 == 5 else "auto",
        overwrite="checksum" if dice.random() < 0.25 else "journal",
        kills=kills,
    )
