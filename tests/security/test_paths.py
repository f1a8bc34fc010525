"""Directories and links that are swapped under a run lead nobody to files outside, neither to read nor to write."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import CapacityLimiter

import asyncsink
import asyncsink.paths as paths_module
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.download.placement import FOLDER, StagingDirectory
from asyncsink.engine.planning import survey as survey_module
from asyncsink.errors import SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import LocalTarget, Symlinks
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.reader import OpenSource, read_at_rest
from tests.support.quirky_s3 import QuirkyS3, StoredObject

pytestmark = pytest.mark.anyio
INSIDE, OUTSIDE = b"inside, and as long as the other", b"PRIVATE, of somebody else, secret"
FILES = 16
ROUNDS = 6


@pytest.fixture(params=["openat2", "steps"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Directories are opened by openat2(2), or, where a kernel has none, step by step."""
    if request.param == "steps":
        monkeypatch.setattr(paths_module, "_open_at_once", None)
    elif paths_module._open_at_once is None:
        pytest.skip("this kernel has no openat2")
    return str(request.param)


@pytest.fixture
def after_the_survey(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done between the survey and the first look at a file. The first request comes earlier."""

    def have_done(change: Callable[[], None]) -> None:
        async def take_survey(*given: Any, **named: Any) -> Any:
            survey = await survey_module.take_survey(*given, **named)
            change()
            return survey

        monkeypatch.setattr("asyncsink.engine.export.take_survey", take_survey)

    return have_done


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """tree/a/b/0 to tree/a/b/23, and outside/b/ with files of the same names and sizes, times included."""
    for root, content in (("tree/a/b", INSIDE), ("outside/b", OUTSIDE)):
        (tmp_path / root).mkdir(parents=True)
        for number in range(FILES):
            path = tmp_path / root / str(number)
            path.write_bytes(content)
            os.utime(path, ns=(10**18, 10**18))
    return tmp_path / "tree"


SWAP = """
import os, sys
place, kept, outside = sys.argv[1:]
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        pass
print("ready", flush=True)
while os.getppid() == PARENT:
    attempt(os.rename, place, kept)
    attempt(os.symlink, outside, place)
    attempt(os.unlink, place)
    attempt(os.rename, kept, place)
"""


@contextlib.contextmanager
def swapping(place: Path, outside: Path) -> Iterator[None]:
    """A process that makes `place` a link to `outside` and a directory again, as fast as it can."""
    kept = place.with_name(place.name + ".kept")
    code = SWAP.replace("PARENT", str(os.getpid()))
    words = [sys.executable, "-c", code, str(place), str(kept), str(outside)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
    with contextlib.suppress(OSError):
        place.unlink()
    with contextlib.suppress(OSError):
        kept.rename(place)


def swap_once(place: Path, outside: Path) -> None:
    place.rename(place.with_name(place.name + ".kept"))
    place.symlink_to(outside)


async def attempts(run: Callable[[int], Any]) -> int:
    """Run it again and again; a run that is refused is as good as one that fails files."""
    done = 0
    for number in range(ROUNDS):
        with contextlib.suppress(asyncsink.AsyncSinkError):
            report = await run(number)
            done += len(report.receipts)
    return done


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_swapped_after_the_survey_is_not_published(
    server: QuirkyS3, tree: Path, large: bool, kernel: str, after_the_survey: Callable[[Callable[[], None]], None]
) -> None:
    if large:
        grow(tree)
    after_the_survey(lambda: swap_once(tree / "a", tree.parent / "outside"))
    report = await asyncsink.export_directory(tree, "s3://tryout/p", journal=False)
    assert not server.bodies()
    assert [failure.error for failure in report.failures] == ["SourceChanged"] * FILES
    assert "a symbolic link took its place" in report.failures[0].message


@pytest.mark.parametrize("kind", ["directory", "outputs"])
async def test_a_root_that_becomes_a_link_is_not_read(
    server: QuirkyS3,
    tree: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    after_the_survey: Callable[[Callable[[], None]], None],
) -> None:
    """Nor where what was found is kept on disk meanwhile."""
    monkeypatch.setattr("asyncsink.engine.planning.key_ledger.IN_MEMORY_MAX", 1)
    (tree.parent / "elsewhere" / "a").mkdir(parents=True)
    (tree.parent / "outside" / "b").rename(tree.parent / "elsewhere" / "a" / "b")

    after_the_survey(lambda: swap_once(tree, tree.parent / "elsewhere"))
    if kind == "directory":
        report = await asyncsink.export_directory(tree, "s3://tryout/p", journal=False)
    else:
        report = await asyncsink.export({"@": [str(tree)]}, "s3://tryout/p", journal=False)
    assert not server.bodies()
    assert {failure.error for failure in report.failures} == {"SourceChanged"}
    assert len(report.failures) == report.objects_total


@pytest.mark.parametrize(("where", "symlinks", "large"), [("a", "inside", True), ("a/b", "skip", False)])
async def test_nothing_from_outside_is_published_while_directories_are_swapped(
    server: QuirkyS3, tree: Path, where: str, symlinks: Any, large: bool, kernel: str
) -> None:
    outside = tree.parent / "outside" if where == "a" else tree.parent / "outside" / "b"
    if large:
        grow(tree)
    with swapping(tree / where, outside):
        await attempts(
            lambda number: asyncsink.export_directory(tree, f"s3://tryout/{number}", symlinks=symlinks, journal=False)
        )
    stored = server.bodies()
    assert not [key for key, body in stored.items() if b"PRIVATE" in body]
    report = await asyncsink.export_directory(tree, "s3://tryout/at-rest", journal=False)
    assert len(report.receipts) == FILES


def grow(tree: Path) -> None:
    for path in (*(tree / "a/b").iterdir(), *(tree.parent / "outside/b").iterdir()):
        path.write_bytes(path.read_bytes() * 20_000)


def found(root: Path, symlinks: Any = "inside") -> list[SourceFile]:
    walked = list(DirectorySource(root, symlinks=symlinks).scan())
    assert not [each for each in walked if isinstance(each, SourceProblem)]
    return [each for each in walked if isinstance(each, SourceFile)]


@pytest.mark.parametrize("where", ["a", "a/b", "a/b/7", "."])
def test_a_link_that_takes_a_place_between_the_survey_and_the_opening(tree: Path, where: str, kernel: str) -> None:
    file = next(each for each in found(tree) if each.relative == "a/b/7")
    outside = tree.parent / "outside"
    if where == ".":
        (outside / "a").mkdir()
        (outside / "b").rename(outside / "a" / "b")
    swap_once(tree / where, {"a": outside, "a/b": outside / "b", "a/b/7": outside / "b/7", ".": outside}[where])
    for read in (lambda: OpenSource(file), lambda: open_whole(file)):
        with pytest.raises(asyncsink.SourceChanged, match="symbolic link took its place"):
            read()
    assert read_at_rest(file) is None


def open_whole(file: SourceFile) -> None:
    from asyncsink.engine.transfer.destination_state import read_whole_file

    read_whole_file(file, memoryview(bytearray(file.size_bytes)), None, [])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_led_inside_and_leads_outside_by_then(tree: Path, kind: str, kernel: str) -> None:
    link = tree / "link"
    link.symlink_to("a/b/7" if kind == "file" else "a/b")
    relative = "link" if kind == "file" else "link/7"
    file = next(each for each in found(tree) if each.relative == relative)
    link.unlink()
    link.symlink_to(tree.parent / ("outside/b/7" if kind == "file" else "outside/b"))
    with pytest.raises(asyncsink.SourceChanged, match="another file took its place"):
        read_at_rest(file)
    with OpenSource(file) as source:
        assert bytes(source.read_all()) == INSIDE, "what was found is what is read"
        with pytest.raises(asyncsink.SourceChanged, match="another file took its place"):
            source.check_unchanged()


def test_a_directory_that_becomes_a_link_while_it_is_walked(tree: Path, kernel: str) -> None:
    (tree / "0-first").write_bytes(INSIDE)
    walk = DirectorySource(tree, symlinks="inside").scan()
    first: Any = next(walk)
    assert first.relative == "0-first"
    swap_once(tree / "a", tree.parent / "outside")
    (problem,) = walk
    assert isinstance(problem, SourceProblem)
    assert isinstance(problem.error, asyncsink.SourceChanged)
    assert not problem.skippable


async def test_named_files_are_read_where_they_were_found(
    server: QuirkyS3, tree: Path, after_the_survey: Callable[[Callable[[], None]], None]
) -> None:
    outputs = {"m": [str(tree / "a/b" / str(number)) for number in range(FILES)]}
    after_the_survey(lambda: swap_once(tree / "a", tree.parent / "outside"))
    report = await asyncsink.export(outputs, "s3://tryout/p", journal=False)
    assert not server.bodies()
    assert [failure.error for failure in report.failures] == ["SourceChanged"] * FILES


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "mode"), [("a", "copy"), ("a", "hardlink"), ("a/b", "copy")])
async def test_nothing_is_written_outside_a_local_destination(
    tree: Path, tmp_path: Path, where: str, mode: Any, kernel: str
) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    (target / "a/b").mkdir(parents=True)
    (elsewhere / "b").mkdir(parents=True)
    with swapping(target / where, elsewhere if where == "a" else elsewhere / "b"):
        await attempts(lambda _: asyncsink.export_directory(tree, target, local_copy_mode=mode, overwrite="always"))
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]
    assert len((await asyncsink.export_directory(tree, target, overwrite="always")).receipts) == FILES


async def test_nothing_is_written_outside_a_local_copy(server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    (target / "a/b").mkdir(parents=True)
    (elsewhere / "b").mkdir(parents=True)
    (tree / "a/b/large").write_bytes(bytes(9 << 20))
    with swapping(target / "a", elsewhere):
        await attempts(
            lambda number: asyncsink.export_directory(
                tree, f"s3://tryout/{number}", local_copy=target, overwrite="always", journal=False
            )
        )
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


@pytest.mark.parametrize("becomes", ["a link", "another directory"])
async def test_a_directory_that_is_moved_while_a_large_file_is_written_to_it(tmp_path: Path, becomes: str) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    source = tmp_path / "large"
    source.write_bytes(bytes(20 << 20))
    found = source.stat()
    local = LocalDestination(LocalTarget(directory=str(target)), limiter=CapacityLimiter(2), use_local_key=False)
    transfer = Transfer(SourceFile(str(source), found.st_size, found.st_mtime_ns), "a/large", "a/large")
    plan = PartPlan(size_bytes=found.st_size, part_size_bytes=found.st_size)
    writer = await local.start(transfer, plan, None)
    await writer.write_part(1, 0, source.read_bytes(), None)
    swap_once(target / "a", elsewhere)
    if becomes != "a link":
        (target / "a").unlink()
        (target / "a").mkdir()
    with pytest.raises(asyncsink.PermanentError, match="took the place of a directory"):
        await writer.complete(None)
    with contextlib.suppress(asyncsink.PermanentError):
        await writer.abort()
    assert not list(elsewhere.iterdir())
    assert not list(target.rglob("large"))


@pytest.mark.parametrize("where", ["a", "a/b"])
async def test_nothing_is_written_outside_the_target_of_a_grab(
    server: QuirkyS3, tmp_path: Path, where: str, kernel: str
) -> None:
    for number in range(FILES):
        server.objects["tryout"][f"g/a/b/{number}"] = StoredObject(INSIDE)
    server.objects["tryout"]["g/a/b/large"] = StoredObject(bytes(6 << 20))
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    (target / "a/b").mkdir(parents=True)
    (elsewhere / "b").mkdir(parents=True)

    async def grab(number: int) -> Any:
        # Another name in each round: what is there already is not written again.
        for old in list(server.objects["tryout"]):
            server.objects["tryout"][f"{old.rpartition('-')[0] or old}-{number}"] = server.objects["tryout"].pop(old)
        return await asyncsink.grab("s3://tryout/g", target, part_size_bytes=5 << 20)

    with swapping(target / where, elsewhere if where == "a" else elsewhere / "b"):
        await attempts(grab)
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


async def test_a_target_that_becomes_a_link_is_not_followed(
    server: QuirkyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment when the target is opened and the first file."""
    server.objects["tryout"]["g/x"] = StoredObject(INSIDE)
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    opened = StagingDirectory.open

    def swap(staging: StagingDirectory) -> None:
        opened(staging)
        swap_once(target, elsewhere)

    monkeypatch.setattr(StagingDirectory, "open", swap)
    report = await asyncsink.grab("s3://tryout/g", target)
    assert [failure.error for failure in report.failures] == ["AccessDenied"]
    assert not list(elsewhere.iterdir())


async def test_a_link_to_the_outside_by_name_is_not_written_through(server: QuirkyS3, tmp_path: Path) -> None:
    """What is planted under the file's own name is replaced, not written to."""
    server.objects["tryout"]["g/x"] = StoredObject(INSIDE)
    victim = tmp_path / "victim"
    victim.write_bytes(OUTSIDE)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "x").symlink_to(victim)
    (await asyncsink.grab("s3://tryout/g", tmp_path / "target")).raise_for_failures()
    assert victim.read_bytes() == OUTSIDE
    assert not (tmp_path / "target" / "x").is_symlink()


