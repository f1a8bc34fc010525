"""What is asked of the model: every order and number of machines, under every assumption about S3 that is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

from benchmarks.scale.fluid import Course, simulate
from benchmarks.scale.requests import simulate_requests
from benchmarks.scale.world import Bucket, Cut, Machines, Order, Parts, cohort_parts, cut_parts, small_parts

ORDERS: tuple[Order, ...] = get_args(Order)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COUNTS_OF_MANY = (1, 10, 100, 1000)
SPLIT_SECONDS = (60.0, 600.0, 3600.0)
SPLIT_LOADS = (0.5, 0.8, 1.0)
CUTS: tuple[Cut, ...] = get_args(Cut)
MIDDLE = Bucket()
"""The assumption that lines are drawn for; bands are over all of them."""
OBJECTS, MANY_OBJECTS = 15e6, 1e9
CHECKED_PARTS = 200
CHECKED_COUNTS = (1, 2, 4, 16, 64)
CHECKED_SECONDS = 60.0
SEEDS = (1, 2, 3)
RAMPS = (0.0, 60.0)
Tell = Callable[[str], None]


def assumptions(*, only_seconds: bool = False) -> Iterator[Bucket]:
    """Every combination of what is not known, or of the seconds until a split only."""
    loads, cuts = ((MIDDLE.split_load,), (MIDDLE.cut,)) if only_seconds else (SPLIT_LOADS, CUTS)
    for seconds, load, cut in product(SPLIT_SECONDS, loads, cuts):
        yield Bucket(split_seconds=seconds, split_load=load, cut=cut)


@dataclass(frozen=True, slots=True)
class DataOf:
    """What is published."""

    name: str
    title: str
    parts: Parts
    counts: tuple[int, ...]


def data(quick: bool) -> list[DataOf]:
    """Small files, a cohort, and very many small files; a hundredth of them where it is quick."""
    less = 100 if quick else 1
    counts, many = (COUNTS[::4], COUNTS_OF_MANY[::2]) if quick else (COUNTS, COUNTS_OF_MANY)
    return [
        DataOf("small", "15 million files of 16 KiB", small_parts(OBJECTS / less), counts),
        DataOf("cohort", "15 million files with the sizes of ds000114", cohort_parts(OBJECTS / less), counts),
        DataOf("many", "1,000 million files of 16 KiB", small_parts(MANY_OBJECTS / less), many),
    ]


def sweep(tell: Tell, *, quick: bool = False) -> dict[str, Any]:
    """All runs of the fluid model, and the seconds that they took."""
    result: dict[str, Any] = {"data": {}, "runs": [], "cpu_seconds": {}}
    for each in data(quick):
        tell(each.title)
        result["data"][each.name] = {"title": each.title, **each.parts.totals}
        simulate(MIDDLE, Machines(), each.parts)  # the policy is measured before anything is timed
        taken = []
        for count, order in product(each.counts, ORDERS):
            machines = Machines(count=count, order=order)
            for bucket in assumptions(only_seconds=each.name == "many"):
                began = time.process_time()
                course = simulate(bucket, machines, each.parts)
                taken.append(time.process_time() - began)
                result["runs"].append(_row(each.name, machines, bucket) | course.row)
        result["cpu_seconds"][each.name] = {
            "runs": len(taken), "longest": round(max(taken), 2), "together": round(sum(taken), 1),
        }  # fmt: skip
    return result


def courses(count: int, *, quick: bool = False) -> dict[Order, Course]:
    """Small files, one run of each order under the middle assumption, for the picture."""
    parts = small_parts(OBJECTS / (100 if quick else 1))
    return {order: simulate(MIDDLE, Machines(count=count, order=order), parts) for order in ORDERS}


def _row(name: str, machines: Machines, bucket: Bucket) -> dict[str, Any]:
    return {
        "data": name, "machines": machines.count, "order": machines.order,
        "split_seconds": bucket.split_seconds, "split_load": bucket.split_load, "cut": bucket.cut,
    }  # fmt: skip


# -- The check, request by request -------------------------------------------------------------------------------------


def checked(tell: Tell, *, quick: bool = False) -> list[dict[str, Any]]:
    """The fluid model beside requests one by one, over a million small files."""
    parts = cut_parts([16 * 1024] * 10_000)
    parts = replace(parts, objects=parts.objects / 2, requests=parts.requests / 2, bytes=parts.bytes / 2)
    parts = parts.repeated_to(5000 * (CHECKED_PARTS // (20 if quick else 1)))
    rows = []
    for count, order in product(CHECKED_COUNTS[:2] if quick else CHECKED_COUNTS, ORDERS):
        bucket, machines = Bucket(split_seconds=CHECKED_SECONDS), Machines(count=count, order=order)
        fluid = simulate(bucket, machines, parts)
        single = [simulate_requests(bucket, machines, parts, seed=seed) for seed in SEEDS]
        seconds = sum(each.seconds for each in single) / len(single)
        refused = sum(each.refused / each.requests for each in single) / len(single)
        rows.append(
            {
                "machines": count, "order": order, "objects": round(fluid.objects),
                "seconds": [round(fluid.seconds, 1), round(seconds, 1)],
                "spread_seconds": [round(min(each.seconds for each in single), 1),
                                   round(max(each.seconds for each in single), 1)],
                "refused_per_request": [round(fluid.refused / fluid.requests, 4), round(refused, 4)],
                "fluid_by_single": round(fluid.seconds / seconds, 3),
            }
        )  # fmt: skip
        tell(str(rows[-1]))
    return rows


def starts(tell: Tell) -> list[dict[str, Any]]:
    """Machines that start at once, and one after another: requests one by one, half a million of small files."""
    parts = small_parts(500_000)
    rows = []
    for count, ramp in product((4, 16, 64, 256), RAMPS):
        course = simulate_requests(MIDDLE, Machines(count=count, ramp_seconds=ramp), parts)
        rows.append(
            {
                "machines": count, "ramp_seconds": ramp, "seconds": round(course.seconds, 1),
                "refused": int(course.refused), "refused_per_request": round(course.refused / course.requests, 3),
            }
        )  # fmt: skip
        tell(str(rows[-1]))
    return rows
