"""How evenly the parts of a real cohort are dealt: largest ÷ mean of bytes per machine, in simulated time.

A machine that is free takes the next part. A part takes the time of its bytes and of its objects; by how much an object
costs, the shares of bytes differ from those of time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import Any

from asyncsink.options.settings import MIB, shard_of
from asyncsink.splitting.cutting import ByLimits, Cutter, IntoParts
from benchmarks.lineup.cohort import Member, load_cohort

MACHINES = (4, 7)
PREFIXES = 50
EACH = (1, 4, 16, 64)
"""Parts for each machine."""
BYTES_PER_SECOND = 1.25e9
SECONDS_PER_OBJECT = 1 / 5000
DASK_BYTES, DASK_OBJECTS = 256 * MIB, 1000
"""The parts of an export on Dask."""
Part = tuple[int, int]
"""Bytes and objects."""


def in_order(members: Sequence[Member]) -> list[Member]:
    """As a split has them: in the order of the keys' UTF-8."""
    return sorted(members, key=lambda member: member.path.encode())


def cut(members: Sequence[Member], cutter: Cutter) -> list[Part]:
    """Parts of these files."""
    parts: list[Part] = []
    for member in members:
        if cutter.begins(member.size_bytes):
            parts.append((0, 0))
        parts[-1] = parts[-1][0] + member.size_bytes, parts[-1][1] + 1
    return parts


def dealt(parts: Sequence[Part], machines: int) -> list[int]:
    """Bytes of each machine, where whoever is free takes the next part."""
    free = [(0.0, number) for number in range(machines)]
    heapify(free)
    held = [0] * machines
    for size_bytes, objects in parts:
        at, number = free[0]
        held[number] += size_bytes
        heapreplace(free, (at + size_bytes / BYTES_PER_SECOND + objects * SECONDS_PER_OBJECT, number))
    return held


def hashed(members: Sequence[Member], machines: int, prefix: str) -> list[int]:
    """Bytes of each machine, as `--shard` divides: the hash is of the whole key."""
    held = [0] * machines
    for member in members:
        held[shard_of(f"{prefix}/{member.path}", machines)] += member.size_bytes
    return held


def evenness(held: Sequence[int]) -> float:
    """Largest ÷ mean."""
    return round(max(held) * len(held) / sum(held), 3)


def balance() -> list[dict[str, Any]]:
    """For each number of machines and way of dividing."""
    members = in_order(load_cohort(scale=1))
    objects, total = len(members), sum(member.size_bytes for member in members)
    rows = []
    for machines in MACHINES:
        shards = sorted(evenness(hashed(members, machines, f"study-{number}")) for number in range(PREFIXES))
        rows.append(
            _row(machines, f"--shard, median of {PREFIXES} prefixes", machines, statistics.median(shards))
            | {"best": shards[0], "worst": shards[-1]}
        )
        cutters: dict[str, Cutter] = {
            "split without options": ByLimits(),
            "--part-bytes 256MiB --part-objects 1000": ByLimits(DASK_BYTES, DASK_OBJECTS),
        }
        for each in EACH:
            cutters[f"--parts {each * machines}"] = IntoParts(each * machines, objects_total=objects, bytes_total=total)
        for way, cutter in cutters.items():
            parts = cut(members, cutter)
            rows.append(_row(machines, way, len(parts), evenness(dealt(parts, machines))))
    return rows


def _row(machines: int, way: str, parts: int, even: float) -> dict[str, Any]:
    return {"machines": machines, "way": way, "parts": parts, "largest_by_mean": even}
