"""The local destinations of a run: its target, what stands in for an unreachable bucket, and the local copy."""

from __future__ import annotations

import shutil

from anyio import CapacityLimiter

from asyncsink.destinations.base import Destination
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.places import PlacesBelow
from asyncsink.errors import AccessDenied
from asyncsink.options.schema import LocalTarget, Settings
from asyncsink.paths import SEARCH


def local_destination(
    target: LocalTarget, settings: Settings, threads: CapacityLimiter, *, use_local_key: bool = False
) -> Destination:
    """The directory `target` as a destination; see LocalDestination. Nothing is done on the disk yet."""
    # A directory that stands in for a bucket has what the bucket would have, and no companions.
    related = settings.policies.related_files and not target.stands_in
    return LocalDestination(target, limiter=threads, use_local_key=use_local_key, related_files=related)


def remove_directory(root: str, directory: str) -> None:
    """Remove `directory`, which lies below `root`, and all that is in it. Blocks.

    Raises:
        AccessDenied: it cannot be removed.
    """
    try:
        # Relative to its directory: a link that takes the place of one above it leads to no other files.
        with PlacesBelow(root).open(directory.removeprefix(root.rstrip("/") + "/"), flags=SEARCH) as place:
            shutil.rmtree(place.name, dir_fd=place.directory)
    except FileNotFoundError:
        return  # it was inside another one that was removed before
    except OSError as error:
        raise AccessDenied(
            f"remove_dest_dir cannot remove {directory}: {error.strerror}; look at its permissions.",
            operation="local copy",
        ) from error
