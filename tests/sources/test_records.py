"""Manifests: tables and JSON lines, strict about every row."""

from __future__ import annotations

import io
import json
import os
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.records import LINE_SIZE_MAX, ManifestSource, StreamSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.nii").write_bytes(b"abc")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b,c.nii").write_bytes(b"")
    return tmp_path


def scan(folder: Path, name: str, text: str | bytes, **options: Any) -> Any:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return list(ManifestSource(path, **options).scan())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", 'source,key\na.nii,raw/a\n"sub/b,c.nii",\n'),
        ("m.CSV", '\ufeffkey , note, source\r\nraw/a,"x\r\ny",a.nii\r\n\r\n,z,"sub/b,c.nii"'),
        ("m.tsv", "source\tkey\na.nii\traw/a\nsub/b,c.nii\t\n\n"),
        ("m.jsonl", '{"source": "a.nii", "key": "raw/a", "size": 3}\n\n{"source": "sub/b,c.nii"}'),
        ("m.jsonl", '\ufeff{"source": "a.nii", "key": "raw/a"}\r\n{"source": "sub/b,c.nii", "key": null}\r\n'),
    ],
)
def test_rows_become_files_with_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes
) -> None:
    monkeypatch.chdir("/")
    first, second = scan(folder, name, text)
    assert (first.path, first.key, first.size_bytes, first.entry) == (str(folder / "a.nii"), "raw/a", 3, 0)
    assert (second.path, second.key, second.entry) == (str(folder / "sub" / "b,c.nii"), "b,c.nii", 1)
    assert (first.root, first.relative, first.attribute) == (first.path, "", "")


def test_an_absolute_source_stays(folder: Path) -> None:
    (found,) = scan(folder, "m.csv", f"source,key\n{folder}/sub/../a.nii,x\n")
    assert found.path == str(folder / "a.nii")


def test_missing_sources_and_directories_are_problems(folder: Path) -> None:
    missing, directory, good = scan(folder, "m.csv", "source,key\ngone,x\nsub,y\na.nii,z\n")
    assert isinstance(missing, SourceProblem)
    assert isinstance(missing.error, SourceMissing)
    assert isinstance(directory, SourceProblem)
    assert isinstance(directory.error, SourceUnreadable)
    assert "is a directory; list its files" in str(directory.error)
    assert [missing.entry, directory.entry, good.entry] == [0, 1, 2]
    assert isinstance(good, SourceFile)


def test_links_obey_the_policy(folder: Path) -> None:
    (folder / "link").symlink_to("a.nii")
    text = "source,key\nlink,x\n"
    (followed,) = scan(folder, "m.csv", text)
    (skipped,) = scan(folder, "m.csv", text, symlinks="skip")
    (refused,) = scan(folder, "m.csv", text, symlinks="error")
    assert followed.size_bytes == 3
    assert (skipped.skipped, refused.skipped, refused.skippable) == (True, False, False)


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("m.csv", "source,keys\na.nii,x\n", 1, "'key'"),
        ("m.csv", "source,key,key\na.nii,x,y\n", 1, "2 columns named 'key'"),
        ("m.csv", "a.nii,x\n", 1, "'source'"),
        ("m.csv", "source,key\na.nii,x\na.nii\n", 3, "1 fields; expected 2"),
        ("m.csv", "source,key\nsub/b,c.nii,x\n", 2, "3 fields; expected 2"),
        ("m.csv", 'source,key\n"a.nii"x,y\n', 2, "malformed"),
        ("m.csv", 'source,key\n"a.nii,y\n', 2, "malformed"),
        ("m.csv", 'source,key\n"multi\nline",x\n,y\n', 4, "empty path"),
        ("m.csv", b"source,key\na.nii,x\ncaf\xe9,y\n", 3, "not UTF-8 (byte 4"),
        ("m.csv", "source,key\n" + "x" * (LINE_SIZE_MAX + 1), 2, "longer than"),
        ("m.csv", "source,key\na\0b,x\n", 2, ""),
        ("m.tsv", "source,key\na.nii,x\n", 1, "'source'"),
        ("m.tsv", "source\tkey\n/\tx\n", 2, "root of the file system"),
        ("m.jsonl", '{"source": "a.nii"}\n{"source": \n', 2, "column 12"),
        ("m.jsonl", '{"source": "a.nii"}\n["a.nii"]\n', 2, "JSON list"),
        ("m.jsonl", '{"key": "x"}\n', 1, "names no source"),
        ("m.jsonl", '{"source": ["a.nii"]}\n', 1, "'source' is of type list"),
        ("m.jsonl", '{"source": "a.nii", "key": 7}\n', 1, "'key' is of type int"),
        ("m.jsonl", '{"source": "a.nii", "source": "b"}\n', 1, "stands twice"),
        ("m.jsonl", '{"source": "a\\u0000b"}\n', 1, "NUL"),
        ("m.jsonl", "[" * 200_000 + "\n", 1, "recursion"),
        ("m.jsonl", '{"n": ' + "1" * 5000 + "}\n", 1, "digits"),
    ],
)
def test_a_malformed_row_refuses_the_manifest(
    folder: Path, name: str, text: str | bytes, line: int, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        scan(folder, name, text)
    assert f"{str(folder / name)!r} line {line}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_a_table_without_a_header_is_refused(folder: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError, match="no header"):
        scan(folder, "m.csv", text)


def test_an_empty_list_of_json_lines_is_no_error(folder: Path) -> None:
    assert scan(folder, "m.jsonl", "\n") == []


@pytest.mark.parametrize("name", ["gone.csv", "directory.tsv", "fifo.jsonl"])
def test_unusable_manifests_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory.tsv").mkdir()
    os.mkfifo(tmp_path / "fifo.jsonl")
    source = ManifestSource(tmp_path / name)
    with pytest.raises(ConfigError, match=name):
        list(source.scan())


def test_other_kinds_of_manifest_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\.csv, \.tsv or \.jsonl"):
        ManifestSource("manifest.xlsx")


def test_rows_are_found_before_a_later_fault_is_reached(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text("source,key\n" + "a.nii,x\n" * 5000 + "broken\n")
    walk = ManifestSource(path).scan()
    assert len(list(islice(walk, 5000))) == 5000
    with pytest.raises(ConfigError, match="line 5002"):
        next(walk)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='\u2028\u2029"'), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts), max_size=8), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_written_rows_read_back(tmp_path: Path, pairs: Any, kind: str) -> None:
    sources = [(f"nowhere/x{source}", key) for source, key in pairs]
    if kind == "jsonl":
        text = "".join(json.dumps({"source": source, "key": key}, ensure_ascii=False) + "\n" for source, key in sources)
    else:
        comma = "," if kind == "csv" else "\t"
        text = f"source{comma}key\n" + "".join(f'"{source}"{comma}"{key}"\n' for source, key in sources)
    found = scan(tmp_path, f"m.{kind}", text)
    assert [problem.path for problem in found] == [os.path.abspath(f"{tmp_path}/{source}") for source, _ in sources]


