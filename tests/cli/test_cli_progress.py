"""What a terminal shows while a command runs: right at every width, gone afterwards, readable without UTF-8."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.output import Output
from asyncsink.cli.screen.display import MARGIN
from asyncsink.engine.progress.lines import Headings, plain_line, screen_lines
from asyncsink.engine.progress.snapshot import ProgressReader
from asyncsink.engine.recording.events import Progress, UnderWay
from asyncsink.errors import ServerFault
from asyncsink.report.outcomes import Counts
from asyncsink.report.sentences import EXPORT, figures
from asyncsink.s3.transport import Outage, Traffic
from tests.support.terminal import Screen

Cli = Any
MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def half_done() -> Progress:
    counts = Counts(objects_uploaded=1361, objects_skipped=12, objects_failed=1, bytes_uploaded=566 * MIB)
    return Progress(
        objects_total=2319,
        bytes_total=977 * MIB,
        started=True,
        counts=counts,
        traffic=Traffic(requests=1500, retries=3),
        objects_in_hand=16,
        bytes_under_way=24 * MIB,
        bytes_failed=2 * MIB,
    )


HEADINGS = Headings("derivatives → s3://tryout/study", "looking at derivatives…")


class Running:
    """A run, with a clock of the test's own."""

    def __init__(self, progress: Progress, headings: Headings = HEADINGS) -> None:
        self.progress, self.headings, self.clock = progress, headings, Clock()
        self.reader = ProgressReader(progress, self.clock)

    def moves(self, seconds: int, bytes_per_second: int = 38 * MIB) -> Running:
        for _ in range(seconds):
            self.reader.read()
            self.clock.now += 1
            self.progress.bytes_moved += bytes_per_second
        return self

    def lines(self, columns: int = 80, *, ascii_only: bool = False) -> list[str]:
        drawn = screen_lines(self.reader.read(), self.headings, columns, ascii_only=ascii_only)
        return ["".join(text for text, _ in line) for line in drawn]


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_the_lines_fit(columns: int) -> None:
    progress = half_done()
    run = Running(progress)
    UnderWay(progress, "sub-03/ses-test/func/sub-03_task-linebisection_desc-preproc_bold.nii.gz", 90 * MIB).there(
        56 * MIB
    )
    UnderWay(progress, "small.json", 20)
    title, bar, counts, file = run.moves(10).lines(columns - MARGIN)
    assert max(map(len, (title, bar, counts, file))) <= columns - MARGIN
    assert title == " derivatives → s3://tryout/study"
    assert bar.endswith("  57 %  566/977 MiB  38 MiB/s  0:09 left")
    assert counts.startswith(" 1,373 of 2,319 files · 12 unchanged · 1 failed")
    assert file.startswith("    62 %   90.0 MiB  ")
    assert file.endswith("desc-preproc_bold.nii.gz")
    assert [bar.count(each) for each in "━┅─"] == {50: [3, 0, 3], 80: [20, 2, 14], 120: [34, 4, 22]}[columns]
    ends = {50: "1 failed", 80: "3 retried", 120: "1 failed · 3 retried · 16 in flight (80.0 MiB)"}
    assert counts.endswith(ends[columns])


def test_a_file_is_shown_where_it_is_large_or_slow_and_no_more_than_three() -> None:
    progress = Progress(objects_total=9, bytes_total=9 * MIB, started=True)
    run = Running(progress)
    for number in range(5):
        UnderWay(progress, f"{number}.nii", number * MIB).began = 0.0
    assert len(run.lines()) == 3
    run.clock.now = 6.0
    assert [line[10:] for line in run.lines()[3:]] == ["  4.0 MiB  4.nii", "  3.0 MiB  3.nii", "  2.0 MiB  2.nii"]
    for file in tuple(progress.files):
        file.take_back()
    assert len(run.lines()) == 3


