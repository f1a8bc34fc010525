"""Shards are a pure function of the key."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.engine.planning.discovery import shard_key
from asyncsink.engine.planning.walk import check_shard
from asyncsink.errors import ConfigError, SourceMissing
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import LocalTarget, Settings
from asyncsink.options.settings import Shard, shard_of

# Surrogates stand for names that are no UTF-8.
keys = st.text(st.characters(), max_size=40)


def transfer(key: str) -> Transfer:
    return Transfer(SourceFile("/somewhere", 1, 1), key, key)


@given(key=keys, count=st.integers(1, 300))
def test_every_key_is_in_exactly_one_shard(key: str, count: int) -> None:
    holding = [index for index in range(count) if Shard(index, count).holds(shard_key(transfer(key)))]
    assert holding == [shard_of(key, count)]


@given(path=keys, count=st.integers(1, 50))
def test_what_has_no_key_is_reported_by_exactly_one_shard(path: str, count: int) -> None:
    problem = SourceProblem(path, SourceMissing("it is missing"))
    assert sum(Shard(index, count).holds(shard_key(problem)) for index in range(count)) == 1


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
    whole = Settings(target=LocalTarget(directory="/there"), remove_dest_dir=True)
    check_shard(whole)
    check_shard(whole, walks=False)
    with pytest.raises(ConfigError, match="remove_dest_dir contradict each other"):
        check_shard(replace(whole, shard=Shard(0, 2)))
    with pytest.raises(ConfigError, match="an AsyncSink walks nothing"):
        check_shard(replace(whole, shard=Shard(0, 2)), walks=False)
