"""A grab with the exporter's receipt manifest: receipts prove every byte; what is missing, or not in it, is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.integrity.checksums import checksum_of, composite
from asyncsink.integrity.promises import existing_by_receipt, promised
from asyncsink.integrity.sameness import Existing, prove
from asyncsink.testing.peers import canned
from tests.support.files import content_of
from tests.support.manifests import receipt_of, write_manifest
from tests.support.object_peer import ObjectPeer

pytestmark = pytest.mark.anyio
Put = Callable[..., None]
LARGE = bytes(range(256)) * 4 * 1024 * 17 + b"!"


@pytest.fixture
async def published(tmp_path: Path, bucket: str, options: dict[str, Any]) -> Path:
    """The manifest of a small file, an empty one and one of 17 MiB."""
    for name, content in {"a/small.txt": b"alpha", "a/empty": b"", "large.nii": LARGE}.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(content)
    manifest = tmp_path / "study.jsonl"
    report = await asyncsink.export_directory(tmp_path / "from", f"s3://{bucket}/p", manifest=manifest, **options)
    report.raise_for_failures()
    return manifest


async def test_receipts_prove_every_byte(published: Path, bucket: str, options: dict[str, Any], tmp_path: Path) -> None:
    report = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "to", manifest=published, **options)
    report.raise_for_failures()
    assert content_of(tmp_path / "to") == content_of(tmp_path / "from")
    assert report.counts.confirmed_by == {"receipt": 3}
    assert "Each confirmed by the exporter's receipt." in report.summary()
    (tmp_path / "to" / "a/small.txt").write_bytes(b"ALPHA")
    again = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "to", manifest=published, **options)
    assert content_of(tmp_path / "to") == content_of(tmp_path / "from")
    assert (again.objects_fetched, again.requests, [skip.confirmed_by for skip in again.skips]) == (
        1,
        4,  # two listings, the object, and one look at the empty one
        ["receipt", "receipt"],
    )


async def test_other_bytes_are_a_failure_and_no_file(
    published: Path, bucket: str, options: dict[str, Any], tmp_path: Path, put: Put, s3: Any
) -> None:
    put({"p/a/small.txt": b"ALPHA", "p/large.nii": b"?" + LARGE[1:], "p/new": b"x", "p/sub/": b""})
    s3.delete_object(Bucket=bucket, Key="p/a/empty")
    report = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "to", manifest=published, **options)
    assert content_of(tmp_path / "to") == {}
    assert {failure.key: failure.error for failure in report.failures} == {
        "p/a/small.txt": "IntegrityError",
        "p/large.nii": "IntegrityError",
        "p/a/empty": "ObjectMissing",
    }
    assert {skip.key: skip.reason for skip in report.skips if not skip.key.endswith("/")} == {
        "p/new": "is not in the manifest"
    }
    assert "1 object that the manifest does not list" in report.summary()
    one = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "one", template="sub/.*", raise_on_empty=False,
                               manifest=published, **options)  # fmt: skip
    assert one.ok  # what the templates leave out is not missing


async def test_a_manifest_of_another_source_is_refused(
    published: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(asyncsink.ConfigError, match=r"lists no object of s3://other/q: it is of s3://\S+/p; give"):
        await asyncsink.grab("s3://other/q", tmp_path / "to", manifest=published, **options)
    with pytest.raises(asyncsink.ConfigError, match="cannot be read: No such file"):
        await asyncsink.grab("s3://other/q", tmp_path / "to", manifest=tmp_path / "none.jsonl", **options)


@pytest.mark.usefixtures("dummy_keys")
async def test_what_the_server_cannot_prove_is_proven_and_damage_on_the_way_is_seen(tmp_path: Path) -> None:
    objects = {"good": b"good" * 100, "bad": b"bad." * 100, "large": LARGE}
    receipts = [
        asyncsink.Receipt(
            key, key, f"s3://bucket/{key}", len(data), checksum_of(data, "CRC64NVME"), "", "", 1, 0.1, "", "etag"
        )
        for key, data in objects.items()
    ]
    manifest = write_manifest(tmp_path / "m.jsonl", receipts, destination="s3://bucket")
    async with ObjectPeer(dict(objects), multipart=True) as peer:

        def damaged(method: str, key: str, _: int) -> bytes | None:
            return canned(200, b"BAD." * 100, f'ETag: "{peer.etag(key)}"') if (method, key) == ("GET", "bad") else None

        peer.fault = damaged
        given: dict[str, Any] = {"endpoint_url": peer.endpoint_url, "region": "us-east-1", "retries": 0}
        plain = await asyncsink.grab("s3://bucket", tmp_path / "plain", **given)
        report = await asyncsink.grab("s3://bucket", tmp_path / "to", manifest=manifest, **given)
    assert plain.ok  # nothing but the size is known
    assert content_of(tmp_path / "plain")["bad"] == b"BAD." * 100
    assert [(failure.key, failure.error) for failure in report.failures] == [("bad", "IntegrityError")]
    assert "are not those that the manifest lists: CRC64NVME:" in report.failures[0].message
    assert content_of(tmp_path / "to") == {"good": objects["good"], "large": LARGE}
    assert report.counts.confirmed_by == {"receipt": 2}


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "SHA256", "MD5"])
async def test_the_receipts_algorithm_counts(algorithm: Any) -> None:
    receipt = existing_by_receipt(receipt_of("k", checksum=checksum_of(b"0123456789", algorithm), etag="of-a-copy"))
    told = Existing(size_bytes=10, etag="other", checksums={"CRC32": checksum_of(b"9876543210", "CRC32").value})
    wanted = promised(told, receipt, "s3://b/k")
    assert prove(wanted, [b"01234", b"56789"], "s3://b/k") == (checksum_of(b"0123456789", algorithm), "receipt")
    with pytest.raises(asyncsink.IntegrityError, match=f"the manifest lists: {algorithm}:"):
        prove(wanted, [b"9876543210"], "s3://b/k")


async def test_an_object_known_to_be_another_is_refused_before_it_is_received() -> None:
    parts = composite("SHA256", [checksum_of(b"01234", "SHA256"), checksum_of(b"56789", "SHA256")])
    told = Existing(size_bytes=10, etag="e", composites={"SHA256": parts.value}, part_size_bytes=5, looked_closely=True)
    by_parts = existing_by_receipt(receipt_of("k", checksum=parts))
    assert prove(promised(told, by_parts, "u"), [b"0123456789"], "u") == (parts, "receipt")
    by_etag = existing_by_receipt(receipt_of("k", checksum=None, etag="e"))
    assert promised(told, by_etag, "u").described_by == "receipt"
    for receipt, what in (
        (receipt_of("k", checksum=None, etag="f"), "ETag f was published, it has ETag e now"),
        (receipt_of("k", checksum=composite("SHA256", [checksum_of(b"x", "SHA256")])), "SHA256:"),
    ):
        with pytest.raises(asyncsink.IntegrityError, match=what):
            promised(told, existing_by_receipt(receipt), "u")
    longer = existing_by_receipt(asyncsink.Receipt("", "k", "u", 11, None, "e", "", 1, 0.1, "", "etag"))
    with pytest.raises(asyncsink.IntegrityError, match="11 bytes was published, it has 10 bytes now"):
        promised(told, longer, "u")
