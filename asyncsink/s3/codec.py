"""Pure: each operation as a client method's parameters, and each answer as the operation's response, for both lanes.

Source: Amazon S3 API Reference, the page of each operation's name; the parameter names are boto3's.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from asyncsink.errors import ConfigError, PermanentError, ServerFault
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, HEADER_ALGORITHMS, ByteBody, is_composite
from asyncsink.model import Checksum
from asyncsink.options.settings import WRITE_METADATA_NAME, ChecksumAlgorithm, Secret
from asyncsink.s3 import operations as o
from asyncsink.s3.errors_map import kept, keys_hold_secret, one_line
from asyncsink.s3.get_object import DeleteObjects, GetObject, ObjectData, deletion_parameters, deletion_told
from asyncsink.s3.operations import OBJECT_SIZE_BYTES_MAX, PART_SIZE_BYTES_MAX, PARTS_MAX
from asyncsink.value import dataclass

# -- Request bodies that are sent in slices, without a copy ------------------------------------------------------------
# aiohttp iterates a body and waits for the socket between slices, so that each request for a slice means that the last
# one was taken. botocore has no write timeout: the progress watchdog relies on these requests. botocore's signers copy
# a body without `seek` into a BytesIO.

SLICE_BYTES = 256 * 1024
"""Large enough that the event loop is not the limit, small enough that a slow link shows progress."""
SMALL_BODY_BYTES = 64 * 1024
"""Up to this size one copy into a bytearray costs less than an iteration through aiohttp's payload machinery."""


