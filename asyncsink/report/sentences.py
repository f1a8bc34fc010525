"""Pure: how a run ended, in sentences that a stranger reads rightly from the first one on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from asyncsink.integrity.sameness import IS_THERE
from asyncsink.report.counts import Counts
from asyncsink.report.wording import count, duration, inert, size
from asyncsink.value import dataclass

_PROOFS: Mapping[str, str] = {
    "server-checksum": "the server's checksum",
    "etag": "an ETag that is the MD5",
    "size": "the size only",
    "nothing": "nothing, since the server's answer proves nothing",
}


def are(number: int) -> str:
    """The verb of so many things."""
    return "is" if number == 1 else "are"


def all_of(number: int, noun: str) -> str:
    """Things without exception: "All 12 files", "The file"."""
    return f"The {noun}" if number == 1 else f"All {number:,} {noun}s"


@dataclass(frozen=True, slots=True)
class Words:
    """What differs between directions.

    Attributes:
        moved: "sent" or "received". here: "there" or "here". do, done: what the command does, "publish" and
            "published to".
        aside: what is left out where that is no file, such as a folder marker: no sentence counts it among the files.
    """

    moved: str
    here: str
    do: str
    done: str
    aside: str = ""


EXPORT = Words("sent", "there", "publish", "published to")
GRAB = Words("received", "here", "grab", "grabbed into", aside="folder marker")


def outcome(counts: Counts, place: str, words: Words, *, elapsed_seconds: float) -> str:
    """The first sentence about a run that ended in order: what is where it belongs, or what is not.

    Args:
        place: the destination.
    """
    place, total, failed, left_out = (
        inert(place),
        counts.objects_total,
        counts.objects_failed,
        counts.not_published_total,
    )
    if words.aside:
        total, left_out = total - left_out, 0
    if not total:
        return f"There was nothing to {words.do}: {place} is as it was."
    if failed:
        # A key may hold what an earlier run published, or what came without a proof: "not there" could be false.
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
    """The first sentence about a run that did not come to its end, and what the same command does next.

    Args:
        total: how many files there are, or None where nobody knows.
        reason: "Interrupted", or a whole sentence that says why the run stopped.
        going_on: a sentence about what the next run goes on with, or "".
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
    """Why a run did not come to its end, for `early_end`: the reason that it had itself, or that somebody ended it."""
    return f"Stopped: {reason.rstrip('.')}." if reason else "Interrupted"


def plan(counts: Counts, place: str, *, interrupted: bool) -> str:
    """The first sentence about a run that sent nothing on purpose."""
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


def figures(counts: Counts, words: Words, *, elapsed_seconds: float, requests: int, retries: int) -> list[str]:
    """The lines below the first one: what was transferred, what was not and why, and what proves it."""
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
            lines.append(f"{named}: {count(number, words.aside)}.")
        elif number:
            lines.append(f"{named}: {count(number, 'file')} ({reasons(why)}).")
    if counts.confirmed_by:
        lines.append(_confirmed(counts.confirmed_by))
    if counts.bytes_resumed:
        lines.append(f"{words.moved.capitalize()} by earlier runs, and not again: {size(counts.bytes_resumed)}.")
    if counts.local_copies:
        lines.append(f"Local copies in place: {counts.local_copies:,}.")
    if retries:
        lines.append(f"Requests: {requests:,}, of which {retries:,} repeated an earlier one.")
    return lines


def _they(number: int) -> str:
    return "it was" if number == 1 else "they were"


def reasons(counted: Counter[str]) -> str:
    """Why files were not sent: the reason, or several with their numbers, the commonest first."""
    if len(counted) == 1:
        return inert(next(iter(counted)))
    return ", ".join(f"{inert(why)}: {number:,}" for why, number in counted.most_common())


def _confirmed(proofs: Counter[str]) -> str:
    if len(proofs) == 1:
        ((by, number),) = proofs.items()
        return f"{'Confirmed' if number == 1 else 'Each confirmed'} by {_PROOFS.get(by, by)}."
    return f"Confirmed by {', '.join(f'{_PROOFS.get(by, by)}: {number:,}' for by, number in proofs.most_common())}."
