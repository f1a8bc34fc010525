"""The journal in an SQLite file: one thread owns its only connection, and each transaction serves all waiting calls.

The file is locked exclusively (locking_mode=EXCLUSIVE): a second run is refused, and no shared memory is needed
(sqlite.org/wal.html, "Use of WAL Without Shared-Memory"). WAL with synchronous=NORMAL survives the end of the process
at any moment; a commit with an UploadOpened is FULL, which survives a power cut too (sqlite.org/pragma.html,
"synchronous"). On a network file system (file_systems.py) a named journal has a rollback journal instead of WAL, always
with FULL, and the default journal is on a local one.
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import field
from functools import partial
from hashlib import blake2b
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread

from asyncsink.errors import JournalError
from asyncsink.journal.at_rest import remove_unused
from asyncsink.journal.base import Forgotten, Journal, OptionsDigests, PublishedRow, Rows, Writing
from asyncsink.journal.file_systems import check_is_own, local_directory, network_file_system
from asyncsink.journal.opening import (
    Identity,
    Opened,
    UnusableJournal,
    fault_of,
    open_database,
    remove_database,
    used_now,
)
from asyncsink.model import JournalEntry, Transfer, UploadCompleting, UploadCreating, UploadOpened, UploadStep
from asyncsink.options.schema import ObjectOptions, S3Target
from asyncsink.options.settings import ChecksumAlgorithm, JournalChoice, Shard
from asyncsink.value import dataclass

T = TypeVar("T")

WAITING_MAX = 1000
"""Requests that may be queued for the thread; beyond that, every call waits for its commit."""
_COMMITTED_ON_RETURN = (UploadCreating, UploadOpened, UploadCompleting)


@dataclass(slots=True, eq=False)
class _Write:
    """An item to commit; `done` completes a waiting call."""

    what: Writing
    done: Future[None] | None


@dataclass(slots=True, eq=False)
class _Question:
    """A lookup; `answer` completes the waiting call."""

    ask: Callable[[Rows], Any]
    answer: Future[Any] = field(default_factory=Future)


class SqliteJournal:
    """See `base.Journal`. Created by `open_journal`."""

    def __init__(self, path: str, opened: Opened, digests: OptionsDigests) -> None:
        """Take over the result of `opening.open_database`."""
        self._path = path
        self._database = opened.database
        self._blank = opened.blank
        self._real, self._place = opened.real, opened.place
        self._dry_run = opened.dry_run
        self._rows = Rows(opened.database, digests)
        self._requests: queue.SimpleQueue[_Write | _Question | None] = queue.SimpleQueue()
        self._handing_over = threading.Lock()
        self._error: Exception | None = None
        self._error_told = False
        self._closed = False
        self._stopped: Future[None] = Future()
        self._ended: Future[None] = Future()
        # A daemon thread: a process whose run was never closed may end, because committed items are safe.
        self._thread = threading.Thread(target=self._run, name="asyncsink-journal", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<SqliteJournal {self._path!r}>"

    @property
    def path(self) -> str:
        """Absolute path of the file."""
        return self._path

    @property
    def blank(self) -> bool:
        """See `base.Journal.blank`."""
        return self._blank

    def in_place(self) -> bool:
        """See `base.Journal.in_place`."""
        try:
            found = os.stat(self._real)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    def known(self, transfers: Sequence[Transfer]) -> list[JournalEntry | None]:
        """See `base.Journal.known`."""
        return self._asked(lambda rows: rows.known(transfers))

    def contents_left(self) -> list[str]:
        """See `base.Journal.contents_left`."""
        return self._asked(Rows.contents_left)

    def _asked(self, ask: Callable[[Rows], T]) -> T:
        question = _Question(ask)
        self._hand_over(question)
        answer: Future[T] = question.answer
        return self._wait(answer)

    def stop_asking(self) -> None:
        """See `base.Journal.stop_asking`."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _wait(self, answer: Future[T]) -> T:
        # A stalled disk may block the journal's thread without limit, so `stop_asking` ends the wait.
        either: list[Future[Any]] = [answer, self._stopped]
        wait(either, return_when=FIRST_COMPLETED)
        if not answer.done():
            raise JournalError(f"The journal {self._path!r} was not waited for: the run is being stopped.")
        return answer.result()

    def forget(self, keys: Sequence[str]) -> None:
        """See `base.Journal.forget`."""
        done: Future[None] = Future()
        self._hand_over(_Write(Forgotten(tuple(keys)), done))
        self._wait(done)

    async def publish(self, published: Sequence[PublishedRow]) -> None:
        """See `base.Journal.publish`."""
        if published:
            await self._commit(published)

    async def step(self, step: UploadStep) -> None:
        """See `base.Journal.step`."""
        if isinstance(step, _COMMITTED_ON_RETURN) or self._requests.qsize() >= WAITING_MAX:
            await self._commit(step)
        else:
            self._hand_over(_Write(step, None))

    def withdraw(self) -> None:
        """Remove the file: objects that it has as published may have been replaced since."""
        remove_database(self._path)

    async def aclose(self, seconds: float | None = None) -> None:
        """See `base.Journal.aclose`."""
        with self._handing_over:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        with anyio.move_on_after(seconds, shield=True) as waited:
            while not self._ended.done():
                await asyncio.wait([asyncio.wrap_future(self._ended)])
        if waited.cancelled_caught:
            raise JournalError(
                f"The journal {self._path!r} could not be written within {seconds:g} s, and the run was stopped "
                "without it; look at the disk it is on. What was not recorded is compared by the next run."
            )
        if self._error is not None and not self._error_told:
            raise self._told()

    async def _commit(self, what: Writing) -> None:
        done: Future[None] = Future()
        self._hand_over(_Write(what, done))
        try:
            await asyncio.wrap_future(done)
        except Exception:
            self._error_told = True
            raise

    def _hand_over(self, request: _Write | _Question) -> None:
        # No request may follow the request to close, because it would never be answered.
        with self._handing_over:
            if self._closed:
                raise AssertionError("a journal is not used after it was closed")
            if self._error is not None:
                raise self._told()
            self._requests.put(request)

    def _told(self) -> Exception:
        assert self._error is not None
        self._error_told = True
        return self._error

    def _run(self) -> None:
        """The thread, until `aclose`: take the queued requests, write them in one transaction, complete the calls."""
        last = False
        while not last:
            taken = [self._requests.get()]
            while len(taken) < WAITING_MAX and not self._requests.empty():
                taken.append(self._requests.get())
            last = None in taken
            self._write([request for request in taken if isinstance(request, _Write)])
            for request in taken:
                if isinstance(request, _Question):
                    self._look_up(request)
        try:
            self._database.close()
        except sqlite3.Error as error:
            self._error = self._error or fault_of(error, self._path)
        if not self._dry_run:
            used_now(self._real)
        self._ended.set_result(None)

    def _write(self, writes: list[_Write]) -> None:
        # A cancelled call gets no result; its item is written all the same.
        waiting = [write.done for write in writes if write.done and write.done.set_running_or_notify_cancel()]
        if writes and self._error is None:
            try:
                self._rows.write([write.what for write in writes])
            except sqlite3.Error as error:
                self._error = fault_of(error, self._path)
            except Exception as error:  # noqa: BLE001 - waiting calls get the bug; without the thread they would hang
                self._error = error
        for done in waiting:
            if self._error is None:
                done.set_result(None)
            else:
                done.set_exception(self._error)

    def _look_up(self, question: _Question) -> None:
        try:
            if self._error is not None:
                raise self._told()
            question.answer.set_result(question.ask(self._rows))
        except sqlite3.Error as error:
            self._error = fault_of(error, self._path)
            question.answer.set_exception(self._told())
        except Exception as error:  # noqa: BLE001 - likewise
            question.answer.set_exception(error)


