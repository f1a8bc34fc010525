"""The answers to DeleteObjects are read for each object: versions, conditions, refusals, and what is not answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import asyncsink
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject

pytestmark = pytest.mark.anyio
OpenS3 = Callable[..., QuirkyS3]
ANSWER = b"""<?xml version="1.0" encoding="UTF-8"?>
<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Deleted><Key>p/versioned</Key><DeleteMarker>true</DeleteMarker>
<DeleteMarkerVersionId>v7</DeleteMarkerVersionId></Deleted>
<Error><Key>p/replaced</Key><Code>PreconditionFailed</Code><Message>It is another one.</Message></Error>
<Error><Key>p/locked</Key><Code>AccessDenied</Code><Message>It is locked.</Message></Error>
</DeleteResult>"""


async def test_each_objects_answer_counts(open_s3: OpenS3, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def quirk(r: Request) -> Answer | None:
        if r.method != "POST" or "delete" not in r.query:
            return None
        asked.append(r.body)
        return 200, {"Content-Type": "application/xml"}, ANSWER

    s3 = open_s3(quirk)
    for name in ("versioned", "replaced", "locked", "forgotten"):
        s3.objects["tryout"][f"p/{name}"] = StoredObject(b"1")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"a")
    manifest = tmp_path / "m.jsonl"
    report = await asyncsink.export_directory(
        tmp_path / "from", "s3://tryout/p", delete_extraneous=True, complete_marker="done", manifest=manifest
    )
    extraneous = report.closing.extraneous
    assert extraneous is not None
    assert (extraneous.deleted, extraneous.changed, extraneous.failed) == (1, 1, 2)
    assert {failure.key: failure.error for failure in report.failures} == {
        "p/locked": "AccessDenied",
        "p/forgotten": "ServerFault",
    }
    (deletion,) = asyncsink.read_manifest(manifest).deletions
    assert (deletion.key, deletion.version_id) == ("p/versioned", "v7")
    assert report.closing.complete_marker == ""
    (body,) = asked
    assert body.count(b"<ETag>") == 4
