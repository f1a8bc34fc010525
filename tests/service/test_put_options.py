"""put(key=…) and the options of a single put, against a real server."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError, InvalidKey, KeyCollision
from asyncsink.maintenance.verify import verify_manifest
from asyncsink.model import Receipt, Skip
from asyncsink.options.settings import KIB, MIB
from asyncsink.s3.operations import CompleteMultipartUpload, CreateMultipartUpload, Operation, PutObject, PutObjectFrom
from tests.support.guide import example
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import quirky_s3
from tests.support.requests import until

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
SIZES = [16 * KIB, 2 * MIB, 9 * MIB]
"""One of a batch of small files; one that a lane thread takes whole; one in parts."""
OWN: asyncsink.PutOptions = {
    "content_type": "text/x-own",
    "metadata": {"who": "me"},
    "tags": {"study": "ds 1", "é": "x"},
    "storage_class": "STANDARD_IA",
}


def written(path: Path, size: int = 5, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([seed]) * size)
    return path


def facts_of(s3: Any, bucket: str, key: str) -> dict[str, Any]:
    head = s3.head_object(Bucket=bucket, Key=key)
    tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {
        "content_type": head["ContentType"],
        "metadata": {name: value for name, value in head["Metadata"].items() if name != "asyncsink-write"},
        "tags": {tag["Key"]: tag["Value"] for tag in tags},
        "storage_class": head.get("StorageClass", "STANDARD"),
    }


class Watched:
    """A transport that keeps what is sent."""

    def __init__(self, inner: Any, sent: list[Operation[Any]]) -> None:
        self._inner, self._sent = inner, sent

    async def send(self, operation: Operation[Any]) -> Any:
        self._sent.append(operation)
        return await self._inner.send(operation)

    async def aclose(self) -> None:
        await self._inner.aclose()


# -- What the object is given ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transport", ["wire", "aioboto3"])
async def test_one_object_gets_its_own_key_and_options(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], size: int, transport: Any
) -> None:
    path = written(tmp_path / "f.txt", size)
    of_sink: dict[str, Any] = {"metadata": {"who": "sink", "lab": "A"}, "tags": {"lab": "A"}, "transport": transport}
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **of_sink, **options) as sink:
        own, plain, half = await asyncio.gather(
            sink.put("m", path, key="exact/k.nii", **OWN),
            sink.put("m", path),
            sink.put("m", path, key="half", content_type="text/x-own", tags={}),
        )
    assert isinstance(own, Receipt)
    assert (own.key, own.url, own.source) == ("p/exact/k.nii", f"s3://{bucket}/p/exact/k.nii", str(path))
    assert own.confirmed_by == "server-checksum"
    assert facts_of(s3, bucket, "p/exact/k.nii") == OWN
    assert isinstance(plain, Receipt)
    assert facts_of(s3, bucket, plain.key) == {
        "content_type": "text/plain", "metadata": of_sink["metadata"], "tags": {"lab": "A"},
        "storage_class": "STANDARD",
    }  # fmt: skip
    assert isinstance(half, Receipt)
    assert facts_of(s3, bucket, half.key) == {
        "content_type": "text/x-own", "metadata": of_sink["metadata"], "tags": {}, "storage_class": "STANDARD"
    }  # fmt: skip
    assert s3.get_object(Bucket=bucket, Key=own.key)["Body"].read() == path.read_bytes()
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.parametrize("size", SIZES)
async def test_one_object_gets_its_own_encryption(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], size: int
) -> None:
    path, secret, other = written(tmp_path / "f", size), bytes(range(32)), bytes(range(1, 33))
    async with asyncsink.AsyncSink(f"s3://{bucket}", sse=secret, **options) as sink:
        await asyncio.gather(
            sink.put("m", path, key="sink"),
            sink.put("m", path, key="other", sse=other),
            sink.put("m", path, key="server", encrypt_bucket_keys=True),
            sink.put("m", path, key="none", sse=""),
        )
        assert isinstance(await sink.put("m", path, key="other", sse=other), Skip)
        again = await sink.put("m", path, key="none", sse="AES256")
        assert isinstance(again, Receipt)
    assert not sink.report.failures
    for key, customer_key in (("sink", secret), ("other", other)):
        got = s3.get_object(Bucket=bucket, Key=key, SSECustomerAlgorithm="AES256", SSECustomerKey=customer_key)
        assert got["Body"].read() == path.read_bytes()
    for key in ("server", "none"):
        got = s3.get_object(Bucket=bucket, Key=key)
        assert (got["Body"].read(), got["ServerSideEncryption"]) == (path.read_bytes(), "AES256")


@pytest.mark.parametrize("size", SIZES)
async def test_what_this_server_lacks_is_sent(tmp_path: Path, dummy_keys: None, size: int) -> None:
    path = written(tmp_path / "f", size)
    with quirky_s3() as server:
        given = {"endpoint_url": server.url, "sse": "aws:kms", "sse_kms_key_id": "of-sink", "journal": False}
        async with asyncsink.AsyncSink("s3://tryout", **given) as sink:
            await sink.put("m", path, key="own", sse_kms_key_id="of-put", acl="bucket-owner-full-control")
            await sink.put("m", path, key="plain", sse="AES256")
        begun = [
            r for r in server.log if r.method == ("PUT" if size < 8 * MIB else "POST") and "uploadId" not in r.query
        ]
    headers = {r.key: r.headers for r in begun}
    name = "x-amz-server-side-encryption"
    assert (headers["own"][name], headers["own"][f"{name}-aws-kms-key-id"]) == ("aws:kms", "of-put")
    assert headers["own"]["x-amz-acl"] == "bucket-owner-full-control"
    assert headers["plain"][name] == "AES256"
    assert not {f"{name}-aws-kms-key-id", "x-amz-acl"} & headers["plain"].keys()


async def test_submitted_files_get_the_options_of_their_call(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    paths = [written(tmp_path / f"{number}", 10, number) for number in range(200)]
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        for number in range(0, 200, 10):
            await sink.submit("m", paths[number : number + 10], metadata={"call": str(number)})
    sink.report.raise_for_failures()
    assert sink.report.objects_uploaded == 200
    for number in (0, 57, 199):
        assert facts_of(s3, bucket, f"m/{number}")["metadata"] == {"call": str(number // 10 * 10)}


# -- Where it goes -----------------------------------------------------------------------------------------------------


class Name(enum.StrEnum):
    KEY = "a.b/c"


async def test_a_key_is_exact(tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    """What DataSink's rules would change, and does change where no key is given: README's service with a TMPDIR below
    `_work`, attributes with dots."""
    path = written(tmp_path / "_work/_temp/scan.nii.gz")
    rules: dict[str, Any] = {
        "container": "c", "substitutions": [("scan", "x"), ("exact", "y")], "strip_dir": str(tmp_path),
    }  # fmt: skip
    async with asyncsink.AsyncSink(f"s3://{bucket}", **rules, **options) as sink:
        await sink.put("sub-01", path)
        await sink.put("v1.2", path)
        await sink.put("user@example.org", path, key="user@example.org/scan.nii.gz")
        await sink.put("v1.2", path, key="exact/v1.2/ö scan.nii.gz")
        await sink.put("../..", path, key=Name.KEY)
        await sink.put("", path, key="_x/.hidden")
    assert list(stored()) == sorted(
        [
            "c/sub-01/_work/_temp/x.nii.gz", "c/v1/2/_work/_temp/x.nii.gz",
            "user@example.org/scan.nii.gz", "exact/v1.2/ö scan.nii.gz", "a.b/c", "_x/.hidden",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is empty"),
        ("/a", 'starts with "/"'),
        ("a/", 'ends with "/"'),
        ("a//b", "empty segment"),
        ("a/../b", "segment '..'"),
        ("./a", "segment '.'"),
        ("a\nb", r"control character U\+000A"),
        ("\udcff", "not valid UTF-8"),
        ("x" * 1023, "has 1023 bytes in UTF-8, but at most 1022 are allowed"),
        ("é" * 512, "has 1024 bytes in UTF-8, but at most 1022 are allowed"),
        (b"a", "is of type bytes; expected a str"),
        (Path("a"), "is of type PosixPath; expected a str"),
    ],
)
async def test_a_key_that_is_none_is_refused_in_one_sentence(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], key: Any, message: str
) -> None:
    path = written(tmp_path / "f")
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        with pytest.raises(ConfigError, match=message) as refused:
            await sink.put("m", path, key=key)
        assert isinstance(refused.value, InvalidKey) == isinstance(key, str)
        assert "\n" not in str(refused.value)
        assert isinstance(await sink.put("m", path, key="k"), Receipt)
    assert list(stored()) == ["p/k"]


async def test_a_directory_has_no_key(tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    for name in ("a", "b"):
        written(tmp_path / "d" / name)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        with pytest.raises(ConfigError, match="put takes one file"):
            await sink.put("m", tmp_path / "d", key="k")
    assert stored() == {}


@pytest.mark.parametrize("on_collision", ["error", "last"])
async def test_two_files_with_one_key(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], on_collision: Any
) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two", seed=1)
    async with asyncsink.AsyncSink(f"s3://{bucket}", on_collision=on_collision, **options) as sink:
        await sink.put("m", one, key="k")
        if on_collision == "error":
            with pytest.raises(KeyCollision, match="different keys"):
                await sink.put("m", two, key="k")
        else:
            assert isinstance(await sink.put("m", two, key="k"), Receipt)
    assert stored() == {"k": (one if on_collision == "error" else two).read_bytes()}


async def test_a_local_destination_and_a_local_copy_have_the_key(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    path, copy, target = written(tmp_path / "_work/f"), tmp_path / "copy", tmp_path / "target"
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", local_copy=copy, **options) as sink:
        receipt = await sink.put("v1.2", path, key="v1.2/f", metadata={"a": "b"})
        assert receipt.local_copy == str(copy / "v1.2/f")
        written(copy / "n", seed=1)
        for overwrite, copied in (("never", bytes([1]) * 5), ("always", path.read_bytes())):
            assert isinstance(await sink.put("m", path, key="n", overwrite=overwrite), Receipt)  # type: ignore[arg-type]
            assert (copy / "n").read_bytes() == copied
    assert list(stored()) == ["p/n", "p/v1.2/f"]
    async with asyncsink.AsyncSink(target) as local:
        assert (await local.put("v1.2", path, key="v1.2/f", **OWN)).url == str(target / "v1.2/f")
        assert isinstance(await local.put("v1.2", path, key="v1.2/f"), Skip)
        assert isinstance(await local.put("v1.2", path, key="v1.2/f", overwrite="always"), Receipt)
        with pytest.raises(ConfigError, match="is no bucket, and has none"):
            await local.put("v1.2", path, overwrite="journal")
    assert (copy / "v1.2/f").read_bytes() == (target / "v1.2/f").read_bytes() == path.read_bytes()


# -- What is refused ---------------------------------------------------------------------------------------------------

WRONG: list[dict[str, Any]] = [
    {"content_type": "text"},
    {"content_type": 7},
    {"metadata": {"a b": "c"}},
    {"metadata": {"a": "ü"}},
    {"metadata": {"a": "x" * 3000}},
    {"metadata": {"asyncsink-write": "0"}},
    {"metadata": "a=b"},
    {"tags": {str(number): "" for number in range(11)}},
    {"tags": {"x" * 129: ""}},
    {"storage_class": "glacier"},
    {"sse": "secret-of-a-customer"},
    {"sse": b"too short"},
    {"sse": "AES256", "sse_kms_key_id": "k"},
    {"sse_kms_key_id": "k"},
    {"sse": "aws:kms", "encrypt_bucket_keys": True},
    {"acl": "mine"},
    {"overwrite": "sometimes"},
    {"overwrite": True},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:60])
async def test_a_wrong_value_is_refused_in_the_sentence_of_the_sinks_option(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], wrong: dict[str, Any]
) -> None:
    path = written(tmp_path / "f")
    with pytest.raises(ConfigError) as of_sink:
        asyncsink.AsyncSink(f"s3://{bucket}", **wrong)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        for call in (sink.put("m", path, key="k", **wrong), sink.submit("m", [path], **wrong)):
            with pytest.raises(ConfigError) as of_put:
                await call
            assert str(of_put.value) == str(of_sink.value)
            assert "secret" not in str(of_put.value)
    assert stored() == {}


async def test_what_is_no_option_of_a_put_is_refused(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    path = written(tmp_path / "f")
    async with asyncsink.AsyncSink(f"s3://{bucket}", journal=False, **options) as sink:
        with pytest.raises(ConfigError, match=r"'metdata' is no option of a put\. Did you mean 'metadata'"):
            await sink.put("m", path, metdata={})  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="'container' is no option of a put"):
            await sink.submit("m", path, container="c")  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="overwrite='journal' needs a journal"):
            await sink.put("m", path, overwrite="journal")
        await sink.put("m", path, content_type=None, metadata=None, tags=None, sse=None, overwrite=None, key=None)


# -- What becomes of an existing object --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_an_overwrite_policy_of_its_own(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], size: int
) -> None:
    one, two = written(tmp_path / "one", size), written(tmp_path / "two", size, 1)
    options |= {"on_collision": "last"}
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        assert isinstance(await sink.put("m", one, key="k", overwrite="never"), Receipt)
        kept = await sink.put("m", two, key="k", overwrite="never")
        assert isinstance(kept, Skip)
        assert (kept.key, kept.already_there) == ("k", True)
        assert isinstance(await sink.put("m", two, key="k", overwrite="size"), Skip)
        assert stored() == {"k": one.read_bytes()}
        assert isinstance(await sink.put("m", two, key="k", overwrite="always"), Receipt)
        assert isinstance(await sink.put("m", two, key="k", overwrite="always"), Receipt)
        assert isinstance(await sink.put("m", two, key="k"), Skip)
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="never", **options) as sink:
        assert isinstance(await sink.put("m", one, key="k"), Skip)
        assert isinstance(await sink.put("m", one, key="k", overwrite="checksum"), Receipt)
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="always", **options) as sink:
        assert isinstance(await sink.put("m", one, key="k", overwrite="checksum"), Skip)
        assert isinstance(await sink.put("m", one, key="k"), Receipt)
    assert stored() == {"k": one.read_bytes()}


@pytest.mark.parametrize("size", SIZES)
async def test_never_is_a_condition_of_the_write(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], size: int
) -> None:
    """Another writer who stores between the look and the write keeps its object."""
    path, sent = written(tmp_path / "f", size), list[Operation[Any]]()

    class Overtaken(Watched):
        async def send(self, operation: Operation[Any]) -> Any:
            if isinstance(operation, (PutObject, PutObjectFrom, CreateMultipartUpload)) and operation.key == "k":
                await asyncio.to_thread(s3.put_object, Bucket=bucket, Key="k", Body=b"theirs")
            return await super().send(operation)

    options |= {"transport": lambda inner: Overtaken(inner, sent)}
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        outcome = await sink.put("m", path, key="k", overwrite="never")
        assert isinstance(outcome, Skip)
        await sink.put("m", path, key="free", overwrite="always")
    assert stored() == {"k": b"theirs", "free": path.read_bytes()}
    conditions = {
        each.key: each.only_new
        for each in sent
        if isinstance(each, (PutObject, PutObjectFrom, CompleteMultipartUpload))
    }
    assert conditions.pop("k") is True
    assert conditions in ({}, {"free": False})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("journal", [False, True])
async def test_content_that_is_there_with_other_options_is_sent_again(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], size: int, journal: bool
) -> None:
    path = written(tmp_path / "f", size)
    options |= {"journal": str(tmp_path / "journal") if journal else False}

    async def outcomes(*given: dict[str, Any]) -> list[type]:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            return [type(await sink.put("m", path, key="k", **each)) for each in given]

    one, two = {"metadata": {"a": "1"}}, {"metadata": {"a": "2"}}
    assert await outcomes(one, one, two, two, one) == [Receipt, Skip, Receipt, Skip, Receipt]
    assert await outcomes(one, two) == [Skip, Receipt]
    assert facts_of(s3, bucket, "k")["metadata"] == {"a": "2"}
    # Without options of its own, a put asks for the content alone.
    assert await outcomes({}, one) == [Skip, Receipt]
    tagged = {"tags": {"a": "1"}}
    # No HEAD shows tags: only the journal proves them.
    again = Skip if journal else Receipt
    assert await outcomes(tagged, tagged) == [Receipt, again]
    assert await outcomes(tagged, {"tags": {"a": "2"}}) == [again, Receipt]
    assert facts_of(s3, bucket, "k")["tags"] == {"a": "2"}
    assert await outcomes({"content_type": "text/x-a"}, {"content_type": "text/x-b"}) == [Receipt, Receipt]


async def test_the_journal_skips_what_was_published_with_these_options(
    tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    paths = [written(tmp_path / "s" / str(number), 10, number) for number in range(20)]
    async with HoldingProxy(options["endpoint_url"]) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "journal": str(tmp_path / "journal")}

        async def run(**given: Any) -> dict[str, int]:
            del proxy.seen[:]
            async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
                for path in paths:
                    await sink.put("m", path, key=f"k/{path.name}", **given)
            sink.report.raise_for_failures()
            return dict(Counter(proxy.seen))

        own: dict[str, Any] = {"tags": {"a": "1"}, "metadata": {"b": "2"}}
        assert (await run(**own))["Put"] == 20
        assert await run(**own) == {"List": 1}
        assert (await run(**own | {"tags": {"a": "2"}}))["Put"] == 20
        assert (await run(**own))["Put"] == 20
        assert await run(**own, overwrite="journal") == {"List": 1}


async def test_puts_of_one_key_with_different_options_come_one_after_another(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    path = written(tmp_path / "f", 3 * MIB)
    sent: list[Operation[Any]] = []
    options |= {"transport": lambda inner: Watched(inner, sent)}
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        outcomes = await asyncio.gather(
            *[sink.put("m", path, key="k", metadata={"n": str(number)}) for number in range(8)]
        )
    assert {type(outcome) for outcome in outcomes} == {Receipt}
    orders = [each.attributes.metadata for each in sent if isinstance(each, (PutObject, PutObjectFrom))]
    assert orders == [(("n", str(number)),) for number in range(8)]
    assert facts_of(s3, bucket, "k")["metadata"] == {"n": "7"}


@pytest.mark.parametrize("same", [True, False])
async def test_an_upload_that_was_left_goes_on_for_the_same_options_alone(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], same: bool
) -> None:
    """An upload has its metadata from its beginning."""
    path = written(tmp_path / "f", 15 * MIB)
    options |= {"journal": str(tmp_path / "journal"), "part_size_bytes": "5MiB"}
    own: dict[str, Any] = {"metadata": {"n": "1"}, "tags": {"a": "b"}}
    async with HoldingProxy(options["endpoint_url"], lambda name: "request" if name.endswith("t 3") else "") as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
        put = asyncio.create_task(sink.put("m", path, key="k", **own))
        await proxy.held.wait()
        upload = s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]
        await until(
            lambda: len(s3.list_parts(Bucket=bucket, Key="k", UploadId=upload["UploadId"]).get("Parts", [])) == 2
        )
        await sink.close(deadline_seconds=0)
        with pytest.raises(asyncsink.ExportFailed):
            await put
        proxy.forget()
        own |= {} if same else {"metadata": {"n": "2"}}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            assert isinstance(await sink.put("m", path, key="k", **own), Receipt)
        assert proxy.parts == ([3] if same else [1, 2, 3])
    assert facts_of(s3, bucket, "k")["metadata"] == own["metadata"]
    assert facts_of(s3, bucket, "k")["tags"] == own["tags"]
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.parametrize("size", SIZES)
async def test_an_object_with_another_customer_key(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], size: int
) -> None:
    """Nobody can look at it without its key: a put that would compare says so, and one that does not look goes on."""
    path, one, two = written(tmp_path / "f", size), bytes(range(32)), bytes(range(1, 33))
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", path, key="k", sse=one)
        for own in (two, ""):
            with pytest.raises(asyncsink.PutFailed, match="customer key"):
                await sink.put("m", path, key="k", sse=own)
        assert isinstance(await sink.put("m", path, key="k", sse=one), Skip)
        assert isinstance(await sink.put("m", path, key="k", overwrite="always"), Receipt)
        assert isinstance(await sink.put("m", path, key="k"), Skip)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == path.read_bytes()


async def test_options_count_in_a_sink_that_relies_on_no_listing_any_more(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are likely new go in one batch with a condition; what is to replace, or not to, is in it too."""
    monkeypatch.setattr("asyncsink.destinations.existing_objects.LISTING_SECONDS_MAX", -1.0)
    for key in ("always", "never", "same", "other"):
        body = bytes([0]) * 5 if key in ("same", "other") else b"theirs"
        s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"n": "2" if key == "other" else "1"})
    path = written(tmp_path / "f")
    async with asyncsink.AsyncSink(f"s3://{bucket}", journal=False, **options) as sink:
        await sink.put("m", path, key="first")
        outcomes = await asyncio.gather(
            sink.put("m", path, key="always", overwrite="always"),
            sink.put("m", path, key="never", overwrite="never"),
            sink.put("m", path, key="same", metadata={"n": "1"}),
            sink.put("m", path, key="other", metadata={"n": "1"}),
            *[sink.put("m", path, key=f"new/{number}", metadata={"n": "1"}) for number in range(8)],
        )
    assert [type(outcome) for outcome in outcomes] == [Receipt, Skip, Skip, *[Receipt] * 9]
    found = stored()
    assert (found["never"], found["always"], found["new/7"]) == (b"theirs", path.read_bytes(), path.read_bytes())
    for key in ("same", "other", "new/0", "new/7"):
        assert facts_of(s3, bucket, key)["metadata"] == {"n": "1"}