# -- Choosing and opening the journal of a run -------------------------------------------------------------------------

SINKS_MAX: Final = 32
"""Most default journals of one destination: one for each sink that is open at the same time, as in the workers of a
service. More go on without."""
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
    lasting: bool = False,
    notice: Callable[[str], None],
) -> Journal | None:
    """Open the journal of a run, or return None where it has none.

    Args:
        target: the destination; its prefix and bucket, with `endpoint_url`, are the journal's identity.
        endpoint_url: the server in use, "" for Amazon's own.
        objects, algorithm: the object options of this run; objects published with other ones count as unknown.
        shard: each shard has a default journal of its own.
        dry_run: read an existing journal; create none, change none.
        lasting: the run is a sink: where the default journal is in use, it has another one, which the sink that opens
            after as many others has again.
        notice: called on the event loop with the reason why the run continues without a default journal, or has one
            elsewhere, because of a network file system.

    Raises:
        JournalError: the journal is not a file, not a journal, damaged, or of another version or destination; or a
            required journal is in use or cannot be written.
        DestinationFull: a required journal cannot be created: no space is left.
    """
    if not choice.enabled:
        return None
    identity = Identity(endpoint_url.lower().rstrip("/"), target.bucket, target.prefix)
    try:
        if choice.attempt:
            from asyncsink.journal.open_uploads import open_uploads  # for parts of a split alone

            return await open_uploads(
                choice.path, choice.attempt, identity, objects=objects, algorithm=algorithm, dry_run=dry_run
            )
        path, opened, sentence = await anyio.to_thread.run_sync(
            partial(_open, choice, identity, shard, dry_run=dry_run, most=SINKS_MAX if lasting else 1)
        )
    except UnusableJournal as unusable:
        if choice.required:
            raise unusable.error from unusable.__cause__
        notice(without_journal(unusable.error, dry_run=dry_run))
        return None
    if opened is None:
        return None
    if sentence:
        notice(sentence)
    return SqliteJournal(path, opened, OptionsDigests(objects, algorithm, opened.salt))


