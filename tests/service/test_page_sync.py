"""The section of the guide's page about services for synchronous code."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncsink
from tests.support.guide import example


def test_views_and_tasks(options: dict[str, Any], tree: Path, bucket: str) -> None:
    page = example("service.md", "Django, Celery and other synchronous code")
    assert "not opened" in repr(page.sink)
    # Django's classes, as far as the page needs them.
    page.HttpResponse = lambda body, content_type="": SimpleNamespace(status_code=200, content=body)
    page.HttpResponseNotFound = lambda body: SimpleNamespace(status_code=404)
    page.StreamingHttpResponse = lambda chunks: SimpleNamespace(streaming_content=chunks)
    page.reader = asyncsink.SyncReader(f"s3://{bucket}/study", **options)
    page.sink = asyncsink.SyncSink(f"s3://{bucket}/study", on_collision="last", **options)
    content = tree / "sub" / "large.nii.gz"
    with page.reader, page.sink:
        assert page.publish("sub-01", content) == f"s3://{bucket}/study/sub-01/bold.nii"
        page.sink.put("t", tree / "a.txt", key="sub-01/thumb.png")
        assert page.thumbnail(None, "sub-01").content == b"alpha"
        request = SimpleNamespace(FILES={"notes": io.BytesIO(b"noted")})
        assert page.upload(request, "sub-01").content == f"s3://{bucket}/study/sub-01/notes.txt"
        assert page.reader.get("sub-01/notes.txt") == b"noted"
        assert page.thumbnail(None, "sub-02").status_code == 404
        assert b"".join(page.scan(None, "sub-01").streaming_content) == content.read_bytes()
        assert page.scan(None, "sub-02").status_code == 404
