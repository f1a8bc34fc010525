"""What is published: each scenario is a directory of seeded, incompressible files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cohort import Member, load_cohort

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_POOL_BYTES = 16 * MIB
_PER_FOLDER = 500
DATA = "data"
"""Basename of every data set's directory, and the prefix of its keys: Nipype's DataSink names keys by the directory."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A data set, and whether it is published for the first time.

    Attributes:
        title: for tables; the number of files stands beside it.
        members: the files, as a function of `quick`.
        repeat: everything is there already, unchanged; the second publication is what is measured.
        linked: all files are names of one file (hard links).
        grab: the files are in the bucket, and it is measured how they are brought back into a directory.
        contenders: who can be compared here; () is everybody.
        reference: whom the ratios are of; "" is asyncsink itself.
    """

    name: str
    title: str
    members: Callable[[bool], list[Member]]
    repeat: bool = False
    linked: bool = False
    grab: bool = False
    contenders: tuple[str, ...] = ()
    reference: str = ""


DATASINK, OUR_DATASINK = "datasink", "asyncsink-datasink"
"""Contenders: Nipype's DataSink, and ours, which are compared with each other."""


def _equal(count: int, quick_count: int, size_bytes: int) -> Callable[[bool], list[Member]]:
    def members(quick: bool) -> list[Member]:
        total = quick_count if quick else count
        return [Member(f"part-{n // _PER_FOLDER:03d}/file-{n:06d}.bin", size_bytes) for n in range(total)]

    return members


def _large(quick: bool) -> list[Member]:
    count, size = (8, 64 * MIB) if quick else (8, GIB)
    return [Member(f"volume-{n}.bin", size) for n in range(count)]


def _one_large(quick: bool) -> list[Member]:
    return [Member("volume.bin", 64 * MIB if quick else GIB)]


def _two_large(quick: bool) -> list[Member]:
    return [Member(f"volume-{n}.bin", 64 * MIB if quick else GIB) for n in range(2)]


def _of_sinks(name: str, title: str, members: Callable[[bool], list[Member]]) -> tuple[Scenario, Scenario]:
    """Nipype's DataSink beside ours: the first run, and the next one."""
    sinks = (OUR_DATASINK, DATASINK)
    return (
        Scenario(name, f"DataSink: {title}", members, contenders=sinks, reference=OUR_DATASINK),
        Scenario(
            f"{name}-rerun", f"DataSink again: {title}", members, repeat=True, contenders=sinks, reference=OUR_DATASINK
        ),
    )


def _cohort(quick: bool) -> list[Member]:
    return load_cohort(every=8) if quick else load_cohort()


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("small", "Files of 16 KiB", _equal(20_000, 2_000, 16 * KIB)),
        Scenario("tiny", "Files of 512 B", _equal(200_000, 5_000, 512)),
        # One file with eight names: always in the page cache, on small machines too, so that no disk is measured.
        Scenario("large", "Large files", _large, linked=True),
        Scenario("cohort", "A cohort: fMRIPrep derivatives of ds000114, sizes ÷ 20", _cohort),
        Scenario("cohort-rerun", "The same cohort again, unchanged", _cohort, repeat=True),
        *_of_sinks("sink-small", "files of 16 KiB", _equal(2_000, 200, 16 * KIB)),
        *_of_sinks("sink-large", "one large file", _one_large),
        Scenario("grab-small", "Grab: objects of 16 KiB", _equal(20_000, 2_000, 16 * KIB), grab=True),
        Scenario("grab-large", "Grab: large objects", _two_large, grab=True),
    )
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """Files on disk, ready to be published.

    Attributes:
        directory: absolute; its basename is DATA.
        members: what is in it.
    """

    scenario: Scenario
    directory: Path
    members: tuple[Member, ...]

    @property
    def objects(self) -> int:
        """Number of files."""
        return len(self.members)

    @property
    def size_bytes(self) -> int:
        """Sum of their sizes."""
        return sum(member.size_bytes for member in self.members)

    @property
    def largest_bytes(self) -> int:
        """Size of the largest file."""
        return max(member.size_bytes for member in self.members)


def make_data_set(scenario: Scenario, parent: Path, *, quick: bool = False, seed: int = 0) -> DataSet:
    """Write the scenario's files below `parent`/DATA and wait until they are on disk.

    The same seed gives the same bytes. Blocking; about 3 s per GB.

    Raises:
        OSError: no space, or no permission.
    """
    members = tuple(scenario.members(quick))
    directory = parent / DATA
    if directory.exists():
        shutil.rmtree(directory)
    source = random.Random(f"{scenario.name.removesuffix('-rerun')} {seed}")
    pool = memoryview(source.randbytes(_POOL_BYTES))
    first: Path | None = None
    for folder in {(directory / member.path).parent for member in members}:
        folder.mkdir(parents=True, exist_ok=True)
    for member in members:
        path = directory / member.path
        if scenario.linked and first is not None:
            path.hardlink_to(first)
            continue
        first = path
        _write(path, member.size_bytes, pool, source)
    os.sync()  # else the kernel writes them back while the first contender is measured
    return DataSet(scenario, directory, members)


def _write(path: Path, size_bytes: int, pool: memoryview, source: random.Random) -> None:
    """A file of slices of the pool, each preceded by 16 bytes of its own, so that no two pieces are alike."""
    with path.open("wb") as file:
        left = size_bytes
        while left > 0:
            file.write(source.randbytes(16)[:left])
            left -= min(left, 16)
            start = source.randrange(_POOL_BYTES // 2)
            piece = pool[start : start + min(left, MIB)]
            file.write(piece)
            left -= len(piece)
