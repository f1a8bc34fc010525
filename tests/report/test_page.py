"""The page of a run: bounded whatever the run, inert whatever the names, and never in the place of something else."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import AsyncSinkError, ConfigError, ConnectionLost, Stalled, Throttled
from asyncsink.model import Checksum, Failure, GaveUp, Outcome, Paused, Planned, Receipt, Resumed, Retried, Skip
from asyncsink.options.parse import parse_options
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.page.aggregates import FILES_MAX, Aggregates, kind_in_bids
from asyncsink.report.page.content import KeptReceipt, content_of
from asyncsink.report.page.cures import cure_of
from asyncsink.report.page.drawing import chart_of, nice, ticks_of
from asyncsink.report.page.facts import RunFacts, options_shown
from asyncsink.report.page.place import check_place, write_page
from asyncsink.report.page.rendering import as_html, as_json
from asyncsink.report.page.timeline import SAMPLES_MAX, Moment, Timeline
from asyncsink.report.report import Report, RunEnd

HOSTILE = (
    "<script>alert(1)</script>.txt",
    "</script><img src=x onerror=alert(1)>.txt",
    "a\u202egnp.exe",
    "line\nbreak\x1b[31m.txt",
    "not-utf8-\udce9.txt",
    "שלום.txt",
    "{{ 7 * 7 }}{% raw %}.txt",
)


def receipt(key: str, size_bytes: int = 10, seconds: float = 0.01, attempts: int = 1) -> Receipt:
    crc = Checksum("CRC64NVME", "AAAAAAAAAAA=")
    return Receipt(
        f"/data/{key}", f"p/{key}", f"s3://b/p/{key}", size_bytes, crc, "e" * 32, "", attempts, seconds, "", "size"
    )


def content(outcomes: Iterable[Outcome], timeline: Timeline | None = None, **end: Any) -> dict[str, Any]:
    log = OutcomeLog()
    log.extend(list(outcomes))
    report = Report(log, "s3://b/p", RunEnd(**{"elapsed_seconds": 2.0, "transport": "wire", **end}))
    facts = RunFacts(verb="export", sources=("/data",), prefix="p/", begun_seconds=1e9, options={"tags": "a=b"})
    return content_of(report, facts, timeline or Timeline(), receipt=KeptReceipt("study.jsonl", "ab" * 32, 7))


def test_a_page_of_many_files_with_long_names_stays_below_a_megabyte() -> None:
    files = (receipt(f"sub-{i % 90:03}/{'ä' * 200}_{i:06}_bold.nii.gz", i, i / 1000) for i in range(50_000))
    timeline = Timeline()
    for beat in range(100_000):
        timeline.add(beat / 10, Moment(bytes_moved=beat * 999, objects_done=beat, in_flight=beat % 64, limit=64))
    said = content(files, timeline)
    page = as_html(said)
    assert len(page) < 1_000_000
    assert said["files"]["total"] == 50_000
    assert 0 < len(said["files"]["rows"]) < FILES_MAX
    assert f"{len(said['files']['rows']):,} of 50,000" in page.decode()
    assert len(timeline.intervals) <= SAMPLES_MAX
    assert len(said["slowest"]) == len(said["largest"]) == 20
    assert said["largest"][0]["size_bytes"] == 49_999
    assert said["slowest"][0]["seconds"] == 49.999
    assert sum(number for _, number in said["sizes"]) == 50_000


def test_short_names_fill_the_whole_table_and_failures_come_first() -> None:
    failures = [Failure("/data/x", "p/x", "s3://b/p/x", "AccessDenied", "no", "upload", 1)]
    rows = content([*(receipt(f"{i}.txt") for i in range(6000)), *failures])["files"]["rows"]
    assert len(rows) == FILES_MAX
    assert rows[0][:2] == ["failed", "x"]
    assert rows[1][:3] == ["sent", "0.txt", 10]


def test_names_and_messages_from_outside_are_text() -> None:
    failures = [Failure(name, "", "", "SourceUnreadable", f"cannot read {name}", "source") for name in HOSTILE]
    notices = [f"notice {name}" for name in HOSTILE]
    page = as_html(content([*map(receipt, HOSTILE), *failures], notices=notices)).decode()
    assert len(re.findall("<script", page)) == 2, "its data and its own script"
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "{{ 7 * 7 }}" in page
    assert "line\\nbreak\\x1b[31m.txt" in page
    assert "שלום.txt" in page


def test_json_is_the_same_content_and_reads_back() -> None:
    said = content(map(receipt, HOSTILE))
    assert json.loads(as_json(said)) == json.loads(json.dumps(said))


def test_every_kind_of_end_is_told() -> None:
    skips = [
        Skip("/d/a", "p/a", "s3://b/p/a", 3, "same checksum"),
        Skip("/d/b", "", "", 0, "link", already_there=False),
    ]
    assert content(skips)["outcome"]["state"] == "complete"
    assert content(skips)["left_out"] == [{"reason": "link", "objects": 1, "examples": ["/d/b"]}]
    assert content([], interrupted=True)["outcome"]["state"] == "interrupted"
    assert content([], interrupted=True, stop_reason="The server is gone.")["outcome"]["state"] == "stopped"
    lost = [Failure(f"/d/{i}", f"p/{i}", f"s3://b/p/{i}", "ConnectionLost", "it broke", "upload", 8) for i in range(3)]
    said = content(lost)
    assert said["outcome"]["state"] == "failed"
    assert [(cause["error"], cause["failures"]) for cause in said["causes"]] == [("ConnectionLost", 3)]
    assert said["causes"][0]["cure"] == cure_of("ConnectionLost")
    for states in (skips, lost, [Planned("/d/a", "p/a", "s3://b/p/a", 3, "not there")], []):
        assert b"Check it later" in as_html(content(states))


def test_every_error_that_a_file_can_have_has_a_cure() -> None:
    def kinds(kind: type[AsyncSinkError]) -> set[str]:
        return {kind.__name__}.union(*map(kinds, kind.__subclasses__()))

    assert all(cure_of(name).endswith((".", "user.")) for name in kinds(AsyncSinkError))


def test_a_timeline_keeps_every_sum_whatever_it_joins() -> None:
    timeline = Timeline()
    error = Throttled("slow down")
    for beat in range(1, 5001):
        if beat % 10 == 0:
            timeline.hear(beat / 10, Retried("PutObject", "k", 1, error, 0.1))
        timeline.add(beat / 10, Moment(bytes_moved=beat * 7, objects_done=beat, requests=beat, in_flight=4, limit=8))
    timeline.hear(500.0, Retried("PutObject", "k", 1, Stalled("nothing"), 0.1))
    timeline.hear(500.0, Retried("PutObject", "k", 1, ConnectionLost("gone"), 0.1))
    timeline.add(500.1, Moment(bytes_moved=35_000, objects_done=5000, requests=5000, in_flight=4, limit=8))
    said = timeline.as_dict()
    assert len(said["bytes"]) <= SAMPLES_MAX
    assert (sum(said["bytes"]), sum(said["objects"]), sum(said["slow_down"])) == (35_000, 5000, 500)
    assert (sum(said["stalled"]), sum(said["lost"])) == (1, 1)
    assert set(said["in_flight"]) == {4}
    assert sum(said["seconds"]) == pytest.approx(500.1, abs=0.2)


def test_the_last_moment_of_a_run_is_no_peak() -> None:
    timeline = Timeline()
    for now in (0.1, 0.2, 0.3):
        timeline.add(now, Moment(bytes_moved=int(now * 1000)))
    timeline.add(0.3002, Moment(bytes_moved=900))
    timeline.add(0.30021, Moment(bytes_moved=901))
    assert timeline.as_dict()["bytes"] == [100, 100, 701]
    alone = Timeline()
    alone.add(0.00001, Moment())
    alone.add(0.0004, Moment(objects_done=1))
    assert chart_of(alone.as_dict()) is not None
    assert chart_of(Timeline().as_dict()) is None


def test_outages_begin_with_their_first_failure_and_end_when_the_server_is_back() -> None:
    timeline = Timeline()
    for now in (10.0, 40.0):
        timeline.hear(now, Paused("h:1", "refuses connections", now - 5, 3, 60.0))
    timeline.hear(50.0, Resumed("h:1", 45.0))
    timeline.hear(70.0, Paused("h:1", "does not answer", 5.0, 3, 60.0))
    timeline.hear(90.0, GaveUp("h:1", "does not answer", 25.0))
    timeline.add(100.0, Moment(objects_done=1))
    chart = chart_of(timeline.as_dict())
    assert chart is not None
    assert [(round(left), round(width)) for left, width, _ in chart.outages] == [(5, 45), (65, 25)]
    assert chart.outages[0][2] == "h:1 refuses connections for 45.0 s"


def test_axes_have_round_numbers_and_few_marks() -> None:
    for total in (0.05, 0.9, 7.0, 48.5, 600.0, 7000.0, 90_000.0, 3e6):
        assert 1 <= len(ticks_of(total)) <= 8, total
    assert [nice(value) for value in (0, 0.07, 1, 41, 950)] == [1.0, pytest.approx(0.08), 1, 50, 1000]


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "asyncsink check {} s3://b/p"),
        ({"endpoint_url": "http://h:1"}, "asyncsink check {} s3://b/p --endpoint-url http://h:1"),
        ({"exclude": "*.log"}, ""),
        ({"substitutions": "a=b"}, ""),
    ],
)
def test_without_a_receipt_a_folder_that_keeps_its_names_is_checked(
    tmp_path: Path, options: dict[str, str], command: str
) -> None:
    facts = RunFacts(verb="export", sources=(str(tmp_path),), prefix="p/", options=options)
    said = content_of(Report(OutcomeLog(), "s3://b/p", RunEnd()), facts, Timeline(), receipt=None)
    assert said["check"]["command"] == command.format(tmp_path)


def test_plain_lines_and_escaped_ones_are_counted_alike() -> None:
    plain, escaped = Aggregates("p/"), Aggregates("p/")
    for sums, name in ((plain, "a"), (escaped, "ä")):
        log = OutcomeLog()
        log.extend([receipt(f"sub-{name}/{name}{i}.json", i, i / 10) for i in range(700)])
        log.extend([Skip("/d/x", f"p/{name}.json", "s3://b/p/x", 3, "same checksum")])
        sums.read(log)
    assert (plain.sizes, plain.times) == (escaped.sizes, escaped.times)
    assert [each["size_bytes"] for each in plain.largest()] == [each["size_bytes"] for each in escaped.largest()]
    assert [group for _, group in plain.by_folder(9)] == [group for _, group in escaped.by_folder(9)]
    assert (plain.objects, plain.kinds) == (escaped.objects, escaped.kinds)


def test_folders_are_told_apart_where_they_differ() -> None:
    sums, log = Aggregates("p/"), OutcomeLog()
    log.extend([receipt(f"derivatives/fmriprep/sub-{i:02}/func/x_bold.json", i) for i in range(3)])
    sums.read(log)
    assert [name for name, _ in sums.by_folder(9)] == [f"derivatives/fmriprep/sub-{i:02}" for i in (2, 1, 0)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sub-01_task-x_desc-preproc_bold.nii.gz", "bold.nii.gz"),
        ("report.final.html", ".html"),
        ("a.tar.gz", ".tar.gz"),
        ("README", "no suffix"),
        (".bidsignore", "no suffix"),
        ("x.gz", ".gz"),
    ],
)
def test_kinds_of_files(name: str, kind: str) -> None:
    assert kind_in_bids(name) == kind


def test_options_are_shown_without_secrets_and_without_defaults() -> None:
    settings = parse_options(
        "s3://b/p", {"sse": b"k" * 32, "tags": {"lab": "x"}, "concurrency": 7, "overwrite": "never", "journal": False}
    )
    shown = options_shown(settings)
    assert shown == {"overwrite": "never", "sse": "a key of your own", "tags": "lab=x", "concurrency": "7"}
    assert "kkkk" not in str(shown)


# -- Where it is written -----------------------------------------------------------------------------------------------


def test_a_page_replaces_a_page_and_nothing_else(tmp_path: Path) -> None:
    for name, text in (("page.html", as_html(content([]))), ("page.json", as_json(content([])))):
        place = tmp_path / name
        check_place(str(place))
        write_page(str(place), text)
        check_place(str(place))
        write_page(str(place), text)
        assert place.read_bytes() == text
        assert stat.S_IMODE(place.stat().st_mode) & 0o600 == 0o600
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match="exists and is no report"):
        check_place(str(thesis))
    with pytest.raises(ConfigError, match="exists and is no report"):
        write_page(str(thesis), b"x")
    assert thesis.read_text() == "<html>mine</html>"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["page.html", "page.json", "thesis.html"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("page.txt", "ends in .html or .json"),
        ("missing/page.html", "No such file or directory"),
        ("folder.html", "is a directory"),
        ("nul\0.html", "cannot be"),
    ],
)
def test_places_where_no_page_can_be(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigError, match=says):
        check_place(str(tmp_path / name))


# -- In a notebook -----------------------------------------------------------------------------------------------------


def test_a_report_shows_itself_in_a_notebook() -> None:
    log = OutcomeLog()
    log.extend([receipt("<b>.txt")])
    shown = Report(log, "s3://b/<i>p", RunEnd(elapsed_seconds=1.0))._repr_html_()
    assert "The file (10 bytes) is in s3://b/&lt;i&gt;p." in shown
    assert "<script" not in shown


def test_a_report_as_a_table_of_pandas() -> None:
    pytest.importorskip("pandas", reason="pandas is in the dev extra")
    log = OutcomeLog()
    log.extend([Failure("/d/x", "p/x", "", "AccessDenied", "no", "upload", 1), *(receipt(f"{i}") for i in range(300))])
    table = Report(log, "s3://b/p", RunEnd()).to_pandas()
    assert len(table) == 301
    assert list(table["record"].unique()) == ["receipt", "failure"]
    assert table["size_bytes"].sum() == 3000
    assert table[table["error"] == "AccessDenied"]["key"].tolist() == ["p/x"]


def test_without_pandas_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install pandas"):
        Report(OutcomeLog(), "s3://b/p", RunEnd()).to_pandas()
