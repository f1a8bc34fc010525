"""Pure: what is wrong with the server at this moment, in one sentence for people."""

from __future__ import annotations

from asyncsink.errors import (
    AsyncSinkError,
    ClockSkew,
    ConnectionLost,
    ExpiredCredentials,
    Stalled,
    Throttled,
    TransferError,
)
from asyncsink.report.sentences import clock_time, count
from asyncsink.s3.transport import Outage, Traffic

SLOW_DOWN_SECONDS = 10.0
"""Seconds for which a SlowDown is shown: servers send many within a short time, and then none."""
RETRY_SECONDS = 5.0
"""Seconds for which a request that failed is told."""


def trouble_now(traffic: Traffic, now: float) -> str:
    """The trouble at `now`, in seconds of time.monotonic(): a server that is gone, one that asks to slow down, or
    requests that fail; "" where there is none."""
    if traffic.outage is not None:
        return _gone(traffic.outage, now)
    if now - traffic.throttled_at < SLOW_DOWN_SECONDS:
        fewer = traffic.limit < traffic.limit_before
        return "the server asks to slow down" + (
            f": {traffic.limit:,} at a time instead of {traffic.limit_before:,}" if fewer else ""
        )
    if traffic.last_error is not None and now - traffic.last_retry_at < RETRY_SECONDS:
        return f"{_failure(traffic.last_error)}; {count(traffic.retries, 'request')} sent again so far"
    return ""


def _gone(outage: Outage, now: float) -> str:
    parts = [f"{outage.endpoint} {outage.cause} ({max(0.0, now - outage.since):.0f} s)"]
    parts += [f"next try in {max(0.0, outage.next_try_at - now):.0f} s"]
    parts += [f"stops in {clock_time(max(0.0, outage.give_up_at - now))}"]
    parts += [f"{count(outage.files, 'file')} {'waits' if outage.files == 1 else 'wait'}"] if outage.files else []
    return f"{parts[0]}; {', '.join(parts[1:])}"


def _failure(error: AsyncSinkError) -> str:
    if isinstance(error, Throttled):
        return "the server asks to slow down"
    if isinstance(error, Stalled):
        return "requests get no answer in time"
    if isinstance(error, ExpiredCredentials):
        return "the credentials have expired"
    if isinstance(error, ClockSkew):
        return "the clock of this machine differs from the server's"
    if isinstance(error, TransferError) and error.status:
        named = f" ({error.code})" if error.code not in ("", str(error.status)) else ""
        return f"the server answers some requests with HTTP {error.status}{named}"
    if isinstance(error, ConnectionLost):
        return "connections to the server break"
    return f"some requests fail ({type(error).__name__})"
