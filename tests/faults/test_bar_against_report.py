"""The server dies in the middle of a run: at no moment did the bar say more than the report says in the end.

The command runs as people run it, on a terminal; every text that the terminal ever showed is compared, and so are the
counts that displays poll.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.main import main
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine import export
from asyncsink.engine.recording.events import Progress
from asyncsink.options import parse
from asyncsink.options.settings import MIB, RetryPolicy
from tests.support.terminal import Screen

COLUMNS = 80
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))]
HASTY = RetryPolicy(attempts=2, backoff_seconds_base=0.01, backoff_seconds_max=0.02, abort_seconds=2.0)
UNITS = {"bytes": 1, "byte": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
AMOUNT = re.compile(r"([\d.,]+)/([\d.,]+) (bytes?|[KMG]iB)\b")
FILES = re.compile(r"([\d,]+) of ([\d,]+) files\b")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 small files, twelve of a few MiB, and six that are sent in parts: some 150 MiB."""
    dice = random.Random(11)
    sizes = {f"sub-{n % 12:02}/small-{n}.json": dice.randrange(20_000) for n in range(300)}
    sizes |= {f"sub-{n:02}/medium.nii": MIB + n * 200_000 for n in range(12)}
    sizes |= {f"sub-{n:02}/parts.nii.gz": (9 + 4 * n) * MIB for n in range(6)}
    root = tmp_path_factory.mktemp("bar") / "cohort"
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(dice.randbytes(size))
    return root


class Polled:
    """The most that the counts of a run ever said, and a call when so many bytes have moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moved_bytes: int, then: Callable[[], None]) -> None:
        self.bytes_done = self.objects_done = 0
        self._progress: Progress | None = None
        self._moved_bytes = moved_bytes
        self._then = then
        self._over = threading.Event()
        run_source = export.run_source

        async def run(*arguments: Any, progress: Progress, **named: Any) -> Any:
            self._progress = progress
            return await run_source(*arguments, progress=progress, **named)

        monkeypatch.setattr(export, "run_source", run)
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        called = False
        while not self._over.wait(0.001):
            if (progress := self._progress) is None:
                continue
            self.bytes_done = max(self.bytes_done, progress.bytes_done)
            self.objects_done = max(self.objects_done, progress.objects_done)
            if not called and progress.bytes_moved >= self._moved_bytes:
                called = True
                self._then()

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """sys.stderr is a terminal, which a thread reads to its end."""
    ours, theirs = pty.openpty()
    screen = Screen(COLUMNS)

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # EIO: the other side is closed
                return
            screen.write(data.decode())

    reader = threading.Thread(target=read)
    reader.start()
    for name, value in (("COLUMNS", str(COLUMNS)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield screen
        monkeypatch.undo()
    reader.join()
    os.close(ours)


def kill(server: DevServer) -> Callable[[], None]:
    """Kill the server and what it started, as an out-of-memory killer does."""

    def now() -> None:
        assert server.watchdog_pid is not None
        os.killpg(server.watchdog_pid, signal.SIGKILL)

    return now


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bar_says_no_more_than_the_report(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    seed: int,
) -> None:
    dice = random.Random(seed)
    total = sum(path.stat().st_size for path in cohort.rglob("*") if path.is_file())
    share = dice.uniform(0.02, 0.9)
    arguments = [
        *("--transport", dice.choice(["wire", "aioboto3"])),
        *("--part-size", "5MiB", "--bandwidth", "60MB", "--give-up-after", "1s", *dice.choice([("--no-journal",), ()])),
        *dice.choice([(), ("--local-copy", str(tmp_path / "copy"))]),
    ]
    with DevServer(buckets=("bar",)) as server:
        with terminal(monkeypatch) as screen:
            for name, value in {**server.environment, "XDG_STATE_HOME": str(tmp_path)}.items():
                monkeypatch.setenv(name, value)
            # The command has no options for what nobody should have to set; a minute for each seed is too long here.
            monkeypatch.setattr(parse, "_retry", lambda _: HASTY)
            polled = Polled(monkeypatch, int(share * total), kill(server))
            try:
                code = main(["export", str(cohort), "s3://bar/k", "--json", *arguments])
            finally:
                polled.end()
    told = json.loads(capfd.readouterr().out)
    # The server never comes back, and is not waited for longer than was said.
    assert (code, told["interrupted"]) == (1, True)
    assert re.search(r" for \d+ s; given up$", told["stop_reason"])
    bytes_told = told["bytes_uploaded"] + told["bytes_skipped"]
    objects_told = told["objects_uploaded"] + told["objects_skipped"]
    files = sum(path.is_file() for path in cohort.rglob("*"))
    assert objects_told < files, "the server died before everything was sent"
    text = "\n".join(screen.shown)
    bytes_shown = max(float(done.replace(",", "")) * UNITS[unit] for done, _, unit in AMOUNT.findall(text))
    objects_shown = max(int(done.replace(",", "")) for done, _ in FILES.findall(text))
    figures = (
        f"seed {seed}, killed at {share:.0%} of {total / MIB:.1f} MiB, {' '.join(arguments[1:6:2])}: "
        f"bar {bytes_shown / MIB:.2f} MiB, {objects_shown} files; counts {polled.bytes_done / MIB:.2f} MiB, "
        f"{polled.objects_done} files; report {bytes_told / MIB:.2f} MiB, {objects_told} files, "
        f"{told['objects_failed']} failed"
    )
    record_property("figures", figures)
    print(figures)
    assert bytes_shown <= bytes_told
    assert objects_shown <= objects_told
    assert polled.bytes_done <= bytes_told
    assert polled.objects_done <= objects_told
    assert polled.bytes_done > 0, "something was done, or the comparison says nothing"
