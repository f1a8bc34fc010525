"""`asyncsink devserver` and `demo`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from types import FrameType

import click

from asyncsink.cli.flags import Flag, command
from asyncsink.cli.output import Output
from asyncsink.errors import AsyncSinkError

DEFAULT_BUCKET = "results"


class _End(Exception):
    """A signal ended the server."""


def devserver_command(port: int, directory: str | None, buckets: list[str]) -> int:
    """Run a server until Ctrl-C, SIGTERM or SIGHUP, each of which is its normal end.

    Returns:
        0, or 1 where the server ends by itself, 2 where it cannot start.
    """
    from asyncsink.devserver.seaweedfs import DevServer

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # stopping is bounded in time, and must not be interrupted
        raise _End

    output = Output()
    for number in signals:
        signal.signal(number, end)
    try:
        with DevServer(directory=directory, port=port, buckets=buckets) as server:
            output.say(_welcome(server, directory, buckets[0]), exact=True)
            server.wait()
    except _End:
        output.note("stopped")
        return 0
    except AsyncSinkError as error:
        output.error(error)
        return 2
    output.note("asyncsink: error: The server ended by itself; start it again.")
    return 1


def _welcome(server: object, directory: str | None, bucket: str) -> str:
    """The greeting, which can be pasted into a shell as a whole."""
    from asyncsink.devserver.seaweedfs import DevServer

    assert isinstance(server, DevServer)
    kept = f"kept in {directory}" if directory is not None else "gone when the server stops"
    variables = [f"export {name}={shlex.quote(value)}" for name, value in server.environment.items()]
    return "\n".join(
        [
            f"# S3 server for development at {server.endpoint_url} (SeaweedFS), this machine only, plain HTTP.",
            f"# Its objects are {kept}. Ctrl-C stops it.",
            "# In another shell:",
            *variables,
            "# Then, for example:",
            f"# asyncsink export DIRECTORY s3://{bucket}/first-try",
        ]
    )


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    Flag(
        "--port",
        "Port on 127.0.0.1; 0, the default, is any free one.",
        metavar="N",
        type=int,
        default=0,
        everyday="port on 127.0.0.1",
    ),
    Flag(
        "--dir", "Keep the objects here; else they go with the server.", metavar="D", everyday="keep the objects here"
    ),
    Flag(
        "--bucket",
        "Bucket to create; repeatable (default results).",
        metavar="B",
        repeated=True,
        everyday="bucket to create (default results)",
    ),
    examples=(
        "devserver",
        "devserver --port 8333 --dir ./s3-data           # the objects stay",
        "devserver --bucket results --bucket raw",
    ),
)
def devserver(port: int, dir: str | None, bucket: Sequence[str]) -> int:  # noqa: A002 - as the help page has it
    """Run a real S3 server on this machine, for trying things out, until Ctrl-C."""
    return devserver_command(port, dir, list(bucket) or [DEFAULT_BUCKET])


@command(
    Flag("--nipype", "Workflows in Nipype instead, beside its DataSink.", everyday="workflows in Nipype"),
    Flag("--subjects", "How many.", metavar="N", type=click.IntRange(min=1), hidden=True),
    Flag("--large-file", "Its size.", metavar="SIZE", default="300MB", hidden=True),
    examples=("demo", "demo --nipype", "devserver    # the same server, for your own files"),
)
def demo(nipype: bool, subjects: int | None, large_file: str) -> int:
    """Show the whole story on a small cohort and a server of its own, in half a minute.

    Needs 1 GB of free space for temporary files, and leaves nothing behind.
    """
    if nipype:
        from asyncsink.cli.commands.trying.nipype_study import demo_nipype_command

        return demo_nipype_command(subjects or 4)
    from asyncsink.cli.commands.trying.cohort import demo_command

    return demo_command(subjects or 12, large_file)
