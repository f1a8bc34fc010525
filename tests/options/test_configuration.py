"""Variables and files of settings: precedence, what they may hold, and where a wrong value came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import ConfigError
from asyncsink.options.configuration import PROJECT_MAY_SET, Configuration, Takes, read_configuration, value_shown

TAKES: dict[str, Takes] = {
    "concurrency": "text", "exclude": "texts", "tag": "texts", "json": "nothing", "verbose": "count", "profile": "text",
    "creds_path": "file", "manifest": "file", "strip_dir": "file", "journal": "file", "no_journal": "nothing",
    "endpoint_url": "text", "sse": "text", "dask": "text",
}  # fmt: skip
SHARED = [name for name in TAKES if name != "dask"]

Read = Callable[..., Configuration]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the settings of tmp_path/project/sub for a user whose file is tmp_path/home/asyncsink.toml."""

    def configuration(project: str = "", user: str = "", *, name: str = "asyncsink.toml", **variables: str) -> Any:
        here = tmp_path / "project" / "sub"
        here.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home").mkdir(exist_ok=True)
        if project:
            (here.parent / name).write_text(project)
        if user:
            (tmp_path / "home" / "asyncsink.toml").write_text(user)
        return read_configuration({"XDG_CONFIG_HOME": str(tmp_path / "home"), **variables}, str(here))

    return configuration


def values(configuration: Configuration, command: str = "export", destination: str = "") -> dict[str, Any]:
    return {name: each.value for name, each in configuration.settings(command, TAKES, SHARED, destination).items()}


def test_a_variable_stands_above_the_project_and_the_project_above_the_user(read: Read) -> None:
    project = 'concurrency = 2\nexclude = ["a b", "c"]\n[grab]\nconcurrency = 3'
    user = 'concurrency = 1\nprofile = "lab"\nverbose = true'
    found = read(project, user)
    assert values(found) == {"concurrency": "2", "exclude": ["a b", "c"], "profile": "lab", "verbose": 1}
    assert values(found, "grab")["concurrency"] == "3"
    above = read(ASYNCSINK_CONCURRENCY="4", ASYNCSINK_EXCLUDE=r"""x 'y z' \.nii""", ASYNCSINK_JSON="1")
    assert values(above)["exclude"] == ["x", "y z", r"\.nii"]
    assert (values(above)["concurrency"], values(above)["json"]) == ("4", True)
    own = read(ASYNCSINK_CONCURRENCY="4", ASYNCSINK_EXPORT_CONCURRENCY="5", ASYNCSINK_EXPORT_DASK="local:2")
    assert (values(own)["concurrency"], values(own, "grab")["concurrency"]) == ("5", "4")
    assert values(own)["dask"] == "local:2"
    assert "dask" not in values(read(ASYNCSINK_DASK="local:2"))


def test_pyproject_is_a_project_too(read: Read) -> None:
    found = read('[project]\nname = "x"\n[tool.asyncsink]\nconcurrency = 2\n', name="pyproject.toml")
    assert values(found) == {"concurrency": "2"}
    assert found.settings("export", TAKES, SHARED)["concurrency"].origin.endswith("pyproject.toml, line 4")
    assert values(read('[tool.ruff]\nx = "tool.asyncsink"\n', name="pyproject.toml")) == {}


def test_what_stands_higher_displaces_what_it_excludes(read: Read) -> None:
    found = read(user='profile = "lab"\njournal = "j"', ASYNCSINK_CREDS_PATH="keys", ASYNCSINK_NO_JOURNAL="yes")
    assert values(found) == {"creds_path": "keys", "no_journal": True}


def test_a_named_destination_brings_its_options(read: Read, tmp_path: Path) -> None:
    user = 'concurrency = 1\n[destinations.study]\nurl = "s3://b/study"\nconcurrency = 9\ntag = {"a=b" = "c"}\n'
    found = read(user=user)
    assert values(found, destination="study") == {"concurrency": "9", "tag": [r"a\=b=c"]}
    assert values(found) == {"concurrency": "1"}
    named = found.destination("study")
    assert named is not None
    assert (named.url, named.origin) == ("s3://b/study", f"{tmp_path}/home/asyncsink.toml, line 3")


def test_paths_count_from_the_folder_of_their_file(read: Read, tmp_path: Path) -> None:
    assert values(read('strip_dir = "work"'))["strip_dir"] == str(tmp_path / "project" / "work")
    assert values(read(user='manifest = "/x/y"', ASYNCSINK_CONFIG=""))["manifest"] == "/x/y"


