"""The open files that this process may have: one account, of which every run, sink and grab has a share.

A run that meets EMFILE in its middle would fail files that could have been published, so each run is bounded when it
opens. Several runs divide the descriptors: when another one opens, those with more than an even share begin nothing new
until they are down to it, and close idle connections; when one closes, the others may have more again. A sink without
transfers keeps descriptors for one; the others have the rest until its next transfer begins.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import resource
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from asyncsink.errors import ConfigError
from asyncsink.options.schema import Limits

BESIDE = 16
"""Descriptors that a run opens once: event loop, log of outcomes, manifest, journal, the walk, a name's look-up."""
PER_READER = 4
"""A file that is written and its directory, a companion of its source, and what is written of that."""
PER_FILE = 2
"""A source in parts and its local copy, or a received file and its state: open from the first part to the last."""
PER_SENDER = 3
"""The connection and the pipe of a lane thread; there are as many lane threads as memory has room for parts."""
PER_REQUEST = 2
"""One connection in each of the two lanes."""
PER_TRANSFER = PER_FILE + PER_SENDER + PER_REQUEST
"""Descriptors of each of the first transfers. A transfer beyond the lane threads, or beyond the tasks that work on
files, costs less."""
SETTLE_SECONDS = 0.05
"""Seconds between two checks whether other shares have released what this one is to get."""
IDLE_SECONDS = 1.0
"""Seconds without a transfer after which a share is lowered for the others: longer than the pauses between the files of
one producer."""
LATE_SECONDS = 1.0
"""Seconds by which a timer is late where its event loop has ended, or is blocked."""


class Share:
    """The open files that one run, sink or grab may have. Belongs to the event loop in which it was opened.

    Attributes:
        limits: those that were asked for, lowered to what the process could open for this share alone.
        allowed: transfers, and requests, that it may have at a time now.
        busy: transfers under way.
        resting: whether it is lowered to one transfer, since it had none lately.
        timer: the number of the account's last timer on this share's event loop.
    """

    def __init__(self, account: Account, limits: Limits) -> None:
        self.limits = limits
        self.allowed = 0
        self.busy = 0
        self.resting = False
        self.timer = 0
        self._idle_since = time.monotonic()
        self._account = account
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._bound: Callable[[int], None] | None = None
        self._in_flight: Callable[[], int] | None = None

    def __repr__(self) -> str:
        return f"<Share {self.busy} of {self.allowed} transfers>"

    def govern(self, bound: Callable[[int], None], in_flight: Callable[[], int]) -> None:
        """Bound the requests too.

        Args:
            bound: called with the most that may be in flight, now and whenever that changes, on the event loop.
            in_flight: how many are.
        """
        self._bound, self._in_flight = bound, in_flight
        bound(max(1, self.allowed))

    async def turn(self) -> None:
        """Wait until one more transfer may begin, first come, first served; then `over` is owed, unless cancelled."""
        if self.resting:
            self._account.rouse(self)
        if self.busy < self.allowed and not self._waiting:
            self.busy += 1
            return
        granted = self._loop.create_future()
        self._waiting.append(granted)
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                self.over()  # granted and cancelled in the same iteration of the loop
            elif granted in self._waiting:
                self._waiting.remove(granted)
            raise

    def over(self) -> None:
        """End a transfer that `turn` let begin."""
        self.busy -= 1
        if self._waiting:
            self._wake()
        elif not self.busy:
            self._idle_since = time.monotonic()
            self._account.idle(self)

    def working(self) -> None:
        """Note that requests are about to be sent which belong to no transfer, and are bounded by tokens alone."""
        self._idle_since = time.monotonic()
        if self.resting:
            self._account.rouse(self)

    def close(self) -> None:
        """Give the share back. Harmless when repeated."""
        self._account.close(self)

    @property
    def wanted(self) -> int:
        """Transfers at a time that it has use for."""
        return 1 if self.resting else self.limits.concurrency_max

    def rest(self, now: float) -> None:
        """Rest where it has had no transfer lately; a resting share that works has an end of that."""
        works = self.busy or self._waiting or (self._in_flight is not None and self._in_flight())
        self.resting = not works and (self.resting or now - self._idle_since >= IDLE_SECONDS)

    def cost(self, transfers: int) -> int:
        """Most descriptors that this many requests at a time take, the files that they are for included."""
        return _cost(self.limits, transfers, transfers)

    def held(self) -> int:
        """Most descriptors that are taken until the transfers beyond the present allowance have ended."""
        requests = self._in_flight() if self._in_flight is not None else 0
        return _cost(self.limits, max(self.allowed, self.busy), max(self.allowed, requests))

    def allow(self, transfers: int) -> None:
        """Set `allowed`. From any thread."""
        if transfers == self.allowed:
            return
        self.allowed = transfers
        self.later(self._changed)

    def later(self, call: Callable[[], None], seconds: float = 0.0) -> None:
        """Call `call` on this share's event loop after `seconds`; a closed loop calls nothing."""
        if self._loop.is_closed():
            return
        if seconds:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, call)
        else:
            self._loop.call_soon_threadsafe(call)

    def _changed(self) -> None:
        if self._bound is not None:
            self._bound(max(1, self.allowed))
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.busy < self.allowed:
            granted = self._waiting.popleft()
            if not granted.done():
                self.busy += 1
                granted.set_result(None)


