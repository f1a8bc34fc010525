"""One stream from its first byte to its outcome: below a part's size one PutObject, else parts (stream_parts.py).

1. the turn of the key, the journal's row, and the look, where something is known of the content;
2. pieces fill a part; a full one is sent while the next one is filled;
3. the whole is compared with the caller's promise, and only then the object is published;
4. the outcome is recorded. A stream that ends in another way leaves no object and no open upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from anyio import BrokenResourceError
from anyio.abc import TaskGroup

from asyncsink.engine.content.filling import FillingPart
from asyncsink.engine.content.promised import PromisedContent
from asyncsink.engine.content.stream_parts import StreamParts
from asyncsink.engine.open_run import Run
from asyncsink.engine.recording.recorder import Completion
from asyncsink.engine.transfer.destination_state import DestinationState, each, reading_of
from asyncsink.engine.transfer.outcomes import Ending, published, word_outcomes
from asyncsink.errors import (
    AsyncSinkError,
    ConfigError,
    EntityTooLarge,
    ExportFailed,
    IntegrityError,
    JournalError,
    SourceError,
)
from asyncsink.integrity.sameness import LookCloser, decide_unread, unread_looks
from asyncsink.model import Checksum, Failure, FailureStage, Outcome, Receipt, Skip, Transfer
from asyncsink.routing.keys import show
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.multipart.parts import StreamPlan
from asyncsink.sources.content import bytes_of

T = TypeVar("T")
IN_PLACE_BYTES_MAX: Final = 64 * 1024
"""Up to this size, a checksum costs less than a call to a thread."""


def never_published(key: str) -> ExportFailed:
    """The error of content whose sink has stopped or was closed."""
    return ExportFailed(f"The sink was closed before {show(key)} was published; publish it again.", report=None)


class StreamPublication:
    """The publication of one stream, from one task at a time: `begin`, `write`…, and then `finish`, or `fail`.

    Args:
        run: open.
        transfer: of a SourceFile without a file; its size is 0 until it is known.
        plan: empty.
        group: of the tasks that send.
        on_end: called when it has ended, in whatever way.

    Attributes:
        taken: True; for `Accepted`.
        fault: the error that has ended the stream, where it concerns the whole run.
        scope: what waits for the producer runs in it; it is cancelled where the stream has to end.
    """

    def __init__(
        self,
        run: Run,
        transfer: Transfer,
        promised: PromisedContent,
        plan: StreamPlan,
        *,
        group: TaskGroup,
        on_end: Callable[[StreamPublication], None],
    ) -> None:
        self.taken = True
        self.fault: JournalError | None = None
        self.scope = anyio.CancelScope()
        self._run = run
        self._resources = resources = run.resources
        self._transfer = transfer
        self._promised = promised
        self._plan = plan
        self._group = group
        self._on_end = on_end
        self._policies = resources.policies
        self._started = resources.clock()
        self._states: list[DestinationState] = []
        self._part: FillingPart | None = None
        self._parts: StreamParts | None = None
        self._completion = Completion()
        self._failed: Exception | None = None
        self._busy = anyio.CancelScope()
        self._active: asyncio.Task[Any] | None = None
        self._idle = anyio.Event()
        self._has_turn = self._ended = False
        self._touched = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<StreamPublication of {self.key!r}, {self._promised.received_bytes} bytes so far>"

    @property
    def key(self) -> str:
        """The whole key."""
        return self._transfer.key

    @property
    def found(self) -> Transfer:
        """The transfer, for `Accepted`."""
        return self._transfer

    @property
    def failed(self) -> Exception:
        """Why the stream was ended from outside."""
        return self._failed or never_published(self.key)

    @property
    def wanted(self) -> bool:
        """Whether bytes are still to be sent to a destination."""
        return any(state.alive for state in self._states)

    # -- The beginning: the turn of the key, and the look -------------------------------------------------------------

    async def begin(self) -> None:
        """Wait for the turn of the key, and decide whether the stream is needed at all; see `wanted`.

        Raises:
            JournalError: the journal cannot be read; the run stops.
            ExportFailed: the sink was closed meanwhile.
        """
        resources, run = self._resources, self._run
        resources.progress.objects_in_hand += 1
        resources.share.working()
        try:
            await resources.key_turns.take(self.key)
            self._has_turn = True
            self._check()
            if run.journal is not None:
                attach = partial(run.journal.attach, [self._transfer])
                (found,) = await anyio.to_thread.run_sync(attach, limiter=resources.threads)
                assert isinstance(found, Transfer)  # content has no row that could make it a Skip
                self._transfer = found
            copies = [] if run.copy is None else [DestinationState(run.copy)]
            self._states = [DestinationState(run.destination, self._transfer.known), *copies]
            await each(self._states, self._look)
        except BaseException as error:
            await self.fail(error)
            raise

    async def _look(self, state: DestinationState) -> None:
        transfer, promised = self._transfer, self._promised
        policy, known = transfer.overwrite or self._policies.overwrite, (promised.size_bytes, promised.checksum)
        existing, closely = None, False
        try:
            while state.decision is None or isinstance(state.decision, LookCloser):
                closely = state.decision is not None
                if unread_looks(policy, *known):
                    existing = await state.destination.look(transfer, closely=closely)
                state.existing = existing
                state.decision = decide_unread(
                    existing, policy=policy, size_bytes=promised.size_bytes, checksum=promised.checksum
                )
        except AsyncSinkError as error:
            state.error = error

    # -- Bytes --------------------------------------------------------------------------------------------------------

    async def write(self, data: Any) -> None:
        """Take the next bytes; waits while the byte budget has no memory left. They may be changed afterwards.

        Raises:
            ConfigError: these are no bytes, another task is writing, or it was published; none was taken.
            IntegrityError: there are more than were promised.
            ExportFailed: no destination takes them, or the sink was closed.
            EntityTooLarge: no further part can be sent.

        After any error but ConfigError, and when it was cancelled, the stream cannot be published any more.
        """
        self._check()
        view = bytes_of(data, f"What was written to {show(self.key)}")
        if self._active is not None:
            raise ConfigError(f"{show(self.key)} is being written to by another task; write from one at a time.")
        with self._alone():
            if self.wanted:
                await self._write(view)
            elif not self._states[0].same:
                await self._finish()

    async def _write(self, view: memoryview) -> None:
        try:
            self._promised.receive(view.nbytes)
            await self._unless_stopped(partial(self._take, view, stable=isinstance(view.obj, bytes)))
        except BaseException as error:
            self._fail_with(error)
            raise
        finally:
            self._touched = asyncio.get_running_loop().time()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._active, self._idle = asyncio.current_task(), anyio.Event()
        try:
            yield
        finally:
            self._active = None
            self._idle.set()

    async def _end_others(self) -> None:
        """End what another task does, and wait for that: it must not fill, or send, what is released."""
        if self._active not in (None, asyncio.current_task()):
            self._busy.cancel()
            with anyio.CancelScope(shield=True):
                await self._idle.wait()

    def _fail_with(self, error: BaseException) -> None:
        if self._failed is None and isinstance(error, Exception):
            self._failed = error
        elif self._failed is None:
            # A later call must not raise the cancellation of an earlier one.
            self._failed = SourceError(
                f"A write to {show(self.key)} was interrupted; nothing is published under that key."
            )

    async def _unless_stopped(self, work: Callable[[], Awaitable[T]]) -> T:
        with anyio.CancelScope() as self._busy:
            return await work()
        raise self._failed or never_published(self.key)

    async def _take(self, view: memoryview, *, stable: bool) -> None:
        while view.nbytes and self.wanted:
            if self._part is None:
                self._part = self._next_part()
            part = self._part
            piece = view[: part.size_bytes - part.filled_bytes]
            await part.add(piece, stable=stable)
            view = view[piece.nbytes :]
            if part.filled_bytes == self._plan.next_size:
                await self._send_part(part)
            elif part.holds_memory and self._timer is None:
                self._watch_later(self._resources.settings.retry.stall_seconds)

    def _next_part(self) -> FillingPart:
        size, whole = self._plan.next_size, self._promised.size_bytes
        if not size:
            raise EntityTooLarge(
                f"The stream for {show(self.key)} has more than {self._plan.size_bytes:,} bytes, and no part is left: "
                "the parts of a stream of unknown length have up to half of memory_bytes. Give `size_bytes`, or more "
                "memory_bytes.",
                transfer=self._transfer,
                operation="UploadPart",
            )
        resources = self._resources
        left = size if whole is None else max(1, whole - self._plan.size_bytes)
        return FillingPart(resources.budget, resources.buffers, min(size, left))

    async def _send_part(self, part: FillingPart) -> None:
        self._resources.share.working()
        if self._promised.checksum is not None:
            digest = partial(self._promised.digest, part.body)
            await anyio.to_thread.run_sync(digest, limiter=self._resources.threads)
        if self._parts is None:
            alive = [state for state in self._states if state.alive]
            self._parts = StreamParts(self._resources, self._transfer, alive, self._plan, self._group)
            await self._parts.start()
        # From here on it is the sender's.
        self._part = None
        self._parts.send(self._plan.add(part.filled_bytes), part)

    # -- The end ------------------------------------------------------------------------------------------------------

    async def finish(self) -> Receipt | Skip:
        """Publish what was written, and return when that is recorded.

        Raises:
            IntegrityError: it is not what was promised; nothing was published.
            SourceError: another task was still writing; nothing was published.
            ExportFailed: it was not published.

        Cancelled, it publishes nothing, unless the server has completed the object already.
        """
        if self._active is not None:
            unfinished = SourceError(
                f"The block that wrote {show(self.key)} ended while another task was writing; nothing was published. "
                "Await every write inside the block."
            )
            await self.fail(unfinished)
            raise unfinished
        with self._alone():
            return await self._finish()

    async def _finish(self) -> Receipt | Skip:
        try:
            self._check()
            ending = await self._unless_stopped(self._publish)
        except BaseException as error:
            await self.fail(error)
            raise
        seconds = self._resources.clock() - self._started
        self._idle.set()  # all is sent: a run that ends because it cannot record must not wait for this record
        try:
            return published(await self._record(word_outcomes(ending, seconds, self._policies)))
        except ExportFailed as error:
            self._failed = error
            raise

    async def _publish(self) -> Ending:
        checksum: Checksum | None = None
        if self.wanted or self._parts is not None:
            checksum = await (self._put_whole() if self._parts is None else self._complete(self._parts))
        size_bytes = self._promised.received_bytes or self._promised.size_bytes or 0
        source = replace(self._transfer.source, size_bytes=size_bytes)
        self._transfer = replace(self._transfer, source=source)
        return Ending(self._transfer, self._states, checksum)

    async def _put_whole(self) -> Checksum | None:
        body = b"" if self._part is None else self._part.body
        source = replace(self._transfer.source, size_bytes=len(body))
        transfer = replace(self._transfer, source=source)
        compute = partial(self._digest_whole, body)
        if len(body) <= IN_PLACE_BYTES_MAX:
            checksum = compute()
        else:
            checksum = await anyio.to_thread.run_sync(compute, limiter=self._resources.threads)
        self._promised.check_whole()
        primary = self._states[0]
        if transfer.known is not None and transfer.known.upload is not None:
            await primary.attempt(partial(primary.destination.discard, transfer))

        async def put(state: DestinationState) -> None:
            await state.attempt(lambda: state.destination.put(state.outgoing(transfer), body, checksum))

        await each([state for state in self._states if state.alive], put)
        if isinstance(primary.error, IntegrityError):
            # Damaged bytes are sent once more.
            primary.error = None
            await put(primary)
        if primary.stored is not None:
            self._resources.progress.bytes_moved += len(body)
        return checksum

    def _digest_whole(self, body: bytes | bytearray | memoryview) -> Checksum | None:
        if self._promised.checksum is not None:
            self._promised.digest(body)
        return reading_of(body, self._policies.algorithm, ()).checksum

    async def _complete(self, parts: StreamParts) -> Checksum | None:
        if self._part is not None:
            await self._send_part(self._part)
        checksum = await parts.sent()
        if self.wanted:
            if parts.interrupted:
                raise never_published(self.key)
            self._promised.check_whole()
            await parts.complete(checksum)
        await parts.end()
        return checksum

    async def fail(self, error: BaseException) -> None:
        """End without an object. What is wrong with the stream is recorded as its failure. The bounded clean-up is
        shielded from cancellation. Harmless after any other end."""
        if self._ended:
            return
        if isinstance(error, JournalError):
            self.fault = error
        self._fail_with(error)
        await self._end_others()
        if self._ended:
            return
        try:
            await self._release()
            if self._has_turn and isinstance(error, (SourceError, IntegrityError, EntityTooLarge)):
                url, name = self._run.destination.url(self._transfer), type(error).__name__
                stage: FailureStage = "upload" if isinstance(error, EntityTooLarge) else "source"
                failed = Failure(self._transfer.source.path, self.key, url, name, str(error), stage)
                await self._record([failed])
        finally:
            self._leave()

    async def give_up(self, error: BaseException) -> None:
        """End without an object, because the block that wrote it has raised `error`, which is recorded."""
        if isinstance(error, Exception) and error is not self._failed:
            said = one_line(f"{type(error).__name__}: {error}").rstrip(": ")
            given_up = SourceError(f"The block that wrote {show(self.key)} raised {said}; nothing was published.")
            with suppress(ExportFailed):  # the sink was closed meanwhile; the block's own exception comes first
                await self.fail(given_up)
        else:
            await self.fail(error)

    async def _release(self) -> None:
        """Stop sending, abort what is open, and give all memory back; see `StreamParts.end`."""
        if self._part is not None:
            self._part.release()
        if self._parts is not None:
            await self._parts.end()

    async def _record(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        if self._part is not None:
            self._part.release()
        try:
            self._run.pipeline.final(outcomes, self._transfer, self._completion)
            self._has_turn = False  # the recorder ends it
            await self._completion.done.wait()
        except BrokenResourceError:
            raise never_published(self.key) from None
        finally:
            self._leave()
        if not self._completion.outcomes:
            raise never_published(self.key)
        return self._completion.outcomes

    def _leave(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._resources.progress.objects_in_hand -= 1
        if self._has_turn:
            self._has_turn = False
            self._resources.key_turns.end((self.key,))
        self._on_end(self)

    # -- What ends a stream from outside ------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._ended:
            raise ConfigError(f"The writer of {show(self.key)} is closed; write inside its `async with` block.")
        if self._resources.key_turns.closed:
            self._failed = never_published(self.key)
            raise self._failed

    async def stop(self) -> None:
        """End the stream because the run ends: its task gets an error, and the clean-up is over on return."""
        self._failed = self._failed or never_published(self.key)
        if self._has_turn and self._resources.accepted is not None:
            self._resources.accepted.add(self.key, self)
        self.scope.cancel()
        await self._end_others()
        await self._release()

    def release(self) -> None:
        """Let the stream's task go: nothing will be recorded any more."""
        self._completion.done.set()

    def _watch_later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._watch)

    def _watch(self) -> None:
        """Give the stream up where its producer pauses while others wait for the memory of its part.

        The beginning of a part holds little, and stays.
        """
        self._timer = None
        part, patience = self._part, self._resources.settings.retry.stall_seconds
        if part is None or not part.holds_memory or self._failed is not None or self._ended:
            return
        idle = asyncio.get_running_loop().time() - self._touched
        writing = self._active is not None
        if writing or idle < patience or not self._resources.budget.wanted:
            self._watch_later(max(patience - idle, patience / 4) if not writing else patience)
            return
        self._failed = SourceError(
            f"The stream for {show(self.key)} gave nothing for {idle:.0f} s while other content waited for its memory; "
            "nothing was published. Send it again; more memory_bytes, or a longer stall_seconds of `retry`, lets slow "
            "streams pause for longer."
        )
        part.release()
        self.scope.cancel()
