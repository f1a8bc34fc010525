"""Many manifests become one, and what is wrong with any of them is named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.errors import ConfigError
from asyncsink.maintenance.manifests import in_ranges
from asyncsink.maintenance.merge import common_destination, difference
from asyncsink.model import Checksum, Failure, Planned, Receipt, Skip
from tests.support.manifests import (
    checksum_of,
    failure_of,
    manifest_of,
    receipt_of,
    skip_of,
    write_manifest,
    write_split,
)

pytestmark = pytest.mark.anyio


async def test_jobs_that_were_never_split_become_one_manifest_that_verifies(
    tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    """Three subjects, one re-run: every object is listed once, and the manifest is as good as that of one run."""
    for subject in ("01", "02", "03", "02"):
        source = tmp_path / f"work-{subject}"
        source.mkdir(exist_ok=True)
        (source / "bold.nii").write_text(f"subject {subject}")
        (source / "anat.nii").write_text("the same everywhere")
        (tmp_path / "again").mkdir(exist_ok=True)
        path = tmp_path / f"sub-{subject}.jsonl"
        path = tmp_path / "again" / path.name if path.exists() else path
        await asyncsink.export_directory(source, f"s3://{bucket}/study/sub-{subject}", manifest=path, **options)
    found = sorted(tmp_path.rglob("sub-*.jsonl"))
    report = await asyncsink.merge_manifests(found, tmp_path / "study.jsonl")
    assert (report.ok, report.merged, report.problems, report.notices) == (True, 4, [], [])
    assert report.summary() == f"{tmp_path / 'study.jsonl'} has 6 objects of 4 manifests."
    header, outcomes, end = manifest_of(tmp_path / "study.jsonl")
    assert header.destination == f"s3://{bucket}/study"
    assert (end.receipts, end.skips, end.failures, end.interrupted) == (6, 0, 0, False)
    assert [outcome.key for outcome in outcomes if isinstance(outcome, Receipt)] == sorted(
        f"study/sub-0{number}/{name}.nii" for number in (1, 2, 3) for name in ("anat", "bold")
    )
    verified = await asyncsink.verify_manifest(tmp_path / "study.jsonl", read_back=True)
    assert (verified.ok, verified.confirmed_by) == (True, {"read-back": 6})


async def test_buckets_and_prefixes_may_differ(
    tmp_path: Path, bucket: str, new_bucket: Any, s3: Any, options: dict[str, Any]
) -> None:
    """The same key in two buckets is two objects, and each is looked for in its own bucket."""
    other = new_bucket()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.txt").write_text("alpha")
    for name in (bucket, other):
        await asyncsink.export_directory(
            tmp_path / "work", f"s3://{name}/p", manifest=tmp_path / f"{name}.jsonl", **options
        )
    merged = tmp_path / "merged"
    report = await asyncsink.merge_manifests([tmp_path / f"{bucket}.jsonl", tmp_path / f"{other}.jsonl"], merged)
    assert (report.ok, report.counts.objects_uploaded) == (True, 2)
    assert manifest_of(merged)[0].destination == "s3://"
    assert (await asyncsink.verify_manifest(merged)).confirmed_by == {"checksum": 2}
    s3.delete_object(Bucket=other, Key="p/a.txt")
    verified = await asyncsink.verify_manifest(merged)
    assert [(url, message) for _, url, message in verified.problems] == [(f"s3://{other}/p/a.txt", "it is not there")]
    s3.delete_bucket(Bucket=other)


async def test_a_manifest_cannot_name_buckets_without_limit(tmp_path: Path) -> None:
    receipts = [receipt_of("a", bucket=f"bucket-{number}") for number in range(1001)]
    path = write_manifest(tmp_path / "1", receipts, destination="s3://")
    with pytest.raises(ConfigError, match="more than 1,000 buckets"):
        await asyncsink.verify_manifest(path)


@pytest.mark.parametrize("late", ["receipt", "skip"])
async def test_a_receipt_wins_over_a_skip_of_the_same_object(tmp_path: Path, late: str) -> None:
    receipt, skip = receipt_of("a", etag="e"), skip_of("a", etag="e")
    first, second = (skip, receipt) if late == "receipt" else (receipt, skip)
    paths = [
        write_manifest(tmp_path / "1", [first, skip_of("b", checksum=None)]),
        write_manifest(tmp_path / "2", [second, skip_of("b")], started=1),
    ]
    report = await asyncsink.merge_manifests(paths, tmp_path / "out")
    assert report.ok
    _, outcomes, end = manifest_of(tmp_path / "out")
    assert outcomes == [receipt, skip_of("b")]
    assert (end.receipts, end.skips) == (1, 1)


async def test_two_objects_under_one_key_are_an_overlap(tmp_path: Path) -> None:
    """The later run's record stands, whatever the order of the words; the other source is a failure."""
    later = write_manifest(tmp_path / "later", [receipt_of("a", "two", source="/y")], started=2)
    sooner = write_manifest(tmp_path / "sooner", [receipt_of("a", "one", source="/x"), receipt_of("b")], started=1)
    report = await asyncsink.merge_manifests([later, sooner], tmp_path / "out")
    assert (report.ok, report.overlaps, report.problems_total, report.interrupted) == (False, 1, 1, False)
    ((url, sentence),) = report.problems
    assert url == "s3://results/a"
    assert all(word in sentence for word in (str(later), str(sooner), str(checksum_of("one")), str(checksum_of("two"))))
    _, outcomes, end = manifest_of(tmp_path / "out")
    assert outcomes[:2] == [receipt_of("a", "two", source="/y"), receipt_of("b")]
    assert isinstance(outcomes[2], Failure)
    assert (outcomes[2].source, outcomes[2].error) == ("/x", "KeyCollision")
    assert (end.receipts, end.failures) == (2, 1)


