"""Sources by the options of a run: a directory, a workflow's outputs, or what a path names."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.options.schema import Settings
from asyncsink.sources.base import Source, exclusion_of

SOURCE_KINDS = "a directory, an outputs file (.json, .yaml, .yml), a manifest (.csv, .tsv, .jsonl), or - for stdin"


def source_at(text: str, settings: Settings) -> Source:
    """The source at a path. An outputs file is read here, others when they are walked. Blocking.

    Raises:
        ConfigError: it does not exist, or is of no known kind.
    """
    try:
        mode = Path(text).stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"SOURCE {text!r} cannot be read ({error.strerror or error}); expected {SOURCE_KINDS}."
        ) from error
    suffix = Path(text).suffix.lower()
    if stat.S_ISDIR(mode):
        return directory_source(text, settings)
    if suffix in (".json", ".yaml", ".yml"):
        from asyncsink.sources.outputs import load_outputs_file

        return outputs_source(load_outputs_file(text), settings)
    if suffix in (".csv", ".tsv", ".jsonl"):
        from asyncsink.sources.records import ManifestSource

        policies = settings.policies
        return ManifestSource(text, symlinks=policies.symlinks, exclude=exclusion_of(policies.exclude))
    raise ConfigError(f"SOURCE {text!r} is of no known kind; expected {SOURCE_KINDS}.")


def directory_source(directory: Any, settings: Settings) -> Source:
    """A directory tree."""
    from asyncsink.sources.directory import DirectorySource

    policies = settings.policies
    return DirectorySource(directory, symlinks=policies.symlinks, exclude=exclusion_of(policies.exclude))


def outputs_source(outputs: Mapping[str, Any], settings: Settings) -> Source:
    """A workflow's outputs: {attribute: paths}."""
    from asyncsink.sources.outputs import OutputsSource

    policies = settings.policies
    exclude = exclusion_of(policies.exclude)
    return OutputsSource(outputs, symlinks=policies.symlinks, compat=settings.walk_compat, exclude=exclude)
