"""A source is looked at once, and cut into parts that any number of machines publish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Unpack

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.engine.planning.survey import Survey, take_survey
from asyncsink.engine.planning.walk import check_not_nested, discovery_of, local_places, tops_of
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import ConfigError
from asyncsink.event_loops import refuse_trio
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import SPLIT_OPTIONS, Settings
from asyncsink.options.typed import ExportOptions, Paths, StrPath
from asyncsink.os_errors import words_shortages
from asyncsink.sources.base import Source, given_path
from asyncsink.sources.opening import source_of_split
from asyncsink.splitting.cutting import Cutting
from asyncsink.splitting.files import (
    SplitPlan,
    directory_of_split,
    make_empty,
    recorded_options,
    remove_all,
    write_parts,
    write_plan,
)
from asyncsink.splitting.split_report import SplitReport
from asyncsink.splitting.spool import Spool, SpooledDiscovery


async def split(
    source: StrPath | Sequence[StrPath] | Mapping[str, Paths | None] | None,
    destination: StrPath,
    directory: StrPath,
    *,
    source_manifest: StrPath | None = None,
    parts: int | None = None,
    part_bytes: int | str | None = None,
    part_objects: int | None = None,
    **options: Unpack[ExportOptions],
) -> SplitReport:
    """Look at a source once, and cut it into parts, each a file in `directory`, that any machine publishes by itself.

    Nothing is sent, and no server is asked.

    Args:
        source: a directory; a file; several of both, each under its own name; or outputs as `export` takes them.
        destination: "s3://bucket/prefix", or a local directory.
        directory: where the parts go: a new one, or an empty one.
        source_manifest: in the place of `source` (None): a table of sources and keys, .csv, .tsv or .jsonl.
        parts: how many; without, a part is closed before it exceeds one of the limits.
        part_bytes, part_objects: the limits of a part (default 4 GiB, 10,000 files).
        options: those of an export that name keys and objects.

    Raises:
        ConfigError, SourceError: as `export` before the first byte is sent; nothing was written.
    """
    settings = split_settings(destination, options)
    cutting = Cutting.of(parts, part_bytes, part_objects)
    opening = partial(source_of_split, source, source_manifest, settings)
    return await split_source(settings, await anyio.to_thread.run_sync(opening), directory, cutting)


def split_settings(destination: Any, options: ExportOptions | Mapping[str, Any]) -> Settings:
    """The settings of a split.

    Raises:
        ConfigError: an option is wrong, or none of a split.
    """
    check_option_names(options, SPLIT_OPTIONS, what="a split")
    if isinstance(options.get("sse"), (bytes, bytearray)):
        raise ConfigError("sse is a customer key, which the files of a split must not hold; give it to run instead.")
    return parse_options(destination, {**options, "journal": False})


@words_shortages
async def split_source(
    settings: Settings,
    walked: Source,
    directory: Any,
    cutting: Cutting,
    progress: Progress | None = None,
) -> SplitReport:
    """As `split`, of a source that was opened; `progress` grows meanwhile."""
    refuse_trio()
    began = time.monotonic()
    name: str = getattr(walked, "directory", "")
    place = directory_of_split(directory)
    limiter = CapacityLimiter(1)
    places = [*local_places(settings), given_path(place, "The directory of the split")]
    await anyio.to_thread.run_sync(check_not_nested, tops_of(walked), places)
    made = await anyio.to_thread.run_sync(make_empty, place)
    survey, spool = Survey(), Spool()
    try:
        discovery = SpooledDiscovery(discovery_of(settings, settings.target, walked), spool, settings.policies)
        survey = await take_survey(discovery, settings, limiter=limiter, progress=progress or Progress())
        write = partial(_write, place, name, discovery, cutting, settings, alike=survey.alike)
        plan = await anyio.to_thread.run_sync(write, limiter=limiter)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(remove_all, place, made=made))
        raise
    finally:
        survey.close()
        spool.close()
    return SplitReport(
        directory=place,
        plan=plan,
        elapsed_seconds=time.monotonic() - began,
        objects_failed=discovery.failed,
        failures=discovery.failures,
        notices=list(survey.notices(settings)),
    )


def _write(
    directory: str,
    source: str,
    found: SpooledDiscovery,
    cutting: Cutting,
    settings: Settings,
    *,
    alike: frozenset[int],
) -> SplitPlan:
    objects_total, bytes_total = found.totals()
    cutter = cutting.cutter(objects_total, bytes_total)
    plan = SplitPlan(
        asyncsink=version("asyncsink"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        destination=settings.target.url,
        options=recorded_options(settings),
        objects=objects_total,
        bytes=bytes_total,
        left_out=dict(found.left_out),
        parts=tuple(write_parts(directory, found.spool, cutter, found.spool.alike(alike))),
    )
    write_plan(directory, plan)
    return plan
