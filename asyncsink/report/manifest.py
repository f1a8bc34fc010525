"""The manifest: what a run published, skipped and failed to publish, one JSON object per line (jsonlines.org).

    {"record": "run", …}                                  first line: what was run, see ManifestHeader
    {"record": "receipt" | "skip" | "failure" | "planned", …}     one per outcome, see asyncsink.model
    {"record": "end", …}                                  last line: see ManifestEnd; missing where a run was killed

A batch of outcomes is in the file before any of them is reported, so what a killed run leaves behind is true.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
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
from asyncsink.report.encoded import Encoded, encoded
from asyncsink.report.records import outcome_of

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

    Every method is shielded from cancellation while the disk is at work: a line is written whole or taken back.
    """

    def __init__(self, path: str | os.PathLike[str], header: ManifestHeader) -> None:
        """Describe a manifest; nothing is written before `open`."""
        self.path = str(Path(path).absolute())
        self._header = header
        self._file: aiofiles.threadpool.binary.AsyncFileIO | None = None
        self._end = 0
        self._counts: Counter[str] = Counter()

    async def open(self) -> None:
        """Create the file, readable by its owner only (0600), or empty the manifest that is there; write the header.

        Raises:
            ConfigError: the path is a directory or no regular file, holds something that is no manifest, or cannot be
                written; nothing was changed.
            DestinationFull, JournalError: as `write`.
        """
        with anyio.CancelScope(shield=True):
            descriptor = await anyio.to_thread.run_sync(_open_for_writing, self.path)
            file = self._file = await aiofiles.open(descriptor, "wb", buffering=0)
        record = {"record": _HEADER_RECORD, **asdict(self._header)}
        try:
            await self._append(json.dumps(record).encode("ascii") + b"\n")
        except BaseException:
            self._file = None
            with anyio.CancelScope(shield=True):
                await file.close()
            raise

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
        """Write the last line, and return when the whole file is on the disk (fsync). Twice is harmless.

        Raises:
            DestinationFull, JournalError: as `write`; the file is closed all the same.
        """
        if self._file is None:
            return
        end = ManifestEnd(
            **{kind: self._counts[kind] for kind in _KINDS.values()}, interrupted=interrupted, ended=_now()
        )
        with anyio.CancelScope(shield=True):
            try:
                await self._append(json.dumps({"record": _END_RECORD, **asdict(end)}).encode("ascii") + b"\n")
                await anyio.to_thread.run_sync(os.fsync, self._file.fileno())
            except OSError as error:
                raise _disk_error(self.path, error) from error
            finally:
                file, self._file = self._file, None
                await file.close()

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


def _open_for_writing(path: str) -> int:
    """A descriptor of the empty file, mode 0600. Blocking. Never waits on a FIFO, never empties a foreign file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"The manifest {path!r} cannot be created: {error.strerror}; give the name of a file in a directory that "
            "exists and that you may write to."
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"The manifest {path!r} is no regular file; give the name of a file.")
        start = os.pread(descriptor, LINE_BYTES_MAX, 0)
        if start and not _is_header(start.partition(b"\n")[0]):
            raise ConfigError(
                f"{path!r} exists and is no manifest, so it is left as it is; choose another name, or remove it first."
            )
        os.ftruncate(descriptor, 0)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"The manifest {path!r} cannot be written: {error.strerror}; choose another name.") from error
    except ConfigError:
        os.close(descriptor)
        raise
    return descriptor


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
        with Path(name).open("rb") as file:
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
    except OSError as error:
        raise ConfigError(f"The manifest {name!r} cannot be read: {error.strerror}.") from error