async def test_a_key_that_one_run_published_twice_is_no_overlap(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "1", [receipt_of("a", "one"), receipt_of("a", "two")])
    report = await asyncsink.merge_manifests(path, tmp_path / "out")
    assert report.ok
    assert manifest_of(tmp_path / "out")[1] == [receipt_of("a", "two")]


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (receipt_of("a"), receipt_of("a", etag="other"), ""),
        (receipt_of("a"), receipt_of("a", "two"), "checksums"),
        (receipt_of("a"), skip_of("a", checksum=None, etag="e"), ""),
        (receipt_of("a", checksum=None, etag="d"), skip_of("a", checksum=None, etag="e"), "ETags d and e"),
        (receipt_of("a"), Skip("/data/a", "a", "s3://results/a", 11, "same checksum"), "10 and 11 bytes"),
        (receipt_of("a"), receipt_of("a", checksum=Checksum("SHA256", "x="), etag="e"), ""),
        (receipt_of("a"), receipt_of("a", checksum=Checksum("CRC64NVME", "AAAAAAAAAAA=-3")), ""),
    ],
)
async def test_what_shows_that_two_records_are_of_different_objects(one: Any, other: Any, words: str) -> None:
    for said in (difference(one, other), difference(other, one)):
        assert bool(said) == bool(words)
    assert words in difference(one, other)


@pytest.mark.parametrize(
    ("wrong", "sentence", "interrupted"),
    [
        ({"end": False}, "has no end", True),
        ({"interrupted": True}, "was interrupted", True),
        ({"outcomes": [failure_of("a")]}, "left 1 entry unpublished", False),
        ({"outcomes": [Planned("/data/a", "a", "s3://results/a", 1, "not there")]}, "left 1 entry unpublished", False),
        ({"outcomes": [receipt_of("a"), failure_of("a", stage="local copy")]}, "", False),
    ],
)
async def test_manifests_that_are_not_complete_are_named(
    tmp_path: Path, wrong: dict[str, Any], sentence: str, interrupted: bool
) -> None:
    bad = write_manifest(tmp_path / "bad", **({"outcomes": [receipt_of("a")]} | wrong))
    good = write_manifest(tmp_path / "good", [receipt_of("b")])
    report = await asyncsink.merge_manifests([good, bad], tmp_path / "out")
    assert report.ok == (not sentence)
    assert [path for path, _ in report.problems] == [str(bad)] * bool(sentence)
    assert all(sentence in said for _, said in report.problems)
    _, outcomes, end = manifest_of(tmp_path / "out")
    assert len(outcomes) == 1 + len(wrong.get("outcomes", [0])), "what it does say is taken over"
    assert end.interrupted == interrupted


async def test_a_failure_that_a_later_run_made_good_counts_no_more(tmp_path: Path) -> None:
    """The sooner run's receipt makes nothing good, and neither does another source under the same key."""
    failed = [failure_of("a"), failure_of("b"), failure_of("c", source="/other/c")]
    paths = [
        write_manifest(tmp_path / "1", [receipt_of("b")]),
        write_manifest(tmp_path / "2", failed, started=1),
        write_manifest(tmp_path / "3", [receipt_of("a"), receipt_of("c")], started=2),
    ]
    report = await asyncsink.merge_manifests(paths, tmp_path / "out")
    assert [(path, "left 2 entries" in said) for path, said in report.problems] == [(str(paths[1]), True)]
    failures = [outcome for outcome in manifest_of(tmp_path / "out")[1] if isinstance(outcome, Failure)]
    assert failures == failed[1:]
    write_manifest(paths[1], failed[:1], started=1)
    assert (await asyncsink.merge_manifests(paths, tmp_path / "out")).ok


