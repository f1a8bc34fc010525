"""Of an export that succeeded: extraneous objects are deleted, then come the index and the completion marker."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.destinations.completion import MarkedS3Destination
from asyncsink.engine.closing.extraneous import ExtraneousObjects
from asyncsink.engine.closing.index import IndexFile, write_index
from asyncsink.engine.open_run import Run
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.errors import TransferError
from asyncsink.model import Failure, Receipt, Skip, Transfer
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import VERSION
from asyncsink.report.closing import Closing
from asyncsink.report.sentences import count
from asyncsink.sources.content import MemoryFile

INDEX = "index"
"""The source of the index in reports and manifests: it is made of the run's own outcomes."""


async def publish_together(run: Run, extraneous: ExtraneousObjects | None) -> Closing:
    """Delete extraneous objects, and publish the index and the completion marker that the settings name, where
    everything succeeded.

    What fails is recorded as a failure of the run. Cancelled, nothing more is published.

    Raises:
        JournalError, DestinationFull: the index, or the record of it, cannot be written to disk.
    """
    resources, closing = run.resources, Closing()
    together, counts = resources.settings.together, run.log.counts
    wanted = (("index", together.index), ("completion marker", together.complete_marker))
    what = " and ".join([what for what, name in wanted if name])
    not_done = [f"The {what} cannot be published"] if what else []
    not_done += ["Nothing is deleted"] if extraneous is not None else []
    failed = counts.objects_failed + counts.local_copies_failed
    if failed or not isinstance(run.target, S3Target):
        why = f"{count(failed, 'file')} failed" if failed else "nothing is on S3"
        for sentence in not_done:
            resources.events.notice(f"{sentence}: {why}.")
        return closing
    with resources.halt.bounds():
        if extraneous is not None and not await _delete(run, extraneous):
            if what:
                resources.events.notice(f"The {what} cannot be published: extraneous objects could not be deleted.")
            return closing
        facts: dict[str, Any] = {"objects": counts.objects_uploaded + counts.already_there}
        if together.index:
            async with _index(run) as index:
                outcome = await _publish_index(run, run.target.key_of(together.index), index)
                if isinstance(outcome, Failure):
                    return closing
                closing = Closing(index=outcome, index_objects=index.objects)
                facts = {
                    "objects": index.objects,
                    "size_bytes": index.objects_bytes,
                    "index": {"key": outcome.key, "size_bytes": outcome.size_bytes, "sha256": index.sha256},
                }
        if isinstance(run.destination, MarkedS3Destination):
            closing = replace(closing, complete_marker=await _publish_marker(run, run.destination, facts))
    return closing


async def _delete(run: Run, extraneous: ExtraneousObjects) -> bool:
    """Delete them; returns whether all are deleted, but for those that were replaced meanwhile."""

    async def before() -> None:
        if isinstance(run.destination, MarkedS3Destination):
            await run.destination.marker.remove()

    try:
        await extraneous.delete(before)
    except TransferError as error:
        url = run.destination.name
        run.log.append(Failure("", "", url, type(error).__name__, f"Extraneous objects are left: {error}", "delete"))
        return False
    return not extraneous.found.failed


@asynccontextmanager
async def _index(run: Run) -> AsyncIterator[IndexFile]:
    """The index as a temporary file."""
    threads = run.resources.threads
    folder = await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="asyncsink-"), limiter=threads)
    try:
        write = partial(write_index, run.log, folder, run.resources.settings.together.index)
        yield await anyio.to_thread.run_sync(write, limiter=threads)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True), limiter=threads)


async def _publish_index(run: Run, key: str, index: IndexFile) -> Receipt | Skip | Failure:
    progress = run.resources.progress
    if progress.bytes_total is not None:
        progress.bytes_total += index.source.size_bytes
    outcome = replace(await _publish(run, Transfer(index.source, key, key, overwrite="checksum")), source=INDEX)
    if run.manifest is not None:
        await run.manifest.write(await run.manifest.carried([outcome]))
    return outcome


async def _publish_marker(run: Run, destination: MarkedS3Destination, facts: dict[str, Any]) -> str:
    """Publish the marker, unless it is there and says the same; returns its URL, or "" where that fails."""
    marker = destination.marker
    if await marker.says(facts):
        return marker.url
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"destination": destination.name, **facts, "completed": now, "asyncsink": VERSION}
    content = MemoryFile(f"{json.dumps(told, indent=2)}\n".encode(), copied_bytes_max=0, what="The marker")
    outcome = await _publish(run, Transfer(content, marker.key, marker.key, overwrite="always"))
    return "" if isinstance(outcome, Failure) else marker.url


async def _publish(run: Run, transfer: Transfer) -> Receipt | Skip | Failure:
    """Publish an object that is none of the run's files: it is not counted with them, but its failure is."""
    (outcome,), _ = await Publisher(run.resources, run.destination, None).publish(transfer)
    if isinstance(outcome, Failure):
        run.log.append(outcome)
        return outcome
    assert isinstance(outcome, Receipt | Skip)  # it is no dry run
    return outcome
