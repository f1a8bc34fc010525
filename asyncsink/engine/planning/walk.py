"""What a run walks and where it writes: the routed files of a source, and what is refused before its survey."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.destinations.base import RunForecast
from asyncsink.destinations.opening import remove_directory
from asyncsink.engine.planning.discovery import Discovery, shard_key
from asyncsink.engine.planning.object_rules import ObjectRules
from asyncsink.engine.run_page import RunPage, check_page_file, page_of_run
from asyncsink.errors import ConfigError, JournalError
from asyncsink.journal.sqlite import default_place, without_journal
from asyncsink.options.schema import LocalTarget, S3Target, Settings, Target
from asyncsink.options.settings import JournalChoice
from asyncsink.paths import as_text, is_below, on_disk, real_path
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.routing.keys import KEY_BYTES_MAX, given_key
from asyncsink.routing.router import Router
from asyncsink.sources.base import Source
from asyncsink.sources.selection import size_and_age


def check_bucket_given(settings: Settings) -> None:
    """Refuse a `bucket` beside a local destination: it would be ignored."""
    if settings.caller_bucket is not None and not isinstance(settings.target, S3Target):
        raise ConfigError(
            f"bucket is given, but the destination {settings.target.url} is no bucket; expected s3://bucket/prefix.",
            option="bucket",
        )


def check_shard(settings: Settings, *, walks: bool = True) -> None:
    """Refuse a shard where there is nothing to divide, or where one shard would remove the files of another.

    Args:
        walks: whether a source is walked; False where transfers come one by one, from a program.

    Raises:
        ConfigError: `shard` does not fit the run.
    """
    shard = settings.shard
    if shard.count == 1:
        return
    if not walks:
        raise ConfigError(
            f"shard={shard} divides a walk, and an AsyncSink walks nothing; submit less, or use export.",
            option="shard",
            value=shard,
        )
    if settings.remove_dest_dir:
        raise ConfigError(
            f"shard={shard} and remove_dest_dir contradict each other: every shard would remove what the others have "
            "written; remove the directories yourself before the first one starts.",
            option="shard",
            value=shard,
        )


def check_together(settings: Settings, *, ends: bool = True) -> None:
    """Refuse an index or completion marker where no run publishes everything, or whose name makes no key.

    Args:
        ends: whether one run publishes everything; False for a program's calls, and for one of several processes.

    Raises:
        ConfigError: the settings do not fit the run.
    """
    together, target = settings.together, settings.target
    deleting = "extraneous" if together.delete_extraneous else ""
    wanted = (("index", together.index), ("complete_marker", together.complete_marker), ("delete_extraneous", deleting))
    for option, name in wanted:
        if not name:
            continue
        if not ends:
            raise ConfigError(
                f"{option} is for the end of one export that has published everything, and here is none; leave it out, "
                "or use export in one process."
            )
        if settings.shard.count > 1:
            raise ConfigError(
                f"{option} is about everything, and shard={settings.shard} publishes a part of it; leave it out."
            )
        assert isinstance(target, S3Target)  # parse_options has refused others
        given_key(name, bytes_max=KEY_BYTES_MAX - len(target.key_of("").encode()))


def _reserved(settings: Settings) -> frozenset[str]:
    """The keys that no source may have."""
    together, target = settings.together, settings.target
    names = [name for name in (together.index, together.complete_marker) if name]
    return frozenset(map(target.key_of, names)) if isinstance(target, S3Target) else frozenset()


def discovery_of(settings: Settings, target: Target, source: Source, *, in_shard: bool = False) -> Discovery:
    """The files of `source`, routed to `target`: all of them, or those in the run's shard."""
    local = settings.local_copy.directory if settings.local_copy is not None else ""
    router = Router(settings.routing, base=target.url, local_base=local)
    prefix = settings.target.prefix if isinstance(settings.target, S3Target) else ""
    # A local directory that stands in for the bucket has the bucket's keys.
    policies = settings.policies
    discovery = Discovery(
        source,
        router,
        prefix,
        records=_records_of(settings),
        leaves_out_unreadable=policies.on_unreadable == "skip",
        bounds=size_and_age(policies),
        rules=ObjectRules(settings) if policies.object_options else None,
    )
    discovery.reserved = _reserved(settings)
    if in_shard and settings.shard.count > 1:
        discovery.admits = lambda found: settings.shard.holds(shard_key(found))
    return discovery


def _records_of(settings: Settings) -> tuple[str, ...]:
    """The files that hold the records of this run, as far as they are named."""
    manifest, journal = settings.manifest, settings.journal.path if settings.journal.enabled else ""
    partial = os.path.abspath(manifest) + PARTIAL if manifest else ""
    return tuple(as_text(os.path.abspath(path)) for path in (manifest, partial, journal, settings.report) if path)


