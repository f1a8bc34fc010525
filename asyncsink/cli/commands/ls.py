"""`asyncsink ls`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.report.sentences import count, inert, size

if TYPE_CHECKING:
    from asyncsink.download.objects import FolderEntry, ObjectEntry

JSON_MEMORY_BYTES = 1 << 20


class Listed:
    """What was listed so far: each entry goes out at once, and with --json to a temporary file, since the totals are
    known at the end."""

    def __init__(self, source: str, output: Output, kept: IO[str], *, match: str = "") -> None:
        self.source = source
        self._match = match
        self.objects_total = self.bytes_total = 0
        self._output = output
        self._kept = kept
        self._stdout = _stdout()

    @property
    def wanted(self) -> bool:
        """Whether stdout still has a reader: not after `head` has ended."""
        return self._stdout == _stdout()

    def add(self, entry: ObjectEntry | FolderEntry) -> None:
        """Count an entry, and show it."""
        objects = getattr(entry, "objects_total", 1)
        self.objects_total += objects
        self.bytes_total += entry.size_bytes
        if self._output.json:
            told = {
                name: getattr(entry, name)
                for name in ("key", "size_bytes", "etag", "objects_total")
                if hasattr(entry, name)
            }
            told["modified"] = entry.modified.astimezone(UTC).isoformat() if entry.modified is not None else None
            self._kept.write(json.dumps(told) + "\n")
            return
        inside = f"  ({count(objects, 'object')})" if hasattr(entry, "objects_total") else ""
        self._output.say(
            inert(f"{_date(entry.modified):16}  {size(entry.size_bytes):>11}  {entry.key}{inside}"), exact=True
        )

    def json_object(self, **more: Any) -> None:
        """Print the one object, with --json."""
        values = {"source": self.source, "objects_total": self.objects_total, "bytes_total": self.bytes_total}
        if self._output.json:
            self._kept.seek(0)
            self._output.json_object({**values, **more}, long="entries", items=map(json.loads, self._kept))

    @property
    def sentence(self) -> str:
        """The totals."""
        if not self.objects_total:
            if self._match:
                return inert(f"Nothing below {self.source} matches {self._match!r}.")
            return f"There is nothing below {inert(self.source)}."
        return f"{count(self.objects_total, 'object')}, {size(self.bytes_total)}, below {inert(self.source)}."


def ls_command(source: str, given: Mapping[str, Any], *, match: str | None, recursive: bool, output: Output) -> int:
    """List, print the totals, and return the exit code: 1 where there is nothing."""
    with tempfile.SpooledTemporaryFile(JSON_MEMORY_BYTES, "w+", encoding="ascii") as kept:
        listed = Listed(source, output, kept, match=match or "")
        try:
            options = options_of(given)
            run_until_signalled(lambda: _list(listed, options, match=match, recursive=recursive))
        except (Interrupted, KeyboardInterrupt) as stop:
            output.note(f"Interrupted: {listed.sentence}")
            listed.json_object(interrupted=True)
            return getattr(stop, "exit_code", 130)
        except AsyncSinkError as error:
            output.error(error, {"source": source, "objects_total": listed.objects_total})
            return 1 if listed.objects_total else 2
        except Exception as error:  # noqa: BLE001 - a bug, reported as one
            output.error(error, {"source": source, "objects_total": listed.objects_total})
            return 1
        listed.json_object(interrupted=False)
        (output.say if listed.objects_total else output.note)(listed.sentence)
        if not listed.objects_total:
            from asyncsink.cli.foreign_words import pattern_hint

            if hint := pattern_hint("ls", source):
                output.note(f"  {hint}")
        return 0 if listed.objects_total else 1


async def _list(listed: Listed, options: Mapping[str, Any], *, match: str | None, recursive: bool) -> None:
    whole = not recursive and match is None
    async with aclosing(_entries(listed.source, options, match=match, whole=whole)) as entries:
        async for entry in entries:
            listed.add(entry)
            if not listed.wanted:
                return
    parent, _, name = listed.source.rpartition("/")
    if listed.objects_total or match is not None or not name or parent.lower() in ("s3:/", "s3:"):
        return
    # Below "a" nothing is in a folder of that name: it may be an object, or the beginning of names.
    async with aclosing(_entries(parent, options, begins=name, whole=whole)) as entries:
        async for entry in entries:
            listed.add(entry)
            if not listed.wanted:
                return


async def _entries(
    source: str, options: Mapping[str, Any], *, match: str | None = None, begins: str = "", whole: bool
) -> AsyncGenerator[ObjectEntry | FolderEntry, None]:
    from asyncsink.download.objects import in_folders
    from asyncsink.reader import S3Reader

    async with S3Reader(source, **options) as reader:
        found = reader.list(begins, match)
        async for entry in in_folders(found) if whole else found:
            yield entry


def _date(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def _stdout() -> tuple[int, int] | None:
    """The file of stdout; once its reader has ended, it is another one (`printer.discard`)."""
    try:
        found = os.fstat(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


# -- The command line --------------------------------------------------------------------------------------------------


@command(
    Argument("SOURCE", "s3://bucket/prefix."),
    Flag(
        "--recursive",
        "List every object, instead of folders with their totals.",
        short="-r",
        everyday="every object, not folders with their totals",
    ),
    Flag(
        "--match",
        "List the objects whose keys below SOURCE match, such as '**/*.nii.gz'.",
        metavar="GLOB",
        everyday="only objects whose keys match: '**/*.nii.gz'",
    ),
    rows="ls",
    examples=(
        "ls s3://my-bucket/study",
        "ls s3://my-bucket/study -r > objects.txt",
        "ls s3://my-bucket/study --match 'sub-*/anat/*.nii.gz'",
    ),
)
def ls(source: str, recursive: bool, match: str | None, **given: Any) -> int:
    """List what is below SOURCE: folders with their totals, and objects, with sizes and dates.

    A thousand objects take one request. Exit code 1 where there is nothing.
    """
    return ls_command(source, given, match=match, recursive=recursive, output=output_of(given))
