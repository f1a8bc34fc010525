"""The limits that several runs of a process keep together, as a caller gives them. Pure: the engine makes the pools."""

from __future__ import annotations

from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.options.settings import CONCURRENCY_MAX, MIB
from asyncsink.options.values import (
    read_bandwidth,
    read_concurrency,
    read_integer,
    read_size,
    requests_within,
)

THREADS_MIN, THREADS_MAX = 4, 1024


class SharedLimits:
    """Limits for all sinks, readers, exports and grabs that are given them as `limits=`.

        limits = asyncsink.SharedLimits(memory_bytes="512MiB", concurrency=64)
        async with (
            asyncsink.AsyncSink("s3://raw", limits=limits) as raw,
            asyncsink.AsyncSink("s3://derivatives", limits=limits) as derivatives,
        ): ...

    What they share is divided in turns: a sink with a full queue does not hold back another one with a single file. A
    `memory_bytes`, `concurrency` or `bandwidth_bytes_per_second` beside `limits` bounds that run within them. Each run
    adapts its concurrency to its own server.

    They serve one event loop at a time: a run in another one is refused while theirs goes on. In a forked child they
    begin anew.

    Args:
        memory_bytes: most file content held at once: bytes, or a text such as "512MiB".
        concurrency: most requests in flight, 1 to 1,024; None is the most that a single run may have.
        threads: most threads that read, write and send files, 4 to 1,024: half of them read source files and write
            local copies, the others send large bodies. Each run has up to three more, to take files and to send at all.
        bandwidth_bytes_per_second: most bytes sent in a second, or None.

    Raises:
        ConfigError: a value is wrong.
    """

    __slots__ = ("__weakref__", "_bandwidth_bytes_per_second", "_concurrency", "_memory_bytes", "_threads")

    def __init__(
        self,
        *,
        memory_bytes: int | str = 256 * MIB,
        concurrency: int | str | None = None,
        threads: int | str = 32,
        bandwidth_bytes_per_second: int | str | None = None,
    ) -> None:
        self._memory_bytes = read_size(memory_bytes, "memory_bytes")
        self._bandwidth_bytes_per_second = read_bandwidth(bandwidth_bytes_per_second)
        self._concurrency = min(
            read_concurrency(concurrency) or CONCURRENCY_MAX, requests_within(self._bandwidth_bytes_per_second)
        )
        self._threads = read_integer(threads)
        if not THREADS_MIN <= self._threads <= THREADS_MAX:
            raise ConfigError(f"threads={threads!r:.60} is out of range; expected {THREADS_MIN} to {THREADS_MAX}.")

    def __repr__(self) -> str:
        rate = self._bandwidth_bytes_per_second
        return (
            f"SharedLimits(memory_bytes={self._memory_bytes}, concurrency={self._concurrency}, "
            f"threads={self._threads}, bandwidth_bytes_per_second={rate})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedLimits:
        """A copied workflow shares the limits of the original."""
        return self

    @property
    def memory_bytes(self) -> int:
        """Most bytes of file content held at once."""
        return self._memory_bytes

    @property
    def concurrency(self) -> int:
        """Most requests in flight."""
        return self._concurrency

    @property
    def threads(self) -> int:
        """Most threads that read, write and send files."""
        return self._threads

    @property
    def bandwidth_bytes_per_second(self) -> int | None:
        """Most bytes sent in a second, or None."""
        return self._bandwidth_bytes_per_second


def read_shared_limits(value: Any, name: str) -> SharedLimits:
    """SharedLimits, or ConfigError."""
    if not isinstance(value, SharedLimits):
        raise ConfigError(f"{name} is of type {type(value).__name__}; expected asyncsink.SharedLimits(…).", option=name)
    return value
