"""Small files in batches: one look at the destination for all of them, and all sent at the same time.

For an object of a few kilobytes, a call to a thread costs more than reading it. A batch is looked up at the destination
in one call. New files are read by the lanes that send them; where there are none, or something is to be compared or
copied, all files are read, checksummed, compared and copied in one call to a thread. A file that is not simple (a HEAD
is needed, the file is not as it was found, an answer proves nothing) goes the ordinary way, through the Publisher; a
file that changes while it is read is a failure in both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field, replace
from functools import partial
from threading import Event
from typing import Final

from anyio import BrokenResourceError, CancelScope, create_task_group

from asyncsink.destinations.base import Destination, Existing, Unknown
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.recording.recorder import Completion, Passed, until_withdrawn
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import DestinationState, Outgrown, Reading, read_new, read_small
from asyncsink.engine.transfer.outcomes import Ending, failure, not_stored, passed_of, receipt, word_outcomes
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.errors import AsyncSinkError, IntegrityError, SourceChanged, SourceError
from asyncsink.integrity.sameness import LookCloser
from asyncsink.model import FirstAttempt, Outcome, Transfer
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.operations import FileResult, FileStored, Ordinary, WithdrawnFiles
from asyncsink.sources.content import SmallReader, memory_cost
from asyncsink.value import dataclass

WORKERS_USUAL: Final = 32
"""Workers that batches are divided among at the end of a run. Many more send at once only where the server is far away,
and there the end of a run counts for little."""
BATCH_FILES_MAX: Final = 64
"""Most files in a batch: with so many, the cost of a call to a thread, and of a record, is negligible."""
EARLY_SECONDS: Final = 0.1
"""Most seconds that the stored files of a batch wait for the others before they are recorded."""
OnOutcomes = Callable[[Sequence[Outcome], Transfer], None]
PassOn = Callable[[Passed], None]


@dataclass(slots=True, eq=False)
class Callers:
    """Who gets the outcomes of a batch.

    Attributes:
        done: called with the outcomes of one transfer; with none where its caller has withdrawn it.
        pass_on: called with those of many.
        completions: of the callers that wait, by key.
    """

    done: OnOutcomes
    pass_on: PassOn
    completions: Mapping[str, Completion] = field(default_factory=dict)

    def until_withdrawn(self, transfer: Transfer) -> AbstractContextManager[CancelScope]:
        """A block that is cancelled where the caller of `transfer` withdraws."""
        return until_withdrawn(self.completions.get(transfer.key))


LookMany = Callable[[Sequence[Transfer]], Awaitable[Sequence[Existing | Unknown | None]]]


@dataclass(slots=True, eq=False)
class _Known:
    """A small file with an object or a local copy to compare, or with a local copy to make."""

    ending: Ending
    ordinary: bool = False
    reading: Reading | None = None


class SmallFiles:
    """Publishes batches; many run at the same time, each by one worker.

    Args:
        publisher: publishes the files that need the ordinary way.
        copy: the local copy, which is `blocking`, or None.
    """

    def __init__(
        self, resources: Resources, publisher: Publisher, destination: Destination, copy: Destination | None
    ) -> None:
        self._publisher = publisher
        self._destination = destination
        self._copy = copy
        self._policies = resources.policies
        self._budget = resources.budget
        self._readers = resources.readers
        self._progress = resources.progress
        self._workers = resources.limits.workers
        self._dry_run = resources.dry_run
        self._clock = resources.clock

    async def publish(self, transfers: Sequence[Transfer], callers: Callers) -> None:
        """Publish a batch, and tell the callers the outcomes as soon as they are known.

        Cancellation as in `Publisher.publish`.
        """
        left = transfers
        async with create_task_group() as ways:
            while left:
                sent_only = self._copy is None and not self._dry_run
                in_lanes = sent_only and self._lane_algorithm() is not None
                look_many = self._destination.guess_many if in_lanes else self._destination.look_many
                found = await self._found(look_many, left)
                pairs = list(zip(left, found, strict=True))
                for transfer, existing in pairs:
                    if existing is Unknown.UNKNOWN:
                        ways.start_soon(self._publish_ordinary, transfer, callers)
                pairs = [pair for pair in pairs if pair[1] is not Unknown.UNKNOWN]
                guessed = any(existing is Unknown.LIKELY_NEW for _, existing in pairs)
                new = [transfer for transfer, existing in pairs if sent_only and _is_new(existing)]
                known = [pair for pair in pairs if not (sent_only and _is_new(pair[1]))]
                ordinary, left = await self._publish_new(new, guessed, callers) if new else ([], ())
                if known:
                    ordinary += await self._publish_known(known, callers)
                # The rest of the batch waits: an error that stops these files would stop the rest too.
                async with create_task_group() as tries:
                    for transfer in ordinary:
                        tries.start_soon(self._publish_ordinary, transfer, callers)

    async def _publish_ordinary(self, transfer: Transfer, callers: Callers) -> None:
        callers.done(*await self._publisher.publish(transfer, callers.completions.get(transfer.key)))

    async def _found(self, look_many: LookMany, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        found: list[Existing | Unknown | None] = [None] * len(transfers)
        looked = [number for number, each in enumerate(transfers) if self._looks(each)]
        if not looked:
            return found
        answers = await look_many([transfers[number] for number in looked])
        for number, answer in zip(looked, answers, strict=True):
            found[number] = answer
        return found

    def _looks(self, transfer: Transfer) -> bool:
        return (transfer.overwrite or self._policies.overwrite) != "always"

    def batch_size(self, objects_left: int | None) -> int:
        """How many files one worker is to take at a time.

        Args:
            objects_left: objects of the run without an outcome, or None where their number is unknown.
        """
        if self._copy is None and self._lane_algorithm() is not None:
            # The files of a batch are sent at the same time, so that its size does not delay the end of the run.
            return BATCH_FILES_MAX
        if objects_left is None:
            return 1
        # Fewer where fewer are left, so that all workers end together.
        return max(1, min(BATCH_FILES_MAX, objects_left // (min(self._workers, WORKERS_USUAL) * 4)))

    def _lane_algorithm(self) -> ChecksumAlgorithm | None:
        """The algorithm of the checksum, where the destination's lanes read the files that they send; else None."""
        algorithm = self._policies.algorithm
        return algorithm if algorithm is not None and self._destination.takes_files(algorithm) else None

    # -- New objects without a local copy: nearly all files of a first export -----------------------------------------

    async def _publish_new(
        self, transfers: Sequence[Transfer], guessed: bool, callers: Callers
    ) -> tuple[list[Transfer], Sequence[Transfer]]:
        """Returns the transfers that need the ordinary way, and those for the batch after it. With `guessed`, some of
        them may have an object."""
        if (algorithm := self._lane_algorithm()) is not None:
            return await self._put_files(transfers, algorithm, guessed, callers)
        if guessed:
            # The lanes were given up since the look.
            return list(transfers), ()
        ordinary: list[Transfer] = []
        started = self._clock()
        async with self._budget.reserve(memory_cost([transfer.source for transfer in transfers])):
            files = [transfer.source for transfer in transfers]
            readings = await self._readers.run(partial(read_new, files, self._policies.algorithm))
            for transfer, reading in zip(transfers, readings, strict=True):
                if reading is None:
                    ordinary.append(transfer)
                    continue
                if isinstance(reading, SourceError):
                    callers.done((failure(transfer, self._destination.url(transfer), reading),), transfer)
                    continue
                body, checksum = reading
                outcomes: Sequence[Outcome] = ()
                try:
                    with callers.until_withdrawn(transfer):
                        stored = await self._destination.put(transfer, body, checksum)
                        ended = self._clock()
                        self._progress.bytes_moved += transfer.source.size_bytes
                        outcomes = (receipt(transfer, stored, checksum, ended - started),)
                        started = ended
                except IntegrityError:
                    ordinary.append(transfer)
                    continue
                except AsyncSinkError as error:
                    outcomes = (not_stored(transfer, self._destination.url(transfer), error),)
                callers.done(outcomes, transfer)
        return ordinary, ()

    async def _put_files(
        self,
        transfers: Sequence[Transfer],
        algorithm: ChecksumAlgorithm,
        guessed: bool,
        callers: Callers,
    ) -> tuple[list[Transfer], Sequence[Transfer]]:
        """As `_publish_new`, where the destination's lanes read the files that they send."""
        async with self._budget.reserve(memory_cost([transfer.source for transfer in transfers])):
            ends = _Ends(transfers, self._destination.url, callers, self._progress)
            try:
                with ends.told_early():
                    await self._destination.put_files(
                        transfers, algorithm, SmallReader(), ends.results, only_new=guessed, withdrawn=ends.withdrawn
                    )
            except AsyncSinkError:
                # Nothing of the batch was begun: each file is tried by itself, and may fail there.
                return ends.untold(), ()
            finally:
                # Also where it is cancelled: published files are recorded.
                ordinary, left = ends.tell()
        # A batch in which no file was begun would not begin the next time either: its files go the ordinary way.
        return (ordinary, left) if len(left) < len(transfers) else (left, ())

    # -- Existing objects, and files with a local copy ----------------------------------------------------------------

    async def _publish_known(
        self, pairs: Sequence[tuple[Transfer, Existing | Unknown | None]], callers: Callers
    ) -> list[Transfer]:
        """Returns the transfers that need the ordinary way."""
        copy = self._copy
        copied = [] if copy is None else await self._found(copy.look_many, [transfer for transfer, _ in pairs])
        work = [
            self._known(transfer, [existing, *copied[number : number + 1]])
            for number, (transfer, existing) in enumerate(pairs)
        ]
        started = self._clock()
        reading = [known for known in work if not known.ordinary and self._must_read(known.ending.states)]
        async with self._budget.reserve(memory_cost([known.ending.transfer.source for known in reading])):
            if reading:
                stopped = Event()
                await self._readers.run(partial(self._read_all, reading, stopped), stop=stopped.set)
            async with create_task_group() as sending:
                for known in work:
                    if known.reading is not None:
                        sending.start_soon(self._finish, known, started, callers)
                    elif not known.ordinary:
                        await self._finish(known, started, callers)
        return [known.ending.transfer for known in work if known.ordinary]

    def _known(self, transfer: Transfer, found: Sequence[Existing | Unknown | None]) -> _Known:
        known = _Known(Ending(transfer, [DestinationState(self._destination, transfer.known)]))
        if self._copy is not None:
            known.ending.states = [*known.ending.states, DestinationState(self._copy)]
        for state, existing in zip(known.ending.states, found, strict=True):
            if isinstance(existing, Unknown):
                known.ordinary = True
                return known
            state.decision = state.by_journal(transfer, self._policies)
            if state.decision is None:
                state.decide(existing, transfer, self._policies, _one_part(transfer))
            else:
                state.existing = existing
            known.ordinary = known.ordinary or isinstance(state.decision, LookCloser)
        return known

    def _must_read(self, states: Sequence[DestinationState]) -> bool:
        alive = not self._dry_run and any(state.alive for state in states)
        return alive or any(state.comparing is not None for state in states)

    def _read_all(self, work: Sequence[_Known], stopped: Event) -> None:
        for known in work:
            # A local copy is synced to the disk: a cancellation must not wait for those of a whole batch.
            if not stopped.is_set():
                self._read_known(known)

    def _read_known(self, known: _Known) -> None:
        """Read, settle the comparisons, and make the local copy from the same bytes. Blocking; in a reader thread."""
        ending = known.ending
        comparing = [state for state in ending.states if state.comparing is not None]
        compares = [state.comparing for state in comparing if state.comparing is not None]
        try:
            reading = read_small(ending.transfer.source, self._policies.algorithm, compares)
        except SourceChanged as error:
            ending.source_error = error
            return
        except (AsyncSinkError, Outgrown):
            known.ordinary = True
            return
        ending.checksum = reading.checksum
        for state, digests in zip(comparing, reading.digests, strict=True):
            state.settle(digests)
            known.ordinary = known.ordinary or isinstance(state.decision, LookCloser)
        if known.ordinary or self._dry_run:
            return
        if ending.states[0].alive:
            known.reading = reading
        if self._copy is not None and ending.states[1].alive:
            try:
                ending.states[1].stored = self._copy.put_now(ending.transfer, reading.body)
            except AsyncSinkError as error:
                ending.states[1].error = error

    async def _finish(self, known: _Known, started: float, callers: Callers) -> None:
        ending = known.ending
        transfer, primary = ending.transfer, ending.states[0]
        if known.reading is not None:
            try:
                with callers.until_withdrawn(transfer) as scope:
                    primary.stored = await self._destination.put(
                        primary.outgoing(transfer), known.reading.body, known.reading.checksum
                    )
                if scope.cancelled_caught:
                    callers.done((), transfer)
                    return
            except IntegrityError:
                # The file is read and sent once more; its local copy, if any, is looked at once more too.
                known.ordinary = True
                return
            except AsyncSinkError as error:
                primary.error = error
        if primary.stored is not None:
            self._progress.bytes_moved += transfer.source.size_bytes
        callers.done(word_outcomes(ending, self._clock() - started, self._policies), transfer)


