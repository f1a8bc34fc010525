"""What an export would do, without sending anything: plan it, and explain the keys of its files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Unpack

from asyncsink.destinations.base import Destination
from asyncsink.destinations.opening import settings_of
from asyncsink.engine.export import run_source
from asyncsink.errors import ConfigError
from asyncsink.event_loops import run_to_end
from asyncsink.options.schema import Settings
from asyncsink.options.typed import ExportOptions, Paths, StrPath
from asyncsink.report.report import Report
from asyncsink.sources.base import Source
from asyncsink.sources.opening import directory_source, outputs_source

if TYPE_CHECKING:
    from asyncsink.maintenance.explaining import Explanation


async def plan(
    outputs_or_directory: Mapping[str, Paths | None] | StrPath,
    base_directory: StrPath = "",
    *,
    destination: Destination | None = None,
    **options: Unpack[ExportOptions],
) -> Report:
    """What `export` or `export_directory` would do with the same arguments; looks and compares, and sends nothing.

    Args:
        outputs_or_directory: {attribute: paths}, as `export` takes it, or a directory, as `export_directory`.
        base_directory, destination, options: as in `export`; a `manifest` is refused.

    Returns:
        A Report: `planned` is what would be sent, and why; `skips` what is there already or left out, `failures` what
        cannot be sent. `print(report.summary())` shows it by size, folder and kind; `report.figures()` has the numbers.

    Raises:
        ConfigError, SourceError, TransferError: the export could not start.

    Cancelled, it ends at once; there is nothing to clean up.
    """
    if options.get("manifest"):
        raise ConfigError("A plan writes no manifest: nothing is published; leave manifest out, or use export.")
    settings = settings_of(base_directory, destination, options)
    return await run_source(settings, _source_of(outputs_or_directory, settings), dry_run=True)


def plan_sync(
    outputs_or_directory: Mapping[str, Paths | None] | StrPath,
    base_directory: StrPath = "",
    *,
    destination: Destination | None = None,
    **options: Unpack[ExportOptions],
) -> Report:
    """`plan` for synchronous code; inside a running event loop (Jupyter) it uses a thread of its own."""
    return run_to_end(partial(plan, outputs_or_directory, base_directory, destination=destination, **options))


def explain(
    paths: StrPath | Sequence[StrPath],
    outputs_or_directory: Mapping[str, Paths | None] | StrPath,
    base_directory: StrPath = "",
    **options: Unpack[ExportOptions],
) -> list[Explanation]:
    """How files get their keys, step by step, or why they are left out. Asks no server.

    Args:
        paths: one or several files of the source, relative to the current directory or to the source; of a directory
            the first files below it. Or URLs of objects: the files that get these keys.
        outputs_or_directory, base_directory, options: as in `plan`.

    Returns:
        One Explanation for each time that an export comes to the file; `print` shows its steps.

    Raises:
        ConfigError: an option is wrong, or the source has no such file.

    Blocking: it walks the source until the files are found, in the calling thread.
    """
    from asyncsink.maintenance.explaining import explained

    settings = settings_of(base_directory, None, options)
    wanted = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return explained(_source_of(outputs_or_directory, settings), settings, [os.fspath(path) for path in wanted])


def _source_of(outputs_or_directory: Mapping[str, Paths | None] | StrPath, settings: Settings) -> Source:
    if isinstance(outputs_or_directory, Mapping):
        return outputs_source(outputs_or_directory, settings)
    if isinstance(outputs_or_directory, (str, os.PathLike)):
        return directory_source(outputs_or_directory, settings)
    raise ConfigError(
        f"outputs_or_directory is of type {type(outputs_or_directory).__name__}; expected a directory, or outputs such "
        "as {'motion': paths}."
    )
