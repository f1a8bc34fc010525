"""What the path of a source names: a directory, an outputs file, or a manifest."""

from __future__ import annotations

import stat
from pathlib import Path

from asyncsink.errors import ConfigError
from asyncsink.options.schema import Settings
from asyncsink.sources.base import Source, exclusion_of

SOURCE_KINDS = "a directory, an outputs file (.json, .yaml, .yml), a manifest (.csv, .tsv, .jsonl), or - for stdin"


def source_at(text: str, settings: Settings) -> Source:
    """The source at a path. An outputs file is read here, others when they are walked. Blocking.

    Raises:
        ConfigError: it does not exist, or is of no known kind.
    """
    symlinks, exclude = settings.policies.symlinks, exclusion_of(settings.policies.exclude)
    try:
        mode = Path(text).stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"SOURCE {text!r} cannot be read ({error.strerror or error}); expected {SOURCE_KINDS}."
        ) from error
    suffix = Path(text).suffix.lower()
    if stat.S_ISDIR(mode):
        from asyncsink.sources.directory import DirectorySource

        return DirectorySource(text, symlinks=symlinks, exclude=exclude)
    if suffix in (".json", ".yaml", ".yml"):
        from asyncsink.sources.outputs import OutputsSource, load_outputs_file

        return OutputsSource(load_outputs_file(text), symlinks=symlinks, compat=settings.walk_compat, exclude=exclude)
    if suffix in (".csv", ".tsv", ".jsonl"):
        from asyncsink.sources.records import ManifestSource

        return ManifestSource(text, symlinks=symlinks, exclude=exclude)
    raise ConfigError(f"SOURCE {text!r} is of no known kind; expected {SOURCE_KINDS}.")