@pytest.mark.parametrize(
    "line",
    ['profile = "x"', 'endpoint_url = "http://x"', 'creds_path = "k"', 'manifest = "m"', 'sse = "file:/home/me/key"'],
)
def test_a_project_moves_no_credentials_and_no_files(read: Read, line: str, tmp_path: Path) -> None:
    """A project's file may have come with a stranger's data. The user trusts it by naming it."""
    with pytest.raises(ConfigError, match=r"project/asyncsink.toml, line 1\) is not taken from a project's file"):
        values(read(line))
    assert values(read(line, ASYNCSINK_CONFIG=str(tmp_path / "project" / "asyncsink.toml")))
    with pytest.raises(ConfigError, match="not taken from a project's file"):
        values(read(f'[destinations.a]\nurl = "s3://b"\n{line}'), destination="a")
    assert values(read('sse = "aws:kms"')) == {"sse": "aws:kms"}
    assert line.partition(" ")[0] not in PROJECT_MAY_SET


def test_a_project_sends_nothing_to_another_place_under_a_known_name(read: Read) -> None:
    with pytest.raises(ConfigError, match="names buckets only"):
        read('[destinations.a]\nurl = "/home/me/.ssh"').destination("a")
    with pytest.raises(ConfigError, match="is another one in your own file"):
        read('[destinations.a]\nurl = "s3://theirs"', '[destinations.a]\nurl = "s3://mine"').destination("a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurency = 1", ["'concurency'", "line 1", "Did you mean 'concurrency'?"]),
        ("\n[export]\nexclud = []", ["line 3", "of [export]", "Did you mean 'exclude'?"]),
        ("[exprot]\nexclude = []", ["exprot", "line 1", "Did you mean 'export'?"]),
        ("exclude = 3", ["line 1", "of type int", "list of texts"]),
        ("json = 'yes'", ["line 1", "of type str", "true or false"]),
        ("concurrency = [1]", ["line 1", "of type list"]),
        ("export = 1", ["line 1", "[export]"]),
        ("destinations = 1", ["line 1", "[destinations.NAME]"]),
        ("[destinations.s3]\nurl = 's3://b'", ["line 1", "no legal name"]),
        ("[destinations.a]\nURL = 's3://b'", ["line 1", "has no url"]),
        ("aws_secret_access_key = 'not-to-be-shown'", ["line 1", "is a secret by its name"]),
        ("x = [", ["is no TOML"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read: Read, text: str, words: list[str]) -> None:
    def checked() -> None:
        found = read(text)
        found.check(["export", "grab"], SHARED)
        list(found.destinations())
        values(found)

    with pytest.raises(ConfigError) as refused:
        checked()
    assert all(word in str(refused.value) for word in words), refused.value
    assert "not-to-be-shown" not in str(refused.value)


def test_variables_that_say_nothing(read: Read) -> None:
    found = read(ASYNCSINK_HOME="/opt", ASYNCSINK_GRAB_GLOB="1", ASYNCSINK_TAG="")
    unknown = list(found.unknown_variables(["export", "grab"], SHARED))
    assert unknown == ["ASYNCSINK_HOME is no variable of asyncsink."]
    mistyped = read(ASYNCSINK_CONCURENCY="1")
    with pytest.raises(ConfigError, match=r"no variable.*Did you mean 'ASYNCSINK_CONCURRENCY'\? Correct it"):
        list(mistyped.unknown_variables(["export", "grab"], SHARED))
    with pytest.raises(ConfigError, match="ASYNCSINK_JSON='maybe' is neither true nor false"):
        values(read(ASYNCSINK_JSON="maybe"))


def test_a_file_that_is_named_must_be_there_and_none_reads_no_file(read: Read) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        read(ASYNCSINK_CONFIG="gone.toml")
    assert read("concurrency = 1", "concurrency = 2", ASYNCSINK_CONFIG="none").files == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to somebody else")
def test_a_file_of_another_user_is_left_alone_with_a_note(read: Read, tmp_path: Path) -> None:
    read("concurrency = 1")
    os.chown(tmp_path / "project" / "asyncsink.toml", 12345, 12345)
    found = read()
    assert (found.files, len(found.notices)) == ((), 1)
    assert "belongs to another user" in found.notices[0]


def test_what_may_be_a_secret_is_not_shown() -> None:
    assert value_shown("sse", "c2VjcmV0") == value_shown("endpoint_url", "https://me:pw@host") == "(not shown)"
    assert (value_shown("sse", "aws:kms"), value_shown("exclude", ["@"])) == ("aws:kms", ["@"])
