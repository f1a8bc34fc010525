"""A script: outputs of a workflow, without an event loop of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import asyncsink
from asyncsink import Report, RetryPolicy, export_sync


def published(outputs: dict[str, list[Path]], destination: str) -> Report:
    return export_sync(
        outputs,
        destination,
        container="sub-01",
        substitutions=[("_run_", "run-")],
        local_copy=Path("backup"),
        manifest="receipts.jsonl",
        journal=False,
        concurrency=16,
        retry=RetryPolicy(attempts=3),
    )


def main() -> int:
    nested: dict[str, str | list[str] | None] = {
        "motion": "motion.par",
        "contrasts.@con": ["a.nii", "b.nii"],
        "none": None,
    }
    loaded = json.loads(Path("outputs.json").read_text())
    report = published({"motion": [Path("motion.par")]}, sys.argv[1])
    for other in (export_sync(nested, sys.argv[1]), export_sync(loaded, Path("results"))):
        print(other.summary())
    for failure in report.failures:
        print(failure.source, failure.error, failure.message)
    sizes: int = sum(receipt.size_bytes for receipt in report.receipts)
    first: list[str] = report.out_file[:1]
    print(sizes, first, report.skips[0].reason if report.skips else "")
    try:
        report.raise_for_failures()
    except asyncsink.ExportFailed as error:
        print(error.report.counts.objects_failed if error.report is not None else error)
        return 1
    return 0
