"""The requests of a sink that has been open for long: one for each object, as long as its keys are new."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.model import Receipt, Skip
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import Answer, Request, StoredObject, error, quirky_s3

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


@pytest.fixture
async def proxy(seaweed: DevServer) -> AsyncIterator[HoldingProxy]:
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def old_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing of the opening is too old from the start."""
    monkeypatch.setattr("asyncsink.destinations.existing_objects.LISTING_SECONDS_MAX", -1.0)


def small(directory: Path, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:04}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


@pytest.mark.parametrize("journal", [False, True])
async def test_new_keys_are_sent_without_a_look(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], proxy: HoldingProxy, journal: bool
) -> None:
    first, *paths = small(tmp_path / "s", 101)
    options |= {"endpoint_url": proxy.endpoint_url, "journal": str(tmp_path / "journal") if journal else False}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", first)
        assert proxy.seen == ["List", "Head", "Put"]
        for path in paths[:10]:
            assert isinstance(await sink.put("m", path), Receipt)
        outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths[10:]])
        assert {type(outcome) for outcome in outcomes} == {Receipt}
        assert Counter(proxy.seen) == {"List": 1, "Head": 1, "Put": 101}
    assert stored() == {f"m/{path.name}": path.read_bytes() for path in [first, *paths]}


@pytest.mark.parametrize("journal", [False, True])
async def test_what_another_writer_has_put_since_is_compared(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], proxy: HoldingProxy, journal: bool
) -> None:
    first, same, other, late = small(tmp_path / "s", 4)
    options |= {"endpoint_url": proxy.endpoint_url, "journal": str(tmp_path / "journal") if journal else False}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", first)
        s3.put_object(Bucket=bucket, Key=f"m/{same.name}", Body=same.read_bytes())
        s3.put_object(Bucket=bucket, Key=f"m/{other.name}", Body=b"theirs")
        del proxy.seen[:]
        assert isinstance(await sink.put("m", same), Skip)
        assert proxy.seen == ["Put", "Head"]  # refused, and looked at
        assert isinstance(await sink.put("m", other), Receipt)
        assert proxy.seen[2:] == ["Head", "Put"]  # after a refusal, keys are looked at before anything is sent
        assert isinstance(await sink.put("m", late), Receipt)
        assert proxy.seen[4:] == ["Head", "Put"]
        assert isinstance(await sink.put("n", late), Receipt)
        assert proxy.seen[6:] == ["Put"]
    assert stored() == {f"m/{path.name}": path.read_bytes() for path in (first, same, other, late)} | {
        f"n/{late.name}": late.read_bytes()
    }


async def test_some_of_a_batch_that_are_there_are_compared_and_the_rest_is_sent_once(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    first, *paths = small(tmp_path / "s", 41)
    options |= {"endpoint_url": proxy.endpoint_url, "journal": False}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", first)
        for path in paths[:5]:
            s3.put_object(Bucket=bucket, Key=f"m/{path.name}", Body=path.read_bytes())
        del proxy.seen[:]
        assert await sink.submit("m", [str(path) for path in reversed(paths)]) == 40
    assert Counter(proxy.seen) == {"Put": 40, "Head": 5}
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (36, 5)
    assert stored() == {f"m/{path.name}": path.read_bytes() for path in [first, *paths]}


@pytest.mark.parametrize("change", ["removed", "replaced", "none"])
@pytest.mark.parametrize("journal", [False, True])
async def test_a_key_that_the_sink_has_written_itself_is_looked_at(
    tmp_path: Path,
    bucket: str,
    s3: Any,
    stored: Stored,
    options: dict[str, Any],
    proxy: HoldingProxy,
    journal: bool,
    change: str,
) -> None:
    (path,) = small(tmp_path / "s", 1)
    options |= {"endpoint_url": proxy.endpoint_url, "journal": str(tmp_path / "journal") if journal else False}
    options |= {"overwrite": "checksum"}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", path)
        if change == "removed":
            s3.delete_object(Bucket=bucket, Key=f"m/{path.name}")
        elif change == "replaced":
            s3.put_object(Bucket=bucket, Key=f"m/{path.name}", Body=b"!")
        del proxy.seen[:]
        outcome = await sink.put("m", path)
        assert type(outcome) is (Skip if change == "none" else Receipt)
        assert proxy.seen == (["Head"] if change == "none" else ["Head", "Put"])
    assert stored() == {f"m/{path.name}": path.read_bytes()}


@pytest.mark.parametrize("policy", ["size", "size-mtime"])
async def test_a_policy_that_compares_no_content_looks_at_each_key(
    tmp_path: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy, policy: str
) -> None:
    """A server that ignores the condition would replace what the policy keeps."""
    paths = small(tmp_path / "s", 3)
    options |= {"endpoint_url": proxy.endpoint_url, "overwrite": policy, "journal": False}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        for path in paths:
            await sink.put("m", path)
    assert proxy.seen == ["List", *["Head", "Put"] * 3]


@pytest.mark.parametrize("conditions", ["refused", "ignored"])
async def test_servers_without_conditional_writes(tmp_path: Path, dummy_keys: None, conditions: str) -> None:
    """One that refuses the header is looked at before each put from then on; one that ignores it gets what a put that
    is not conditional brings."""
    paths = small(tmp_path / "s", 12)

    def quirk(request: Request) -> Answer | None:
        if "if-none-match" not in request.headers:
            return None
        if conditions == "refused":
            return error(501, "NotImplemented")
        del request.headers["if-none-match"]
        return None

    with quirky_s3(quirk) as s3:
        options = {"endpoint_url": s3.url, "region": "us-east-1"}
        async with asyncio.timeout(60), asyncsink.AsyncSink("s3://tryout", journal=False, **options) as sink:
            for path in paths[:4]:
                assert isinstance(await sink.put("m", path), Receipt)
            s3.objects["tryout"]["m/0011"] = StoredObject(b"theirs")
            outcomes = await asyncio.gather(*[sink.put("m", path) for path in paths[4:]])
        assert {type(outcome) for outcome in outcomes} == {Receipt}
        assert {key: found.body for key, found in s3.objects["tryout"].items()} == {
            f"m/{path.name}": path.read_bytes() for path in paths
        }
        heads = len(s3.requests("HEAD"))
        assert heads == (12 if conditions == "refused" else 1)
