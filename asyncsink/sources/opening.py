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


def given_source(outputs: Mapping[str, Any] | None, source: Any, settings: Settings) -> Source:
    """The source of an export: a workflow's outputs, or the caller's own.

    Raises:
        ConfigError: both or none are given, or one of them cannot be used.
    """
    if source is None:
        if outputs is None:
            raise ConfigError(
                "An export has no source; expected outputs, such as {'motion': paths}, or source=, one of your own."
            )
        return outputs_source(outputs, settings)
    if outputs is not None:
        raise ConfigError("outputs and source both name what is published; give one of them.")
    kind = f"the class {source.__name__}" if isinstance(source, type) else type(source).__name__
    missing = [name for name in ("replayable", "injective", "entries", "scan") if not hasattr(source, name)]
    if isinstance(source, type) or missing or not callable(source.scan):
        raise ConfigError(
            f"source is {kind}; expected an object with replayable, injective, entries and scan(), as "
            "asyncsink.extending.Source describes it."
        )
    found: Source = source
    return found


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
