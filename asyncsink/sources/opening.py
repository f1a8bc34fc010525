"""Sources by the options of a run: paths, a workflow's outputs, a manifest, or a caller's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.options.schema import Policies, S3Target, Settings
from asyncsink.sources.base import Source
from asyncsink.sources.selection import Selection

_OUTPUTS_BYTES_MAX = 1 << 20
"""Largest file that is looked at for whether it was meant as an outputs file."""


def source_at(paths: Sequence[str], settings: Settings) -> Source:
    """Directories and files by their paths: the files of one directory under their paths in it; of several sources each
    under its own name. Blocking.

    Raises:
        ConfigError: one does not exist, or is neither; or the options do not go with them.
    """
    kinds = [_kind(path) for path in paths]
    directories = sum(map(stat.S_ISDIR, kinds))
    policies = settings.policies
    if len(paths) == 1 and directories:
        return directory_source(paths[0], settings)
    if policies.files_from:
        raise ConfigError("files_from lists files below one directory; give one directory as the source.")
    for path, kind in zip(paths, kinds, strict=True):
        target = settings.target
        if isinstance(target, S3Target) and not stat.S_ISDIR(kind):
            name = os.path.basename(path)
            if target.prefix.rpartition("/")[2] == name:
                raise ConfigError(
                    f"The destination {target.url} ends with the name of the file {path!r}; expected the prefix below "
                    f"which it goes under its own name; write {target.url.removesuffix(name)}."
                )
    from asyncsink.sources.several import SeveralSources

    return SeveralSources(paths, symlinks=policies.symlinks, selection=Selection(policies))


def _kind(path: str) -> int:
    """The st_mode of a source."""
    expected = "expected a directory or a file"
    if path.lower().startswith("s3:"):
        raise ConfigError(
            f"SOURCE {path!r} is in S3; {expected} of this machine, and the destination last; to bring objects from "
            "S3, use asyncsink grab."
        )
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"SOURCE {path!r} cannot be read ({getattr(error, 'strerror', '') or error}); {expected}."
        ) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ConfigError(f"SOURCE {path!r} is no directory and no regular file; {expected}.")
    return mode


def meant_as_list(paths: Sequence[str]) -> str:
    """The kind of list ("outputs file", "source manifest") that the only source seems to be, or "". Blocking.

    Such a file is data like any other; what it lists is published where an option names it.
    """
    path = paths[0] if len(paths) == 1 else ""
    suffix = os.path.splitext(path)[1].lower()
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _OUTPUTS_BYTES_MAX:
            return ""
        if suffix in (".json", ".yaml", ".yml"):
            from asyncsink.sources.outputs import flatten, load_outputs_file

            named = [item for value in load_outputs_file(path).values() for item in flatten(value, "")]
            return "outputs file" if named and all(isinstance(e, str) and os.path.lexists(e) for e in named) else ""
        if suffix in (".csv", ".tsv", ".jsonl"):
            from asyncsink.sources.records import first_record

            record = first_record(path)
            return "source manifest" if record is not None and os.path.lexists(record.source) else ""
    except ConfigError:
        return ""
    return ""


def manifest_source(path: str, settings: Settings) -> Source:
    """The files that a source manifest names.

    Raises:
        ConfigError: its name does not end in .csv, .tsv or .jsonl.
    """
    from asyncsink.sources.records import ManifestSource

    policies = settings.policies
    _refuse_files_from(policies)
    return ManifestSource(path, symlinks=policies.symlinks, selection=Selection(policies))


def outputs_file_source(path: str, settings: Settings) -> Source:
    """The outputs that a file names, which is read here. Blocking.

    Raises:
        ConfigError: it is no outputs file.
    """
    from asyncsink.sources.outputs import load_outputs_file

    return outputs_source(load_outputs_file(path), settings)


def source_of_split(source: Any, source_manifest: Any, settings: Settings) -> Source:
    """The source of `asyncsink.split`: paths, outputs, or a source manifest. Blocking.

    Raises:
        ConfigError: none or two are given, or it cannot be one.
    """
    if (source is None) is (source_manifest is None):
        raise ConfigError("A split has one source; expected source, or None and source_manifest.")
    if source_manifest is not None:
        return manifest_source(os.fspath(source_manifest), settings)
    if isinstance(source, Mapping):
        return outputs_source(source, settings)
    paths = [source] if isinstance(source, (str, os.PathLike)) else source
    return source_at([os.fspath(path) for path in paths], settings)


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
    """A directory tree, or what `files_from` lists of it. Blocking where files of patterns are read."""
    policies = settings.policies
    selection = Selection(policies)
    if policies.files_from:
        from asyncsink.sources.listed import ListedSource

        return ListedSource(directory, policies.files_from, symlinks=policies.symlinks, selection=selection)
    from asyncsink.sources.directory import DirectorySource

    return DirectorySource(directory, symlinks=policies.symlinks, selection=selection)


def outputs_source(outputs: Mapping[str, Any], settings: Settings) -> Source:
    """A workflow's outputs: {attribute: paths}."""
    from asyncsink.sources.outputs import OutputsSource

    policies = settings.policies
    _refuse_files_from(policies)
    selection = Selection(policies)
    return OutputsSource(outputs, symlinks=policies.symlinks, compat=settings.walk_compat, selection=selection)


def _refuse_files_from(policies: Policies) -> None:
    if policies.files_from:
        raise ConfigError("files_from lists files below one directory, and the source names its files itself.")
