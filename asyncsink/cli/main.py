"""The entry point of the `asyncsink` command.

Exit codes: 0 all published or already there; 1 something was not; 2 wrong usage or configuration, nothing was sent;
130 interrupted (SIGINT), 143 and 129 where it was SIGTERM or SIGHUP.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` are those of the process unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _fill_standard_streams()
    # Looking for garbage among modules that are just being imported takes a fifth of a short run; the command's own
    # part begins with the collector on (cli/running.py).
    gc.disable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character of a file's name must not end the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from asyncsink.cli.app import run_app  # here, so that Ctrl-C while it is imported is an orderly end too

        return run_app(given)
    except KeyboardInterrupt:
        print("asyncsink: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - what no command has told by itself
        from asyncsink.cli.output import Output

        Output(verbose="--verbose" in given).error(error)
        return 1
    finally:
        gc.enable()


def _fill_standard_streams() -> None:
    """Open what the process was started without: else a socket takes the number, and libuv aborts when it is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


if __name__ == "__main__":
    sys.exit(main())
