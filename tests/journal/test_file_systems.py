"""Journals on network file systems, whose answers are faked: where they are instead, how they are written, and what a
failing lock costs."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncsink.engine.planning.walk import check_journal_outside
from asyncsink.errors import JournalError
from asyncsink.journal import file_systems
from asyncsink.journal.file_systems import (
    FUSE_TYPE,
    NETWORK_TYPES,
    local_directory,
    mount_type,
    network_file_system,
    statfs_type,
)
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import JournalChoice

from .conftest import Open, published_of, transfer_of
from .test_sqlite import KILLED

pytestmark = pytest.mark.anyio
Start = Callable[..., Any]
NFS, LUSTRE, EXT4, PROC = 0x6969, 0x0BD00BD0, 0xEF53, 0x9FA0
HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""How a rollback journal begins that is to be rolled back (sqlite.org/fileformat.html, 3)."""


def answers(monkeypatch: pytest.MonkeyPatch, kinds: dict[Path, int]) -> None:
    """statfs says `kinds` below these directories, and ext4 elsewhere; what is not there is still not there."""

    def statfs(path: str) -> int:
        os.stat(path)
        return next((kind for place, kind in kinds.items() if Path(path).is_relative_to(place)), EXT4)

    monkeypatch.setattr(file_systems, "statfs_type", statfs)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files of this test's own."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def default(home: Path) -> JournalChoice:
    return JournalChoice(state_directory=str(home / "state"))


@pytest.mark.skipif(not Path(file_systems.MOUNTS).exists(), reason="asks Linux")
async def test_the_system_is_asked() -> None:
    assert statfs_type("/proc") == PROC
    assert mount_type("/proc/self/status") == "proc"
    with pytest.raises(OSError, match="No such file") as refused:
        statfs_type("/proc/there-is-no-such-file")
    assert refused.value.errno == errno.ENOENT