def default_path(state_directory: str, identity: Identity, shard: Shard, number: int = 1) -> str:
    """The default file of a destination: <state>/asyncsink/journals/<bucket-prefix>-<digest>[-shard-I-of-N].sqlite; of
    the second and later sinks that are open at the same time, …-sink-2.sqlite."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{identity.bucket}-{identity.prefix}".rstrip("-"))
    said = "\0".join((identity.endpoint_url, identity.bucket, identity.prefix)).encode("utf-8", "surrogatepass")
    digest = blake2b(said, digest_size=DIGEST_BYTES).hexdigest()
    of_shard = f"-shard-{shard.index}-of-{shard.count}" if shard.count > 1 else ""
    of_sink = f"-sink-{number}" if number > 1 else ""
    name = f"{readable[:READABLE_CHARACTERS_MAX]}-{digest}{of_shard}{of_sink}.sqlite"
    return os.path.join(default_directory(state_directory), name)


def default_directory(state_directory: str) -> str:
    """The directory of default journals."""
    return os.path.join(os.path.expanduser(state_directory), "asyncsink", "journals")


def default_place(choice: JournalChoice) -> tuple[str, str]:
    """The directory of default journals, and the network file system for which it is not the user's usual one, or "".
    The directory is "" where there is no local one. Blocking."""
    usual = default_directory(choice.state_directory)
    network = network_file_system(usual) if os.path.isabs(usual) else ""
    if not network:
        return usual, ""
    local = local_directory(choice.runtime_directory)
    return os.path.join(local, "journals") if local else "", network


def without_journal(error: Exception, *, dry_run: bool) -> str:
    """The notice of a run that continues without its default journal."""
    run = "plan" if dry_run else "run"
    return (
        f"This {run} goes on without a journal: {error} Everything is compared with the server instead; a run that is "
        "killed leaves its open uploads behind."
    )


def _open(
    choice: JournalChoice, identity: Identity, shard: Shard, *, dry_run: bool, most: int
) -> tuple[str, Opened | None, str]:
    """The path of the journal, what was opened, and a sentence about a network file system, or about a journal that is
    in use, or ""."""
    if choice.path:
        network = network_file_system(choice.path)
        opened = open_database(choice.path, identity, dry_run=dry_run, rollback=bool(network))
        sentence = (
            f"The journal {choice.path!r} is on {network}, a network file system: it is written with a rollback "
            "journal instead of a log, which takes longer; a file on a disk of this machine is safer."
        )
        return choice.path, opened, sentence if network and not dry_run else ""
    usual = default_path(choice.state_directory, identity, shard)
    directory, network = default_place(choice)
    if network and not directory:
        raise UnusableJournal(
            JournalError(
                f"its directory {os.path.dirname(usual)!r} is on {network}, a network file system, and so is that for "
                "temporary files; name a file on a disk of this machine with journal=, or set TMPDIR."
            )
        )
    path = os.path.join(directory, os.path.basename(usual))
    _make_directory(directory, local=bool(network), dry_run=dry_run)
    sentence = (
        f"The journal of this destination is {path!r}, on this machine only: {os.path.dirname(usual)!r} is on "
        f"{network}, a network file system. Runs on other machines do not see it; name another file with journal=."
    )
    for number in range(1, most + 1):
        path = os.path.join(directory, os.path.basename(default_path("", identity, shard, number)))
        try:
            opened = open_database(path, identity, dry_run=dry_run)
        except UnusableJournal as unusable:
            if number == most or not unusable.in_use:
                raise
            continue
        if not dry_run:
            remove_unused(directory, now_seconds=time.time(), but=path)
        if number > 1:
            sentence = (
                f"The journal of this sink is {path!r}, since {number - 1} of this destination "
                f"{'is' if number == 2 else 'are'} in use by other sinks. Each has what its own sink has published; "
                "what the others have is compared with the server."
            )
        return path, opened, sentence if network or number > 1 else ""
    raise AssertionError("at least one is tried")


def _make_directory(directory: str, *, local: bool, dry_run: bool) -> None:
    if not os.path.isabs(directory):
        # Without a home directory the file would be created in the current directory.
        raise UnusableJournal(
            JournalError("there is no home directory for its file; name one with journal=, or set HOME.")
        )
    try:
        if local:
            check_is_own(os.path.dirname(directory), make=not dry_run)
        if not dry_run:
            os.makedirs(directory, mode=0o700, exist_ok=True)
    except JournalError as error:
        raise UnusableJournal(error) from None
    except OSError as error:
        raise UnusableJournal(
            JournalError(f"The directory {directory!r} of its file cannot be made: {error.strerror}.")
        ) from error