async def test_what_an_interrupted_run_left_is_taken_over_and_named(tmp_path: Path) -> None:
    write_manifest(tmp_path / "1.partial", [receipt_of("a")], end=False)
    write_manifest(tmp_path / "2", [receipt_of("b")])
    write_manifest(tmp_path / "2.partial", [receipt_of("c")], interrupted=True)
    (tmp_path / "3.partial").write_text("")
    write_manifest(tmp_path / "3", [receipt_of("d")])
    names = [tmp_path / name for name in ("1", "2", "2.partial", "3")]
    report = await asyncsink.merge_manifests(names, tmp_path / "out")
    assert [path for path, _ in report.problems] == [str(tmp_path / "1.partial"), str(tmp_path / "2.partial")]
    assert report.counts.objects_uploaded == 4


async def test_missing_and_unfinished_parts_of_a_split_are_named_by_number(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 1, 1, 1, 1, 1])
    write_manifest(tmp_path / "receipts-0.jsonl", [receipt_of("a"), skip_of("b")])
    write_manifest(tmp_path / "receipts-00001.jsonl", [receipt_of("c")])
    write_manifest(tmp_path / "receipts-1.jsonl.partial", [], end=False)  # a second attempt at a finished part
    write_manifest(tmp_path / "receipts-2.jsonl.partial", [], end=False)
    report = await asyncsink.merge_manifests(tmp_path, tmp_path / "receipts-all.jsonl")
    missing, *unfinished = report.problems
    assert missing[0] == str(tmp_path)
    assert missing[1].startswith("Parts 3-5 of the 6 parts of the split ")
    assert [Path(path).name for path, _ in unfinished] == ["receipts-2.jsonl.partial"]
    assert manifest_of(tmp_path / "receipts-all.jsonl")[2].interrupted
    for number in range(2, 6):
        write_manifest(tmp_path / f"receipts-{number}.jsonl", [receipt_of(str(number))])
    (tmp_path / "receipts-all.jsonl.partial").write_text((tmp_path / "receipts-all.jsonl").read_text())  # a killed one
    again = await asyncsink.merge_manifests(tmp_path, tmp_path / "receipts-all.jsonl")
    assert (again.ok, again.problems, again.counts.objects_total) == (True, [], 7), "its own output is not among them"


async def test_a_part_with_too_few_records_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, [3])
    write_manifest(tmp_path / "receipts-0.jsonl", [receipt_of("a"), failure_of("a", stage="local copy"), skip_of("b")])
    report = await asyncsink.merge_manifests(tmp_path, tmp_path / "out")
    assert report.problems == [(str(tmp_path / "receipts-0.jsonl"), "The manifest lists 2 of the 3 files of its part.")]


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([1, 3, 4, 9], "1, 3-4, 9")])
async def test_numbers_in_ranges(numbers: list[int], text: str) -> None:
    assert in_ranges(numbers) == text


@pytest.mark.parametrize(
    ("destinations", "common"),
    [
        (["s3://b/p", "s3://b/p"], "s3://b/p"),
        (["s3://b/p/x", "s3://b/p/y"], "s3://b/p"),
        (["s3://b/p", "S3://b/p/y/"], "s3://b/p"),
        (["s3://b/sub-01", "s3://b/sub-02"], "s3://b"),
        (["s3://b", "s3://c"], "s3://"),
        (["s3://", "s3://c/p"], "s3://"),
        (["/data/a/x", "/data/a/y"], "/data/a"),
    ],
)
async def test_the_destination_of_all(destinations: list[str], common: str) -> None:
    assert common_destination(destinations) == common


async def test_merged_manifests_are_merged_again(tmp_path: Path) -> None:
    """What one of them has as an overlap stays named."""
    first = [
        write_manifest(tmp_path / "1", [receipt_of("a", "one")]),
        write_manifest(tmp_path / "2", [receipt_of("a", "two")], started=1),
    ]
    assert not (await asyncsink.merge_manifests(first, tmp_path / "first")).ok
    other = write_manifest(tmp_path / "3", [receipt_of("a", "one", bucket="other")], destination="s3://other/p")
    await asyncsink.merge_manifests([first[1], other], tmp_path / "second")
    last = write_manifest(tmp_path / "4", [receipt_of("b")], started=2)
    report = await asyncsink.merge_manifests([tmp_path / "second", last, tmp_path / "first"], tmp_path / "all")
    assert [(path, "left 1 entry" in said) for path, said in report.problems] == [(str(tmp_path / "first"), True)]
    header, outcomes, end = manifest_of(tmp_path / "all")
    assert header.destination == "s3://"
    assert [outcome.url for outcome in outcomes] == [
        "s3://other/a", "s3://results/a", "s3://results/b", "s3://results/a"
    ]  # fmt: skip
    assert (end.receipts, end.failures) == (3, 1)


