"""Which files of a directory are published: patterns against git as an oracle, presets, lists, links of git-annex."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import asyncsink
from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import Policies
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.listed import ListedSource
from asyncsink.sources.patterns import IGNORE_FILE, PRESETS, Patterns
from asyncsink.sources.selection import Selection
from asyncsink.sources.several import SeveralSources
from asyncsink.splitting.cutting import ByLimits
from asyncsink.splitting.part_of_run import parts_of_run, rules_of
from tests.support.guide import GUIDE

Found = SourceFile | SourceProblem


def walked(root: Path, *, symlinks: Any = "inside", **policies: Any) -> tuple[list[str], dict[str, str]]:
    """The relative paths that are published, and why others are not."""
    source = DirectorySource(root, symlinks=symlinks, selection=Selection(Policies(**policies)))
    return told(root, source.scan())


def told(root: Path, scan: Iterable[Found]) -> tuple[list[str], dict[str, str]]:
    found = list(scan)
    files = [each.relative for each in found if isinstance(each, SourceFile)]
    problems = [each for each in found if isinstance(each, SourceProblem)]
    return files, {os.path.relpath(each.path, root): each.reason or str(each.error) for each in problems}


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


# -- git decides the same ----------------------------------------------------------------------------------------------

FOLDERS = ("", "a/", "a/b/", "a/b/a/", "work.d/")
NAMES = ("a", "b", "ab", "a.b", "x.tmp", "c d", "#a", "!b", "[x]")
TOKENS = (
    "a",
    "b",
    "ab",
    "*",
    "**",
    "?",
    "/",
    ".",
    "x.tmp",
    "[ab]",
    "[!a]",
    "[a-c]",
    r"\*",
    r"\[x\]",
    "c d",
    "é",
    "work.d",
)
patterns = st.builds(
    lambda lead, tokens, tail: lead + "".join(tokens) + tail,
    st.sampled_from(["", "", "", "!", "/", r"\#", r"\!", "!/"]),
    st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4),
    st.sampled_from(["", "", "/", " ", "/**", "/*"]),
)
patterns = patterns.filter(lambda text: not re.search(r"[^/!]\*\*|\*\*[^/ ]", text))
"""Without stars beside a "**": git reads beyond the beginning of the pattern there."""
lines = st.lists(patterns | st.sampled_from(["# a comment", ""]), max_size=4)


def accepted(texts: list[str]) -> bool:
    """Whether asyncsink takes the patterns; git never matches those that it refuses."""
    try:
        Patterns(texts, where="exclude")
    except ConfigError:
        return False
    return True


@pytest.fixture(scope="module")
def tree_for_git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree, and beside it a repository without anything in it."""
    place = tmp_path_factory.mktemp("git")
    make(place / "tree", *(a + b for a in FOLDERS for b in NAMES if f"{a}{b}/" not in FOLDERS))
    subprocess.run(["git", "init", "-q", "--bare", place / "git"], check=True)
    return place / "tree"


def not_ignored(root: Path, exclude: list[str]) -> set[str]:
    """What git does not ignore."""
    words = ["git", "-c", "core.excludesFile=/dev/null", f"--git-dir={root.parent}/git", f"--work-tree={root}"]
    words += ["ls-files", "-oz", f"--exclude-per-directory={IGNORE_FILE}", *(f"--exclude={each}" for each in exclude)]
    listed = subprocess.run(words, cwd=root, check=True, capture_output=True).stdout.decode()
    return {name for name in listed.split("\0") if name and not name.endswith(IGNORE_FILE)}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(patterns, max_size=3), st.dictionaries(st.sampled_from(FOLDERS), lines, max_size=3))
def test_patterns_leave_out_what_git_ignores(
    tree_for_git: Path, exclude: list[str], ignores: dict[str, list[str]]
) -> None:
    exclude = [text.rstrip() for text in exclude]  # git takes spaces at the end out in files alone
    assume(all(map(accepted, [exclude, *ignores.values()])))
    for folder in FOLDERS:
        place = tree_for_git / folder / IGNORE_FILE
        place.unlink(missing_ok=True)
        if folder in ignores:
            place.write_text("\n".join(ignores[folder]), encoding="utf-8")
    assert set(walked(tree_for_git, exclude=tuple(exclude))[0]) == not_ignored(tree_for_git, exclude)


