"""Nipype's own DataSink and ours, on the same set-ups: what they leave behind is the same, or a rule says why not.

Each set-up is run with both sinks, one after the other, in the same bucket and the same folders, emptied in between.
Compared are keys, content and encryption of the objects, local files, empty local directories, and `out_file`.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from nipype.interfaces.base import Undefined

import asyncsink
from asyncsink.adapters.nipype import DataSink
from asyncsink.adapters.nipype_datasink import NipypeDataSink
from asyncsink.devserver.seaweedfs import DevServer

# Nipype leaves the sources that it compares to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

FOLDERS = ("", "sub-01/", "_subject_id_s1/", "_subject_id_s1/_mn0/", "_a/b/_c/", "a.b/", "_mn/work/")
NAMES = (
    "a.nii.gz", "b.nii", "x.img", "x.hdr", "x.mat", "b.mat", "rp_a.txt", "noext", ".hidden", "s p.txt", "é.tsv",
    "z+orig.BRIK", "z+orig.HEAD", "_u.nii",
)  # fmt: skip
COMPONENTS = ("motion", "con", "@con", "@", "T1w", "a@b", "_p", "con.tr ast")
BAD_ATTRIBUTES = ("a..b", "a.", "..up")
CONTAINERS = (
    "sub001", "pipe/sub-01", "c/", "", "_scan_rest", "./d", "../up", "/abs", "{local}/base/in", "{local}/other",
)  # fmt: skip
SUBSTITUTIONS = (
    ("_subject_id_", "sub-"), ("nii", "NII"), ("a", "o"), (".nii", ".img"), ("sub", "s"), ("motion/", ""),
    ("_mn0/", ""), ("/", "-"), ("con", "c/d"), ("x.", ".."), ("o", "a"), ("_", ""), ("prefix", "P"), ("s3", "S3"),
)  # fmt: skip
REGEXPS = (
    (r"_(\w+?)_", r"\1-"), (r"(\w)\.nii(\.gz)?$", r"\1_bold.nii\2"), (r"/_[^/]*", ""), (r"[aeiou]", ""), (r"$", "_end"),
    (r"^s3://[^/]*/", "s3://other/"), (r"(?i)MOTION", "moved"), (r"/([^/]+)$", r"/d/\1"),
)  # fmt: skip
STRIP_DIRS = ("{work}", "{work}/_a", "_subject_id_s1", "/work")
BASES = (
    "s3://{bucket}/prefix", "s3://{bucket}", "S3://{bucket}/prefix/deep", "s3://{bucket}/prefix/", "{local}/base", None,
)  # fmt: skip
LINKS = ({"sub-01/link.nii": "file"}, {"sub-01/linked": "directory"}, {"sub-01/broken": ""})


@dataclass(frozen=True)
class Case:
    """One set-up. Paths in `outputs` are relative to the work folder; `directories` are there, empty or not."""

    files: dict[str, bytes]
    outputs: dict[str, Any]
    base: str | None = "s3://{bucket}/prefix"
    inputs: dict[str, Any] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)
    again: bool = False
    relative: bool = False

    @property
    def is_s3(self) -> bool:
        return self.base is not None and self.base.lower().startswith("s3://")


paths_of_files = st.builds(str.__add__, st.sampled_from(FOLDERS), st.sampled_from(NAMES))


@st.composite
def values(draw: st.DrawFn, files: list[str]) -> Any:
    """What a node gives out: mostly files that are there."""
    some = st.sampled_from(files)
    folders = sorted({os.path.dirname(name) for name in files} - {""})
    one: st.SearchStrategy[Any] = some
    if folders:
        one = st.one_of(some, some, st.sampled_from(folders), st.sampled_from([f"{name}/" for name in folders]))
    kind = draw(st.integers(0, 19))
    if kind < 7:
        return draw(one)
    if kind < 13:
        return draw(st.lists(one, min_size=1, max_size=4))
    if kind < 15:
        return draw(st.lists(st.lists(one, max_size=3), min_size=1, max_size=3))
    odd: tuple[st.SearchStrategy[Any], ...] = (
        st.tuples(one, one),
        st.just("missing.nii"),
        st.sampled_from([[], (), [[]], None, Undefined, [None]]),
        st.tuples(st.lists(one, min_size=1, max_size=2), one).map(list),
        some.map(Path),
    )
    return draw(odd[kind - 15])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    contents = st.binary(max_size=40)
    files = draw(st.dictionaries(paths_of_files, contents, min_size=1, max_size=6))
    directories = draw(st.lists(st.sampled_from(["sub-01/empty", "_a/b/empty/deep"]), max_size=1))
    links = {}
    if draw(st.integers(0, 7)) == 5:
        links = draw(st.sampled_from(LINKS))
    names = sorted(files) + [name for name in links if links[name] == "file"]
    attributes = st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=3).map(".".join)
    if draw(st.integers(0, 29)) == 17:
        attributes = st.sampled_from(BAD_ATTRIBUTES)
    outputs = draw(st.dictionaries(attributes, values(names), min_size=1, max_size=3))
    base = draw(st.sampled_from(BASES))
    inputs: dict[str, Any] = {}
    if draw(st.booleans()):
        inputs["container"] = draw(st.sampled_from(CONTAINERS if draw(st.integers(0, 9)) == 7 else CONTAINERS[:5]))
    if draw(st.booleans()):
        inputs["parameterization"] = draw(st.booleans())
    if draw(st.integers(0, 2)) == 0:
        inputs["strip_dir"] = draw(st.sampled_from(STRIP_DIRS))
    if draw(st.integers(0, 1)) == 0:
        inputs["substitutions"] = draw(st.lists(st.sampled_from(SUBSTITUTIONS), max_size=2))
    if draw(st.integers(0, 2)) == 0:
        inputs["regexp_substitutions"] = draw(st.lists(st.sampled_from(REGEXPS), max_size=2))
    if draw(st.integers(0, 2)) == 0:
        inputs["local_copy"] = "{local}/copy"
    if draw(st.booleans()):
        inputs["remove_dest_dir"] = draw(st.booleans())
    if draw(st.booleans()):
        inputs["encrypt_bucket_keys"] = draw(st.booleans())
    again, relative = draw(st.integers(0, 4)) == 3, draw(st.integers(0, 4)) == 2
    return Case(files, outputs, base, inputs, tuple(directories), links, again, relative)


@dataclass
class Outcome:
    """What a sink left behind."""

    error: Exception | None
    out_file: list[str]
    objects: dict[str, tuple[bytes, str]]
    """Key: content and encryption."""
    tree: dict[str, bytes]
    empty: set[str]
    """Empty directories below the local place."""


@dataclass
class Place:
    """Where both sinks run, one after the other: the same bucket, the same paths, emptied in between."""

    s3: Any
    bucket: str
    top: Path

    @property
    def work(self) -> Path:
        return self.top / "work"

    @property
    def local(self) -> Path:
        return self.top / "local"

    def run(self, case: Case, sink_class: Any) -> Outcome:
        """Make the set-up, run the sink (twice, with a changed file in between, where the case says so), read back."""
        self._make(case)
        os.chdir(self.local / "cwd")
        try:
            error, out_file = self._sink(case, sink_class)
            if case.again and error is None:
                self._change(case)
                error, out_file = self._sink(case, sink_class)
            return Outcome(error, out_file, self._objects(), *self._tree())
        finally:
            os.chdir("/")
            self._clear()

    def filled(self, value: Any) -> Any:
        if isinstance(value, str):
            names = {"{bucket}": self.bucket, "{work}": str(self.work), "{local}": str(self.local)}
            for name, text in names.items():
                value = value.replace(name, text)
        return value

    def _make(self, case: Case) -> None:
        for name in case.directories:
            (self.work / name).mkdir(parents=True, exist_ok=True)
        for name, content in case.files.items():
            path = self.work / self.filled(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, kind in case.links.items():
            aim = self.top / "elsewhere"
            if kind == "directory":
                aim.mkdir()
                (aim / "inside.txt").write_bytes(b"inside")
            elif kind == "file":
                aim.write_bytes(b"aim")
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).symlink_to(aim)
        (self.local / "cwd").mkdir(parents=True)

    def _change(self, case: Case) -> None:
        first = self.work / next(iter(case.files))
        # A new file: the old one may be linked to what was published.
        first.unlink()
        first.write_bytes(b"changed")

    def _sink(self, case: Case, sink_class: Any) -> tuple[Exception | None, list[str]]:
        try:
            sink = sink_class(**{name: self.filled(value) for name, value in case.inputs.items()})
            if case.base is not None:
                sink.inputs.base_directory = self.filled(case.base)
            work = os.path.relpath(self.work) if case.relative else str(self.work)
            for attribute, value in case.outputs.items():
                setattr(sink.inputs, attribute, self._placed(value, work))
            return None, list(sink.run().outputs.out_file)
        except Exception as error:
            return error, []

    def _placed(self, value: Any, work: str) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._placed(item, work) for item in value)
        if isinstance(value, str):
            return f"{work}/{value}"
        return Path(work, value) if isinstance(value, Path) else value

    def _objects(self) -> dict[str, tuple[bytes, str]]:
        found = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", []):
                answer = self.s3.get_object(Bucket=self.bucket, Key=item["Key"])
                found[item["Key"]] = (answer["Body"].read(), answer.get("ServerSideEncryption", ""))
        return found

    def _tree(self) -> tuple[dict[str, bytes], set[str]]:
        files, empty = {}, set()
        for folder, folders, names in os.walk(self.local):
            if not folders and not names:
                empty.add(os.path.relpath(folder, self.local))
            for name in names:
                path = Path(folder, name)
                files[os.path.relpath(path, self.local)] = path.read_bytes()
        return files, empty

    def _clear(self) -> None:
        keys = list(self._objects())
        if keys:
            self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys]})
        shutil.rmtree(self.top)
        self.top.mkdir()


@pytest.fixture(scope="module")
def place(seaweed: DevServer, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    bucket = f"differential-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**seaweed.environment, "AWS_ENDPOINT_URL": seaweed.endpoint_url}.items():
            patch.setenv(name, value)
        patch.setattr(logging.getLogger("nipype.interface"), "level", logging.CRITICAL)
        yield Place(s3, bucket, tmp_path_factory.mktemp("differential"))
    s3.delete_bucket(Bucket=bucket)


def why(case: Case, theirs: Outcome, ours: Outcome) -> str:
    """Why the two are as they are; "" where no rule explains it."""
    if theirs.error is not None:
        does = f"ours refuses ({type(ours.error).__name__})" if ours.error else "ours publishes"
        return f"Nipype fails ({type(theirs.error).__name__}), {does}"
    if ours.error is not None:
        return refused(case, str(ours.error))
    if theirs == ours:
        return "the same"
    if (theirs.out_file, theirs.objects) == (ours.out_file, ours.objects):
        return trees_differ(case, theirs, ours)
    return ""


def refused(case: Case, message: str) -> str:
    """What ours refuses and Nipype does: each of these loses or misplaces data there."""
    if "changes the destination" in message:
        return "rules 20, 21: a substitution changes the destination itself"
    if case.inputs.get("container", "").startswith(("/", "{")) and "which is not below" in message:
        return "rule 11: an absolute container discards the bucket or the prefix"
    if "'..'" in message:
        return "rules 12, 23: '..' in a name"
    return ""


def trees_differ(case: Case, theirs: Outcome, ours: Outcome) -> str:
    more, less = ours.tree.items() - theirs.tree.items(), theirs.tree.items() - ours.tree.items()
    if case.is_s3 and less and not more and "directory" in case.links.values():
        return "rule 27: links to directories are left out of the local copy too"
    if more and not less and case.inputs.get("remove_dest_dir") and all(_lost(name, theirs) for name, _ in more):
        return "remove_dest_dir: Nipype removes what the same run has just put there"
    if more and not less and all(name.endswith(".mat") for name, _ in more):
        return "rule 30: companions of compressed images come along"
    there_too = all(any(f"{other}/".startswith(f"{folder}/") for other in theirs.empty) for folder in ours.empty)
    if not (more or less) and there_too and "missing.nii" in str(case.outputs):
        return "rule 7: no empty folder is made for what is missing"
    return ""


def _lost(name: str, theirs: Outcome) -> bool:
    """Whether Nipype lists a file (or a directory above it) that it does not leave behind."""
    return any(
        path.endswith(f"/local/{name}") or f"/local/{name}".startswith(path[path.find("/local/") :] + "/")
        for path in theirs.out_file
        if "/local/" in path
    )


def both(place: Place, case: Case) -> tuple[Outcome, Outcome]:
    return place.run(case, NipypeDataSink), place.run(case, DataSink)


def check(place: Place, case: Case) -> str:
    theirs, ours = both(place, case)
    note(f"Nipype: {theirs}")
    note(f"ours:   {ours}")
    reason = why(case, theirs, ours)
    assert reason, "ours differs from Nipype's DataSink, and no rule says so"
    return reason


# The same set-ups in every run, so that a red run is red for everybody.
everything = settings(suppress_health_check=list(HealthCheck), print_blob=True, derandomize=True)


@settings(everything, max_examples=25)
@given(case=cases())
def test_the_same_as_nipypes(place: Place, case: Case) -> None:
    check(place, case)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_five_hundred_cases(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """Tells how many set-ups Nipype itself fails on, and what ours does there."""
    seen: Counter[str] = Counter()

    @settings(everything, max_examples=500)
    @given(case=cases())
    def try_them(case: Case) -> None:
        seen[check(place, case)] += 1

    try_them()
    with capfd.disabled():
        print(
            f"\n{seen.total()} set-ups:",
            *(f"  {number:4d}  {reason}" for reason, number in seen.most_common()),
            sep="\n",
        )
    assert seen.total() >= 500
    assert seen["the same"] > 250


A, B = {"a.nii": b"A"}, {"a.nii": b"A", "b.nii": b"B"}
SAME = {
    "rule 7: a missing source, locally": Case(A, {"m": ["missing.nii", "a.nii"]}, "{local}/base"),
    "rule 16: two sources, one name": Case(
        {"d/a.nii": b"1", "e/a.nii": b"2"}, {"m": ["d/a.nii", "e/a.nii"]}, inputs={"parameterization": False}
    ),
    "rule 27: a link to a directory, locally": Case(A, {"m": "sub-01"}, "{local}/base", links=LINKS[1]),
    "rule 27: a link to a directory, on S3": Case({"sub-01/a.nii": b"A"}, {"m": "sub-01"}, links=LINKS[1]),
    "rule 27: empty directories": Case({"d/a.nii": b"A"}, {"m": "d"}, None, directories=("d/empty/deep", "d/e")),
    "rule 30: related files": Case({"x.img": b"i", "x.hdr": b"h", "x.mat": b"m"}, {"m": "x.img"}, "{local}/base"),
    "rule 35: an empty base_directory": Case(A, {"m": "a.nii"}, ""),
    "rule 39: local_copy without S3": Case(A, {"m": "a.nii"}, "{local}/base", {"local_copy": "{local}/copy"}),
    "nothing to publish": Case(A, {}, "{local}/base", {"container": "c"}),
}


@pytest.mark.parametrize("rule", SAME)
def test_what_ours_keeps(place: Place, rule: str) -> None:
    theirs, ours = both(place, SAME[rule])
    assert theirs.error is None
    assert theirs == ours
    assert ours.out_file or not SAME[rule].outputs


FIXED = {
    "rule 2: an empty list": Case(A, {"m": [], "n": "a.nii"}),
    "rule 2: None": Case(A, {"m": None, "n": "a.nii"}),
    "rule 3: lists of lists of lists": Case(B, {"m": [[["a.nii"]], "b.nii"]}),
    "rule 3: tuples in a list": Case(B, {"m": [("a.nii",), ("b.nii",)]}),
    "rule 5: a bare Path": Case(A, {"m": Path("a.nii")}),
    "infields, which Nipype's sink takes for a file of that name": Case(A, {"m": "a.nii"}, inputs={"infields": ["m"]}),
    "rule 46: no such bucket, and the local fallback crashes": Case(A, {"m": "a.nii"}, "s3://not-there-at-all/p"),
}


@pytest.mark.parametrize("rule", FIXED)
def test_where_nipype_fails(place: Place, rule: str) -> None:
    """Ours publishes what is there, except where nothing can be published at all (rule 46)."""
    case = FIXED[rule]
    theirs, ours = both(place, case)
    assert theirs.error is not None
    if "46" in rule:
        assert "not-there-at-all" in str(ours.error)
    else:
        assert ours.error is None
        assert sorted(content for content, _ in ours.objects.values()) == sorted(case.files.values())


MISPLACED = {
    # Nipype lists the first file in out_file, and then removes it.
    "remove_dest_dir: what the same run has just put there": (
        Case(
            {"x/a.nii": b"A", "x/m/b.nii": b"B"},
            {"n.m": "x/a.nii", "n": "x/m"},
            None,
            {"remove_dest_dir": True, "parameterization": False},
        ),
        {"cwd/n/m/a.nii", "cwd/n/m/b.nii"},
    ),
    "rule 4: a text in a list of lists is read by its letters": (
        Case(B, {"m": [["a.nii"], "b.nii"]}),
        {"prefix/m/a.nii", "prefix/m/b.nii"},
    ),
    "rule 24: a bucket of another name": (Case(A, {"m": "a.nii"}, "s3://other/prefix"), {"prefix/m/a.nii"}),
    "rule 26: the path of a directory recurs inside it": (
        Case({"d/x{work}/d/a.nii": b"A"}, {"m": "d"}),
        {"prefix/m/d/x{work}/d/a.nii"},
    ),
}


@pytest.mark.parametrize("rule", MISPLACED)
def test_where_nipype_misplaces(place: Place, rule: str) -> None:
    case, keys = MISPLACED[rule]
    if "24" in rule:
        case = replace(case, inputs={"bucket": boto3.session.Session().resource("s3").Bucket(place.bucket)})
    theirs, ours = both(place, case)
    expected = {place.filled(key) for key in keys}
    contents = {key: content for key, (content, _) in ours.objects.items()} or ours.tree
    assert set(contents) == expected, ours.error
    assert set(theirs.objects or theirs.tree) != expected
    assert sorted(contents.values()) == sorted(case.files.values())


REFUSED = {
    "rule 20: the bucket's name": Case(A, {"m": "a.nii"}, inputs={"substitutions": [("{bucket}", "x")]}),
    "rule 21: out of the local copy": Case(
        A, {"m": "a.nii"}, inputs={"local_copy": "{local}/copy", "substitutions": [("copy", "elsewhere")]}
    ),
    "rule 11: out of the prefix": Case(A, {"m": "a.nii"}, inputs={"container": "/abs"}),
    "rule 12: above the container": Case(A, {"m": "a.nii"}, "{local}/base/in", {"container": "../up"}),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_what_ours_refuses(place: Place, rule: str) -> None:
    """Nipype succeeds and puts the data where nobody looks for it."""
    case = REFUSED[rule]
    substitutions = [tuple(map(place.filled, pair)) for pair in case.inputs.get("substitutions", [])]
    if substitutions:
        case = replace(case, inputs={**case.inputs, "substitutions": substitutions})
    theirs, ours = both(place, case)
    assert theirs.error is None
    assert isinstance(ours.error, asyncsink.RoutingError)
    assert not ours.objects
    assert not ours.tree


def test_a_large_file_is_not_sent_again(place: Place, tmp_path: Path) -> None:
    """Rule 29: Nipype compares a multipart ETag with an MD5, and sends everything of 8 MiB and more in every run."""
    large = tmp_path / "large.nii"
    large.write_bytes(bytes(9 << 20))
    written = []
    for sink_class in (NipypeDataSink, DataSink):
        sink = sink_class(base_directory=f"s3://{place.bucket}/large", motion=str(large))
        sink.run()
        first = place.s3.head_object(Bucket=place.bucket, Key="large/motion/large.nii")
        sink.run()
        written.append(place.s3.head_object(Bucket=place.bucket, Key="large/motion/large.nii"))
        assert first["ETag"] == written[-1]["ETag"]
    assert sink.report.objects_uploaded == 0
    place.s3.delete_object(Bucket=place.bucket, Key="large/motion/large.nii")
