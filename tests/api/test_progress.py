"""progress= for programs and notebooks: a function gets snapshots, True shows lines; nothing else is ever printed."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncsink

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_bytes(b"x" * 1000)
    return folder


async def test_a_function_gets_snapshots_to_the_end(
    tree: Path, bucket: str, options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for call in (
        lambda seen: asyncsink.export_directory(tree, f"s3://{bucket}", progress=seen.append, **options),
        lambda seen: asyncsink.grab(f"s3://{bucket}", tmp_path / "back", progress=seen.append, **options),
    ):
        seen: list[asyncsink.ProgressSnapshot] = []
        report = await call(seen)
        assert report.ok
        first, last = seen[0], seen[-1]
        assert (first.started, first.ended, last.ended) == (False, False, True)
        assert [snapshot.ended for snapshot in seen].count(True) == 1
        assert (last.objects_done, last.objects_total, last.bytes_done, last.share) == (3, 3, 3000, 1.0)
        assert str(last).startswith("100 %  3/3 files  2.9/2.9 KiB  ")
        assert last.as_dict()["objects_done"] == 3
    assert capfd.readouterr() == ("", "")


async def test_a_function_that_fails_is_noted_and_ends_nothing(
    tree: Path, bucket: str, options: dict[str, Any]
) -> None:
    calls = []

    def broken(snapshot: asyncsink.ProgressSnapshot) -> None:
        calls.append(snapshot)
        raise RuntimeError("no")

    report = await asyncsink.export_directory(tree, f"s3://{bucket}", progress=broken, **options)
    assert report.ok
    assert len(calls) == 1
    assert any("broken raised RuntimeError, and was not called any more" in notice for notice in report.notices)


async def test_true_writes_a_line_where_stderr_is_no_terminal(
    tree: Path, bucket: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}", progress=True, **options)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("asyncsink: 100 %  3/3 files  2.9/2.9 KiB  ")
    assert err.count("\n") == 1


def test_true_writes_over_one_line_of_a_terminal(
    tree: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        asyncsink.export_sync({"a": str(tree)}, f"s3://{bucket}", progress=True, **options)
        monkeypatch.undo()
        shown = ""
        while "\n" not in shown:
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    assert shown.count("\n") == 1
    assert "\rasyncsink: 100 %  3/3 files" in shown


@pytest.mark.parametrize("wrong", [3, "yes", test_a_function_gets_snapshots_to_the_end])
async def test_what_is_no_function_is_refused(wrong: Any, tree: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="expected progress=True, or a function of one ProgressSnapshot"):
        await asyncsink.export_directory(tree, "s3://bucket", progress=wrong)


@pytest.mark.timeout(120)
def test_a_cell_of_a_notebook_has_one_output_that_is_updated(
    tree: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a kernel of its own: with await, and with the synchronous function inside the kernel's event loop."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    given = {name: value if isinstance(value, (str, bool)) else str(value) for name, value in options.items()}
    cells = [
        f"import asyncsink\noptions = {given!r}",
        f"r = await asyncsink.export_directory({str(tree)!r}, 's3://{bucket}', progress=True, **options)",
        f"r = asyncsink.export_sync({{'again': {str(tree)!r}}}, 's3://{bucket}', progress=True, **options)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    for cell in notebook.cells[1:]:
        (output,) = cell.outputs
        assert output.output_type == "display_data"
        assert f"s3://{bucket}" in output.data["text/plain"]
        assert "100 %  2.9/2.9 KiB" in output.data["text/plain"]
        assert "3 of 3 files" in output.data["text/html"]
        assert "widget" not in str(output)
