"""The guide's section about reading."""

from __future__ import annotations

from typing import Any

import pytest

from asyncsink.options.settings import KIB
from tests.support.guide import example


@pytest.mark.anyio
async def test_the_example_of_the_guide(options: dict[str, Any], put: Any, bucket: str) -> None:
    put({"p/qc/summary.json": b"{}", "p/sub-01/bold.nii": bytes(KIB), "p/sub-01/x.txt": b"", "p/sub-01/a/b.nii": b"1"})
    put({"p/sub-010/c.nii": b"1"})
    sent: list[bytes] = []

    async def send(data: bytes) -> None:
        sent.append(data)

    page = example("service.md", "Reading")
    found = await page.serve(f"s3://{bucket}/p", send)
    assert found == {"sub-01/bold.nii": KIB, "sub-01/a/b.nii": 1}
    assert sent == [b"{}", bytes(348)]
