"""The manifest: what a run published, skipped and failed to publish, one JSON object per line (jsonlines.org).

    {"record": "run", …}                                  first line: what was run, see ManifestHeader
    {"record": "receipt" | "skip" | "failure" | "planned", …}     one per outcome, see asyncsink.model
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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import aiofiles
import aiofiles.threadpool.binary
import anyio
import anyio.to_thread

from asyncsink.errors import AsyncSinkError, ConfigError, DestinationFull, JournalError
from asyncsink.model import ConfirmedBy, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.paths import encoded_name
from asyncsink.report.manifest_file import PARTIAL, ManifestFiles, open_files, open_regular_descriptor
from asyncsink.report.outcomes import OutcomeLines, encoded, outcome_of, parse_checksum
from asyncsink.temporary import TemporaryDatabase
from asyncsink.value import dataclass

# -- Proofs in the manifests of earlier runs, by key: on disk, unless they are few, so that memory does not grow -------
# An object that is there already gets no new receipt: it rests on that of an earlier run. Its proof is carried over, so
# that a complete run loses nothing of the manifest that it replaces.

IN_MEMORY_MAX = 25_000
"""Proofs kept in memory: about 15 MB. More are kept in a database on disk."""
_TABLE = (
    "CREATE TABLE proof (key BLOB, file INTEGER, checksum TEXT, etag TEXT, version_id TEXT, attempts INTEGER,"
    " confirmed_by TEXT, PRIMARY KEY (key, file)) WITHOUT ROWID;"
)
_PROOFS = "SELECT file, checksum, etag, version_id, attempts, confirmed_by FROM proof WHERE key = ? ORDER BY file DESC"
EarlierProof = tuple[int, str, str, str, int, ConfirmedBy | Literal[""]]
"""A manifest's number, and its record of a key: checksum, etag, version_id, attempts and confirmed_by."""


def promise_of(record: object) -> Receipt | Skip | None:
    """The record, where it proves that an object is in its place: a receipt, or a skip of an existing object. Pure."""
    return record if isinstance(record, Receipt) or (isinstance(record, Skip) and record.already_there) else None