class Account:
    """The shares of the process's open files. Threads may share it; a forked child begins with an empty one.

    Args:
        most: how many open files the process may have.
        used: how many it has.
    """

    def __init__(self, most: Callable[[], int], used: Callable[[], int]) -> None:
        self._most = most
        self._used = used
        self._lock = threading.RLock()
        self._shares: weakref.WeakSet[Share] = weakref.WeakSet()  # a share that is dropped unclosed takes nothing
        self._others = 0
        self._timer, self._due = 0, float("-inf")

    def __repr__(self) -> str:
        return f"<Account {list(self._shares)} beside {self._others}>"

    async def open(self, limits: Limits) -> Share:
        """A share for a run with `limits`; waits until other shares have released enough for one transfer.

        Raises:
            ConfigError: not even one transfer at a time fits beside those of the others; nothing was sent.

        Cancelled, it has no share.
        """
        with self._lock:
            most, used = self._most(), self._used()
            shares = [*self._shares]
            # Before the first share, all open files belong to others; later, only those that no share accounts for.
            self._others = max(self._others, used - sum(share.held() for share in shares)) if shares else used
            share = Share(self, fitted(limits, most - self._others, most))
            if level([*shares, share], most - self._others) < 1:
                raise _too_few(most, len(shares))
            self._shares.add(share)
            self._settle()
        try:
            await share.turn()
            share.over()
        except BaseException:
            share.close()
            raise
        return share

    def close(self, share: Share) -> None:
        """See `Share.close`."""
        with self._lock:
            self._shares.discard(share)
            if share.timer == self._timer:
                self._due = float("-inf")  # its event loop may end before the timer
            self._settle()

    def rouse(self, share: Share) -> None:
        """Let a resting share have its even part again: at once where it needs that, soon where it goes on working.

        A sink with a small file now and then takes nothing from the others.
        """
        with self._lock:
            if share.busy < share.allowed:
                self._settle_later(share, SETTLE_SECONDS)
            else:
                share.resting = False
                self._settle(roused=share)

    def idle(self, share: Share) -> None:
        """Note that a share has no transfer now: the others may have its part when that lasts."""
        if len(self._shares) > 1:
            with self._lock:
                self._settle_later(share, IDLE_SECONDS)

    def _settle(self, roused: Share | None = None) -> None:
        """Lower the shares that are larger than an even one, and give what is free to those that are smaller."""
        with self._lock:
            shares, now = [*self._shares], time.monotonic()
            for share in shares:
                if len(shares) == 1:
                    share.resting = False
                elif share is not roused:
                    share.rest(now)
            budget = self._most() - self._others
            even = level(shares, budget)
            for share in shares:
                if share.allowed > (most := max(1, min(even, share.wanted))):
                    share.allow(most)
            short = []
            for share in shares:
                wanted = min(even, share.wanted)
                if share.allowed < wanted:
                    free = budget - sum(each.held() for each in shares if each is not share)
                    share.allow(min(wanted, max(share.allowed, _affordable(share, free))))
                    short += [share] if share.allowed < wanted else []
            if short:
                self._settle_later(short[0], SETTLE_SECONDS)
            elif len(shares) > 1 and (idle := [share for share in shares if not share.busy and not share.resting]):
                self._settle_later(idle[0], IDLE_SECONDS)

    def _settle_later(self, share: Share, seconds: float) -> None:
        """Settle again in `seconds`, on the event loop of `share`; a timer that is due before that suffices."""
        now = time.monotonic()
        # A timer that is long overdue went with its event loop, and a share that was never closed.
        if now - LATE_SECONDS < self._due <= now + seconds:
            return
        self._timer, self._due = self._timer + 1, now + seconds
        share.timer = self._timer
        share.later(partial(self._settle_again, self._timer), seconds)

    def _settle_again(self, timer: int) -> None:
        with self._lock:
            if timer == self._timer:
                self._due = float("-inf")
                self._settle()

    def forget(self) -> None:
        """Begin anew: the runs of the parent do not go on in a forked child."""
        self.__init__(self._most, self._used)  # type: ignore[misc]