# -- Records -----------------------------------------------------------------------------------------------------------


async def test_manifest_and_verify_know_the_key(tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]) -> None:
    manifest = tmp_path / "manifest.jsonl"
    paths = [written(tmp_path / "_work" / str(size), size) for size in SIZES]
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", manifest=manifest, **options) as sink:
        for path in paths:
            await sink.put("v1.2", path, key=f"v1.2/{path.name}", **OWN)
    assert sorted(receipt.key for receipt in sink.report.receipts) == sorted(f"p/v1.2/{size}" for size in SIZES)
    assert (await verify_manifest(manifest, options=options)).ok
    s3.put_object(Bucket=bucket, Key=f"p/v1.2/{SIZES[0]}", Body=b"other")
    report = await verify_manifest(manifest, options=options)
    assert [url for _, url, _ in report.problems] == [f"s3://{bucket}/p/v1.2/{SIZES[0]}"]


async def test_the_page_about_services(tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]) -> None:
    publish = example("service.md", "Where an object goes, and what it is given").publish
    path = str(written(tmp_path / "_work/_temp/upload"))
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        assert isinstance(await publish(sink, "user@example.org", "v1.2", path), Receipt)
        assert isinstance(await publish(sink, "user@example.org", "v1.2", path), Skip)
    assert facts_of(s3, bucket, "user@example.org/v1.2/scan.nii.gz") == {
        "content_type": "application/gzip",
        "metadata": {"uploaded-by": "user@example.org"},
        "tags": {"release": "v1.2"},
        "storage_class": "STANDARD_IA",
    }
