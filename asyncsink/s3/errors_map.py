"""Errors of S3 answers: one table from the server's codes to asyncsink's errors, hidden secrets, limits of answers.

The server's code decides; where there is none (HEAD has no body) or an unknown one, the HTTP status does. Sources:
Amazon S3 API Reference, "Error responses"; RFC 9110, 10.2.3 (Retry-After) and 15.4 to 15.6 (status codes).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
from functools import lru_cache
from typing import Final

from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    BucketMissing,
    ClockSkew,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DestinationFull,
    EntityTooLarge,
    ExpiredCredentials,
    IntegrityError,
    ObjectMissing,
    PartsRefused,
    PermanentError,
    PreconditionFailed,
    RequestTimeout,
    RetryableError,
    ServerFault,
    Throttled,
    TransferError,
    UploadConflict,
    UploadMissing,
    WrongRegion,
)
from asyncsink.options.settings import known_secrets

# -- Secrets in texts of a server, a proxy, or botocore's logs at DEBUG ------------------------------------------------
# A text is compared with every secret of this process (`options.settings.known_secrets`): as it is, in base64 (also
# within other base64), in hexadecimal, and behind percent, XML and JSON escapes. Only letters and digits count, in
# either case, so that line breaks and dashes hide nothing. A run of 23 of them is enough.
# A text with a secret is hidden as a whole, since its remainder cannot be separated with certainty.

HIDDEN: Final = "(not shown: it repeats a secret)"
SECRET_BYTES_MIN: Final = 8
"""Shorter secrets are words of test accounts, which occur in texts by chance."""
ROUNDS_MAX: Final = 3
"""Levels of nested escapes that are resolved."""
LONG_BYTES_MIN: Final = 20
"""Shorter secrets may occur in the keys of the user's own objects."""
_GRAM, _STRIDE = 16, 8
_RAW_WINDOW, _RAW_STRIDE = 8, 4
_LETTERS: Final = re.compile(r"[^A-Za-z0-9]+")
_BACKSLASH: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[nrtbf])")
_PLAIN: Final = re.compile(r'"?[0-9a-f]{32}(-[0-9]{1,5})?"?|.{0,15}')
"""An ETag, or a text too short to be a secret."""
_SPACES: Final = b"\r\n\t "

_LOGGERS = (
    "aiobotocore.httpsession",
    "aiohttp.client",
    "asyncio",
    "botocore.auth",
    "botocore.client",
    "botocore.credentials",
    "botocore.endpoint",
    "botocore.handlers",
    "botocore.hooks",
    "botocore.httpchecksum",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retryhandler",
    "botocore.utils",
)
_OF_CREDENTIALS = ("aiobotocore.credentials", "aiobotocore.tokens", "botocore.credentials", "botocore.tokens")
_SHOWING = r"""(?ix)
    ( (?: x-amz-security-token | [\w-]*server-side-encryption-customer-key(?:-md5)? | SSECustomerKey(?:MD5)? )
    ['"]? \s* [:=] \s* b? ['"]? ) (?! AES256) [A-Za-z0-9+/=_%-]+"""