class WatchedBody:
    """A rewindable view of bytes for botocore (`read`, `seek`, `tell`, `len`) and aiohttp (`async for`).

    Args:
        data: the body; not copied, and not to be changed until the request ended.
        progress: called with the number of bytes of a slice once that slice was taken by the connection.

    Iterating starts at the first byte, so a body can be sent again; `read` and `seek` serve signers, without progress.

    Attributes:
        slice_bytes: handed to the connection at a time.
        turn: awaited with the size of each slice before it is handed over, or None.
    """

    __slots__ = ("_position", "_progress", "_view", "slice_bytes", "turn")

    def __init__(self, data: ByteBody, progress: Callable[[int], None]) -> None:
        self._view = memoryview(data).cast("B")
        self._progress = progress
        self._position = 0
        self.slice_bytes = SLICE_BYTES
        self.turn: Callable[[int], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"<WatchedBody {len(self._view)} bytes>"

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        # An empty body is still a body: botocore must not take it for none.
        return True

    def tell(self) -> int:
        """The position of the next `read`, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move `read` to an absolute position, relative to here, or relative to the end; returns the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> memoryview:
        """The next `size` bytes (all that are left for None or a negative size), as a view."""
        end = len(self._view) if size is None or size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, len(self._view), self.slice_bytes):
            piece = self._view[start : start + self.slice_bytes]
            if self.turn is not None:
                await self.turn(len(piece))
            yield piece
            self._progress(len(piece))


def request_body(data: ByteBody, progress: Callable[[int], None]) -> bytearray | WatchedBody:
    """The body for botocore: a bytearray where `data` is small, else a WatchedBody.

    A bytearray, not bytes: botocore wraps bytes in a BytesIO and asks for a 100-continue round trip.
    """
    if len(data) <= SMALL_BODY_BYTES:
        return data if isinstance(data, bytearray) else bytearray(data)
    return WatchedBody(data, progress)


# -- Operations as client calls, and their answers ---------------------------------------------------------------------

Parameters = dict[str, Any]
_S3_BEGAN: Final = datetime(2006, 3, 14, tzinfo=UTC)
OnSent = Callable[[int], None]

CHECKSUM_FIELDS: Final = {name: f"Checksum{name}" for name in HEADER_ALGORITHMS}
"""Their names in boto3's parameters and answers, and in S3's XML."""

_BESIDE_THE_BODY: Final = frozenset({"ResponseMetadata", "RequestCharged"})
"""Fields of boto3's answer that are not in its body."""


_TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
"""How servers write IsTruncated, in lower case."""


@dataclass(frozen=True, slots=True)
class ClientCall:
    """A client method, the function that makes its parameters, and the function that reads its answer."""

    method: str
    parameters: Callable[[Any, OnSent], Parameters]
    response: Callable[[Any, Mapping[str, Any]], o.Response]


def customer_key(key: Secret | None) -> Parameters:
    """The three parameters of SSE-C (S3 User Guide, "Using server-side encryption with customer-provided keys")."""
    if key is None:
        return {}
    raw = key.reveal()
    return {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(raw).decode(),
        "SSECustomerKeyMD5": base64.b64encode(hashlib.md5(raw, usedforsecurity=False).digest()).decode(),
    }


def attribute_parameters(attributes: o.ObjectAttributes, write_token: str = "") -> Parameters:
    """The object's attributes for PutObject and CreateMultipartUpload.

    Raises:
        ConfigError: metadata that no HTTP header can carry.
    """
    named = {
        "ContentType": attributes.content_type,
        "ServerSideEncryption": attributes.sse,
        "SSEKMSKeyId": attributes.sse_kms_key_id,
        "StorageClass": attributes.storage_class,
        "ACL": attributes.acl,
        "Tagging": urlencode(attributes.tags, quote_via=quote, safe=""),
    }
    parameters: Parameters = {name: value for name, value in named.items() if value}
    if attributes.metadata:
        for name, value in attributes.metadata:
            if not name or not (name + value).isascii() or not (name + value).isprintable():
                raise ConfigError(
                    f"The metadata {name!r} cannot be sent: S3 takes printable ASCII only; encode it (percent, base64)."
                )
        parameters["Metadata"] = dict(attributes.metadata)
    if write_token:
        parameters["Metadata"] = {**parameters.get("Metadata", {}), WRITE_METADATA_NAME: write_token}
    return parameters | customer_key(attributes.sse_customer_key)


def checksum_parameters(checksum: Checksum | None) -> Parameters:
    """The header parameter of a checksum."""
    if checksum is None:
        return {}
    return {"ContentMD5" if checksum.algorithm == "MD5" else f"Checksum{checksum.algorithm}": checksum.value}


def _put(op: o.PutObject, progress: OnSent) -> Parameters:
    return {
        "Key": op.key,
        "Body": request_body(op.body, progress),
        "ContentLength": len(op.body),
        **checksum_parameters(op.checksum),
        **attribute_parameters(op.attributes, op.write_token),
        **_condition(op.only_new),
    }


def _condition(only_new: bool) -> Parameters:
    return {"IfNoneMatch": "*"} if only_new else {}


def _create(op: o.CreateMultipartUpload, _: OnSent) -> Parameters:
    parameters = {"Key": op.key, **attribute_parameters(op.attributes, op.write_token)}
    if op.algorithm in HEADER_ALGORITHMS:
        parameters["ChecksumAlgorithm"] = op.algorithm
        parameters["ChecksumType"] = "FULL_OBJECT" if op.algorithm in FULL_OBJECT_ALGORITHMS else "COMPOSITE"
    return parameters


def _part(op: o.UploadPart, progress: OnSent) -> Parameters:
    return {
        "Key": op.key,
        "UploadId": op.upload_id,
        "PartNumber": op.part_number,
        "Body": request_body(op.body, progress),
        "ContentLength": len(op.body),
        **checksum_parameters(op.checksum),
        **customer_key(op.sse_customer_key),
    }


def _complete(op: o.CompleteMultipartUpload, _: OnSent) -> Parameters:
    parts = []
    for part in op.parts:
        named: Parameters = {"PartNumber": part.part_number, "ETag": f'"{part.etag}"'}
        if part.checksum is not None and part.checksum.algorithm != "MD5":
            named |= checksum_parameters(part.checksum)
        parts.append(named)
    parameters: Parameters = {
        "Key": op.key,
        "UploadId": op.upload_id,
        "MultipartUpload": {"Parts": parts},
        "MpuObjectSize": op.size_bytes,
        **customer_key(op.sse_customer_key),
        **_condition(op.only_new),
    }
    if op.checksum is not None and op.checksum.algorithm in FULL_OBJECT_ALGORITHMS:
        parameters |= checksum_parameters(op.checksum) | {"ChecksumType": "FULL_OBJECT"}
    return parameters


def _abort(op: o.AbortMultipartUpload, _: OnSent) -> Parameters:
    return {"Key": op.key, "UploadId": op.upload_id}


def _checksum_mode(asked: bool) -> Parameters:
    return {"ChecksumMode": "ENABLED"} if asked else {}


def _head(op: o.HeadObject, _: OnSent) -> Parameters:
    parameters = {"Key": op.key, **_checksum_mode(op.ask_checksum), **customer_key(op.sse_customer_key)}
    if op.part_number is not None:
        parameters["PartNumber"] = op.part_number
    if op.version_id:
        parameters["VersionId"] = op.version_id
    return parameters


def _get(op: GetObject, _: OnSent) -> Parameters:
    parameters = {"Key": op.key, **_checksum_mode(op.ask_checksum), **customer_key(op.sse_customer_key)}
    if not op.whole:
        parameters["Range"] = f"bytes={op.offset}-{op.offset + op.length - 1}"
    if op.if_match:
        parameters["IfMatch"] = f'"{op.if_match}"'
    if op.version_id:
        parameters["VersionId"] = op.version_id
    return parameters


def _list(op: o.ListObjects, _: OnSent) -> Parameters:
    parameters: Parameters = {"Prefix": op.prefix, "MaxKeys": op.max_keys}
    if op.after:
        return parameters | {"Marker": op.after}
    if op.start_after and not op.token:
        parameters["StartAfter"] = op.start_after
    return parameters | ({"ContinuationToken": op.token} if op.token else {})


def _list_parts(op: o.ListParts, _: OnSent) -> Parameters:
    parameters: Parameters = {"Key": op.key, "UploadId": op.upload_id, **customer_key(op.sse_customer_key)}
    return parameters | ({"PartNumberMarker": op.marker} if op.marker else {})


def _list_uploads(op: o.ListMultipartUploads, _: OnSent) -> Parameters:
    # No EncodingType: SeaweedFS answers "url" and sends the keys unencoded, which decoding would change ("+", "%").
    parameters: Parameters = {"Prefix": op.prefix}
    if op.key_marker:
        parameters["KeyMarker"] = op.key_marker
        if op.upload_id_marker:
            parameters["UploadIdMarker"] = op.upload_id_marker
    return parameters


def _delete(op: o.DeleteObject, _: OnSent) -> Parameters:
    return {"Key": op.key}


def plain_etag(answer: Mapping[str, Any]) -> str:
    """The ETag without quotes (and without a gateway's weakness mark), or ""."""
    return str(answer.get("ETag") or "").strip().removeprefix("W/").strip('"')


def plain_sse(answer: Mapping[str, Any]) -> str:
    """The server-side encryption that the answer names, "customer" for SSE-C, or ""."""
    return str(answer.get("ServerSideEncryption") or ("customer" if answer.get("SSECustomerAlgorithm") else ""))


def has_composite(answer: Mapping[str, Any]) -> bool:
    """Whether the checksums are composite; some servers name no type and only write "abc=-3"."""
    return answer.get("ChecksumType") == "COMPOSITE" or any(map(is_composite, checksums_of(answer).values()))


def checksums_of(answer: Mapping[str, Any]) -> dict[ChecksumAlgorithm, str]:
    """Every checksum of the answer, by algorithm."""
    return {name: answer[field] for name, field in CHECKSUM_FIELDS.items() if answer.get(field)}


def _answered_checksum(wanted: Checksum | None, answer: Mapping[str, Any]) -> Checksum | None:
    found = checksums_of(answer)
    if has_composite(answer):
        # A composite value without the "-N" that marks it is compared with nothing.
        found = {algorithm: value for algorithm, value in found.items() if is_composite(value)}
    algorithm = wanted.algorithm if wanted is not None and wanted.algorithm in found else next(iter(found), None)
    return Checksum(algorithm, found[algorithm]) if algorithm is not None else None


def _stored(op: Any, answer: Mapping[str, Any]) -> o.ObjectStored:
    return o.ObjectStored(
        etag=plain_etag(answer),
        checksum=_answered_checksum(op.checksum, answer),
        version_id=answer.get("VersionId") or "",
        sse=plain_sse(answer),
    )


def _stored_for_sure(op: o.UploadPart | o.CompleteMultipartUpload, answer: Mapping[str, Any]) -> o.ObjectStored:
    """Require an ETag: a part needs it to complete the upload, and nothing else proves a CompleteMultipartUpload."""
    if not plain_etag(answer):
        raise _no_answer_of_s3(op, "has no ETag, so nothing proves that it happened")
    return _stored(op, answer)


def _no_answer_of_s3(op: Any, why: str) -> ServerFault:
    """The error for a 200 that is not S3's: a captive portal, a proxy or a gateway may have sent it."""
    what = f"{op.name} of {one_line(op.key, 1200)}" if getattr(op, "key", "") else op.name
    return _fault(
        op, f"{what} failed: the answer {why}; check that the endpoint is S3, and what answers on the way there."
    )


def _fault(op: Any, text: str) -> ServerFault:
    return ServerFault(text, operation=op.name, status=200)


def _check_said(op: Any, answer: Mapping[str, Any]) -> None:
    """Refuse an answer without any of S3's fields, which would pass for an empty list."""
    if not answer.keys() - _BESIDE_THE_BODY:
        raise _no_answer_of_s3(op, "is none of S3's lists")


def _headed(op: o.HeadObject, answer: Mapping[str, Any]) -> o.ObjectHead:
    if not (answer.get("ETag") or answer.get("LastModified") or checksums_of(answer)):
        raise _no_answer_of_s3(op, "describes no object (neither ETag nor date)")
    size_bytes = _whole_number(answer.get("ContentLength"), OBJECT_SIZE_BYTES_MAX)
    if size_bytes is None:
        raise PermanentError(
            f"{op.name} of {op.key!r} was answered with a size of {one_line(str(answer.get('ContentLength')))!r}; "
            f"expected 0 to {OBJECT_SIZE_BYTES_MAX:,} bytes; check that the endpoint is S3.",
            operation=op.name,
            status=200,
        )
    return o.ObjectHead(
        size_bytes=size_bytes,
        etag=plain_etag(answer),
        checksums=checksums_of(answer),
        composite=has_composite(answer),
        last_modified=answer.get("LastModified"),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        version_id=answer.get("VersionId") or "",
        sse=plain_sse(answer),
        content_type=answer.get("ContentType") or "",
        storage_class=answer.get("StorageClass") or "",
        parts_count=answer.get("PartsCount"),
    )


def _truncated(op: Any, answer: Mapping[str, Any], name: str) -> bool:
    """Whether more pages follow. Servers write "true" in many ways, and some send only the next position (`name`)."""
    told = answer.get("IsTruncated")
    if told is None:
        return bool(answer.get(name))
    text = str(told).strip().lower()
    if text not in _TRUTHS:
        raise _fault(op, f"{op.name} was answered with IsTruncated {one_line(text)!r}; check that the endpoint is S3.")
    return _TRUTHS[text]


def _next(op: Any, answer: Mapping[str, Any], name: str) -> Any:
    """The position of the next page; a truncated listing without one must not pass for a whole one."""
    if not _truncated(op, answer, name):
        return None
    if not answer.get(name):
        raise _endless(op, name)
    return answer[name]


def _endless(op: Any, name: str) -> ServerFault:
    return _fault(op, f"{op.name} was answered with a truncated list and no {name}.")


def _whole_number(value: Any, largest: int) -> int | None:
    """A number from 0 to `largest`, or None for anything else."""
    text = str(value).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    return number if 0 <= number <= largest else None


def _listed(op: o.ListObjects, answer: Mapping[str, Any]) -> o.ObjectPage:
    _check_said(op, answer)
    objects: list[o.ListedObject] = []
    vague: list[str] = []
    unnamed, key = 0, ""
    for entry in answer.get("Contents") or ():
        key = entry.get("Key") or ""
        size_bytes = _whole_number(entry.get("Size"), OBJECT_SIZE_BYTES_MAX)
        if not key:
            unnamed += 1
        elif size_bytes is None:
            vague.append(key)
        else:
            objects.append(o.ListedObject(key, size_bytes, plain_etag(entry), _moment(entry.get("LastModified"))))
    token = after = ""
    if _truncated(op, answer, "NextContinuationToken"):
        token = (answer.get("NextContinuationToken") or "").strip()
        if not token and (op.after or "Marker" in answer or answer.get("NextMarker")):
            # The server has only the listing of before 2016, which may omit the next position.
            after = answer.get("NextMarker") or key
        if not token and not after:
            raise _endless(op, "NextContinuationToken")
    return o.ObjectPage(objects=tuple(objects), vague=tuple(vague), unnamed=unnamed, next_token=token, next_after=after)


def _parts_listed(op: o.ListParts, answer: Mapping[str, Any]) -> o.PartPage:
    _check_said(op, answer)
    if (told := answer.get("UploadId")) and told != op.upload_id:
        text = f"{op.name} of {op.key!r} was answered with the parts of another upload; check that the endpoint is S3."
        raise _fault(op, text)
    parts: list[o.ListedPart] = []
    for entry in answer.get("Parts") or ():
        number = _whole_number(entry.get("PartNumber"), PARTS_MAX)
        size_bytes = _whole_number(entry.get("Size"), PART_SIZE_BYTES_MAX)
        if not number or size_bytes is None:
            raise _fault(
                op,
                f"{op.name} of {op.key!r} was answered with part {one_line(str(entry.get('PartNumber')))!r} of "
                f"{one_line(str(entry.get('Size')))!r} bytes; check that the endpoint is S3.",
            )
        parts.append(o.ListedPart(number, size_bytes, plain_etag(entry), _answered_checksum(None, entry)))
    # Some servers write 0 for no marker.
    told = _next(op, answer, "NextPartNumberMarker") if answer.get("IsTruncated") is not None else None
    marker = _whole_number(told, PARTS_MAX) if told is not None else None
    if told is not None and not marker:
        raise _endless(op, "NextPartNumberMarker")
    return o.PartPage(parts=tuple(parts), next_marker=marker)


def _uploads_listed(op: o.ListMultipartUploads, answer: Mapping[str, Any]) -> o.UploadPage:
    _check_said(op, answer)
    found = answer.get("Uploads") or ()
    named = [entry for entry in found if entry.get("Key") and entry.get("UploadId")]
    marker = _next(op, answer, "NextKeyMarker") if answer.get("IsTruncated") is not None else None
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    return o.UploadPage(
        answered=http_date(told),
        uploads=tuple(o.ListedUpload(entry["Key"], entry["UploadId"], _initiated(entry)) for entry in named),
        unnamed=len(found) - len(named),
        next_key_marker=marker or "",
        next_upload_id_marker=(answer.get("NextUploadIdMarker") or "") if marker else "",
    )


def _moment(value: Any) -> datetime | None:
    """A listing's time, timezone-aware, or None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = http_date(text)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _initiated(entry: Mapping[str, Any]) -> datetime | None:
    """The start of an upload, or None for a time before S3 existed (some servers write zeros for none)."""
    found = _moment(entry.get("Initiated"))
    return found if found is not None and found >= _S3_BEGAN else None


def http_date(text: str) -> datetime | None:
    """A Date header (RFC 9110, 6.6.1) as a timezone-aware time, or None for anything else. Pure."""
    from email.utils import parsedate_to_datetime  # few runs need it

    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    # "-0000" parses as a naive time, and means UTC (RFC 5322, 3.3).
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _created(op: o.CreateMultipartUpload, answer: Mapping[str, Any]) -> o.UploadCreated:
    if not answer.get("UploadId"):
        raise _no_answer_of_s3(op, "has no upload id")
    return o.UploadCreated(upload_id=answer["UploadId"])


def _got(op: GetObject, answer: Mapping[str, Any]) -> ObjectData:
    received, expected = len(answer["Body"]), op.length
    total = str(answer.get("ContentRange") or "").rpartition("/")[2].strip()
    object_bytes = _whole_number(total, OBJECT_SIZE_BYTES_MAX) if total.isascii() and total.isdigit() else None
    if not op.size_known:
        object_bytes = answer.get("ContentLength")
        expected = received if object_bytes is None else min(object_bytes, op.length)
    if op.whole and received != expected:
        raise _fault(op, f"{op.name} of {op.key} was answered with {received:,} bytes; {expected:,} were expected.")
    return ObjectData(
        data=answer["Body"],
        object_bytes=object_bytes,
        etag=plain_etag(answer),
        checksums=checksums_of(answer),
        composite=has_composite(answer),
        version_id=answer.get("VersionId") or "",
        sse=plain_sse(answer),
    )


_KEPT: Final = frozenset(
    {"ETag", "VersionId", "ServerSideEncryption", "SSECustomerAlgorithm", "ChecksumType", "ContentType", "StorageClass"}
    | set(CHECKSUM_FIELDS.values())
)


def _without_secrets(
    response: Callable[[Any, Mapping[str, Any]], o.Response],
) -> Callable[[Any, Mapping[str, Any]], o.Response]:
    """Remove secrets from an answer before it is read: its values go into receipts, manifests and journals."""

    def read(operation: Any, answer: Mapping[str, Any]) -> o.Response:
        told: dict[str, Any] = {
            name: kept(value) if name in _KEPT and isinstance(value, str) else value for name, value in answer.items()
        }
        if "Metadata" in told:
            told["Metadata"] = {name: kept(value) for name, value in told["Metadata"].items()}
        if (
            (upload_id := told.get("UploadId"))
            and isinstance(operation, o.CreateMultipartUpload)
            and not kept(upload_id)
        ):
            raise PermanentError(
                f"{operation.name} of {one_line(operation.key, 1200)} was answered with an upload id that repeats a "
                "secret; check that the endpoint is S3.",
                operation=operation.name,
                status=200,
            )
        for name in ("Contents", "Parts", "Uploads"):
            if told.get(name):
                told[name] = _entries_without_secrets(told[name])
        return response(operation, told)

    return read


def _entries_without_secrets(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a page without secrets; a key that repeats one is emptied, and its entry counts as unnamed."""
    odd = keys_hold_secret("\n".join(str(entry.get("Key", "")) for entry in entries))
    found = []
    for entry in entries:
        told = dict(entry)
        for name in ("ETag", "UploadId"):
            if isinstance(told.get(name), str):
                told[name] = kept(told[name])
        if odd and keys_hold_secret(str(told.get("Key", ""))):
            told["Key"] = ""
        found.append(told)
    return found


CALLS: Final[dict[type[Any], ClientCall]] = {
    o.PutObject: ClientCall("put_object", _put, _without_secrets(_stored)),
    o.CreateMultipartUpload: ClientCall("create_multipart_upload", _create, _without_secrets(_created)),
    o.UploadPart: ClientCall("upload_part", _part, _without_secrets(_stored_for_sure)),
    o.CompleteMultipartUpload: ClientCall("complete_multipart_upload", _complete, _without_secrets(_stored_for_sure)),
    o.AbortMultipartUpload: ClientCall("abort_multipart_upload", _abort, _without_secrets(lambda _, __: o.Done())),
    o.HeadObject: ClientCall("head_object", _head, _without_secrets(_headed)),
    GetObject: ClientCall("get_object", _get, _without_secrets(_got)),
    o.ListObjects: ClientCall("list_objects_v2", _list, _without_secrets(_listed)),
    o.ListParts: ClientCall("list_parts", _list_parts, _without_secrets(_parts_listed)),
    o.ListMultipartUploads: ClientCall("list_multipart_uploads", _list_uploads, _without_secrets(_uploads_listed)),
    DeleteObjects: ClientCall("delete_objects", lambda op, _: deletion_parameters(op), _without_secrets(deletion_told)),
    o.DeleteObject: ClientCall("delete_object", _delete, _without_secrets(lambda _, __: o.Done())),
}
