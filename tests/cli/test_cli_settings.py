"""The command with variables, files of settings and named destinations, and `asyncsink config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Cli = Any


@pytest.fixture
def home(tmp_path: Path, cli: Cli) -> Path:
    """The user's folder of settings."""
    folder = Path(cli.environment["XDG_CONFIG_HOME"])
    folder.mkdir()
    return folder


def test_a_named_destination_is_published_to(
    inside: Cli, home: Path, results: Path, tmp_path: Path, bucket: str, s3: Any, keys: Any
) -> None:
    (home / "asyncsink.toml").write_text(f'[destinations.study]\nurl = "s3://{bucket}/study"\ntag = {{a = "b"}}\n')
    (tmp_path / "asyncsink.toml").write_text('exclude = ["*.par"]\n')
    ended = inside("export", "results", "study:first/")
    assert ended.code == 0, ended
    assert f"study: is s3://{bucket}/study" in ended.stderr
    assert keys() == [f"study/first/{name}" for name in ("a.txt", "sub/b=1.nii", "sub/deep/c.json")]
    tags = s3.get_object_tagging(Bucket=bucket, Key="study/first/a.txt")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b"}]
    assert inside("grab", "study:first", "back", "-q").code == 0
    assert (tmp_path / "back" / "a.txt").read_text() == "alpha"


@pytest.mark.parametrize(
    ("arguments", "words", "origin"),
    [
        (["plan", "results", "out"], ["--part-size", "8 apples"], "asyncsink.toml, line 1"),
        (["grab", "s3://b", "out"], ["--part-size", "8 apples"], "asyncsink.toml, line 1"),
        (["plan", "results", "out", "--part-size", "8MiB"], ["--overwrite nver", "'never'"], "ASYNCSINK_OVERWRITE"),
        (["devserver"], ["--port", "high"], "ASYNCSINK_DEVSERVER_PORT"),
    ],
)
def test_a_wrong_value_names_where_it_comes_from(
    inside: Cli, home: Path, results: Path, tmp_path: Path, arguments: list[str], words: list[str], origin: str
) -> None:
    (tmp_path / "asyncsink.toml").write_text('part_size = "8 apples"\n')
    ended = inside(*arguments, ASYNCSINK_OVERWRITE="nver", ASYNCSINK_DEVSERVER_PORT="high")
    first, second = ended.stderr.splitlines()[:2]
    assert ended.code == 2
    assert all(word in first for word in words), first
    assert second.startswith("  from ")
    assert second.endswith(origin)


def test_an_option_of_one_command_is_not_that_of_another_with_its_name(inside: Cli) -> None:
    """The age of files to publish is not that of uploads to abort."""
    ended = inside("abort-uploads", "s3://bucket", ASYNCSINK_OLDER_THAN="1s")
    assert (ended.code, "--older-than" in ended.stderr) == (2, True)


def test_help_is_given_with_broken_settings_too(inside: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "asyncsink.toml").write_text("x = [")
    assert inside("export", "-h").code == inside("export", "--help").code == inside("--version").code == 0
    refused = inside("plan", ".", "out", "--json")
    assert (refused.code, refused.json["error"]["type"]) == (2, "ConfigError")


def test_an_unknown_destination_makes_no_local_folder(inside: Cli, home: Path, results: Path, tmp_path: Path) -> None:
    (home / "asyncsink.toml").write_text('[destinations.study]\nurl = "s3://b"\n')
    ended = inside("export", "results", "stduy:x")
    assert ended.code == 2
    assert "no destination 'stduy'; settings files name: study:" in ended.stderr
    assert not (tmp_path / "stduy:x").exists()
    assert inside("export", "results", "./stduy:x", "-q").code == 0


def test_config_shows_each_value_and_where_it_comes_from(inside: Cli, home: Path, tmp_path: Path) -> None:
    (home / "asyncsink.toml").write_text('profile = "lab"\n[destinations.study]\nurl = "s3://b"\n')
    (tmp_path / "asyncsink.toml").write_text("concurrency = 7\n[grab]\nglob = true\n")
    told = inside("config", "grab", "--json", ASYNCSINK_SSE="AES256").json
    assert told["values"]["concurrency"] == {"value": "7", "from": f"{tmp_path}/asyncsink.toml, line 1"}
    assert told["values"]["glob"] == {"value": True, "from": f"{tmp_path}/asyncsink.toml, line 3"}
    assert told["values"]["sse"] == {"value": "AES256", "from": "ASYNCSINK_SSE"}
    pasted = inside("config", ASYNCSINK_SSE="c2VjcmV0")
    assert (pasted.code, "from ASYNCSINK_SSE" in pasted.stderr) == (2, True)
    assert "c2VjcmV0" not in pasted.stdout + pasted.stderr
    assert told["variables_of_amazon"]["creds_path"]["value"] == "(not shown)"
    assert told["destinations"]["study"]["url"] == "s3://b"
    text = inside("config", "export", "study:", "--all").stdout
    assert "profile" in text
    assert "ASYNCSINK_PART_SIZE" in text
    assert inside("config", "nope").code == inside("config", "export", "nope:").code == 2
    (tmp_path / "asyncsink.toml").write_text("[grab]\nglobe = true\n")
    wrong = inside("config")
    assert (wrong.code, "'globe'" in wrong.stderr, "line 2" in wrong.stderr) == (2, True, True)


@pytest.mark.parametrize("name", ["ASYNCSINK_DRYRUN", "ASYNCSINK_DRY_RUN"])
def test_a_look_that_a_variable_asks_for_sends_nothing(inside: Any, results: Path, tmp_path: Path, name: str) -> None:
    ended = inside("export", results, tmp_path / "out", **{name: "1"})
    assert ended.code == (2 if name == "ASYNCSINK_DRYRUN" else 0)
    assert not (tmp_path / "out").exists()
    assert "Did you mean 'ASYNCSINK_DRY_RUN'?" in ended.stderr or "nothing is sent" in ended.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--exclude", "-n"], "--exclude needs a PATTERN, and -n is a flag; write --exclude=-n if it is one."),
        (
            ["--manifest", "--dry-run"],
            "--manifest needs a FILE, and --dry-run is a flag; write --manifest=--dry-run if",
        ),
    ],
)
def test_a_flag_is_not_taken_for_the_value_of_another(
    inside: Any, results: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    """What was meant as a look would be sent."""
    ended = inside("export", results, tmp_path / "out", *words)
    assert ended.code == 2
    assert said in " ".join(ended.stderr.split())
    assert not (tmp_path / "out").exists()
