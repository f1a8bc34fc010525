"""Opening a journal: every refusal by name, two runs for one file, default places, dry runs."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.cli.arguments import options_of
from asyncsink.errors import ConfigError, JournalError
from asyncsink.journal.opening import APPLICATION_ID, Identity
from asyncsink.journal.sqlite import default_path
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import JournalChoice, Shard

from .conftest import PREAMBLE, Open, published_of, transfer_of

pytestmark = pytest.mark.anyio
Start = Callable[..., "subprocess.Popen[str]"]


async def filled(open_it: Open, **changed: object) -> None:
    journal = await open_it(**changed)
    assert journal is not None
    await journal.publish([published_of(1)])
    await journal.aclose()


def with_sql(*statements: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        database = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            database.execute(statement)
        database.close()

    return write


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "is a directory; give the name of a file"),
    "a FIFO": (os.mkfifo, "is no regular file; give the name of a file"),
    "another kind of file": (
        lambda path: path.write_text("subject,age\n" * 100),
        "no journal at all .*remove the file",
    ),
    "a file of one byte": (lambda path: path.write_bytes(b"x"), "is no journal of asyncsink, so it is left as it is"),
    "a note": (lambda path: path.write_bytes(b"x" * 99), "is no journal of asyncsink, so it is left as it is"),
    "another database": (with_sql("CREATE TABLE x (y)"), "is no journal of asyncsink, so it is left as it is"),
    "a marked database": (with_sql("PRAGMA application_id=7"), "is no journal of asyncsink, so it is left as it is"),
    "another version": (
        with_sql(f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=99"),
        "has format 99, of another version of asyncsink; this one has 1; remove the file",
    ),
    "no tables": (
        with_sql(f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=1"),
        r"is damaged, or no journal at all \(no such table: meta\); remove the file",
    ),
    "no destination": (
        with_sql(f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=1", "CREATE TABLE meta (name, value)"),
        "is damaged: it does not say what it belongs to; remove the file, or use journal=False",
    ),
}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_is_no_journal_is_refused_and_left_as_it_is(
    open_it: Open, path: Path, kind: str, dry_run: bool
) -> None:
    make, message = REFUSED[kind]
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(JournalError, match=rf"{path.name}.*{message}"):
        await open_it(dry_run=dry_run)
    assert before == (path.read_bytes() if path.is_file() else b"")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"target": S3Target(bucket="results", prefix="other")}, "s3://results/other at http://127.0.0.1:8333"),
        ({"target": S3Target(bucket="elsewhere", prefix="study")}, "s3://elsewhere/study at http://127.0.0.1:8333"),
        ({"endpoint_url": ""}, "s3://results/study"),
    ],
)
async def test_a_journal_of_another_destination_is_refused(
    open_it: Open, changed: dict[str, object], named: str
) -> None:
    await filled(open_it)
    expected = rf"belongs to s3://results/study at http://127\.0\.0\.1:8333, and this run publishes to {named};"
    with pytest.raises(JournalError, match=expected):
        await open_it(**changed)


async def test_a_truncated_journal_is_refused(open_it: Open, path: Path) -> None:
    await filled(open_it)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(JournalError, match="is damaged, or no journal at all"):
        await open_it()


async def test_a_run_that_was_killed_while_it_made_its_journal_left_nothing_to_refuse(
    open_it: Open, path: Path
) -> None:
    path.touch()
    await filled(open_it)
    path.unlink()
    with_sql("PRAGMA journal_mode=WAL")(path)
    await filled(open_it)


async def test_a_directory_that_is_not_there_is_named(open_it: Open, path: Path) -> None:
    choice = JournalChoice(path=str(path / "no" / "journal"), required=True)
    with pytest.raises(JournalError, match=r"no/journal' cannot be opened: No such file or directory; name a file"):
        await open_it(choice=choice)


async def test_a_link_to_a_journal_is_a_journal(open_it: Open, path: Path) -> None:
    (path.parent / "link").symlink_to(path)
    await filled(open_it, choice=JournalChoice(path=f"{path.parent}/link", required=True))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await filled(open_it)


HOLDS = """
async def main(path):
    try:
        journal = await open_it(path)
    except AsyncSinkError as error:
        print(type(error).__name__, error, flush=True)
        return
    print("open", flush=True)
    sys.stdin.readline()
    await journal.aclose()
