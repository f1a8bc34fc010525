"""What a local sink of Nipype's makes besides files: its own folder, and the empty directories of a tree (rule 27).

The engine publishes files; FreeSurfer's subject directories, for one, have empty folders that its programs look for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from asyncsink.config import LocalTarget
from asyncsink.destinations.local_errors import translated
from asyncsink.destinations.local_files import make_directories
from asyncsink.destinations.local_places import PlacesBelow
from asyncsink.options import parse_options
from asyncsink.paths import SEARCH, as_native, as_text, on_disk
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
    base = settings.target.url if is_local else copy
    with translated(base, None):
        make_directories(base)
    places = PlacesBelow(base)
    _make(places, base, os.path.join(base, settings.routing.container))
    follow = is_local and settings.policies.symlinks == "follow"
    for entry in OutputsSource(outputs, symlinks=settings.policies.symlinks).entries:
        if os.path.isdir(on_disk(entry.path)):
            url, local = router.out_file(entry.attribute, entry.path)
            for folder in _empty_below(as_native(entry.path), follow=follow):
                _make(places, base, f"{url if is_local else local}/{as_text(folder)}")


def _make(places: PlacesBelow, base: str, path: str) -> None:
    """Make a directory below `base`, where a link leads nowhere else."""
    relative = os.path.normpath(path.removeprefix(base).lstrip("/") or ".")
    if relative != ".":
        with translated(path, None):
            places.open(f"{relative}/-", make=True, flags=SEARCH).close()


def _empty_below(source: str, *, follow: bool) -> Iterator[str]:
    """The empty directories below `source`, relative to it."""
    for folder, folders, files in os.walk(source, followlinks=follow):
        if not folders and not files:
            yield os.path.relpath(folder, source)
        folders[:] = [name for name in folders if not (follow and _leads_up(folder, name))]


def _leads_up(folder: str, name: str) -> bool:
    """Whether a link leads to a directory that holds it: the walk would not end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")
