"""The manifest: what a run published, skipped and failed to publish, one JSON object per line (jsonlines.org).

    {"record": "run", …}                                  first line: what was run, see ManifestHeader
    {"record": "receipt" | "skip" | "failure" | "planned", …}     one per outcome, see asyncsink.model
    {"record": "deletion", …}                             one per deleted extraneous object, see report/closing.py
    {"record": "end", …}                                  last line: see ManifestEnd; missing where a run was killed

A batch of outcomes is in the file before any of them is reported, so the file of a killed run is correct. It keeps the
name NAME.partial (see manifest_file.py); NAME is always the manifest of a run that was not interrupted, or of several
runs (see maintenance/merge.py).
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiofiles
import aiofiles.threadpool.binary
import anyio
import anyio.to_thread

from asyncsink.errors import AsyncSinkError, ConfigError, DestinationFull, JournalError
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip, promise_of
from asyncsink.options.settings import VERSION
from asyncsink.report.closing import Deletion
from asyncsink.report.earlier_proofs import EarlierProofs
from asyncsink.report.manifest_file import PARTIAL, ManifestFiles, open_files, open_regular_descriptor
from asyncsink.report.outcomes import OutcomeLines, encoded, outcome_of
from asyncsink.value import dataclass

R = TypeVar("R", Receipt, Skip, Failure)

_HEADER_RECORD, _DELETION_RECORD, _END_RECORD = "run", "deletion", "end"
_END_BYTES_MAX = 4096
"""Bytes in which an end record has room."""
_KINDS: dict[type, str] = {Receipt: "receipts", Skip: "skips", Failure: "failures", Planned: "planned"}
LINE_BYTES_MAX = 1 << 20
"""Longest record: S3 keys have 1,024 bytes, paths 4,096. It bounds memory where a file is not a manifest."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestHeader:
    """The first line, sufficient to find the objects again.

    Attributes:
        destination: "s3://bucket/prefix", or a directory.
        endpoint_url, region, addressing_style: as in S3Target; "" for a local destination.
        asyncsink: version of the writer.
        started: ISO 8601, UTC.
    """

    destination: str
    endpoint_url: str = ""
    region: str = ""
    addressing_style: str = ""
    asyncsink: str = VERSION
    started: str = field(default_factory=_now)

    @property
    def place(self) -> tuple[str, str]:
        """The server and the destination; manifests with the same place describe the same objects."""
        return self.endpoint_url.lower().rstrip("/"), self.destination.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEnd:
    """The last line: the run ended regularly.

    Attributes:
        receipts, skips, failures, planned: number of records of each kind.
        interrupted: the run was stopped before everything was tried.
        ended: ISO 8601, UTC.
    """

    receipts: int
    skips: int
    failures: int
    planned: int
    interrupted: bool
    ended: str = ""


ManifestRecord = Outcome | Deletion | ManifestEnd


# -- Reading -----------------------------------------------------------------------------------------------------------


def _is_manifest(descriptor: int) -> bool:
    return _is_header(os.pread(descriptor, LINE_BYTES_MAX, 0).partition(b"\n")[0])


