"""Grabs: the bucket is filled once, each contender brings it into an empty directory, and every byte is compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.lineup.commands import Work
from benchmarks.lineup.contenders import CONTENDERS, Entrant
from benchmarks.lineup.scenarios import MIB, REFERENCE_ENGINE
from benchmarks.measuring.measuring import Measurement, launch, measure

_FILL_SECONDS = 3600.0
_PROBLEMS_TOLD = 5


def fill(work: Work) -> None:
    """Publish the data set, unmeasured, with asyncsink: every object has a CRC64NVME, as on S3. Blocking.

    A null server is filled before each grab instead: see `RunningServer.reset`.

    Raises:
        RuntimeError: it was not published.
    """
    if work.server.is_null:
        return
    output = work.scratch / "filling.txt"
    done = launch(CONTENDERS[REFERENCE_ENGINE].command(work), work, output, _FILL_SECONDS)
    if done["exit_status"] != 0:
        raise RuntimeError(f"The bucket was not filled: {output.read_text(errors='replace')}")


def grab_once(entrant: Entrant, work: Work, *, round_: int, place: int, limit_seconds: float) -> Measurement:
    """Measure one grab, compare what is there then, and remove it. Blocking."""
    work.target.mkdir()
    os.sync()  # where the target is on a disk, what is still to be written is not written while this one is measured
    try:
        made = measure(entrant, work, round_=round_, place=place, limit_seconds=limit_seconds)
        found = {str(path.relative_to(work.target)): path for path in work.target.rglob("*") if path.is_file()}
        made.objects, made.bytes = len(found), sum(path.stat().st_size for path in found.values())
        if made.status == "ok":
            problems = _differences(work, found)
            made.verified = "names, sizes and content of all"
            if problems:
                made.status = "failed"
                made.message = f"{len(problems):,} differences: " + "; ".join(problems[:_PROBLEMS_TOLD])
        return made
    finally:
        shutil.rmtree(work.target)


def _differences(work: Work, found: dict[str, Path]) -> list[str]:
    wanted = {member.path: member.size_bytes for member in work.data.members}
    zeros = work.server.is_null
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} should not be there" for name in found.keys() - wanted.keys()]
    for name in sorted(wanted.keys() & found.keys()):
        if found[name].stat().st_size != wanted[name]:
            problems.append(f"{name} has {found[name].stat().st_size} bytes, not {wanted[name]}")
        elif not _same(found[name], None if zeros else work.data.directory / name):
            problems.append(f"{name} has other content")
    return problems


def _same(path: Path, original: Path | None) -> bool:
    """Whether a file has the content of another of its size, or zeros only."""
    with path.open("rb") as file, (original or Path(os.devnull)).open("rb") as other:
        while piece := file.read(MIB):
            if piece != (bytes(len(piece)) if original is None else other.read(MIB)):
                return False
    return True
