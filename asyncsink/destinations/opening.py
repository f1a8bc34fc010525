"""The destinations of a run: a bucket, a directory, the stand-in for an unreachable bucket, the local copy, and a
caller's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter

from asyncsink.destinations.base import Destination, UploadLog
from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.places import PlacesBelow
from asyncsink.destinations.s3 import S3Destination
from asyncsink.errors import AccessDenied, ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import LocalTarget, OwnTarget, S3Target, Settings
from asyncsink.options.typed import ExportOptions
from asyncsink.paths import SEARCH, as_text
from asyncsink.s3.stack import S3Stack


def local_destination(
    target: LocalTarget, settings: Settings, threads: CapacityLimiter, *, use_local_key: bool = False
) -> Destination:
    """The directory `target` as a LocalDestination. Nothing is changed on the disk yet."""
    # A directory that stands in for a bucket gets the bucket's objects, and no companions.
    related = settings.policies.related_files and not target.stands_in
    return LocalDestination(target, limiter=threads, use_local_key=use_local_key, related_files=related)


def s3_destination(
    stack: S3Stack,
    settings: Settings,
    existing: ExistingObjects,
    *,
    notice: Callable[[str], None],
    log: UploadLog | None,
) -> Destination:
    """The bucket and prefix of the settings, with the completion marker that they name."""
    if settings.together.complete_marker:
        from asyncsink.destinations.completion import MarkedS3Destination  # most runs have none

        return MarkedS3Destination(stack, settings, existing, notice=notice, log=log)
    return S3Destination(stack, settings, existing, notice=notice, log=log)


def stand_in_directory(target: S3Target) -> LocalTarget:
    """~/s3_datasink_<bucket>, which gets the objects of an unreachable bucket (rule 46).

    Its keys include the prefix. Nipype leaves the prefix out, so that two studies of one bucket would share a folder.
    """
    name = target.bucket.replace("/", "_").replace(":", "_")
    directory = f"{as_text(os.path.expanduser('~'))}/s3_datasink_{name}"
    return LocalTarget(directory=directory, url=f"{directory}/{target.prefix}".rstrip("/"), stands_in=True)


def settings_of(base_directory: Any, destination: Any, options: ExportOptions) -> Settings:
    """The settings of a run to `base_directory`, or to the caller's own `destination`. Nothing is opened.

    Raises:
        ConfigError: an option is wrong, `destination` is no Destination, or both are given.
    """
    return parse_options(base_directory, options, own=_own_target(base_directory, destination))


def _own_target(base_directory: Any, destination: Any) -> OwnTarget | None:
    if destination is None:
        return None
    if not isinstance(destination, Destination):
        kind = f"the class {destination.__name__}" if isinstance(destination, type) else type(destination).__name__
        raise ConfigError(
            f"destination is {kind}; expected an object of a class that inherits from asyncsink.extending.Destination."
        )
    if base_directory not in ("", None):
        raise ConfigError(
            "base_directory and destination both name a destination; give one of them. Keys in an own destination "
            "begin at its top; container= puts them into a folder."
        )
    name = destination.name
    if not isinstance(name, str) or not name:
        raise ConfigError(f"The name of destination is {name!r:.60}; expected a text for messages and for URLs.")
    return OwnTarget(destination=destination, url=name.rstrip("/"))


def remove_directory(root: str, directory: str) -> None:
    """Remove `directory`, which lies below `root`, with its content. Blocks.

    Raises:
        AccessDenied: it cannot be removed.
    """
    try:
        # Relative to its parent's descriptor, so that a link in the place of a parent leads to no other files.
        with PlacesBelow(root).open(directory.removeprefix(root.rstrip("/") + "/"), flags=SEARCH) as place:
            shutil.rmtree(place.name, dir_fd=place.directory)
    except FileNotFoundError:
        return  # it was inside a directory that was removed before
    except OSError as error:
        raise AccessDenied(
            f"remove_dest_dir cannot remove {directory}: {error.strerror}; look at its permissions.",
            operation="local copy",
        ) from error
