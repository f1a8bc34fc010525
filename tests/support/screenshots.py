"""The guide's pictures of the command at work, each taken from a real run: `make screenshots` draws them.

A program runs in a terminal of 80 columns (or 120) against a server of its own, behind a proxy that throttles, refuses
or goes away where the picture shows that; what stands on the screen at one moment becomes an SVG without anything from
elsewhere.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import Status
from tests.support.guide import GUIDE

COLUMNS = 80
ROWS = 40
_PREAMBLE = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        moment: how good a moment is to take the screen: the end, unless given.
        faults: of the requests. goes_away: whether the server does, in the middle of the run.
        code: the exit code.
    """

    name: str
    title: str
    command: str
    moment: Callable[[str], int] | None = None
    faults: tuple[Rule, ...] = ()
    goes_away: bool = False
    code: int = 0
    columns: int = COLUMNS


def in_the_middle(text: str) -> int:
    """How good a moment this is: a bar that is neither empty nor full, and files in progress at different shares."""
    done, begun, rest = (text.count(each) for each in "━┅─")
    if not 0.3 <= (done + begun) / ((done + begun + rest) or 1) <= 0.9:
        return 0
    return len(set(re.findall(r"(\d+) %", text)))


def throttled(text: str) -> int:
    """The server asks to slow down, and some files are there."""
    return in_the_middle(text) + 1 if "slow down: " in text else 0


def gone(text: str) -> int:
    """The server has been gone for some seconds, and is not given up yet."""
    found = re.search(r"refuses connections \((\d+) s\); next try", text)
    return int(found[1]) if found and int(found[1]) < 15 else 0


SLOW_DOWN = Rule(Status(503, "SlowDown"), operation=("PutObject", "UploadPart"), probability=0.2)
DENIED = Rule(Status(403, "AccessDenied"), operation="PutObject", key="*sub-02_desc-0*_plot.svg")
EXPORT = "asyncsink export derivatives s3://tryout"
SHOTS = (
    Shot("plan", "What would be sent", "asyncsink plan derivatives s3://tryout/study"),
    Shot(
        "run",
        "A run",
        "asyncsink export derivatives s3://tryout/study --manifest study.jsonl",
        in_the_middle,
    ),
    Shot("run-wide", "A run in a terminal of 120 columns", f"{EXPORT}/wide", in_the_middle, columns=120),
    Shot("throttled", "A server that asks to slow down", f"{EXPORT}/slow", throttled, faults=(SLOW_DOWN,)),
    Shot(
        "gone",
        "A server that is gone",
        f"{EXPORT}/gone --give-up-after 20s",
        gone,
        goes_away=True,
        code=1,
    ),
    Shot("failures", "A run with failures", f"{EXPORT}/part", faults=(DENIED,), code=1),
    Shot("again", "The same command again", "asyncsink export derivatives s3://tryout/study --manifest study.jsonl"),
    Shot("verify", "The receipt, proven", "asyncsink verify study.jsonl --read-back"),
    Shot("grab", "The way back", "asyncsink grab s3://tryout/study copy", in_the_middle),
    Shot("check", "A folder compared with the bucket", "asyncsink check derivatives s3://tryout/study"),
    Shot(
        "explain",
        "How a path became a key",
        "asyncsink explain derivatives/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz s3://tryout/study "
        "--source derivatives",
    ),
)


def cohort(folder: Path) -> None:
    """Files with fMRIPrep's names: a few large, many small."""
    for subject in ("sub-01", "sub-02", "sub-03"):
        (folder / subject / "anat").mkdir(parents=True)
        (folder / subject / "func").mkdir()
        (folder / subject / "figures").mkdir()
        (folder / subject / "anat" / f"{subject}_desc-preproc_T1w.nii.gz").write_bytes(os.urandom(24 << 20))
        for task, size_mib in (("rest", 70), ("fingertapping", 20), ("linebisection", 20)):
            stem = folder / subject / "func" / f"{subject}_task-{task}"
            Path(f"{stem}_space-MNI152_desc-preproc_bold.nii.gz").write_bytes(os.urandom(size_mib << 20))
            Path(f"{stem}_desc-confounds_timeseries.tsv").write_bytes(os.urandom(200 << 10))
        for number in range(120):
            (folder / subject / "figures" / f"{subject}_desc-{number:03}_plot.svg").write_bytes(os.urandom(30 << 10))