class _Needles:
    """Search patterns for the known secrets, made once."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self.short: set[str] = set()
        self.grams: set[str] = set()
        self.raw: set[bytes] = set()
        self.exact: list[str] = []
        self.has_key = False
        for secret in secrets:
            if len(secret) >= SECRET_BYTES_MIN:
                self._add(secret)

    def _add(self, secret: bytes) -> None:
        texts = [base64.b64encode(secret), secret.hex().encode()]
        if secret.isascii() and secret.decode().isprintable():
            texts.append(secret)
        else:
            plain = secret.translate(None, _SPACES)
            self.raw |= {
                plain[at : at + _RAW_WINDOW] for at in range(0, max(1, len(plain) - _RAW_WINDOW + 1), _RAW_STRIDE)
            }
        if len(secret) == 32:
            self.has_key = True
            digest = hashlib.md5(secret, usedforsecurity=False).digest()
            texts += [base64.b64encode(digest), digest.hex().encode()]
        if len(secret) >= LONG_BYTES_MIN:
            within = [_within_base64(text, shift) for text in texts for shift in range(3)]
            self.exact += [form.lower() for text in texts for form in (text.decode(), text.hex())]
            self.exact += [form.lower() for form in within]
        for text in texts:
            self._add_form(text.decode())
            self._add_form(text.hex())
            for shift in range(3):
                self._add_form(_within_base64(text, shift))

    def _add_form(self, text: str) -> None:
        form = _letters(text)
        if len(form) < _GRAM + _STRIDE:
            if len(form) >= SECRET_BYTES_MIN:
                self.short.add(form)
            return
        self.grams |= {form[at : at + _GRAM] for at in range(0, len(form) - _GRAM + 1, _STRIDE)}

    def are_in(self, text: str) -> bool:
        """Whether a text holds one of them, without resolving escapes."""
        letters = _letters(text)
        if any(form in letters for form in self.short):
            return True
        grams = self.grams
        if grams and any(letters[at : at + _GRAM] in grams for at in range(len(letters) - _GRAM + 1)):
            return True
        if self.raw and not text.isascii():
            for data in (text.encode("utf-8", "surrogateescape"), text.encode("latin-1", "ignore")):
                plain = data.translate(None, _SPACES)
                if any(window in plain for window in self.raw):
                    return True
        return False


@lru_cache(maxsize=4)
def _needles(secrets: tuple[bytes, ...]) -> _Needles:
    return _Needles(secrets)


def holds_secret(text: str) -> bool:
    """Whether a foreign text holds a secret of this process, in any of the forms above."""
    needles = _needles(known_secrets())
    for _ in range(ROUNDS_MAX):
        if needles.are_in(text):
            return True
        plain = _unescaped(text)
        if plain == text:
            return False
        text = plain
    return needles.are_in(text)


def without_secret(text: str) -> str:
    """The text, or HIDDEN where it holds a secret."""
    return HIDDEN if text and holds_secret(text) else text


def kept(value: str) -> str:
    """A value of an answer (an ETag, a version id), or "" where it holds a secret. Cheap for usual values."""
    if _PLAIN.fullmatch(value) and not _needles(known_secrets()).has_key:
        return value
    return "" if holds_secret(value) else value


def keys_hold_secret(text: str) -> bool:
    """Whether one key or several hold a secret of LONG_BYTES_MIN or more. Cheap, also for the keys of a whole page."""
    lower = text.lower()
    return any(form in lower for form in _needles(known_secrets()).exact)


def _letters(text: str) -> str:
    return _LETTERS.sub("", text).lower()


def _within_base64(text: bytes, shift: int) -> str:
    """The base64 of a text that follows `shift` other bytes, without the characters that depend on its neighbours."""
    written = base64.b64encode(b"\0" * shift + text).decode()
    end = len(written) - (4 if (shift + len(text)) % 3 else 0)
    return written[(0, 2, 3)[shift] : end]


def _unescaped(text: str) -> str:
    if "%" in text:
        from urllib.parse import unquote

        text = unquote(text, encoding="latin-1")
    if "&" in text:
        from html import unescape

        text = unescape(text)
    if "\\" in text:
        text = _BACKSLASH.sub(lambda found: chr(int(found[1][1:], 16)) if found[1][0] in "ux" else " ", text)
    return text


class _Redacting(logging.Filter):
    """Passes every record, with an ellipsis in the place of each secret, or without its text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        told = record.getMessage()
        visible = without_secret(re.sub(_SHOWING, r"\1…", told))
        if visible != told:
            record.msg, record.args = visible, ()
        if record.exc_info and record.exc_info[1] is not None and holds_secret(repr(record.exc_info[1])):
            record.exc_info = record.exc_text = None
        return True


class _Untraced(logging.Filter):
    """Passes every record without its exception, which may quote a credential process or a service."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        record.exc_info = record.exc_text = None
        return True


_REDACTING = _Redacting()
_UNTRACED = _Untraced()


def redact_logs() -> None:
    """Attach the filters to the SDK's loggers. Calling it again is harmless."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_REDACTING)
    for name in _OF_CREDENTIALS:
        logging.getLogger(name).addFilter(_UNTRACED)


# -- Meaning of S3's error codes ---------------------------------------------------------------------------------------

MESSAGE_CHARACTERS_MAX = 200
"""Characters of the server's text that are quoted."""

TEXT_CHARACTERS_MAX = 8192
"""Characters of the server's text that are examined."""
_SIGNED = re.compile(r"(?i)(\b(?:x-amz-)?(?:signature|credential|security-token)=)[^&\s,;'\"]+")
"""Parts of a presigned URL, and of an Authorization header."""