def level(shares: Sequence[Share], budget: int) -> int:
    """Transfers at a time for each share (less for one that asks for less) that fit into `budget` together. Pure."""
    most = max((share.wanted for share in shares), default=0)

    def cost(transfers: int) -> int:
        return sum(share.cost(min(transfers, share.wanted)) for share in shares)

    return bisect.bisect_right(range(1, most + 1), budget, key=cost)


def _affordable(share: Share, free: int) -> int:
    """Most transfers at a time for which `free` descriptors suffice."""
    return bisect.bisect_right(range(1, share.limits.concurrency_max + 1), free, key=share.cost)


def _cost(limits: Limits, files: int, requests: int) -> int:
    files = min(files, limits.workers)
    readers, senders = min(limits.reader_threads, files), min(limits.parts_held, requests)
    return BESIDE + readers * PER_READER + files * PER_FILE + senders * PER_SENDER + requests * PER_REQUEST


def fitted(limits: Limits, free: int, most: int) -> Limits:
    """Pure: `limits`, lowered to what `free` of `most` open files allow; the same object where that is not needed.

    Raises:
        ConfigError: not even one transfer at a time fits; nothing was sent.
    """
    rest = free - BESIDE
    if rest < PER_READER + PER_TRANSFER:
        raise _too_few(most)
    # A fifth of the descriptors is for reading, the rest for sending.
    readers = min(limits.reader_threads, max(1, rest // (5 * PER_READER)))
    reading = replace(limits, reader_threads=readers)
    transfers = bisect.bisect_right(
        range(1, limits.concurrency_max + 1), free, key=lambda requests: _cost(reading, requests, requests)
    )
    if transfers == limits.concurrency_max and readers == limits.reader_threads:
        return limits
    return replace(
        limits,
        reader_threads=readers,
        concurrency=None if limits.concurrency is None else min(limits.concurrency, transfers),
        concurrency_start=min(limits.concurrency_start, transfers),
        concurrency_max=min(limits.concurrency_max, transfers),
    )


def _too_few(most: int, others: int = 0) -> ConfigError:
    beside = f" beside the {others} that run in it already" if others else ""
    return ConfigError(
        f"This process may have {most} open files at a time, and too few of them are free for a run{beside}; expected "
        f"about {BESIDE + PER_READER + PER_TRANSFER} free ones at least; raise `ulimit -n`. Nothing was sent."
    )


def _limit() -> int:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def _open_now() -> int:
    try:
        # The listing's own descriptor is among them.
        return len(os.listdir("/dev/fd")) - 1
    except OSError as error:
        raise _too_few(_limit()) from error


ACCOUNT = Account(_limit, _open_now)
"""The account of this process."""
os.register_at_fork(after_in_child=ACCOUNT.forget)
