"""`asyncsink demo`: the main features on a server of its own, in numbered lines, each of them checked."""

from __future__ import annotations

import asyncio
import filecmp
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncsink.cli.output import Output
from asyncsink.cli.screen.display import progress_display
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.values import parse_size
from asyncsink.report.sentences import count, duration, size

if TYPE_CHECKING:
    from asyncsink.devserver.seaweedfs import DevServer
    from asyncsink.report.report import Report


# -- The frame of a demo: an environment of its own, a temporary folder, and the exit code -----------------------------


class Broken(Exception):
    """A step of a demo had another result than expected."""


def tell_story(story: Callable[[Output, Path], Coroutine[Any, Any, None]], epilogue: str) -> int:
    """Run a demo and return its exit code: 0, 1 where a result was not as expected, 2, or 128 + a signal's number.

    Args:
        story: makes the demo's coroutine from an output and a folder of its own, which is removed afterwards.
        epilogue: printed after a success.
    """
    output = Output()
    started = time.monotonic()
    try:
        _forget_environment()
        with tempfile.TemporaryDirectory(prefix="asyncsink-demo-") as folder:
            run_until_signalled(lambda: story(output, Path(folder)))
    except Interrupted as stop:
        output.note("interrupted: the server is stopped, and the demo's files are removed")
        return stop.exit_code
    except Broken as broken:
        output.note(f"asyncsink: error: Not as promised: {broken}")
        return 1
    except AsyncSinkError as error:
        output.error(error)
        return 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error)
        return 1
    output.say(
        f"{epilogue}\n\nDone in {duration(time.monotonic() - started)}. The server and all files are gone again."
    )
    return 0


def _forget_environment() -> None:
    """Remove variables from the environment, since the user's profile, credentials or proxy must not affect the
    demo."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, no_proxy="127.0.0.1")


# -- The demo of the command -------------------------------------------------------------------------------------------

Outputs = dict[str, list[str]]
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
  asyncsink plan DIRECTORY s3://BUCKET/PREFIX                           shows what would be sent
  asyncsink export DIRECTORY s3://BUCKET/PREFIX --manifest sent.jsonl   sends it
  asyncsink verify sent.jsonl                                           checks it
  asyncsink devserver                                                   a local S3 server, if you have no bucket yet"""


def demo_command(subjects: int, large_file: str) -> int:
    """Run the demo and return the exit code: 0 where every result was as expected, else 1.

    Leaves neither files nor processes behind, also when a signal ends it (130, or 143 by SIGTERM). A step that cannot
    be interrupted ends first.

    Args:
        subjects: number of the cohort's subjects, of 27 files each.
        large_file: size of one more file.
    """

    def story(output: Output, folder: Path) -> Coroutine[Any, Any, None]:
        return _Story(output, folder).tell_all(subjects, parse_size(large_file, "--large-file"))

    return tell_story(story, EPILOGUE)