# -- JSON lines on a stream: every bad line is its own problem ---------------------------------------------------------


@pytest.fixture
def stream_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "b").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scan_all(source: StreamSource) -> list[Any]:
    return list(source.scan())


def scan_stream(text: str | bytes, **options: Any) -> Any:
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return scan_all(StreamSource(io.BytesIO(data), **options))


def test_lines_become_files(stream_folder: Path) -> None:
    text = '{"source": "a", "key": "raw/a"}\n\n{"source": "a", "attribute": "motion.@par"}\r\n{"source": "a"}'
    keyed, routed, plain = scan_stream("\ufeff" + text)
    assert (keyed.path, keyed.key, keyed.attribute, keyed.entry) == (str(stream_folder / "a"), "raw/a", "", 0)
    assert (routed.key, routed.attribute, routed.entry) == (None, "motion.@par", 1)
    assert (plain.key, plain.attribute, plain.entry) == ("a", "", 2)


def test_a_directory_is_walked_for_an_attribute_and_refused_for_a_key(stream_folder: Path) -> None:
    walked, refused = scan_stream('{"source": "dir", "attribute": "m"}\n{"source": "dir", "key": "k"}\n')
    assert isinstance(walked, SourceFile)
    assert (walked.root, walked.relative, walked.attribute) == (str(stream_folder / "dir"), "sub/b", "m")
    assert isinstance(refused, SourceProblem)
    assert isinstance(refused.error, SourceUnreadable)
    assert refused.entry == 1


def test_missing_sources_are_skippable_problems(stream_folder: Path) -> None:
    (problem,) = scan_stream('{"source": "gone", "attribute": "m"}')
    assert isinstance(problem.error, SourceMissing)
    assert (problem.path, problem.attribute, problem.skippable) == (str(stream_folder / "gone"), "m", True)


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
def test_a_bad_line_is_a_problem_and_the_next_line_follows(stream_folder: Path, bad: Any, words: str) -> None:
    good = b'{"source": "a"}\n'
    first, problem, last = scan_stream(good + bad + b"\n" + good)
    assert isinstance(first, SourceFile)
    assert isinstance(last, SourceFile)
    assert isinstance(problem, SourceProblem)
    assert isinstance(problem.error, ConfigError)
    assert (problem.path, problem.entry, problem.skippable) == ("stdin line 2", 1, False)
    assert str(problem.error).startswith("stdin line 2")
    assert words in str(problem.error)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_of_the_greatest_length_is_read(stream_folder: Path, end: str) -> None:
    line = '{"source": "a"}'
    (found,) = scan_stream(line + " " * (LINE_SIZE_MAX - len(line)) + end)
    assert isinstance(found, SourceFile)


def test_a_too_long_last_line_is_a_problem() -> None:
    (problem,) = scan_stream(b"x" * (LINE_SIZE_MAX + 1), name="list")
    assert problem.path == "list line 1"


def test_a_text_stream_ends_at_bytes_it_cannot_decode(stream_folder: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b'{"source": "caf\xe9"}\n{"source": "a"}\n'), encoding="utf-8")
    (problem,) = scan_all(StreamSource(stream))
    assert isinstance(problem.error, ConfigError)
    assert not problem.skippable
    assert "nothing after it was read" in str(problem.error)


def test_a_stream_that_fails_is_a_problem_at_its_end(stream_folder: Path) -> None:
    # A descriptor that is open for writing only: reading it fails with EBADF, as a lost terminal does with EIO.
    descriptor = os.open(stream_folder / "a", os.O_WRONLY)
    with open(descriptor, "rb") as stream:
        (problem,) = scan_all(StreamSource(stream))
    assert not problem.skippable
    assert "nothing after it was read" in str(problem.error)


def test_lines_are_looked_up_as_they_arrive(stream_folder: Path) -> None:
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