async def test_local_destinations_are_merged_and_verified(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.txt").write_text("alpha")
    for name in ("x", "y"):
        await asyncsink.export_directory(tmp_path / "work", tmp_path / "out" / name, manifest=tmp_path / f"{name}.m")
    report = await asyncsink.merge_manifests([tmp_path / "x.m", tmp_path / "y.m"], tmp_path / "m")
    assert report.ok
    assert (await asyncsink.verify_manifest(tmp_path / "m")).confirmed_by == {"read-back": 2}


async def refused(paths: Any, out: Path, words: str) -> None:
    before = {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=words):
        await asyncsink.merge_manifests(paths, out)
    assert {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()} == before


async def test_what_cannot_be_merged_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one = write_manifest(tmp_path / "1", [receipt_of("a")])
    text = tmp_path / "notes.txt"
    text.write_text("no manifest\n")
    broken = tmp_path / "broken"
    broken.write_text("\n".join([one.read_text().splitlines()[0], "{", ""]))
    elsewhere = write_manifest(tmp_path / "2", [], endpoint_url="https://s3.example.org")
    local = write_manifest(tmp_path / "3", [], destination=str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "split.json").write_text("[]")
    out = tmp_path / "out"
    await refused([], out, "No manifest")
    await refused([one, tmp_path / "gone"], out, "gone")
    await refused([one, text], out, "notes.txt', line 1")
    await refused([one, broken], out, "broken', line 2")
    await refused([one, elsewhere], out, "one server")
    await refused([one, local], out, "some of directories")
    await refused(tmp_path / "empty", out, "holds no receipts")
    await refused(tmp_path / "spoilt", out, "split.json' is of no split")
    await refused([one, elsewhere], one, "one server|one of those")
    await refused([one], one, "one of those")
    (tmp_path / "link").symlink_to(one)
    await refused([one], tmp_path / "link", "one of those")
    await refused([one], text, "no manifest")
    assert not (tmp_path / "out.partial").exists()


async def test_nothing_stays_of_a_merge_that_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_manifest(tmp_path / "out", [receipt_of("z")]).read_bytes()
    one = write_manifest(tmp_path / "1", [receipt_of("a")])
    with anyio.CancelScope() as scope:
        from asyncsink.maintenance.merge import Merger

        monkeypatch.setattr(Merger, "make_good", lambda _: anyio.from_thread.run_sync(scope.cancel))
        await asyncsink.merge_manifests(one, tmp_path / "out")
    assert scope.cancelled_caught
    assert (tmp_path / "out").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "out"]


async def test_receipts_of_a_replaced_merge_stay(tmp_path: Path) -> None:
    """As with an export: what the new manifest lacks is kept under another name, with a notice."""
    write_manifest(tmp_path / "out", [receipt_of("z")])
    report = await asyncsink.merge_manifests(write_manifest(tmp_path / "1", [receipt_of("a")]), tmp_path / "out")
    assert [str(tmp_path / "out.1") in notice for notice in report.notices] == [True]
    assert manifest_of(tmp_path / "out.1")[1] == [receipt_of("z")]


@pytest.mark.long
async def test_memory_does_not_grow_with_the_number_of_keys(tmp_path: Path) -> None:
    def peak(keys: int) -> int:
        paths = [
            write_manifest(tmp_path / f"{keys}-{part}", [receipt_of(f"{part}/{n:06}") for n in range(keys)])
            for part in range(2)
        ]
        tracemalloc.start()
        try:
            report = anyio.run(asyncsink.merge_manifests, paths, tmp_path / f"{keys}-out")
            return tracemalloc.get_traced_memory()[1] if report.counts.objects_total == 2 * keys else -1
        finally:
            tracemalloc.stop()

    few, many = [await anyio.to_thread.run_sync(peak, keys) for keys in (3_000, 15_000)]
    assert 0 < many < few * 1.5


async def test_names_that_are_not_utf8_pass(tmp_path: Path) -> None:
    odd = receipt_of("a", source="/data/\udcff\n")
    await asyncsink.merge_manifests(write_manifest(tmp_path / "1", [odd]), tmp_path / "out")
    assert manifest_of(tmp_path / "out")[1] == [odd]
