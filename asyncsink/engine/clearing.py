"""remove_dest_dir: local directories that directory sources are about to fill are removed first (DataSink's option).

On S3 the option does nothing (rule 31).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator

from asyncsink.config import JournalChoice
from asyncsink.destinations.local_places import PlacesBelow
from asyncsink.engine.discover import Discovery
from asyncsink.errors import AccessDenied, ConfigError, JournalError
from asyncsink.journal.place import default_directory
from asyncsink.paths import SEARCH, as_text, is_below, on_disk, real_path


def clear_destinations(discovery: Discovery, roots: tuple[str, str]) -> None:
    """Remove what directory sources will replace. Blocks; called before anything is sent.

    Args:
        discovery: whose top-level directories are meant.
        roots: the local destination and the local copy, "" where there is none. A root itself is never removed.

    Raises:
        ConfigError: a source lies inside what would be removed; nothing is removed then.
        AccessDenied: a directory cannot be removed.
    """
    targets = list(dict.fromkeys(_targets(discovery, roots)))
    for entry in discovery.source.entries or ():
        for _, target in targets:
            if is_inside(entry.path, target):
                raise ConfigError(
                    f"remove_dest_dir would remove {target}, which holds the source {entry.path}; publish to another "
                    "directory."
                )
    for root, target in targets:
        try:
            # Relative to its directory: a link that takes the place of one above it leads nobody to remove other files.
            with PlacesBelow(root).open(target.removeprefix(root.rstrip("/") + "/"), flags=SEARCH) as place:
                shutil.rmtree(place.name, dir_fd=place.directory)
        except FileNotFoundError:
            # It was inside another one of them.
            continue
        except OSError as error:
            raise AccessDenied(
                f"remove_dest_dir cannot remove {target}: {error.strerror}; look at its permissions.",
                operation="local copy",
            ) from error


def is_inside(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies below it, symbolic links resolved. Blocks."""
    return is_below(real_path(path), real_path(directory))


def check_not_nested(sources: Iterable[str], places: Iterable[str]) -> None:
    """Refuse to publish a directory into itself: every run would find what the run before it wrote. Blocks.

    Raises:
        ConfigError: a local destination or local copy lies inside a source directory.
    """
    for source in sources:
        for place in places:
            if os.path.isdir(on_disk(source)) and is_inside(place, source):
                raise ConfigError(
                    f"{place} lies inside the source {source}, so that every run would publish its own output again; "
                    "choose a directory outside."
                )


def check_journal_outside(sources: Iterable[str], journal: JournalChoice) -> JournalError | None:
    """Refuse a named journal that would be published itself; the error where it is a default one. Blocks.

    Whoever reads a journal's file takes this process's lock on it away, and a second run gets in (POSIX, fcntl: "All
    locks associated with a file … shall be removed when a file descriptor for that file is closed").

    Raises:
        ConfigError: the journal that was named lies inside a source, or is one.
    """
    if not journal.enabled:
        return None
    place = as_text(journal.path or default_directory(journal.state_directory))
    for source in sources:
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            said = f"The journal {place} lies inside the source {source}, so that it would be published itself"
            if journal.required and journal.path:
                raise ConfigError(f"{said}; name a file outside, or use journal=False.")
            return JournalError(f"{said}; name one outside with journal=.")
    return None


def check_manifest_outside(sources: Iterable[str], manifest: str) -> None:
    """Refuse a manifest that would be published itself. Blocks.

    Raises:
        ConfigError: it lies inside a source, or is one.
    """
    place = as_text(os.path.abspath(manifest))
    for source in sources if manifest else ():
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            raise ConfigError(
                f"The manifest {manifest} lies inside the source {source}, so that it would be published itself; name "
                "a file outside."
            )


def _would_be_found(place: str, source: str) -> bool:
    """Whether a walk of `source` comes to a file that this run writes, or to a link that leads to it."""
    return is_inside(place, source) or is_inside(os.path.dirname(place), source)


def _targets(discovery: Discovery, roots: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for entry in discovery.source.entries or ():
        if not os.path.isdir(on_disk(entry.path)):
            continue
        for target, root in zip(discovery.router.out_file(entry.attribute, entry.path), roots, strict=True):
            path = on_disk(target)
            replaceable = root and target and os.path.isdir(path) and not os.path.islink(path)
            if replaceable and not is_inside(root, target):
                yield root, target
