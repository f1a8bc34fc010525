"""`check`: what differs between a folder and a bucket, by rclone's markers, and its exit codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.quirky_s3 import QuirkyS3, Request, error, quirky_s3

Cli = Any


@pytest.fixture
def published(inside: Cli, results: Path, bucket: str) -> str:
    """`results`, below a prefix of the bucket."""
    assert inside("export", results, f"s3://{bucket}/study", "--quiet").code == 0
    return f"s3://{bucket}/study"


def test_the_same_everywhere(inside: Cli, results: Path, published: str) -> None:
    same = inside("check", results, published)
    assert (same.code, same.stderr) == (0, "")
    first, how = same.stdout.splitlines()
    assert first.startswith(f"All 4 files (24 bytes) of {results} are in {published}, and nothing else (")
    assert how == "Compared by content: a checksum, or an ETag that is an MD5."


def test_each_difference_has_its_marker(inside: Cli, results: Path, published: str, s3: Any, bucket: str) -> None:
    """Equal sizes do not hide other bytes; a checksum finds them, and --size-only does not."""
    (results / "new.txt").write_text("new")
    (results / "a.txt").write_text("ALPHA")
    (results / "sub/deep/c.json").write_text("{}")
    s3.put_object(Bucket=bucket, Key="study/old/x\x1b.txt", Body=b"old")
    s3.put_object(Bucket=bucket, Key="study/folder/", Body=b"")
    s3.put_object(Bucket=bucket, Key="study-2/other.txt", Body=b"elsewhere")
    found = inside("check", results, published)
    assert (found.code, found.stderr) == (1, "")
    assert found.stdout.splitlines()[:7] == [
        "* a.txt  (checksum differs)",
        "+ new.txt",
        r"- old/x\x1b.txt",
        "* sub/deep/c.json  (size differs)",
        "",
        f"{results} and {published} differ in 4 files.",
        f"2 the same, 2 different, 1 only in {results}, 1 only in {published} "
        + found.stdout.splitlines()[6].rpartition(" (")[2].join(["(", ""]),
    ]
    listed = inside("check", results, published, "--combined")
    assert listed.stdout.splitlines() == [
        "* a.txt", "+ new.txt", r"- old/x\x1b.txt", "= sub/b=1.nii", "* sub/deep/c.json", "= é.par",
    ]  # fmt: skip
    assert (listed.code, listed.stderr.splitlines()[0]) == (1, f"{results} and {published} differ in 4 files.")
    one_way = inside("check", results, published, "--one-way", "--size-only", "--json")
    told = one_way.json
    assert (one_way.code, told["ok"], told["objects_same"], told["objects_same_by_size"]) == (1, False, 3, 3)
    assert [(each["marker"], each["key"], each["size_bytes"]) for each in told["files"]] == [
        ("+", "new.txt", 3),
        ("*", "sub/deep/c.json", 2),
    ]
    assert inside("check", results, published, "-q").stdout == ""


def test_names_and_choices_are_those_of_an_export(inside: Cli, results: Path, bucket: str) -> None:
    how = ["--container", "raw", "--substitute", "sub=sub-01"]
    assert inside("export", results, f"s3://{bucket}/study", *how, "--quiet").code == 0
    assert inside("check", results, f"s3://{bucket}/study", *how).code == 0
    assert inside("check", results, f"s3://{bucket}/study", "--container", "raw").code == 1
    assert inside("export", results, f"s3://{bucket}/plain", "--quiet").code == 0
    left_out = inside("check", results, f"s3://{bucket}/plain", "--exclude", "deep", "--exclude", "*.par")
    assert left_out.code == 0, "what is left out of the folder is no difference in the bucket"
    assert "\nLeft out: 2 files.\n" in left_out.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["results", "elsewhere"], "'elsewhere' is a directory, and a check compares with a bucket; expected s3://"),
        (["nowhere", "s3://tryout/x"], "SOURCE 'nowhere' cannot be read"),
        (["s3://tryout/x", "results"], "a check names the folder first: asyncsink check results s3://tryout/x."),
        (["results", "s3://no-such-bucket-here/x"], "The specified bucket does not exist"),
    ],
)
def test_wrong_words_are_refused(inside: Cli, results: Path, words: list[str], said: str) -> None:
    refused = inside("check", *words)
    assert (refused.code, refused.stdout) == (2, "")
    assert said in refused.stderr


def run_at(s3: QuirkyS3, run_inside: Callable[..., Any], cwd: Path, *words: str) -> tuple[int, str]:
    done = run_inside("check", "results", "s3://tryout/study", *words, env=s3.environment(cwd), cwd=cwd)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_server_without_checksums_is_compared_by_size_and_that_is_said(
    run_inside: Callable[..., Any], results: Path, tmp_path: Path
) -> None:
    with quirky_s3(checksums=False, page=2) as s3:
        env = s3.environment(tmp_path)
        assert run_inside("export", "results", "s3://tryout/study", "-q", env=env, cwd=tmp_path).returncode == 0
        store = s3.objects["tryout"]
        store["study/a.txt"] = replace(store["study/a.txt"], body=b"OTHER", etag='"no-md5"')
        code, told = run_at(s3, run_inside, tmp_path)
        assert (code, "Compared by content, 1 of them by size alone." in told) == (0, True), told
        store["study/sub/other.txt"] = store["study/a.txt"]
        code, told = run_at(s3, run_inside, tmp_path)
        assert (code, told.splitlines()[0]) == (1, "- sub/other.txt")


def test_a_bucket_that_may_not_be_listed_is_no_success(
    run_inside: Callable[..., Any], results: Path, tmp_path: Path
) -> None:
    def quirk(r: Request) -> Any:
        return error(403, "AccessDenied") if r.method == "GET" and not r.key else None

    with quirky_s3() as s3:
        env = s3.environment(tmp_path)
        assert run_inside("export", "results", "s3://tryout/study", "-q", env=env, cwd=tmp_path).returncode == 0
        s3.quirk = quirk
        code, told = run_at(s3, run_inside, tmp_path)
        assert (code, "is not known (--one-way does not look for it)." in told) == (1, True), told
        assert run_at(s3, run_inside, tmp_path, "--one-way")[0] == 0


@pytest.mark.parametrize("content", [b"OTHER", b"another length"])
def test_an_object_that_is_listed_and_may_not_be_looked_at_is_there(
    run_inside: Callable[..., Any], results: Path, tmp_path: Path, content: bytes
) -> None:
    """A HEAD that is denied does not prove that there is nothing: the listing has the object."""

    def quirk(r: Request) -> Any:
        return error(403, "AccessDenied") if r.method == "HEAD" and r.key else None

    with quirky_s3() as s3:
        env = s3.environment(tmp_path)
        assert run_inside("export", "results", "s3://tryout/study", "-q", env=env, cwd=tmp_path).returncode == 0
        store = s3.objects["tryout"]
        store["study/a.txt"] = replace(store["study/a.txt"], body=content, etag='"no-md5"')
        s3.quirk = quirk
        code, told = run_at(s3, run_inside, tmp_path)
        if len(content) == 5:
            assert (code, "1 of them by size alone." in told) == (0, True), told
        else:
            assert (code, told.splitlines()[0]) == (1, "* a.txt  (size differs)")