@pytest.mark.parametrize("planted", ["hard link", "symbolic link", "fifo", "another user's"])
@pytest.mark.parametrize("which", ["part", "state"])
async def test_a_planted_unfinished_file_is_not_written_to(
    server: QuirkyS3, tmp_path: Path, planted: str, which: str
) -> None:
    body = bytes(range(256)) * (12 << 12)
    server.objects["tryout"]["g/large"] = StoredObject(body)
    target, victim = tmp_path / "target", tmp_path / "victim"
    (target / FOLDER).mkdir(parents=True, mode=0o700)
    victim.write_bytes(OUTSIDE)
    place = target / FOLDER / f"{hashlib.sha256(b'large').hexdigest()[:32]}.{which}"
    if planted == "hard link":
        os.link(victim, place)
    elif planted == "symbolic link":
        place.symlink_to(victim)
    elif planted == "fifo":
        os.mkfifo(place)
    else:
        if os.geteuid():
            pytest.skip("only root gives files away")
        place.write_bytes(OUTSIDE)
        os.chown(place, 65534, 65534)
        victim = place
    report = await asyncsink.grab("s3://tryout/g", target, part_size_bytes=5 << 20)
    report.raise_for_failures()
    assert (target / "large").read_bytes() == body
    assert victim.read_bytes() == OUTSIDE


