"""remove_dest_dir: local directories that directory sources are about to fill are removed first (DataSink's option).

On S3 the option does nothing (rule 31).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from asyncsink.engine.discover import Discovery
from asyncsink.errors import AccessDenied, ConfigError


def clear_destinations(discovery: Discovery, roots: tuple[str, str]) -> None:
    """Remove what directory sources will replace. Blocks; called before anything is sent.

    Args:
        discovery: whose top-level directories are meant.
        roots: the local destination and the local copy, "" where there is none. A root itself is never removed.

    Raises:
        ConfigError: the source lies inside what would be removed.
        AccessDenied: a directory cannot be removed.
    """
    for source, target in _directories(discovery, roots):
        real_source, real_target = os.path.realpath(source), os.path.realpath(target)
        if os.path.commonpath([real_source, real_target]) == real_target:
            raise ConfigError(
                f"remove_dest_dir would remove {target}, which holds the source {source}; publish to another directory."
            )
        try:
            shutil.rmtree(target)
        except OSError as error:
            raise AccessDenied(
                f"remove_dest_dir cannot remove {target}: {error.strerror}; look at its permissions.",
                operation="local copy",
            ) from error


def _directories(discovery: Discovery, roots: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for entry in discovery.source.entries or ():
        if not os.path.isdir(entry.path):
            continue
        for target, root in zip(discovery.router.out_file(entry.attribute, entry.path), roots, strict=True):
            replaceable = root and target and os.path.isdir(target) and not os.path.islink(target)
            if replaceable and not os.path.samefile(target, root):
                yield entry.path, target
