"""The receipt manifest is never lost: not to a second run, an interruption, a deletion, nor to the run after it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.errors import ConfigError, JournalError
from asyncsink.model import Finished
from asyncsink.options.parse import parse_options
from asyncsink.report import earlier_proofs
from asyncsink.sources.directory import DirectorySource
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import Request, quirky_s3, run_command

pytestmark = pytest.mark.anyio
Records = list[dict[str, Any]]
FILES = 400


@pytest.fixture(params=["in memory", "on disk"])
def proofs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the proofs of earlier manifests are kept."""
    if request.param == "on disk":
        monkeypatch.setattr(earlier_proofs, "IN_MEMORY_MAX", 1)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory of small files."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(FILES):
        (root / f"{number:03}").write_bytes(b"%d" % number)
    return root


def records(path: Path, kind: str = "") -> Records:
    """The records of a manifest, or those of one kind."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in found if kind in ("", record["record"])]


def beside(path: Path) -> list[str]:
    """The names of a manifest's files."""
    return sorted(each.name for each in path.parent.iterdir() if each.name.startswith(path.name))


async def interrupted_after(
    number: int, root: Path, destination: str, on_event: Callable[[int], None] = lambda _: None, **options: Any
) -> list[str]:
    """Cancel an export when so many files are recorded; its notices."""
    notices: list[str] = []
    seen = 0
    with anyio.CancelScope() as scope:

        def observe(event: Any) -> None:
            nonlocal seen
            if isinstance(event, Finished):
                seen += 1
                on_event(seen)
                if seen == number:
                    scope.cancel()
            elif isinstance(event, asyncsink.model.Notice):
                notices.append(event.message)

        settings = parse_options(destination, {"concurrency": 2, **options})
        await run_source(settings, DirectorySource(root, symlinks="follow"), observe=observe)
    assert scope.cancelled_caught
    return notices


