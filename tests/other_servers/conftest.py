"""Runs in this process against `QuirkyS3`, on either lane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.quirky_s3 import Quirk, QuirkyS3, quirky_s3

LANES = ("wire", "aioboto3")


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., QuirkyS3]]:
    """Opens servers that the environment leads to, with credentials that no server checks."""
    with ExitStack() as stack:

        def open_one(quirk: Quirk | None = None, **how: Any) -> QuirkyS3:
            s3 = stack.enter_context(quirky_s3(quirk, **how))
            home = tmp_path / "home"
            home.mkdir(exist_ok=True)
            for name, value in s3.environment(home).items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("XDG_STATE_HOME", str(home))
            return s3

        yield open_one
