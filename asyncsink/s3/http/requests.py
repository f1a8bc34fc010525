"""Pure: an operation as the head of an HTTP/1.1 request, and the XML bodies of multipart uploads, both ways.

All headers but five values (checksum, payload hash, date, write token, length) are the same for every object with the
same attributes: they are laid out once, in signing order and in sending order, and kept as a template.

Source: Amazon S3 API Reference, the page of each operation's name.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from asyncsink.errors import ConfigError, InvalidKey, PermanentError, ServerFault
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, HEADER_ALGORITHMS
from asyncsink.model import Checksum
from asyncsink.options.settings import WRITE_METADATA_NAME, ChecksumAlgorithm, Secret
from asyncsink.s3.codec import CHECKSUM_FIELDS, customer_key
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.get_object import AS_STORED, GetObject
from asyncsink.s3.http.signing import (
    EMPTY_PAYLOAD,
    UNSIGNED_PAYLOAD,
    Day,
    Endpoint,
    Signer,
    canonical_headers,
    canonical_query,
    encode_path,
)
from asyncsink.s3.listing import NOT_UNDERSTOOD, DocumentRefused, XmlReader, listing_told
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    ListObjects,
    ListParts,
    ObjectAttributes,
    PutObject,
    UploadPart,
)
from asyncsink.value import dataclass

Bookkeeping = CreateMultipartUpload | CompleteMultipartUpload | AbortMultipartUpload | ListParts
BOOKKEEPING: Final = (CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload, ListParts)

METHODS: Final[dict[type[Any], str]] = {
    CreateMultipartUpload: "POST",
    CompleteMultipartUpload: "POST",
    AbortMultipartUpload: "DELETE",
    ListParts: "GET",
}
ObjectOperation = PutObject | UploadPart | HeadObject | GetObject | Bookkeeping
HotOperation = ObjectOperation | ListObjects
Headers = list[tuple[str, str]]

TEMPLATES_MAX: Final = 256
"""Sets of attributes whose layout is kept; one more clears all of them."""

USER_AGENT: Final = "asyncsink"
_WITH_TOKEN: Final = (PutObject, CreateMultipartUpload)
_AS_STORED: Final = f"accept-encoding: {AS_STORED}\r\n"
"""Not signed: Google's front ends change it on the way."""
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_TOLD: Final = ("UploadId", "ETag", "ChecksumType", *CHECKSUM_FIELDS.values())
_PLAIN: Final = re.compile(r"[A-Za-z0-9+/=_.-]*")
_SLOT: Final = "\0"
"""Stands for a value that varies; no header value can hold it."""


@dataclass(frozen=True, slots=True)
class Template:
    """The headers around the varying values: text before the checksum, the payload hash, the date, the write token, and
    after it. What a request does not have is "", and so is the text before it."""

    signed: tuple[str, ...]
    sent: tuple[str, ...]
    names: str


class _Alike(NamedTuple):
    """The text around key, checksum, own headers and signature of the small requests of one kind and second: in the
    canonical request, and in the head. `kept` is what the kind is known by, as long as this is kept."""

    kept: object
    day: Day
    signed: str
    before: str
    behind: str
    start: str
    middle: str
    end: str


