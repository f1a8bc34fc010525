"""The progress of a run in a program's log."""

from __future__ import annotations

import logging

import anyio
import pytest

from asyncsink.engine.progress.logged import ProgressLog
from asyncsink.model import Notice

pytestmark = pytest.mark.anyio


class Kept(logging.Handler):
    """Keeps what is logged; `enough` is set by the third record."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.enough = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")
        if len(self.lines) == 3:
            self.enough.set()


async def test_notices_come_at_once_and_lines_now_and_then() -> None:
    log, kept = logging.Logger("a program's"), Kept()
    log.addHandler(kept)
    with ProgressLog(log, seconds=0.001) as logged:
        assert kept.lines == [], "a run that ends at once has no line"
        logged.observe(Notice("Left out: a\x1b[31m"))
        logged.progress.started = True
        logged.progress.objects_total, logged.progress.counts.objects_uploaded = 4, 1
        with anyio.fail_after(60):
            await kept.enough.wait()
    lines = len(kept.lines)
    assert kept.lines[0] == r"INFO Left out: a\x1b[31m"
    assert kept.lines[1].startswith("INFO 1/4 files")
    await anyio.sleep(0.01)
    assert len(kept.lines) == lines, "nothing is logged after the run"
