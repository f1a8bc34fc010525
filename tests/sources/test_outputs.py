"""DataSink's rules 1 to 7 and 13 for what an output value may be."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.sources import outputs as outputs_file
from asyncsink.sources.base import SourceEntry
from asyncsink.sources.outputs import NO_ENTRY, OutputsSource, flatten, load_outputs_file


class _Undefined:
    """Looks like traits' Undefined by its name."""

    def __str__(self) -> str:
        return "?"


class LooksUndefined:
    """Looks like nipype's Undefined by its text."""

    def __str__(self) -> str:
        return "<undefined>"


class FspathBytes:
    """A path that is bytes."""

    def __fspath__(self) -> bytes:
        return b"file"


def make(outputs: Any, symlinks: Symlinks = "follow", **options: Any) -> OutputsSource:
    return OutputsSource(outputs, symlinks=symlinks, **options)


def scan(source: OutputsSource) -> list[Any]:
    return list(source.scan())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "b", "dir/x", "dir/sub/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


nested = st.recursive(
    st.text("abc/", min_size=1).map(lambda text: f"x{text}"),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=30,
)


def naive(value: Any) -> list[str]:
    return [leaf for item in value for leaf in naive(item)] if isinstance(value, (list, tuple)) else [value]


@given(nested)
def test_nested_lists_flatten_like_the_naive_model(value: Any) -> None:
    assert list(flatten(value, "a")) == naive(value)


@given(st.dictionaries(st.text(), nested, max_size=5))
def test_entries_keep_the_order_of_insertion(outputs: Any) -> None:
    expected = [SourceEntry(name, os.path.abspath(path)) for name, value in outputs.items() for path in naive(value)]
    assert list(make(outputs).entries) == expected


def test_lists_may_be_nested_deeper_than_python_recurses() -> None:
    value: object = "a"
    for _ in range(100_000):
        value = [value]
    assert list(flatten(value, "a")) == ["a"]
    while isinstance(value, list):  # taken apart from outside: deallocation recurses too
        value = value.pop()


def test_a_list_that_holds_itself_is_refused() -> None:
    value: list[object] = ["a"]
    value.append((value,))
    with pytest.raises(ConfigError, match="holds itself"):
        make({"motion": value})


def test_one_list_given_twice_is_fine(files: Path) -> None:
    shared = ["a", "b"]
    assert [entry.path for entry in make({"m": [shared, shared]}).entries] == [str(files / n) for n in "abab"]


@pytest.mark.parametrize("nothing", [None, [], (), [[]], [(), [[]]], _Undefined(), LooksUndefined()])
def test_nothing_to_publish_is_no_error(nothing: Any) -> None:
    source = make({"motion": nothing})
    assert list(source.scan()) == []
    assert list(source.entries) == []


@pytest.mark.parametrize("hole", [None, _Undefined(), LooksUndefined()])
def test_a_hole_in_a_list_is_a_missing_source(files: Path, hole: Any) -> None:
    source = make({"motion": ["a", hole, "b"]})
    first, problem, last = scan(source)
    assert isinstance(problem, SourceProblem)
    assert isinstance(problem.error, SourceMissing)
    assert problem.skippable
    assert not problem.skipped
    assert (problem.path, problem.attribute, problem.entry) == ("outputs['motion'], value 2", "motion", NO_ENTRY)
    assert isinstance(first, SourceFile)
    assert isinstance(last, SourceFile)
    assert (first.entry, last.entry) == (0, 1)
    assert [entry.path for entry in source.entries] == [first.path, last.path]


def test_a_text_that_spells_undefined_is_a_path(files: Path) -> None:
    (problem,) = scan(make({"motion": "<undefined>"}))
    assert isinstance(problem.error, SourceMissing)


def test_paths_of_every_kind_are_taken(files: Path) -> None:
    source = make({"m": Path("a"), "n": [Path("a"), "./b", str(files / "b"), "dir/../a"]})
    assert [found.path for found in source.scan()] == [str(files / name) for name in "aabba"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"a": 1}, "dict"),
        (b"a", "bytes"),
        (["a", b"a"], "bytes"),
        (7, "int"),
        ([["a", {"x": "a"}]], "dict"),
        ({"a"}, "set"),
        (iter(["a"]), "list_iterator"),
        (FspathBytes(), "FspathBytes"),
        (True, "bool"),
    ],
)
def test_other_types_are_refused_by_name(value: Any, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make({"good": "a", "contrasts.@con": value})
    assert "'contrasts.@con'" in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.parametrize("outputs", [["a"], "a", None, 7])
def test_outputs_must_be_a_mapping(outputs: Any) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        make(outputs)


def test_attributes_must_be_texts() -> None:
    with pytest.raises(ConfigError, match="int"):
        make({7: "a"})


@pytest.mark.parametrize("path", ["", "/", "//", "///", "/..", "/tmp/..", "a\0b"])
def test_impossible_paths_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="'motion'"):
        make({"motion": [path]})