def tops_of(source: Source) -> list[str]:
    """The directories and files that a run starts from."""
    tops = getattr(source, "tops", None)  # of directories and files that are named by their paths
    if tops is not None:
        return list(tops)
    return [entry.path for entry in source.entries or ()]


def local_places(settings: Settings) -> list[str]:
    """The directories that a run writes to."""
    target, copy = settings.target, settings.local_copy
    return [place.directory for place in (target, copy) if isinstance(place, LocalTarget)]


async def with_places_outside(
    settings: Settings, source: Source, notice: Callable[[str], None], *, dry_run: bool
) -> Settings:
    """The settings, where nothing that a run writes lies inside what it reads. A default journal that does is left out,
    with a notice.

    Raises:
        ConfigError: a local destination, local copy, manifest, report or named journal lies inside a source; or the
            report cannot be written.
        JournalError: so does a default journal, and overwrite="journal" needs one.
    """
    sources = tops_of(source)
    await anyio.to_thread.run_sync(check_not_nested, sources, local_places(settings))
    await anyio.to_thread.run_sync(check_record_outside, sources, settings.manifest)
    await check_page(settings, sources)
    inside = await anyio.to_thread.run_sync(check_journal_outside, sources, settings.journal)
    if inside is None:
        return settings
    if settings.journal.required:
        raise inside
    notice(without_journal(inside, dry_run=dry_run))
    return replace(settings, journal=JournalChoice(enabled=False))


def page_of_export(settings: Settings, source: Source | None) -> RunPage | None:
    """The page of an export of `source`, or of a sink; None where none was asked for."""
    target = settings.target
    prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
    sources = tops_of(source) if settings.report and source is not None else ()
    return page_of_run(settings, verb="export", sources=sources, prefix=prefix)


async def check_page(settings: Settings, sources: Iterable[str], *, threads: CapacityLimiter | None = None) -> None:
    """Refuse a page that would be published itself, or that cannot be written.

    Args:
        threads: of the run, or None.

    Raises:
        ConfigError: so it is; nothing was sent.
    """
    if not settings.report:
        return
    await anyio.to_thread.run_sync(check_record_outside, sources, settings.report, "report", limiter=threads)
    await anyio.to_thread.run_sync(check_page_file, settings.report, limiter=threads)


def open_end(target: Target, *, lasting: bool = False) -> RunForecast:
    """The forecast of a run without a survey."""
    prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
    return RunForecast(objects_total=None, common_prefix=prefix, sample_key=f"{prefix}asyncsink", lasting=lasting)


# -- What a run may remove or write: remove_dest_dir, and places outside of the source ---------------------------------
# remove_dest_dir (DataSink's option) removes the local directories that directory sources are about to fill. On S3 it
# does nothing (rule 31).


def clear_destinations(discovery: Discovery, roots: tuple[str, str]) -> None:
    """Remove the local directories that directory sources will replace. Blocks; called before anything is sent.

    Args:
        discovery: whose top-level directories are replaced.
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
                    "directory.",
                    option="remove_dest_dir",
                )
    for root, target in targets:
        remove_directory(root, target)


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
    """Refuse a named journal that would be published itself; returns the error for a default one, or None. Blocks.

    Reading a journal's file would release this process's lock on it, so that a second run could open it (POSIX, fcntl:
    "All locks associated with a file … shall be removed when a file descriptor for that file is closed").

    Raises:
        ConfigError: the journal that was named lies inside a source, or is one.
    """
    if not journal.enabled:
        return None
    place = as_text(journal.path or default_place(journal)[0])
    if not place:
        return None  # there will be none
    for source in sources:
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            said = f"The journal {place} lies inside the source {source}, so that it would be published itself"
            if journal.required and journal.path:
                raise ConfigError(f"{said}; name a file outside, or use journal=False.")
            return JournalError(f"{said}; name one outside with journal=.")
    return None


def check_files_outside(source: Source, files: Mapping[str, str]) -> None:
    """Refuse files that would be published while they are written. Blocks.

    Args:
        files: by the flag that names them; "" where there is none.

    Raises:
        ConfigError: one lies inside a source, or is one.
    """
    tops = tops_of(source)
    for flag, file in files.items():
        check_record_outside(tops, file, f"file of {flag},")


def check_record_outside(sources: Iterable[str], path: str, what: str = "manifest") -> None:
    """Refuse a manifest, or another record of the run, that would be published itself. Blocks.

    Raises:
        ConfigError: it lies inside a source, or is one.
    """
    place = as_text(os.path.abspath(path))
    for source in sources if path else ():
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            raise ConfigError(
                f"The {what} {path} lies inside the source {source}, so that it would be published itself; name "
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
