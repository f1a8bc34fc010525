"""The report: its counts, its words, and the error made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from asyncsink.errors import ExportFailed, GrabFailed
from asyncsink.grabbing.report import GrabReport
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report
from asyncsink.report.wording import duration, failure_line, inert, size

PUBLISHED = Receipt("/d/a", "p/a", "s3://b/p/a", 3 << 20, None, "e", "", 1, 0.1, "/copy/a", "server-checksum")
SAME = Skip("/d/b", "p/b", "s3://b/p/b", 10, "same checksum")
DENIED = Failure("/d/c", "p/c", "s3://b/p/c", "AccessDenied", "no permission to put p/c", "upload", 1)
NOT_COPIED = Failure("/d/a", "p/a", "/copy/a", "DestinationFull", "no space left", "local copy")
WANTED = Planned("/d/e", "p/e", "s3://b/p/e", 2048, "not there")


def report_of(*outcomes: Outcome, **facts: Any) -> Report:
    log = OutcomeLog()
    log.extend(outcomes)
    given: dict[str, Any] = {"destination": "s3://b/p", "elapsed_seconds": 2.0, "transport": "wire"} | facts
    return Report(log, **given)


def test_counts_of_a_mixed_run() -> None:
    report = report_of(
        PUBLISHED, NOT_COPIED, SAME, DENIED, requests=9, retries=2, notices=["n"], out_file=["s3://b/p/a"]
    )
    assert (report.objects_uploaded, report.objects_skipped, report.objects_failed) == (1, 1, 1)
    assert report.objects_total == 3
    assert report.local_copies_failed == 1
    assert report.failures == [NOT_COPIED, DENIED]
    assert report.receipts == [PUBLISHED]
    assert report.skips == [SAME]
    assert report.bytes_uploaded == 3 << 20
    assert report.notices == ("n",)
    assert report.out_file == ["s3://b/p/a"]
    assert repr(report) == "<Report s3://b/p: 1 uploaded, 1 skipped, 1 failed, 3.0 MiB in 2.00 s>"


def test_the_dictionary_is_the_json_object_that_scripts_read() -> None:
    report = report_of(PUBLISHED, NOT_COPIED, SAME, DENIED, requests=9, retries=2)
    values = json.loads(json.dumps(report.as_dict()))
    expected = {
        "objects_total": 3,
        "objects_uploaded": 1,
        "objects_skipped": 1,
        "objects_failed": 1,
        "bytes_uploaded": 3 << 20,
        "elapsed_seconds": 2.0,
        "requests": 9,
        "retries": 2,
        "transport": "wire",
    }
    assert expected.items() <= values.items()
    assert values["failures"][1] == {
        "source": "/d/c",
        "key": "p/c",
        "error": "AccessDenied",
        "message": "no permission to put p/c",
        "stage": "upload",
    }


def test_summary_of_a_mixed_run() -> None:
    report = report_of(PUBLISHED, NOT_COPIED, SAME, DENIED, requests=9, retries=2, notices=["be careful"])
    assert report.summary().splitlines() == [
        "Published 1 object (3.0 MiB) to s3://b/p in 2.00 s: 1.5 MiB/s, 0.5 objects/s, transport wire.",
        "Not sent: 1 object (same checksum: 1).",
        "Confirmed: the server repeated the checksum: 1.",
        "Local copies in place: 1.",
        "Requests sent: 9, of which 2 repeated an earlier one.",
        "Note: be careful",
        "Failed: 1 object not published, 1 local copy not written.",
        "  /d/a: DestinationFull: no space left",
        "  /d/c: AccessDenied: no permission to put p/c",
    ]


def test_sources_that_were_left_out_are_counted_by_reason_and_listed() -> None:
    gone = [Skip(f"/d/{n}", "", "", 0, "source is missing", already_there=False) for n in range(3)]
    report = report_of(SAME, *gone, Skip("/d/l", "", "", 0, "symbolic link", already_there=False))
    assert "Not sent: 5 objects (source is missing: 3, same checksum: 1, symbolic link: 1)." in report.summary()
    assert report.as_dict()["not_published"][0] == {"source": "/d/0", "reason": "source is missing"}
    assert len(report.as_dict()["not_published"]) == 4


def test_a_failure_names_its_source_once() -> None:
    line = Failure("stdin line 1", "", "", "ConfigError", "stdin line 1 names no source", "routing")
    gone = Failure("/d/x", "", "", "SourceMissing", "Source '/d/x' does not exist", "source")
    assert failure_line(line) == "ConfigError: stdin line 1 names no source"
    assert failure_line(gone) == "SourceMissing: Source '/d/x' does not exist"
    assert failure_line(DENIED) == "/d/c: AccessDenied: no permission to put p/c"


def test_the_brief_leaves_notes_and_single_failures_out() -> None:
    report = report_of(PUBLISHED, DENIED, notices=["be careful"])
    assert "Failed: 1 object not published." in report.brief()
    assert "be careful" not in report.brief()
    assert "/d/c" not in report.brief()


def test_summary_shows_five_failures_at_most() -> None:
    lines = report_of(*[DENIED] * 1234).summary().splitlines()
    assert lines[0] == "Published nothing to s3://b/p in 2.00 s."
    assert lines[1] == "Failed: 1,234 objects not published."
    assert len(lines) == 8
    assert lines[-1] == "  … and 1,229 more."


def test_summary_of_a_dry_run_and_of_an_interrupted_one() -> None:
    dry = report_of(WANTED, SAME, dry_run=True)
    assert "Dry run: 1 object (2.0 KiB) would be published to s3://b/p; nothing was sent." in dry.summary()
    assert "1 planned" in repr(dry)
    assert dry.objects_total == 2
    assert dry.planned == [WANTED]
    assert "Interrupted" in report_of(PUBLISHED, interrupted=True).summary()


def test_foreign_texts_are_inert_in_what_a_terminal_shows() -> None:
    nasty = Failure("/d/\x1b[2J\udc80\n", "k", "u", "AccessDenied", "line\u2028two\u202e", "upload")
    report = report_of(nasty, destination="s3://b/\x07", notices=["\x1b]0;title\x07"])
    with pytest.raises(ExportFailed) as caught:
        report.raise_for_failures()
    for text in (*report.summary().splitlines(), repr(report), str(caught.value)):
        assert text.isprintable()
    assert r"/d/\x1b[2J\udc80\n" in report.summary()


def test_raise_for_failures() -> None:
    report_of(PUBLISHED, SAME).raise_for_failures()
    report = report_of(PUBLISHED, NOT_COPIED, DENIED, DENIED)
    with pytest.raises(ExportFailed, match="2 of 3 objects not published and 1 local copy not written") as caught:
        report.raise_for_failures()
    assert caught.value.report is report
    with pytest.raises(ExportFailed, match=r"s3://b/p: 1 local copy not written; the first: /d/a: no space left"):
        report_of(PUBLISHED, NOT_COPIED).raise_for_failures()


def test_raise_for_failures_of_what_was_interrupted() -> None:
    for outcomes in ((), (PUBLISHED,)):
        with pytest.raises(ExportFailed, match=r"s3://b/p: interrupted before everything was tried; run it again"):
            report_of(*outcomes, interrupted=True).raise_for_failures()
    with pytest.raises(ExportFailed, match=r"interrupted .*; 1 of 1 object not published; the first: "):
        report_of(DENIED, interrupted=True).raise_for_failures()
    grabbed = GrabReport("s3://b/p", "/d", OutcomeLog())
    grabbed.raise_for_failures()
    with pytest.raises(GrabFailed, match=r"s3://b/p: interrupted before everything was tried; run it again"):
        replace(grabbed, interrupted=True).raise_for_failures()


def test_a_report_is_read_only() -> None:
    report = report_of()
    for name in ("elapsed_seconds", "receipts", "summary"):
        with pytest.raises(AttributeError):
            setattr(report, name, 0)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1536, "1.5 KiB"),
        (500 << 20, "500 MiB"),
        (2**60, "1024 PiB"),
    ],
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.126, "0.13 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_printable_texts_stay_as_they_are() -> None:
    assert inert("sub-01 Größe 脳.nii") == "sub-01 Größe 脳.nii"
