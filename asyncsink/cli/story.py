"""The frame of a demo: an environment of its own, a folder that goes, and an exit code for how it ended."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from asyncsink.cli.output import Output
from asyncsink.cli.running import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.report.wording import duration


class Broken(Exception):
    """Something was not as promised."""


def tell_story(story: Callable[[Output, Path], Coroutine[Any, Any, None]], epilogue: str) -> int:
    """Run a demo and return its exit code: 0, 1 where something was not as promised, 2, or 128 + a signal's number.

    Args:
        story: makes the demo's coroutine from an output and a folder of its own, which is removed afterwards.
        epilogue: told where all went well.
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
    except Exception as error:  # noqa: BLE001 - a bug, told as one
        output.error(error)
        return 1
    output.say(
        f"{epilogue}\n\nDone in {duration(time.monotonic() - started)}. The server and all files are gone again."
    )
    return 0


def _forget_environment() -> None:
    """Nobody's own profile, credentials or proxy shall decide how the demo goes."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, no_proxy="127.0.0.1")
