"""The manifest: what a run published, skipped and failed to publish, one JSON object per line (jsonlines.org).

    {"record": "run", …}                                  first line: what was run, see ManifestHeader
    {"record": "receipt" | "skip" | "failure" | "planned", …}     one per outcome, see asyncsink.model
    {"record": "end", …}                                  last line: see ManifestEnd; missing where a run was killed

A batch of outcomes is in the file before any of them is reported, so what a killed run leaves behind is true. It is
left as NAME.partial (see manifest_file.py); what has the name NAME is of a run that was not interrupted.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.threadpool.binary
import anyio
import anyio.to_thread

from asyncsink.errors import AsyncSinkError, ConfigError, DestinationFull, JournalError
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.earlier import EarlierProofs, promise_of
from asyncsink.report.encoded import Encoded, encoded
from asyncsink.report.manifest_file import PARTIAL, ManifestFiles, open_files, open_regular
from asyncsink.report.records import outcome_of
from asyncsink.value import dataclass

_HEADER_RECORD, _END_RECORD = "run", "end"
_KINDS: dict[type, str] = {Receipt: "receipts", Skip: "skips", Failure: "failures", Planned: "planned"}
_FULL = (errno.ENOSPC, errno.EDQUOT)
LINE_BYTES_MAX = 1 << 20
"""No record is longer: S3 keys have 1,024 bytes, paths 4,096. It bounds memory where a file is no manifest."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestHeader:
    """The first line: enough to find the objects again.

    Attributes:
        destination: "s3://bucket/prefix", or a directory.
        endpoint_url, region, addressing_style: as in config.S3Target; "" for a local destination.
        asyncsink: the version that wrote it.
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
        """The server and the destination; manifests of one place speak of the same objects."""
        return self.endpoint_url.lower().rstrip("/"), self.destination.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEnd:
    """The last line: the run ended in order.

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
    """Writes one manifest. Not for concurrent use: one task writes.

    Records go to NAME.partial, which is renamed to NAME when the run is complete. Every method is shielded from
    cancellation while the disk is at work: a line is written whole or taken back.

    Attributes:
        has_earlier: whether there are manifests of earlier runs, from which `carried` takes proofs over.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: ManifestHeader, notice: Callable[[str], None] = lambda _: None
    ) -> None:
        """Describe a manifest; nothing is written before `open`.

        Args:
            notice: called, on the event loop, with a sentence about files that are left or kept beside the manifest.
        """
        self.path = str(Path(path).absolute())
        self.has_earlier = False
        self._header = header
        self._notice = notice
        self._files: ManifestFiles | None = None
        self._file: aiofiles.threadpool.binary.AsyncFileIO | None = None
        self._end = 0
        self._counts: Counter[str] = Counter()
        self._earlier: EarlierProofs | None = None
        self._others: set[int] = set()

    async def open(self) -> None:
        """Make NAME.partial, readable by its owner only (0600), lock it, write the header, and read what earlier runs
        have left: the manifest that will be replaced, and partial ones of interrupted runs.

        Raises:
            ConfigError: the path is a directory, a stream or no regular file, holds something that is no manifest, is
                being written by another run, or cannot be written; nothing was changed.
            DestinationFull, JournalError: as `write`.
        """
        with anyio.CancelScope(shield=True):
            files = self._files = await anyio.to_thread.run_sync(open_files, self.path, _is_manifest)
            file = self._file = await aiofiles.open(files.descriptor, "wb", buffering=0)
        record = {"record": _HEADER_RECORD, **asdict(self._header)}
        try:
            await self._append(json.dumps(record).encode("ascii") + b"\n")
            await anyio.to_thread.run_sync(self._read_earlier, files)
        except BaseException:
            self._file = None
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(files.withdraw)
                finally:
                    await file.close()
                    if self._earlier is not None:
                        self._earlier.close()
            raise

    def _read_earlier(self, files: ManifestFiles) -> None:
        paths = [*([files.real] if files.replaces is not None else []), *files.left]
        if not paths:
            return
        self._earlier = EarlierProofs()
        for number, path in enumerate(paths):
            try:
                header, records = read_manifest(path)
                if header.place != self._header.place:
                    # It proves nothing about this destination, and is not to be lost for all that.
                    if any(map(promise_of, records)):
                        self._others.add(number)
                else:
                    self._earlier.add(number, records)
            except ConfigError:
                if os.path.lexists(path) and os.path.getsize(path):
                    self._others.add(number)  # damaged: what can still be read from it may be needed
        self.has_earlier = True

    async def carried(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """The same outcomes; what is there already has the proofs of the receipt of an earlier run that it rests on."""
        if self._earlier is None:
            return outcomes
        return await anyio.to_thread.run_sync(self._earlier.carried, outcomes)

    async def write(self, outcomes: Sequence[Outcome] | Encoded) -> None:
        """Append a batch, which may be encoded already.

        Raises:
            DestinationFull: the disk or quota is full (ENOSPC, EDQUOT); no outcome of the batch is in the file.
            JournalError: any other fault of the disk, likewise.
        """
        if not outcomes:
            return
        batch = outcomes if isinstance(outcomes, Encoded) else encoded(outcomes)
        await self._append(batch.text)
        for run in batch.runs:
            self._counts[_KINDS[run.kind]] += run.count

    async def close(self, *, interrupted: bool) -> None:
        """Write the last line, and return when the whole file is on the disk (fsync) and, unless the run was
        interrupted, has the manifest's name. Twice is harmless.

        An interrupted run leaves NAME.partial, and the manifest of the run before as it was; one that recorded nothing
        leaves the NAME.partial that it found.

        Raises:
            JournalError: the file was removed or replaced while the run went on, or as `write`.
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
                leave = self._leave if interrupted else self._complete
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
        """End an interrupted run; the sentences about it."""
        if not self._counts.total() and files.moved:
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
        """Give the manifest its name, and remove what it replaces; the sentences about what has to be kept."""
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
                os.unlink(path)
        return sentences

    async def _append(self, data: bytes) -> None:
        if self._file is None:
            raise AssertionError("a manifest is opened before it is written, and not written after it was closed")
        with anyio.CancelScope(shield=True):
            try:
                rest = memoryview(data)
                while rest:  # an unbuffered write may take a part only
                    rest = rest[await self._file.write(rest) :]
            except OSError as error:
                await self._take_back(error)
                raise _disk_error(self.path, error) from error
            self._end += len(data)

    async def _take_back(self, error: OSError) -> None:
        """Remove what was written of a batch: half a line would make everything after it unreadable."""
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

    The iterator gives every outcome in order, then a ManifestEnd; where a run was killed there is none, and a line
    that was being written at that moment is left out.

    Raises:
        ConfigError: the file cannot be read or is no manifest (at once), or a line of it is malformed (while
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
    """Every line's number and JSON object."""
    try:
        with open(open_regular(name), "rb") as file:
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