class _Story:
    """The steps, each of which leaves something for the next."""

    def __init__(self, output: Output, folder: Path) -> None:
        self._output = output
        self._folder = folder
        self._copies = folder / "copies"
        self._manifest = folder / "sent.jsonl"
        self._steps_told = 0

    async def tell_all(self, subjects: int, large_file_bytes: int) -> None:
        """Run all steps in order.

        Raises:
            Broken: a result was not as expected.
            AsyncSinkError: a step failed.
        """
        from asyncsink.devserver.seaweedfs import DevServer

        # Starting, building and comparing block the event loop, since nothing else has to run meanwhile.
        with DevServer(buckets=(BUCKET,)) as server:
            self._tell("Started an S3 server (SeaweedFS) for this demo only, on 127.0.0.1, with an empty bucket.")
            await asyncio.sleep(0)
            outputs = self._build(subjects, large_file_bytes)
            await asyncio.sleep(0)
            settings = self._settings(server)
            first = await self._publish(outputs, settings)
            await self._verify(settings)
            self._compare(first)
            await self._publish_again(outputs, settings)

    def _tell(self, text: str) -> None:
        self._steps_told += 1
        self._output.say(f"[{self._steps_told}/{STEPS}] {text}")

    def _build(self, subjects: int, large_file_bytes: int) -> Outputs:
        from asyncsink.testing.studies.cohort import build_cohort

        outputs = build_cohort(self._folder / "cohort", subjects=subjects, large_file_bytes=large_file_bytes)
        sizes = [path.stat().st_size for path in (self._folder / "cohort").rglob("*") if path.is_file()]
        self._tell(
            f"Built a small neuroimaging cohort, as a workflow leaves it: {count(subjects, 'subject')}, "
            f"{count(len(sizes), 'file')}, {size(sum(sizes))}, the largest file {size(max(sizes))}."
        )
        return outputs

    def _settings(self, server: DevServer) -> Settings:
        """The settings of the export: encryption, a local copy, a manifest, and DataSink's substitutions."""
        from asyncsink.options.parse import parse_options

        credentials = self._folder / "credentials"
        credentials.touch(0o600)
        credentials.write_text(f"AWSAccessKeyId={server.access_key_id}\nAWSSecretKey={server.secret_access_key}\n")
        return parse_options(
            f"s3://{BUCKET}/study",
            {
                "endpoint_url": server.endpoint_url,
                "region": server.environment["AWS_REGION"],
                "creds_path": credentials,
                "encrypt_bucket_keys": True,
                "local_copy": self._copies,
                "manifest": self._manifest,
                "substitutions": [("_subject_id_", ""), ("_contrast_", "contrast-")],
            },
        )

    async def _export(self, outputs: Outputs, settings: Settings) -> Report:
        from asyncsink.engine.export import run_source
        from asyncsink.engine.recording.events import Progress
        from asyncsink.sources.outputs import OutputsSource

        progress = Progress()
        title, opening = f"the cohort → {settings.target.url}", "looking at the cohort…"
        with progress_display(title, opening, progress, output=Output()):
            report = await run_source(settings, OutputsSource(outputs, symlinks="follow"), progress=progress)
        for failure in report.failures:
            raise Broken(f"{failure.source} was not published: {failure.message}")
        return report

    async def _publish(self, outputs: Outputs, settings: Settings) -> Report:
        report = await self._export(outputs, settings)
        proofs = report.as_dict()["confirmed_by"]
        if proofs != {"server-checksum": report.objects_uploaded}:
            raise Broken(f"expected every object to be confirmed by the server's checksum, found {proofs}.")
        rate = size(report.bytes_uploaded / max(report.elapsed_seconds, 1e-9))
        self._tell(
            f"Published {count(report.objects_uploaded, 'object')} ({size(report.bytes_uploaded)}) in "
            f"{duration(report.elapsed_seconds)}, {rate}/s: encrypted by the server, each confirmed by its checksum, "
            f"{count(report.retries, 'request')} repeated; and a local copy of each."
        )
        return report

    async def _verify(self, settings: Settings) -> None:
        from asyncsink.engine.recording.events import Progress
        from asyncsink.maintenance.verify import verify_manifest

        assert isinstance(settings.target, S3Target)
        progress = Progress()
        options = {"creds_path": settings.target.creds_path, "endpoint_url": settings.target.endpoint_url}
        title, opening = f"verify {self._manifest}", "reading the manifest…"
        with progress_display(title, opening, progress, noun="object", output=Output()):
            report = await verify_manifest(self._manifest, read_back=True, options=options, progress=progress)
        if not report.ok or report.confirmed_by != {"read-back": report.checked}:
            raise Broken(f"expected every object to be read back intact. {report.summary()}")
        self._tell(
            f"Downloaded all {count(report.checked, 'object')} again: every one has exactly the bytes of the manifest."
        )

    def _compare(self, report: Report) -> None:
        compared = 0
        for receipt in report.receipts:
            if not receipt.local_copy or not filecmp.cmp(receipt.source, receipt.local_copy, shallow=False):
                raise Broken(f"the local copy of {receipt.source} differs from it.")
            compared += 1
        self._tell(f"Compared {count(compared, 'local file')} with the originals: equal, byte for byte.")

    async def _publish_again(self, outputs: Outputs, settings: Settings) -> None:
        report = await self._export(outputs, settings)
        if report.bytes_uploaded or report.objects_uploaded:
            raise Broken(f"expected the second run to send nothing; it sent {size(report.bytes_uploaded)}.")
        self._tell(
            f"Ran the same export again: {size(report.bytes_uploaded)} sent, all "
            f"{count(report.objects_skipped, 'object')} found unchanged, in {duration(report.elapsed_seconds)}."
        )
