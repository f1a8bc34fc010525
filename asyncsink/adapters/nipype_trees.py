"""What a local sink of Nipype's makes besides files: its own folder, and the empty directories of a tree (rule 27).

The engine publishes files; FreeSurfer's subject directories, for one, have empty folders that its programs look for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncsink.config import LocalTarget
from asyncsink.destinations.local_errors import translated
from asyncsink.options import parse_options
from asyncsink.routing.router import Router
from asyncsink.sources.outputs import OutputsSource


def make_empty_directories(outputs: Mapping[str, Any], base_directory: str, options: Mapping[str, Any]) -> None:
    """Make the empty directories that `outputs` hold in every local end of a finished export. Blocking.

    Args:
        outputs, base_directory, options: as of the export.

    Raises:
        AccessDenied, DestinationFull, PermanentError: one cannot be made.
    """
    settings = parse_options(base_directory, options)
    copy = settings.local_copy.directory if settings.local_copy is not None else ""
    is_local = isinstance(settings.target, LocalTarget)
    if not is_local and not copy:
        return
    router = Router(settings.routing, base=settings.target.url, local_base=copy)
    top = os.path.join(settings.target.url if is_local else copy, settings.routing.container)
    with translated(top, None):
        os.makedirs(top, exist_ok=True)
    follow = is_local and settings.policies.symlinks == "follow"
    for entry in OutputsSource(outputs, symlinks=settings.policies.symlinks).entries:
        if os.path.isdir(entry.path):
            url, local = router.out_file(entry.attribute, entry.path)
            _make_below(entry.path, url if is_local else local, follow=follow)


def _make_below(source: str, place: str, *, follow: bool) -> None:
    for folder, folders, files in os.walk(source, followlinks=follow):
        if not folders and not files:
            path = os.path.normpath(os.path.join(place, os.path.relpath(folder, source)))
            with translated(path, None):
                os.makedirs(path, exist_ok=True)
        folders[:] = [name for name in folders if not (follow and _leads_up(folder, name))]


def _leads_up(folder: str, name: str) -> bool:
    """Whether a link leads to a directory that holds it: the walk would not end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")
