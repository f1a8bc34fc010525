"""What earlier runs have left on this machine: journals, which the next run goes on from, and receipts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, field
from typing import Any, Final, Literal

from asyncsink.errors import ConfigError
from asyncsink.file_locks import lock
from asyncsink.journal.at_rest import JournalAtRest, Removal, journals_in, look_at, remove_journal
from asyncsink.journal.sqlite import default_place
from asyncsink.options.journal_choice import parse_journal
from asyncsink.options.schema import S3Target
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, read_manifest
from asyncsink.value import dataclass

RECEIPTS_MAX: Final = 10_000
"""Most receipts of a folder that are listed, the newest first."""
_RECEIPT = re.compile(r".+\.jsonl(\.partial)?(\.\d+)?")
ReceiptState = Literal["complete", "failed", "interrupted", "killed", "running"]


@dataclass(frozen=True, slots=True)
class ReceiptAtRest:
    """One receipt manifest.

    Attributes:
        path: of the file, as it was found.
        used_seconds: when it was last written, since the epoch.
        header, end: its first and last line; `end` is None where the run has not ended in order.
        state: "complete": everything is published; "failed": something is not; "interrupted"; "killed" before its end;
            or "running".
    """

    path: str
    used_seconds: float
    header: ManifestHeader
    end: ManifestEnd | None
    state: ReceiptState

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "path": self.path,
            "state": self.state,
            "used_seconds": self.used_seconds,
            **asdict(self.header),
            "end": None if self.end is None else asdict(self.end),
        }


@dataclass(frozen=True, slots=True)
class Runs:
    """What earlier runs have left, each list with the latest first."""

    journals: list[JournalAtRest] = field(default_factory=list)
    receipts: list[ReceiptAtRest] = field(default_factory=list)


def default_journals() -> str:
    """The directory of default journals, "" where there is none. Blocking."""
    return default_place(parse_journal({}, S3Target(bucket="any")))[0]


def list_runs(folder: str) -> Runs:
    """The default journals, and the receipts in a folder. Blocking.

    Raises:
        ConfigError: the folder cannot be read.
    """
    directory = default_journals()
    return Runs(journals_in(directory) if directory else [], list(_receipts_in(folder)))


def runs_of(name: str, folder: str) -> Runs:
    """The journals and receipts that `name` stands for. Blocking.

    Args:
        name: a destination, "s3://bucket/prefix"; a receipt; or the file of a journal.
        folder: where receipts of a destination are looked for.

    Raises:
        ConfigError: there are none.
    """
    if name.lower().startswith("s3://"):
        every, wanted = list_runs(folder), _place(name)
        journals = [j for j in every.journals if j.identity is not None and _place(_url(j)) == wanted]
        receipts = [each for each in every.receipts if _place(each.header.destination) == wanted]
        if not journals and not receipts:
            raise ConfigError(
                f"No journal is of the destination {name!r}, nor is a receipt in {folder!r}; asyncsink runs lists them."
            )
        return Runs(journals, receipts)
    if not os.path.isfile(name):
        raise ConfigError(
            f"{name!r} is neither a destination (s3://bucket/prefix) nor a file; expected a destination, a receipt, or "
            "the file of a journal. asyncsink runs lists them all."
        )
    if (receipt := _receipt(name)) is not None:
        return Runs([], [receipt])
    journal = look_at(name)
    if journal.problem or (journal.identity is None and not journal.in_use):
        raise ConfigError(f"{name!r} is neither a receipt nor a journal of asyncsink that this version can read.")
    return Runs([journal], [])


def remove_runs(
    names: list[str],
    *,
    older_than_seconds: float | None = None,
    with_uploads: bool = False,
    dry_run: bool = False,
    observe: Callable[[JournalAtRest, Removal], None],
) -> None:
    """Remove journals. One that a run has is never removed, nor are receipts. Blocking.

    Args:
        names: destinations or files, as in `runs_of`; empty for all default journals.
        older_than_seconds: those that no run has used for so long.
        with_uploads: also those that have open uploads, whose parts then stay at the server.
        dry_run: remove none.
        observe: called with each journal and what became of it; "removed" in a dry run too, where it would be.

    Raises:
        ConfigError: a name stands for no journal. Nothing was removed.
    """
    journals: dict[str, JournalAtRest] = {}
    for name in names:
        found = runs_of(name, os.curdir).journals
        if not found:
            raise ConfigError(f"{name!r} has no journal. A receipt is a file of yours: remove it as any other file.")
        journals |= {each.path: each for each in found}
    if not names:
        directory = default_journals()
        journals = {each.path: each for each in (journals_in(directory) if directory else [])}
    now_seconds = time.time()
    for journal in journals.values():
        if older_than_seconds is not None and now_seconds - journal.used_seconds < older_than_seconds:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if dry_run:
                observe(journal, _foreseen(journal, with_uploads=with_uploads))
            else:
                observe(journal, remove_journal(journal.path, with_uploads=with_uploads))


def _foreseen(journal: JournalAtRest, *, with_uploads: bool) -> Removal:
    if journal.in_use:
        return "in use"
    if journal.problem:
        return "no journal"
    return "open uploads" if journal.uploads_total and not with_uploads else "removed"


def _url(journal: JournalAtRest) -> str:
    assert journal.identity is not None
    return f"s3://{journal.identity.bucket}/{journal.identity.prefix}"


def _place(url: str) -> str:
    return f"s3://{url[5:].strip('/')}" if url.lower().startswith("s3://") else url


def _receipts_in(folder: str) -> Iterator[ReceiptAtRest]:
    try:
        with os.scandir(folder) as entries:
            files = [(e.stat().st_mtime, e.path) for e in entries if _RECEIPT.fullmatch(e.name) and e.is_file()]
    except OSError as error:
        raise ConfigError(f"The folder {folder!r} cannot be read: {error.strerror}; name another one.") from error
    for _, path in sorted(files, reverse=True)[:RECEIPTS_MAX]:
        if (receipt := _receipt(os.path.relpath(path))) is not None:
            yield receipt


def _receipt(path: str) -> ReceiptAtRest | None:
    """The receipt at `path`; None where it is none: other programs write JSON lines too."""
    try:
        manifest = read_manifest(path)
        end = manifest.end
        used_seconds = os.stat(path).st_mtime
    except (ConfigError, OSError):
        return None
    state: ReceiptState = "complete"
    if end is None:
        state = "running" if _is_locked(path) else "killed"
    elif end.interrupted:
        state = "interrupted"
    elif end.failures or end.planned:
        state = "failed"
    return ReceiptAtRest(path, used_seconds, manifest.header, end, state)


def _is_locked(path: str) -> bool:
    """Whether a run writes to it."""
    with open(path, "rb") as file:
        return not lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
