"""One of a run's processes: publishes what its parent hands it, and tells the parent what became of it.

It walks nothing, checks nothing that was checked, and records nothing of its own: its parent does that once, for all.
Told to leave (the parent was interrupted), it ends what is under way. Where its pipe ends without a word, the parent
was killed: with a journal it ends at once, because the next run goes on with the uploads that the journal has, and may
have begun to; without one nobody else would ever abort them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from io import RawIOBase

import anyio
import anyio.to_thread

from asyncsink.engine.events import Events
from asyncsink.engine.halt import Halt
from asyncsink.engine.journalling import is_compared, is_unknown, published_of
from asyncsink.engine.loops import run_to_end
from asyncsink.engine.messages import Begin, Finish, Leave, News, Noted, pack, receive
from asyncsink.engine.parent_log import ParentLog
from asyncsink.engine.pipeline import Batch, Submit, Work
from asyncsink.engine.progress import Progress
from asyncsink.engine.recorder import Passed, Record
from asyncsink.engine.run import Opening, Run, surface
from asyncsink.errors import AsyncSinkError
from asyncsink.journal.rows import published_row
from asyncsink.model import Event, GaveUp, LimitChanged, Notice, Outcome, Paused, Resumed, Transfer
from asyncsink.report.encoded import Encoded

BEAT_SECONDS = 0.05
"""So often the parent hears of what is new. Each message costs it as much as some tens of the outcomes in it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Read = Callable[[int], Awaitable[bytes]]


def main() -> None:
    """Publish for the parent at the other end of stdin and stdout, and exit with 0 where all it gave has an outcome.

    What ends it otherwise stands on stderr, and holds no text that nobody has looked at for secrets.
    """
    # What was imported lives to the end of the process: it is not looked at again.
    gc.freeze()
    gc.enable()
    news = os.dup(1)
    with os.fdopen(os.dup(0), "rb", buffering=0) as work, open(os.devnull, "rb") as nothing:
        # The pipes are between parent and child alone: what a library prints goes to stderr.
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        code = run_to_end(partial(_publish, work, news))
    sys.exit(code)