class RequestWriter:
    """Writes the heads of requests for one bucket, signed with one set of credentials.

    Args:
        endpoint: of the requests.
        signer: None sends them without a signature.
        request_payer: accept the charges of a requester-pays bucket.
    """

    def __init__(self, endpoint: Endpoint, signer: Signer | None, *, request_payer: bool = False) -> None:
        self._endpoint = endpoint
        self._signer = signer
        self._request_payer = request_payer
        self._templates: dict[object, Template] = {}
        # Replaced as one: lanes write heads in several threads.
        self._moment: tuple[str, dict[object, _Alike]] = ("", {})

    def __repr__(self) -> str:
        return f"<RequestWriter {self._endpoint.url}{self._endpoint.base_path} {self._signer!r}>"

    @property
    def temporary(self) -> bool:
        """Whether the credentials are temporary."""
        return self._signer is not None and self._signer.session_token is not None

    @property
    def signs(self) -> bool:
        """Whether requests are signed."""
        return self._signer is not None

    def head(self, operation: HotOperation, payload_hash: str, timestamp: str, document: bytes = b"") -> bytes:
        """The request line and all headers, with the empty line that ends them.

        Args:
            operation: its body, if it has one, follows the head unchanged.
            payload_hash: of the body (see `Signer.authorization`); ignored where nothing is signed.
            timestamp: "20260131T235959Z", in the server's time; ignored where nothing is signed.
            document: the body of a CompleteMultipartUpload.

        Raises:
            InvalidKey: the key, or the prefix of a listing, is no Unicode text.
            ConfigError: a header value that HTTP cannot carry.
        """
        method, query, length = "PUT", "", ""
        path = self._endpoint.base_path
        try:
            if isinstance(operation, ListObjects):
                method, query = "GET", listing_query(operation)
            else:
                path += encode_path(operation.key)
        except UnicodeEncodeError:
            raise _not_unicode(operation.prefix if isinstance(operation, ListObjects) else operation.key) from None
        checksum: Checksum | None = None
        if isinstance(operation, HeadObject):
            method, query = "HEAD", _head_query(operation.part_number, operation.version_id)
            length = _AS_STORED
        elif isinstance(operation, GetObject):
            # None of these headers needs a signature, and two vary from request to request.
            method, query, length = "GET", _head_query(None, operation.version_id), _get_headers(operation)
        elif isinstance(operation, BOOKKEEPING):
            method, query = METHODS[type(operation)], bookkeeping_query(operation)
            if method == "POST":
                length = f"content-length: {len(document)}\r\n"
            checksum = _whole_checksum(operation)
        elif not isinstance(operation, ListObjects):
            checksum = operation.checksum
            length = f"content-length: {len(operation.body)}\r\n"
            if isinstance(operation, UploadPart):
                query = f"partNumber={operation.part_number}&uploadId={quote(operation.upload_id, safe='-_.~')}"
        template = self._template(operation, checksum)
        value = ""
        if checksum is not None:
            _check("the checksum", value := checksum.value)
        token = operation.write_token if isinstance(operation, _WITH_TOKEN) else ""
        where = f"{path}?{query}" if query else path
        a, b, c, d, e = template.sent
        if self._signer is None:
            return f"{method} {where} HTTP/1.1\r\n{a}{value}{b}{c}{d}{token}{e}{length}\r\n".encode("ascii")
        before, middle, after, behind, end = template.signed
        headers = f"{before}{value}{middle}{payload_hash}{after}{timestamp}{behind}{token}{end}"
        signature = self._signer.authorization(
            method=method,
            path=path,
            query=query,
            headers=headers,
            header_names=template.names,
            payload_hash=payload_hash,
            timestamp=timestamp,
        )
        return (
            f"{method} {where} HTTP/1.1\r\n{a}{value}{b}{payload_hash}{c}{timestamp}{d}{token}{e}{length}"
            f"authorization: {signature}\r\n\r\n"
        ).encode("ascii")

    def put_head(
        self,
        key: str,
        size_bytes: int,
        checksum: Checksum,
        attributes: ObjectAttributes,
        moment: tuple[str, str],
        *,
        only_new: bool = False,
    ) -> bytes:
        """The head of a PutObject without a write token: as `head`, in half the time where neighbours have the same
        attributes.

        Args:
            key: of the object.
            size_bytes: of the body.
            checksum: of the body.
            attributes: the same object for all of a kind.
            moment: payload_hash and timestamp, as in `head`.
            only_new: as in PutObject.

        Raises:
            InvalidKey, ConfigError: as `head`.
        """
        payload_hash, timestamp = moment
        # A body's hash occurs once, so that nothing could be kept for it.
        if self._signer is None or payload_hash not in (UNSIGNED_PAYLOAD, EMPTY_PAYLOAD):
            body = bytes(size_bytes)
            put = PutObject(key=key, body=body, checksum=checksum, attributes=attributes, only_new=only_new)
            return self.head(put, payload_hash, timestamp)
        kinds = self._kinds(timestamp)
        # The id is unique as long as the entry keeps the object.
        place = (id(attributes), payload_hash, checksum.algorithm, only_new)
        puts = kinds.get(place)
        if puts is None:
            put = PutObject(key="", body=b"", checksum=checksum, attributes=attributes, only_new=only_new)
            puts = kinds[place] = self._alike(attributes, self._template(put, checksum), payload_hash, timestamp)
        _, day, signed, before, behind, start, middle, end = puts
        path, value = self._path(key), checksum.value
        digest = hashlib.sha256(f"PUT\n{path}{before}{value}{behind}".encode()).hexdigest()
        signature = day.signature(signed + digest)
        length = f"content-length: {size_bytes}\r\n"
        return f"PUT {path}{start}{value}{middle}{length}{end}{signature}\r\n\r\n".encode("ascii")

    def get_head(self, get: GetObject, timestamp: str) -> bytes:
        """The head of a GetObject without a version: as `head`, in half the time where neighbours ask alike."""
        if self._signer is None:
            return self.head(get, EMPTY_PAYLOAD, timestamp)
        kinds = self._kinds(timestamp)
        place = (GetObject, get.sse_customer_key, get.ask_checksum)
        gets = kinds.get(place)
        if gets is None:
            gets = kinds[place] = self._alike(place, self._template(get, None), EMPTY_PAYLOAD, timestamp)
        _, day, signed, before, behind, start, middle, end = gets
        path = self._path(get.key)
        digest = hashlib.sha256(f"GET\n{path}{before}{behind}".encode()).hexdigest()
        signature = day.signature(signed + digest)
        return f"GET {path}{start}{middle}{_get_headers(get)}{end}{signature}\r\n\r\n".encode("ascii")

    def _path(self, key: str) -> str:
        try:
            return self._endpoint.base_path + encode_path(key)
        except UnicodeEncodeError:
            raise _not_unicode(key) from None

    def _kinds(self, timestamp: str) -> dict[object, _Alike]:
        second, kinds = self._moment
        if second != timestamp:
            kinds = {}
            self._moment = (timestamp, kinds)
        return kinds

    def _alike(self, kept: object, template: Template, payload_hash: str, timestamp: str) -> _Alike:
        assert self._signer is not None
        day, signed, authorization = self._signer.begun(timestamp, template.names)
        before, middle, after, behind, end = template.signed
        a, b, c, d, e = template.sent
        return _Alike(
            kept,
            day,
            signed,
            f"\n\n{before}",
            f"{middle}{payload_hash}{after}{timestamp}{behind}{end}\n{template.names}\n{payload_hash}",
            f" HTTP/1.1\r\n{a}",
            f"{b}{payload_hash}{c}{timestamp}{d}{e}",
            f"authorization: {authorization}",
        )

    def _template(self, operation: HotOperation, checksum: Checksum | None) -> Template:
        algorithm = checksum.algorithm if checksum is not None else None
        given: object = None
        if isinstance(operation, CompleteMultipartUpload):
            # Its size varies: kept, it would only displace others.
            return self._lay_out(operation, algorithm)
        if isinstance(operation, PutObject):
            given = operation.attributes
            if operation.only_new or operation.write_token:
                given = given, operation.only_new, bool(operation.write_token)
        elif isinstance(operation, CreateMultipartUpload):
            given = operation.attributes, operation.algorithm, bool(operation.write_token)
        elif isinstance(operation, (HeadObject, GetObject)):
            given = operation.sse_customer_key, operation.ask_checksum
        elif not isinstance(operation, (ListObjects, AbortMultipartUpload)):
            given = operation.sse_customer_key
        place = (type(operation), given, algorithm)
        template = self._templates.get(place)
        if template is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            template = self._templates[place] = self._lay_out(operation, algorithm)
        return template

    def _lay_out(self, operation: HotOperation, algorithm: ChecksumAlgorithm | None) -> Template:
        headers: Headers = [("host", self._endpoint.authority)]
        if isinstance(operation, (PutObject, CreateMultipartUpload)):
            headers += attribute_headers(operation.attributes)
        elif not isinstance(operation, (ListObjects, AbortMultipartUpload)):
            headers += customer_key_headers(operation.sse_customer_key)
        if isinstance(operation, (HeadObject, GetObject)):
            headers += [("x-amz-checksum-mode", "ENABLED")] if operation.ask_checksum else []
        elif isinstance(operation, CreateMultipartUpload) and operation.algorithm in HEADER_ALGORITHMS:
            kind = "FULL_OBJECT" if operation.algorithm in FULL_OBJECT_ALGORITHMS else "COMPOSITE"
            headers += [("x-amz-checksum-algorithm", operation.algorithm), ("x-amz-checksum-type", kind)]
        elif isinstance(operation, CompleteMultipartUpload):
            headers += [("content-type", "application/xml"), ("x-amz-mp-object-size", str(operation.size_bytes))]
            if algorithm is not None:
                headers.append(("x-amz-checksum-type", "FULL_OBJECT"))
        headers += _condition(operation)
        if self._request_payer:
            headers.append(("x-amz-request-payer", "requester"))
        if self._signer is not None and self._signer.session_token is not None:
            headers.append(("x-amz-security-token", self._signer.session_token.reveal().decode()))
        for name, value in headers:
            _check(name, value)
        if algorithm is not None:
            headers.append(("content-md5" if algorithm == "MD5" else f"x-amz-checksum-{algorithm.lower()}", _SLOT))
        if self._signer is not None:
            headers += [("x-amz-content-sha256", _SLOT), ("x-amz-date", _SLOT)]
        token = _token_header(operation)
        headers += token
        slots = (algorithm is not None, self._signer is not None, self._signer is not None, bool(token))
        signed, names = canonical_headers(headers)
        # Sent in the same order, but with the spaces inside values that signing folds.
        sent = "".join(f"{name}: {value}\r\n" for name, value in sorted(headers))
        agent = f"user-agent: {USER_AGENT}\r\n"
        return Template(_split(signed, slots), _split(agent + sent, slots), names)


