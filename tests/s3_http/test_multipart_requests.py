"""Multipart bookkeeping of the wire lane: requests as botocore writes them, answers as botocore reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.session import Session
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.errors import (
    AsyncSinkError,
    ConnectionLost,
    PermanentError,
    ServerFault,
    Stalled,
    Throttled,
    UploadMissing,
)
from asyncsink.model import Checksum
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.codec import CALLS
from asyncsink.s3.http import lane as lane_module
from asyncsink.s3.http.reading import Answer, error_of_answer, is_error, response_of
from asyncsink.s3.http.requests import RequestWriter, parts_document
from asyncsink.s3.http.signing import endpoint_of
from asyncsink.s3.listing import DEPTH_MAX
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    Done,
    ListedPart,
    ListParts,
    ObjectAttributes,
    ObjectStored,
    PartPage,
    PutObject,
    UploadCreated,
)
from asyncsink.testing.peers import ActingPeer, CannedPeer, canned
from tests.support.requests import Open, read_request

pytestmark = pytest.mark.anyio

SERVICE = Session().get_service_model("s3")
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
STAMP = "20260131T235959Z"
CREATE = CreateMultipartUpload(key="k", algorithm="CRC64NVME")
PART = CompletedPart(part_number=1, etag="0" * 32)
COMPLETE = CompleteMultipartUpload(key="k", upload_id="u", parts=(PART,), size_bytes=10)
ABORT = AbortMultipartUpload(key="k", upload_id="u")
LIST = ListParts(key="k", upload_id="u")
CREATED = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
COMPLETED = b"<CompleteMultipartUploadResult><ETag>&quot;e-1&quot;</ETag></CompleteMultipartUploadResult>"
ERROR = b"<Error><Code>%s</Code><Message>m</Message></Error>"

XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=40)
ETAGS = st.text("0123456789abcdef-", min_size=32, max_size=40) | XML_TEXT | st.text("<>&\"'\t\n]]>é🧠", max_size=20)
PARTS = st.builds(
    CompletedPart,
    part_number=st.integers(1, 10_000),
    etag=ETAGS,
    checksum=st.none()
    | st.builds(
        Checksum,
        st.sampled_from(["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5"]),
        st.text("abcXYZ019+/=-&<", min_size=1, max_size=20),
    ),
)


# Requests


def as_botocore_writes(operation: Any) -> dict[str, Any]:
    call = CALLS[type(operation)]
    name = SERVICE.operation_model(operation.name)
    parameters = call.parameters(operation, lambda _: None) | {"Bucket": "bkt"}
    written: dict[str, Any] = create_serializer("rest-xml", include_validation=False).serialize_to_request(
        parameters, name
    )
    return written


@given(st.lists(PARTS, min_size=1, max_size=20).map(tuple))
@settings(max_examples=300)
def test_the_list_of_parts_is_botocores(parts: tuple[CompletedPart, ...]) -> None:
    operation = CompleteMultipartUpload(key="k", upload_id="u", parts=parts, size_bytes=1)
    document = parts_document(operation)
    assert document == as_botocore_writes(operation)["body"]
    read = [each.findtext(f"{{{NAMESPACE}}}ETag") for each in ET.fromstring(document)]
    assert read == [f'"{part.etag}"' for part in parts]


def test_what_only_escaping_keeps_and_what_nothing_does() -> None:
    def written(etag: str) -> bytes:
        part = CompletedPart(part_number=1, etag=etag)
        return parts_document(CompleteMultipartUpload(key="k", upload_id="u", parts=(part,), size_bytes=1))

    assert ET.fromstring(written("a\rb"))[0].findtext(f"{{{NAMESPACE}}}ETag") == '"a\rb"'
    for bad in ("\x00", "a\x1bb", "\udcff", "\ufffe"):
        with pytest.raises(PermanentError, match="CompleteMultipartUpload of k"):
            written(bad)


@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    upload_id=st.text("abcXYZ019+/=-_.~ %&?é", min_size=1, max_size=30),
    algorithm=st.sampled_from([None, "CRC64NVME", "CRC32C", "CRC32", "SHA256", "SHA1", "MD5"]),
    customer_key=st.none() | st.just(Secret(b"k" * 32)),
    marker=st.sampled_from([0, 1000]),
    sse=st.sampled_from(["", "aws:kms"]),
    only_new=st.booleans(),
    write_token=st.sampled_from(["", "0123456789abcdef" * 2]),
)
@settings(max_examples=150)
def test_requests_say_what_botocores_say(
    *,
    key: str,
    upload_id: str,
    algorithm: Any,
    customer_key: Any,
    marker: int,
    sse: str,
    only_new: bool,
    write_token: str,
) -> None:
    attributes = ObjectAttributes(
        content_type="text/csv",
        sse=sse,
        sse_kms_key_id="key/1" if sse else "",
        sse_customer_key=customer_key,
        storage_class="STANDARD_IA",
        acl="private",
        tags=(("a b", "c=d&e"),),
        metadata=(("Run-Id", "7"),),
    )
    checksum = Checksum(algorithm, "AAAAAAAAAAA=") if algorithm is not None else None
    complete = CompleteMultipartUpload(
        key=key,
        upload_id=upload_id,
        parts=(PART,),
        size_bytes=7,
        checksum=checksum,
        sse_customer_key=customer_key,
        only_new=only_new,
    )
    writer = RequestWriter(endpoint_of(S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1"), "x"), None)
    for operation in (
        CreateMultipartUpload(key=key, algorithm=algorithm, attributes=attributes, write_token=write_token),
        complete,
        AbortMultipartUpload(key=key, upload_id=upload_id),
        ListParts(key=key, upload_id=upload_id, marker=marker, sse_customer_key=customer_key),
    ):
        expected = as_botocore_writes(operation)
        body = expected["body"] or b""
        for _ in range(2):  # laid out, and as it was kept
            head = writer.head(operation, "", STAMP, body).decode("ascii")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            told = dict(line.split(": ", 1) for line in lines)
            assert told.pop("content-length", "0") == str(len(body))
            del told["host"], told["user-agent"]
            wanted = {name.lower(): str(value) for name, value in expected["headers"].items()}
            for name, value in list(wanted.items()):
                if "Metadata" in name or value == "":
                    del wanted[name]
            if isinstance(operation, CompleteMultipartUpload):
                assert told.pop("content-type") == "application/xml"
                assert told["x-amz-mp-object-size"] == "7"
                assert told.get("if-none-match") == ("*" if only_new else None)
            if isinstance(operation, CreateMultipartUpload):
                assert told.get("x-amz-meta-asyncsink-write", "") == write_token
            assert told == wanted
            method, target, _ = first.split(" ")
            assert method == expected["method"]
            queried = expected["query_string"]
            assert sorted(target.partition("?")[2].split("&")) == sorted(
                ["uploads="]
                if isinstance(operation, CreateMultipartUpload)
                else [f"{n}={_quoted(v)}" for n, v in queried.items()]
            )


def _quoted(value: Any) -> str:
    return quote(str(value), safe="-_.~")


def test_an_upload_of_its_own_size_does_not_push_out_what_is_kept() -> None:
    writer = RequestWriter(endpoint_of(S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1"), "x"), None)
    writer.head(PutObject(key="k", body=b"x"), "", STAMP)
    before = set(writer._templates)
    for size in range(1000):
        operation = CompleteMultipartUpload(key="k", upload_id="u", parts=(PART,), size_bytes=size)
        assert f"x-amz-mp-object-size: {size}\r\n".encode() in writer.head(operation, "", STAMP, b"abc")
    assert set(writer._templates) == before


# Answers


def as_botocore_reads(operation: Any, body: bytes, headers: dict[str, str]) -> Any:
    shape = SERVICE.operation_model(operation.name).output_shape
    parsed = create_parser("rest-xml").parse({"body": body, "headers": headers, "status_code": 200}, shape)
    return CALLS[type(operation)].response(operation, parsed)


SUMS = "<ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME><ChecksumType>%s</ChecksumType>"
PART_XML = "<Part><PartNumber>2</PartNumber><Size>7</Size><ETag>&quot;e&quot;</ETag>%s</Part>"


@pytest.mark.parametrize(
    ("operation", "inside"),
    [
        (CREATE, "<Bucket>b</Bucket><Key>k</Key><UploadId>a&amp;b+/=</UploadId>"),
        (COMPLETE, "<Location>x</Location><ETag>&quot;abc-2&quot;</ETag>"),
        (COMPLETE, "<ETag>abc-2</ETag>" + SUMS % "FULL_OBJECT"),
        (COMPLETE, '<ETag><![CDATA[W/"abc-2"]]></ETag>' + SUMS % "COMPOSITE"),
        (LIST, "<UploadId>u</UploadId><IsTruncated>false</IsTruncated>"),
        (
            LIST,
            "<UploadId>u</UploadId><IsTruncated>false</IsTruncated>" + PART_XML % "" + PART_XML % SUMS % "COMPOSITE",
        ),
        (
            LIST,
            "<UploadId>u</UploadId><IsTruncated>true</IsTruncated><NextPartNumberMarker>2</NextPartNumberMarker>"
            + PART_XML % "",
        ),
    ],
)
@pytest.mark.parametrize("namespace", ["", f' xmlns="{NAMESPACE}"'])
def test_answers_are_read_as_botocore_reads_them(operation: Any, inside: str, namespace: str) -> None:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Result{namespace}>{inside}</Result>'.encode()
    headers = {"x-amz-version-id": "v", "x-amz-server-side-encryption": "AES256", "etag": '"of nobody"'}
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    expected = as_botocore_reads(operation, body, headers)
    assert response_of(operation, Answer(200, raw, body)) == expected
    # Spaces that kept the connection alive, before and behind the declaration.
    declaration, _, rest = body.partition(b"\n")
    assert response_of(operation, Answer(200, raw, b" \n" * 5000 + body)) == expected
    assert response_of(operation, Answer(200, raw, declaration + b" \n" * 5000 + rest)) == expected


def test_what_the_answers_are() -> None:
    assert response_of(CREATE, Answer(200, {}, CREATED)) == UploadCreated(upload_id="u")
    assert response_of(COMPLETE, Answer(200, {}, COMPLETED)) == ObjectStored(etag="e-1")
    assert response_of(ABORT, Answer(204, {}, b"")) == Done()
    body = f"<R><UploadId>u</UploadId>{PART_XML % SUMS}</R>".replace("%s", "").encode()
    page = response_of(LIST, Answer(200, {}, body))
    assert page == PartPage(parts=(ListedPart(2, 7, "e", Checksum("CRC64NVME", "AAAAAAAAAAA=")),))


@pytest.mark.parametrize("operation", [CREATE, COMPLETE, LIST])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   \n",
        b"hello",
        b"<html><body>a login page</body></html>",
        b"<R><UploadId></UploadId><ETag></ETag></R>",
        CREATED[:-5],
        COMPLETED[:-5],
        b"<R>" + b"<a>" * DEPTH_MAX + b"</a>" * DEPTH_MAX + b"</R>",
        b'<!DOCTYPE l [<!ENTITY a "aaaa">]><R><UploadId>&a;</UploadId><ETag>&a;</ETag></R>',
        b"<R><Part><UploadId>u</UploadId><ETag>e</ETag></Part></R>",
    ],
)
def test_what_is_no_answer_is_a_server_fault(operation: Any, body: bytes) -> None:
    with pytest.raises(ServerFault, match=f"{operation.name} of k"):
        response_of(operation, Answer(200, {b"etag": b'"e"'}, body))


@pytest.mark.parametrize(
    "inside",
    [
        PART_XML % "" + "<Part/>",
        PART_XML.replace("7", "seven") % "",
        PART_XML.replace("<PartNumber>2", "<PartNumber>") % "",
        "<IsTruncated>true</IsTruncated>",
        "<IsTruncated>true</IsTruncated><NextPartNumberMarker>x</NextPartNumberMarker>",
    ],
)
def test_a_list_of_parts_that_cannot_be_used(inside: str) -> None:
    with pytest.raises(ServerFault, match="ListParts"):
        response_of(LIST, Answer(200, {}, f"<R><UploadId>u</UploadId>{inside}</R>".encode()))


@pytest.mark.parametrize("before", [b"", b" " * 5000, b"\r\n" * 500_000, b'<?xml version="1.0"?>' + b" " * 1_000_000])
@pytest.mark.parametrize(
    ("code", "kind"), [(b"InternalError", ServerFault), (b"SlowDown", Throttled), (b"NoSuchUpload", UploadMissing)]
)
def test_an_error_inside_a_200(before: bytes, code: bytes, kind: type[Exception]) -> None:
    answer = Answer(200, {}, before + ERROR % code)
    assert is_error(answer)
    assert isinstance(error_of_answer(COMPLETE, "bkt", answer, None), kind)
    assert not is_error(Answer(200, {}, before + COMPLETED))
    assert not is_error(Answer(200, {}, before))


@given(
    operation=st.sampled_from([CREATE, COMPLETE, ABORT, LIST]),
    whole=st.sampled_from(
        [CREATED, COMPLETED, ERROR % b"InvalidPart", f"<R><UploadId>u</UploadId>{PART_XML}</R>".encode()]
    ),
    noise=st.binary(max_size=50)
    | st.sampled_from([b"<Error>", b"<", b"&a;", b"<Part>", b"</R>", b"<!DOCTYPE", b" " * 3000]),
    position=st.integers(0, 200),
    cut=st.integers(0, 300),
    status=st.sampled_from([200, 204, 400, 404, 500]),
)
@settings(max_examples=500)
def test_broken_answers_are_typed_errors(
    operation: Any, whole: bytes, noise: bytes, position: int, cut: int, status: int
) -> None:
    for body in (noise, whole[:position] + noise + whole[position:], (noise + whole)[:cut]):
        answer = Answer(status, {}, body)
        if is_error(answer):
            assert isinstance(error_of_answer(operation, "bkt", answer, 0.0), AsyncSinkError)
        else:
            with contextlib.suppress(ServerFault):
                response_of(operation, answer)


# On a connection


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize("operation", [CREATE, COMPLETE])
async def test_what_may_have_happened_is_not_sent_again(wire: Open, operation: Any) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await read_request(reader))[0].split()[0])
        writer.write(canned(200, b"", 'ETag: "e"'))
        requests.append((await read_request(reader))[0].split()[0])

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(PutObject(key="k", body=b"x"))
        with pytest.raises(ConnectionLost, match=operation.name):
            await transport.send(operation)
        assert (requests, peer.connections_total) == ([b"PUT", b"POST"], 1)


async def test_what_must_not_be_repeated_avoids_a_connection_that_has_waited(
    wire: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "FRESH_SECONDS", 0.0)
    answers = {b"PUT": canned(200, b"", 'ETag: "e"'), b"POST": canned(200, CREATED), b"DELETE": canned(204, b"")}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(answers[(await read_request(reader))[0].split()[0]])

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(PutObject(key="k", body=b"x"))
        assert await transport.send(CREATE) == UploadCreated(upload_id="u")
        assert peer.connections_total == 2
        # The one that was left alone serves others still.
        await asyncio.gather(transport.send(PutObject(key="k", body=b"x")), transport.send(ABORT))
        assert peer.connections_total == 2


async def test_complete_may_be_silent_for_longer_than_others(wire: Open) -> None:
    release = asyncio.Event()

    async def serve(release_after: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if release_after:
            await release.wait()
            writer.write(canned(200, COMPLETED))
            await writer.drain()
        else:
            await asyncio.Event().wait()

    quick = RetryPolicy(stall_seconds=0.05, complete_seconds=30)
    async with ActingPeer(partial(serve, True)) as peer, wire(peer.endpoint_url, quick) as transport:
        completing = asyncio.ensure_future(transport.send(COMPLETE))
        # A request of the same pool stalls first, for sure after the other's patience would have ended.
        with pytest.raises(Stalled, match=r"CreateMultipartUpload.*0\.05 s"):
            await transport.send(CREATE)
        assert not completing.done()
        release.set()
        assert await completing == ObjectStored(etag="e-1")
    short = RetryPolicy(stall_seconds=30, complete_seconds=0.05)
    async with ActingPeer(partial(serve, False)) as peer, wire(peer.endpoint_url, short) as transport:
        with pytest.raises(Stalled, match=r"CompleteMultipartUpload.*0\.05 s"):
            await transport.send(COMPLETE)


async def test_spaces_while_it_joins_the_parts_are_progress(wire: Open) -> None:
    async def serve(ending: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"1\r\n \r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(ending), ending))
        await writer.drain()

    patience = RetryPolicy(complete_seconds=0.5)
    async with ActingPeer(partial(serve, COMPLETED)) as peer, wire(peer.endpoint_url, patience) as transport:
        assert await transport.send(COMPLETE) == ObjectStored(etag="e-1")
    ending = ERROR % b"InvalidPart"
    async with ActingPeer(partial(serve, ending)) as peer, wire(peer.endpoint_url, patience) as transport:
        with pytest.raises(AsyncSinkError, match="InvalidPart"):
            await transport.send(COMPLETE)


async def test_an_upload_that_is_gone(wire: Open) -> None:
    async with (
        CannedPeer(canned(404, ERROR % b"NoSuchUpload"), hang_up=False) as peer,
        wire(peer.endpoint_url) as transport,
    ):
        assert await transport.send(ABORT) == Done(was_there=False)
        for operation in (COMPLETE, LIST):
            with pytest.raises(UploadMissing, match=operation.name):
                await transport.send(operation)
