"""One of a run's processes, as its parent sees it: started, handed work, listened to, and seen off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from asyncsink.engine.messages import Begin, Finish, Leave, News, Noted, pack, receive
from asyncsink.engine.pipeline import Batch, Work
from asyncsink.errors import ConfigError
from asyncsink.model import Transfer
from asyncsink.report.wording import inert

LAST_WORDS_SECONDS = 1.0
"""So long the stderr of a process that has ended is listened to."""
LEAVE_MESSAGE_SECONDS = 1.0
"""So long a process may take to read that it is to stop."""
FILES_UNDER_WAY_MAX = 2_000
"""Transfers that a process is given before it has told what became of them."""
BYTES_UNDER_WAY_MAX = 1 << 30
"""It is given nothing more while it has so many bytes before it: large files then go to whoever is free."""
FILE_COST_BYTES = 256 * 1024
"""What a file weighs besides its content where work is shared out."""
STDERR_KEPT_BYTES = 4096
STDERR_SHOWN_CHARACTERS = 300

_SIGNALS = frozenset(signal.Signals)
# Without the collector while it loads, as in cli/main.py: what was loaded lives to the end, and is not looked at again.
_CODE = """
import gc, json, sys
gc.disable()
sys.path[:] = json.loads(sys.argv.pop())
from asyncsink.engine.child import main
gc.freeze()
gc.enable()
main()
"""


@dataclass(slots=True, eq=False)
class Worker:
    """A process and the work it has.

    Attributes:
        number: from 0.
        news: the last it told.
        under_way: transfers without an outcome, by key and source.
        bytes_under_way: their sizes, and FILE_COST_BYTES for each.
        alive: it may be given work.
        ready: set when it may be given work, or has ended.
        ended: set when the process is gone, and everything it told is heard.
    """

    number: int
    _process: Process
    news: News = field(default_factory=News)
    under_way: dict[tuple[str, str], list[Transfer]] = field(default_factory=dict)
    bytes_under_way: int = 0
    alive: bool = True
    ready: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
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
                [sys.executable, "-P", "-c", _CODE, json.dumps(places)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"No process can be started ({error.strerror}); use processes=1.") from error
        return cls(number, process)

    async def begin(self, begin: Begin) -> None:
        """Tell the process what all its work has in common. Its `ready` follows."""
        await self._send(pack(begin))

    @property
    def has_room(self) -> bool:
        """Whether it may be given more."""
        return self.bytes_under_way < BYTES_UNDER_WAY_MAX and len(self.under_way) < FILES_UNDER_WAY_MAX

    async def give(self, work: Work | Batch, transfers: list[Transfer]) -> None:
        """Hand over `work`, which consists of `transfers`. One call at a time."""
        for transfer in transfers:
            # The same file under the same key may come twice, and has an outcome for each.
            self.under_way.setdefault((transfer.key, transfer.source.path), []).append(transfer)
            self.bytes_under_way += transfer.source.size_bytes + FILE_COST_BYTES
        await self._send(pack(work))

    def settle(self, key: str, source: str) -> Transfer | None:
        """Forget a transfer that has an outcome now."""
        waiting = self.under_way.get((key, source))
        if not waiting:
            return None
        transfer = waiting.pop()
        if not waiting:
            del self.under_way[key, source]
        self.bytes_under_way -= transfer.source.size_bytes + FILE_COST_BYTES
        return transfer

    async def note(self, steps: int) -> None:
        """Say that the first `steps` upload steps that it told are in the journal."""
        await self._send(pack(Noted(steps)))

    async def finish(self) -> None:
        """Say that no more will come: the process ends when it has done what it has."""
        if self.alive:
            await self._send(pack(Finish()))

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
                    await self._hear(stream, take)
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