def listing_query(operation: ListObjects) -> str:
    """The query string of a listing, as it is signed and sent.

    Keys are requested URL-encoded, since XML 1.0 cannot represent every character that a key may hold.

    Raises:
        UnicodeEncodeError: the prefix holds a lone surrogate.
    """
    parameters = [("encoding-type", "url"), ("max-keys", str(operation.max_keys)), ("prefix", operation.prefix)]
    # The listing of before 2016, which continues after a key, is for servers without the newer one.
    parameters.append(("marker", operation.after) if operation.after else ("list-type", "2"))
    if operation.token:
        parameters.append(("continuation-token", operation.token))
    elif operation.start_after and not operation.after:
        parameters.append(("start-after", operation.start_after))
    return canonical_query(parameters)


def attribute_headers(attributes: ObjectAttributes) -> Headers:
    """The object's attributes as headers.

    Raises:
        ConfigError: a metadata name that is no header name, or differs from another only in case: HTTP has one header
            for both.
    """
    named = {
        "content-type": attributes.content_type,
        "x-amz-acl": attributes.acl,
        "x-amz-server-side-encryption": attributes.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": attributes.sse_kms_key_id,
        "x-amz-storage-class": attributes.storage_class,
        "x-amz-tagging": urlencode(attributes.tags, quote_via=quote, safe=""),
    }
    headers = {name: value for name, value in named.items() if value}
    for name, value in attributes.metadata:
        header = f"x-amz-meta-{name.lower()}"
        if not name or not set(name) <= _TOKEN or header in headers:
            raise ConfigError(
                f"The metadata {name!r} cannot be sent: S3 takes each name once, of letters, digits and -_.+!#$&'*^`|~."
            )
        headers[header] = value
    return [*headers.items(), *customer_key_headers(attributes.sse_customer_key)]


