"""The entry point of the `asyncsink` command.

Exit codes: 0 all published or already there; 1 something was not; 2 wrong usage or configuration, nothing was sent;
130 interrupted (SIGINT), 143 and 129 where it was SIGTERM or SIGHUP.
"""

from __future__ import annotations

import gc
import io
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from asyncsink.options.settings import VERSION
from asyncsink.paths import IS_UTF8

OPEN_FILES = 8192
"""Open files that the process asks for: enough for 1,024 requests in flight, with their files."""
ADDRESS_SPACE_MIB_MIN = 120
"""Least address space in MiB: with less, Python ends anywhere, seldom with an error that has the reason, or the library
of checksums aborts it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` are those of the process unless given."""
    _fill_standard_streams()
    if arguments is None and not (IS_UTF8 or sys.flags.utf8_mode):
        return _start_in_utf8_mode()
    if (told := _too_little_memory()) is not None:
        print(told, file=sys.stderr)
        return 2
    _allow_open_files()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Garbage collection during the imports takes a fifth of a short run; `run_until_signalled` in cli/signals.py turns
    # the collector on again.
    gc.disable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character of a file's name must not end the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    if given in (["--version"], ["-V"]):  # asked for by scripts and bug reports; needs no parser
        print(f"asyncsink {VERSION}")
        return 0
    try:
        _load_what_threads_end_with()
        from asyncsink.cli.app import run_app  # here, so that Ctrl-C during the import ends in order too

        return run_app(given)
    except KeyboardInterrupt:
        print("asyncsink: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # A help page or a list whose reader (head, a pager) has read enough: what ran has its own handling.
        from asyncsink.cli.printer import discard

        discard(sys.stdout)
        return 0
    except Exception as error:  # noqa: BLE001 - an error that no command has reported
        from asyncsink.cli.output import Output

        Output(verbose=not {"--verbose", "-v", "-vv"}.isdisjoint(given)).error(error)
        return 1
    finally:
        gc.enable()


def _allow_open_files() -> None:
    """Raise the soft limit of open files as far as the hard limit allows, up to `OPEN_FILES`: it is low for the sake of
    programs that use select(2), and a distant server needs many connections. The library never changes the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):  # then the run goes on with fewer, with a notice where they are too few
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _too_little_memory() -> str | None:
    """The error where the limit of the address space is too low to begin a run, or None."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most >= ADDRESS_SPACE_MIB_MIN << 20:
        return None
    return (
        f"asyncsink: error: This process may use {most >> 20} MiB of address space, and needs {ADDRESS_SPACE_MIB_MIN} "
        "at the least; raise `ulimit -v`, or the limit of the job."
    )


def _load_what_threads_end_with() -> None:
    """Where memory is limited, load the library that the C library loads when a thread ends (pthread_exit(3)): without
    memory for it then, the C library aborts the process."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        import ctypes

        with suppress(OSError):  # another C library has no such file
            ctypes.CDLL("libgcc_s.so.1")


def _start_in_utf8_mode() -> int:
    """Start this process anew in Python's UTF-8 mode: names on the command line, on disk and in the output are UTF-8
    then, as keys are, in any locale. Returns only where that is not possible."""
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
    except OSError:
        words = [os.fsencode(word) for word in sys.orig_argv[1:]]
    try:
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *words])  # noqa: S606 - this program
    except (OSError, ValueError) as error:
        print(
            f"asyncsink: the locale's encoding is {sys.getfilesystemencoding()}, and names of files are UTF-8; Python "
            f"cannot be started in UTF-8 mode ({error}); set PYTHONUTF8=1, or LC_ALL to a UTF-8 locale.",
            file=sys.stderr,
        )
        return 2


def _fill_standard_streams() -> None:
    """Open the standard streams that are closed: else a socket takes the number, and libuv aborts when that is
    closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one


if __name__ == "__main__":
    sys.exit(main())
