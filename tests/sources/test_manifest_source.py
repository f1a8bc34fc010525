"""Manifests: tables and JSON lines, strict about every row."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.records import LINE_SIZE_MAX, ManifestSource


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