"""


async def test_one_run_at_a_time_and_a_killed_one_is_no_obstacle(
    open_it: Open, path: Path, start: Start, notices: list[str]
) -> None:
    first = start(HOLDS)
    assert first.stdout is not None
    assert first.stdout.readline() == "open\n"
    for dry_run in (False, True):
        with pytest.raises(JournalError, match=r"journal.sqlite' is in use by another run; wait for its end"):
            await open_it(dry_run=dry_run)
    first.kill()
    first.wait()
    await filled(open_it)
    assert notices == []


async def test_a_refusal_within_a_process_does_not_take_its_lock_away(open_it: Open, start: Start) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of that file."""
    journal = await open_it()
    assert journal is not None
    with pytest.raises(JournalError, match="in use"):
        await open_it()
    said, _ = start(HOLDS).communicate()
    assert said.startswith("JournalError The journal ")
    await journal.aclose()


async def test_of_runs_that_come_together_one_has_the_journal(start: Start, path: Path) -> None:
    for _ in range(3):
        runs = [start(HOLDS) for _ in range(4)]
        said = [run.stdout.readline() for run in runs if run.stdout is not None]
        assert said.count("open\n") == 1
        assert sum("in use by another run" in line for line in said) == 3
        for run in runs:
            run.communicate("end\n")
        path.unlink()  # whoever makes it next is not alone either


