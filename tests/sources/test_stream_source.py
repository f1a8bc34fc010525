"""JSON lines on a stream: every bad line is its own problem."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.records import LINE_SIZE_MAX, StreamSource


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "b").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scan_all(source: StreamSource) -> list[Any]:
    return list(source.scan())


def scan(text: str | bytes, **options: Any) -> Any:
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return scan_all(StreamSource(io.BytesIO(data), **options))


def test_lines_become_files(folder: Path) -> None:
    text = '{"source": "a", "key": "raw/a"}\n\n{"source": "a", "attribute": "motion.@par"}\r\n{"source": "a"}'
    keyed, routed, plain = scan("\ufeff" + text)
    assert (keyed.path, keyed.key, keyed.attribute, keyed.entry) == (str(folder / "a"), "raw/a", "", 0)
    assert (routed.key, routed.attribute, routed.entry) == (None, "motion.@par", 1)
    assert (plain.key, plain.attribute, plain.entry) == ("a", "", 2)


def test_a_directory_is_walked_for_an_attribute_and_refused_for_a_key(folder: Path) -> None:
    walked, refused = scan('{"source": "dir", "attribute": "m"}\n{"source": "dir", "key": "k"}\n')
    assert isinstance(walked, SourceFile)
    assert (walked.root, walked.relative, walked.attribute) == (str(folder / "dir"), "sub/b", "m")
    assert isinstance(refused, SourceProblem)
    assert isinstance(refused.error, SourceUnreadable)
    assert refused.entry == 1


def test_missing_sources_are_skippable_problems(folder: Path) -> None:
    (problem,) = scan('{"source": "gone", "attribute": "m"}')
    assert isinstance(problem.error, SourceMissing)
    assert (problem.path, problem.attribute, problem.skippable) == (str(folder / "gone"), "m", True)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"nonsense", "column 1"),
        (b"[1]", "JSON list"),
        (b'{"key": "x"}', "names no source"),
        (b'{"source": ""}', "names no source"),
        (b'{"source": "a", "key": 7}', "'key' is of type int"),
        (b'{"source": "a", "key": "x", "attribute": "m"}', "a key and an attribute"),
        (b'{"source": "caf\xe9"}', "not UTF-8"),
        (b'{"source": "/"}', "root of the file system"),
        (b" " * (LINE_SIZE_MAX + 1), f"longer than {LINE_SIZE_MAX} bytes"),
        (b"x" * (3 * LINE_SIZE_MAX), f"longer than {LINE_SIZE_MAX} bytes"),
    ],
)
def test_a_bad_line_is_a_problem_and_the_next_line_follows(folder: Path, bad: Any, words: str) -> None:
    good = b'{"source": "a"}\n'
    first, problem, last = scan(good + bad + b"\n" + good)
    assert isinstance(first, SourceFile)
    assert isinstance(last, SourceFile)
    assert isinstance(problem, SourceProblem)
    assert isinstance(problem.error, ConfigError)
    assert (problem.path, problem.entry, problem.skippable) == ("stdin line 2", 1, False)
    assert str(problem.error).startswith("stdin line 2")
    assert words in str(problem.error)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_of_the_greatest_length_is_read(folder: Path, end: str) -> None:
    line = '{"source": "a"}'
    (found,) = scan(line + " " * (LINE_SIZE_MAX - len(line)) + end)
    assert isinstance(found, SourceFile)


def test_a_too_long_last_line_is_a_problem() -> None:
    (problem,) = scan(b"x" * (LINE_SIZE_MAX + 1), name="list")
    assert problem.path == "list line 1"


def test_a_text_stream_ends_at_bytes_it_cannot_decode(folder: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b'{"source": "caf\xe9"}\n{"source": "a"}\n'), encoding="utf-8")
    (problem,) = scan_all(StreamSource(stream))
    assert isinstance(problem.error, ConfigError)
    assert not problem.skippable
    assert "nothing after it was read" in str(problem.error)


def test_a_stream_that_fails_is_a_problem_at_its_end(folder: Path) -> None:
    # A descriptor that is open for writing only: reading it fails with EBADF, as a lost terminal does with EIO.
    descriptor = os.open(folder / "a", os.O_WRONLY)
    with open(descriptor, "rb") as stream:
        (problem,) = scan_all(StreamSource(stream))
    assert not problem.skippable
    assert "nothing after it was read" in str(problem.error)


def test_lines_are_looked_up_as_they_arrive(folder: Path) -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as reader, open(write_end, "wb", buffering=0) as writer:
        walk = StreamSource(reader).scan()
        for n in range(3):
            writer.write(b'{"source": "a", "key": "%d"}\n' % n)
            found = next(walk)
            assert isinstance(found, SourceFile)
            assert found.key == str(n)
        closer = threading.Thread(target=writer.close)
        closer.start()
        assert list(walk) == []
        closer.join()


def test_a_non_blocking_stream_is_refused() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as reader, open(write_end, "wb"):
        os.set_blocking(read_end, False)
        with pytest.raises(ConfigError, match="non-blocking"):
            list(StreamSource(reader).scan())


def test_a_stream_is_read_once() -> None:
    source = StreamSource(io.StringIO(""))
    assert list(source.scan()) == []
    with pytest.raises(ConfigError, match="once"):
        list(source.scan())
    assert (source.replayable, source.injective, source.entries) == (False, False, None)