def _is_header(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("record") == _HEADER_RECORD


class ReceiptManifest:
    """A receipt manifest: the outcomes of its run, in order, read from the file anew by each iteration.

    for record in asyncsink.read_manifest("study.jsonl"): ...       # Receipt | Skip | Failure | Planned
    sizes = {receipt.key: receipt.size_bytes for receipt in asyncsink.read_manifest("study.jsonl").receipts}

    Memory does not grow with the file. Iterating blocks; in a coroutine, do it in a thread. It raises a ConfigError,
    which names the file and the line, where a line is malformed. A last line that a kill has cut is left out.

    Attributes:
        path: absolute path of the file.
        header: its first line: where its run published to, when, and by which version.
    """

    def __init__(self, path: str, header: ManifestHeader) -> None:
        """See `read_manifest`."""
        self.path = path
        self.header = header

    def __repr__(self) -> str:
        return f"<ReceiptManifest {self.path!r} of {self.header.destination}>"

    def __iter__(self) -> Iterator[Outcome]:
        """The outcomes, without the end."""
        return (record for record in self.records() if not isinstance(record, ManifestEnd | Deletion))

    @property
    def receipts(self) -> RecordsOf[Receipt]:
        """The objects that the run published."""
        return RecordsOf(self, Receipt)

    @property
    def skips(self) -> RecordsOf[Skip]:
        """The objects that were there already, and what was left out."""
        return RecordsOf(self, Skip)

    @property
    def failures(self) -> RecordsOf[Failure]:
        """The objects that were not published, and the local copies that were not made."""
        return RecordsOf(self, Failure)

    @property
    def deletions(self) -> Iterator[Deletion]:
        """The extraneous objects that the run deleted."""
        return (record for record in self.records() if isinstance(record, Deletion))

    @property
    def end(self) -> ManifestEnd | None:
        """The last line; None where the run was killed, or goes on. Blocking.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            return read_end(self.path)
        except OSError as error:
            raise ConfigError(f"The manifest {self.path!r} cannot be read: {error.strerror}.") from error

    @property
    def complete(self) -> bool:
        """Whether the run tried everything: it has an end, and was not interrupted. Blocking."""
        end = self.end
        return end is not None and not end.interrupted

    def records(self) -> Iterator[ManifestRecord]:
        """The outcomes in order, then the end, where there is one."""
        return _records(self.path, _opened_lines(self.path)[1])


class RecordsOf(Generic[R]):
    """The records of one kind, read from the file anew by each iteration."""

    def __init__(self, manifest: ReceiptManifest, kind: type[R]) -> None:
        """The records of the class `kind`."""
        self._manifest = manifest
        self._kind: type[R] = kind

    def __repr__(self) -> str:
        return f"<{self._kind.__name__} records of {self._manifest.path!r}>"

    def __iter__(self) -> Iterator[R]:
        """Raises as the manifest."""
        return (record for record in self._manifest if isinstance(record, self._kind))


def read_manifest(path: str | os.PathLike[str]) -> ReceiptManifest:
    """Open a receipt manifest (`export --manifest`, `merge -o`), or the NAME.partial of an interrupted run. Blocking.

    Raises:
        ConfigError: the file cannot be read, or is not a receipt manifest.
    """
    name = str(Path(path).absolute())
    header, lines = _opened_lines(name)
    lines.close()
    return ReceiptManifest(name, header)


def _opened_lines(name: str) -> tuple[ManifestHeader, Generator[tuple[int, dict[str, Any]], None, None]]:
    """The header, and the lines after it."""
    lines = _lines(name)
    _, record = next(lines, (1, {}))
    if record.get("record") != _HEADER_RECORD:
        lines.close()
        raise ConfigError(f'{name!r}, line 1: expected the header of a manifest, {{"record": "run", …}}.')
    known = [field.name for field in fields(ManifestHeader)]
    missing = [field for field in known if not isinstance(record.get(field), str)]
    if missing:
        lines.close()
        raise ConfigError(f"{name!r}, line 1: the header has no {' and no '.join(missing)}, or not as a text.")
    return ManifestHeader(**{field: record[field] for field in known}), lines


def read_end(path: str) -> ManifestEnd | None:
    """The end record of a manifest, without its other lines; None where it has none. Blocking.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END_BYTES_MAX))
        line = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        record = json.loads(line)
        return _end_of(record) if isinstance(record, dict) and record.get("record") == _END_RECORD else None
    except ValueError:
        return None


