"""Checksums of requests: their comparison with the server's answer, and servers that refuse checksum headers.

Several servers answer x-amz-checksum-… with 400 or 501 (Cloudflare R2, Backblaze B2 and older releases of others). The
first such request is sent once more without the headers. Where its answer then differs, the rest of the run sends none,
and Content-MD5 and the returned ETag guard each body.

Sources: AWS SDKs and Tools Reference Guide, "Data Integrity Protections for Amazon S3"; RFC 1864 (Content-MD5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import anyio.to_thread

from asyncsink.errors import AsyncSinkError, ConfigError, PermanentError, RetryableError
from asyncsink.integrity.checksums import ByteBody, checksum_of, etag_md5
from asyncsink.integrity.sameness import checksum_by, compare_told, confirm, contradiction
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.schema import ChecksumChoice
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.get_object import GetObject, GetObjects, GetObjectTo
from asyncsink.s3.operations import (
    MD5_ETAG_SSE,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    FilesPut,
    HeadObject,
    HeadObjects,
    ObjectHead,
    ObjectStored,
    Operation,
    Ordinary,
    PutFiles,
    PutObject,
    PutObjectFrom,
    Response,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

# -- Comparison of a body with the server's answer, or with the object under its key -----------------------------------

COMPUTED_INLINE_BYTES_MAX = 256 * 1024
"""Largest body that is checksummed on the event loop; larger ones are checksummed in a thread."""

Compute = Callable[[ChecksumAlgorithm], Checksum | None]
"""Computes the body's checksum by any algorithm; None where it is not known."""


