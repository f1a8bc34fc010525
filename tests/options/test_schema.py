"""The rows of the options against all that is not made from them: types, parts of the settings, the guide's page."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import asyncsink
from asyncsink.cli.arguments import options_of
from asyncsink.cli.configured import parameter_of
from asyncsink.download.options import parse_grab
from asyncsink.download.reader_options import parse_reader
from asyncsink.errors import ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import GONE, GRAB_OPTIONS, OPTIONS, PANELS, READER_OPTIONS, Kind, Option
from asyncsink.options.settings import RetryPolicy
from tests.support.options_page import reference

ROWS = [option for options in PANELS.values() for option in options]
TYPED: list[tuple[Any, dict[str, Option]]] = [
    (asyncsink.ExportOptions, OPTIONS),
    (asyncsink.GrabOptions, GRAB_OPTIONS),
    (asyncsink.ReaderOptions, READER_OPTIONS),
]
VALUES: dict[str, Any] = {
    "text": "abc",
    "path": "/some/where",
    "flag": True,
    "size": "64MiB",
    "duration": timedelta(minutes=1),
    "pairs": [("old", "new")],
    "mapping": {"name": "value"},
    "texts": ["*.tmp"],
    "paths": ["/some/where"],
    "listing": ["a/b"],
    "moment": "7d",
    "object_options": {"*.nii.gz": {"storage_class": "GLACIER_IR", "tags": {"a": "b"}}},
    "bucket": "another",
    "payer": "requester",
    "concurrency": 4,
    "count": 2,
    "observer": print,
    "progress": print,
    "retry": RetryPolicy(attempts=1),
    "limits": asyncsink.SharedLimits(),
    "shard": "0/4",
    "journal": False,
    "sse": b"k" * 32,
    "checksum": "sha-256",
    "transport": "wire",
    "templates": {"func": ".*"},
    "arguments": {"func": [["a"]]},
    "infields": {"subject": ["a", "b"]},
    "names": ["func"],
}
OTHER_VALUES: dict[str, Any] = {
    "endpoint_url": "https://s3.example.org",
    "acl": "private",
    "storage_class": "GLACIER_IR",
    "content_type": "text/plain",
    "index": "index.csv",
    "delete_max": "5%",
}
NEEDED: dict[str, dict[str, Any]] = {
    "sse_kms_key_id": {"sse": "aws:kms"},
    "delete_max": {"delete_extraneous": True},
    "outfields": {"template": "a"},
    "infields": {"template": "%s"},
    "template_args": {"template": "%s"},
}
WORDS: dict[str, Any] = {
    "flag": True,
    "payer": True,
    "pairs": ["old=new"],
    "mapping": ["name=value"],
    "texts": ["*.tmp"],
    "paths": ["/some/where"],
    "listing": "list.txt",
    "object_options": ["*.nii.gz:storage-class=GLACIER_IR", "*.nii.gz:tag=a=b"],
    "templates": ["func=.*"],
    "infields": ["subject=a", "subject=b"],
    "arguments": '{"func": [["a"]]}',
    "sse": "AES256",
    "duration": "10m",
}


def value_for(option: Option) -> Any:
    return option.choices[-1] if option.kind == "choice" else OTHER_VALUES.get(option.name, VALUES[option.kind])


def name_of(option: Option) -> str:
    return f"{option.name}-{option.commands[0]}"


@pytest.mark.parametrize(("typed", "options"), TYPED)
def test_the_types_that_callers_see_are_those_of_the_rows(typed: Any, options: dict[str, Option]) -> None:
    types = get_type_hints(typed, localns={"Event": asyncsink.Event})
    assert sorted(types) == sorted(options)
    for name, option in options.items():
        literal = types[name] if get_origin(types[name]) is Literal else None
        assert (literal is not None) is (option.kind == "choice"), name
        assert literal is None or get_args(literal) == option.choices, name
        assert (types[name] is bool) is (option.kind == "flag"), name
        assert name in typed.__doc__


@pytest.mark.parametrize("option", ROWS, ids=name_of)
def test_a_row_is_whole(option: Option) -> None:
    assert option.kind in get_args(Kind)
    assert option.help.endswith(".")
    assert option.sentence.endswith(".")
    if option.part is not None:
        assert option.name in {field.name for field in fields(option.part)}
    assert all(choice in option.sentence for choice in option.choices)
    bare = option.kind in ("flag", "payer") or option.sets is not None
    assert not option.switch or bare is (not option.metavar), "what takes a value shows it on the help page"
    assert bool(option.off) is bool(option.off_help)


@pytest.mark.parametrize("option", ROWS, ids=name_of)
def test_a_value_of_its_kind_is_taken_and_none_is_the_default(option: Option) -> None:
    for value in (value_for(option), None):
        given = {option.name: value, **(NEEDED.get(option.name, {}) if value else {})}
        if "export" in option.commands:
            parse_options("s3://bucket/prefix", given)
        if "grab" in option.commands:
            parse_grab("s3://bucket/prefix", "/directory", given)
        if "reader" in option.commands:
            parse_reader("s3://bucket/prefix", given)


@pytest.mark.parametrize("option", [option for option in ROWS if option.switch], ids=name_of)
def test_the_command_takes_it_by_its_flag(option: Option) -> None:
    written = True if option.sets is not None else WORDS.get(option.kind, str(value_for(option)))
    found = options_of({parameter_of(option.switch): written})
    assert found.keys() == {option.name}
    given = {**NEEDED.get(option.name, {}), **found}
    if "export" in option.commands:
        parse_options("s3://bucket/prefix", given)
    elif option.kind != "sse":
        parse_grab("s3://bucket/prefix", "/directory", given)


@pytest.mark.parametrize("name", GONE)
def test_an_option_that_is_gone_is_refused_with_what_does_its_work(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is no option of asyncsink any more: .*(compat=|export_directory)"):
        parse_options("s3://bucket", {name: "full"})


def test_reflinks_are_gone() -> None:
    with pytest.raises(ConfigError, match="local_copy_mode='reflink' is not known; expected one of 'copy', 'hardlink'"):
        parse_options("s3://bucket", {"local_copy": "/copy", "local_copy_mode": "reflink"})


def test_the_guides_page_is_made_from_the_rows() -> None:
    page = Path(asyncsink.__file__).parent / "guide/options.md"
    assert page.read_text() == reference(), "make the page again: make options"
