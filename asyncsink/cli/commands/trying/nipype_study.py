"""`asyncsink demo --nipype`: workflows publish to S3 and continue from there, compared with Nipype's own DataSink."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from asyncsink.cli.commands.trying.cohort import Broken, tell_story
from asyncsink.cli.output import Output
from asyncsink.errors import ConfigError
from asyncsink.report.sentences import count, size

BUCKET = "demo"
STEPS = 6
EPILOGUE = """
What this showed
  - asyncsink.adapters.nipype.DataSink takes the inputs of Nipype's DataSink and publishes under the same keys.
  - S3DataGrabber gives the next workflow what the first one published, bit for bit, and grabs nothing twice.
Next, in your own workflow
  from asyncsink.adapters.nipype import DataSink, S3DataGrabber           in place of those in nipype.interfaces.io
  asyncsink.adapters.nipype.install()                                     where code cannot be edited"""


def demo_nipype_command(subjects: int) -> int:
    """Run the demo with `subjects` subjects and return the exit code, as `asyncsink demo` does."""

    def story(output: Output, folder: Path) -> Coroutine[Any, Any, None]:
        return _Story(output, folder).tell_all(subjects)

    return tell_story(story, EPILOGUE)


class _Story:
    """The steps, each of which leaves something for the next. Each blocks, since nothing else has to run meanwhile."""

    def __init__(self, output: Output, folder: Path) -> None:
        self._output = output
        self._folder = folder
        self._steps_told = 0
        self._subjects: list[str] = []

    async def tell_all(self, subjects: int) -> None:
        """Run all steps in order.

        Raises:
            Broken: a result was not as expected.
            ConfigError: Nipype, nibabel or SeaweedFS is not installed.
        """
        from asyncsink.devserver.seaweedfs import DevServer

        _prepare_nipype(self._folder / "nipype")
        with DevServer(buckets=(BUCKET,)) as server:
            # Nipype's own DataSink takes a server from the environment only.
            os.environ |= {**server.environment, "AWS_ENDPOINT_URL": server.endpoint_url}
            self._tell("Started an S3 server (SeaweedFS) for this demo only, on 127.0.0.1, with an empty bucket.")
            await asyncio.sleep(0)
            self._make_images(subjects)
            for plugin in ("Linear", "MultiProc"):
                await asyncio.sleep(0)
                computed = self._publish(plugin)
                await asyncio.sleep(0)
                self._go_on(plugin, computed)

    def _tell(self, text: str) -> None:
        self._steps_told += 1
        self._output.say(f"[{self._steps_told}/{STEPS}] {text}")

    def _make_images(self, subjects: int) -> None:
        from asyncsink.testing.studies.nipype_study import make_raw_images

        self._subjects = make_raw_images(self._folder, subjects)
        self._tell(f"Made compressed 4D images of {count(subjects, 'subject')}, as a scanner's export leaves them.")

    def _in_s3(self, prefix: str) -> dict[str, bytes]:
        """The objects below a prefix, by the rest of their keys."""
        from asyncsink.grabber import grab_sync

        place = self._folder / "read-back" / prefix
        grab_sync(f"s3://{BUCKET}/{prefix}", place).raise_for_failures()
        return _files_below(place)

    def _publish(self, plugin: str) -> list[bytes]:
        """Run the first workflow; returns the bytes that it computed."""
        from asyncsink.adapters.nipype import DataSink
        from asyncsink.adapters.nipype_datasink import NipypeDataSink
        from asyncsink.testing.studies import nipype_study as study

        place = self._folder / plugin
        sinks = {
            name: kind(base_directory=f"s3://{BUCKET}/{plugin}/{name}", local_copy=str(place / name))
            for name, kind in (("asyncsink", DataSink), ("nipype", NipypeDataSink))
        }
        workflow = study.publishing_workflow(place, self._folder / "raw", self._subjects, sinks)
        computed = study.contents(study.computed_files(_run(workflow, plugin)))
        ours, theirs = (self._in_s3(f"{plugin}/{name}") for name in sinks)
        if not ours or ours != theirs:
            raise Broken(f"the objects differ from those of Nipype's DataSink; keys: {sorted(ours.keys() ^ theirs)}.")
        if sorted(ours.values()) != computed or any(_files_below(place / name) != ours for name in sinks):
            raise Broken("the objects, or the local copies, are not what was computed.")
        self._tell(
            f"{plugin}: Gunzip, TSNR, a mask and a report for each subject, published by asyncsink's DataSink and by "
            f"Nipype's own: the same {count(len(ours), 'object')}, and the same local copies."
        )
        return computed

    def _go_on(self, plugin: str, computed: list[bytes]) -> None:
        from asyncsink.adapters.nipype import DataSink, S3DataGrabber
        from asyncsink.testing.studies import nipype_study as study

        prefix, place = f"{plugin}/asyncsink", self._folder / plugin / "grabbed"
        grabber = S3DataGrabber(infields=["subject"], outfields=list(study.FIELDS))
        grabber.inputs.trait_set(bucket=BUCKET, bucket_path=prefix, local_directory=str(place))
        sink = DataSink(base_directory=f"s3://{BUCKET}/{prefix}", parameterization=False)
        workflow = study.group_workflow(self._folder / plugin, self._subjects, grabber, sink)
        grabbed = study.contents(study.grabbed_files(_run(workflow, plugin)))
        if not grabbed or any(content not in computed for content in grabbed):
            raise Broken("what was grabbed is not what was computed.")
        grabber.inputs.subject = self._subjects
        grabber.run()
        if grabber.report is None or grabber.report.objects_fetched or not grabber.report.skips:
            raise Broken("what was here already was grabbed again.")
        self._tell(
            f"{plugin}: a second workflow grabbed {count(len(grabbed), 'object')} "
            f"({size(sum(map(len, grabbed)))}) from S3, bit for bit what the first one computed, "
            "and published a table. Asked again, nothing was received: all was here."
        )


def _prepare_nipype(folder: Path) -> None:
    """Import Nipype without its look-up of the newest version and without the user's settings; it logs warnings only.

    Raises:
        ConfigError: Nipype is not installed.
    """
    os.environ |= {"NO_ET": "1", "NIPYPE_NO_ET": "1", "NIPYPE_CONFIG_DIR": str(folder)}
    try:
        import asyncsink.adapters.nipype  # noqa: F401 - it says in words what is missing
    except ImportError as error:
        raise ConfigError(str(error)) from error
    from nipype import config, logging

    config.update_config({"logging": dict.fromkeys(("workflow_level", "interface_level", "utils_level"), "WARNING")})
    logging.update_logging(config)


def _run(workflow: Any, plugin: str) -> Any:
    from asyncsink.testing.studies.nipype_study import MULTIPROC

    with _silence():
        return workflow.run(plugin=plugin, plugin_args=MULTIPROC if plugin == "MultiProc" else {})


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard stdout: Nipype's own DataSink writes a percentage for each file (rule 33), in the workers' processes
    too."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _files_below(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
