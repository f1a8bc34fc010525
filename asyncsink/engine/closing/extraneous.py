"""Extraneous objects: those below the destination that no source maps to. Found before the run, deleted at its end.

Not extraneous are objects whose names `exclude` matches, what lies where a source was left out, folder markers, and the
run's own index and completion marker. An object that is replaced between the two listings is left as it is; where the
server knows conditional deletes, also one that is replaced in the moment between the second listing and the deletion.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread

from asyncsink.engine.open_run import Run
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.planning.walk import tops_of
from asyncsink.errors import ConfigError, PermanentError, RoutingError, TransferError
from asyncsink.event_loops import batches
from asyncsink.model import Failure, SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import S3Target
from asyncsink.paths import encoded_name
from asyncsink.report.closing import EXAMPLES_SHOWN, Deletion, Extraneous
from asyncsink.report.sentences import count
from asyncsink.s3.get_object import KEYS_MAX, DeleteObjects, has_xml_name
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import DeleteObject, ListedObject
from asyncsink.sources.selection import Selection
from asyncsink.temporary import TemporaryDatabase

SHARE_MAX: Final = 0.1
ALWAYS_MAX, DEFAULT_MAX = 10, 1000
_TABLES = """
CREATE TABLE known (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE left_out (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE extraneous (key BLOB PRIMARY KEY, etag TEXT, size INTEGER) WITHOUT ROWID;
"""


class ExtraneousObjects:
    """Those of one run. `find` them before anything is sent, `delete` them when everything is published.

    Attributes:
        found: what was found, and what became of it.
    """

    def __init__(self, run: Run, target: S3Target) -> None:
        """Look below the prefix of `target`, as a folder."""
        self.found = Extraneous()
        self._run = run
        self._bucket = target.bucket
        self._base = target.key_of("")
        self._selection: Selection | None = None
        self._lock = threading.Lock()
        self._disk = TemporaryDatabase("The keys of the destination", _TABLES)
        self._protects = False

    def close(self) -> None:
        """Release the file."""
        self._disk.close()

    # -- Before the run -----------------------------------------------------------------------------------------------

    async def find(self, discovery: Discovery, entries: Iterable[Transfer | SourceProblem]) -> None:
        """Find the extraneous objects.

        Args:
            discovery: of the run.
            entries: everything that the walk finds; iterating blocks.

        Raises:
            ConfigError: there are more than may be deleted, or a source is missing whose object would be taken for one;
                not in a dry run, where `found.excess` has the sentence.
            TransferError: the destination cannot be listed.
        """
        threads = self._run.resources.threads
        self._selection = await anyio.to_thread.run_sync(Selection, self._run.resources.policies, limiter=threads)
        async for batch in batches(iter(entries), limiter=threads, size=KEYS_MAX):
            await anyio.to_thread.run_sync(self._learn, discovery, batch, limiter=threads)
        await anyio.to_thread.run_sync(self._know, discovery.reserved, limiter=threads)
        async for objects in self._pages():
            self.found = await anyio.to_thread.run_sync(self._sort, objects, limiter=threads)
        excess = self.found.excess or _excess(self.found, self._run.resources.settings.together.delete_max)
        self.found = replace(self.found, excess=excess)
        if excess and not self._run.resources.dry_run:
            raise ConfigError(excess)

    async def _pages(self) -> AsyncIterator[Sequence[ListedObject]]:
        assert self._run.stack is not None
        async with aclosing(object_pages(self._run.stack.transport, self._base)) as pages:
            async for page in pages:
                # A server that lists what was not asked for must not have that deleted.
                yield [each for each in page.objects if each.key.startswith(self._base)]

    def _learn(self, discovery: Discovery, batch: Sequence[Transfer | SourceProblem]) -> None:
        with self._disk.at_once():
            for entry in batch:
                if isinstance(entry, Transfer):
                    self._disk.change("INSERT OR IGNORE INTO known VALUES (?)", encoded_name(entry.key))
                elif (key := _key_of(discovery, entry)) is not None:
                    self._protects = True
                    self._disk.change("INSERT OR IGNORE INTO left_out VALUES (?)", encoded_name(key))
                else:
                    self.found = replace(
                        self.found,
                        excess=f"Nothing may be deleted: {entry.path!r} has no key, so that its object could be taken "
                        "for an extraneous one; correct the source, or leave delete_extraneous out.",
                    )

    def _know(self, keys: Iterable[str]) -> None:
        with self._disk.at_once():
            self._disk.change_many("INSERT OR IGNORE INTO known VALUES (?)", ((encoded_name(key),) for key in keys))

    def _sort(self, objects: Sequence[ListedObject]) -> Extraneous:
        rows, examples = [], [*self.found.examples]
        for listed in objects:
            if not self._belongs(listed):
                rows.append((encoded_name(listed.key), listed.etag, listed.size_bytes))
                examples += [listed.key] if len(examples) < EXAMPLES_SHOWN else []
        with self._disk.at_once():
            self._disk.change_many("INSERT OR REPLACE INTO extraneous VALUES (?, ?, ?)", rows)
        return replace(
            self.found,
            listed=self.found.listed + len(objects),
            objects=self.found.objects + len(rows),
            size_bytes=self.found.size_bytes + sum(size for _, _, size in rows),
            examples=tuple(examples),
        )

    def _belongs(self, listed: ListedObject) -> bool:
        key = listed.key
        if key.endswith("/") and not listed.size_bytes:
            return True  # a folder marker
        if self._disk.row("SELECT 1 FROM known WHERE key = ?", encoded_name(key)) is not None:
            return True
        if self._protects and any(
            self._disk.row("SELECT 1 FROM left_out WHERE key = ?", encoded_name(name)) is not None
            for name in _itself_and_folders(key, len(self._base))
        ):
            return True
        return self._selection is not None and self._selection.leaves_out(key.removeprefix(self._base))

    # -- After the run ------------------------------------------------------------------------------------------------

    async def delete(self, before: Callable[[], Awaitable[None]]) -> None:
        """Delete those that are still what they were; each is recorded.

        Args:
            before: awaited before the first deletion.

        Raises:
            TransferError: the destination cannot be listed.
            JournalError, DestinationFull: a deletion cannot be recorded.
        """
        if not self.found.objects:
            return
        await before()
        threads = self._run.resources.threads
        async for objects in self._pages():
            doomed = await anyio.to_thread.run_sync(self._still, objects, limiter=threads)
            for start in range(0, len(doomed), KEYS_MAX):
                await self._delete(doomed[start : start + KEYS_MAX])

    def _still(self, objects: Sequence[ListedObject]) -> list[ListedObject]:
        doomed = []
        for listed in objects:
            row = self._disk.row("SELECT etag, size FROM extraneous WHERE key = ?", encoded_name(listed.key))
            if row is None:
                continue
            if row == (listed.etag, listed.size_bytes):
                doomed.append(listed)
            else:
                self.found = replace(self.found, changed=self.found.changed + 1)
        return doomed

    async def _delete(self, doomed: Sequence[ListedObject]) -> None:
        versions: dict[str, str] = {}
        errors: dict[str, tuple[str, str]] = {}
        together = [each for each in doomed if has_xml_name(each.key)]
        assert self._run.stack is not None
        send = self._run.stack.transport.send
        if together:
            try:
                answer = await send(DeleteObjects(objects=tuple((each.key, each.etag) for each in together)))
                versions, errors = dict(answer.versions), dict(answer.errors)
            except PermanentError as error:
                # Not every server has DeleteObjects: then one by one, which tells each object's own error.
                if error.status not in (400, 405, 501):
                    errors = {each.key: (type(error).__name__, str(error)) for each in together}
                else:
                    together = []
            except TransferError as error:
                errors = {each.key: (type(error).__name__, str(error)) for each in together}
        alone = [each for each in doomed if each not in together]
        for listed in alone:
            try:
                await send(DeleteObject(key=listed.key))
                versions[listed.key] = ""
            except TransferError as error:
                errors[listed.key] = (type(error).__name__, str(error))
        await self._record(doomed, versions, errors)

    async def _record(
        self, doomed: Sequence[ListedObject], versions: dict[str, str], errors: dict[str, tuple[str, str]]
    ) -> None:
        run, deletions = self._run, list[Deletion]()
        changed = failed = 0
        for listed in doomed:
            url = f"s3://{self._bucket}/{listed.key}"
            code, message = errors.get(listed.key, ("", ""))
            if not code and listed.key in versions:
                version = versions[listed.key]
                deletions.append(Deletion(listed.key, url, listed.size_bytes, listed.etag, version))
            elif code == "PreconditionFailed":
                changed += 1
            else:
                failed += 1
                why = f"{code}: {message}" if code else "the server's answer does not name it"
                error = "ServerFault" if not code else code if code.isidentifier() else "PermanentError"
                message = f"The extraneous object {url} was not deleted: {why}"
                run.log.append(Failure("", listed.key, url, error, message, "delete"))
        if deletions and run.manifest is not None:
            await run.manifest.write_deletions(deletions)
        self.found = replace(
            self.found,
            deleted=self.found.deleted + len(deletions),
            changed=self.found.changed + changed,
            failed=self.found.failed + failed,
        )


def _key_of(discovery: Discovery, problem: SourceProblem) -> str | None:
    """The key that a source which is left out would have; None where that is not known."""
    if not problem.skipped:
        return None
    for top in tops_of(discovery.source):
        if problem.path == top or problem.path.startswith(f"{top}/"):
            relative = problem.path[len(top) + 1 :]
            file = SourceFile(problem.path, 0, 0, problem.attribute, problem.entry, top, relative)
            try:
                found = discovery.router.route(file)
            except RoutingError:
                return None
            return f"{discovery.prefix}/{found.key}" if discovery.prefix else found.key
    return None


def _itself_and_folders(key: str, base_length: int) -> Iterator[str]:
    """The key, and the folders below the base that it lies in, without their "/"."""
    end = len(key)
    while end > base_length:
        yield key[:end]
        end = key.rfind("/", 0, end)


def _excess(found: Extraneous, most: str) -> str:
    """Why so many objects may not be deleted, as a sentence, or ""."""
    if most.endswith("%"):
        allowed = int(found.listed * float(most[:-1]) / 100)
    elif most:
        allowed = int(most)
    else:
        allowed = min(DEFAULT_MAX, max(ALWAYS_MAX, int(found.listed * SHARE_MAX)))
    if found.objects <= allowed:
        return ""
    return (
        f"Nothing may be deleted: no source has {count(found.objects, 'object')} of the {found.listed:,} at the "
        f"destination, such as {found.examples[0]!r}, and delete_max allows {allowed:,}. Look at the plan; then give "
        f"delete_max={found.objects}, or correct source or destination."
    )