class EarlierProofs:
    """The proofs of earlier manifests. Methods block, and are for one thread at a time.

    They raise a JournalError where the temporary directory cannot hold the database.
    """

    def __init__(self) -> None:
        # By key, the latest manifest first; rows on disk are older.
        self._recent: dict[str, list[EarlierProof]] = {}
        self._disk: TemporaryDatabase | None = None

    def add(self, file: int, records: Iterable[object]) -> None:
        """Add the proofs among `records`; a higher number of `file` is a later manifest, and is added later.

        Raises:
            ConfigError: a record is malformed; the proofs before it are added.
        """
        for record in records:
            promise = promise_of(record)
            if promise is None:
                continue
            checksum = "" if promise.checksum is None else str(promise.checksum)
            proof = (file, checksum, promise.etag, promise.version_id, promise.attempts, promise.confirmed_by)
            proofs = self._recent.setdefault(promise.key, [])
            if proofs and proofs[0][0] == file:
                proofs[0] = proof
            else:
                proofs.insert(0, proof)
            if len(self._recent) > IN_MEMORY_MAX:
                self._store_recent()

    def carried(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The same outcomes; skips of existing objects have the proofs of the receipts on which they rest.

        A key that is published, or found in its place, is removed from the proofs of earlier manifests.
        """
        promises = [promise_of(outcome) for outcome in outcomes]
        found = self._taken([promise.key for promise in promises if promise is not None])
        return [
            _resting_on(promise, found.get(promise.key, ())) if isinstance(promise, Skip) else outcome
            for outcome, promise in zip(outcomes, promises, strict=True)
        ]

    def left(self) -> dict[int, int]:
        """The number of proofs of each manifest that were not carried over; manifests without any are omitted."""
        if self._disk is None:
            return dict(Counter(proof[0] for proofs in self._recent.values() for proof in proofs))
        rows = self._store_recent().rows("SELECT file, count(*) FROM proof GROUP BY file")
        return {int(file): int(number) for file, number in rows}

    def close(self) -> None:
        """Close the database."""
        if self._disk is not None:
            self._disk.close()

    def _taken(self, keys: Sequence[str]) -> dict[str, list[EarlierProof]]:
        """Remove and return the proofs of these keys, the latest manifest first."""
        if self._disk is None:
            return {key: self._recent.pop(key) for key in keys if key in self._recent}
        found: dict[str, list[EarlierProof]] = {}
        database = self._store_recent()
        with database.at_once():
            for key in keys:
                if rows := database.rows(_PROOFS, encoded_name(key)):
                    found[key] = cast("list[EarlierProof]", rows)
                    database.change("DELETE FROM proof WHERE key = ?", encoded_name(key))
        return found

    def _store_recent(self) -> TemporaryDatabase:
        """Move all proofs in memory to the disk."""
        if self._disk is None:
            self._disk = TemporaryDatabase("The receipts of earlier manifests", _TABLE)
        if self._recent:
            rows = [(encoded_name(key), *proof) for key, proofs in self._recent.items() for proof in proofs]
            with self._disk.at_once():
                self._disk.change_many("INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._recent.clear()
        return self._disk


def _is_of(skip: Skip, proof: EarlierProof) -> bool:
    """Whether an earlier proof is of the present object: the same ETag, or else the same checksum."""
    _, checksum, etag, *_ = proof
    if skip.etag and etag:
        return skip.etag == etag
    return skip.checksum is not None and str(skip.checksum) == checksum


def _resting_on(skip: Skip, proofs: Sequence[EarlierProof]) -> Skip:
    """The skip with the first proof of its object, or unchanged."""
    proof = next((each for each in proofs if _is_of(skip, each)), None)
    if proof is None:
        return skip
    _, checksum, etag, version_id, attempts, confirmed_by = proof
    return replace(
        skip,
        checksum=skip.checksum or (parse_checksum(checksum) if checksum else None),
        etag=skip.etag or etag,
        version_id=skip.version_id or version_id,
        attempts=attempts,
        confirmed_by=confirmed_by,
    )


# -- Writing and reading of manifests ----------------------------------------------------------------------------------

_HEADER_RECORD, _END_RECORD = "run", "end"
_END_BYTES_MAX = 4096
"""Bytes in which an end record has room."""
_KINDS: dict[type, str] = {Receipt: "receipts", Skip: "skips", Failure: "failures", Planned: "planned"}
_FULL = (errno.ENOSPC, errno.EDQUOT)
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
    asyncsink: str = field(default_factory=lambda: version("asyncsink"))
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


ManifestRecord = Outcome | ManifestEnd


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
                header, records = read_manifest(path)
                if header.place != self._header.place:
                    # It proves nothing about this destination, but must not be lost.
                    if any(map(promise_of, records)):
                        self._others.add(number)
                else:
                    self._earlier.add(number, records)
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


def _is_manifest(descriptor: int) -> bool:
    return _is_header(os.pread(descriptor, LINE_BYTES_MAX, 0).partition(b"\n")[0])


def _is_header(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("record") == _HEADER_RECORD


def read_manifest(path: str | os.PathLike[str]) -> tuple[ManifestHeader, Iterator[ManifestRecord]]:
    """Read a manifest as a stream, in constant memory. Blocking; the file is closed when the iterator ends.

    The iterator yields the outcomes in order, then a ManifestEnd. After a kill the end is missing, and an unfinished
    last line is omitted.

    Raises:
        ConfigError: the file cannot be read or is not a manifest (at once), or a line of it is malformed (while
            iterating); the message names the file and the line.
    """
    name = str(Path(path).absolute())
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
    return ManifestHeader(**{field: record[field] for field in known}), _records(name, lines)


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
            yield _end_of(record) if ended else outcome_of(record)
        except ValueError as error:
            raise ConfigError(f"{name!r}, line {number}: {error}.") from error


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
                except (ValueError, RecursionError) as error:
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX and number > 1:
                        return  # the writer was killed within this line
                    raise ConfigError(f"{name!r}, line {number}: expected a JSON object; {error}.") from error
                if not isinstance(record, dict):
                    raise ConfigError(f"{name!r}, line {number}: expected a JSON object.")
                yield number, record
    except FileNotFoundError as error:
        left = f"; an interrupted run left {name + PARTIAL!r}" if os.path.exists(name + PARTIAL) else ""
        raise ConfigError(f"The manifest {name!r} cannot be read: {error.strerror}{left}.") from error
    except OSError as error:
        raise ConfigError(f"The manifest {name!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The manifest's name {name!r} is none that a file can have ({error}).") from error
