"""`asyncsink.read_manifest`: receipts of the present and of earlier versions as typed records, in constant memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import asyncsink
from tests.support.guide import example
from tests.support.manifests import write_manifest

CHECKSUM = asyncsink.Checksum("CRC64NVME", "AAAAAAAAAAA=")
RECEIPT = asyncsink.Receipt("/d/a", "p/a", "s3://b/p/a", 5, CHECKSUM, "e", "v", 2, 0.5, "", "server-checksum", 3)
SKIP = asyncsink.Skip("/d/b", "p/b", "s3://b/p/b", 6, "same checksum", checksum=CHECKSUM, etag="e", entry=4)
FAILURE = asyncsink.Failure("/d/c", "p/c", "s3://b/p/c", "Stalled", "no byte moved", "upload", 8, 5)

FIRST_VERSION = """\
{"record": "run", "destination": "s3://b/p", "endpoint_url": "", "region": "", "addressing_style": "auto", \
"asyncsink": "0.1.0", "started": "2026-01-01T00:00:00+00:00"}
{"record":"receipt","source":"/d/a","key":"p/a","url":"s3://b/p/a","size_bytes":5,"checksum":null,"etag":"e",\
"version_id":"","attempts":1,"seconds":0.5,"local_copy":"","confirmed_by":"etag","entry":0}
{"record":"skip","source":"/d/b","key":"p/b","url":"s3://b/p/b","size_bytes":6,"reason":"same checksum",\
"already_there":true,"checksum":null,"etag":"e","local_copy":"","entry":0}
"""


def test_the_records_are_typed_and_read_again_by_each_iteration(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [RECEIPT, SKIP, FAILURE])
    manifest = asyncsink.read_manifest(path)
    assert list(manifest) == list(manifest) == [RECEIPT, SKIP, FAILURE]
    assert (list(manifest.receipts), list(manifest.skips), list(manifest.failures)) == ([RECEIPT], [SKIP], [FAILURE])
    assert list(manifest.receipts) == list(manifest.receipts)
    assert manifest.header.destination == "s3://results"
    assert manifest.complete
    assert manifest.end is not None
    assert (manifest.end.receipts, manifest.end.skips, manifest.end.failures) == (1, 1, 1)


def test_what_a_killed_run_left_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl.partial", [RECEIPT, SKIP], end=False)
    path.write_bytes(path.read_bytes() + b'{"record":"rece')
    manifest = asyncsink.read_manifest(path)
    assert list(manifest) == [RECEIPT, SKIP]
    assert manifest.end is None
    assert not manifest.complete
    with pytest.raises(asyncsink.ConfigError, match=r"an interrupted run left '.*m.jsonl.partial'"):
        asyncsink.read_manifest(tmp_path / "m.jsonl")


def test_a_manifest_of_the_first_version_and_of_a_later_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(FIRST_VERSION)
    receipt, skip = asyncsink.read_manifest(path)
    assert isinstance(receipt, asyncsink.Receipt)
    assert isinstance(skip, asyncsink.Skip)
    assert (receipt.size_bytes, receipt.attribute, skip.version_id, skip.attempts) == (5, "", "", 0)
    further = json.dumps({**json.loads(FIRST_VERSION.splitlines()[1]), "colour": "of a later version"})
    path.write_text("\n".join([FIRST_VERSION.splitlines()[0], further, ""]))
    assert list(asyncsink.read_manifest(path).receipts) == [receipt]


def test_a_bad_line_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(FIRST_VERSION.replace('"size_bytes":6', '"size_bytes":"six"'))
    records = iter(asyncsink.read_manifest(path))
    assert isinstance(next(records), asyncsink.Receipt)
    with pytest.raises(asyncsink.ConfigError, match=r"m.jsonl', line 3: size_bytes has the value 'six'"):
        next(records)


def test_the_example_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "study.jsonl", [RECEIPT, SKIP, FAILURE])
    page = example("python.md", "What a run published")
    assert page.published == {"p/a": "CRC64NVME:AAAAAAAAAAA=", "p/b": "CRC64NVME:AAAAAAAAAAA="}