@pytest.mark.parametrize("pattern", ["[", "a\\", "/", "!", "[z-a]", "a[/]b"])
def test_malformed_patterns_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^include=.* is a malformed pattern"):
        walked(tmp_path, include=(pattern,))
    make(tmp_path, "sub/a")
    (tmp_path / "sub" / IGNORE_FILE).write_text(f"*.tmp\n{pattern}\n")
    _, problems = walked(tmp_path)
    assert "a malformed pattern" in problems[f"sub/{IGNORE_FILE}"]


# -- The order of precedence -------------------------------------------------------------------------------------------


def test_the_last_pattern_decides_preset_then_ignore_files_then_options(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make(root, "work/a", "x.tmp", "y.tmp", "sub/x.tmp", "sub/z.log", "sub/keep.log", ".git/config")
    (root / IGNORE_FILE).write_text("*.log\n")
    (root / "sub" / IGNORE_FILE).write_text("# all of mine\n!keep.log\nx.*\n")
    (tmp_path / "more").write_text("*.tmp\n!y.tmp\n")
    more = (str(tmp_path / "more"),)
    assert walked(root, preset="bids")[0] == ["sub/keep.log", "x.tmp", "y.tmp"]
    files, why = walked(root, preset="bids", exclude=("!work/", "!/sub/x.tmp"), exclude_from=more)
    assert files == ["sub/keep.log", "sub/x.tmp", "work/a", "y.tmp"]
    assert why == {
        ".asyncsinkignore": "asyncsink's own file",
        ".git": "excluded by '.git' of the preset bids",
        "sub/.asyncsinkignore": "asyncsink's own file",
        "sub/z.log": "excluded by '*.log' of .asyncsinkignore",
        "x.tmp": "excluded by '*.tmp' of more",
    }


def test_include_chooses_and_exclude_takes_away_in_any_order(tmp_path: Path) -> None:
    make(tmp_path, "a.json", "a.nii", "sub/b.json", "sub/b.nii", "sub/deep/c.nii", "sub/deep/c.tmp", "d.json")
    (tmp_path / "link.nii").symlink_to("gone")
    files, why = walked(tmp_path, include=("*.json", "sub/deep/", "!*.tmp"), exclude=("d.*",))
    assert files == ["a.json", "sub/b.json", "sub/deep/c.nii"]
    assert why["a.nii"] == why["sub/deep/c.tmp"] == why["link.nii"] == "not included"
    assert why["d.json"] == "excluded by 'd.*'"


@pytest.mark.parametrize("what", ["a link", "a folder", "no UTF-8", "too long"])
def test_an_ignore_file_that_cannot_be_read_refuses_the_run(tmp_path: Path, what: str) -> None:
    make(tmp_path, "a", "sub/b")
    place = tmp_path / "sub" / IGNORE_FILE
    if what == "a link":
        place.symlink_to("../a")
    elif what == "a folder":
        place.mkdir()
    else:
        place.write_bytes(b"ok\n\xff\n" if what == "no UTF-8" else b"a" * ((1 << 20) + 1))
    source = DirectorySource(tmp_path, symlinks="inside", selection=Selection(Policies()))
    (problem,) = (each for each in source.scan() if isinstance(each, SourceProblem))
    assert (problem.path, problem.skippable, problem.unreadable) == (str(place), False, False)
    assert IGNORE_FILE in str(problem.error)


# -- Presets, and a git-annex ------------------------------------------------------------------------------------------


def test_the_guide_lists_what_the_presets_leave_out() -> None:
    page = (GUIDE / "choosing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    own = {name: set(re.findall(r"`([^`]+)`", row)) for name, row in rows.items()}
    assert own["datalad"] == set(PRESETS["datalad"])
    assert own["bids"] | own["datalad"] == set(PRESETS["bids"])


@pytest.fixture
def annexed(tmp_path: Path) -> Path:
    """A dataset as DataLad keeps it: a link into the annex, one whose content is absent, one that is a pointer."""
    root = tmp_path / "dataset"
    make(root, ".git/annex/objects/X/k1/k1", ".datalad/config", "README", "sub-01/anat/note.txt", ".DS_Store", "work/t")
    (root / "sub-01/anat/T1w.nii.gz").symlink_to("../../.git/annex/objects/X/k1/k1")
    return root


@pytest.mark.parametrize("preset", ["bids", "datalad"])
def test_a_dataset_is_sent_once_and_its_annexed_files_are_data(annexed: Path, preset: str) -> None:
    files, why = walked(annexed, preset=preset)
    other = [".DS_Store", "README", "sub-01/anat/T1w.nii.gz", "sub-01/anat/note.txt", "work/t"]
    assert files == (other if preset == "datalad" else other[1:4])
    assert why[".git"] == f"excluded by '.git' of the preset {preset}"
    # A part of the dataset, whose links lead out of it.
    assert walked(annexed / "sub-01", preset=preset) == (["anat/T1w.nii.gz", "anat/note.txt"], {})
    assert "leads out" in walked(annexed / "sub-01")[1]["anat/T1w.nii.gz"]
    (annexed / "sub-01/other.nii").symlink_to("../../elsewhere")
    (annexed.parent / "elsewhere").write_text("secret")
    assert "leads out" in walked(annexed / "sub-01", preset=preset)[1]["other.nii"]


def test_content_that_is_on_another_machine_is_named(annexed: Path) -> None:
    (annexed / "sub-01/absent.nii").symlink_to("../.git/annex/objects/Y/k2/k2")
    (annexed / "sub-01/pointer.nii").write_text("/annex/objects/MD5E-s100--0123.nii\n")
    _, why = walked(annexed, preset="datalad")
    assert all("datalad get" in why[f"sub-01/{name}.nii"] for name in ("absent", "pointer"))


# -- Lists of paths, and several sources -------------------------------------------------------------------------------


def listed(root: Path, paths: Any, *, symlinks: Any = "inside", **policies: Any) -> tuple[list[str], dict[str, str]]:
    source = ListedSource(root, paths, symlinks=symlinks, selection=Selection(Policies(**policies)))
    return told(root, source.scan())


def test_a_list_gives_the_keys_and_rules_of_the_whole_walk(annexed: Path, tmp_path: Path) -> None:
    make(annexed, "sub-01/x.tmp", "sub-01/func/a.nii", "sub-01/func/b.tmp")
    (annexed / "sub-01" / IGNORE_FILE).write_text("*.tmp\n")
    (tmp_path / "list").write_text(
        f"README\n\n# a comment\nsub-01/x.tmp\n./sub-01/func/\n{annexed}/sub-01/anat/T1w.nii.gz\ngone/x\n.git/config\n"
    )
    files, why = listed(annexed, str(tmp_path / "list"), preset="bids")
    assert files == ["README", "sub-01/func/a.nii", "sub-01/anat/T1w.nii.gz"]
    assert why["sub-01/x.tmp"] == why["sub-01/func/b.tmp"] == "excluded by '*.tmp' of .asyncsinkignore"
    assert why[".git/config"] == "excluded by '.git' of the preset bids"
    assert "does not exist" in why["gone"]
    assert listed(annexed, ["."], preset="bids")[0] == walked(annexed, preset="bids")[0]
    assert listed(annexed, ["sub-01/func/a.nii", "README"], include=("*.nii",))[0] == ["sub-01/func/a.nii"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", ".."])
def test_a_path_that_leaves_the_directory_is_refused(annexed: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"files_from, path 2, is .* not below the source directory"):
        listed(annexed, ["README", path])


def test_links_on_the_way_to_a_listed_file(annexed: Path, tmp_path: Path) -> None:
    make(tmp_path, "outside/a")
    (annexed / "out").symlink_to(tmp_path / "outside")
    (annexed / "in").symlink_to("sub-01")
    assert "leads out" in listed(annexed, ["out/a"])[1]["out"]
    assert listed(annexed, ["out/a"], symlinks="follow") == (["out/a"], {})
    assert listed(annexed, ["in/anat/note.txt"]) == (["in/anat/note.txt"], {})
    assert "symlinks='skip'" in listed(annexed, ["in/anat/note.txt"], symlinks="skip")[1]["in"]


def test_several_sources_go_under_their_own_names(tmp_path: Path) -> None:
    make(tmp_path, "a/x/1.json", "a/x/2.tmp", "b/3.tsv", "c.tmp", "d.json")
    paths = [str(tmp_path / name) for name in ("a/x", "b", "c.tmp", "d.json")]
    selection = Selection(Policies(exclude=("/2.*", "*.tmp")))
    source = SeveralSources(paths, symlinks="inside", selection=selection)
    files, why = told(tmp_path, source.scan())
    assert files == ["x/1.json", "b/3.tsv", "d.json"]
    assert why == {"a/x/2.tmp": "excluded by '*.tmp'", "c.tmp": "excluded by '*.tmp'"}
    assert source.injective
    assert not SeveralSources([paths[0], paths[0]], symlinks="inside", selection=selection).injective


def test_a_part_that_travels_has_the_options_of_its_keys() -> None:
    rules = {
        "*.nii": {"storage_class": "GLACIER_IR"},
        "sub/": {"tags": {"a": "b"}},
        "x.nii": {"storage_class": "GLACIER"},
    }
    settings = parse_options("s3://bucket/p", {"object_options": rules, "acl": "private"})
    transfers = [Transfer(SourceFile(f"/{name}", 1, 1), f"p/{name}", name) for name in ("a.txt", "sub/x.nii", "y.nii")]
    (part,) = parts_of_run(transfers, ByLimits(1 << 20, 10), {})
    given = [each.objects for each in part.transfers(rules_of(settings), "p")]
    assert [each and (each.storage_class, each.tags, each.acl) for each in given] == [
        None, ("GLACIER", (("a", "b"),), "private"), ("GLACIER_IR", (), "private"),
    ]  # fmt: skip


# -- Whole exports -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_sizes_and_ages_count_whatever_the_source(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name, size, age in (("small", 1, 0), ("good", 100, 0), ("large", 5000, 0), ("old", 100, 30), ("new", 100, -1)):
        make(root, name)
        (root / name).write_bytes(b"x" * size)
        when = (root / "small").stat().st_mtime - age * 86400
        os.utime(root / name, (when, when))
    bounds: Any = {"min_size_bytes": 10, "max_size_bytes": "1KiB", "newer_than": "7d", "older_than": "-"}
    bounds["older_than"] = date_of((root / "small").stat().st_mtime + 3600)
    for number, outputs in enumerate(({"@": str(root)}, {"@": [str(each) for each in root.iterdir()]})):
        report = await asyncsink.export(outputs, tmp_path / f"out{number}", **bounds)
        assert [Path(each.source).name for each in report.receipts] == ["good"]
        reasons = sorted(report.counts.left_out_reasons)
        assert [reason.split(" 20")[0] for reason in reasons] == [
            "larger than 1,024 bytes", "newer than", "older than", "smaller than 10 bytes",
        ]  # fmt: skip


def date_of(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().isoformat()


@pytest.mark.anyio
async def test_patterns_that_leave_nothing_are_refused_and_ages_are_not(tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    make(root, "a.nii", "b.nii")
    with pytest.raises(ConfigError, match=r"Nothing is left .* \(not included: 2\)"):
        await asyncsink.export_directory(root, out, include=["*.json"])
    assert not out.exists()
    report = await asyncsink.export_directory(root, out, older_than="1h")
    assert (report.ok, report.objects_uploaded, report.counts.not_published_total) == (True, 0, 2)
    (tmp_path / "empty").mkdir()
    assert (await asyncsink.export_directory(tmp_path / "empty", out, include=["*.json"])).ok
    assert (await asyncsink.export({"@": str(root)}, out, include=["*.json"])).ok, (
        "of a node that may have made nothing"
    )
    with pytest.raises(ConfigError, match="files_from lists files below one directory"):
        await asyncsink.export({"@": str(root)}, out, files_from=["a.nii"])
