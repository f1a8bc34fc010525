"""`asyncsink devserver`."""

from __future__ import annotations

import shlex
import signal
from types import FrameType

from asyncsink.cli.output import Output
from asyncsink.errors import AsyncSinkError

DEFAULT_BUCKET = "results"


class _End(Exception):
    """A signal asked for the end."""


def devserver_command(port: int, directory: str | None, buckets: list[str]) -> int:
    """Run a server until Ctrl-C, SIGTERM or SIGHUP, which are its normal end.

    Returns:
        0, or 1 where the server ends by itself, 2 where it cannot start.
    """
    from asyncsink.devserver.seaweedfs import DevServer

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # stopping is bounded, and is not to be interrupted
        raise _End

    output = Output()
    for number in signals:
        signal.signal(number, end)
    try:
        with DevServer(directory=directory, port=port, buckets=buckets) as server:
            output.say(_welcome(server, directory, buckets[0]))
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
    """A text that may be pasted into a shell as a whole."""
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
