"""The options of the journal, and where the system keeps such files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.options.schema import S3Target, Target
from asyncsink.options.settings import JournalChoice
from asyncsink.options.values import read_path


def parse_journal(given: Mapping[str, Any], target: Target) -> JournalChoice:
    """The choice of a journal, as `journal` and `overwrite` of `given` ask for it.

    Raises:
        ConfigError: they contradict each other, or the target.
    """
    value = given.get("journal")
    asked_for = given.get("overwrite") == "journal"
    if value is False:
        if asked_for:
            raise ConfigError(
                "overwrite='journal' needs a journal; leave journal=False out, or use 'checksum'.", option="overwrite"
            )
        return JournalChoice(enabled=False)
    if value is True:
        raise ConfigError("journal=True names no file; expected the path of a file, None or False.", option="journal")
    if not isinstance(target, S3Target):
        if value is not None or asked_for:
            what = "journal is" if value is not None else "overwrite='journal' is"
            raise ConfigError(
                f"{what} given, but the destination {target.url} is no bucket, and has none; expected "
                "s3://bucket/prefix."
            )
        return JournalChoice(enabled=False)
    path = "" if value is None else read_path(value, "journal")
    if value is not None and not path.strip():
        raise ConfigError("journal is empty; expected the path of a file, None or False.", option="journal")
    return JournalChoice(
        path=os.path.abspath(path) if path else "",
        required=bool(path) or asked_for,
        state_directory=_xdg_directory("XDG_STATE_HOME") or JournalChoice().state_directory,
        runtime_directory=_xdg_directory("XDG_RUNTIME_DIR"),
    )


def _xdg_directory(variable: str) -> str:
    """The directory of the variable, unless it is relative (XDG Base Directory Specification)."""
    said = os.environ.get(variable, "")
    return said if os.path.isabs(said) else ""