def _records(name: str, lines: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[ManifestRecord]:
    ended = False
    for number, record in lines:
        if ended:
            raise ConfigError(f"{name!r}, line {number}: expected nothing after the end record.")
        try:
            ended = record.get("record") == _END_RECORD
            if record.get("record") == _DELETION_RECORD:
                yield _deletion_of(record)
            else:
                yield _end_of(record) if ended else outcome_of(record)
        except ValueError as error:
            raise ConfigError(f"{name!r}, line {number}: {error}.") from error


def _deletion_of(record: dict[str, Any]) -> Deletion:
    values = {each.name: record.get(each.name, each.default) for each in fields(Deletion)}
    for name, value in values.items():
        if type(value) is not (int if name == "size_bytes" else str):
            raise ValueError(f"{name} is missing, or has another kind of value")
    return Deletion(**values)


def _end_of(record: dict[str, Any]) -> ManifestEnd:
    counts = {kind: record.get(kind) for kind in _KINDS.values()}
    interrupted, ended = record.get("interrupted"), record.get("ended", "")
    if not isinstance(interrupted, bool) or not isinstance(ended, str):
        raise ValueError("the end record lacks 'interrupted' or 'ended'")  # noqa: TRY004 - it is the file that is wrong
    if not all(type(number) is int for number in counts.values()):
        raise ValueError(f"the end record lacks one of the counts {', '.join(counts)}")
    return ManifestEnd(**counts, interrupted=interrupted, ended=ended)  # type: ignore[arg-type]


def _lines(name: str) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """The number and JSON object of every line."""
    try:
        with open(open_regular_descriptor(name), "rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX and number > 1:
                        return  # the writer was killed within this line
                    record = None
                if not isinstance(record, dict):
                    raise ConfigError(
                        f"{name!r}, line {number}: this is no JSON object; expected the manifest of an export."
                    )
                yield number, record
    except FileNotFoundError as error:
        left = f"; an interrupted run left {name + PARTIAL!r}" if os.path.exists(name + PARTIAL) else ""
        raise ConfigError(f"The manifest {name!r} cannot be read: {error.strerror}{left}.") from error
    except OSError as error:
        raise ConfigError(f"The manifest {name!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The manifest's name {name!r} is none that a file can have ({error}).") from error


# -- Writing -----------------------------------------------------------------------------------------------------------

_FULL = (errno.ENOSPC, errno.EDQUOT)


class ManifestWriter:
    """Writer of one manifest, for one task at a time.

    Records go to NAME.partial, which is renamed to NAME when the run is complete. Every method is shielded from
    cancellation during I/O: a line is written whole or removed.

    Attributes:
        has_earlier: whether there are manifests of earlier runs, whose proofs `carried` uses.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: ManifestHeader,
        notice: Callable[[str], None] = lambda _: None,
        attempt: str = "",
    ) -> None:
        """Describe a manifest; nothing is written before `open`.

        Args:
            attempt: as in ManifestFiles.
            notice: called on the event loop with a sentence about files that stay beside the manifest.
        """
        self.path = str(Path(path).absolute())
        self.has_earlier = False
        self._header = header
        self._attempt = attempt
        self._notice = notice
        self._files: ManifestFiles | None = None
        self._file: aiofiles.threadpool.binary.AsyncFileIO | None = None
        self._end = 0
        self._counts: Counter[str] = Counter()
        self._earlier: EarlierProofs | None = None
        self._others: set[int] = set()

    async def open(self) -> None:
        """Create NAME.partial with mode 0600, lock it, write the header, and read the files of earlier runs: the
        manifest to be replaced, and the partial files of interrupted runs.

        Raises:
            ConfigError: the path is a directory, a stream or not a regular file, is not a manifest, is being written by
                another run, or cannot be written; nothing was changed.
            DestinationFull, JournalError: as `write`.
        """
        with anyio.CancelScope(shield=True):
            files = self._files = await anyio.to_thread.run_sync(open_files, self.path, _is_manifest, self._attempt)
            self._file = await aiofiles.open(files.descriptor, "wb", buffering=0)
        record = {"record": _HEADER_RECORD, **asdict(self._header)}
        try:
            await self._append(json.dumps(record).encode("ascii") + b"\n")
            await anyio.to_thread.run_sync(self._read_earlier, files)
        except BaseException:
            await self.withdraw()
            raise

    async def withdraw(self) -> None:
        """Remove what was written, restore what it replaced, and close the file. Harmless after `close`."""
        if self._file is None or self._files is None:
            return
        file, self._file = self._file, None
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._files.withdraw)
            finally:
                await file.close()
                if self._earlier is not None:
                    self._earlier.close()

    def _read_earlier(self, files: ManifestFiles) -> None:
        paths = [*([files.real] if files.replaces is not None else []), *files.left]
        if not paths:
            return
        self._earlier = EarlierProofs()
        for number, path in enumerate(paths):
            try:
                earlier = read_manifest(path)
                if earlier.header.place != self._header.place:
                    # It proves nothing about this destination, but must not be lost.
                    if any(map(promise_of, earlier)):
                        self._others.add(number)
                else:
                    self._earlier.add(number, earlier)
            except ConfigError:
                if os.path.lexists(path) and os.path.getsize(path):
                    self._others.add(number)  # damaged: its legible part may be needed
        self.has_earlier = True

    async def carried(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """The same outcomes; skips of existing objects have the proofs of the earlier receipts on which they rest."""
        if self._earlier is None:
            return outcomes
        return await anyio.to_thread.run_sync(self._earlier.carried, outcomes)

    async def write(self, outcomes: Sequence[Outcome] | OutcomeLines) -> None:
        """Append a batch, encoded or not.

        Raises:
            DestinationFull: the disk or quota is full (ENOSPC, EDQUOT); no outcome of the batch is in the file.
            JournalError: any other fault of the disk, likewise.
        """
        if not outcomes:
            return
        batch = outcomes if isinstance(outcomes, OutcomeLines) else encoded(outcomes)
        await self._append(batch.text)
        for run in batch.runs:
            self._counts[_KINDS[run.kind]] += run.count

    async def write_deletions(self, deletions: Sequence[Deletion]) -> None:
        """Append deletions; what earlier manifests prove of these objects holds no longer. Raises as `write`."""
        if self._earlier is not None:
            await anyio.to_thread.run_sync(self._earlier.drop, [deletion.key for deletion in deletions])
        lines = [json.dumps({"record": _DELETION_RECORD, **asdict(deletion)}) for deletion in deletions]
        await self._append("".join(f"{line}\n" for line in lines).encode("ascii"))

    async def close(self, *, interrupted: bool, merged: bool = False) -> None:
        """Write the last line and fsync the file; unless the run was interrupted, rename it to NAME. Harmless when
        repeated.

        A `merged` manifest is renamed in any case: its own run is complete, and `interrupted` is about those that it is
        made of.

        An interrupted run leaves NAME.partial and the manifest of the run before; one that recorded nothing restores
        the NAME.partial that it found.

        Raises:
            JournalError: the file was removed or replaced during the run, or as `write`.
            DestinationFull: as `write`. The file is closed all the same.
        """
        if self._file is None or self._files is None:
            return
        end = ManifestEnd(
            **{kind: self._counts[kind] for kind in _KINDS.values()}, interrupted=interrupted, ended=_now()
        )
        with anyio.CancelScope(shield=True):
            try:
                await self._append(json.dumps({"record": _END_RECORD, **asdict(end)}).encode("ascii") + b"\n")
                leave = self._leave if interrupted and not merged else self._complete
                for sentence in await anyio.to_thread.run_sync(leave, self._files, self._file.fileno()):
                    self._notice(sentence)
            except OSError as error:
                raise _disk_error(self.path, error) from error
            finally:
                file, self._file = self._file, None
                await file.close()
                if self._earlier is not None:
                    self._earlier.close()

    def _leave(self, files: ManifestFiles, descriptor: int) -> list[str]:
        """End an interrupted run; the sentences about its files."""
        if not self._counts.total() and (files.moved or files.attempt):
            files.withdraw()
            return []
        os.fsync(descriptor)
        if not files.is_ours():
            return [
                f"The manifest's file {files.partial!r} was removed or replaced while the run went on, so the receipts "
                "of this run are lost."
            ]
        done = f"The manifest of what this run did is {files.partial!r}"
        if files.replaces is None:
            return [f"{done}; the next run with the manifest {self.path!r} takes its receipts over."]
        return [f"{done}; {self.path!r} is that of the run before. The next run takes the receipts of both over."]

    def _complete(self, files: ManifestFiles, descriptor: int) -> list[str]:
        """Rename the manifest, and remove the files that it replaces; the sentences about those that have to stay."""
        os.fsync(descriptor)
        left = self._earlier.left() if self._earlier is not None else {}
        needed = self._others.union(left)
        first = 0 if files.replaces is None else 1
        kept = files.complete(keep=bool(first) and 0 in needed)
        sentences = []
        if kept:
            sentences.append(f"The manifest of an earlier run, which has receipts that this run's lacks, is {kept!r}.")
        for number, path in enumerate(files.left, first):
            if number in needed:
                sentences.append(f"What an interrupted run left has receipts that this run's manifest lacks: {path!r}.")
            else:
                files.remove(path)
        return sentences

    async def _append(self, data: bytes) -> None:
        if self._file is None:
            raise AssertionError("a manifest is opened before it is written, and not written after it was closed")
        with anyio.CancelScope(shield=True):
            try:
                rest = memoryview(data)
                while rest:  # an unbuffered write may write only a part
                    rest = rest[await self._file.write(rest) :]
            except OSError as error:
                await self._take_back(error)
                raise _disk_error(self.path, error) from error
            self._end += len(data)

    async def _take_back(self, error: OSError) -> None:
        """Remove a partly written batch: half a line would make all lines after it illegible."""
        if self._file is None:
            return
        try:
            await self._file.truncate(self._end)
            await self._file.seek(self._end)
        except OSError as second:
            error.add_note(f"Half a line may be left at its end: {second}")


def _disk_error(path: str, error: OSError) -> AsyncSinkError:
    if error.errno in _FULL:
        return DestinationFull(
            f"The manifest {path!r} cannot be written: {error.strerror}; free some space, or put it elsewhere.",
            operation="manifest",
        )
    return JournalError(f"The manifest {path!r} cannot be written: {error.strerror}; look at the disk it is on.")
