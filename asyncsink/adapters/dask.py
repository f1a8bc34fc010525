"""Exports on a Dask cluster: `asyncsink.adapters.dask.export` and `export_directory`, with the extra `[dask]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from asyncsink.adapters.dask_export import run_on_cluster
from asyncsink.options.parse import parse_options
from asyncsink.options.typed import ExportOptions, Paths, StrPath
from asyncsink.report.report import Report
from asyncsink.sources.opening import directory_source, outputs_source


async def export(
    client: Any, outputs: Mapping[str, Paths | None], base_directory: StrPath, **options: Unpack[ExportOptions]
) -> Report:
    """As `asyncsink.export`, with the workers of a Dask cluster sending the files.

    The source is looked at here, once, and cut into parts of up to 1,000 files and 256 MiB. Every worker needs to see
    the files at the same paths; one that does not is left out, and named in a notice. Each finds credentials as a
    program of its own machine does.

    Args:
        client: a distributed.Client (of any kind), the scheduler's address, the path of a scheduler file, or "local:N"
            for N worker processes on this machine.
        outputs, base_directory, options: as for `asyncsink.export`. There is no journal, local copy or shard.

    Raises:
        ConfigError, SourceError: as `asyncsink.export`; or there is no such cluster, or no worker can publish.

    Cancelled, it takes its engine from the workers, which abort their multipart uploads. They do the same within ten
    seconds where this process is killed. Others go on with the parts of a worker that is lost, and with its uploads.
    """
    settings = parse_options(base_directory, {**options})
    return await run_on_cluster(client, settings, outputs_source(outputs, settings))


async def export_directory(
    client: Any, directory: StrPath, base_directory: StrPath, **options: Unpack[ExportOptions]
) -> Report:
    """Publish a directory tree; keys keep the path relative to `directory`. Otherwise as `export`."""
    settings = parse_options(base_directory, {**options})
    return await run_on_cluster(client, settings, directory_source(directory, settings))
