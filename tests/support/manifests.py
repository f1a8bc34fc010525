"""Receipt manifests as runs would have written them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asyncsink.model import Checksum, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, ManifestRecord, read_manifest
from asyncsink.report.outcomes import encode
from asyncsink.splitting.files import SplitPart, SplitPlan, write_plan


def checksum_of(text: str) -> Checksum:
    return Checksum("CRC64NVME", f"{text:A<11}=")


def receipt_of(key: str, content: str = "one", *, bucket: str = "results", source: str = "", **more: Any) -> Receipt:
    known: dict[str, Any] = {"etag": "", "version_id": "", "attempts": 1, "seconds": 0.5, "local_copy": ""}
    known |= {"checksum": checksum_of(content), "confirmed_by": "server-checksum"}
    return Receipt(source or f"/data/{key}", key, f"s3://{bucket}/{key}", 10, **(known | more))


def skip_of(key: str, content: str = "one", *, bucket: str = "results", **more: Any) -> Skip:
    known: dict[str, Any] = {"checksum": checksum_of(content)}
    return Skip(f"/data/{key}", key, f"s3://{bucket}/{key}", 10, "same checksum", **(known | more))


def failure_of(key: str, *, bucket: str = "results", source: str = "", stage: Any = "upload") -> Failure:
    return Failure(source or f"/data/{key}", key, f"s3://{bucket}/{key}", "AccessDenied", "It is refused.", stage)


def write_manifest(
    path: Path,
    outcomes: Sequence[Outcome],
    *,
    destination: str = "s3://results",
    started: int = 0,
    end: bool = True,
    interrupted: bool = False,
    **header: Any,
) -> Path:
    """A manifest of these outcomes; `started` is the minute in which its run began."""
    first = ManifestHeader(destination=destination, started=f"2026-11-30T10:{started:02}:00+00:00", **header)
    counts = {
        name: sum(isinstance(each, kind) for each in outcomes)
        for name, kind in {"receipts": Receipt, "skips": Skip, "failures": Failure, "planned": Planned}.items()
    }
    last = ManifestEnd(**counts, interrupted=interrupted, ended="2026-11-30T11:00:00+00:00")
    lines = [json.dumps({"record": "run", **asdict(first)}), *map(encode, outcomes)]
    if end:
        lines.append(json.dumps({"record": "end", **asdict(last)}))
    path.write_text("\n".join([*lines, ""]))
    return path


def manifest_of(path: Path) -> tuple[ManifestHeader, list[ManifestRecord], ManifestEnd]:
    """The header, the outcomes and the end of a manifest."""
    manifest = read_manifest(path)
    *outcomes, end = manifest.records()
    assert isinstance(end, ManifestEnd)
    return manifest.header, outcomes, end


def write_split(folder: Path, objects: Sequence[int]) -> None:
    """The plan of a split with so many objects in each part."""
    parts = [
        SplitPart(
            file=f"part-{number:05}.jsonl",
            receipts=f"receipts-{number:05}.jsonl",
            first_key="a",
            last_key="b",
            objects=count,
            bytes=count,
            digest="sha256:0",
        )
        for number, count in enumerate(objects)
    ]
    plan = SplitPlan(
        asyncsink="1",
        created="2026-11-30T10:00:00+00:00",
        source="/data",
        destination="s3://results",
        options={},
        objects=sum(objects),
        bytes=sum(objects),
        left_out={},
        parts=tuple(parts),
    )
    write_plan(str(folder), plan)
