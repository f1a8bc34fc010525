"""Bodies that a seed decides."""

from __future__ import annotations

import statistics
import zlib
from pathlib import Path

import pytest

from asyncsink.errors import ConfigError
from asyncsink.testing.synthetic import Bodies


async def whole(bodies: Bodies, number: int) -> bytes:
    return b"".join([piece async for piece in bodies.stream(number)])


@pytest.mark.anyio
@pytest.mark.parametrize("sizes", ["1", "16KiB", "3MB", "lognormal:16KiB:1.2"])
async def test_a_seed_decides_every_byte_and_a_stream_gives_the_same_ones(sizes: str) -> None:
    one, same, other = Bodies(sizes, 1), Bodies(sizes, 1), Bodies(sizes, 2)
    for number in (7, 0, 3):
        body = one.body(number)
        assert body == same.body(number) == await whole(one, number)
        assert len(body) == one.size_bytes(number)
        assert len(body) < 16 or body != other.body(number)


def test_bodies_differ_and_cannot_be_compressed() -> None:
    bodies = Bodies("2MiB", 1)
    assert len({bodies.body(number) for number in range(20)}) == 20
    assert len(zlib.compress(Bodies("64KiB", 1).body(5))) > 64 * 1024


def test_sizes_follow_their_distribution(tmp_path: Path) -> None:
    bodies = Bodies("lognormal:16KiB:1.2", 1)
    drawn = [bodies.size_bytes(number) for number in range(4000)]
    assert 14_000 < statistics.median(drawn) < 19_000
    assert 1.0 < statistics.stdev([len(bin(size)) for size in drawn]) < 2.5
    listed = tmp_path / "sizes.txt"
    listed.write_text("1000\n2KiB\n\n3MB\n")
    bodies = Bodies(str(listed), 1)
    assert {bodies.size_bytes(number) for number in range(200)} == {1000, 2048, 3_000_000}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ("0", "sizes"),
        ("12 parsecs", "sizes"),
        ("lognormal", "no spread; expected lognormal:MEDIAN:SIGMA"),
        ("lognormal:16KiB", "no spread"),
        ("lognormal:16KiB:-1", "no spread"),
        ("lognormal:16KiB:nan", "no spread"),
        ("lognormal::1", "sizes"),
        ("no-such-file", "no size, and no file that can be read"),
        ("", "no size, and no file that can be read"),
    ],
)
def test_wrong_sizes_are_refused_in_one_sentence(sizes: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Bodies(sizes, 1)


@pytest.mark.parametrize(("text", "words"), [("", "has 0 lines"), ("16KiB\nmany\n", "line 2: size='many'")])
def test_a_wrong_file_of_sizes_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sizes").write_text(text)
    with pytest.raises(ConfigError, match=words):
        Bodies(str(tmp_path / "sizes"), 1)
