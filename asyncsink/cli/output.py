"""What a command tells: results on stdout, everything else on stderr. With --json, stdout is exactly one object.

The object of a run is `Report.as_dict()` (of a check, `VerifyReport.as_dict()`); a plan adds "planned". A run that did
not end in order has the same names, with what is known until then, and, where an error ended it,
"error": {"type", "message", "problems"}. Texts for people name options as a command line does; JSON has the library's.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from asyncsink.errors import AsyncSinkError, DestinationFull
from asyncsink.options.schema import OPTIONS
from asyncsink.os_errors import shortage
from asyncsink.report.sentences import Cause, cause_lines, inert
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.cli.progress import Display
    from asyncsink.engine.recording.events import Progress

PROBLEMS_SHOWN = 10
FAILURES_SHOWN = 10

FLAGS = {name: option.switch for name, option in OPTIONS.items() if option.switch} | {
    "manifest_endpoint": "--manifest-endpoint"
}
"""Options of the library, and how a command line writes them."""

_PLAIN = re.compile(r"[\w:/@%+.,-]+")
_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


@cache
def _option() -> re.Pattern[str]:
    # Compiled by the first message that needs it: most runs have none.
    return re.compile(
        # A quoted text (a path, say) stays as it is, and so does what is part of a longer word, a path or a URL.
        rf"""(?<![\w=])(?:{_TEXT})(?!\w)
        | (?<![^\s(])(?P<name>{"|".join(sorted(FLAGS, key=len, reverse=True))})
          (?: \[\d+\] (?:=\((?P<pair>(?:{_TEXT}),\ (?:{_TEXT}))\))?
            | = (?P<value>{_TEXT}|[\w:/@%+.,-]*\w|…|) )
        | (?<![^\s(])(?P<bare>{"|".join(name for name in FLAGS if "_" in name)})(?![\w=/\[-]|\.\w)""",
        re.VERBOSE,
    )


def in_flags(text: str) -> str:
    """A message of the library in the words of a command line: on_missing='skip' is --on-missing skip there. Pure."""
    return _option().sub(_in_flags, text)


def _in_flags(found: re.Match[str]) -> str:
    name, value, pair = found["name"] or found["bare"], found["value"], found["pair"]
    if name is None:
        return found[0]
    flag = FLAGS[name]
    if pair is not None:
        return f"{flag} {pair.replace(', ', '=')}"
    if name == "sse" and value in ("", "…"):
        return f"{flag} file:KEY"
    if value is None or value in ("", "…", "True"):
        return flag
    if value == "False":
        return f"--no-{name}"
    plain = value.strip("'\"")
    return f"{flag} {plain if _PLAIN.fullmatch(plain) else value}"


@dataclass(frozen=True, slots=True)
class Output:
    """How much a command tells, and in which form.

    Attributes:
        json: one JSON object on stdout, nothing else there.
        quiet: no summary; errors, failures and notes only.
        verbose: a bug shows its traceback, and the log goes to stderr.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def say(self, text: str) -> None:
        """A result for a person, on stdout; nothing with --json or --quiet."""
        if not self.json and not self.quiet:
            _write(sys.stdout, f"{text}\n")

    def note(self, text: str) -> None:
        """A line beside the result, on stderr; nothing with --quiet."""
        if not self.quiet:
            _write(sys.stderr, f"{text}\n")

    def notice(self, text: str) -> None:
        """What a person should know although it is no failure, on stderr, always."""
        _write(sys.stderr, f"asyncsink: note: {inert(in_flags(text))}\n")

    def failures(
        self, lines: Iterable[str], total: int, *, more: str = "--json and --manifest list all of them"
    ) -> None:
        """The first lines of a list of `total`, on stderr, and how many more there are."""
        for line in islice(lines, FAILURES_SHOWN):
            _write(sys.stderr, f"  {inert(line)}\n")
        if total > FAILURES_SHOWN:
            _write(sys.stderr, f"  … and {total - FAILURES_SHOWN:,} more; {more}.\n")

    def causes(
        self, causes: list[Cause], *, noun: str = "file", more: str = "--json and --manifest list all of them"
    ) -> None:
        """What failed, grouped by cause, on stderr."""
        for line in cause_lines(causes, noun=noun, shown=FAILURES_SHOWN, word=in_flags):
            _write(sys.stderr, f"  {line}\n")
        failures = sum(cause.failures for cause in causes)
        if failures > sum(len(cause.examples) for cause in causes[:FAILURES_SHOWN]):
            _write(sys.stderr, f"  ({more}.)\n")

    def json_object(self, values: Mapping[str, Any], *, long: str = "", items: Iterable[Any] = ()) -> None:
        """The one object, with --json. `items` become the list named `long`, written one by one."""
        if not self.json:
            return
        text = json.dumps(values)
        if not long:
            _write(sys.stdout, text + "\n")
            return
        _write(sys.stdout, f'{text[:-1]}, "{long}": [')
        for number, item in enumerate(items):
            _write(sys.stdout, f"{', ' if number else ''}{json.dumps(item)}", flush=False)
        _write(sys.stdout, "]}\n")

    def error(self, error: BaseException, values: Mapping[str, Any] | None = None) -> None:
        """What ended the command, as one sentence on stderr, and as "error" with --json.

        Args:
            values: what else the JSON object says.
        """
        ours = isinstance(error, AsyncSinkError)
        message = str(error) if ours else _bug(error)
        first, *more = in_flags(message).split("\n")
        problems = [str(p) for p in getattr(error, "problems", ()) if p is not error]
        lines = [f"asyncsink: error: {inert(first)}", *(f"  {inert(line)}" for line in more)]
        lines += [f"  also: {inert(in_flags(problem))}" for problem in problems[:PROBLEMS_SHOWN]]
        _write(sys.stderr, "\n".join(lines) + "\n")
        if not ours and self.verbose:
            _write(sys.stderr, _inert_lines("".join(traceback.format_exception(error))))
        told = {"type": type(error).__name__, "message": message, "problems": problems}
        self.json_object({**(values or {}), "interrupted": False, "error": told})


def usage_error(message: str, hint: str, *, as_json: bool) -> None:
    """What is wrong with the words of a command line."""
    _write(sys.stderr, f"asyncsink: error: {inert(message)}\n{inert(hint)}\n")
    told = {"type": "UsageError", "message": message, "problems": []}
    Output(json=as_json).json_object({"interrupted": False, "error": told})


def set_up_logging(verbose: bool) -> None:
    """With --verbose, asyncsink's log goes to stderr; without, nobody's does: it is no place for tracebacks."""
    if not verbose:
        logging.getLogger().addHandler(logging.NullHandler())
        return
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("asyncsink")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logging.getLogger("asyncio").addHandler(handler)


class _StderrHandler(logging.Handler):
    """Writes to the sys.stderr of the moment: while a progress bar is shown, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # Only a traceback has lines of its own; a line break in a file's name is none.
        _write(sys.stderr, (_inert_lines(text) if record.exc_info else inert(text)) + "\n")


def _inert_lines(text: str) -> str:
    return "\n".join(map(inert, text.split("\n")))


def _bug(error: BaseException) -> str:
    if sentence := shortage(error):
        return sentence
    # Not the error's own text: nobody has checked that it holds no secret.
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    return (
        f"An unexpected {type(error).__name__} in {place} ended the run; this is a bug of asyncsink: please report it, "
        "with what --verbose shows."
    )


def _write(stream: TextIO | None, text: str, *, flush: bool = True) -> None:
    if stream is None:
        return  # the process was started with it closed
    # What stands before a display's stream has no encoding of its own.
    if not (getattr(stream, "rich_proxied_file", stream).encoding or "utf-8").lower().startswith("utf"):
        text = text.replace("…", "...")
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except OSError as error:
        # From here on nothing more is written there: not the rest of the buffer at the end of the process either.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
        # A reader that is gone (head, a closed pager) has seen enough; a terminal that is gone cannot be told.
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise DestinationFull(
                f"The run is over, but its result cannot be written to standard output ({error.strerror}).",
                operation="stdout",
            ) from error


# -- Running a command's coroutine so that a signal cancels it once, and nothing disturbs its clean-up -----------------

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GARBAGE_OBJECTS = 50_000
"""Objects made and not yet gone before the collector looks at them: some 10 MB. With Python's 700, it looks at what a
survey has found again and again, which takes a fifth of an unchanged re-run."""


class Interrupted(Exception):
    """A signal ended the run, which has cleaned up. `exit_code` is 128 + its number, as shells count."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run_until_signalled(main: Callable[[], Coroutine[Any, Any, T]], on_signal: Callable[[], None] | None = None) -> T:
    """Run `main()` in an event loop of its own and return its result.

    The first of `SIGNALS` calls `on_signal` (on the loop) and cancels `main`; later ones are ignored until it has
    cleaned up. A signal that is ignored from the start (nohup, a shell's background) stays ignored.

    Raises:
        Interrupted: a signal ended `main`; its cause is the error that the clean-up raised, if any.
    """
    from asyncsink.event_loops import run_to_end

    if not gc.isenabled():
        # What was imported lives to the end of the process: it is not looked at again, not even then.
        gc.freeze()
        gc.enable()
        gc.set_threshold(GARBAGE_OBJECTS)
    return run_to_end(lambda: _supervised(main, on_signal))


async def _supervised(main: Callable[[], Coroutine[Any, Any, T]], on_signal: Callable[[], None] | None) -> T:
    import asyncio  # not loaded for a help page

    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            if on_signal is not None:
                on_signal()
            work.cancel()

    # A task of its own: this one is never cancelled, so it always sees how `main` ended.
    work = asyncio.ensure_future(main())
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop, number)
    try:
        await asyncio.wait({work})
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            if received:
                signal.signal(number, signal.SIG_IGN)  # what is left is to say how it ended
    if received and work.cancelled():
        raise Interrupted(received[0])
    if received and (error := work.exception()) is not None:
        raise Interrupted(received[0]) from error
    return work.result()


# -- Whether a command shows its progress. Rich, which draws it, is loaded only where somebody looks -------------------


def progress_display(
    opening: str, progress: Progress, *, quiet: bool, noun: str = "file"
) -> AbstractContextManager[Display | None]:
    """The display of a run, or None where stderr is no terminal that can show one.

    Args:
        opening, noun: as in `ProgressLines`.
    """
    # A process that was started with its stderr closed has none.
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from asyncsink.cli.progress import Display, ProgressLines, terminal

    console = terminal()
    return Display(console, ProgressLines(opening, progress, noun=noun)) if console is not None else nullcontext()
