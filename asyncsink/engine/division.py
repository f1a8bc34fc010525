"""Pure: how many processes a run gets, and what each of them may use."""

from __future__ import annotations

from dataclasses import replace

from asyncsink.config import BANDWIDTH_BYTES_PER_SECOND_MIN, Limits, Settings
from asyncsink.errors import ConfigError
from asyncsink.s3.part_plan import PARTS_MAX
from asyncsink.sources.base import Source

AUTO_PROCESSES_MAX = 8
"""Beyond this, one parent that walks and records is the limit."""
AUTO_OBJECTS_MIN = 10_000
"""Below, starting a process costs about as much as it saves: 0.15 seconds of CPU, in which nothing is sent yet, while
two cores save some 30 microseconds per small object. Bytes do not count: the threads that send large files use every
core from one process already."""


def check_division(settings: Settings, source: Source | None) -> None:
    """Refuse what cannot be divided. `source` is None where transfers come one by one, from a program.

    Raises:
        ConfigError: `processes` or `shard` does not fit the source or another option.
    """
    processes, shard = settings.processes, settings.shard
    if source is None and shard.count > 1:
        raise ConfigError(f"shard={shard} divides a walk, and an AsyncSink walks nothing; submit less, or use export.")
    if shard.count > 1 and settings.remove_dest_dir:
        raise ConfigError(
            f"shard={shard} and remove_dest_dir contradict each other: every shard would remove what the others have "
            "written; remove the directories yourself before the first one starts."
        )
    if processes in ("auto", 1):
        return
    obstacle = indivisible(settings, source)
    if obstacle:
        raise ConfigError(f"processes={processes} cannot be used here: {obstacle}; use processes=1.")


def indivisible(settings: Settings, source: Source | None) -> str:
    """Why the run cannot have several processes, or ""."""
    if source is None:
        return "an AsyncSink gets its files one by one"
    if not source.replayable:
        return "the source is a stream, which nobody can survey before it is sent"
    if settings.caller_bucket is not None and not isinstance(settings.caller_bucket, str):
        return "the bucket object lives in this process only (give the bucket's name)"
    return ""


def processes_for(
    settings: Settings, source: Source, *, objects: int, largest_bytes: int, cores: int, dry_run: bool
) -> int:
    """How many processes publish a surveyed run.

    Never more than there are objects, than `concurrency` has requests, than `memory_bytes` has parts, and than leave
    each of them the memory that the parts of the largest file need, and a bandwidth that keeps connections alive.

    Args:
        objects, largest_bytes: number of files, and size of the largest, as the survey found them.
        cores: that this process may run on.
        dry_run: sends nothing, which one process does.
    """
    limits = settings.limits
    if dry_run or indivisible(settings, source):
        return 1
    if settings.processes == "auto":
        wanted = min(cores, AUTO_PROCESSES_MAX) if objects >= AUTO_OBJECTS_MIN else 1
    else:
        wanted = settings.processes
    most = min(objects, limits.memory_bytes // limits.part_size_bytes, limits.concurrency or wanted)
    if limits.bandwidth_bytes_per_second is not None:
        most = min(most, limits.bandwidth_bytes_per_second // BANDWIDTH_BYTES_PER_SECOND_MIN)
    if largest_bytes:
        most = min(most, limits.memory_bytes * PARTS_MAX // largest_bytes)
    return max(1, min(wanted, most))


def divide(limits: Limits, processes: int, queue_transfers: int) -> list[Limits]:
    """Each process's part of `limits`: together they use what one process would have used.

    Args:
        queue_transfers: that the parent lets each process have at a time.
    """
    bandwidth = limits.bandwidth_bytes_per_second
    return [
        replace(
            limits,
            concurrency=None if limits.concurrency is None else _share(limits.concurrency, processes, number),
            concurrency_start=_share(limits.concurrency_start, processes, number),
            concurrency_max=_share(limits.concurrency_max, processes, number),
            memory_bytes=max(limits.part_size_bytes, limits.memory_bytes // processes),
            reader_threads=_share(limits.reader_threads, processes, number),
            queue_transfers=queue_transfers,
            bandwidth_bytes_per_second=None if bandwidth is None else _share(bandwidth, processes, number),
        )
        for number in range(processes)
    ]


def _share(total: int, processes: int, number: int) -> int:
    return max(1, total // processes + (number < total % processes))
