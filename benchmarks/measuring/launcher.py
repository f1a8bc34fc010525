"""Runs one command and measures it from outside; standard library only, run as a script.

    python -I -S launcher.py '{"command": […], "environment": {…}, "limit_seconds": 60, "output": "FILE"}'

Prints one JSON object: wall, CPU (user + system, by wait4: the command and the children it waited for), peak RSS of
the largest of these processes, exit status, and whether it was killed at the limit.

It is a process of its own because Linux counts the memory of the process that forked in the peak of its child: this
one stays at about 10 MB, which is the least that can be reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time


def main(order: str) -> None:
    """Run the command of `order` to its end or its limit."""
    given = json.loads(order)
    command, environment = given["command"], given["environment"]
    output = os.open(given["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    actions = [
        (os.POSIX_SPAWN_DUP2, nothing, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    stopped: list[int] = []
    started = time.perf_counter()
    child = os.posix_spawn(command[0], command, environment, file_actions=actions, setpgroup=0)

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, given["limit_seconds"])
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - started
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # whatever it left behind
    told = {
        "wall_seconds": wall,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "rss_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "exit_status": os.waitstatus_to_exitcode(status),
        "stopped_at_limit": signal.SIGALRM in stopped,
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
