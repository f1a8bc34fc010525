"""A whole benchmark: objects to read, the steps, and the clean-up, whatever happened before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio

from asyncsink.bench.latencies import check_histograms
from asyncsink.bench.objects import BenchObjects
from asyncsink.bench.order import Order
from asyncsink.bench.report import BenchReport
from asyncsink.bench.step import StepResult, run_step
from asyncsink.errors import AsyncSinkError
from asyncsink.event_loops import surface

CLEANUP_SECONDS: Final = 60.0
"""Longest clean-up of a benchmark that was interrupted."""


async def run_bench(
    destination: str,
    order: Order,
    options: Mapping[str, Any],
    *,
    step_ended: Callable[[StepResult], None],
    report: BenchReport,
) -> None:
    """Carry out a benchmark, step by step, into `report`.

    Args:
        destination: "s3://bucket/prefix", below which it makes a folder of its own.
        order: what to measure.
        options: how to reach the bucket; of `ExportOptions`.
        step_ended: called after each step, on the event loop.
        report: gets every step when it has ended, also where a later one fails.

    Raises:
        ConfigError: an option is wrong, or HdrHistogram is missing; nothing was sent.
        AsyncSinkError: the bucket cannot be used.

    Cancelled, it ends what is under way, and cleans up for `CLEANUP_SECONDS` at most where that was asked for.
    """
    check_histograms()
    objects = BenchObjects(destination, order, options)
    report.prefix = objects.prefix
    finished = False
    try:
        if order.reads:
            await objects.fill()
        for workers in order.ramp:
            step = await run_step(order, workers, objects)
            report.steps.append(step)
            step_ended(step)
        finished = True
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        report.objects_written, report.bytes_written = objects.written, objects.bytes_written
        if order.cleanup and objects.written:
            with anyio.move_on_after(None if finished else CLEANUP_SECONDS, shield=not finished) as bound:
                try:
                    report.objects_left = await objects.delete()
                except AsyncSinkError as error:
                    report.objects_left = objects.written
                    report.notices.append(f"The objects could not be deleted: {error}")
            if bound.cancelled_caught:
                report.objects_left = objects.written
        else:
            report.objects_left = objects.written
