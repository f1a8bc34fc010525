"""Pure: the result of a run in sentences that need no context, and its failures grouped by cause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import TYPE_CHECKING

from asyncsink.integrity.choice import was_chosen
from asyncsink.integrity.sameness import IS_THERE
from asyncsink.model import Failure, Resumable
from asyncsink.value import dataclass

if TYPE_CHECKING:  # its temporary files need SQLite, which a command loads when it runs
    from asyncsink.report.outcomes import Counts

# -- Pure: quantities, and texts of foreign origin, for a terminal -----------------------------------------------------

GOING_ON_SHOWN = 5
_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(size_bytes: float) -> str:
    """A number of bytes: "512 bytes", "1.5 MiB" (2**20)."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return count(int(value), "byte")
    return f"{value:.0f} {_SIZES[unit]}" if value >= 100 else f"{value:.1f} {_SIZES[unit]}"


def share_of_size(done_bytes: int, total_bytes: int) -> str:
    """A part of a number of bytes, in the unit of the total: "3.8/21.1 MiB", "34/215 MiB"; never rounded up to more
    than is done."""
    value, unit = float(total_bytes), 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0 or (value >= 100 and unit < _SIZES.index("GiB")):
        return f"{done_bytes // 1024**unit:,}/{value:,.0f} {_SIZES[unit]}"
    tenths = done_bytes * 10 // 1024**unit
    return f"{tenths // 10}.{tenths % 10}/{value:.1f} {_SIZES[unit]}"


def rate(bytes_per_second: float) -> str:
    """A rate: "512 bytes/s", "1.5 MiB/s", "38 MiB/s"."""
    text = size(bytes_per_second)
    number, _, unit = text.partition(" ")
    return f"{number.partition('.')[0] if len(number) > 3 else number} {unit}/s"