@pytest.mark.parametrize("kind", NETWORK_TYPES)
async def test_network_file_systems_are_known_by_their_numbers(
    kind: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a path that is yet to be made, and through a link."""
    answers(monkeypatch, {home: kind})
    (home.parent / "link").symlink_to(home / "not" / "yet")
    for path in (home, home / "not" / "yet" / "there", home.parent / "link"):
        assert network_file_system(str(path)) == NETWORK_TYPES[kind]
    assert network_file_system(str(home.parent)) == ""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("fuse.sshfs", "sshfs"),
        ("fuse.glusterfs", "glusterfs"),
        ("fuseblk", ""),
        ("fuse.fuse-overlayfs", ""),
        ("", "FUSE"),
    ],
)
async def test_what_is_behind_fuse_is_in_the_table_of_mounts(
    kind: str, name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {home: FUSE_TYPE})
    device = home.stat().st_dev
    rows = ["24 1 999:999 / / rw - ext4 /dev/sda1 rw\n"]
    rows += [f"36 35 {os.major(device)}:{os.minor(device)} / {home} rw,nosuid - {kind} x:/y rw\n"] if kind else []
    (tmp_path / "mounts").write_text("".join(rows))
    monkeypatch.setattr(file_systems, "MOUNTS", str(tmp_path / "mounts"))
    assert network_file_system(str(home)) == name


async def test_where_the_system_does_not_answer_nothing_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(file_systems, "statfs_type", refuse)
    assert network_file_system(str(home)) == ""


async def test_a_default_journal_is_on_this_machine_instead(
    open_it: Open,
    default: JournalChoice,
    home: Path,
    temporary: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, {home: NFS})
    assert await open_it(choice=default, dry_run=True) is None
    assert (list(temporary.iterdir()), notices) == ([], [])
    journal = await open_it(choice=default)
    await journal.publish([published_of(1)])
    await journal.aclose()
    own = temporary / f"asyncsink-{os.geteuid()}"
    (file,) = (own / "journals").iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert journal.path == str(file)
    (notice,) = notices
    assert all(word in notice for word in (str(file), str(home / "state"), "NFS", "journal="))
    assert list(home.iterdir()) == [], "nothing was made there"
    again = await open_it(choice=default)
    assert again.known([transfer_of(1)])[0] is not None
    assert again._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await again.aclose()


async def test_without_a_local_place_the_run_goes_on_without(
    open_it: Open, default: JournalChoice, tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {tmp_path: LUSTRE, Path(tempfile.gettempdir()): LUSTRE})
    assert await open_it(choice=default) is None
    (notice,) = notices
    assert notice.startswith("This run goes on without a journal: its directory ")
    assert "Lustre" in notice
    with pytest.raises(JournalError, match="Lustre"):
        await open_it(choice=JournalChoice(state_directory=str(tmp_path), required=True))


async def test_the_runtime_directory_is_the_second_choice(
    temporary: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    choice = parse_options("s3://bucket", {}).journal
    assert choice.runtime_directory == str(tmp_path / "run")
    answers(monkeypatch, {})
    assert local_directory(choice.runtime_directory).startswith(str(temporary))
    answers(monkeypatch, {temporary: NFS})
    assert local_directory(choice.runtime_directory) == str(tmp_path / "run" / "asyncsink")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    assert parse_options("s3://bucket", {}).journal.runtime_directory == ""
    assert local_directory("") == ""


@pytest.mark.parametrize("prepared", ["a link", "open to others", "a file"])
async def test_a_directory_that_others_have_prepared_is_not_used(
    prepared: str,
    open_it: Open,
    default: JournalChoice,
    home: Path,
    temporary: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, {home: NFS})
    own, elsewhere = temporary / f"asyncsink-{os.geteuid()}", temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if prepared == "a link":
        own.symlink_to(elsewhere)
    elif prepared == "a file":
        own.touch()
    else:
        own.mkdir()
        own.chmod(0o777)
    assert await open_it(choice=default) is None
    (notice,) = notices
    assert "is not a directory of yours alone" in notice
    assert list(elsewhere.iterdir()) == []


async def test_a_local_place_inside_of_the_source_is_told(
    default: JournalChoice, home: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {home: NFS})
    assert check_journal_outside([str(home)], default) is None
    error = check_journal_outside([str(temporary)], default)
    assert "lies inside the source" in str(error)


@pytest.fixture
def on_nfs(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal that was named, on NFS."""
    answers(monkeypatch, {path.parent: NFS})
    return path


async def test_a_named_journal_has_a_rollback_journal(open_it: Open, on_nfs: Path, notices: list[str]) -> None:
    journal = await open_it()
    mode, synchronous = (
        journal._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    )
    assert (mode, synchronous) == ("delete", 2)
    await journal.publish([published_of(1)])
    assert not Path(f"{on_nfs}-wal").exists()
    await journal.aclose()
    (notice,) = notices
    assert all(word in notice for word in (str(on_nfs), "NFS", "rollback journal"))
    assert [each.name for each in on_nfs.parent.iterdir()] == [on_nfs.name]


async def test_a_log_of_an_earlier_run_is_taken_over(
    open_it: Open, start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed before this rule, or on a machine where the disk is local."""
    process = start(KILLED)
    process.stdin.write("0\n")
    process.stdin.flush()
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    process.wait()
    assert Path(f"{path}-wal").stat().st_size
    answers(monkeypatch, {path.parent: NFS})
    journal = await open_it()
    assert all(journal.known([transfer_of(number) for number in told]))
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    await journal.aclose()
    assert not Path(f"{path}-wal").exists()


ON_NFS = f"""
from asyncsink.journal import file_systems
file_systems.statfs_type = lambda path: {NFS}
{KILLED.replace("print(number, flush=True)", "sys.stdout.write(f'{number}' + chr(10)); sys.stdout.flush()")}
"""


async def test_what_was_told_is_there_after_every_kill_without_a_log(open_it: Open, start: Start, on_nfs: Path) -> None:
    moments = random.Random(14)
    told: set[int] = set()
    for turn in range(6):
        process = start(ON_NFS)
        process.stdin.write(f"{turn}\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(moments.randrange(2, 120))]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        told |= {int(line) for line in lines if line.endswith("\n") and line.strip().isdecimal()}
        journal = await open_it()
        numbers = sorted(told)
        for number, known in zip(numbers, journal.known([transfer_of(number) for number in numbers]), strict=True):
            assert known is not None, number
            assert known.published or known.upload is not None
        assert journal._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        await journal.aclose()


WITHIN_A_TRANSACTION = f"""
from asyncsink.journal import file_systems
file_systems.statfs_type = lambda path: {NFS}

async def main(path):
    journal = await open_it(path)
    await journal.publish([published_of(number) for number in range(3000)])
    journal._database.execute("PRAGMA cache_size=5")
    journal._database.execute("BEGIN")
    journal._database.execute("DELETE FROM published")
    print("deleted", flush=True)
    sys.stdin.read()
"""


async def test_a_kill_within_a_transaction_is_rolled_back(open_it: Open, start: Start, on_nfs: Path) -> None:
    process = start(WITHIN_A_TRANSACTION)
    process.stdout.readline()  # the notice
    assert process.stdout.readline() == "deleted\n"
    process.kill()
    process.wait()
    assert Path(f"{on_nfs}-journal").read_bytes().startswith(HOT_JOURNAL)
    journal = await open_it()
    assert all(journal.known([transfer_of(number) for number in range(3000)]))
    await journal.aclose()
    assert not Path(f"{on_nfs}-journal").exists()


class LockFails(sqlite3.Connection):
    """A connection whose file system refuses to lock, as SQLite tells it."""

    code = sqlite3.SQLITE_IOERR_LOCK
    words = "disk I/O error"

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement.startswith("BEGIN"):
            error = sqlite3.OperationalError(self.words)
            error.sqlite_errorcode = self.code
            raise error
        return super().execute(statement, *parameters)


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (sqlite3.SQLITE_BUSY, "database is locked", "is in use by another run"),
        (sqlite3.SQLITE_IOERR_LOCK, "disk I/O error", "cannot be used: disk I/O error"),
        (sqlite3.SQLITE_PROTOCOL, "locking protocol", "cannot be used: locking protocol"),
    ],
)
async def test_a_lock_that_fails_costs_a_note_or_refuses_the_journal_that_was_named(
    code: int,
    words: str,
    told: str,
    open_it: Open,
    default: JournalChoice,
    on_nfs: Path,
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A default journal too, on a file system that is not known for one of the network."""
    failing = type("Failing", (LockFails,), {"code": code, "words": words})
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=failing))
    with pytest.raises(JournalError, match=told):
        await open_it()
    assert notices == []
    answers(monkeypatch, {})
    assert await open_it(choice=default) is None
    (notice,) = notices
    assert notice.startswith("This run goes on without a journal: ")
    assert told in notice


async def test_a_lock_of_a_run_elsewhere_that_ended_is_taken(open_it: Open, on_nfs: Path, notices: list[str]) -> None:
    """While it is held, the journal is refused; afterwards the next run has it."""
    first = await open_it()
    await first.publish([published_of(1)])
    with pytest.raises(JournalError, match="in use by another run"):
        await open_it()
    await first.aclose()
    second = await open_it()
    assert second.known([transfer_of(1)])[0] is not None
    await second.aclose()
    assert len(notices) == 2
