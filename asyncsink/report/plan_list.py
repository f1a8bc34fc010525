"""Every file of a plan in the order of names, in bounded memory: sorted on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain

from asyncsink.integrity.sameness import NOT_THERE
from asyncsink.model import Failure, Planned, Skip
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.report.plan import PlanBasis
from asyncsink.report.report import Report
from asyncsink.temporary import TemporaryDatabase
from asyncsink.value import dataclass

PAGE_FILES = 1000
_TABLES = """
CREATE TABLE file (name BLOB, number INTEGER, what TEXT, size INTEGER, object BLOB, why BLOB,
                   PRIMARY KEY (name, number)) WITHOUT ROWID;
"""
_NEXT = f"SELECT * FROM file WHERE (name, number) > (?, ?) ORDER BY name, number LIMIT {PAGE_FILES}"  # noqa: S608

_Row = tuple[bytes, int, str, int, bytes, bytes]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One line of a plan.

    Attributes:
        name: the path below the source.
        what: "new", "changed", "unchanged", "left out" or "cannot be sent".
        size_bytes: 0 where it is not known.
        object: the name of its object below the destination, where it is another one than `name`; else "".
        why: the reason, where `what` does not say enough; else "".
    """

    name: str
    what: str
    size_bytes: int
    object: str
    why: str


def planned_files(report: Report) -> Iterator[PlannedFile]:
    """The files of a plan, sorted by name. Blocking.

    Raises:
        JournalError: the directory for temporary files cannot hold them.
    """
    basis = report.basis or PlanBasis(destination=report.destination)
    with closing(TemporaryDatabase("The files of the plan", _TABLES)) as database:
        database.begin()
        outcomes: Iterator[Planned | Skip | Failure] = chain(report.planned, report.skips, report.failures)
        rows = (_row(basis, number, outcome) for number, outcome in enumerate(outcomes))
        database.change_many("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)", rows)
        last: tuple[bytes, int] = b"", -1
        while page := database.rows(_NEXT, *last):
            for name, _, what, size_bytes, its, why in page:
                yield PlannedFile(decoded_name(name), what, size_bytes, decoded_name(its), decoded_name(why))
            last = page[-1][0], page[-1][1]


def _row(basis: PlanBasis, number: int, outcome: Planned | Skip | Failure) -> _Row:
    name = basis.below(outcome.source) or outcome.key
    its = outcome.url.removeprefix(f"{basis.destination}/") if outcome.url else ""
    size_bytes, why = 0, ""
    if isinstance(outcome, Planned):
        what, size_bytes = "changed", outcome.size_bytes
        if outcome.reason == NOT_THERE:
            what = "new"
        else:
            why = outcome.reason
    elif isinstance(outcome, Failure):
        what, why = "cannot be sent", outcome.error
    elif outcome.already_there:
        what, size_bytes = "unchanged", outcome.size_bytes
    else:
        what, why = "left out", outcome.reason
    shown = "" if its == name else its
    return encoded_name(name), number, what, size_bytes, encoded_name(shown), encoded_name(why)
