"""The service of the guide's page about services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.guide import example
from tests.support.streams import body_of, pieces

pytestmark = pytest.mark.anyio


async def test_a_fastapi_service(bucket: str, stored: Callable[[], dict[str, bytes]], options: dict[str, Any]) -> None:
    page, data = example("service.md", "A FastAPI service"), body_of(1 << 20)
    app = page.make_app(f"s3://{bucket}", **options)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        answer = await client.put("/scans/sub-01/v1.2.nii", content=pieces(data))
        assert (answer.status_code, answer.json()["key"]) == (201, "sub-01/v1.2.nii")
        refused = await client.put("/scans/sub-01/%2E%2E", content=b"x")
        assert (refused.status_code, "segment" in refused.json()["detail"]) == (422, True)
        health = await client.get("/healthz")
        assert (health.status_code, health.json()["published"]) == (200, 1)
    assert stored() == {"sub-01/v1.2.nii": data}
