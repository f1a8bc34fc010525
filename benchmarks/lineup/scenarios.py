"""What is published: each scenario is a directory of seeded, incompressible files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.lineup.cohort import SCALE, Member, load_cohort

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_POOL_BYTES = 16 * MIB
_PER_FOLDER = 500
DATA = "data"
"""Basename of every data set's directory, and the prefix of its keys: Nipype's DataSink names keys by the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A data set, and what is done with it.

    Attributes:
        title: for tables; the number of files stands beside it.
        members: the files, as a function of `quick`.
        at_once: requests that everybody may have in flight; 0: everybody's own defaults.
        delay_ms, bytes_per_second: of a null server, see `running_server`.
        repeat: everything is there already, unchanged; the second publication is what is measured.
        linked: all files are names of one file (hard links).
        grab: the files are in the bucket, and it is measured how they are brought back into a directory.
        reads: the objects are in the bucket of a null server, and a service reads them.
        producers: callers at once of a service that publishes from one running event loop; 0 is no service.
        contenders: who can be compared here; () is everybody who is not meant for another scenario alone.
        reference: whom the ratios are of; "" is asyncsink itself.
    """

    name: str
    title: str
    members: Callable[[bool], list[Member]]
    at_once: int = 32
    delay_ms: float = 0.0
    bytes_per_second: float = 0.0
    repeat: bool = False
    linked: bool = False
    grab: bool = False
    reads: bool = False
    producers: int = 0
    contenders: tuple[str, ...] = ()
    reference: str = ""


REFERENCE, REFERENCE_ENGINE = "asyncsink", "asyncsink-api"
PUT, SUBMIT, PUT_BYTES, DIRECTORY = "asyncsink-put", "asyncsink-submit", "asyncsink-put-bytes", "asyncsink-directory"
OBSTORE_BYTES, OBSTORE_PATH, AIOBOTO3_BYTES = "obstore-bytes", "obstore-path", "aioboto3-bytes"
GET, OBSTORE_GET, AIOBOTO3_GET = "asyncsink-get", "obstore-get", "aioboto3-get"
READERS = (GET, OBSTORE_GET, AIOBOTO3_GET)
SERVICES = (PUT, SUBMIT, PUT_BYTES, DIRECTORY, OBSTORE_BYTES, OBSTORE_PATH, AIOBOTO3_BYTES, *READERS)
DATASINK, OUR_DATASINK = "datasink", "asyncsink-datasink"
OTHER_LOOP = "asyncsink-uvloop"
"""Contenders: Nipype's DataSink, and ours, which are compared with each other; likewise the services."""
_LATE = (REFERENCE, REFERENCE_ENGINE, "obstore-unsigned", "s5cmd")
SERVICE_PRODUCERS = 32
"""Callers at once where a service's CPU is measured."""
_WAITED_FOR = (PUT, PUT_BYTES, OBSTORE_BYTES, AIOBOTO3_BYTES)
"""Services whose callers wait until their object is published."""
S3_BYTES_PER_SECOND = 90e6
"""What Amazon says that one connection to S3 carries at most."""


def _equal(count: int, quick_count: int, size_bytes: int) -> Callable[[bool], list[Member]]:
    def members(quick: bool) -> list[Member]:
        total = quick_count if quick else count
        return [Member(f"part-{n // _PER_FOLDER:03d}/file-{n:06d}.bin", size_bytes) for n in range(total)]

    return members


def _large(count: int) -> Callable[[bool], list[Member]]:
    # One file with many names: always in the page cache, on small machines too, so that no disk is measured.
    return lambda quick: [Member(f"volume-{n}/volume.bin", 64 * MIB if quick else GIB) for n in range(count)]


def _of_sinks(name: str, title: str, members: Callable[[bool], list[Member]]) -> tuple[Scenario, Scenario]:
    """Nipype's DataSink beside ours: the first run, and the next one."""
    sinks = (OUR_DATASINK, DATASINK)
    first = Scenario(name=name, title=f"DataSink: {title}", members=members, contenders=sinks, reference=OUR_DATASINK)
    return first, replace(first, name=f"{name}-rerun", title=f"DataSink again: {title}", repeat=True)