_AS_NOBODY = f"""
{PREAMBLE}
import os

async def main(path, required, dry_run):
    notices = []
    journal = await open_journal(
        JournalChoice(path=path, required=required), S3Target(bucket="results", prefix="study"),
        endpoint_url="http://127.0.0.1:8333", objects=ObjectOptions(), algorithm="CRC64NVME", dry_run=dry_run,
        notice=notices.append,
    )
    print(notices)
    if journal is not None:
        print(journal.known([Transfer(source_of(1), "study/1.nii", "")])[0].etag)
        await journal.aclose()

# Everything is imported before the privileges go: the interpreter may stand where nobody else can read.
asyncio.run(main(sys.argv[1] + ".imports", False, False))
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for required, dry_run in ((True, False), (False, False), (True, True)):
    try:
        asyncio.run(main(sys.argv[1], required, dry_run))
    except AsyncSinkError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that anybody may enter; pytest closes its own to others, also while a test runs."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_what_may_only_be_read_serves_a_plan(open_it: Open, open_directory: Path) -> None:
    path = open_directory / "journal.sqlite"
    for each in (f"{path}.imports", str(path)):
        await filled(open_it, choice=JournalChoice(path=each))
    path.chmod(0o444)
    before = path.read_bytes()
    ran = await anyio.run_process([sys.executable, "-c", _AS_NOBODY, str(path)])
    _, _, refused, told, plan, etag = ran.stdout.decode().splitlines()
    assert refused.startswith("JournalError")
    assert f"{str(path)!r} cannot be written; it and its directory must be writable" in refused
    assert told.startswith("[\"This run goes on without a journal: The journal '")
    assert (plan, etag) == ("[]", "etag-1")
    assert path.read_bytes() == before


async def test_a_default_journal_has_a_place_of_its_own(open_it: Open, tmp_path: Path, notices: list[str]) -> None:
    choice = JournalChoice(state_directory=str(tmp_path / "state"))
    await filled(open_it, choice=choice)
    await filled(open_it, choice=choice, shard=Shard(1, 4))
    directory = tmp_path / "state" / "asyncsink" / "journals"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = {each.name for each in directory.iterdir()}
    (whole,) = (name for name in names if "shard" not in name)
    assert whole.startswith("results-study-")
    assert names == {whole, whole.replace(".sqlite", "-shard-1-of-4.sqlite")}
    assert notices == []


def test_default_places_differ_and_are_legal_names() -> None:
    identities = [
        Identity("", "results", "study"),
        Identity("", "results", "study/a"),
        Identity("", "results", "study_a"),
        Identity("http://h:1", "results", "study"),
        Identity("", "results", ""),
        Identity("", "results", "x" * 1000),
        Identity("", "arn:aws:s3:eu-west-1:1:accesspoint/p", "\udcff"),
    ]
    paths = [default_path("/state", identity, Shard()) for identity in identities]
    assert len(set(paths)) == len(paths)
    for path in paths:
        directory, _, name = path.rpartition("/")
        assert directory == "/state/asyncsink/journals"
        assert name.isascii()
        assert len(name) < 128


async def test_a_default_journal_in_use_is_told_and_the_run_goes_on(
    open_it: Open, tmp_path: Path, notices: list[str]
) -> None:
    choice = JournalChoice(state_directory=str(tmp_path))
    first = await open_it(choice=choice)
    assert first is not None
    assert await open_it(choice=choice) is None
    assert len(notices) == 1
    assert notices[0].startswith("This run goes on without a journal: The journal '")
    assert "is in use by another run" in notices[0]
    with pytest.raises(JournalError, match="in use by another run"):
        await open_it(choice=JournalChoice(state_directory=str(tmp_path), required=True))
    await first.aclose()


async def test_a_default_place_that_cannot_be_made_is_told(open_it: Open, tmp_path: Path, notices: list[str]) -> None:
    (tmp_path / "file").touch()
    assert await open_it(choice=JournalChoice(state_directory=str(tmp_path / "file"))) is None
    assert await open_it(choice=JournalChoice(state_directory="~nobody-has-this-name/state")) is None
    assert "asyncsink/journals' of its file cannot be made: Not a directory." in notices[0]
    assert "there is no home directory for its file; name one with journal=, or set HOME." in notices[1]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


async def test_a_damaged_default_journal_is_an_error(open_it: Open, tmp_path: Path) -> None:
    choice = JournalChoice(state_directory=str(tmp_path))
    await filled(open_it, choice=choice)
    (file,) = (tmp_path / "asyncsink" / "journals").iterdir()
    file.write_text("no database, however you look at it" * 100)
    with pytest.raises(JournalError, match=r"remove the file, .* or use journal=False"):
        await open_it(choice=choice)


async def test_no_journal_is_no_journal(open_it: Open, path: Path) -> None:
    assert await open_it(choice=JournalChoice(enabled=False)) is None
    assert not path.exists()


async def test_a_plan_makes_no_journal_and_changes_none(open_it: Open, path: Path, tmp_path: Path) -> None:
    assert await open_it(dry_run=True) is None
    assert await open_it(choice=JournalChoice(state_directory=str(tmp_path / "state")), dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    path.touch()
    assert await open_it(dry_run=True) is None
    await filled(open_it)
    before = path.read_bytes()
    journal = await open_it(dry_run=True)
    assert journal is not None
    (known,) = journal.known([transfer_of(1)])
    assert known is not None
    assert known.published
    with pytest.raises(JournalError, match="readonly"):
        await journal.publish([published_of(2)])
    await journal.aclose()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


# -- The options `journal` and overwrite="journal", in the library and on the command line -----------------------------


BUCKET = "s3://results/study"


@pytest.mark.parametrize(
    ("options", "journal", "overwrite"),
    [
        ({}, JournalChoice(), "checksum"),
        ({"journal": None}, JournalChoice(), "checksum"),
        ({"journal": False}, JournalChoice(enabled=False), "checksum"),
        ({"journal": "/j"}, JournalChoice(path="/j", required=True), "journal"),
        ({"journal": Path("/j")}, JournalChoice(path="/j", required=True), "journal"),
        ({"journal": "/j", "overwrite": "checksum"}, JournalChoice(path="/j", required=True), "checksum"),
        ({"overwrite": "journal"}, JournalChoice(required=True), "journal"),
        ({"journal": False, "overwrite": "size"}, JournalChoice(enabled=False), "size"),
    ],
)
def test_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], journal: JournalChoice, overwrite: str
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    settings = parse_options(BUCKET, options)
    assert (settings.journal, settings.policies.overwrite) == (journal, overwrite)


def test_a_relative_journal_is_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_options(BUCKET, {"journal": "j.sqlite"}).journal.path == str(tmp_path / "j.sqlite")
    assert parse_options(str(tmp_path / "out"), {}).journal == JournalChoice(enabled=False)


@pytest.mark.parametrize(
    ("destination", "options", "message"),
    [
        (BUCKET, {"journal": True}, "journal=True names no file"),
        (BUCKET, {"journal": " "}, "journal is empty"),
        (BUCKET, {"journal": "a\0b"}, "journal holds a NUL"),
        (BUCKET, {"journal": 7}, "journal is of type int; expected a path"),
        (
            BUCKET,
            {"journal": False, "overwrite": "journal"},
            "overwrite='journal' needs a journal; leave journal=False",
        ),
        ("/out", {"journal": "/j"}, "journal is given, but the destination /out is no bucket, and has none"),
        ("/out", {"overwrite": "journal"}, "overwrite='journal' is given, but the destination /out is no bucket"),
    ],
)
def test_what_is_refused(destination: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(destination, options)


def test_the_command_line_says_it_with_two_flags() -> None:
    assert options_of({"journal": "j", "no_journal": False}) == {"journal": "j"}
    assert options_of({"journal": None, "no_journal": True}) == {"journal": False}
    assert options_of({"journal": None, "no_journal": False}) == {}
    with pytest.raises(ConfigError, match="--journal and --no-journal contradict each other"):
        options_of({"journal": "j", "no_journal": True})


@pytest.mark.parametrize(
    ("said", "used"), [("/state", "/state"), ("relative", "~/.local/state"), ("", "~/.local/state")]
)
def test_default_journals_are_where_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch, said: str, used: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", said)
    assert parse_options(BUCKET, {}).journal.state_directory == used
