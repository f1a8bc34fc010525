"""The journal in a run: its entries go into the transfers, and their outcomes go into it before they are reported.

    producer ──attach──► Transfer.known, or a Skip there and then      (reader thread, batch by batch)
    writers  ──step────► the uploads that are open                     (destinations.base.UploadLog)
    recorder ──record──► what is published                             (before manifest, log and callers)

One key has one row in the journal: no two transfers of a key are under way at once (see `KeyTurns`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import anyio
import anyio.to_thread

from asyncsink.destinations.base import Destination
from asyncsink.engine.recording.recorder import Passed, QueuedOutcomes
from asyncsink.errors import DestinationFull, JournalError, TransferError
from asyncsink.integrity.sameness import UNCHANGED_REASON
from asyncsink.journal.base import Journal, PublishedRow, published_row
from asyncsink.model import (
    BYTES,
    STREAM,
    Failure,
    Found,
    JournalEntry,
    Receipt,
    Skip,
    SourceFile,
    SourceProblem,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadStep,
)
from asyncsink.options.schema import Overwrite
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.report.sentences import count

COUNT_BATCH = 1000
_CONTENT = frozenset({encoded_name(BYTES), encoded_name(STREAM)})
NAMED_MAX = 5
"""Most keys of open uploads that a notice names."""


class RunJournal:
    """A journal as one run uses it; satisfies `UploadLog`.

    Args:
        journal: open.
        overwrite: the policy of transfers without one of their own; with "journal" a known file is skipped without a
            request.
        bucket: for the URLs of skipped files.
        dry_run: whether the journal is left unchanged.
        notice: called, on the event loop, when a default journal cannot be used any more, and the run goes on without
            it; None where the run requires its journal, and stops then.
        copy: the local copy of the run, which is `blocking`, or None.
        contradicts: whether the destination's listing proves that a key has another object than the one with this ETag;
            called in reader threads.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        overwrite: Overwrite,
        bucket: str,
        dry_run: bool = False,
        notice: Callable[[str], None] | None = None,
        copy: Destination | None = None,
        contradicts: Callable[[str, str], bool] = lambda _key, _etag: False,
    ) -> None:
        self._journal = journal
        self._notice = notice
        self._stopping = False
        self._given_up = ""
        self._overwrite = overwrite
        self._bucket = bucket
        self._dry_run = dry_run
        self._copy = copy
        self._contradicts = contradicts
        self._uploads: dict[str, Literal["open", "completing"]] = {}
        self._counted: dict[int, JournalEntry | None] = {}

    def __repr__(self) -> str:
        return f"<RunJournal {self._journal.path!r}, {len(self._uploads)} uploads under way>"

    @property
    def path(self) -> str:
        """Its file."""
        return self._journal.path

    @property
    def blank(self) -> bool:
        """Whether the journal held nothing when it was opened; see `Journal.blank`. A key that comes only once has no
        row."""
        return self._journal.blank

    @property
    def lasting(self) -> bool:
        """See `UploadLog.lasting`."""
        return not self._given_up

    def lost(self) -> str:
        """A sentence where the next run will not find what this one has written, or "". Blocking."""
        if self._given_up or self._journal.in_place():
            return self._given_up
        return (
            f"The journal {self._journal.path!r} was removed or replaced while the run went on; the next run compares "
            "everything with the server."
        )

    def stop_asking(self) -> None:
        """Make `attach` raise instead of waiting: the run is being cancelled."""
        self._stopping = True
        self._journal.stop_asking()

    async def aclose(self, seconds: float | None) -> None:
        """As `Journal.aclose`. A journal that was given up is withdrawn: it lacks what this run has done since.

        Raises:
            JournalError, DestinationFull: a fault that was not reported before; none of a journal that was given up.
        """
        try:
            await self._journal.aclose(seconds)
        except (JournalError, DestinationFull):
            if not self._given_up:
                raise
        if self._given_up:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._journal.withdraw)
            if self._uploads and self._notice is not None:
                named = ", ".join(map(repr, list(self._uploads)[:NAMED_MAX]))
                self._notice(
                    f"Multipart uploads of {count(len(self._uploads), 'key')} may stay open ({named}), because the "
                    "journal could not be written; `asyncsink abort-uploads` ends them."
                )

    def _go_on(self, error: JournalError | DestinationFull) -> None:
        """Give the journal up; `error` is raised where the run requires it, or is being stopped anyway."""
        if self._notice is None or self._stopping:
            raise error
        if not self._given_up:
            self._given_up = (
                f"This run goes on without its journal: {error} The next run compares everything with the server; a "
                "run that is killed leaves its open uploads behind."
            )

    def _tell(self) -> None:
        if self._given_up and self._notice is not None:
            self._notice(self._given_up)  # an earlier notice is not repeated

    async def end_left_open(
        self, discard: Callable[[Transfer], Awaitable[None]], *, seconds: float, notice: Callable[[str], None]
    ) -> None:
        """End the uploads of content without a file that a killed process has left open, because no later run
        continues them. Before the first transfer of the run.

        Args:
            discard: of the destination.
            seconds: after them, the rest waits for the next run.
            notice: called with a sentence about what could not be ended.

        Raises:
            JournalError: the journal cannot be read or written, and the run requires it.
        """
        left = [] if self.blank else await anyio.to_thread.run_sync(self._contents_left)

        async def end(transfer: Transfer) -> None:
            try:
                await discard(transfer)
            except TransferError as error:
                notice(f"An upload that a killed process has left open could not be ended; the next run tries: {error}")

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                for transfer in left:
                    group.start_soon(end, transfer)

    def _contents_left(self) -> list[Transfer]:
        try:
            keys = [] if self._given_up or self._dry_run else self._journal.contents_left()
            found = self._attached([Transfer(SourceFile(STREAM, 0, 0), key, key) for key in keys])
        except (JournalError, DestinationFull) as error:
            self._go_on(error)
            return []
        return [each for each in found if isinstance(each, Transfer)]

    def attach(self, found: Sequence[Found]) -> list[Found]:
        """The entries with their rows of the journal; a file that is published already becomes a Skip. Blocks.

        Rows of keys that this run may give other content are removed, in one commit, before any of the keys is written:
        after a kill or a lost answer, their content is not known.

        Raises:
            JournalError: it cannot be read or written, and the run requires it, or is being stopped.
        """
        if not self._given_up:
            try:
                return self._attached(found)
            except (JournalError, DestinationFull) as error:
                self._go_on(error)
        return list(found)

    def _attached(self, found: Sequence[Found]) -> list[Found]:
        known = iter(self._known([each for each in found if isinstance(each, Transfer)]))
        attached: list[Found] = []
        overwritten: list[str] = []
        for each in found:
            entry = next(known) if isinstance(each, Transfer) else None
            if entry is None or not isinstance(each, Transfer):
                attached.append(each)
                continue
            policy = each.overwrite or self._overwrite
            if policy == "journal" and entry.published and self._contradicts(each.key, entry.etag):
                # The listing shows without a request that the object was removed or replaced.
                entry = JournalEntry(upload=entry.upload, stale=True)
            if entry.stale or (entry.published and policy == "always"):
                overwritten.append(each.key)
            attached.append(self._with(each, entry))
        if overwritten and not self._dry_run:
            self._journal.forget(overwritten)
        return attached

    def _known(self, transfers: Sequence[Transfer]) -> Sequence[JournalEntry | None]:
        """The rows of the transfers. Those that `count_unknown` has read are used, so that no key is looked up
        twice."""
        if not self._counted:
            return self._journal.known(transfers) if transfers else ()
        unasked = [each for each in transfers if id(each) not in self._counted]
        told = iter(self._journal.known(unasked) if unasked else ())
        return [self._counted.pop(id(each)) if id(each) in self._counted else next(told) for each in transfers]

    def _with(self, transfer: Transfer, known: JournalEntry) -> Transfer | Skip:
        if known.upload is not None:
            self._uploads[transfer.key] = "completing" if known.upload.completing else "open"
        trusted = (transfer.overwrite or self._overwrite) == "journal"
        if trusted and known.published and known.upload is None and self._is_copied(transfer):
            # Positional arguments, which take half as long: most files of most runs end here.
            return Skip(
                transfer.source.path,
                transfer.key,
                f"s3://{self._bucket}/{transfer.key}",
                transfer.source.size_bytes,
                UNCHANGED_REASON,
                True,  # already there
                known.checksum,
                known.etag,
                "" if self._copy is None else self._copy.url(transfer),
                transfer.source.entry,
                known.version_id,
                0,
                "",
                transfer.source.attribute,
            )
        if transfer.objects is None and transfer.overwrite is None:
            return Transfer(transfer.source, transfer.key, transfer.local, known)
        return replace(transfer, known=known)

    def _is_copied(self, transfer: Transfer) -> bool:
        return self._copy is None or self._copy.has_now(transfer)

    def count_unknown(self, found: Iterable[Transfer | SourceProblem], objects_total: int) -> int:
        """How many of the `objects_total` entries of a walk are not published by the journal. Blocks.

        The rows are kept for `attach`; the entries have to be alive until then. Where the journal has no row for a
        whole batch, all further entries count as unknown: a first run does not look every key up twice.
        """
        try:
            return self._unknown_among(found, objects_total)
        except (JournalError, DestinationFull) as error:
            self._go_on(error)
            return objects_total

    def _unknown_among(self, found: Iterable[Transfer | SourceProblem], objects_total: int) -> int:
        published, rest = 0, iter(found)
        while batch := list(islice(rest, COUNT_BATCH)):
            transfers = [each for each in batch if isinstance(each, Transfer)]
            known = self._journal.known(transfers)
            self._counted.update(zip(map(id, transfers), known, strict=True))
            here = sum(each is not None and each.published for each in known)
            if not here:
                break
            published += here
        return objects_total - published

    async def record(self, ended: Sequence[QueuedOutcomes], passed: Sequence[Passed] = (), /) -> None:
        """Write the published objects; on return they survive a kill -9 of this process.

        Raises:
            JournalError, DestinationFull: they are not written, and the run requires its journal: it stops.
        """
        if not self._given_up:
            try:
                await self._record(ended, passed)
            except (JournalError, DestinationFull) as error:
                self._go_on(error)
        if self._given_up:
            for outcomes, transfer, _ in ended:
                if transfer is not None and isinstance(outcomes[0], Receipt):
                    self._uploads.pop(transfer.key, None)
        self._tell()

    async def _record(self, ended: Sequence[QueuedOutcomes], passed: Sequence[Passed]) -> None:
        rows: list[PublishedRow] = []
        unknown: list[str] = []
        for outcomes, transfer, _ in ended:
            if transfer is None:
                continue
            outcome = outcomes[0]
            if not transfer.source.is_file:
                # Its key has no row since `attach`: nothing but its bytes would show that it is the same again.
                if isinstance(outcome, Receipt):
                    await self._end_own(transfer.key)
            elif isinstance(outcome, Receipt) or (isinstance(outcome, Skip) and self._unrecorded(outcome, transfer)):
                version = outcome.version_id if isinstance(outcome, Receipt) else ""
                rows.append(published_row(transfer, outcome.etag, version, outcome.checksum))
            elif isinstance(outcome, Failure) and outcome.stage == "upload":
                unknown.append(transfer.key)
        for told in passed:
            rows += [row for row in told.rows if row[1] not in _CONTENT]
        if self._uploads:
            rows = [row for row in rows if self._ends(decoded_name(row[0]))]
        if unknown:
            # An answer may have been lost, or the server may have stored other bytes.
            await anyio.to_thread.run_sync(self._journal.forget, unknown)
        if rows:
            await self._journal.publish(rows)
        if self._uploads:
            for row in rows:
                self._uploads.pop(decoded_name(row[0]), None)

    async def _end_own(self, key: str) -> None:
        """Record that the upload under way of `key` is complete; another one may be open still."""
        if self._uploads.get(key) == "completing":
            del self._uploads[key]
            await self._journal.step(UploadGone(key))

    def _unrecorded(self, skip: Skip, transfer: Transfer) -> bool:
        """Whether a skipped file is worth a row: it is there with the same content, and the next run need not compare
        it."""
        known = transfer.known
        recorded = known is not None and known.published and known.upload is None
        compared = (transfer.overwrite or self._overwrite) in ("journal", "checksum")
        return compared and skip.already_there and not recorded

    def _ends(self, key: str) -> bool:
        """Whether the published object is all that there is under the key.

        False where another upload of the key could not be ended (the published object's own upload is "completing"):
        the new row would replace the only record of that upload.
        """
        return self._uploads.get(key) != "open"

    async def step(self, step: UploadStep) -> None:
        """As `UploadLog.step`.

        Raises:
            JournalError: it cannot be written, and the run requires its journal: it stops.
        """
        if isinstance(step, UploadCreating):
            self._uploads[step.key] = "open"
        elif isinstance(step, UploadCompleting):
            self._uploads[step.key] = "completing"
        elif isinstance(step, UploadGone) and self._uploads.pop(step.key, None) is None:
            return  # its end is recorded already
        if not self._given_up:
            try:
                await self._journal.step(step)
            except (JournalError, DestinationFull) as error:
                # A DestinationFull would end only one destination.
                self._go_on(error if isinstance(error, JournalError) else JournalError(str(error)))
        self._tell()
