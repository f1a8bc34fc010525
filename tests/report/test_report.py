"""The report: its counts, its words, and the error made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncsink.download.report import GrabReport
from asyncsink.errors import ExportFailed, GrabFailed
from asyncsink.integrity.sameness import IS_THERE
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.plan import PlanBasis
from asyncsink.report.report import Report, RunEnd
from asyncsink.report.sentences import CAUSES_MAX, cause_lines, causes_of, duration, failure_line, inert, size

PUBLISHED = Receipt("/d/a", "p/a", "s3://b/p/a", 3 << 20, None, "e", "", 1, 0.1, "/copy/a", "server-checksum")
SAME = Skip("/d/b", "p/b", "s3://b/p/b", 10, "same checksum")
DENIED = Failure("/d/c", "p/c", "s3://b/p/c", "AccessDenied", "no permission to put p/c", "upload", 1)
NOT_COPIED = Failure("/d/a", "p/a", "/copy/a", "DestinationFull", "no space left", "local copy")
GONE = Skip("/d/g", "", "", 0, "source is missing", already_there=False)
TAKEN = Skip("/d/t", "p/t", "s3://b/p/t", 10, IS_THERE)
MARKER = Skip("s3://b/p/f/", "p/f/", "", 0, "is a folder marker, not a file", already_there=False)
WANTED = Planned("/d/e", "p/e", "s3://b/p/e", 2048, "not there")


def report_of(*outcomes: Outcome, **facts: Any) -> Report:
    log = OutcomeLog()
    log.extend(outcomes)
    of_export = {name: facts.pop(name) for name in ("out_file", "objects_found") if name in facts}
    destination = facts.pop("destination", "s3://b/p")
    if facts.pop("dry_run", False):
        of_export["basis"] = PlanBasis(destination=destination, folder="/d")
    return Report(log, destination, RunEnd(**{"elapsed_seconds": 2.0, "transport": "wire"} | facts), **of_export)


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
        "1 of 3 files was not published to s3://b/p.",
        "Sent: 1 file (3.0 MiB) in 2.00 s, 1.5 MiB/s.",
        "Already there: 1 file (same checksum).",
        "Confirmed by the server's checksum.",
        "Local copies in place: 1.",
        "Requests: 9, of which 2 repeated an earlier one.",
        "Note: be careful",
        "  /d/a: no space left",
        "  /d/c: no permission to put p/c",
    ]


def test_sources_that_were_left_out_are_counted_by_reason_and_listed() -> None:
    gone = [Skip(f"/d/{n}", "", "", 0, "source is missing", already_there=False) for n in range(3)]
    report = report_of(SAME, *gone, Skip("/d/l", "", "", 0, "symbolic link", already_there=False))
    assert report.summary().splitlines() == [
        "1 of 5 files is in s3://b/p; 4 are left out.",
        "Already there: 1 file (same checksum).",
        "Left out: 4 files (source is missing: 3, symbolic link: 1).",
    ]
    assert report.as_dict()["not_published"][0] == {"source": "/d/0", "reason": "source is missing"}
    assert len(report.as_dict()["not_published"]) == 4


def test_what_was_chosen_away_is_not_among_the_files_of_the_run() -> None:
    chosen = [Skip(f"/d/{n}", "", "", 0, f"excluded by {n!r}", already_there=False) for n in (".git", ".datalad")]
    assert report_of(PUBLISHED, PUBLISHED, *chosen).summary().splitlines()[:3] == [
        "All 2 files (6.0 MiB) are in s3://b/p.",
        "Sent: 2 files (6.0 MiB) in 2.00 s, 3.0 MiB/s.",
        "Left out: 2 paths (excluded by '.git': 1, excluded by '.datalad': 1).",
    ]
    assert report_of(SAME, GONE, *chosen).headline() == "1 of 2 files is in s3://b/p; 1 is left out."


def test_a_failure_names_its_source_once() -> None:
    line = Failure("stdin line 1", "", "", "ConfigError", "stdin line 1 names no source", "routing")
    gone = Failure("/d/x", "", "", "SourceMissing", "Source '/d/x' does not exist", "source")
    assert failure_line(line) == "stdin line 1 names no source"
    assert failure_line(gone) == "Source '/d/x' does not exist"
    assert failure_line(DENIED) == "/d/c: no permission to put p/c"


def test_the_brief_leaves_notes_and_single_failures_out() -> None:
    report = report_of(PUBLISHED, DENIED, notices=["be careful"])
    assert report.brief().startswith("1 of 2 files was not published to s3://b/p.")
    assert "be careful" not in report.brief()
    assert "/d/c" not in report.brief()


def test_summary_shows_five_failures_at_most() -> None:
    assert report_of(*[DENIED] * 1234).summary().splitlines() == [
        "None of 1,234 files was published to s3://b/p.",
        "  1,234 files: no permission to put …",
        "    /d/c, /d/c, /d/c and 1,231 more",
    ]


def down(number: int, operation: str) -> Failure:
    """A failure as a server that is gone causes it: the same for everybody but for the names and the numbers."""
    message = (
        f"{operation} of s3://b/p/{number} failed: Connection refused at http://127.0.0.1:1; look at the server. "
        f"It was tried {number + 2} times in {number}.5 s."
    )
    return Failure(f"/d/{number}", f"p/{number}", f"s3://b/p/{number}", "ConnectionLost", message, "upload", 8)


def test_failures_of_one_cause_are_one_line_whatever_the_request_was() -> None:
    operations = ["PutObject", "HeadObject", "UploadPart of part 3", "CreateMultipartUpload"]
    report = report_of(PUBLISHED, DENIED, *[down(n, operation) for n, operation in enumerate(operations)])
    assert report.summary().splitlines()[-3:] == [
        "  4 files: Connection refused at http://127.0.0.1:1; look at the server.",
        "    /d/0, /d/1, /d/2 and 1 more",
        "  /d/c: no permission to put p/c",
    ]


def test_causes_are_bounded_and_all_failures_are_counted() -> None:
    odd = [
        Failure(f"/d/{n}", f"p/{n}", f"s3://b/p/{n}", "SourceChanged", f"reason {n * 7}", "source") for n in range(80)
    ]
    causes = causes_of(odd)
    assert (len(causes), sum(cause.failures for cause in causes)) == (CAUSES_MAX + 1, 80)
    assert list(cause_lines(causes))[-1] == "… and 75 files for other causes."


@pytest.mark.parametrize(
    ("outcomes", "headline"),
    [
        ((), "There was nothing to publish: s3://b/p is as it was."),
        ((PUBLISHED,), "The file (3.0 MiB) is in s3://b/p."),
        ((PUBLISHED, PUBLISHED), "All 2 files (6.0 MiB) are in s3://b/p."),
        ((PUBLISHED, SAME), "All 2 files (3.0 MiB) are in s3://b/p."),
        ((SAME,), "The file (10 bytes) is already in s3://b/p: nothing had to be sent (2.00 s)."),
        ((SAME, SAME), "All 2 files (20 bytes) are already in s3://b/p: nothing had to be sent (2.00 s)."),
        ((DENIED,), "The file was not published to s3://b/p."),
        ((DENIED, DENIED), "None of 2 files was published to s3://b/p."),
        ((SAME, DENIED, DENIED), "2 of 3 files were not published to s3://b/p."),
        ((PUBLISHED, NOT_COPIED), "The file (3.0 MiB) is in s3://b/p, but 1 local copy was not written."),
        ((GONE,), "Nothing was published to s3://b/p: 1 file is left out."),
        ((SAME, GONE, GONE), "1 of 3 files is in s3://b/p; 2 are left out."),
        ((TAKEN,), "1 key in s3://b/p held something before and is left as it was; 0 files sent."),
        ((PUBLISHED, TAKEN, TAKEN), "2 keys in s3://b/p held something before and are left as they were; 1 file sent."),
    ],
)
def test_the_first_sentence_says_how_it_ended(outcomes: tuple[Outcome, ...], headline: str) -> None:
    assert report_of(*outcomes).headline() == headline


@pytest.mark.parametrize(
    ("outcomes", "headline"),
    [
        ((), "There was nothing to grab: /d is as it was."),
        ((PUBLISHED, SAME), "All 2 files (3.0 MiB) are in /d."),
        ((SAME, SAME), "All 2 files (20 bytes) are already in /d: nothing had to be received (2.00 s)."),
        ((PUBLISHED, DENIED), "1 of 2 files was not grabbed into /d."),
        ((PUBLISHED, MARKER), "The file (3.0 MiB) is in /d."),
        ((MARKER,), "There was nothing to grab: /d is as it was."),
    ],
)
def test_the_first_sentence_about_a_grab(outcomes: tuple[Outcome, ...], headline: str) -> None:
    log = OutcomeLog()
    log.extend(outcomes)
    report = GrabReport("s3://b/p", "/d", log, RunEnd(elapsed_seconds=2.0))
    assert report.summary().splitlines()[0] == report.headline() == headline


def test_summary_of_a_dry_run_and_of_an_interrupted_one() -> None:
    dry = report_of(WANTED, SAME, dry_run=True)
    assert dry.summary().splitlines()[:2] == [
        "Plan: 1 file (2.0 KiB) would be sent to s3://b/p; 1 file is there already. Nothing was sent.",
        "  new                    1 file     2.0 KiB",
    ]
    assert dry.as_dict()["plan"]["new"] == {"objects": 1, "bytes": 2048}
    assert "plan" not in report_of(WANTED).as_dict()
    unchanged = report_of(SAME, SAME, dry_run=True)
    assert unchanged.headline() == (
        "Plan: nothing would be sent to s3://b/p; all 2 files are there already. Nothing was sent."
    )
    assert "1 planned" in repr(dry)
    assert dry.objects_total == 2
    assert dry.planned == [WANTED]
    assert report_of(PUBLISHED, interrupted=True).summary().startswith("Interrupted: 1 file (3.0 MiB) is in s3://b/p, ")
    assert report_of(interrupted=True).headline() == (
        "Interrupted: nothing was published to s3://b/p, not everything was tried. Run the same command again to "
        "publish the rest."
    )


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
    GrabReport("s3://b/p", "/d", OutcomeLog(), RunEnd()).raise_for_failures()
    with pytest.raises(GrabFailed, match=r"s3://b/p: interrupted before everything was tried; run it again"):
        GrabReport("s3://b/p", "/d", OutcomeLog(), RunEnd(interrupted=True)).raise_for_failures()


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
