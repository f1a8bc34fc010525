"""The output of commands: results on stdout, everything else on stderr.

With --json, stdout is exactly one object: `Report.as_dict()` of a run (`VerifyReport.as_dict()` of a check); a plan
adds "planned". A run that did not end in order has the same keys, with the values until then, and, where an error ended
it, "error": {"type", "message", "problems"}. Texts for people name options as a command line does; JSON has the
library's names.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncsink.cli.configured import notices_of, origins_of, parameter_of
from asyncsink.cli.printer import columns_of, locale_is_utf8, write, write_lines
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.options.schema import PANELS
from asyncsink.os_errors import shortage
from asyncsink.report.sentences import Cause, cause_lines, inert
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.cli.logs.event_lines import EventLines
    from asyncsink.model import Event
    from asyncsink.report.outcomes import OutcomeLines
    from asyncsink.report.report import BaseReport
    from asyncsink.sources.base import Source

PROBLEMS_SHOWN = 10
FAILURES_SHOWN = 10

_ROWS = {option.name: option for options in PANELS.values() for option in options if option.switch or option.off}
FLAGS = {name: option.switch or option.off for name, option in _ROWS.items()} | {
    "manifest_endpoint": "--manifest-endpoint",
    **{name: f"--{name.replace('_', '-')}" for name in ("part", "parts", "part_bytes", "part_objects")},
    **{name: f"--{name}" for name in ("mix", "sizes", "ramp", "seconds", "rate", "seed")},
}
"""The flags of the library's options, by name."""

_PLAIN = re.compile(r"[\w:/@%+.,-]+")
_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