def _is_new(existing: Existing | Unknown | None) -> bool:
    return existing is None or existing is Unknown.LIKELY_NEW


def _one_part(transfer: Transfer) -> Sequence[int]:
    return [transfer.source.size_bytes] if transfer.source.size_bytes else []


class _Ends:
    """The results of one batch, handed over as they come: slow files do not hold the others back.

    Attributes:
        results: filled by the destination, one for each transfer.
        withdrawn: the files that their callers give up; None where no caller can.
    """

    def __init__(
        self, transfers: Sequence[Transfer], url: Callable[[Transfer], str], callers: Callers, progress: Progress
    ) -> None:
        self._transfers = transfers
        self._url = url
        self._callers = callers
        self._progress = progress
        self._told = bytearray(len(transfers))
        self.results: list[FileResult] = [None] * len(transfers)
        self.withdrawn: WithdrawnFiles | None = None
        if callers.completions:
            self.withdrawn = WithdrawnFiles(self._give_up)
            self._numbers = {transfer.key: number for number, transfer in enumerate(transfers)}

    @contextmanager
    def told_early(self) -> Iterator[None]:
        """Within the block, stored files are handed over every EARLY_SECONDS, and callers may withdraw theirs."""
        self._timer = asyncio.get_running_loop().call_later(EARLY_SECONDS, self._tell_early)
        mine: list[Completion] = []
        if self.withdrawn is not None:
            for key in self._numbers:
                if (completion := self._callers.completions.get(key)) is not None:
                    mine.append(completion)
                    completion.sending(partial(self.withdrawn.add, key))
        try:
            yield
        finally:
            self._timer.cancel()
            for completion in mine:
                completion.sending(None)
            self.withdrawn = None  # it refers back: a circle that only the garbage collector would find

    def _give_up(self, key: str) -> None:
        """Nothing is sent for `key` any more. What was stored before is handed over with the others."""
        number = self._numbers[key]
        if not self._told[number] and not isinstance(self.results[number], FileStored):
            self._told[number] = True
            self._callers.done((), self._transfers[number])

    def _tell_early(self) -> None:
        try:
            self._tell_stored()
        except BrokenResourceError:
            return  # nothing can be recorded any more: `tell` raises the same
        self._timer = asyncio.get_running_loop().call_later(EARLY_SECONDS, self._tell_early)

    def _tell_stored(self) -> None:
        stored = [
            (number, self._transfers[number], result)
            for number, result in enumerate(self.results)
            if isinstance(result, FileStored) and not self._told[number]
        ]
        if stored:
            self._progress.bytes_moved += sum([transfer.source.size_bytes for _, transfer, _ in stored])
            self._callers.pass_on(passed_of([(transfer, result) for _, transfer, result in stored], self._url))
            for number, _, _ in stored:
                self._told[number] = True

    def untold(self) -> list[Transfer]:
        """The transfers that were not handed over."""
        return [transfer for transfer, told in zip(self._transfers, self._told, strict=True) if not told]

    def tell(self) -> tuple[list[Transfer], list[Transfer]]:
        """Hand over the rest; returns the transfers that need the ordinary way, and those not begun."""
        ordinary: list[Transfer] = []
        left: list[Transfer] = []
        for number, (transfer, result) in enumerate(zip(self._transfers, self.results, strict=True)):
            if self._told[number]:
                continue
            if result is None:
                left.append(transfer)
            elif isinstance(result, Ordinary):
                first = FirstAttempt(result.failed) if result.failed is not None else None
                ordinary.append(replace(transfer, first=first))
            elif not isinstance(result, FileStored):
                self._callers.done((failure(transfer, self._url(transfer), result),), transfer)
        self._tell_stored()
        return ordinary, left
