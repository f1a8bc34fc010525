"""The version in the code is that of the installed package."""

from __future__ import annotations

from importlib.metadata import version

from asyncsink.options.settings import VERSION


def test_the_version_is_that_of_the_package() -> None:
    assert version("asyncsink") == VERSION
