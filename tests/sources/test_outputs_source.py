"""DataSink's rules 1 to 7 and 13 for what an output value may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.sources.base import SourceEntry
from asyncsink.sources.outputs import NO_ENTRY, OutputsSource, flatten


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
