"""The guide's pictures of the command at work, each taken from a real run: `make screenshots` draws them.

A program runs in a terminal of 80 columns against a server of its own; what stands on the screen at one moment becomes
an SVG without anything from elsewhere.
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
from tests.support.guide import GUIDE

COLUMNS = 80
ROWS = 40
_PREAMBLE = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)


@dataclass(frozen=True)
class Shot:
    """One picture: the command, and how good a moment is to take the screen (the end, unless given)."""

    name: str
    title: str
    command: str
    moment: Callable[[str], int] | None = None


def in_the_middle(text: str) -> int:
    """How good a moment this is: the bar between 35 and 75 %, and the files in progress at different shares."""
    shares = [int(found) for found in re.findall(r"(\d+) %", text)]
    return len(set(shares)) if len(shares) > 2 and 35 <= shares[0] <= 75 else 0


SHOTS = (
    Shot("plan", "What would be sent", "asyncsink plan derivatives s3://tryout/study"),
    Shot(
        "run",
        "A run",
        "asyncsink export derivatives s3://tryout/study --manifest study.jsonl",
        in_the_middle,
    ),
)


def cohort(folder: Path) -> None:
    """Files with fMRIPrep's names: a few large, many small."""
    for subject in ("sub-01", "sub-02", "sub-03"):
        (folder / subject / "anat").mkdir(parents=True)
        (folder / subject / "func").mkdir()
        (folder / subject / "figures").mkdir()
        (folder / subject / "anat" / f"{subject}_desc-preproc_T1w.nii.gz").write_bytes(os.urandom(24 << 20))
        for task in ("rest", "fingertapping", "linebisection"):
            stem = folder / subject / "func" / f"{subject}_task-{task}"
            Path(f"{stem}_space-MNI152_desc-preproc_bold.nii.gz").write_bytes(os.urandom(70 << 20))
            Path(f"{stem}_desc-confounds_timeseries.tsv").write_bytes(os.urandom(200 << 10))
        for number in range(120):
            (folder / subject / "figures" / f"{subject}_desc-{number:03}_plot.svg").write_bytes(os.urandom(30 << 10))


def taken(shot: Shot, folder: Path, environment: dict[str, str]) -> list[Text]:
    """The rows of the terminal at the best moment. The command runs to its end."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (ROWS, COLUMNS))
    words = [sys.executable, "-m", "asyncsink.cli.main", *shlex.split(shot.command)[1:]]
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True
    )
    os.close(terminal)
    best, rows = 0, []
    try:
        while data := os.read(master, 65536):
            stream.feed(data)
            if shot.moment is not None and (worth := shot.moment("\n".join(screen.display))) > best:
                best, rows = worth, lines_of(screen)
    except OSError:
        pass  # the other side is closed
    os.close(master)
    if process.wait() != 0:
        raise SystemExit("\n".join(screen.display))
    return rows or lines_of(screen)


def lines_of(screen: pyte.Screen) -> list[Text]:
    """The rows of a screen with their colours, without the empty ones at its end."""
    rows: list[Text] = []
    for number in range(ROWS):
        cells = [screen.buffer[number][column] for column in range(COLUMNS)]
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
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
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
        environment |= {"XDG_STATE_HOME": str(folder / "state"), "COLUMNS": str(COLUMNS), "ASYNCSINK_BANDWIDTH": "60MB"}
        for shot in SHOTS:
            lines = taken(shot, folder, environment)
            print("\n".join(line.plain for line in lines), end="\n\n")
            if not names or shot.name in names:
                draw(shot, lines, images / f"{shot.name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