def customer_key_headers(key: Secret | None) -> Headers:
    """The three headers of SSE-C (S3 User Guide, "Using server-side encryption with customer-provided keys")."""
    names = {"SSECustomerAlgorithm": "algorithm", "SSECustomerKey": "key", "SSECustomerKeyMD5": "key-md5"}
    values = customer_key(key)
    return [(f"x-amz-server-side-encryption-customer-{names[name]}", value) for name, value in values.items()]


def _not_unicode(key: str) -> InvalidKey:
    return InvalidKey(f"The key {key!r} is no valid Unicode; rename the file.")


_TOKEN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+!#$%&'*^`|~")
"""The characters of a header name (RFC 9110, 5.6.2)."""


def _check(name: str, value: str) -> None:
    if value.isascii() and value.isprintable():
        return
    if name.startswith("x-amz-meta-"):
        what = f"The metadata {name.removeprefix('x-amz-meta-')!r} cannot be sent"
    else:
        what = f"The value for {name} cannot be sent"
    raise ConfigError(f"{what}: S3 takes printable ASCII only; encode it (percent, base64).")


def _condition(operation: HotOperation) -> Headers:
    only_new = isinstance(operation, (PutObject, CompleteMultipartUpload)) and operation.only_new
    return [("if-none-match", "*")] if only_new else []


def _token_header(operation: HotOperation) -> Headers:
    tokened = isinstance(operation, _WITH_TOKEN) and operation.write_token
    return [(f"x-amz-meta-{WRITE_METADATA_NAME}", _SLOT)] if tokened else []


