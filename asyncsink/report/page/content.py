"""What the page of a run says, as JSON-ready values: the page shows them, and NAME.json holds them.

All texts from outside (names, messages) are inert, and of bounded length.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from asyncsink.options.schema import OPTIONS, Policies, RoutingOptions, Settings
from asyncsink.report.page.aggregates import COLUMNS, FAILURES_FIRST, Aggregates, Group, seconds_of_step, short
from asyncsink.report.page.cures import cure_of
from asyncsink.report.page.facts import RunFacts, machine
from asyncsink.report.page.timeline import Timeline
from asyncsink.report.report import RunReport
from asyncsink.report.sentences import (
    cause_of,
    duration,
    failure_line,
    figures,
    goes_on,
    grouped_failures,
    inert,
    size,
    stopped,
)
from asyncsink.value import dataclass

FORMAT: Final = 1
_SHAPE: Final = (RoutingOptions, Policies, Settings)
"""The parts of the settings that may decide which files are published, and under which names."""
GROUPS_SHOWN: Final = 12
CAUSES_SHOWN: Final = 30
NOTICES_SHOWN: Final = 20
LEFT_OUT_SHOWN: Final = 5
PERCENTS: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """The file with the receipts of a run.

    Attributes:
        path: its name.
        sha256: of the file, in hexadecimal; "" where the run has not completed it.
        size_bytes: of the file.
    """

    path: str
    sha256: str = ""
    size_bytes: int = 0


def outcome_of_run(report: RunReport) -> dict[str, Any]:
    """The first block of the page: how the run ended, and its numbers. Reads no outcome back."""
    counts = report.counts
    dry_run = getattr(report, "dry_run", False)
    unfinished = getattr(report, "objects_unfinished", 0)
    words = report.words
    state = "complete"
    if report.interrupted or report.stop_reason:
        state = "stopped" if report.stop_reason else "interrupted"
    elif counts.objects_failed or counts.local_copies_failed:
        state = "failed"
    elif dry_run:
        state = "plan"
    tiles = [
        ("planned", counts.objects_planned, size(counts.bytes_planned), dry_run),
        (words.moved, counts.objects_uploaded, size(counts.bytes_uploaded), not dry_run),
        (f"already {words.here}", counts.already_there, size(counts.bytes_skipped), True),
        ("left out", counts.not_published_total, "", counts.not_published_total > 0),
        ("failed", counts.objects_failed, "", True),
        ("local copies failed", counts.local_copies_failed, "", counts.local_copies_failed > 0),
        ("not tried", unfinished, "", unfinished > 0),
    ]
    lines = figures(
        counts, words, elapsed_seconds=report.elapsed_seconds, requests=report.requests, retries=report.retries
    )
    if report.stop_reason and not report.interrupted:
        lines.insert(0, stopped(report.stop_reason))
    return {
        "state": state,
        "headline": inert(report.headline()),
        "lines": [] if dry_run else [inert(line) for line in lines],
        "going_on": "" if report.interrupted else goes_on(report.resumable),
        "tiles": [{"what": what, "number": number, "note": note} for what, number, note, shown in tiles if shown],
        "objects_total": counts.objects_total + unfinished,
        "elapsed": duration(report.elapsed_seconds),
    }


def content_of(
    report: RunReport, facts: RunFacts, timeline: Timeline, *, receipt: KeptReceipt | None, journal: str = ""
) -> dict[str, Any]:
    """Everything that the page says. Blocking: reads the outcomes of the run back.

    Args:
        journal: the file of the run's journal, or "".
    """
    counts = report.counts
    sums = Aggregates(facts.prefix, report.words.moved)
    sums.read(report.log)
    begun = datetime.fromtimestamp(facts.begun_seconds, tz=UTC).astimezone()
    return {
        "asyncsink_page": FORMAT,
        "outcome": outcome_of_run(report),
        "run": {
            "verb": facts.verb,
            "sources": [short(each) for each in facts.sources],
            "target": short(report.target),
            "begun": begun.isoformat(timespec="seconds"),
            "begun_shown": f"{begun.day} {begun:%B %Y, %H:%M:%S %Z}",
            "elapsed_seconds": round(report.elapsed_seconds, 3),
            "options": {name: inert(value) for name, value in facts.options.items()},
            "machine": machine(),
            "transport": report.transport,
            "requests": report.requests,
            "retries": report.retries,
            "journal": inert(journal),
            "receipt": None
            if receipt is None
            else {"path": inert(receipt.path), "sha256": receipt.sha256, "size_bytes": receipt.size_bytes},
            "stop_reason": short(report.stop_reason),
            "notices": [short(notice) for notice in report.notices[:NOTICES_SHOWN]],
        },
        "counts": {
            name: value
            for name, value in counts.as_dict().items()
            if name not in ("not_published", "skip_reasons", "confirmed_by")
        },
        "confirmed_by": dict(counts.confirmed_by),
        "time": timeline.as_dict(),
        "folders": _groups(sums.by_folder(GROUPS_SHOWN)),
        "kinds": _groups(sums.by_kind(GROUPS_SHOWN)),
        "sizes": [[0 if not bits else 2 ** (bits - 1), sums.sizes[bits]] for bits in sorted(sums.sizes)],
        "times": [[round(seconds_of_step(step), 6), sums.times[step]] for step in sorted(sums.times)],
        "percentiles": {str(percent): sums.percentile(percent) for percent in PERCENTS if sums.times},
        "slowest": sums.slowest(),
        "largest": sums.largest(),
        "causes": list(_causes(report, facts)),
        "left_out": _left_out(report, facts),
        "check": _check(report.target, facts, receipt),
        "files": {
            "prefix": inert(facts.prefix),
            "total": sums.objects,
            "failures_first": FAILURES_FIRST,
            "columns": COLUMNS,
            "rows": sums.files,
        },
    }


def _groups(groups: list[tuple[str, Group]]) -> list[dict[str, Any]]:
    return [
        {"name": short(name), "objects": group.objects, "bytes": group.bytes, "failed": group.failed}
        for name, group in groups
    ]


def _causes(report: RunReport, facts: RunFacts) -> Iterator[dict[str, Any]]:
    stages: dict[str, str] = {}

    def lines() -> Iterator[tuple[str, str, str]]:
        for failure in report.failures:
            cause = f"{failure.error}: {cause_of(failure)}"  # the cure is of the class
            if len(stages) < CAUSES_SHOWN:
                stages.setdefault(cause, failure.stage)
            yield cause, failure_line(failure), failure.source or failure.key

    for cause in grouped_failures(lines())[:CAUSES_SHOWN]:
        error, _, sentence = cause.sentence.partition(": ")
        yield {
            "error": error,
            "sentence": short(sentence or "other causes"),
            "cure": cure_of(error, stages.get(cause.sentence, "")),
            "failures": cause.failures,
            "examples": [_below(example, facts) for example in cause.examples],
        }


def _left_out(report: RunReport, facts: RunFacts) -> list[dict[str, Any]]:
    examples: dict[str, list[str]] = {}
    for source, reason in report.counts.not_published:
        some = examples.setdefault(reason, [])
        if len(some) < LEFT_OUT_SHOWN:
            some.append(_below(source, facts))
    reasons: Counter[str] = report.counts.left_out_reasons
    return [
        {"reason": short(reason), "objects": number, "examples": examples.get(reason, [])}
        for reason, number in reasons.most_common()
    ]


def _below(path: str, facts: RunFacts) -> str:
    """The path of a file, below the only source where there is one."""
    return short(path.removeprefix(f"{facts.sources[0]}/") if len(facts.sources) == 1 else path)


def _check(target: str, facts: RunFacts, receipt: KeptReceipt | None) -> dict[str, str]:
    """How to prove the result later: a command, and a sentence."""
    if receipt is not None and receipt.sha256:
        return {
            "command": f"asyncsink verify {shlex.quote(inert(receipt.path))} --read-back",
            "says": "It reads every object back, and compares it with its receipt.",
        }
    if facts.verb == "grab":
        again = f"asyncsink grab {shlex.quote(inert(facts.sources[0]))} {shlex.quote(inert(target))}"
        return {"command": again, "says": "It compares what is here with the objects, and receives what differs."}
    shaping = [name for name in facts.options if name in OPTIONS and OPTIONS[name].part in _SHAPE]
    if len(facts.sources) == 1 and os.path.isdir(facts.sources[0]) and "://" in target and not shaping:
        source, place = (shlex.quote(inert(each)) for each in (facts.sources[0], target))
        endpoint_url = facts.options.get("endpoint_url", "")
        server = f" --endpoint-url {shlex.quote(endpoint_url)}" if endpoint_url else ""
        return {
            "command": f"asyncsink check {source} {place}{server}",
            "says": "It compares every file with its object. A run with a manifest also leaves a receipt, which proves "
            "the objects without the files.",
        }
    return {"command": "", "says": "A run with a manifest leaves a receipt, which proves the objects later."}
