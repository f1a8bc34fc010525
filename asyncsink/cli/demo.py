"""`asyncsink demo`: the whole story on a server of its own, told in numbered lines, and checked while it is told."""

from __future__ import annotations

import filecmp
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from asyncsink.cli.output import Output
from asyncsink.cli.progress import transfer_display
from asyncsink.cli.running import SIGNALS, Interrupted, run_until_signalled
from asyncsink.config import Settings, parse_size
from asyncsink.errors import AsyncSinkError
from asyncsink.report.wording import count, duration, size

if TYPE_CHECKING:
    from asyncsink.devserver.seaweedfs import DevServer
    from asyncsink.report.report import Report

T = TypeVar("T")
BUCKET = "demo"
STEPS = 6
EPILOGUE = """
What this showed
  - A copy of every file is in S3, and a second one in a local directory, written from the same bytes in one pass.
  - Every object was sent with a checksum that the server computed too and repeated: that is "confirmed".
  - The manifest lists each object with its checksum; asyncsink verify proves later that all of them are still intact.
  - Running the same export again sends nothing: what is there with the same checksum is left alone. So a run that was
    interrupted is finished by the same command.
Next, on your own data
  asyncsink plan DIRECTORY s3://BUCKET/PREFIX                           shows what would be sent, and sends nothing
  asyncsink export DIRECTORY s3://BUCKET/PREFIX --manifest sent.jsonl   sends it
  asyncsink verify sent.jsonl                                           checks it
  asyncsink devserver                                                   a local S3 server, where you have no bucket yet"""


class _Broken(Exception):  # noqa: N818 - what the demo tells, not what a library raises
    """Something was not as promised."""


@dataclass(slots=True)
class _Story:
    """What the steps share.

    Attributes:
        folder: everything the demo writes is below it.
        outputs: the cohort, as DataSink's inputs.
    """

    output: Output
    server: DevServer
    folder: Path
    outputs: dict[str, list[str]] = field(default_factory=dict)
    told: int = 1

    @property
    def copies(self) -> Path:
        """The local copies."""
        return self.folder / "copies"

    @property
    def manifest(self) -> Path:
        """What the export records."""
        return self.folder / "sent.jsonl"

    def tell(self, text: str) -> None:
        """One numbered line."""
        self.told += 1
        self.output.say(f"[{self.told}/{STEPS}] {text}")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one step; a signal ends it in order.

        Raises:
            Interrupted: by a signal.
        """
        return run_until_signalled(lambda: work, lambda: None)

    def settings(self) -> Settings:
        """What the export is told: encryption, a local copy, a manifest, and DataSink's substitutions."""
        from asyncsink.options import parse_options

        return parse_options(
            f"s3://{BUCKET}/study",
            {
                "endpoint_url": self.server.endpoint_url,
                "region": self.server.environment["AWS_REGION"],
                "creds_path": self.folder / "credentials",
                "encrypt_bucket_keys": True,
                "local_copy": self.copies,
                "manifest": self.manifest,
                "substitutions": [("_subject_id_", "")],
            },
        )


def demo_command(subjects: int, large_file: str) -> int:
    """Tell the story and return the exit code: 0 where everything was as promised, 1 where something was not.

    Takes about a minute. Leaves neither files nor processes behind, also when a signal ends it (130, or 143 by SIGTERM).

    Args:
        subjects: of the cohort; each has 27 files.
        large_file: size of one more file.
    """
    output = Output()
    started = time.monotonic()
    try:
        large_file_bytes = parse_size(large_file, "--large-file")
        with _signals_raise(), tempfile.TemporaryDirectory(prefix="asyncsink-demo-") as folder:
            _tell_story(output, Path(folder), subjects, large_file_bytes)
    except Interrupted as stop:
        output.note("interrupted: the server is stopped, and the demo's files are removed")
        return stop.exit_code
    except _Broken as broken:
        output.note(f"asyncsink: error: {broken}")
        return 1
    except AsyncSinkError as error:
        output.error(error)
        return 2
    except Exception as error:  # noqa: BLE001 - a bug, told as one
        output.error(error)
        return 1
    output.say(f"{EPILOGUE}\n\nDone in {duration(time.monotonic() - started)}; the server and all files are gone again.")
    return 0


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Between the steps that run on an event loop, signals end the demo by an exception, so that it cleans up."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