async def test_a_second_run_with_the_same_manifest_is_refused_and_the_first_one_keeps_all(
    many: Path, tmp_path: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    """By the same name, by a link, and in the same process; nothing is sent."""
    manifest = tmp_path / "m.jsonl"
    (tmp_path / "link").symlink_to(manifest)
    proxy.hold = lambda name: "request" if name == "Put" and len(proxy.seen) > 10 else ""
    first = asyncio.ensure_future(
        asyncsink.export_directory(
            many, f"s3://{bucket}/1", manifest=manifest, **{**options, "endpoint_url": proxy.endpoint_url}
        )
    )
    await proxy.held.wait()
    for name in (manifest, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is being written by another run; give every run a manifest of its own"):
            await asyncsink.export_directory(many, f"s3://{bucket}/2", manifest=name, **options)
        with pytest.raises(ConfigError, match="is being written by another run"):
            async with asyncsink.AsyncSink(f"s3://{bucket}/2", manifest=name, **options):
                pass
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert beside(manifest) == ["m.jsonl.partial"]
    assert records(manifest.with_name("m.jsonl.partial"), "end")[0]["interrupted"] is True


async def test_three_runs_at_once_lose_no_receipt(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    """Each is refused, or has its receipts in a manifest that is whole."""
    manifest = tmp_path / "m.jsonl"
    runs = (
        asyncsink.export_directory(many, f"s3://{bucket}/p", manifest=manifest, shard=f"{index}/3", **options)
        for index in range(3)
    )
    ended = await asyncio.gather(*runs, return_exceptions=True)
    published = [report for report in ended if isinstance(report, asyncsink.Report)]
    assert published
    assert len(published) + sum(isinstance(error, ConfigError) for error in ended) == 3
    receipts = [receipt for name in beside(manifest) for receipt in records(tmp_path / name, "receipt")]
    assert len(receipts) == sum(report.objects_uploaded for report in published)
    for name in beside(manifest):
        assert (await asyncsink.verify_manifest(tmp_path / name)).ok


async def test_shards_one_after_another_with_one_name_lose_nothing(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    manifest = tmp_path / "m.jsonl"
    for index in range(3):
        report = await asyncsink.export_directory(
            many, f"s3://{bucket}/p", manifest=manifest, shard=f"{index}/3", **options
        )
        assert bool(index) == any("which has receipts that this run's lacks" in notice for notice in report.notices)
    assert beside(manifest) == ["m.jsonl", "m.jsonl.1", "m.jsonl.2"]
    assert sum(len(records(tmp_path / name, "receipt")) for name in beside(manifest)) == FILES
    for name in beside(manifest):
        assert (await asyncsink.verify_manifest(tmp_path / name)).ok


async def test_an_interrupted_rerun_keeps_the_old_manifest_and_what_it_did_itself(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    manifest = tmp_path / "m.jsonl"
    arguments = {**options, "manifest": manifest}
    await asyncsink.export_directory(many, f"s3://{bucket}/p", **arguments)
    before = manifest.read_bytes()
    notices = await interrupted_after(5, many, f"s3://{bucket}/p", overwrite="always", **arguments)
    assert manifest.read_bytes() == before
    partial = manifest.with_name("m.jsonl.partial")
    assert 5 <= len(records(partial, "receipt")) < FILES
    (notice,) = [each for each in notices if str(partial) in each]
    assert f"{str(manifest)!r} is that of the run before" in notice
    assert (await asyncsink.verify_manifest(manifest)).ok
    report = await asyncsink.verify_manifest(partial)
    assert (report.ok, report.problems_total) == (False, 0)
    assert "interrupted" in report.incomplete


@pytest.mark.parametrize("how", ["interrupted", "killed"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.usefixtures("proofs")
async def test_the_run_after_an_interrupted_one_takes_its_receipts_over(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any], how: str, times: int
) -> None:
    manifest = tmp_path / "m.jsonl"
    partial = manifest.with_name("m.jsonl.partial")
    arguments = {**options, "manifest": manifest, "journal": False}
    sent: dict[str, dict[str, Any]] = {}
    for _ in range(times):
        await interrupted_after(len(sent) + 5, many, f"s3://{bucket}/p", **arguments)
        if how == "killed":
            whole = partial.read_bytes()
            partial.write_bytes(whole[: whole.rindex(b'{"record": "end"') - 7])
        sent |= {record["key"]: record for record in records_whole(partial) if record["record"] == "receipt"}
    report = await asyncsink.export_directory(many, f"s3://{bucket}/p", **arguments)
    assert beside(manifest) == ["m.jsonl"]
    ended = {record["key"]: record for record in records(manifest)[1:-1]}
    assert (len(ended), len(ended) - report.objects_uploaded) == (FILES, report.objects_skipped)
    for key, receipt in sent.items():
        for proof in ("checksum", "etag", "version_id", "attempts", "confirmed_by"):
            assert ended[key][proof] == receipt[proof]
    assert (await asyncsink.verify_manifest(manifest)).ok


def records_whole(path: Path) -> Records:
    """The records of a manifest whose last line may be torn."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("overwrite", ["checksum", "size", "journal"])
@pytest.mark.usefixtures("proofs")
async def test_a_rerun_that_sends_nothing_keeps_every_proof_of_the_first(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any], overwrite: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    arguments: dict[str, Any] = {**options, "manifest": manifest}
    await asyncsink.export_directory(many, f"s3://{bucket}/p", **arguments)
    before = {record["key"]: record for record in records(manifest, "receipt")}
    for _ in range(2):
        report = await asyncsink.export_directory(many, f"s3://{bucket}/p", overwrite=overwrite, **arguments)
        assert (report.objects_uploaded, report.objects_skipped) == (0, FILES)
    assert beside(manifest) == ["m.jsonl"]
    assert {skip.confirmed_by for skip in report.skips} == {"server-checksum"}
    for record in records(manifest, "skip"):
        receipt = before.pop(record["key"])
        for proof in ("checksum", "etag", "version_id", "attempts", "confirmed_by"):
            assert record[proof] == receipt[proof]
    assert not before


@pytest.mark.usefixtures("proofs")
async def test_an_object_that_somebody_replaced_does_not_inherit_a_proof(
    many: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    manifest = tmp_path / "m.jsonl"
    await asyncsink.export_directory(many, f"s3://{bucket}/p", manifest=manifest, **options)
    s3.put_object(Bucket=bucket, Key="p/007", Body=b"8")
    await asyncsink.export_directory(many, f"s3://{bucket}/p", manifest=manifest, overwrite="never", **options)
    assert [record["key"] for record in records(manifest, "skip") if not record["confirmed_by"]] == ["p/007"]
    assert (await asyncsink.verify_manifest(manifest)).ok, "it is as the second run found it"


@pytest.mark.parametrize("what", ["removed", "replaced", "taken by another"])
async def test_a_manifest_that_is_taken_away_in_mid_run_ends_the_run_loudly(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any], what: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    partial = manifest.with_name("m.jsonl.partial")
    settings = parse_options(f"s3://{bucket}/p", {**options, "manifest": manifest})

    def observe(event: Any) -> None:
        if not isinstance(event, Finished):
            return
        if what == "taken by another":
            manifest.write_text("somebody else's")
        elif what == "removed":
            partial.unlink(missing_ok=True)
        else:
            shutil.copy(partial, tmp_path / "copy")
            os.replace(tmp_path / "copy", partial)

    with pytest.raises(JournalError, match=r"m\.jsonl.* was (removed or )?replaced .*while the run went on"):
        await run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)
    if what == "taken by another":
        assert manifest.read_text() == "somebody else's"
        assert len(records(partial, "receipt")) == FILES
    else:
        assert not manifest.exists()


async def test_a_manifest_of_another_destination_is_kept(tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m"
    await asyncsink.export_directory(tree, tmp_path / "one", manifest=manifest)
    before = manifest.read_bytes()
    await asyncsink.export_directory(tree, tmp_path / "two", manifest=manifest)
    assert (tmp_path / "m.1").read_bytes() == before
    assert (await asyncsink.verify_manifest(manifest)).ok


@pytest.mark.usefixtures("proofs")
async def test_a_damaged_manifest_is_kept(tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m"
    await asyncsink.export_directory(tree, tmp_path / "out", manifest=manifest)
    damaged = manifest.read_bytes().replace(b'{"record":"receipt"', b"\0\0\0", 1)
    manifest.write_bytes(damaged)
    await asyncsink.export_directory(tree, tmp_path / "out", manifest=manifest)
    assert (tmp_path / "m.1").read_bytes() == damaged
    assert (await asyncsink.verify_manifest(manifest)).ok


async def test_a_link_stays_a_link_and_its_target_is_replaced(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "m"
    link.symlink_to("kept/m.jsonl")
    for _ in range(2):
        await asyncsink.export_directory(tree, tmp_path / "out", manifest=link)
    assert link.is_symlink()
    assert [each.name for each in (tmp_path / "kept").iterdir()] == ["m.jsonl"]
    assert (await asyncsink.verify_manifest(link)).ok


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Path.mkdir, "is a directory"),
        (make_fifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/full"), "is no regular file"),
        (lambda path: path.symlink_to("/dev/stdout"), "is a stream of this process"),
        (lambda path: path.symlink_to(path.name), "cannot be created"),
        (lambda path: path.write_text("thesis"), "is no manifest"),
        (lambda path: make_fifo(path.with_name("m.partial")), "is no regular file"),
        (lambda path: path.with_name("m.partial").mkdir(), "is a directory"),
        (lambda path: path.with_name("m.partial").symlink_to("elsewhere"), "is no regular file"),
        (lambda path: path.with_name("m.partial").write_text("thesis"), "is no manifest"),
    ],
)
async def test_names_that_are_none_for_a_manifest(
    tree: Path, tmp_path: Path, make: Callable[[Path], Any], fault: str
) -> None:
    make(tmp_path / "m")
    before = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=fault):
        await asyncsink.export_directory(tree, tmp_path / "out", manifest=tmp_path / "m")
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "out") == before
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null", "a\0b", "x" * 300])
async def test_streams_and_impossible_names(tree: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="manifest"):
        await asyncsink.export_directory(tree, tmp_path / "out", manifest=name)


@pytest.mark.parametrize("place", ["itself", "below", "by a link to the folder", "as a link to elsewhere"])
async def test_a_manifest_inside_of_what_is_published_is_refused(tree: Path, tmp_path: Path, place: str) -> None:
    manifest = tree / "sub" / "m.jsonl"
    source: Path = tree
    if place == "itself":
        manifest, source = tree / "a.txt", tree / "a.txt"
    elif place == "by a link to the folder":
        (tmp_path / "link").symlink_to(tree)
        manifest = tmp_path / "link" / "m.jsonl"
    elif place == "as a link to elsewhere":
        manifest.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"lies inside the source .* name a file outside"):
        await asyncsink.export({"m": source}, tmp_path / "out", manifest=manifest)


async def test_a_sink_does_not_publish_its_own_manifest(tree: Path, tmp_path: Path) -> None:
    """It is not known beforehand what a sink is given; the folder that holds the manifest may be."""
    (tmp_path / "link").symlink_to(tree)
    async with asyncsink.AsyncSink(tmp_path / "out", manifest=tree / "m.jsonl") as sink:
        for path in (tree, tree / "m.jsonl.partial", tmp_path / "link" / "m.jsonl.partial"):
            with pytest.raises(ConfigError, match="where this run keeps its own records"):
                await sink.submit("m", path)
    assert not list((tmp_path / "out").rglob("m.jsonl*"))


async def test_verify_counts_what_it_reads(tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m"
    await asyncsink.export_directory(tree, tmp_path / "out", manifest=manifest)
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([lines[0], *lines[3:]]))
    report = await asyncsink.verify_manifest(manifest)
    assert (report.ok, report.problems_total, report.checked) == (False, 0, 3)
    assert "2 fewer receipts than the 5 that its end counts" in report.summary()
    manifest.write_text("".join([*lines[:2], *lines[1:]]))
    assert "1 more receipts than the 5 that its end counts" in (await asyncsink.verify_manifest(manifest)).summary()


async def test_where_only_an_interrupted_run_was_verify_says_so(tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m"
    await interrupted_after(1, tree, str(tmp_path / "out"), manifest=manifest)
    with pytest.raises(ConfigError, match=r"No such file or directory; an interrupted run left '.*m\.partial'"):
        await asyncsink.verify_manifest(manifest)


@pytest.mark.parametrize("what", ["removed", "replaced"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_journal_that_is_taken_away_in_mid_run_is_told(
    many: Path,
    tmp_path: Path,
    bucket: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    named: bool,
) -> None:
    """An error where the run was to have one; else a note, since everything is compared with the server next time."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    journal = {"journal": tmp_path / "state" / "mine"} if named else {}
    (tmp_path / "state").mkdir()
    settings = parse_options(f"s3://{bucket}/p", {**options, **journal})

    def observe(event: Any) -> None:
        if isinstance(event, Finished):
            for file in filter(Path.is_file, (tmp_path / "state").rglob("*")):
                if what == "removed":
                    file.unlink()
                else:
                    shutil.copy(file, tmp_path / "copy")
                    os.replace(tmp_path / "copy", file)

    run = run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)
    if named:
        with pytest.raises(JournalError, match="was removed or replaced while the run went on"):
            await run
    else:
        report = await run
        assert report.objects_uploaded == FILES
        assert any("was removed or replaced while the run went on" in notice for notice in report.notices)


def test_a_manifest_that_is_lost_when_everything_is_published_leaves_no_rest(tmp_path: Path) -> None:
    source, manifest = tmp_path / "source", tmp_path / "receipts.jsonl"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.txt").write_text(str(number))

    def quirk(r: Request) -> None:
        if r.method == "PUT" and r.key:
            manifest.with_name(manifest.name + ".partial").unlink(missing_ok=True)

    with quirky_s3(quirk) as server:
        words = ("export", source, "s3://tryout/p", "--manifest", manifest)
        lost = run_command(*words, env=server.environment(tmp_path))
        said = lost.stderr.decode()
        assert lost.returncode == 1
        assert len(server.bodies()) == 3
        assert "3 of 3 files" in said
        assert "publish the rest" not in said
        assert "No file is missing; the same command again completes the records of the run." in said
        server.quirk = None
        again = run_command(*words, env=server.environment(tmp_path))
        assert again.returncode == 0, again.stderr
        assert len(server.requests("PUT")) == 3
    assert manifest.read_text().count('"record":"skip"') == 3