_CREDENTIALS = "Check creds_path, the profile or the AWS_ environment variables."
_KEY_RIGHTS = "Check the rights of these credentials on the bucket and its encryption keys."
_WRONG_REGION = "Give the bucket's own region."
_USELESS = "Sending it again cannot help: correct the request's options."
_EXPECTED_REGION: Final = re.compile(r"expecting '([A-Za-z0-9._-]{1,64})'")
_CONFLICT: Final = "ConditionalRequestConflict"
_CUSTOMER_KEY = " An object that is encrypted with a customer key can only be looked at with that key (sse=…)."
"""S3's answer to a HEAD without the key is a bare 400 (S3 API, HeadObject)."""

BY_CODE: Final[dict[str, tuple[type[AsyncSinkError], str]]] = {
    # code: (error, what to do)
    "InvalidAccessKeyId": (CredentialsError, _CREDENTIALS),
    "SignatureDoesNotMatch": (CredentialsError, "The secret access key does not belong to the key id. " + _CREDENTIALS),
    "InvalidToken": (CredentialsError, "The session token is not valid. " + _CREDENTIALS),
    "InvalidSecurity": (CredentialsError, _CREDENTIALS),
    "NotSignedUp": (CredentialsError, "The account is not signed up for S3."),
    "ExpiredToken": (ExpiredCredentials, "Renew the session (for example: aws sso login)."),
    "ExpiredTokenException": (ExpiredCredentials, "Renew the session (for example: aws sso login)."),
    "TokenRefreshRequired": (ExpiredCredentials, "Renew the session (for example: aws sso login)."),
    "RequestTimeTooSkewed": (ClockSkew, "Set this machine's clock."),
    "RequestExpired": (ClockSkew, "Set this machine's clock."),
    "SlowDown": (Throttled, "Lower the concurrency if it goes on."),
    "ServiceUnavailable": (Throttled, "Lower the concurrency if it goes on."),
    "Throttling": (Throttled, "Lower the concurrency if it goes on."),
    "ThrottlingException": (Throttled, "Lower the concurrency if it goes on."),
    "ThrottledException": (Throttled, "Lower the concurrency if it goes on."),
    "RequestThrottled": (Throttled, "Lower the concurrency if it goes on."),
    "RequestThrottledException": (Throttled, "Lower the concurrency if it goes on."),
    "RequestLimitExceeded": (Throttled, "Lower the concurrency if it goes on."),
    "BandwidthLimitExceeded": (Throttled, "Lower the concurrency if it goes on."),
    "TooManyRequests": (Throttled, "Lower the concurrency if it goes on."),
    "TooManyRequestsException": (Throttled, "Lower the concurrency if it goes on."),
    "RequestTimeout": (RequestTimeout, "The body came too slowly: lower the concurrency or look at the network."),
    "RequestTimeoutException": (RequestTimeout, "The body came too slowly: lower the concurrency or the part size."),
    "IncompleteBody": (ConnectionLost, "The body was cut on its way; look at proxies and the network."),
    "InternalError": (ServerFault, "Try again later."),
    "InternalFailure": (ServerFault, "Try again later."),
    # Another request touched the same key at the same moment; sending it again settles the matter.
    _CONFLICT: (ServerFault, "Another writer was at the same key; it is safe to try again."),
    "OperationAborted": (ServerFault, "A conflicting request is in progress; it is safe to try again."),
    "BadDigest": (IntegrityError, "The bytes changed between reading and storing; run again."),
    "InvalidDigest": (IntegrityError, "The server could not read the checksum; try another checksum option."),
    "XAmzContentSHA256Mismatch": (IntegrityError, "The bytes changed on their way; run again."),
    "XAmzContentChecksumMismatch": (IntegrityError, "The bytes changed on their way; run again."),
    "NoSuchBucket": (BucketMissing, "Create the bucket or correct the destination."),
    "EntityTooSmall": (PartsRefused, "Parts are smaller than this server takes: raise part_size_bytes."),
    "InvalidPart": (PartsRefused, "The server lost a part, or has another; run again."),
    "InvalidPartOrder": (PartsRefused, "The server has other parts than were sent; run again."),
    "NoSuchUpload": (UploadMissing, "It was completed, aborted or expired; run again."),
    "NoSuchKey": (ObjectMissing, "Check the key."),
    "NoSuchVersion": (ObjectMissing, "Check the version id."),
    "NotFound": (ObjectMissing, "Check the key."),
    "InvalidObjectState": (PermanentError, "The object is archived: restore it first (S3 API, RestoreObject)."),
    "InvalidRange": (PermanentError, "The object is shorter than it was: look at it again."),
    "PreconditionFailed": (PreconditionFailed, "The object under the key was changed by somebody else."),
    "EntityTooLarge": (EntityTooLarge, "Split the file, or use a server that stores larger objects."),
    "QuotaExceeded": (DestinationFull, "Free some space or raise the quota."),
    "QuotaExceededException": (DestinationFull, "Free some space or raise the quota."),
    "XMinioStorageFull": (DestinationFull, "Free some space on the server."),
    "XMinioAdminBucketQuotaExceeded": (DestinationFull, "Free some space or raise the quota."),
    "InsufficientStorage": (DestinationFull, "Free some space on the server."),
    "AccessDenied": (AccessDenied, _KEY_RIGHTS),
    "AllAccessDisabled": (AccessDenied, _KEY_RIGHTS),
    "AccountProblem": (AccessDenied, "Ask the account's owner."),
    "PermanentRedirect": (ConfigError, _WRONG_REGION),
    "AuthorizationHeaderMalformed": (ConfigError, _WRONG_REGION),
    "IllegalLocationConstraintException": (ConfigError, _WRONG_REGION),
    "InvalidBucketName": (ConfigError, "Correct the bucket's name."),
    "NotImplemented": (PermanentError, "This server lacks the feature; leave the option out."),
}

