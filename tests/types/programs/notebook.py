"""Cells of a notebook: everything at the top level, with `await` in functions."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import asyncsink

report = asyncsink.export_sync({"raw": ["a.nii"]}, "s3://bucket/prefix")
report
receipts: Sequence[asyncsink.Receipt] = report.receipts
checksums = {receipt.key: receipt.checksum.value for receipt in receipts if receipt.checksum is not None}


async def cells(where: PathLike[str]) -> None:
    tree = await asyncsink.export_directory(where, "s3://bucket/tree", exclude=["*.tmp"], observe=print)
    grabbed = await asyncsink.grab("s3://bucket/tree", where, template="sub-%s/.*", infields={"subject": ["01"]})
    grabber = asyncsink.S3Grabber("s3://bucket/tree", where)
    again: asyncsink.GrabReport = await grabber.run()
    verified = await asyncsink.verify_manifest([where, "receipts.jsonl"])
    merged: asyncsink.MergeReport = await asyncsink.merge_manifests(["one.jsonl"], where)
    aborted = await asyncsink.abort_uploads("s3://bucket", older_than="24h", dry_run=True)
    cut: asyncsink.SplitReport = await asyncsink.split(where, "s3://bucket", "parts", parts=4)
    part = await asyncsink.run_part("parts", 1)
    print(tree.ok, grabbed.outputs, again.bytes_fetched, verified.ok, merged, aborted, cut, part.summary())


def plans(where: PathLike[str]) -> None:
    plan: asyncsink.Report = asyncsink.plan_sync(where, "s3://bucket/tree", exclude=["*.tmp"])
    of_outputs = asyncsink.plan_sync({"raw": ["a.nii"]}, where, container="sub-01")
    planned: Sequence[asyncsink.Planned] = plan.planned
    requests: int = of_outputs.figures().requests["PutObject"]
    steps: list[str] = [step.text for found in asyncsink.explain("a", where, where) for step in found.steps]
    print(planned, requests, steps, plan.summary())