def _late(delay_ms: int) -> tuple[Scenario, Scenario]:
    """A server that answers late: with everybody's own defaults, and with 32 requests at once for everybody."""
    title = f"Files of 16 KiB, answers {delay_ms} ms late"
    return (
        Scenario(
            name=f"latency-{delay_ms}",
            title=f"{title}, own defaults",
            members=_SMALL,
            at_once=0,
            delay_ms=delay_ms,
            contenders=_LATE,
        ),
        Scenario(
            name=f"latency-{delay_ms}-32",
            title=f"{title}, 32 at once",
            # 32 requests at once are 320 objects a second at 100 ms, whoever sends them.
            members=_SMALL if delay_ms <= 20 else _equal(5_000, 500, 16 * KIB),
            delay_ms=delay_ms,
            contenders=_LATE,
        ),
    )


def _service(producers: int, count: int, contenders: tuple[str, ...]) -> Scenario:
    """A service with one event loop, whose lag and latency are measured beside its speed."""
    return Scenario(
        name="service" if producers == SERVICE_PRODUCERS else f"service-{producers}",
        title=f"Service: objects of 16 KiB, {producers} producers",
        members=_equal(count, count // 10, 16 * KIB),
        at_once=0,
        producers=producers,
        contenders=contenders,
        reference=PUT,
    )


def _reading(producers: int, count: int) -> Scenario:
    """A service that reads small objects, each call on its own."""
    return Scenario(
        name=f"service-read-{producers}",
        title=f"Service: reads of 16 KiB, {producers} callers",
        members=_equal(count, count // 10, 16 * KIB),
        at_once=0,
        reads=True,
        producers=producers,
        contenders=READERS,
        reference=GET,
    )


def _cohort(scale: int) -> Callable[[bool], list[Member]]:
    return lambda quick: load_cohort(scale=scale, every=8 if quick else 1)


_SMALL = _equal(20_000, 2_000, 16 * KIB)

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="small", title="Files of 16 KiB", members=_SMALL),
        Scenario(
            name="loops",
            title="Files of 16 KiB, asyncio's own event loop and uvloop, own defaults",
            members=_SMALL,
            at_once=0,
            contenders=(REFERENCE_ENGINE, OTHER_LOOP),
            reference=REFERENCE_ENGINE,
        ),
        Scenario(name="tiny", title="Files of 512 B", members=_equal(200_000, 5_000, 512)),
        Scenario(name="tiny-20k", title="Files of 512 B, a tenth as many", members=_equal(20_000, 500, 512)),
        Scenario(name="large", title="Large files", members=_large(8), linked=True),
        Scenario(name="large-4", title="Large files, half as many", members=_large(4), linked=True),
        Scenario(
            name="limited",
            title="Large files, 90 MB/s for each connection, own defaults",
            members=_large(2),
            linked=True,
            at_once=0,
            bytes_per_second=S3_BYTES_PER_SECOND,
            contenders=_LATE,
        ),
        Scenario(name="cohort", title="A cohort: fMRIPrep derivatives of ds000114, sizes ÷ 20", members=_cohort(SCALE)),
        Scenario(
            name="cohort-rerun", title="The cohort again, unchanged, sizes ÷ 100", members=_cohort(100), repeat=True
        ),
        *(each for delay_ms in (5, 20, 50, 100) for each in _late(delay_ms)),
        _service(SERVICE_PRODUCERS, 10_000, tuple(name for name in SERVICES if name not in (OBSTORE_PATH, *READERS))),
        _service(1, 2_000, _WAITED_FOR),
        _service(16, 10_000, _WAITED_FOR),
        _service(256, 10_000, _WAITED_FOR),
        _reading(1, 2_000),
        _reading(16, 10_000),
        _reading(256, 10_000),
        Scenario(
            name="service-large",
            title="Service: one large file, submitted",
            members=_large(1),
            at_once=0,
            producers=1,
            contenders=(SUBMIT, OBSTORE_PATH),
            reference=SUBMIT,
        ),
        *_of_sinks("sink-small", "files of 16 KiB", _equal(2_000, 200, 16 * KIB)),
        *_of_sinks("sink-large", "one large file", _large(1)),
        Scenario(name="grab-small", title="Grab into memory: objects of 16 KiB", members=_SMALL, grab=True),
        Scenario(name="grab-large", title="Grab into memory: large objects", members=_large(2), grab=True),
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