BY_STATUS: Final[dict[int, tuple[type[AsyncSinkError], str]]] = {
    301: (ConfigError, _WRONG_REGION),
    307: (ServerFault, "The bucket is being moved; try again later."),
    401: (CredentialsError, _CREDENTIALS),
    403: (AccessDenied, _KEY_RIGHTS),
    404: (ObjectMissing, "Check the bucket and the key."),
    407: (ConfigError, "The proxy on the way asks for a login: look at HTTP_PROXY and HTTPS_PROXY."),
    408: (RequestTimeout, "The request came too slowly; look at the network."),
    409: (ServerFault, "A conflicting request is in progress; it is safe to try again."),
    412: (PreconditionFailed, "The object under the key was changed by somebody else."),
    413: (EntityTooLarge, "A server or proxy on the way refuses bodies of this size; use smaller parts."),
    429: (Throttled, "Lower the concurrency if it goes on."),
    501: (PermanentError, "This server lacks the feature; leave the option out."),
    503: (Throttled, "Lower the concurrency if it goes on."),
    507: (DestinationFull, "Free some space on the server."),
}


def error_from_answer(  # noqa: PLR0917 - the parts of an answer
    operation_name: str,
    key: str,
    bucket: str,
    code: str,
    status: int,
    message: str,
    retry_after: str | None = None,
    *,
    date: str = "",
    region: str = "",
    signed_for: str = "",
    expected: str = "",
    actual: str = "",
) -> AsyncSinkError:
    """The error that an answer means. Pure.

    Args:
        operation_name: S3's name ("PutObject").
        key, bucket: of the request; the key is "" for requests about the bucket.
        code: S3's error code, or "" (or the status as text, which is what botocore makes of a HEAD without a body).
        status: the HTTP status; an `<Error>` in the body of a 200 counts as 500.
        message: the server's text; cleaned and shortened here.
        retry_after: the `Retry-After` header: seconds, or an HTTP date.
        date: the answer's `Date` header, the reference of a `Retry-After` date (no local clock is needed).
        region: the bucket's region where the answer names it (`x-amz-bucket-region`, `<Region>`).
        signed_for: the region that the request was signed for, or "".
        expected, actual: the checksum that was sent and the one the server computed, for IntegrityError.
    """
    code = "" if holds_secret(code) else code
    region, message = kept(region), without_secret(message[:TEXT_CHARACTERS_MAX])
    error_class, advice = classify(code, status)
    if code == _CONFLICT and operation_name == "CompleteMultipartUpload":
        # S3 API, CompleteMultipartUpload: on a 409, the upload is to be initiated again, and each part sent again.
        error_class, advice = UploadConflict, "Another writer was at the same key; run again."
    if operation_name == "HeadObject" and status == 400 and advice == _USELESS:
        advice += _CUSTOMER_KEY
    where = f"s3://{bucket}/{key}" if key else f"bucket {bucket}"
    said = ", ".join(part for part in (_named(code, status), one_line(message)) if part)
    if elsewhere := _elsewhere(operation_name, code, status, message, region, signed_for):
        region = one_line(elsewhere)
        text = f"{operation_name} of {one_line(where, 1200)} failed: {said}. The bucket is in region {region}: give "
        return WrongRegion(f"{text}region={region!r}.", region=elsewhere, signed_for=signed_for)
    if advice == _WRONG_REGION and region:
        advice = f"The bucket is in region {one_line(region)}: give region={one_line(region)!r}."
    text = f"{operation_name} of {one_line(where, 1200)} failed: {said}. {advice}"
    if issubclass(error_class, IntegrityError):
        return error_class(text, expected=expected, actual=actual)
    if not issubclass(error_class, TransferError):
        return error_class(text)
    error = error_class(text, operation=operation_name, code=code, status=status)
    if isinstance(error, RetryableError):
        error.retry_after_seconds = retry_after_seconds(retry_after, date)
    return error


