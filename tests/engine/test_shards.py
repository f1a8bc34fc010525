"""Shards are a pure function of the key; processes and their limits are a pure function of what was found."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.config import MIB, Limits, LocalTarget, Settings, Shard
from asyncsink.engine.division import (
    AUTO_OBJECTS_MIN,
    AUTO_PROCESSES_MAX,
    check_division,
    divide,
    processes_for,
)
from asyncsink.engine.messages import News, pack, receive, told_error
from asyncsink.engine.recorder import Passed
from asyncsink.engine.shards import holds, shard_of
from asyncsink.errors import AsyncSinkError, ConfigError, JournalError, SourceMissing
from asyncsink.journal.rows import PublishedRow
from asyncsink.model import Checksum, Failure, Outcome, Receipt, Skip, SourceFile, SourceProblem, Transfer
from asyncsink.options import parse_options
from asyncsink.report.encoded import encoded
from asyncsink.s3.part_plan import PARTS_MAX
from asyncsink.sources.directory import DirectorySource

# Surrogates stand for names that are no UTF-8.
keys = st.text(st.characters(), max_size=40)


def transfer(key: str) -> Transfer:
    return Transfer(SourceFile("/somewhere", 1, 1), key, key)


@given(key=keys, count=st.integers(1, 300))
def test_every_key_is_in_exactly_one_shard(key: str, count: int) -> None:
    holding = [index for index in range(count) if holds(Shard(index, count), transfer(key))]
    assert holding == [shard_of(key, count)]


@given(path=keys, count=st.integers(1, 50))
def test_what_has_no_key_is_reported_by_exactly_one_shard(path: str, count: int) -> None:
    problem = SourceProblem(path, SourceMissing("it is missing"))
    assert sum(holds(Shard(index, count), problem) for index in range(count)) == 1


@pytest.mark.parametrize(("key", "shard"), [("a", 2), ("sub-01/func/bold.nii.gz", 1), ("é✓", 3), ("\udcff", 6)])
def test_the_shard_of_a_key_never_changes(key: str, shard: int) -> None:
    """Array jobs of two releases may work on one source. The values are those of b2sum -l 64, modulo 7."""
    assert shard_of(key, 7) == shard


@pytest.mark.parametrize("count", [2, 3, 8, 10, 64])
def test_shards_are_of_about_equal_size(count: int) -> None:
    names = [f"sub-{subject:04}/ses-{session}/bold.nii.gz" for subject in range(1600) for session in (1, 2)]
    found = Counter(shard_of(name, count) for name in names)
    even = len(names) / count
    assert all(abs(found[index] - even) < 5 * even**0.5 for index in range(count))


@given(
    processes=st.integers(1, 64),
    concurrency=st.none() | st.integers(1, 1024),
    memory=st.integers(8, 4096),
)
def test_limits_are_shared_out_and_never_multiplied(processes: int, concurrency: int | None, memory: int) -> None:
    whole = Limits(
        concurrency=concurrency,
        concurrency_start=concurrency or 64,
        concurrency_max=concurrency or 1024,
        memory_bytes=memory * MIB,
    )
    shares = divide(whole, processes, 10)
    assert len(shares) == processes
    for share in shares:
        assert min(share.concurrency_start, share.concurrency_max, share.reader_threads) >= 1
        assert share.memory_bytes >= share.part_size_bytes
        assert share.queue_transfers == 10
    if processes <= whole.concurrency_start:
        assert sum(share.concurrency_max for share in shares) == whole.concurrency_max
    if processes * whole.part_size_bytes <= whole.memory_bytes:
        assert sum(share.memory_bytes for share in shares) <= whole.memory_bytes


def number(processes: Any, objects: int, largest_bytes: int = 0, **options: Any) -> int:
    dry_run, cores = options.pop("dry_run", False), options.pop("cores", 6)
    settings = parse_options("s3://bucket/prefix", {"processes": processes, **options})
    return processes_for(
        settings,
        DirectorySource(".", symlinks="follow"),
        objects=objects,
        largest_bytes=largest_bytes,
        cores=cores,
        dry_run=dry_run,
    )


def test_how_many_processes() -> None:
    assert number(3, 1000) == 3
    assert number("3", 1000) == 3
    assert number(3, 2) == 2, "never more than there are objects"
    assert number(3, 0) == 1
    assert number(3, 1000, concurrency=2) == 2, "nor than requests are allowed"
    assert number(8, 1000, memory_bytes="32MiB") == 4, "nor than parts fit into memory"
    assert number(8, 1000, largest_bytes=128 * MIB * PARTS_MAX) == 2, "each holds the parts of the largest file"
    assert number(8, 1000, largest_bytes=200 * MIB * PARTS_MAX) == 1
    assert number(3, 1000, dry_run=True) == 1
    assert number(None, 10**6) == 1


def test_auto_is_one_process_where_more_would_not_pay() -> None:
    assert number("auto", AUTO_OBJECTS_MIN - 1, largest_bytes=10 << 30) == 1
    assert number("auto", AUTO_OBJECTS_MIN) == 6
    assert number("auto", AUTO_OBJECTS_MIN, cores=1) == 1
    assert number("auto", AUTO_OBJECTS_MIN, cores=96) == AUTO_PROCESSES_MAX
    assert number("auto", AUTO_OBJECTS_MIN, bucket=object()) == 1, "a bucket object cannot be handed over"


@pytest.mark.parametrize("value", [0, -1, 65, "many", "", "3.0", 2.0, True, "9" * 40])
def test_wrong_numbers_of_processes_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"processes=.* is out of range; expected 1 to 64, or 'auto'\."):
        parse_options("s3://bucket/prefix", {"processes": value})


@pytest.mark.parametrize(
    "value",
    ["3/3", "x", "1", "-1/3", "1/2/3", "a/b", "", "/", "0/0", (3, 3), (0,), (0, 0), (True, 2), 5, 1.5, ("x", 2)],
)
def test_wrong_shards_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"shard=.* is no part of a whole; expected 'I/N'"):
        parse_options("s3://bucket/prefix", {"shard": value})


def test_shards_as_they_are_written() -> None:
    for value in ("1/3", (1, 3), [1, 3]):
        assert parse_options("s3://bucket/prefix", {"shard": value}).shard == Shard(1, 3)
    assert parse_options("s3://bucket/prefix", {}).shard == Shard(0, 1)
    assert str(Shard(1, 3)) == "1/3"


def test_what_cannot_be_divided_is_refused() -> None:
    settings = Settings(target=LocalTarget(directory="/there"), processes=2)
    directory = DirectorySource(".", symlinks="follow")
    check_division(settings, directory)
    with pytest.raises(ConfigError, match=r"processes=2 cannot be used here: an AsyncSink gets its files one by one"):
        check_division(settings, None)
    with pytest.raises(ConfigError, match=r"give the bucket's name.*use processes=1\."):
        check_division(replace(settings, caller_bucket=object()), directory)
    with pytest.raises(ConfigError, match="remove_dest_dir contradict each other"):
        check_division(replace(settings, shard=Shard(0, 2), remove_dest_dir=True), directory)
    with pytest.raises(ConfigError, match="an AsyncSink walks nothing"):
        check_division(replace(settings, processes=1, shard=Shard(0, 2)), None)
    check_division(replace(settings, processes="auto"), None)


outcomes = st.one_of(
    st.builds(
        Receipt,
        source=keys,
        key=keys,
        checksum=st.none() | st.builds(Checksum, st.just("CRC32"), keys),
        seconds=st.floats(allow_nan=False),
    ),
    st.builds(Skip, source=keys, key=keys),
    st.builds(Failure, source=keys, key=keys),
)


def passed(all_outcomes: list[Outcome], rows: list[PublishedRow]) -> Passed:
    return Passed(encoded(all_outcomes), rows, unknown=[outcome.key for outcome in all_outcomes])


rows = st.tuples(st.binary(), st.binary(), keys, keys, keys, keys)
news = st.builds(
    News, passed=st.lists(st.builds(passed, st.lists(outcomes), st.lists(rows))), ended=st.lists(st.integers(0))
)


@given(st.one_of(news, st.builds(transfer, keys)))
def test_messages_arrive_as_they_were_sent(message: object) -> None:
    pipe = io.BytesIO(pack(message))

    async def read(size: int) -> bytes:
        return pipe.read(size)

    assert asyncio.run(receive(read)) == message
    assert pipe.read() == b""


def test_secrets_travel_but_do_not_show() -> None:
    settings = parse_options("s3://bucket/prefix", {"sse": b"k" * 32})
    pipe = io.BytesIO(pack(settings))

    async def read(size: int) -> bytes:
        return pipe.read(size)

    arrived = asyncio.run(receive(read))
    assert arrived == settings
    assert "kkk" not in repr(arrived)


def test_errors_of_processes_keep_their_class() -> None:
    assert isinstance(told_error("JournalError", "The disk is full."), JournalError)
    for name in ("IntegrityError", "ExportFailed", "Sequence", "nothing"):
        error = told_error(name, "A sentence.")
        assert (type(error), str(error)) == (AsyncSinkError, "A sentence.")