async def _publish(work: RawIOBase, news: int) -> int:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), work)
    child = Child(reader.readexactly, news)
    try:
        return await child.run()
    except Exception as error:  # noqa: BLE001 - told to the parent, as what it is
        reason = surface(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(reason, AsyncSinkError):
            await child.tell(error=(type(reason).__name__, str(reason)))
        else:
            _word_bug(reason)
        return 1
    finally:
        transport.close()


class Child:
    """The state of this process."""

    def __init__(self, read: Read, news: int) -> None:
        """Read messages by `read`, and write them to the file descriptor `news`."""
        self._read = read
        self._news = news
        self._events = Events(self._observe)
        self._progress = Progress()
        self._given = 0
        self._numbers: dict[tuple[str, str], list[int]] = {}
        self._ended: list[int] = []
        self._passed: list[Passed] = []
        self._compared = False
        self._notices: list[str] = []
        self._put_off: list[tuple[int, Sequence[Outcome]]] = []
        self._outages: list[Event] = []
        self._halt = Halt()
        self._log = ParentLog()
        self._journalled = False
        self._limit = (0, "")
        self._told = News()
        self._run: Run | None = None
        self._finish = anyio.Event()
        self._code = 0

    async def run(self) -> int:
        """Publish until the parent says that there is no more, or goes away; returns the exit code.

        Raises:
            AsyncSinkError: the destination cannot be used, or the outcomes cannot be kept.
        """
        begin = await receive(self._read)
        assert isinstance(begin, Begin)
        self._limit = (begin.settings.limits.concurrency_start, "")
        self._journalled = begin.journalled
        self._compared = is_compared(begin.settings.policies.overwrite)
        log = self._log if begin.journalled else None
        opening = Opening(
            begin.settings,
            self._progress,
            self._events,
            log=log,
            recording=self,
            put_off=self._put_off_transfer if begin.settings.policies.retries else None,
            halt=self._halt,
        )
        async with anyio.create_task_group() as group:
            self._stop_on_signals(group.cancel_scope)
            # From the first moment: the parent may have gone while the destination is being opened.
            group.start_soon(self._take_work, group.cancel_scope)
            async with opening.open(begin.outlook) as run:
                self._run = run
                await self.tell(ready=True)
                group.start_soon(self._beat)
                await run.pipeline.run(self._feed)
            group.cancel_scope.cancel()
        await self.tell()
        return self._code

    def _stop_on_signals(self, scope: anyio.CancelScope) -> None:
        """A signal that is sent to this process alone ends it in order too."""

        def stop(number: int) -> None:
            self._code = 128 + number
            scope.cancel()

        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)

    async def _take_work(self, scope: anyio.CancelScope) -> None:
        """Queue what comes. The queue is as long as what the parent lets be under way, so that this never waits for
        long, and always notices the end of the pipe."""
        try:
            while True:
                message = await receive(self._read)
                if isinstance(message, Finish):
                    self._finish.set()
                elif isinstance(message, Noted):
                    self._log.noted(message.steps)
                elif isinstance(message, Leave):
                    self._code = 1
                    scope.cancel()
                    return
                else:
                    assert self._run is not None  # no work comes before the parent has heard that all is ready
                    for work in message:
                        self._number(work)
                        await self._run.pipeline.submit(work)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # the pipeline has failed, and says why
        except (asyncio.IncompleteReadError, OSError):
            if self._journalled:
                os._exit(1)
            self._code = 1
            scope.cancel()

    async def _feed(self, _submit: Submit) -> None:
        await self._finish.wait()

    def _number(self, work: Work | Batch) -> None:
        """Count the transfers as the parent does. The same file under the same key may come twice."""
        for transfer in work.transfers if isinstance(work, Batch) else [work.found]:
            assert isinstance(transfer, Transfer)  # everything else has ended when it is found, in the parent
            self._numbers.setdefault((transfer.key, transfer.source.path), []).append(self._given)
            self._given += 1

    async def record(self, ended: Sequence[Record], written: Encoded, _passed: Sequence[Passed], /) -> None:
        """As `Records.record`: the parent is told with the next news, and writes it down."""
        passed = Passed(written)
        for outcomes, transfer, _ in ended:
            assert transfer is not None
            self._ended.append(self._number_of(transfer))
            if not self._journalled:
                continue
            if (published := published_of(outcomes[0], transfer, compared=self._compared)) is not None:
                passed.rows.append(published_row(published))
            elif is_unknown(outcomes[0]):
                passed.unknown.append(transfer.key)
        self._passed.append(passed)

    def _number_of(self, transfer: Transfer) -> int:
        named = transfer.key, transfer.source.path
        numbers = self._numbers[named]
        number = numbers.pop()
        if not numbers:
            del self._numbers[named]
        return number

    def _put_off_transfer(self, outcomes: Sequence[Outcome], transfer: Transfer) -> bool:
        self._put_off.append((self._number_of(transfer), outcomes))
        return True

    def _observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notices.append(event.message)
        elif isinstance(event, LimitChanged):
            self._limit = (event.after, event.reason)
        elif isinstance(event, (Paused, Resumed, GaveUp)):
            self._outages.append(event)

    async def _beat(self) -> None:
        while True:
            with anyio.move_on_after(BEAT_SECONDS):
                await self._log.hurry.wait()
            await self.tell()

    async def tell(self, *, ready: bool = False, error: tuple[str, str] | None = None) -> None:
        """Tell the parent what is new, if anything is. Cancelled, it finishes the message first."""
        counts = News(
            objects_in_hand=self._progress.objects_in_hand,
            bytes_under_way=self._progress.bytes_under_way,
            bytes_failed=self._progress.bytes_failed,
            bytes_moved=self._progress.bytes_moved,
            bytes_resumed=self._progress.counts.bytes_resumed,
            resumable=tuple(self._progress.resumable.values()),
            requests=self._progress.traffic.requests,
            retries=self._progress.traffic.retries,
            stopped=self._halt.reason,
            limit=self._limit[0],
            reason=self._limit[1],
        )
        steps = self._log.taken()
        new = self._passed or steps or self._notices or self._put_off or self._outages
        if not (ready or error or new or counts != self._told):
            return
        self._told = counts
        ended, self._ended = self._ended, []
        passed, self._passed = self._passed, []
        notices, self._notices = self._notices, []
        put_off, self._put_off = self._put_off, []
        outages, self._outages = self._outages, []
        news = replace(
            counts,
            ready=ready,
            ended=ended,
            passed=passed,
            put_off=put_off,
            events=outages,
            steps=steps,
            notices=notices,
            error=error,
        )
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_write, self._news, pack(news))


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BrokenPipeError:
        # The parent is gone. The other pipe has ended then, too, which stops the run.
        return


def _word_bug(error: BaseException) -> None:
    # Not the error's own text: nobody has checked that it holds no secret.
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "an unknown place"
    os.write(2, f"an unexpected {type(error).__name__} in {place}\n".encode())