def _elsewhere(  # noqa: PLR0917 - the parts of an answer
    operation_name: str, code: str, status: int, message: str, region: str, signed_for: str
) -> str:
    """The bucket's region where the answer shows that it is not the request's; else "". Pure."""
    about_region = classify(code, status)[1] == _WRONG_REGION or status in (301, 302, 307)
    if about_region and not region and (found := _EXPECTED_REGION.search(message)):
        region = found[1]
    # The answer to a HEAD has no body for a code: a bare 400 that names another region is a redirect, as in botocore.
    mute = operation_name == "HeadObject" and status == 400 and code in ("", "400")
    return region if region != signed_for and (about_region or mute) else ""


def classify(code: str, status: int) -> tuple[type[AsyncSinkError], str]:
    """The error class for a code and a status, and the advice for a person. Pure."""
    if code in BY_CODE:
        return BY_CODE[code]
    if code.startswith("Throttl"):
        return BY_CODE["Throttling"]
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= 500:
        return ServerFault, "Try again later."
    return PermanentError, _USELESS


def retry_after_seconds(value: str | None, date: str = "") -> float | None:
    """Seconds of a `Retry-After` header, or None where it is absent or unreadable (RFC 9110, 10.2.3). Pure.

    Args:
        value: "120", or an HTTP date, which counts from `date`.
        date: the same answer's `Date` header.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            seconds = (parsedate_to_datetime(value) - parsedate_to_datetime(date)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def one_line(text: str, characters_max: int = MESSAGE_CHARACTERS_MAX) -> str:
    """One line of printable text, shortened, without passwords in URLs or signatures; HIDDEN where it holds a secret.

    A server's answer must not be able to write to a terminal or to forge a line of a log.
    """
    text = without_secret(text[:TEXT_CHARACTERS_MAX])
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip().rstrip(".")
    line = re.sub(r"(?i)\b([a-z][a-z0-9+]*)://[^/@\s]+@", r"\1://", line)
    line = _SIGNED.sub(r"\1…", line)
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def _named(code: str, status: int) -> str:
    if not code or code == str(status):
        return f"HTTP {status}"
    return f"{one_line(code)} (HTTP {status})" if status else one_line(code)


# -- Limits of answers, on both lanes ----------------------------------------------------------------------------------
# A longer answer is a fault of the server, and is not read to its end.

HEAD_BYTES_MAX: Final = 64 * 1024
"""Status line and headers of an answer, including preceding interim answers."""
ANSWER_BYTES_MAX: Final = HEAD_BYTES_MAX + 1024 * 1024
"""A whole answer with its transfer coding; only listings and objects are longer."""
LISTING_BYTES_MAX: Final = 8 * 1024 * 1024
"""A listing: 1,000 keys of 1,024 bytes, each byte encoded as three, and 2 KiB of markup around each key."""
ENTRIES_MAX: Final = 10_000
"""Entries of one page of a listing: S3 sends 1,000; a server that ignores max-keys sends any number."""