def test_a_server_that_is_gone_is_told_with_what_comes_next() -> None:
    progress = half_done()
    run = Running(progress).moves(10)
    progress.traffic.outage = Outage("127.0.0.1:18942", "refuses connections", -4.0, 14.0, 596.0, 16)
    _, bar, trouble, counts = run.lines(100)
    assert trouble == " ! 127.0.0.1:18942 refuses connections (14 s); next try in 4 s, stops in 9:46, 16 files wait"
    assert bar.endswith(" 57 %  566/977 MiB  \u2013"), "nothing moves, and no time left is known"
    assert counts.startswith(" 1,373 of 2,319 files")
    # In a narrow terminal the sentence ends earlier, at a clause.
    assert run.lines(77)[2] == " ! 127.0.0.1:18942 refuses connections (14 s); next try in 4 s, stops in 9:46"
    assert run.lines(47)[2] == " ! 127.0.0.1:18942 refuses connections (14 s)"
    assert "  ! 127.0.0.1:18942 refuses connections (14 s); next try" in plain_line(run.reader.read())


def test_throttling_and_repeated_requests_are_told_while_they_last() -> None:
    progress = half_done()
    run = Running(progress)
    traffic = progress.traffic
    traffic.throttled_at, traffic.limit_before, traffic.limit = 0.0, 32, 8
    assert run.lines()[2] == " ! the server asks to slow down: 8 at a time instead of 32"
    assert run.lines(47)[2] == " ! the server asks to slow down"
    run.clock.now = 11.0
    assert "slow down" not in "".join(run.lines())
    traffic.last_retry_at = 10.0
    traffic.last_error = ServerFault("…", operation="PutObject", status=500, code="InternalError")
    said = " ! the server answers some requests with HTTP 500 (InternalError); 3 requests sent again so far"
    assert run.lines(100)[2] == said
    run.clock.now = 16.0
    assert len(run.lines()) == 3


def test_a_rate_that_has_ended_and_a_time_that_nobody_knows() -> None:
    run = Running(half_done()).moves(20, 0)
    assert run.lines()[1].endswith("  0 bytes/s  -:-- left")


def test_no_time_left_is_told_by_the_first_seconds() -> None:
    run = Running(half_done())
    assert run.moves(1).lines()[1].endswith("  -:-- left")
    assert run.moves(2).lines()[1].endswith("  0:10 left")


def test_without_utf_8_the_lines_are_ascii() -> None:
    run = Running(half_done()).moves(5)
    lines = run.lines(ascii_only=True)
    assert all(line.isascii() for line in lines)
    assert lines[0] == " derivatives -> s3://tryout/study"
    assert lines[1].startswith(" ####")
    looking = Running(Progress(), Headings("é → s3://b", "looking at é…")).lines(ascii_only=True)
    assert looking == [" \\xe9 -> s3://b", " | looking at \\xe9..."]


def test_names_are_inert() -> None:
    progress = Progress(objects_total=1, bytes_total=1, started=True)
    UnderWay(progress, "a\x1b[2J.nii", 100 * MIB)
    assert Running(progress).lines()[3].endswith("a\\x1b[2J.nii")


def test_what_a_survey_has_found_is_shown() -> None:
    run = Running(Progress(objects_found=1200))
    assert run.lines()[1].endswith("looking at derivatives… 1,200 files")
    assert run.lines(27)[1].endswith("looking at derivatives…")
    assert str(run.reader.read()) == "looking: 1,200 files so far"


def test_a_stream_has_no_bar_and_no_time_left() -> None:
    progress = Progress(started=True, counts=Counts(objects_uploaded=1, bytes_uploaded=MIB))
    _, first, counts = Running(progress).moves(5).lines()
    assert first == " 1.0 MiB  38 MiB/s"
    assert counts == " 1 file · 0 failed"


def test_comparing_is_told_in_files() -> None:
    run = Running(Progress(objects_total=100, bytes_total=100 * MIB, started=True))
    for _ in range(10):
        run.reader.read()
        run.clock.now += 1
        run.progress.counts.objects_skipped += 5
        run.progress.counts.bytes_skipped += 5 * MIB
    _, bar, counts = run.lines()
    assert bar.endswith("  50 %  50/100 MiB  5 files/s  0:10 left")
    assert counts == " 50 of 100 files · 50 unchanged · 0 failed"


