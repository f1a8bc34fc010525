"""S3Grabber and the grab functions: the entry points for downloads from S3 into a directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Unpack

from asyncsink.download.options import parse_grab
from asyncsink.download.report import GrabReport
from asyncsink.download.run import run_grab
from asyncsink.engine.recording.events import Progress, TakesLines
from asyncsink.errors import ConfigError
from asyncsink.event_loops import run_to_end
from asyncsink.model import Event
from asyncsink.options.typed import GrabOptions, StrPath, with_options


class S3Grabber:
    """A checked grab that can run any number of times: identical files are not received again.

    grabber = S3Grabber("s3://bucket/raw", "data", template="sub-%s/func/.*", infields={"subject": ["01", "02"]})
    report = await grabber.run()
    """

    def __init__(self, source: StrPath, directory: StrPath, **options: Unpack[GrabOptions]) -> None:
        """See `grab` for the arguments. Nothing is requested before `run`.

        Raises:
            ConfigError: an option is wrong.
        """
        self._settings = parse_grab(source, directory, options)

    def __repr__(self) -> str:
        return f"<S3Grabber {self._settings.target.url} -> {self._settings.directory}>"

    async def run(
        self,
        *,
        observe: Callable[[Event], None] | None = None,
        recorded: TakesLines | None = None,
        progress: Progress | None = None,
    ) -> GrabReport:
        """Grab all files; see `grab` for the result and the errors.

        Args:
            observe: called with every event, on the event loop; it must return quickly.
            recorded: called with the lines of recorded outcomes; `observe` gets no outcomes but failures then.
            progress: counts for a display to poll.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError("asyncsink runs on asyncio; run it with asyncio, not with trio.") from None
        return await run_grab(self._settings, observe=observe, recorded=recorded, progress=progress)


S3Grabber.__doc__ = with_options(S3Grabber.__doc__, GrabOptions, "grab")


async def grab(source: StrPath, directory: StrPath, **options: Unpack[GrabOptions]) -> GrabReport:
    """Download objects from S3 into a directory, as S3DataGrabber does.

        report = await asyncsink.grab("s3://my-bucket/study", "data")
        report = await asyncsink.grab(
            "s3://my-bucket/study", "data", template="sub-*/func/*_bold.nii.gz", template_syntax="glob"
        )
        report.raise_for_failures()

    Args:
        source: "s3://bucket/prefix"; templates and paths are relative to it. Also a single object.
        directory: of the files; created where it is missing.
        options: help(asyncsink.GrabOptions) explains them. Without a template, all objects below the source are
            grabbed.

    Returns:
        A GrabReport, also where single objects failed; its `raise_for_failures()` raises then.

    Raises:
        ConfigError: an option is wrong; nothing was sent.
        SourceMissing: a template, or the source, matches no object, and raise_on_empty is True; nothing was received.
        TransferError: the bucket cannot be listed.

    On cancellation, complete files stay, and unfinished large ones in a hidden folder, where a later run resumes them.
    """
    return await S3Grabber(source, directory, **options).run()


def grab_sync(source: StrPath, directory: StrPath, **options: Unpack[GrabOptions]) -> GrabReport:
    """`grab` for synchronous code; inside a running event loop (Jupyter) it uses a thread of its own.

    KeyboardInterrupt cancels the grab, waits for its clean-up, and is raised.
    """
    return run_to_end(partial(grab, source, directory, **options))