def taken(shot: Shot, folder: Path, environment: dict[str, str], go_away: Callable[[], None]) -> list[Text]:
    """The rows of the terminal at the best moment. The command runs to its end.

    Args:
        go_away: stops the server, where the shot has that.
    """
    columns = shot.columns
    screen = pyte.Screen(columns, ROWS)
    stream = pyte.ByteStream(screen)
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (ROWS, columns))
    words = [sys.executable, "-m", "asyncsink.cli.main", *shlex.split(shot.command)[1:]]
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True
    )
    os.close(terminal)
    best, rows = 0, []
    try:
        while data := os.read(master, 65536):
            stream.feed(data)
            if shot.goes_away and in_the_middle("\n".join(screen.display)):
                go_away()
            if shot.moment is not None and (worth := shot.moment("\n".join(screen.display))) > best:
                best, rows = worth, lines_of(screen)
    except OSError:
        pass  # the other side is closed
    os.close(master)
    if process.wait() != shot.code:
        raise SystemExit("\n".join(screen.display))
    return rows or lines_of(screen)


def lines_of(screen: pyte.Screen) -> list[Text]:
    """The rows of a screen with their colours, without the empty ones at its end."""
    rows: list[Text] = []
    for number in range(ROWS):
        cells = [screen.buffer[number][column] for column in range(screen.columns)]
        row = Text()
        for style, same in groupby(cells, _style):
            row.append("".join(cell.data for cell in same), style)
        row.rstrip()
        rows.append(row)
    while rows and not rows[-1].plain:
        rows.pop()
    return rows


def _style(cell: Any) -> Style:
    name = cell.fg
    if re.fullmatch(r"[0-9a-f]{6}", name):
        name = f"#{name}"
    colour = {"default": None, "brown": "yellow", "brightbrown": "bright_yellow"}.get(
        name, re.sub(r"^bright(?=\w)", "bright_", name)
    )
    return Style(color=colour, bold=cell.bold, italic=cell.italics)


def draw(shot: Shot, lines: Sequence[Text], path: Path) -> None:
    """Write the picture."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=shot.columns, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.assemble(("$ ", "green"), (shot.command, "bold")), highlight=False)
        for line in lines:
            console.print(line, highlight=False)
        console.print()  # the picture cuts the descenders of its last line
        svg = console.export_svg(title=shot.title, theme=DIMMED_MONOKAI, unique_id=f"asyncsink-{shot.name}")
    path.write_text(_PREAMBLE.sub("\n", svg).replace("Fira Code, monospace", "monospace"), encoding="utf-8")


def main(names: Sequence[str]) -> None:
    """Draw the pictures of these names, or all of them."""
    images = GUIDE / "images"
    with tempfile.TemporaryDirectory() as made, DevServer(buckets=("tryout",)) as server:
        folder = Path(made)
        cohort(folder / "derivatives")
        environment = {**os.environ, **server.environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        environment |= {"XDG_STATE_HOME": str(folder / "state"), "ASYNCSINK_EXPORT_BANDWIDTH": "40MB"}
        environment.pop("COLUMNS", None)
        for shot in SHOTS:
            with ExitStack() as exits:
                where = environment
                if shot.faults or shot.goes_away:
                    proxy = exits.enter_context(FaultProxy(server.endpoint_url, *shot.faults, seed=3))
                    where = {**environment, "AWS_ENDPOINT_URL": proxy.endpoint_url}
                lines = taken(shot, folder, where, exits.close)
            print("\n".join(line.plain for line in lines), end="\n\n")
            if not names or shot.name in names:
                draw(shot, lines, images / f"{shot.name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