def count(number: int, noun: str) -> str:
    """A number of objects: "1 object", "1,200 objects"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration: "0.42 s", "12.3 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock_time(seconds: float) -> str:
    """A time that is left: "0:07", "12:34", "3:05:00"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def goes_on(left: Iterable[Resumable]) -> str:
    """The progress of large files that the next run resumes: "2 large files go on at 62 % and 18 % with the next run.",
    or ""."""
    shares = sorted((100 * each.bytes_stored // (each.size_bytes or 1) for each in left), reverse=True)
    if not shares:
        return ""
    places = [f"{share} %" for share in shares[:GOING_ON_SHOWN]]
    more = len(shares) - len(places)
    if more:
        places.append(f"{more:,} more")
    where = f"{', '.join(places[:-1])} and {places[-1]}" if len(places) > 1 else places[0]
    verb = "goes" if len(shares) == 1 else "go"
    return f"{count(len(shares), 'large file')} {verb} on at {where} with the next run."


def inert(text: str) -> str:
    """The text with all characters escaped that a terminal does not print as themselves: control characters, line
    breaks, direction marks, and the surrogates of names that are not UTF-8."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def failure_line(failure: Failure) -> str:
    """One line: the file, unless the message names it, and the message."""
    name = failure.source or failure.key
    named = repr(name) in failure.message or failure.message.startswith(name)
    parts = [] if named else [name]
    return inert(": ".join([*parts, failure.message]))


# -- The sentences about a whole run -----------------------------------------------------------------------------------

NOT_IN_MANIFEST = "is not in the manifest"
"""The reason of a skip in a grab with a manifest that does not list the object."""
_PROOFS: Mapping[str, str] = {
    "receipt": "the exporter's receipt",
    "server-checksum": "the server's checksum",
    "etag": "an ETag that is the MD5",
    "size": "the size only",
    "nothing": "nothing, since the server's answer proves nothing",
}


def are(number: int) -> str:
    """The verb for a number of objects."""
    return "is" if number == 1 else "are"


def all_of(number: int, noun: str) -> str:
    """All of a number of objects: "All 12 files", "The file"."""
    return f"The {noun}" if number == 1 else f"All {number:,} {noun}s"


@dataclass(frozen=True, slots=True)
class Words:
    """Words that differ between export and grab.

    Attributes:
        moved: "sent" or "received". here: "there" or "here". do, done: the command's action, "publish" and "published
            to".
        aside: skips that are not files, such as folder markers: no sentence counts them as files.
    """

    moved: str
    here: str
    do: str
    done: str
    aside: str = ""


EXPORT = Words("sent", "there", "publish", "published to")
GRAB = Words("received", "here", "grab", "grabbed into", aside="folder marker")


def outcome(counts: Counts, place: str, words: Words, *, elapsed_seconds: float) -> str:
    """The first sentence about a run that ended regularly: what is in its place, or what is not.

    Args:
        place: the destination.
    """
    place, total, failed, left_out = (
        inert(place),
        counts.objects_total,
        counts.objects_failed,
        counts.not_published_total,
    )
    # What was chosen away is not among the files that the run was asked for.
    aside = left_out if words.aside else sum(n for why, n in counts.left_out_reasons.items() if was_chosen(why))
    total, left_out = total - aside, left_out - aside
    if not total:
        return f"There was nothing to {words.do}: {place} is as it was."
    if failed:
        # A key may hold an object of an earlier run, or one without proof: "not there" could be false.
        not_done = f"not {words.done} {place}."
        if failed < total:
            return f"{failed:,} of {total:,} files {'was' if failed == 1 else 'were'} {not_done}"
        return f"The file was {not_done}" if total == 1 else f"None of {total:,} files was {words.done} {place}."
    copies = counts.local_copies_failed
    but = f", but {copies:,} local {'copy was' if copies == 1 else 'copies were'} not written" if copies else ""
    if taken := counts.skip_reasons[IS_THERE]:
        held = f"{count(taken, 'key')} in {place} held something before and {are(taken)} left as"
        moved = f"{count(counts.objects_uploaded, 'file')} {words.moved}"
        return f"{held} {'it was' if taken == 1 else 'they were'}; {moved}{but}."
    if left_out == total:
        return f"Nothing was {words.done} {place}: {count(total, 'file')} {are(total)} left out."
    if left_out:
        there = total - left_out
        return f"{there:,} of {total:,} files {are(there)} in {place}{but}; {left_out:,} {are(left_out)} left out."
    named = f"{all_of(total, 'file')} ({size(counts.bytes_uploaded + counts.bytes_skipped)}) {are(total)}"
    if counts.objects_uploaded:
        return f"{named} in {place}{but}."
    return f"{named} already in {place}{but}: nothing had to be {words.moved} ({duration(elapsed_seconds)})."


def early_end(counts: Counts, place: str, words: Words, *, total: int | None, reason: str, going_on: str = "") -> str:
    """The first sentence about a run that ended early, and the effect of repeating the command.

    Args:
        total: number of files, or None where it is unknown.
        reason: "Interrupted", or a sentence with the reason why the run stopped.
        going_on: a sentence about files that the next run resumes, or "".
    """
    there, place = counts.objects_uploaded + counts.already_there, inert(place)
    if there:
        of_all = f"{there:,} of {count(total, 'file')}" if total is not None else count(there, "file")
        parts = [f"{of_all} ({size(counts.bytes_uploaded + counts.bytes_skipped)}) {are(there)} in {place}"]
    else:
        parts = [f"nothing was {words.done} {place}"]
    if counts.objects_failed:
        parts.append(f"{counts.objects_failed:,} failed")
    if counts.not_published_total:
        parts.append(f"{counts.not_published_total:,} left out")
    untried = None if total is None else max(0, total - counts.objects_total)
    if untried is None:
        parts.append("not everything was tried")
    elif untried:
        parts.append(f"{untried:,} not tried")
    text = ", ".join(parts)
    opening = f"{inert(reason)} {text[0].upper()}{text[1:]}" if reason.endswith(".") else f"{inert(reason)}: {text}"
    if untried == 0 and not counts.objects_failed:
        return f"{opening}. No file is missing; the same command again completes the records of the run."
    return f"{opening}. {f'{going_on} ' if going_on else ''}Run the same command again to {words.do} the rest."


def stopped(reason: str) -> str:
    """The reason of an early end, for `early_end`: the run's own, or that it was stopped from outside."""
    return f"Stopped: {reason.rstrip('.')}." if reason else "Interrupted"


def plan_outcome(counts: Counts, place: str, *, interrupted: bool) -> str:
    """The first sentence about a dry run."""
    place, there, failed = inert(place), counts.already_there, counts.objects_failed
    parts = [f"{count(failed, 'file')} cannot be sent to {place}"] if failed else []
    if counts.objects_planned:
        parts.append(f"{count(counts.objects_planned, 'file')} ({size(counts.bytes_planned)}) would be sent to {place}")
    elif not failed:
        parts.append(f"nothing would be sent to {place}")
    if there and there == counts.objects_total:
        parts.append(f"{all_of(there, 'file').lower()} {are(there)} there already")
    elif there:
        parts.append(f"{count(there, 'file')} {are(there)} there already")
    if counts.not_published_total:
        parts.append(f"{count(counts.not_published_total, 'file')} would be left out")
    looked = "Interrupted, so far: " if interrupted else "Plan: "
    return f"{looked}{'; '.join(parts)}. Nothing was sent."


_CAUSES: Mapping[str, str] = {
    "Throttled": "the server asked to slow down",
    "ServerFault": "the server failed",
    "ConnectionLost": "connections broke",
    "Stalled": "nothing moved for too long",
    "RequestTimeout": "the server had waited too long",
    "ExpiredCredentials": "the credentials had expired",
    "ClockSkew": "the clocks differed",
    "WrongRegion": "the bucket is in another region",
}


def figures(
    counts: Counts,
    words: Words,
    *,
    elapsed_seconds: float,
    requests: int,
    retries: int,
    retry_causes: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """The lines below the first one: objects transferred, objects not transferred and why, and the proofs."""
    lines = []
    if counts.objects_uploaded:
        rate = f", {size(counts.bytes_uploaded / max(elapsed_seconds, 1e-9))}/s" if counts.bytes_uploaded else ""
        moved = f"{count(counts.objects_uploaded, 'file')} ({size(counts.bytes_uploaded)})"
        lines.append(f"{words.moved.capitalize()}: {moved} in {duration(elapsed_seconds)}{rate}.")
    for named, number, why in (
        (f"Already {words.here}", counts.already_there, counts.there_reasons),
        ("Left out", counts.not_published_total, counts.left_out_reasons),
    ):
        if number and why is counts.left_out_reasons and words.aside:
            unlisted = why[NOT_IN_MANIFEST]
            parts = [count(number - unlisted, words.aside)] if number > unlisted else []
            parts += [f"{count(unlisted, 'object')} that the manifest does not list"] if unlisted else []
            lines.append(f"{named}: {', '.join(parts)}.")
        elif number:
            noun = "path" if any(map(was_chosen, why)) else "file"  # a directory is one path
            lines.append(f"{named}: {count(number, noun)} ({reasons(why)}).")
    if counts.confirmed_by:
        lines.append(_confirmed(counts.confirmed_by))
    if counts.bytes_resumed:
        lines.append(f"{words.moved.capitalize()} by earlier runs, and not again: {size(counts.bytes_resumed)}.")
    if counts.local_copies:
        lines.append(f"Local copies in place: {counts.local_copies:,}.")
    if retries:
        causes = [f"{_CAUSES.get(name, name)} ({times:,})" for name, times in Counter(retry_causes).most_common()]
        because = f": {', '.join(causes)}" if causes else ""
        lines.append(f"Requests: {requests:,}, of which {retries:,} repeated an earlier one{because}.")
    return lines


def _they(number: int) -> str:
    return "it was" if number == 1 else "they were"


def reasons(counted: Counter[str]) -> str:
    """Why files were not sent: the reason, or several with their numbers, the most frequent first."""
    if len(counted) == 1:
        return inert(next(iter(counted)))
    return ", ".join(f"{inert(why)}: {number:,}" for why, number in counted.most_common())


def _confirmed(proofs: Counter[str]) -> str:
    if len(proofs) == 1:
        ((by, number),) = proofs.items()
        return f"{'Confirmed' if number == 1 else 'Each confirmed'} by {_PROOFS.get(by, by)}."
    return f"Confirmed by {', '.join(f'{_PROOFS.get(by, by)}: {number:,}' for by, number in proofs.most_common())}."


# -- Pure: failures grouped by cause, so that one cause is one line for any number of files ----------------------------

CAUSES_MAX = 50
"""Causes kept apart; failures with further causes are counted together."""
CAUSES_SHOWN = 5
EXAMPLES_SHOWN = 3
_PREFIX = re.compile(r"^\w+ of (?:part \d+ of )?… failed: ")
_TRIED = re.compile(r" It was tried \d+ times in [\d.]+ s\.")


@dataclass(slots=True)
class Cause:
    """Failures with one cause.

    Attributes:
        sentence: the message, without the parts that differ between files.
        line: the whole line of the first failure.
        examples: names of the first three files.
    """

    sentence: str
    line: str
    examples: list[str] = field(default_factory=list)
    failures: int = 0


def cause_of(failure: Failure) -> str:
    """The message without the parts that belong to one file: names, parts, attempts."""
    message = failure.message
    for own in sorted({failure.url, failure.source, failure.key} - {""}, key=len, reverse=True):
        message = message.replace(repr(own), "…").replace(own, "…")
    return _TRIED.sub("", _PREFIX.sub("", message))


def causes_of(failures: Iterable[Failure]) -> list[Cause]:
    """Failures by cause, the most frequent first; the last may be a Cause without a sentence: all other failures."""
    return grouped_failures((cause_of(each), failure_line(each), each.source or each.key) for each in failures)


def grouped_failures(failures: Iterable[tuple[str, str, str]]) -> list[Cause]:
    """As `causes_of`, from the cause, the line and the name of each failure."""
    causes: dict[str, Cause] = {}
    others = Cause("", "")
    for sentence, line, name in failures:
        if len(causes) < CAUSES_MAX:
            cause = causes.setdefault(sentence, Cause(sentence, line))
        else:
            cause = causes.get(sentence, others)
        cause.failures += 1
        if len(cause.examples) < EXAMPLES_SHOWN:
            cause.examples.append(name)
    found = sorted(causes.values(), key=lambda cause: -cause.failures)
    return [*found, others] if others.failures else found


def cause_lines(
    causes: list[Cause], *, noun: str = "file", shown: int = CAUSES_SHOWN, word: Callable[[str], str] = str
) -> Iterator[str]:
    """Lines for a terminal: a single failure unchanged, several of one cause with their number and a few names.

    Args:
        word: translates a sentence into the words of the surface (API, command, Nipype).
    """
    for cause in causes[:shown]:
        if not cause.sentence:
            yield f"{count(cause.failures, noun)} for other causes"
        elif cause.failures == 1:
            yield inert(word(cause.line))
        else:
            yield inert(word(f"{count(cause.failures, noun)}: {cause.sentence}"))
            more = cause.failures - len(cause.examples)
            yield inert(f"  {', '.join(cause.examples)}{f' and {more:,} more' if more else ''}")
    left = sum(cause.failures for cause in causes[shown:])
    if left:
        yield f"… and {count(left, noun)} for other causes."
