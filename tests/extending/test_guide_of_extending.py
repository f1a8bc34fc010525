"""The examples of the guide's page extending.md do what it says, and pass the suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.guide import example

pytestmark = pytest.mark.anyio

transport = example("extending.md", "A transport around asyncsink's")
server = transport.server
TestQuota = transport.TestQuota


async def test_an_export_within_a_quota(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    report, sent = await transport.export_within_quota({"x": tree}, f"s3://{bucket}/p", **options)
    assert report.ok
    assert report.objects_uploaded == 5
    assert (sent["PutObject"], sent["UploadPart"], sum(sent.values())) == (4, 3, report.requests)
