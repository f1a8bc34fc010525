"""The lanes of one transport, and the choice between them.

Small requests share one lane, which is enough for all that Python can send; another is started only where that one
hangs in a file system. Large bodies have a few lanes, because reading, checksumming and sending them release the
interpreter's lock. Lanes end when nothing was sent for a while: an idle transport has one thread at most.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Final

import anyio

from asyncsink.options.settings import RetryPolicy
from asyncsink.os_errors import shortage
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.http.addresses import Addresses
from asyncsink.s3.http.exchange import Exchange, LaneWork, Outbox
from asyncsink.s3.http.lane import Lane, Shared
from asyncsink.s3.http.reading import ExchangeError, NoThread
from asyncsink.s3.http.signing import Endpoint
from asyncsink.s3.pacing import Bandwidth, Pacer, usable_cores

SMALL_LANES_MAX: Final = 4
LARGE_LANES_PER_CORE: Final = 2
LARGE_LANES_MIN: Final = 4
STUCK_SECONDS: Final = 0.25
"""Seconds with one action after which a lane hangs in a file system, and its waiting work moves to another."""
HUNG_SECONDS: Final = 1.0
"""Seconds after which the pacer no longer counts what a hanging lane carries: others would wait for its tokens."""
IDLE_SECONDS: Final = 5.0
"""Seconds without work after which all lanes but one end, with their buffers: by then their idle connections are
closed."""
JOIN_SECONDS_MAX: Final = 5.0
"""Seconds that `aclose` waits for lanes that hang in a file system, and end when its calls return."""


class LanePool:
    """Lanes, started when there is work for them. Belongs to the event loop in which it is made.

    Args:
        endpoint, tls, retry, pacer, bandwidth, outbox: as in `lane.Shared`.

    Attributes:
        small, large: the lanes.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tls: ssl.SSLContext | None,
        retry: RetryPolicy,
        pacer: Pacer,
        *,
        bandwidth: Bandwidth | None,
        outbox: Outbox,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._addresses = Addresses(endpoint.host, endpoint.port)
        self._shared = Shared(
            host=endpoint.host,
            tls=tls,
            retry=retry,
            pacer=pacer,
            addresses=self._addresses,
            bandwidth=bandwidth,
            outbox=outbox,
            owner=threading.current_thread(),
        )
        self.small: list[Lane] = []
        self.large: list[Lane] = []
        self._large_max = max(LARGE_LANES_MIN, LARGE_LANES_PER_CORE * usable_cores())
        self._kept_max: int | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._idling: asyncio.TimerHandle | None = None
        self._ending: list[Lane] = []
        self._shared_lanes = 0
        self._hanging = 0
        self._to_wake: set[Lane] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<LanePool {self.small} {self.large} {self._addresses}>"

    def give(self, work: LaneWork, *, large: bool) -> None:
        """Have a lane carry `work`."""
        lane = self._large_lane() if large else self._small_lane()
        lane.add(work)
        if not self._to_wake:
            self._loop.call_soon(self._wake)
        self._to_wake.add(lane)
        self._watch_later()

    def _wake(self) -> None:
        """Wake the lanes for all that was given to them in one iteration of the event loop.

        Woken for each piece, a lane takes the interpreter's lock from tasks that are about to give it more.
        """
        for lane in self._to_wake:
            lane.wake()
        self._to_wake.clear()

    def give_urgent(self, exchange: Exchange) -> None:
        """Have a small lane carry an exchange that waits for nothing."""
        self._small_lane().give_urgent(exchange)
        self._shared.pacer.count_unpaced()
        self._watch_later()

    def give_up(self, work: LaneWork, is_of: Callable[[Exchange], bool]) -> None:
        """End all exchanges of `work`, which `is_of` knows."""
        for lane in (*self.small, *self.large):
            lane.give_up_work(work, is_of)

    def give_up_begun(self, is_of: Callable[[Exchange], bool]) -> None:
        """End exchanges that have begun."""
        for lane in (*self.small, *self.large):
            lane.give_up(is_of)

    def bound(self, connections: int) -> None:
        """Keep at most `connections` for small requests and as many for large ones, and one in each lane, and no more
        lanes for large ones than that; surplus idle ones are closed now, others when they become idle."""
        self._kept_max = connections
        self._end_surplus(connections)
        self._divide(self.small)
        self._divide(self.large)

    async def aclose(self) -> None:
        """End the lanes and close their connections; requests under way fail. Calling it twice is harmless.

        Waits JOIN_SECONDS_MAX at most for a lane that hangs in a file system.
        """
        self._closed = True
        for timer in (self._watching, self._idling):
            if timer is not None:
                timer.cancel()
        self._shared.pacer.hang(-self._hanging)
        self._hanging = 0
        self._addresses.close()
        lanes = [*self.small, *self.large, *self._ending]
        self.small, self.large, self._ending = [], [], []
        self._give_back_lanes()
        ended = [asyncio.wrap_future(lane.ended_future) for lane in lanes]
        for lane in lanes:
            lane.stop()
        if ended:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(ended, timeout=JOIN_SECONDS_MAX)

    def _small_lane(self) -> Lane:
        """The small lane that is least stuck, or a new one."""
        for lane in self.small:
            if not self._stuck(lane):
                return lane
        if len(self.small) < SMALL_LANES_MAX:
            return self._started(self.small, "small", large=False)
        return min(self.small, key=lambda lane: (lane.over, lane.load))

    def _watch_later(self) -> None:
        if self._idling is not None:
            self._idling.cancel()
            self._idling = None
        if self._watching is None and not self._closed:
            self._watching = self._loop.call_later(STUCK_SECONDS, self._watch)

    def _watch(self) -> None:
        """Move work that waits for a hanging lane to another, and let other requests go on beside what it carries."""
        self._watching = None
        for lane in [lane for lane in (*self.small, *self.large) if lane.waiting and self._stuck(lane)]:
            other = self._large_lane() if lane.large else self._small_lane()
            if not self._stuck(other):
                lane.hand_over(other)
        lanes = [*self.small, *self.large]
        hanging = sum(lane.tokens for lane in lanes if self._stuck(lane, HUNG_SECONDS))
        if hanging != self._hanging:
            self._shared.pacer.hang(hanging - self._hanging)
            self._hanging = hanging
        if self._kept_max is not None:
            self._end_surplus(self._kept_max)
        if any(lane.load for lane in lanes):
            self._watch_later()
        else:
            self._idling = self._loop.call_later(IDLE_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        """End all lanes but one, where nothing was sent since the last watch."""
        if self._watching is None:
            self._end([*self.large, *self.small[1:]])

    def _end_surplus(self, lanes_max: int) -> None:
        """End idle lanes for large bodies beyond `lanes_max`."""
        surplus = len(self.large) - max(1, lanes_max)
        if surplus > 0:
            self._end([lane for lane in self.large if not lane.load][:surplus])

    def _end(self, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            (self.large if lane.large else self.small).remove(lane)
            lane.stop()
            self._ending.append(lane)
        self._ending = [lane for lane in self._ending if not lane.ended_future.done()]
        self._give_back_lanes()

    def _may_start_large(self) -> bool:
        """Whether one more lane may carry large bodies; the first always may, others within what several runs share."""
        lanes_max = self._large_max if self._kept_max is None else min(self._large_max, max(1, self._kept_max))
        if len(self.large) >= lanes_max:
            return False
        shared = self._shared.pacer.lanes
        if shared is not None and self.large:
            if not shared.acquire(blocking=False):
                return False
            self._shared_lanes += 1
        return True

    def _give_back_lanes(self) -> None:
        while self._shared_lanes > max(0, len(self.large) - 1):
            assert self._shared.pacer.lanes is not None
            self._shared_lanes -= 1
            self._shared.pacer.lanes.release()

    def _stuck(self, lane: Lane, seconds: float = STUCK_SECONDS) -> bool:
        began = lane.began_at
        return lane.over or (bool(began) and lane.clock() - began > seconds)

    def _large_lane(self) -> Lane:
        """The large lane with the least load, or a new one."""
        if all(lane.load or self._stuck(lane) for lane in self.large) and self._may_start_large():
            lane = self._started(self.large, "large", large=True)
            self._give_back_lanes()  # where no thread could be started
            return lane
        return min(self.large, key=lambda lane: (self._stuck(lane), lane.load))

    def _started(self, lanes: list[Lane], name: str, *, large: bool) -> Lane:
        if self._closed:
            raise ExchangeError("the transport was closed")
        try:
            lane = Lane(self._shared, f"asyncsink-{name}-{len(lanes)}", large=large)
        except (OSError, RuntimeError) as error:
            if lanes:
                return min(lanes, key=lambda lane: lane.load)
            # Retryable: other threads may end.
            why = shortage(error) or one_line(str(error))
            raise NoThread(f"no thread could be started to send it. {why}") from error
        lanes.append(lane)
        self._divide(lanes)
        return lane

    def _divide(self, lanes: list[Lane]) -> None:
        if self._kept_max is not None:
            for lane in lanes:
                lane.bound(max(1, self._kept_max // len(lanes)))