@cache
def _option() -> re.Pattern[str]:
    # Compiled by the first message that needs it: most runs have none.
    return re.compile(
        # Quoted texts (a path, say) are not changed, nor parts of a longer word, a path or a URL.
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
        import shlex
        from ast import literal_eval

        old, new = literal_eval(f"({pair})")
        escaped = old.replace("=", r"\=")
        return f"{flag} {shlex.quote(f'{escaped}={new}')}"
    if name == "sse" and value in ("", "…"):
        return f"{flag} file:KEY"
    row = _ROWS.get(name)
    if value == "…" and row is not None:
        return f"{flag} {row.metavar}".rstrip()
    if value is None or value in ("", "…", "True") or (row is not None and value == repr(row.sets)):
        return flag
    if value == "False":
        return row.off if row is not None and row.off else f"--no-{name}"
    plain = value.strip("'\"")
    return f"{flag} {plain if _PLAIN.fullmatch(plain) else value}"


@dataclass(frozen=True, slots=True)
class Output:
    """The amount and the form of a command's output.

    Attributes:
        json: whether stdout gets one JSON object, and nothing else.
        quiet: whether there is no summary: errors, failures and notices only.
        verbose: whether a bug shows its traceback, and the log goes to stderr.
        origins: where the values of options come from that no flag gives, by parameter.
        events: gets the events of the run, or None.
        files: the files that the command writes beside its result, by flag; "" where there is none.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    events: EventLines | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def watch(self, observe: Callable[[Event], None]) -> Callable[[Event], None]:
        """An observer that calls `observe`, and writes the events where that is asked for."""
        return observe if self.events is None else self.events.watch(observe)

    def check_outside(self, source: Source) -> None:
        """Refuse `files` that the source would publish while they are written.

        Raises:
            ConfigError: one lies inside the source.
        """
        if any(self.files.values()):
            from asyncsink.engine.planning.walk import check_files_outside

            check_files_outside(source, self.files)

    @property
    def recorded(self) -> Callable[[OutcomeLines], None] | None:
        """Called with recorded outcomes, where events are written."""
        return None if self.events is None else self.events.recorded

    def say(self, text: str, *, exact: bool = False) -> None:
        """Print a result for people, on stdout, or on stderr where stdout has events; nothing with --json or --quiet.

        Args:
            exact: whether the lines are for a shell or a table, and are not wrapped.
        """
        if self.json or self.quiet:
            return
        stream = sys.stderr if self.events is not None and self.events.on_stdout else sys.stdout
        if exact:
            write(stream, f"{text}\n")
        else:
            write_lines(stream, text)

    def result(self, text: str, *, ok: bool) -> None:
        """Print the result of a run, as `say` does; on a terminal, with a mark that shows at a glance whether all is
        well."""
        if columns_of(sys.stdout) and locale_is_utf8():
            first, *others = text.split("\n")
            text = "\n".join([f"{'✔' if ok else '✘'} {first}", *(f"  {line}" for line in others)])
        self.say(text)

    def note(self, text: str) -> None:
        """Print a line beside the result, on stderr; nothing with --quiet."""
        if not self.quiet:
            write_lines(sys.stderr, text)

    def notice(self, text: str) -> None:
        """Print a sentence about what is no failure, on stderr, always."""
        write_lines(sys.stderr, f"asyncsink: note: {inert(in_flags(text))}")

    def failures(
        self, lines: Iterable[str], total: int, *, more: str = "--json and --manifest list all of them"
    ) -> None:
        """Print the first lines of a list of `total`, on stderr, and how many more there are."""
        for line in islice(lines, FAILURES_SHOWN):
            write_lines(sys.stderr, f"  {inert(line)}")
        if total > FAILURES_SHOWN:
            write_lines(sys.stderr, f"  … and {total - FAILURES_SHOWN:,} more; {more}.")

    def causes(
        self, causes: list[Cause], *, noun: str = "file", more: str = "--json and --manifest list all of them"
    ) -> None:
        """Print the failures, grouped by cause, on stderr."""
        for line in cause_lines(causes, noun=noun, shown=FAILURES_SHOWN, word=in_flags):
            write_lines(sys.stderr, f"  {line}")
        failures = sum(cause.failures for cause in causes)
        if failures > sum(len(cause.examples) for cause in causes[:FAILURES_SHOWN]):
            write_lines(sys.stderr, f"  ({more}.)")

    def report(self, report: BaseReport, noun: str = "object") -> int:
        """Print a report: its notices, its summary or its object, its failures. Returns the exit code."""
        for notice in report.notices:
            self.notice(notice)
        self.result(report.summary(), ok=report.ok)
        self.json_object({**report.as_dict(), "interrupted": False})
        self.causes(report.causes(), noun=noun, more="--json lists the first 1,000")
        return 0 if report.ok else 1

    def json_object(self, values: Mapping[str, Any], *, long: str = "", items: Iterable[Any] = ()) -> None:
        """Print the one object, with --json. `items` become the list named `long`, written one by one. Without them, it
        is the last event too."""
        if self.events is not None:
            self.events.end(values)
        if not self.json:
            return
        text = json.dumps(values)
        if not long:
            write(sys.stdout, text + "\n")
            return
        write(sys.stdout, f'{text[:-1]}, "{long}": [')
        for number, item in enumerate(items):
            write(sys.stdout, f"{', ' if number else ''}{json.dumps(item)}", flush=False)
        write(sys.stdout, "]}\n")

    def error(self, error: BaseException, values: Mapping[str, Any] | None = None) -> None:
        """Print the error that ended the command, as one sentence on stderr, and as "error" with --json.

        Args:
            values: the other values of the JSON object.
        """
        ours = isinstance(error, AsyncSinkError)
        message = str(error) if ours else _bug(error)
        first, *more = in_flags(message).split("\n")
        problems = [str(p) for p in getattr(error, "problems", ()) if p is not error]
        lines = [f"asyncsink: error: {inert(first)}", *(f"  {inert(line)}" for line in more)]
        if origin := self._origin(error):
            lines.append(from_where(origin))
        lines += [f"  also: {inert(in_flags(problem))}" for problem in problems[:PROBLEMS_SHOWN]]
        write_lines(sys.stderr, "\n".join(lines))
        if not ours and self.verbose:
            write(sys.stderr, "\n".join(map(inert, "".join(traceback.format_exception(error)).split("\n"))))
        told = {"type": type(error).__name__, "message": message, "problems": problems}
        if origin:
            told["from"] = origin
        self.json_object({**(values or {}), "interrupted": False, "error": told})

    def _origin(self, error: BaseException) -> str:
        option = error.option if isinstance(error, ConfigError) else ""
        return self.origins.get(parameter_of(FLAGS.get(option, f"--{option}")), "")


def from_where(origin: str) -> str:
    """The line that names the variable or the file of a wrong value."""
    return f"  from {inert(origin)}"


def output_of(given: Mapping[str, Any]) -> Output:
    """The output that a command line asks for, with its logging set up. Says what there is to say about settings."""
    context = click.get_current_context(silent=True)
    from asyncsink.cli.logs.levels import set_up_logging

    log_file, events = given.get("log_file"), given.get("events")
    if given["json"] and events == "-":
        raise ConfigError("--json and --events - both write to standard output; give one of them, or --events FILE.")
    stop = set_up_logging(given["verbose"], log_file)
    if context is not None:
        context.call_on_close(stop)
    output = Output(
        json=given["json"],
        quiet=given["quiet"],
        verbose=given["verbose"] > 0,
        origins=origins_of(context),
        events=_events(context, events) if events else None,
        files={"--log-file": log_file or "", "--events": "" if events == "-" else events or ""},
    )
    for notice in notices_of(context):
        output.notice(notice)
    return output


def _events(context: click.Context | None, name: str) -> EventLines:
    from asyncsink.cli.logs.event_lines import EventLines  # not loaded without --events

    lines = EventLines.open(name)
    if context is not None:
        context.call_on_close(lines.close)
    return lines


def usage_error(message: str, hints: Sequence[str], *, as_json: bool) -> None:
    """Print an error in the words of a command line, and lines that lead on."""
    write_lines(sys.stderr, "\n".join(map(inert, (f"asyncsink: error: {message}", *hints))))
    told = {"type": "UsageError", "message": " ".join([message, *map(str.strip, hints)]), "problems": []}
    Output(json=as_json).json_object({"interrupted": False, "error": told})


def _bug(error: BaseException) -> str:
    if sentence := shortage(error):
        return sentence
    # Not the error's own text, which may hold a secret.
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    return (
        f"An unexpected {type(error).__name__} in {place} ended the run; this is a bug of asyncsink: please report it, "
        "with what --verbose shows."
    )
