"""Outputs files: what they say, and where exactly they are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError
from asyncsink.sources.outputs import load_outputs_file


def write(folder: Path, name: str, text: str | bytes) -> Any:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("o.json", '\n{"m": "a",\n "c.@con" : [["b", "sub/c"], null] , "n":null, "e": []}\n'),
        ("o.json", '\ufeff{"m":"a","c.@con":[["b","sub/c"],null],"n":null,"e":[]}'),
        ("o.yaml", "m: a\nc.@con:\n- - b\n  - sub/c\n- null\nn: ~\ne: []\n"),
        ("o.YML", "\ufeffm: a\r\n'c.@con': [[b, sub/c], null]\r\nn:\r\ne: []\r\n"),
        ("o.yaml", "m: a\nc.@con: [&x [b, sub/c], ]\nn: null\ne: []"),
    ],
)
def test_paths_count_from_the_files_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes
) -> None:
    path = write(tmp_path, name, text)
    monkeypatch.chdir("/")
    outputs = load_outputs_file(path)
    inner = [str(tmp_path / "b"), str(tmp_path / "sub/c")]
    assert list(outputs) == ["m", "c.@con", "n", "e"]
    assert outputs["m"] == str(tmp_path / "a")
    assert outputs["c.@con"] in ([inner, None], [inner])
    assert outputs["n"] is None
    assert outputs["e"] == []


def test_absolute_paths_stay(tmp_path: Path) -> None:
    assert load_outputs_file(write(tmp_path, "o.json", '{"m": "/data/x/"}')) == {"m": "/data/x"}


def test_aliases_are_lists_like_others(tmp_path: Path) -> None:
    outputs = load_outputs_file(write(tmp_path, "o.yaml", "a: &x [/b]\nc: *x\n"))
    assert outputs == {"a": ["/b"], "c": ["/b"]}


@pytest.mark.parametrize(
    ("name", "text", "line", "column", "words"),
    [
        ("o.json", '{"m": "a",\n "n" "b"}', 2, 6, "delimiter"),
        ("o.json", '{"m": "a",\n "n": "b", "m": "c"}', 2, 12, "'m' stands twice"),
        ("o.json", '\n\n ["a"]', 3, 2, "no JSON object"),
        ("o.json", "", 1, 1, "mapping"),
        ("o.json", '{"m": "a",\n "n":  7}', 2, 8, "holds 7"),
        ("o.json", '{"m": "a",\n "n":  [["x", true]]}', 2, 8, "holds True"),
        ("o.json", '{"m": {"x": "y"}}', 1, 7, "expected a path"),
        ("o.json", '{"m": [NaN]}', 1, 7, "nan"),
        ("o.json", '{\n"m": ""}', 2, 6, "empty path"),
        ("o.json", '{\n"m": "/"}', 2, 6, "root of the file system"),
        ("o.json", '{\n"m": "\\u0000"}', 2, 6, "NUL"),
        ("o.yaml", "m: a\nn: [b\n", 3, 1, "expected"),
        ("o.yaml", "m: a\nm: b\n", 2, 1, "'m' stands twice"),
        ("o.yaml", "- a\n", 1, 1, "no mapping"),
        ("o.yaml", "", 1, 1, "no mapping"),
        ("o.yaml", "m: a\nn:\n  - 2024-01-31\n", 3, 5, "timestamp"),
        ("o.yaml", "m: 12\n", 1, 4, "YAML int"),
        ("o.yaml", "m: yes\n", 1, 4, "YAML bool"),
        ("o.yaml", "on: a\n", 1, 1, "no attribute's name"),
        ("o.yaml", "m: {x: y}\n", 1, 4, "YAML map"),
        ("o.yaml", "m: !!python/name:os.system x\n", 1, 4, "no path"),
        ("o.yaml", "m: &x [a, *x]\n", 1, 4, "holds itself"),
        ("o.yaml", "m: !!str {x: y}\n", 1, 4, "no path"),
        ("o.yaml", "!!str [a]: b\n", 1, 1, "no attribute's name"),
        ("o.yaml", "<<: {m: a}\n", 1, 1, "no attribute's name"),
        ("o.yaml", "m: a\n---\nn: b\n", 2, 1, "document"),
        ("o.yaml", "m: a\nn: \x01\n", 2, 4, "not allowed"),
        ("o.yaml", "\tm: a\n", 1, 1, "token"),
    ],
)
def test_faults_name_file_line_and_column(
    tmp_path: Path, name: str, text: str | bytes, line: int, column: int, words: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        load_outputs_file(path)
    message = str(caught.value)
    assert f"{str(path)!r}, line {line}, column {column}: " in message
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


def test_bytes_that_are_no_utf8_name_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, "o.json", b'{"m":\n "caf\xe9"}')
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        load_outputs_file(path)


@pytest.mark.parametrize("name", ["o.json", "o.yaml"])
def test_lists_nested_too_deeply_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, '{"m": ' + "[" * 50_000 + "]" * 50_000 + "}")
    with pytest.raises(ConfigError, match="too deeply"):
        load_outputs_file(path)


@pytest.mark.parametrize("name", ["gone.json", "directory.yaml", "fifo.yml", "o.txt", "o"])
def test_unusable_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "fifo.yml")
    with pytest.raises(ConfigError, match=name):
        load_outputs_file(tmp_path / name)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8).map(lambda t: f"/x{t}")


@given(st.dictionaries(names, st.recursive(paths | st.none(), st.lists, max_leaves=8), max_size=6), st.booleans())
def test_json_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, outputs: Any, indented: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "outputs-written.json"
    path.write_text(json.dumps(outputs, ensure_ascii=indented, indent=1 if indented else None), encoding="utf-8")

    def expected(value: Any) -> Any:
        if isinstance(value, list):
            return [expected(item) for item in value]
        return value if value is None else os.path.abspath(value)

    assert load_outputs_file(path) == {name: expected(value) for name, value in outputs.items()}
