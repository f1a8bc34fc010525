"""What a storm is made of: every way in which a request may be harmed and still succeed when it is sent again."""

from __future__ import annotations

from typing import Final

from asyncsink.config import MIB
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t

FAULTS: Final[tuple[t.Toxic, ...]] = (
    s.SLOW_DOWN,
    s.INTERNAL_ERROR,
    s.TOO_MANY_REQUESTS,
    s.REQUEST_TIMEOUT,
    s.EXPIRED_TOKEN,
    s.REQUEST_TIME_TOO_SKEWED,
    t.ResetPeer(),
    t.ResetPeer(300_000),
    t.ResetPeer(10, stream="downstream"),
    t.LimitData(10),
    t.HalfClose(1000),
    s.LostAnswer(),
    t.Timeout(0.05),
    t.Stall("continue"),
    t.Stall("body"),
    t.Stall("before_answer"),
    t.Stall("answer"),
)
"""Of any request: each costs it an attempt."""
HARMLESS: Final[tuple[t.Toxic, ...]] = (
    t.Latency(0.05, 0.05),
    t.Bandwidth(4 * MIB),
    t.Slicer(5, 4),
    t.SlowClose(0.01),
    s.DropHeaders("x-amz-checksum-"),
)
"""Of any request: it succeeds all the same."""
OF_COMPLETE: Final[tuple[t.Toxic, ...]] = (s.ErrorIn200(), s.ErrorIn200(committed=True), s.Whitespace(3, 0.01))
"""Of CompleteMultipartUpload."""