def test_a_line_for_logs() -> None:
    run = Running(half_done()).moves(10)
    said = "57 %  1,373/2,319 files  566/977 MiB  38 MiB/s  10 s left  failed 1  retried 3"
    assert plain_line(run.reader.read()) == said


def test_a_snapshot_as_json() -> None:
    progress = half_done()
    UnderWay(progress, "a.nii", 90 * MIB)
    values = json.loads(json.dumps(Running(progress).reader.read().as_dict()))
    assert (values["objects_done"], values["objects_failed"], values["retries"]) == (1373, 1, 3)
    assert values["largest"][0]["name"] == "a.nii"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "bold.nii").write_bytes(os.urandom(MIB) * 24)
    return folder


def start_on_terminal(cli: Cli, *arguments: object, **variables: str) -> tuple[subprocess.Popen[str], int]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*cli.command, *map(str, arguments)],
        env=cli.environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    cli.started.append(process)
    os.close(theirs)
    return process, ours


def read_into(screen: Screen, descriptor: int, until: str = "") -> None:
    """Show what is written, until a line has this text or everybody has closed the terminal."""
    while not until or not any(until in line for line in screen.lines):
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: the other side is closed
            return
        screen.write(data.decode("utf-8", "replace"))


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_no_stale_bar_is_left_after_ctrl_c(cli: Cli, large: Path, stalling: Any, bucket: str, columns: int) -> None:
    screen = Screen(columns)
    arguments = ("export", large, f"s3://{bucket}", "--endpoint-url", stalling.url)
    process, terminal = start_on_terminal(cli, *arguments, COLUMNS=str(columns))
    read_into(screen, terminal, "0 of 1 file")
    assert stalling.stalled.wait(60)
    screen.write("^C")  # the terminal's own echo
    process.send_signal(signal.SIGINT)
    read_into(screen, terminal)
    os.close(terminal)
    assert process.wait(60) == 130
    text = "\n".join(screen.lines)
    assert "interrupted" in text
    assert not re.search(r"━|┅|─|file ·|^\^C$", text), text
    assert screen.cursor_visible


def test_a_terminal_without_utf_8(cli: Cli, large: Path, stalling: Any, bucket: str) -> None:
    screen = Screen(80)
    variables = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "80"}
    arguments = ("export", large, f"s3://{bucket}", "--endpoint-url", stalling.url)
    process, terminal = start_on_terminal(cli, *arguments, **variables)
    read_into(screen, terminal, "0 of 1 file")
    assert stalling.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    read_into(screen, terminal)
    os.close(terminal)
    assert process.wait(60) == 130
    shown = "\n".join(screen.shown)
    assert shown.isascii()
    assert "\\u" not in shown
    assert any("looking at" in line for line in screen.shown)
    assert len(screen.lines) < 10, "one frame is drawn over the other"


@pytest.mark.parametrize(("ok", "mark"), [(True, "✔"), (False, "✘")])
def test_a_result_on_a_terminal_shows_at_a_glance_whether_all_is_well(
    ok: bool, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    text = "All 2 files (2 bytes) are in s3://b.\nSent: 2 files."
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        Output().result(text, ok=ok)
        monkeypatch.setenv("LC_ALL", "C")
        Output().result(text, ok=ok)
        monkeypatch.undo()
        shown = ""
        while shown.count("\n") < 4:
            shown += os.read(ours, 65536).decode().replace("\r", "")
    os.close(ours)
    first, second, plain, _ = re.sub(r"\x1b\[\d*m", "", shown).splitlines()
    assert (first, second) == (f"{mark} All 2 files (2 bytes) are in s3://b.", "  Sent: 2 files.")
    assert plain == "All 2 files (2 bytes) are in s3://b."


def test_a_result_says_why_requests_were_repeated() -> None:
    lines = figures(
        Counts(), EXPORT, elapsed_seconds=1.0, requests=9, retries=4, retry_causes={"Stalled": 1, "Throttled": 3}
    )
    why = "the server asked to slow down (3), nothing moved for too long (1)"
    assert lines == [f"Requests: 9, of which 4 repeated an earlier one: {why}."]
