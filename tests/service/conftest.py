"""What tests of long-lived sinks share: the service, options that reach the test server, and a look at the bucket."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer


@pytest.fixture(scope="session")
def service_module() -> ModuleType:
    """The example service, app.py beside this file."""
    place = Path(__file__).with_name("app.py")
    spec = importlib.util.spec_from_file_location("asyncsink_example_service", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url}


@pytest.fixture
def stored(s3: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Everything in the bucket, read by boto3."""

    def read() -> dict[str, bytes]:
        listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}

    return read
