"""One of a run's processes, as its parent sees it: started, handed work, listened to, and seen off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from asyncsink.engine.load import Load
from asyncsink.engine.messages import Begin, Finish, Leave, News, Noted, pack, receive
from asyncsink.engine.pipeline import Batch, Work
from asyncsink.errors import ConfigError
from asyncsink.model import Transfer
from asyncsink.report.wording import inert

LAST_WORDS_SECONDS = 1.0
"""So long the stderr of a process that has ended is listened to."""
LEAVE_MESSAGE_SECONDS = 1.0
"""So long a process may take to read that it is to stop."""
STDERR_KEPT_BYTES = 4096
STDERR_SHOWN_CHARACTERS = 300

_SIGNALS = frozenset(signal.Signals)
# Looking for garbage among modules that are just being imported takes a tenth of the start; `main` turns it on again.
_CODE = (
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.argv.pop()); "
    "from asyncsink.engine.child import main; main()"
)


@dataclass(slots=True, eq=False)
class Worker:
    """A process and the work it has.

    Attributes:
        number: from 1; 0 is its parent.
        news: the last it told.
        under_way: transfers that have not ended, by number: they are numbered in the order in which they were given.
        load: what they amount to.
        alive: it may be given work.
        ready: set when it may be given work, or has ended.
        ended: set when the process is gone, and everything it told is heard.
    """

    number: int
    _process: Process
    news: News = field(default_factory=News)
    under_way: dict[int, Transfer] = field(default_factory=dict)
    load: Load = field(default_factory=Load)
    alive: bool = True
    ready: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    _given: int = 0
    _outbox: list[Work | Batch] = field(default_factory=list)
    _complete: bool = False
    _some: anyio.Event = field(default_factory=anyio.Event)
    _stderr: bytes = b""
    _sending: anyio.Lock = field(default_factory=anyio.Lock)

    @classmethod
    async def start(cls, number: int) -> Worker:
        """Start a process of this interpreter that imports what this one imports.

        Raises:
            ConfigError: the system starts no process.
        """
        places = [place for place in sys.path if isinstance(place, str)]
        try:
            # A session of its own: Ctrl-C in the terminal reaches the parent alone, which ends its processes in order.
            process = await anyio.open_process(
                [sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-P", "-c", _CODE, json.dumps(places)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"No process can be started ({error.strerror}); use processes=1.") from error
        return cls(number, process)

    async def dismiss(self) -> None:
        """End a process that was never told to begin."""
        self.kill()
        await self._process.aclose()

    async def begin(self, begin: Begin) -> None:
        """Tell the process what all its work has in common. Its `ready` follows."""
        await self._send(pack(begin))

    async def give(self, work: Work | Batch, transfers: list[Transfer]) -> None:
        """Hand over `work`, which consists of `transfers`. It is sent with what else is given until the pipe is free:
        `load.has_room` bounds how much that is."""
        self.under_way.update(enumerate(transfers, self._given))
        self._given += len(transfers)
        self.load.add(work, transfers)
        self._outbox.append(work)
        self._some.set()

    def settle(self, numbers: Sequence[int]) -> None:
        """Forget transfers that have ended."""
        self.load.remove([self.under_way.pop(number) for number in numbers])

    async def note(self, steps: int) -> None:
        """Say that the first `steps` upload steps that it told are in the journal."""
        await self._send(pack(Noted(steps)))

    def finish(self) -> None:
        """No more will come: the process is told so after all that was given, and ends when it has done that."""
        self._complete = True
        self._some.set()

    async def _send_within(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._send_given()

    async def _send_given(self) -> None:
        while self.alive:
            await self._some.wait()
            self._some = anyio.Event()
            given, self._outbox = self._outbox, []
            if given:
                await self._send(pack(given))
            elif self._complete:
                await self._send(pack(Finish()))
                return
            if self._complete:
                self._some.set()

    async def leave(self) -> None:
        """Ask the process to stop, and to abort what is under way; then its pipe ends."""
        assert self._process.stdin is not None
        if self.alive:
            # One that reads nothing any more does not hear of it, and is killed in the end.
            with anyio.move_on_after(LEAVE_MESSAGE_SECONDS):
                await self._send(pack(Leave()))
        await self._process.stdin.aclose()

    def kill(self) -> None:
        """End the process where it stands."""
        if self._process.returncode is None:
            self._process.kill()

    async def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            async with self._sending:
                await self._process.stdin.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            # It has ended. Whoever listens to it notices, and settles what it was given.
            self.alive = False

    async def listen(self, take: Callable[[Worker, News], Awaitable[None]], gone: Callable[[Worker], None]) -> None:
        """Hand every News to `take` until the process is gone, then call `gone`.

        Not cancelled by a scope around it: it ends when the process does, which `leave` and `kill` see to.
        """
        assert self._process.stdout is not None
        stream = BufferedByteReceiveStream(self._process.stdout)
        with anyio.CancelScope(shield=True):
            try:
                async with anyio.create_task_group() as group:
                    self._keep_stderr(group)
                    sending = anyio.CancelScope()
                    group.start_soon(self._send_within, sending)
                    await self._hear(stream, take)
                    sending.cancel()
                    await self._process.wait()
                    # Somebody whom the process started may hold its stderr open for ever.
                    group.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_SECONDS
                await self._process.aclose()
                gone(self)
            finally:
                self.alive = False
                self.ready.set()
                self.ended.set()

    async def _hear(self, stream: BufferedByteReceiveStream, take: Callable[[Worker, News], Awaitable[None]]) -> None:
        try:
            while True:
                news: News = await receive(stream.receive_exactly)
                await take(self, news)
                self.news = news
                if news.ready:
                    self.ready.set()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, OSError):
            self.alive = False

    def _keep_stderr(self, group: TaskGroup) -> None:
        async def keep() -> None:
            assert self._process.stderr is not None
            async for data in self._process.stderr:
                self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]

        group.start_soon(keep)

    @property
    def ending(self) -> str:
        """How the process ended, as the rest of a sentence that begins with "its process"."""
        code = self._process.returncode or 0
        for verb, number in (("killed", -code), ("stopped", code - 128)):
            if number in _SIGNALS:
                return f"was {verb} by {signal.Signals(number).name}"
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        said = f": {inert(lines[-1])[:STDERR_SHOWN_CHARACTERS]}" if lines else ""
        return f"ended with exit code {code}{said}"
