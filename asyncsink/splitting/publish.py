"""One part of a split, published by the ordinary engine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import anyio.to_thread

from asyncsink.engine.export import run_source
from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import RUN_OPTIONS, SPLIT_OPTIONS, ObjectOptions, S3Target, Settings
from asyncsink.options.settings import JournalChoice
from asyncsink.options.typed import ExportOptions, StrPath
from asyncsink.paths import as_native
from asyncsink.report.report import Report
from asyncsink.routing.key_range import KeyRange
from asyncsink.s3.endpoint import is_directory_bucket
from asyncsink.sources.base import absolute
from asyncsink.splitting.files import SplitPlan, directory_of_split, read_plan
from asyncsink.splitting.numbers import numbers_of
from asyncsink.splitting.part_source import SplitPartSource
from asyncsink.value import dataclass

_FOR_OBJECTS = frozenset(name for name, option in SPLIT_OPTIONS.items() if option.part is ObjectOptions) | {
    "checksum",
    "object_options",
}


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A part that is ready to be published: the arguments of `run_source`."""

    settings: Settings
    source: SplitPartSource
    keys: KeyRange | None


async def run_part(
    directory: StrPath, part: int | str, *, roots: Mapping[str, str] | None = None, **options: Unpack[ExportOptions]
) -> Report:
    """Publish one part of a split. Its receipts are in the directory afterwards, and what is there is not sent again.

    Args:
        directory: what `split` has made.
        part: its number, or "auto" in a task of an array job.
        roots: {directory at the split: where this machine has it}.
        options: those of an export that say how to connect, how much at once, and when to overwrite. No journal is
            kept unless one is named.

    Returns:
        A Report, also where single files failed.

    Raises:
        ConfigError, TransferError: the part does not exist, is damaged, or cannot be begun; nothing was sent.
    """
    place = directory_of_split(directory)
    plan = await anyio.to_thread.run_sync(read_plan, place)
    numbers = await anyio.to_thread.run_sync(numbers_of, place, plan, part)
    if len(numbers) != 1:
        raise ConfigError(f"part={part!r:.60} is no single part; expected its number, or 'auto'.")
    opening = partial(open_part, place, plan, numbers[0], roots or {}, options)
    opened = await anyio.to_thread.run_sync(opening)
    return await run_source(opened.settings, opened.source, keys=opened.keys)


def open_part(
    directory: str,
    plan: SplitPlan,
    number: int,
    roots: Mapping[str, str],
    options: ExportOptions | Mapping[str, Any],
) -> OpenPart:
    """Check a part, and the options of its run. Blocking.

    Raises:
        ConfigError: as `run_part`.
    """
    part = plan.parts[number]
    attempt = secrets.token_hex(8)
    settings = replace(_settings(plan, os.path.join(directory, part.receipts), options), attempt=attempt)
    target = settings.target
    if not settings.journal.enabled and isinstance(target, S3Target):
        uploads = os.path.join(directory, f"uploads-{number:05}.jsonl")
        settings = replace(settings, journal=JournalChoice(path=uploads, attempt=attempt))
    moved = {absolute(old, "roots"): absolute(new, "roots") for old, new in roots.items()}
    source = SplitPartSource(directory, part, prefix=target.prefix if isinstance(target, S3Target) else "", roots=moved)
    keys = source.look()
    listed = isinstance(target, S3Target) and not is_directory_bucket(target.bucket)
    return OpenPart(settings, source, keys if listed else None)


def _settings(plan: SplitPlan, receipts: str, options: ExportOptions | Mapping[str, Any]) -> Settings:
    check_option_names(options, RUN_OPTIONS, what="a part's run")
    # What every object is given was said once for all parts; the keys stand in them.
    said = {name: value for name, value in plan.options.items() if name in _FOR_OBJECTS}
    given: dict[str, Any] = {**said, **options, "manifest": receipts}
    if options.get("journal") is None:
        given["journal"] = False
    destination = plan.destination if "://" in plan.destination else as_native(plan.destination)
    return parse_options(destination, given)