async def confirm_body(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """Compare the answer to a PutObject or UploadPart with what was sent; see `integrity.sameness.confirm`.

    Args:
        etag_is_md5: whether the requested encryption makes the ETag an MD5; the answer's encryption is checked here.

    Raises:
        IntegrityError: the answer contradicts what was sent.
    """
    told = stored.checksum
    repeated = sent is not None and told is not None and told.algorithm == sent.algorithm
    computed = told is not None or (etag_md5(stored.etag) is not None and _etag_is_md5(stored, etag_is_md5))
    confirm_now = partial(confirm_body_now, sent, stored, body, etag_is_md5=etag_is_md5, where=where)
    in_thread = computed and not repeated and len(body) > COMPUTED_INLINE_BYTES_MAX
    return await anyio.to_thread.run_sync(confirm_now) if in_thread else confirm_now()


def confirm_without_body(
    sent: Checksum | None, stored: ObjectStored, *, etag_is_md5: bool, where: str = "the object"
) -> ConfirmedBy:
    """`confirm_body` where the bytes are no longer at hand; raises the same."""
    plain = _etag_is_md5(stored, etag_is_md5)
    return confirm(sent=sent, answered=stored.checksum, etag=stored.etag, compute=None, etag_is_md5=plain, where=where)


def confirm_body_now(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """`confirm_body` for a thread that has the bytes at hand; raises the same."""
    return confirm(
        sent=sent,
        answered=stored.checksum,
        etag=stored.etag,
        compute=partial(checksum_of, body),
        etag_is_md5=_etag_is_md5(stored, etag_is_md5),
        where=where,
    )


async def confirm_object(
    sent: Checksum | None,
    stored: ObjectStored,
    head: ObjectHead,
    size_bytes: int,
    compute: Compute,
    *,
    etag_is_md5: bool,
    where: str,
) -> ConfirmedBy:
    """Compare the object under the key with what was sent, and with the answer to it.

    Args:
        sent: the checksum that went with the body, or None.
        stored: the answer, which proved nothing by itself.
        head: the object.
        size_bytes: of the body.
        compute: the body's checksum by any algorithm, or None where it is not known.
        etag_is_md5: whether the requested encryption makes the ETag an MD5; the object's encryption is checked here.

    Raises:
        IntegrityError: they contradict each other.
    """
    check_same_object(stored, head, where)
    if head.size_bytes != size_bytes:
        raise contradiction(where, f"{size_bytes:,} bytes", f"{head.size_bytes:,} bytes")
    compare = partial(
        compare_told,
        {} if head.composite else head.checksums,
        head.etag,
        partial(checksum_by, sent, compute),
        etag_is_md5=_etag_is_md5(head, etag_is_md5),
        where=where,
        otherwise="size",
    )
    return await anyio.to_thread.run_sync(compare) if size_bytes > COMPUTED_INLINE_BYTES_MAX else compare()


def check_same_object(stored: ObjectStored, head: ObjectHead, where: str) -> None:
    """Refuse an object other than the one in the answer.

    Raises:
        IntegrityError: its ETag or version differs.
    """
    for name, answered, found in (
        ("ETag", stored.etag, head.etag),
        ("version", stored.version_id, head.version_id),
    ):
        if answered and found and answered != found:
            raise contradiction(where, f"what has the {name} {answered}", f"an object with the {name} {found}")


def _etag_is_md5(told: ObjectStored | ObjectHead, allowed: bool) -> bool:
    return allowed and told.sse in MD5_ETAG_SSE


# -- Checksum headers --------------------------------------------------------------------------------------------------

R = TypeVar("R", bound=Response)

TRIALS_MAX: Final = 8
"""Vain repetitions without checksum headers, after which the headers are not the cause of further refusals."""
_BODIES: Final = (PutObject, UploadPart)
_BODIES_FROM: Final = (PutObjectFrom, UploadPartFrom)
_LOOKS: Final = (HeadObject, GetObject, GetObjectTo)
_WRITES: Final = (*_BODIES, *_BODIES_FROM, CreateMultipartUpload, CompleteMultipartUpload)
_WHEN: Final = ("when_supported", "when_required")
SETTINGS: Final = ("request_checksum_calculation", "response_checksum_validation")
"""The SDKs' names in a profile; in the environment they are upper case and begin with AWS_."""


@dataclass(frozen=True, slots=True)
class ChecksumUse:
    """Which checksum headers requests carry.

    Attributes:
        sent: x-amz-checksum-… with what is stored.
        asked: x-amz-checksum-mode, the request for the checksum of the stored object.
    """

    sent: bool = True
    asked: bool = True


USUAL: Final = ChecksumUse()
"""Both: the SDKs' default."""


def checksum_use(told: Mapping[str, str | None]) -> ChecksumUse:
    """The checksum headers that the SDKs' two settings enable, by their names in SETTINGS. Pure.

    Raises:
        ConfigError: a value that is none of the SDKs'.
    """
    for name in SETTINGS:
        value = told.get(name)
        if value is not None and value.lower() not in _WHEN:
            raise ConfigError(
                f"{name} (AWS_{name.upper()} in the environment) is {value!r:.80}; expected {' or '.join(_WHEN)}."
            )
    sent, asked = ((told.get(name) or "").lower() != "when_required" for name in SETTINGS)
    return ChecksumUse(sent, asked)


class ChecksumHeaders:
    """A Transport that omits checksum headers where configuration or server do not take them. Below the retries.

    Args:
        inner: sends each operation once.
        configured: checksum headers that environment and profile enable.
        choice: the run's `checksum` where given, which precedes the configuration; else None.
        notice: called with a sentence when the run falls back.
    """

    def __init__(
        self,
        inner: Transport,
        configured: ChecksumUse,
        *,
        choice: ChecksumChoice | None,
        notice: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._sent = configured.sent or choice is not None
        self._asked = configured.asked and choice != "none"
        self._notice = notice
        self._taken: set[type[Operation[Any]]] = set()
        self._trial = asyncio.Lock()
        self._in_vain = 0

    def __repr__(self) -> str:
        return f"<ChecksumHeaders sent: {self._sent}, asked for: {self._asked}, {self._inner!r}>"

    # No coroutine of its own in the usual case: every object passes here.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation`, once more without its checksum headers where they may be the cause of a refusal."""
        if isinstance(operation, PutFiles) and not self._sent:
            return _ordinary(operation)
        if isinstance(operation, (HeadObjects, GetObjects)) and not self._asked:
            return self._inner.send(cast("Operation[R]", replace(operation, ask_checksum=False)))
        if type(operation) in self._taken or not isinstance(operation, (*_WRITES, *_LOOKS)):
            return self._inner.send(operation)
        return self._send(cast("Operation[R]", operation))

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def _send(self, operation: Operation[R]) -> R:
        if not self._carried(operation):
            if isinstance(operation, PutObject) and operation.first is not None:
                # Its first attempt carried the headers that are no longer sent.
                return await self._send_without(cast("Operation[R]", replace(operation, first=None)))
            try:
                return await self._send_without(operation)
            except PermanentError as error:
                # So may the first attempt of a GetObject have been: it is refused for them once.
                first = isinstance(operation, GetObject) and operation.first is not None
                if not first or not _may_be_refused(operation, error):
                    raise
            return await self._send_without(operation)
        try:
            answer = await self._inner.send(operation)
        except PermanentError as error:
            if not _may_be_refused(operation, error):
                raise
            refused = error
        else:
            self._taken.add(type(operation))
            return answer
        # One request makes the trial; others that were refused meanwhile wait for its result.
        async with self._trial:
            if self._carried(operation):
                if self._in_vain >= TRIALS_MAX:
                    raise refused
                return await self._try_without(operation, refused)
        return await self._send_without(operation)

    async def _try_without(self, operation: Operation[R], refused: PermanentError) -> R:
        try:
            answer = await self._send_without(operation)
        except RetryableError:
            raise
        except AsyncSinkError as error:
            if isinstance(error, PermanentError) and (error.status, error.code) == (refused.status, refused.code):
                self._in_vain += 1
                raise refused from None
            self._do_without(operation, refused)
            raise
        self._do_without(operation, refused)
        return answer

    def _carried(self, operation: Operation[Any]) -> bool:
        """Whether checksum headers currently go with the operation."""
        if isinstance(operation, _LOOKS):
            return self._asked
        if not self._sent:
            return False
        if isinstance(operation, (*_BODIES, CompleteMultipartUpload)):
            whole = operation.checksum is not None and operation.checksum.algorithm != "MD5"
            return whole or (
                isinstance(operation, CompleteMultipartUpload) and any(p.checksum for p in operation.parts)
            )
        return getattr(operation, "algorithm", None) not in (None, "MD5")

    def _do_without(self, operation: Operation[Any], refused: PermanentError) -> None:
        said = f"{refused.code or 'HTTP'} {refused.status}".strip()
        if isinstance(operation, _LOOKS):
            self._asked = False
            self._notice(
                f"This server refuses to be asked for checksums ({operation.name}: {said}): what is stored is compared "
                "by ETag and size only."
            )
        else:
            self._sent = False
            self._notice(
                f"This server refuses checksum headers ({operation.name}: {said}): bodies are sent with Content-MD5 "
                "and confirmed by their ETag; checksum='MD5' does so from the beginning."
            )

    async def _send_without(self, operation: Operation[R]) -> R:
        if isinstance(operation, _LOOKS):
            return await self._inner.send(cast("Operation[R]", replace(operation, ask_checksum=False)))
        changed: Any = operation
        if isinstance(operation, _BODIES):
            if operation.checksum is not None and operation.checksum.algorithm != "MD5":
                changed = replace(operation, checksum=await _md5(operation.body))
        elif isinstance(operation, _BODIES_FROM):
            if operation.algorithm is not None:
                changed = replace(operation, md5_instead=operation.algorithm != "MD5")
        elif isinstance(operation, CreateMultipartUpload):
            changed = replace(operation, algorithm=None)
        elif isinstance(operation, CompleteMultipartUpload):
            parts = tuple(replace(part, checksum=None) for part in operation.parts)
            changed = replace(operation, checksum=None, parts=parts)
        answer = await self._inner.send(changed)
        if isinstance(answer, ObjectStored) and changed is not operation:
            answer.md5_instead = True
        return cast("R", answer)


async def _ordinary(operation: PutFiles) -> Any:
    """Send nothing: each file needs the ordinary way, where its checksum is replaced."""
    operation.reader.close()
    operation.results[:] = [Ordinary()] * len(operation.files)
    return FilesPut()


def _may_be_refused(operation: Operation[Any], error: PermanentError) -> bool:
    # Other refusals (rights, bucket, upload, digest) have classes of their own. A bare 400 to a body comes from a
    # proxy; a HEAD gets no other 400, since its answer has no body.
    if type(error) is not PermanentError or error.status not in (400, 501):
        return False
    if error.status == 501 and getattr(operation, "only_new", False):
        return False  # fewer servers know If-None-Match, and its caller repeats without it
    return isinstance(operation, HeadObject) or error.status == 501 or error.code not in ("", "400")


async def _md5(body: ByteBody) -> Checksum:
    if len(body) <= COMPUTED_INLINE_BYTES_MAX:
        return checksum_of(body, "MD5")
    return await anyio.to_thread.run_sync(checksum_of, body, "MD5")
