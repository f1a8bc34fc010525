"""Large bodies go round in a few buffers; small ones are allocated as they come."""

from __future__ import annotations

from asyncsink.engine.limits.memory import SMALL_BYTES, BufferPool

MIB = 1 << 20


def test_a_large_body_is_lent_the_same_memory_again() -> None:
    pool = BufferPool(8 * MIB)
    with pool.lend(8 * MIB) as first:
        first[:4] = b"abcd"
        assert repr(pool) == "<BufferPool of 8388608 bytes, 0 free>"
    with pool.lend(2 * MIB) as second:
        assert len(second) == 2 * MIB
        assert bytes(second[:4]) == b"abcd"


def test_two_bodies_at_once_never_share_memory_and_only_one_buffer_is_kept() -> None:
    pool = BufferPool(8 * MIB)
    with pool.lend(8 * MIB) as first, pool.lend(8 * MIB) as second:
        first[0] = 1
        second[0] = 2
        assert first[0] == 1
    assert repr(pool).endswith("1 free>")


def test_what_is_lent_is_what_is_charged() -> None:
    pool = BufferPool(8 * MIB)
    assert [pool.cost(size) for size in (0, 1, SMALL_BYTES, SMALL_BYTES + 1, 8 * MIB, 9 * MIB)] == [
        0,
        1,
        SMALL_BYTES,
        8 * MIB,
        8 * MIB,
        9 * MIB,
    ]
    with pool.lend(9 * MIB) as view:
        assert len(view) == 9 * MIB
    assert repr(pool).endswith("0 free>")


def test_fewer_are_kept_while_others_keep_some() -> None:
    elsewhere = 0
    pool = BufferPool(8 * MIB, idle_max=3, elsewhere=lambda: elsewhere)
    with pool.lend(8 * MIB), pool.lend(8 * MIB), pool.lend(8 * MIB):
        assert repr(pool).endswith("0 free>")
    assert repr(pool).endswith("3 free>")
    elsewhere = 2
    with pool.lend(8 * MIB):
        pool.trim()
        assert repr(pool).endswith("0 free>")
    assert repr(pool).endswith("1 free>")
    elsewhere = 5
    pool.trim()
    assert repr(pool).endswith("0 free>")
