"""Stops a child process when its owner ends; standard library only, run as a script.

    python -I -S watchdog.py '{"command": […], "grace_seconds": 5, "directory": "…", "leftovers": ["…"]}'

Standard input is the lifeline: the owner holds its other end, which closes when the owner closes it, exits, crashes or
is killed (kill -9 included). The watchdog then stops the command (SIGTERM, after `grace_seconds` SIGKILL), removes
`directory` (unless "") and `leftovers`, and exits with the command's exit status. The same clean-up follows a command
that exits by itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # prctl(2)


def remove(directory: str, leftovers: Iterable[str]) -> None:
    """Remove a directory tree ("" for none) and single files; missing ones are no error.

    Raises:
        OSError: something cannot be removed.
    """
    for path in leftovers:
        Path(path).unlink(missing_ok=True)
    if directory and Path(directory).is_dir():
        shutil.rmtree(directory)


def _dies_with_me() -> Callable[[], None] | None:
    """The child's function between fork and exec: on Linux the kernel then kills it when the watchdog is killed.

    It is safe here, unlike in a library: the watchdog has one thread, which lives as long as the watchdog.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    watchdog = os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != watchdog:  # the watchdog ended before the line above
            os._exit(1)

    return tie


def _wait_for_an_end(server: subprocess.Popen[bytes], owner: int) -> None:
    # The parent's id is compared too: a process forked from the owner may hold the lifeline open after its end.
    while server.poll() is None and os.getppid() == owner:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1024):
            return


def _stop(server: subprocess.Popen[bytes], grace_seconds: float) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _leave(_number: int, _frame: object) -> None:
    sys.exit(0)


def main(order: str) -> int:
    """Run the command of `order` (JSON, see the module's docstring) until it or the owner ends."""
    options = json.loads(order)
    owner = os.getppid()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in signals:
        signal.signal(number, _leave)
    command: list[str] = options["command"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_dies_with_me())  # noqa: S603, PLW1509
    try:
        _wait_for_an_end(server, owner)
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        _stop(server, options["grace_seconds"])
        remove(options["directory"], options["leftovers"])
    status: int = server.returncode
    return abs(status)  # a negative status names the signal that ended it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
