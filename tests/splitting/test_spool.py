"""The files of a split in the order of their keys, whatever is in memory and whatever in the file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import JournalError
from asyncsink.model import SourceFile, Transfer
from asyncsink.paths import encoded_name
from asyncsink.splitting import spool as module
from asyncsink.splitting.spool import Spool

# "a/b" before "a.txt" is the order of a directory; "\udc80" is a byte that is no UTF-8, and comes after U+10000.
NAMES = st.text(st.sampled_from("a./\0é\U00010000\udc80\udcff"), min_size=1, max_size=4)


def transfer(key: str, size_bytes: int) -> Transfer:
    path = f"/data/{size_bytes}"
    return Transfer(SourceFile(path, size_bytes, 5, entry=3, ctime_ns=6, inode=2**64 - 1, real_path=path), key, key)


@pytest.fixture
def few_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IN_MEMORY_MAX", 3)
        patch.setattr(module, "_PIECE", 2)
        yield


@pytest.mark.usefixtures("few_in_memory")
@given(st.lists(st.lists(NAMES, max_size=6), max_size=6))
def test_keys_come_in_the_order_of_their_bytes_and_the_last_file_of_a_key_counts(batches: list[list[str]]) -> None:
    spool, last, size = Spool(), dict[str, int](), 0
    try:
        for batch in batches:
            some = [transfer(key, size := size + 1) for key in batch]
            last |= {each.key: each.source.size_bytes for each in some}
            spool.add(some)
        expected = [transfer(key, last[key]) for key in sorted(last, key=encoded_name)]
        for _ in range(2):
            assert list(spool) == expected
        assert spool.totals() == (len(last), sum(last.values()))
        assert spool.added == sum(map(len, batches))
    finally:
        spool.close()


@pytest.mark.usefixtures("few_in_memory")
def test_memory_holds_a_bounded_number_of_files() -> None:
    spool = Spool()
    for number in range(100):
        spool.add([transfer(f"key-{number:03}", number)])
    assert repr(spool) == "<Spool of 100 files, 0 of them in memory>"
    assert [each.source.size_bytes for each in spool] == list(range(100))
    spool.close()
    spool.close()


@pytest.mark.usefixtures("few_in_memory")
def test_a_directory_for_temporary_files_that_cannot_take_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(*_: Any, **__: Any) -> Any:
        return open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - closed by the spool

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    spool = Spool()
    with pytest.raises(JournalError, match=f"The files of the split cannot be kept in '{tmp_path}'"):
        spool.add([transfer(str(number), number) for number in range(4)])
    spool.close()
