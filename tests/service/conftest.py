"""The example service."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


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