def _whole_checksum(operation: Bookkeeping) -> Checksum | None:
    """The whole object's checksum, where its algorithm has full-object checksums."""
    if not isinstance(operation, CompleteMultipartUpload) or operation.checksum is None:
        return None
    return operation.checksum if operation.checksum.algorithm in FULL_OBJECT_ALGORITHMS else None


def _head_query(part_number: int | None, version_id: str) -> str:
    if part_number is None and not version_id:
        return ""
    parameters: Headers = []
    if part_number is not None:
        parameters.append(("partNumber", str(part_number)))
    if version_id:
        parameters.append(("versionId", version_id))
    return canonical_query(parameters)


def _get_headers(operation: GetObject) -> str:
    """The lines with the range, and with the ETag of the object that it must come from."""
    lines = _AS_STORED
    if not operation.whole:
        lines += f"range: bytes={operation.offset}-{operation.offset + operation.length - 1}\r\n"
    if operation.if_match:
        _check("if-match", operation.if_match)
        lines += f'if-match: "{operation.if_match}"\r\n'
    return lines


def _split(text: str, slots: tuple[bool, ...]) -> tuple[str, ...]:
    # Sorted by name, the checksum (content-md5 or x-amz-checksum-…) comes before x-amz-content-sha256, the date, and
    # the write token (x-amz-meta-…).
    pieces = iter(text.split(_SLOT))
    return (*(next(pieces) if there else "" for there in slots), next(pieces))


# -- XML of multipart uploads ------------------------------------------------------------------------------------------


@cache
def _not_xml() -> re.Pattern[str]:
    """What an XML 1.0 document cannot represent, not even escaped (XML 1.0, 2.2)."""
    # Compiled on demand: it takes milliseconds, and the usual servers do not make it needed.
    return re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def bookkeeping_query(operation: Bookkeeping) -> str:
    """The query string, as it is signed and sent."""
    if isinstance(operation, CreateMultipartUpload):
        return "uploads="
    if isinstance(operation, ListParts) and operation.marker:
        return canonical_query([("part-number-marker", str(operation.marker)), ("uploadId", operation.upload_id)])
    return f"uploadId={quote(operation.upload_id, safe='-_.~')}"


def parts_document(operation: CompleteMultipartUpload) -> bytes:
    """The parts as CompleteMultipartUpload's body. Takes about a microsecond for each.

    Raises:
        PermanentError: an ETag or a checksum that XML cannot represent.
    """
    pieces = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for part in operation.parts:
        pieces.append(f'<Part><PartNumber>{part.part_number}</PartNumber><ETag>"{_text(operation, part.etag)}"</ETag>')
        if part.checksum is not None and part.checksum.algorithm != "MD5":
            name = f"Checksum{part.checksum.algorithm}"
            pieces.append(f"<{name}>{_text(operation, part.checksum.value)}</{name}>")
        pieces.append("</Part>")
    pieces.append("</CompleteMultipartUpload>")
    return "".join(pieces).encode()


def told_by(operation: Bookkeeping, body: bytes) -> dict[str, Any]:
    """The fields of an answer's body, by boto3's names. Takes some ten microseconds for each part of a list.

    Raises:
        ServerFault: it is not the XML that S3 answers.
    """
    if isinstance(operation, AbortMultipartUpload):
        return {}
    if isinstance(operation, ListParts):
        return listing_told(operation, body)
    try:
        # Its fields make it an answer, not its root element, in which servers differ.
        reader = XmlReader("", _TOLD)
        reader.read(body)
        told: dict[str, Any] = dict(reader.told)
        if not told.get("UploadId") and not isinstance(operation, CompleteMultipartUpload):
            raise DocumentRefused("no UploadId")
        return told
    except NOT_UNDERSTOOD as error:
        raise ServerFault(
            f"{operation.name} of {one_line(operation.key, 1200)} failed: the answer is not the XML that S3 gives; "
            "check that the endpoint is S3.",
            operation=operation.name,
            status=200,
        ) from error


def _text(operation: CompleteMultipartUpload, value: str) -> str:
    # The usual ETag and checksum need no escaping.
    if _PLAIN.fullmatch(value):
        return value
    if _not_xml().search(value):
        raise PermanentError(
            f"{operation.name} of {one_line(operation.key, 1200)} cannot be sent: the ETag or checksum "
            f"{one_line(value)!r} of a part holds characters that XML cannot say; check that the endpoint is S3.",
            operation=operation.name,
        )
    # A bare carriage return would be read as a line feed (XML 1.0, 2.11).
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("\r", "&#13;")