def test_a_surrogate_that_stands_for_no_byte_is_missing() -> None:
    (problem,) = scan(make({"motion": "\ud800"}))
    assert isinstance(problem.error, SourceMissing)
    str(problem.error).encode()


def test_a_trailing_slash_is_stripped(files: Path) -> None:
    source = make({"m": ["a/", "dir//"]})
    assert [entry.path for entry in source.entries] == [str(files / "a"), str(files / "dir")]
    assert len(list(source.scan())) == 3


def test_a_directory_yields_the_files_inside_as_one_entry(files: Path) -> None:
    source = make({"m": ["a", "dir", "b"]})
    found = scan(source)
    assert [(file.entry, file.root, file.relative) for file in found] == [
        (0, str(files / "a"), ""),
        (1, str(files / "dir"), "sub/y"),
        (1, str(files / "dir"), "x"),
        (2, str(files / "b"), ""),
    ]
    assert {file.attribute for file in found} == {"m"}
    assert all(file.key is None for file in found)


def test_relative_paths_count_from_the_directory_of_the_making(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make({"m": "a"})
    monkeypatch.chdir("/")
    (found,) = scan(source)
    assert found.path == str(files / "a")


def test_missing_and_special_sources_are_problems(files: Path) -> None:
    os.mkfifo("fifo")
    os.symlink("nowhere", "broken")
    os.symlink("self", "self")
    found = scan(make({"m": ["gone", "fifo", "broken", "self", "a/below"], "n": "a"}))
    assert [type(problem.error) for problem in found[:5]] == [
        SourceMissing,
        SourceUnreadable,
        SourceMissing,
        SourceUnreadable,
        SourceMissing,
    ]
    assert all(problem.skippable and problem.attribute == "m" for problem in found[:5])
    assert [problem.entry for problem in found] == [0, 1, 2, 3, 4, 5]
    assert isinstance(found[5], SourceFile)


@pytest.mark.parametrize(("symlinks", "skipped"), [("skip", True), ("error", False)])
def test_named_links_obey_the_policy(files: Path, symlinks: Symlinks, skipped: bool) -> None:
    os.symlink("a", "file-link")
    os.symlink("dir", "dir-link")
    found = scan(make({"m": ["file-link", "dir-link"]}, symlinks))
    assert [(problem.skipped, problem.skippable) for problem in found] == [(skipped, skipped)] * 2


def test_named_links_are_followed(files: Path) -> None:
    os.symlink("a", "file-link")
    os.symlink("dir", "dir-link")
    for compat in ("strict", "nipype"):
        found = scan(make({"m": ["file-link", "dir-link"]}, compat=compat))
        assert [(file.path, file.relative) for file in found] == [
            (str(files / "file-link"), ""),
            (str(files / "dir-link/sub/y"), "sub/y"),
            (str(files / "dir-link/x"), "x"),
        ]


def test_nipype_reports_links_to_directories_below_a_directory(files: Path) -> None:
    os.symlink("../dir/sub", "dir/link")
    assert len(list(make({"m": "dir"}).scan())) == 3
    results = scan(make({"m": "dir"}, compat="nipype"))
    assert [result.path for result in results if isinstance(result, SourceProblem) and result.skipped] == [
        str(files / "dir/link")
    ]


# -- Outputs files: what they say, and where exactly they are wrong ----------------------------------------------------


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


# -- Outputs files that stand for far more than they hold are refused in a sentence, in bounded memory -----------------


MIB = 1 << 20


def test_aliases_that_expand_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_file, "VALUES_MAX", 100_000)  # a tenth, and so less beside the room for the file
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    file = tmp_path / "outputs.yaml"
    file.write_text("\n".join(lines))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"outputs.yaml.*line \d+.*aliases"):
            load_outputs_file(file)
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()


def test_a_few_aliases_are_what_they_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "outputs.yaml"
    file.write_text("a: &a [x, y]\nb: *a\n")
    assert load_outputs_file(file) == {name: [f"{tmp_path}/x", f"{tmp_path}/y"] for name in "ab"}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(outputs_file, "FILE_BYTES_MAX", 1000)
    file = tmp_path / f"outputs.{suffix}"
    file.write_text('{"a": "' + "x" * 1000 + '"}')
    with pytest.raises(ConfigError, match="more than 1,000 bytes"):
        load_outputs_file(file)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("text", ['{"a": ' + "[" * 50_000 + "]" * 50_000 + "}", '{"a": ' + "9" * 100_000 + "}"])
def test_nests_and_numbers_without_a_bound(tmp_path: Path, suffix: str, text: str) -> None:
    file = tmp_path / f"outputs.{suffix}"
    file.write_text(text)
    with pytest.raises(ConfigError, match="outputs"):
        load_outputs_file(file)
