"""ListObjectsV2 of the wire lane: the query, and answers as botocore reads them, however odd the keys."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from itertools import product
from string import ascii_lowercase
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from botocore.handlers import decode_list_object_v2
from botocore.parsers import create_parser
from botocore.session import Session
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.errors import ServerFault
from asyncsink.s3 import listing as listing_module
from asyncsink.s3.codec import CALLS
from asyncsink.s3.http.requests import listing_query
from asyncsink.s3.listing import DEPTH_MAX, listing_told
from asyncsink.s3.operations import ListedObject, ListObjects, ObjectPage

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
SHAPE = Session().get_service_model("s3").operation_model("ListObjectsV2").output_shape


def listing(*entries: str, told: str = "<IsTruncated>false</IsTruncated>", namespace: str = NAMESPACE) -> bytes:
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{declaration}<ListBucketResult{namespace}>{told}{''.join(entries)}</ListBucketResult>".encode()


def entry(
    key: str,
    size: int = 1,
    *,
    etag: str = "&quot;abc&quot;",
    modified: str = "2026-01-31T23:59:59.000Z",
    owned: bool = True,
) -> str:
    owner = "<Owner><ID>i</ID><DisplayName>Key</DisplayName></Owner>" if owned else ""
    owner += "<StorageClass>STANDARD</StorageClass>"
    inside = f"<Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size>{owner}"
    return f"<Contents>{inside}</Contents>"


def page_of(operation: ListObjects, bucket: str, body: bytes) -> ObjectPage:
    page = CALLS[ListObjects].response(operation, listing_told(operation, body))
    assert isinstance(page, ObjectPage)
    return page


def as_botocore_reads(body: bytes) -> ObjectPage:
    parsed: dict[str, Any] = create_parser("rest-xml").parse({"body": body, "headers": {}, "status_code": 200}, SHAPE)
    decode_list_object_v2(parsed, {"encoding_type_auto_set": True})
    page = CALLS[ListObjects].response(ListObjects(), parsed)
    assert isinstance(page, ObjectPage)
    return page


@given(
    keys=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=5),
    plus=st.booleans(),
    sizes=st.integers(0, 50 * 1000**4),
    owned=st.booleans(),
)
@settings(max_examples=150)
def test_any_keys_are_read_as_botocore_reads_them(keys: list[str], plus: bool, sizes: int, owned: bool) -> None:
    encoded = [quote_plus(key) if plus else quote(key, safe="") for key in keys]
    told = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    body = listing(*(entry(key, sizes, owned=owned) for key in encoded), told=told)
    page = page_of(ListObjects(), "b", body)
    assert page == as_botocore_reads(body)
    assert [found.key for found in page.objects] == keys


@pytest.mark.parametrize(
    "body",
    [
        listing(),
        listing(entry("plain")),
        listing(entry("a%20b+c")),  # a server that was not asked, or does not encode
        listing(entry("a%20b+c"), told="<EncodingType>url</EncodingType>"),
        listing(entry("bad%FFutf8%C3"), told="<EncodingType>url</EncodingType>"),
        listing(entry(escape("<&>\"'"))),
        listing(entry("  kept spaces ")),
        listing(entry("<![CDATA[cdata & more]]>")),
        listing(entry("k", etag="d41d8cd98f00b204e9800998ecf8427e-2", modified="2026-01-31T23:59:59Z")),
        listing(entry("k", modified="Sat, 31 Jan 2026 23:59:59 GMT")),
        listing(entry("k", modified="2026-01-31T23:59:59.123456789Z")),
        listing(entry("k", etag="")),
        listing(entry("k"), namespace=""),
        listing("<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", entry("k")),
        listing("<Prefix>Contents</Prefix><KeyCount>1</KeyCount>", entry("k")),
        listing(told="<IsTruncated>true</IsTruncated><NextContinuationToken>a%2B/=</NextContinuationToken>"),
    ],
)
def test_answers_of_many_servers(body: bytes) -> None:
    assert page_of(ListObjects(), "b", body) == as_botocore_reads(body)


def test_prefixed_names_are_the_same_names() -> None:
    body = b'<s:ListBucketResult xmlns:s="urn:s3"><s:IsTruncated>false</s:IsTruncated></s:ListBucketResult>'
    assert page_of(ListObjects(), "b", body).objects == ()


def test_a_time_without_a_zone_is_utc() -> None:
    (found,) = page_of(ListObjects(), "b", listing(entry("k", 7, modified="2026-01-31T23:59:59"))).objects
    assert found == ListedObject("k", 7, "abc", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"<html><body>a login page</body></html>",
        listing(entry("k"))[:-5],
        listing(entry("\x01")),
        listing(told="<IsTruncated>true</IsTruncated>"),
        listing(told="<IsTruncated>perhaps</IsTruncated>"),
        listing("<a>" * DEPTH_MAX + "</a>" * DEPTH_MAX),
        b'<!DOCTYPE l [<!ENTITY a "aaaa">]>' + listing(entry("&a;")).partition(b"\n")[2],
    ],
)
def test_what_is_no_listing_is_a_server_fault(body: bytes) -> None:
    with pytest.raises(ServerFault, match=r"ListObjectsV2"):
        page_of(ListObjects(), "b", body)


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(max_examples=200)
def test_broken_answers_are_typed_errors(noise: bytes, position: int) -> None:
    whole = listing(entry("k"))
    for body in (noise, whole[:position] + noise + whole[position:]):
        with contextlib.suppress(ServerFault):
            page_of(ListObjects(), "b", body)


ODD = (
    b"<", b">", b"&", b"&quot;", b"&amp;", b'"', b"/", b"\n", b"\r\n", b"\0", b"\xc3\xa9", b"]]>", b"<!--", b"-->",
    b"<![CDATA[", b"<Contents>", b"</Contents>", b"<Contents/>", b"<Key>", b"</Key>", b"<Key/>", b"<X>", b"</X>",
    b"<?p ?>", b"xmlns:", b"<!DOCTYPE a>", b"<Key>k</Key>", b"<Size>1</Size>",
    b"<X><Contents><Key>x</Key><Size>1</Size></Contents></X>",
)  # fmt: skip
PLAIN = listing(*(entry(f"k{number}", number, owned=False) for number in range(3)))


def _told(body: bytes) -> Any:
    try:
        return listing_told(ListObjects(), body)
    except ServerFault as error:
        return str(error)


@given(st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 12), st.sampled_from(ODD)), max_size=3))
@settings(max_examples=500)
def test_what_is_read_without_a_parser_is_what_the_parser_reads(changes: list[tuple[int, int, bytes]]) -> None:
    body = PLAIN
    for position, removed, added in changes:
        body = body[:position] + added + body[position + removed :]
    with pytest.MonkeyPatch.context() as without:
        without.setattr(listing_module, "_plain_entries", lambda body, *_: ([], body))
        expected = _told(body)
    assert _told(body) == expected


def test_a_usual_page_needs_no_parser_for_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(listing_module.XmlReader, "read", lambda _, body: parsed.append(body))
    expected = [
        {"Key": f"k{n}", "Size": f"{n}", "ETag": '"abc"', "LastModified": "2026-01-31T23:59:59.000Z"} for n in (0, 1, 2)
    ]
    assert listing_told(ListObjects(), PLAIN)["Contents"] == expected
    assert parsed == [listing()]


def test_an_entry_of_very_many_elements_is_left_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(listing_module.XmlReader, "read", lambda _, body: parsed.append(body))
    names = ("".join(letters) for letters in product(ascii_lowercase, repeat=3))
    body = listing(f"<Contents><Key>k</Key><Size>1</Size>{''.join(f'<{name}>1</{name}>' for name in names)}</Contents>")
    listing_told(ListObjects(), body)
    assert parsed == [body]


def test_the_query() -> None:
    query = listing_query(ListObjects(prefix="a b/ü+", token="t/=", max_keys=3))
    assert dict(parse_qsl(query)) == {
        "list-type": "2",
        "encoding-type": "url",
        "max-keys": "3",
        "prefix": "a b/ü+",
        "continuation-token": "t/=",
    }
    assert [pair.partition("=")[0] for pair in query.split("&")] == sorted(dict(parse_qsl(query)))
    assert "continuation-token" not in listing_query(ListObjects())
