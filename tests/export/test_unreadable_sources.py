"""One bad file does not stop the others where that is wanted: on_unreadable="skip"."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
import asyncsink.paths as paths_module
from tests.support.quirky_s3 import QuirkyS3

pytestmark = pytest.mark.anyio

LONG = "/".join(["n" * 200] * 6)


def make_long(root: Path) -> None:
    (root / LONG).mkdir(parents=True)
    (root / LONG / "f").write_text("x")


def not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/r\xe9sum\xe9.txt")).write_text("x")


def closed_file(root: Path) -> None:
    (root / "secret").write_text("x")
    (root / "secret").chmod(0)


def closed_folder(root: Path) -> None:
    (root / "lost+found").mkdir(mode=0)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (closed_file, "SourceUnreadable"),
    "a folder": (closed_folder, "SourceUnreadable"),
    "no UTF-8": (not_utf8, "InvalidKey"),
    "a control character": (lambda root: (root / "a\nb").write_text("x") and None, "InvalidKey"),
    "a long key": (make_long, "InvalidKey"),
}


@pytest.fixture(autouse=True)
def rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights apply to root too."""
    if os.geteuid():
        return
    opened, allowed = os.open, os.access

    def denied(path: Any) -> bool:
        return os.path.basename(os.fsdecode(path)) in ("secret", "lost+found")

    def open_it(path: Any, *arguments: Any, **options: Any) -> int:
        if denied(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_it)
    monkeypatch.setattr(os, "access", lambda path, *a, **o: not denied(path) and allowed(path, *a, **o))
    monkeypatch.setattr(paths_module, "_open_at_once", None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "ok.txt").write_text("x")
    (root / "sub" / "ok.txt").write_text("x")
    return root


OK = ["p/ok.txt", "p/sub/ok.txt"]


@pytest.mark.parametrize("kind", list(BAD))
async def test_the_rest_is_published_and_the_bad_one_is_a_failure(server: QuirkyS3, tree: Path, kind: str) -> None:
    make, error = BAD[kind]
    make(tree)
    report = await asyncsink.export_directory(tree, "s3://tryout/p", on_unreadable="skip", journal=False)
    assert sorted(server.bodies()) == OK
    assert [failure.error for failure in report.failures] == [error]
    with pytest.raises(asyncsink.ExportFailed):
        report.raise_for_failures()
    outputs = {"@": [str(tree)]}
    outputs_report = await asyncsink.export(outputs, "s3://tryout/q", on_unreadable="skip", journal=False)
    assert [failure.error for failure in outputs_report.failures] == [error]
    assert len(outputs_report.receipts) == len(OK)


@pytest.mark.parametrize("kind", list(BAD))
async def test_nothing_is_sent_unless_that_is_asked_for(server: QuirkyS3, tree: Path, kind: str) -> None:
    make, error = BAD[kind]
    make(tree)
    with pytest.raises(getattr(asyncsink, error), match="on_unreadable='skip'"):
        await asyncsink.export_directory(tree, "s3://tryout/p", journal=False)
    with pytest.raises(getattr(asyncsink, error)):
        await asyncsink.export_directory(tree, "s3://tryout/p", on_missing="skip", on_unreadable="error", journal=False)
    assert not server.bodies()
    report = await asyncsink.export_directory(tree, "s3://tryout/p", on_missing="skip", journal=False)
    assert (len(report.receipts), len(report.failures)) == (2, 1)


async def test_a_link_that_leads_out_still_refuses_the_run(server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("private")
    (tree / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(asyncsink.SourceUnreadable, match="leads out of"):
        await asyncsink.export_directory(tree, "s3://tryout/p", on_unreadable="skip", journal=False)
    assert not server.bodies()


async def test_a_tree_that_is_kept_on_disk(server: QuirkyS3, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsink.engine.planning.key_ledger.IN_MEMORY_MAX", 1)
    for make, _ in BAD.values():
        make(tree)
    report = await asyncsink.export_directory(tree, "s3://tryout/p", on_unreadable="skip", journal=False)
    assert sorted(server.bodies()) == OK
    assert len(report.failures) == len(BAD)


async def test_a_sink_goes_on(server: QuirkyS3, tree: Path) -> None:
    closed_folder(tree)
    not_utf8(tree)
    async with asyncsink.AsyncSink("s3://tryout/p", on_unreadable="skip", journal=False) as sink:
        await sink.submit("@", str(tree))
    assert len(sink.report.receipts) == len(OK)
    assert sorted(failure.error for failure in sink.report.failures) == ["InvalidKey", "SourceUnreadable"]


async def test_the_local_destination_too(tree: Path, tmp_path: Path) -> None:
    closed_file(tree)
    closed_folder(tree)
    report = await asyncsink.export_directory(tree, tmp_path / "out", on_unreadable="skip")
    assert (len(report.receipts), len(report.failures)) == (2, 2)


@pytest.mark.parametrize("command", ["export", "plan"])
def test_the_command_lists_them_and_exits_1(
    server: QuirkyS3, tree: Path, tmp_path: Path, run_inside: Any, command: str
) -> None:
    not_utf8(tree)
    (tree / "a\nb").write_text("x")
    words = (command, tree, "s3://tryout/p")
    env = server.environment(tmp_path)
    refused = run_inside(*words, env=env)
    assert refused.returncode == 2
    assert b"--on-unreadable skip" in refused.stderr
    done = run_inside(*words, "--on-unreadable", "skip", "--json", env=env)
    told = json.loads(done.stdout)
    assert (done.returncode, told["objects_failed"]) == (1, 2)
    assert [failure["error"] for failure in told["failures"]] == ["InvalidKey"] * 2
    assert done.stderr.count(b"cannot be published") == 2
    assert sorted(server.bodies()) == (OK if command == "export" else [])


@pytest.mark.parametrize("option", ["--on-missing", "--on-unreadable"])
def test_either_option_is_a_way_round_one_bad_name(
    server: QuirkyS3, tree: Path, tmp_path: Path, run_inside: Any, option: str
) -> None:
    not_utf8(tree)
    done = run_inside("export", tree, "s3://tryout/p", option, "skip", env=server.environment(tmp_path))
    assert sorted(server.bodies()) == OK
    assert done.returncode == 1
    assert b"is not valid UTF-8" in done.stderr


# -- what is no file at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
def test_special_files_met_in_a_directory_are_left_out_with_a_notice(
    server: QuirkyS3, tree: Path, tmp_path: Path, run_inside: Any, dry_run: bool
) -> None:
    os.mkfifo(tree / "pipe")
    os.mkfifo(tree / "sub" / "pipe")
    (tree / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tree / "socket"))
        done = run_inside("plan" if dry_run else "export", tree, "s3://tryout/p", env=server.environment(tmp_path))
    assert done.returncode == 0, done.stderr.decode()
    notes = done.stderr.decode()
    assert f"Left out (a FIFO (named pipe), not a file): '{tree}/link', and 2 others." in notes
    assert f"Left out (a socket, not a file): '{tree}/socket'." in notes
    assert sorted(server.bodies()) == ([] if dry_run else OK)


@pytest.mark.parametrize("on_unreadable", ["error", "skip"])
async def test_a_special_file_that_is_named_stays_an_error(server: QuirkyS3, tree: Path, on_unreadable: Any) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(asyncsink.SourceUnreadable, match="FIFO"):
        await asyncsink.export(
            {"m": [str(tree / "ok.txt"), str(tree / "pipe")]}, "s3://tryout/p", on_unreadable=on_unreadable
        )
    assert not server.bodies()
