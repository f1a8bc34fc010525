"""What a terminal shows while a command runs: right at every width, gone afterwards, readable without UTF-8."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.screen.display import MARGIN
from asyncsink.cli.screen.lines import ProgressLines
from asyncsink.engine.recording.events import Progress
from asyncsink.report.outcomes import Counts
from asyncsink.s3.transport import Traffic
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
        bytes_under_way=24 * MIB,
        bytes_failed=2 * MIB,
    )


def lines_after(seconds: int, progress: Progress, columns: int, *, ascii_only: bool = False) -> list[str]:
    """The lines after so many seconds at 38 MiB/s."""
    clock = Clock()
    lines = ProgressLines("looking", progress, clock=clock)
    for _ in range(seconds):
        lines(columns, ascii_only)
        clock.now += 1
        progress.bytes_moved += 38 * MIB
    return lines(columns, ascii_only)


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_the_lines_fit(columns: int) -> None:
    bar, counts = lines_after(10, half_done(), columns - MARGIN)
    assert len(bar) <= columns - MARGIN
    assert len(counts) <= columns - MARGIN
    assert bar.endswith(" 57%  566.0/977.0 MiB  38.0 MiB/s  0:10 left")
    assert counts.startswith("1,373/2,319 files · 1 failed · 12 unchanged")
    if columns >= 80:
        assert counts.endswith("· 3 retried · 24.0 MiB under way")
        assert bar.startswith("━")
        assert bar.count("━") == int(0.579 * (bar.count("━") + bar.count("╌")))


def test_a_rate_that_has_ended_and_a_time_that_nobody_knows() -> None:
    progress, clock = half_done(), Clock()
    lines = ProgressLines("looking", progress, clock=clock)
    for _ in range(20):
        bar, _ = lines(80, False)
        clock.now += 1
    assert "  0 bytes/s  --:-- left" in bar


def test_without_utf_8_the_lines_are_ascii() -> None:
    assert all(line.isascii() for line in lines_after(10, half_done(), 80, ascii_only=True))
    assert ProgressLines("looking at é…", Progress())(80, True)[0].startswith("|")


def test_what_a_survey_has_found_is_shown() -> None:
    lines = ProgressLines("looking at data…", Progress(objects_found=1200))
    assert lines(80, False)[0].endswith("looking at data… 1,200 files")
    assert lines(20, False)[0].endswith("looking at data…")


def test_a_stream_has_no_bar_and_no_time_left() -> None:
    progress = Progress(started=True, counts=Counts(objects_uploaded=1, bytes_uploaded=MIB))
    first, counts = lines_after(5, progress, 80)
    assert first[1:] == " 1.0 MiB  38.0 MiB/s".replace(" 1.0", "  1.0")
    assert counts == "1 file · 0 failed"


def test_comparing_is_told_in_files() -> None:
    progress, clock = Progress(objects_total=100, bytes_total=100 * MIB, started=True), Clock()
    lines = ProgressLines("looking", progress, clock=clock)
    for _ in range(10):
        lines(80, False)
        clock.now += 1
        progress.counts.objects_skipped += 5
        progress.counts.bytes_skipped += 5 * MIB
    bar, counts = lines(80, False)
    assert bar.endswith(" 50%  50.0/100.0 MiB  5 files/s  0:10 left")
    assert counts == "50/100 files · 0 failed · 50 unchanged"


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
    read_into(screen, terminal, "0/1 files")
    assert stalling.stalled.wait(60)
    screen.write("^C")  # the terminal's own echo
    process.send_signal(signal.SIGINT)
    read_into(screen, terminal)
    os.close(terminal)
    assert process.wait(60) == 130
    text = "\n".join(screen.lines)
    assert "interrupted" in text
    assert not re.search(r"━|╌|files ·|^\^C$", text), text
    assert screen.cursor_visible


def test_a_terminal_without_utf_8(cli: Cli, large: Path, stalling: Any, bucket: str) -> None:
    screen = Screen(80)
    variables = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "80"}
    arguments = ("export", large, f"s3://{bucket}", "--endpoint-url", stalling.url)
    process, terminal = start_on_terminal(cli, *arguments, **variables)
    read_into(screen, terminal, "0/1 files")
    assert stalling.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    read_into(screen, terminal)
    os.close(terminal)
    assert process.wait(60) == 130
    assert "\\u" not in "\n".join(screen.shown)
    assert any("looking at" in line for line in screen.shown)
    assert len(screen.lines) < 10, "one frame is drawn over the other"
