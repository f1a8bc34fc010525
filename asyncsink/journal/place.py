"""Which file is a run's journal, and opening it: the one function that a run calls."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Final

import anyio.to_thread

from asyncsink.config import JournalChoice, ObjectOptions, S3Target, Shard
from asyncsink.errors import JournalError
from asyncsink.journal.base import Journal
from asyncsink.journal.opening import Identity, Opened, UnusableJournal, open_database
from asyncsink.journal.rows import options_digest
from asyncsink.journal.sqlite import SqliteJournal
from asyncsink.model import ChecksumAlgorithm

READABLE_CHARACTERS_MAX: Final = 80
DIGEST_BYTES: Final = 8


async def open_journal(
    choice: JournalChoice,
    target: S3Target,
    *,
    endpoint_url: str,
    objects: ObjectOptions,
    algorithm: ChecksumAlgorithm | None,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    dry_run: bool = False,
    notice: Callable[[str], None],
) -> Journal | None:
    """Open the journal of a run, or return None where it has none.

    Args:
        target: the destination in use; its prefix and bucket, with `endpoint_url`, are the journal's identity.
        endpoint_url: the server really used, "" for Amazon's own.
        objects, algorithm: what every object is given; what was published otherwise counts as not known.
        shard: each shard has a default journal of its own.
        dry_run: read the journal that is there; make none, change none.
        notice: told, on the event loop, that the run goes on without a default journal, and why.

    Raises:
        JournalError: the journal is no file, no journal, damaged, of another version or destination; one that is
            required is in use or cannot be written.
        DestinationFull: one that is required cannot be made: no space is left.
    """
    if not choice.enabled:
        return None
    identity = Identity(endpoint_url.lower().rstrip("/"), target.bucket, target.prefix)
    path = choice.path or default_path(choice.state_directory, identity, shard)
    try:
        opened = await anyio.to_thread.run_sync(
            partial(_open, path, identity, dry_run=dry_run, default=not choice.path)
        )
    except UnusableJournal as unusable:
        if choice.required:
            raise unusable.error from unusable.__cause__
        notice(without_journal(unusable.error, dry_run=dry_run))
        return None
    if opened is None:
        return None
    return SqliteJournal(path, opened, options_digest(objects, algorithm, opened.salt))


def default_path(state_directory: str, identity: Identity, shard: Shard) -> str:
    """The file of a destination's own: <state>/asyncsink/journals/<bucket-prefix>-<digest>[-shard-I-of-N].sqlite."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{identity.bucket}-{identity.prefix}".rstrip("-"))
    said = "\0".join((identity.endpoint_url, identity.bucket, identity.prefix)).encode("utf-8", "surrogatepass")
    digest = blake2b(said, digest_size=DIGEST_BYTES).hexdigest()
    of_shard = f"-shard-{shard.index}-of-{shard.count}" if shard.count > 1 else ""
    name = f"{readable[:READABLE_CHARACTERS_MAX]}-{digest}{of_shard}.sqlite"
    return os.path.join(default_directory(state_directory), name)


def default_directory(state_directory: str) -> str:
    """Where default journals are kept."""
    return os.path.join(os.path.expanduser(state_directory), "asyncsink", "journals")


def without_journal(error: Exception, *, dry_run: bool) -> str:
    """The notice of a run that goes on without its default journal."""
    run = "plan" if dry_run else "run"
    return (
        f"This {run} goes on without a journal: {error} Everything is compared with the server instead; a run that is "
        "killed leaves its open uploads behind."
    )


def _open(path: str, identity: Identity, *, dry_run: bool, default: bool) -> Opened | None:
    if default and not os.path.isabs(path):
        # There is no home directory: the file would be made wherever the run was started.
        raise UnusableJournal(
            JournalError("there is no home directory for its file; name one with journal=, or set HOME.")
        )
    if default and not dry_run:
        directory = os.path.dirname(path)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnusableJournal(
                JournalError(f"The directory {directory!r} of its file cannot be made: {error.strerror}.")
            ) from error
    return open_database(path, identity, dry_run=dry_run)
