"""remove_dest_dir: local directories that directory sources are about to fill are removed first (DataSink's option).

On S3 the option does nothing (rule 31).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator

from asyncsink.engine.discover import Discovery
from asyncsink.errors import AccessDenied, ConfigError


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
        for target in targets:
            if is_inside(entry.path, target):
                raise ConfigError(
                    f"remove_dest_dir would remove {target}, which holds the source {entry.path}; publish to another "
                    "directory."
                )
    for target in targets:
        try:
            shutil.rmtree(target)
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
    real, real_directory = os.path.realpath(path), os.path.realpath(directory)
    return real == real_directory or real.startswith(real_directory.rstrip("/") + "/")


def check_not_nested(sources: Iterable[str], places: Iterable[str]) -> None:
    """Refuse to publish a directory into itself: every run would find what the run before it wrote. Blocks.

    Raises:
        ConfigError: a local destination or local copy lies inside a source directory.
    """
    for source in sources:
        for place in places:
            if os.path.isdir(source) and is_inside(place, source):
                raise ConfigError(
                    f"{place} lies inside the source {source}, so that every run would publish its own output again; "
                    "choose a directory outside."
                )


def check_journal_outside(sources: Iterable[str], journal: str) -> None:
    """Refuse to publish a run's own journal. Blocks.

    Whoever closes any descriptor of a file gives away all locks that the process has on it (POSIX, fcntl): once the
    journal was read as a source, a second run could open it.

    Raises:
        ConfigError: it is a source, or lies inside a source directory.
    """
    place = os.path.realpath(journal)
    around = {_identity(place)}
    while place != os.path.dirname(place):
        place = os.path.dirname(place)
        around.add(_identity(place))
    for source in sources:
        # One stat for each: there may be very many sources.
        if (found := _identity(source)) is not None and found in around:
            raise ConfigError(
                f"The journal {journal} lies inside the source {source}, so that it would be published while it is "
                "written; choose a file outside."
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None  # whoever publishes it, or opens it, says what is wrong
    return found.st_dev, found.st_ino


def _targets(discovery: Discovery, roots: tuple[str, str]) -> Iterator[str]:
    for entry in discovery.source.entries or ():
        if not os.path.isdir(entry.path):
            continue
        for target, root in zip(discovery.router.out_file(entry.attribute, entry.path), roots, strict=True):
            replaceable = root and target and os.path.isdir(target) and not os.path.islink(target)
            if replaceable and not is_inside(root, target):
                yield target