async def test_a_staging_folder_of_another_user_is_refused(server: QuirkyS3, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    server.objects["tryout"]["g/x"] = StoredObject(INSIDE)
    (tmp_path / "target" / FOLDER).mkdir(parents=True)
    os.chown(tmp_path / "target" / FOLDER, 65534, 65534)
    with pytest.raises(asyncsink.ConfigError, match="belongs to another user"):
        await asyncsink.grab("s3://tryout/g", tmp_path / "target")


async def test_remove_dest_dir_removes_nothing_outside(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder on the way to what is to be removed becomes a link after it was looked at."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    outputs = {"m.n": str(tree / "a")}
    await asyncsink.export(outputs, target)
    (elsewhere / "n" / "a").mkdir(parents=True)
    (elsewhere / "n" / "a" / "precious").write_bytes(OUTSIDE)
    genuine: Any = os.path.islink

    def swap(path: Any) -> bool:
        result = genuine(path)
        if str(path).endswith("m/n/a") and not genuine(target / "m"):
            swap_once(target / "m", elsewhere)
        return bool(result)

    monkeypatch.setattr(os.path, "islink", swap)
    with contextlib.suppress(asyncsink.AsyncSinkError):
        await asyncsink.export(outputs, target, remove_dest_dir=True)
    assert (elsewhere / "n" / "a" / "precious").read_bytes() == OUTSIDE


# -- A link in a tree does not publish what lies outside of the tree, unless that is asked for ------------------------


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A directory with links that stay inside; beside it, what nobody asked to publish."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("private")
    (tmp_path / "tree-of-another").mkdir()
    (tmp_path / "tree-of-another" / "key").write_text("private")
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_text("data")
    (root / "relative").symlink_to("sub/file")
    (root / "absolute").symlink_to(root / "sub" / "file")
    (root / "folder").symlink_to("sub")
    return root


LINKS = {
    "absolute": lambda root: root.parent / "private" / "key",
    "relative": lambda root: Path("../private/key"),
    "folder": lambda root: Path("../private"),
    "by way of a folder": lambda root: Path("sub/../../private/key"),
    "a name that begins alike": lambda root: Path("../tree-of-another/key"),
    "a link to a link": lambda root: Path("hop"),
}


def paths(root: Path, symlinks: Symlinks) -> set[str]:
    found = DirectorySource(root, symlinks=symlinks).scan()
    return {os.path.relpath(each.path, root) for each in found if not hasattr(each, "error")}


LINKED_INSIDE = {"sub/file", "relative", "absolute", "folder/file"}


@pytest.mark.parametrize("kind", list(LINKS))
@pytest.mark.parametrize("on_missing", ["error", "skip"])
async def test_a_link_that_leads_out_refuses_the_run(links: Path, tmp_path: Path, kind: str, on_missing: Any) -> None:
    if kind == "a link to a link":
        (tmp_path / "middle").symlink_to(tmp_path / "private" / "key")
        (links / "hop").symlink_to(tmp_path / "middle")
    (links / "out").symlink_to(LINKS[kind](links))
    with pytest.raises(SourceUnreadable, match=r"leads out of .*symlinks='follow'.*symlinks='skip'"):
        await asyncsink.export_directory(links, tmp_path / "published", on_missing=on_missing)
    assert not [path for path in (tmp_path / "published").rglob("*") if path.is_file()]
    assert paths(links, "inside") == LINKED_INSIDE
    report = await asyncsink.export_directory(links, tmp_path / "published", symlinks="follow")
    assert not report.failures
    assert any(path.read_text() == "private" for path in (tmp_path / "published").rglob("*") if path.is_file())


async def test_links_that_stay_inside_are_followed(links: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(links)
    report = await asyncsink.export_directory(tmp_path / "named", tmp_path / "published")
    report.raise_for_failures()
    found = {str(path.relative_to(tmp_path / "published")) for path in (tmp_path / "published").rglob("*")}
    assert found - {"sub", "folder"} == LINKED_INSIDE


async def test_a_link_that_was_named_was_asked_for(links: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(links / "sub" / "file")
    report = await asyncsink.export({"x": str(tmp_path / "link")}, tmp_path / "published")
    report.raise_for_failures()
    assert (tmp_path / "published/x/link").read_text() == "data"


async def test_below_a_named_directory_the_directory_is_the_tree(links: Path, tmp_path: Path) -> None:
    (links / "sub" / "out").symlink_to("../../private/key")
    with pytest.raises(SourceUnreadable, match="leads out of"):
        await asyncsink.export({"x": str(links)}, tmp_path / "published")
    report = await asyncsink.export({"x": str(links)}, tmp_path / "as-nipype", compat="nipype")
    report.raise_for_failures()
    assert (tmp_path / "as-nipype/x/tree/sub/out").read_text() == "private"
