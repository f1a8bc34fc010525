"""Credentials from Amazon's credential files, the settings of a caller's bucket, and credentials that requests share.

Everything else (profiles, SSO, container and instance roles) is aioboto3's own chain; plain keys in the environment or
in profile files are found without it, see static_config.py.
Nipype rules 40 to 47. No repr and no message here shows an access key, a secret or a file's content.
"""

from __future__ import annotations

import asyncio
import csv
import functools
import inspect
import io
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Any, Final

from asyncsink.errors import AsyncSinkError, ConfigError, CredentialsError, ExpiredCredentials
from asyncsink.options.settings import Secret
from asyncsink.s3.checksum_headers import SETTINGS as CHECKSUM_SETTINGS
from asyncsink.s3.credentials.errors import CredentialSource, credentials_error
from asyncsink.value import dataclass

# -- Event handlers of a caller's client, for our client to call them too ----------------------------------------------
# botocore has no public access to the handlers of an emitter, nor to their origin: they are read from its prefix tree,
# and the SDK's own are recognised by their modules. Source: Boto3 documentation, "Extensibility guide".

_SDK = ("botocore", "aiobotocore", "boto3", "aioboto3", "s3transfer")
_OTHER_PHASES = ("docs", "getattr", "creating-client-class", "creating-resource-class", "creating-serializer")
"""Events of making a client or its documentation, which are over."""
_POSITIONS = {"first": "register_first", "middle": "register", "last": "register_last"}


@dataclass(frozen=True, slots=True)
class Handler:
    """An event handler.

    Attributes:
        event: the name it was registered for, wildcards included.
        position: "first", "middle" or "last".
        call: the handler itself.
    """

    event: str
    position: str
    call: Any


def handlers_of(client: Any) -> list[Handler]:
    """The handlers that the client's user registered on it, or on its session before it was made, in the order of each
    event."""
    return [handler for handler in _all_of(client) if _is_a_users(handler)]


def is_unsigned(handlers: Sequence[Handler]) -> bool:
    """Whether `disable_signing` is among the handlers, which makes a client anonymous."""
    return any(handler.event.startswith("choose-signer") and _is_disable_signing(handler.call) for handler in handlers)


def adopt(client: Any, handlers: Sequence[Handler]) -> None:
    """Register `handlers` with `client`, an aiobotocore client, which calls plain and async ones."""
    known = {(handler.event, id(handler.call)) for handler in _all_of(client)}
    for handler in handlers:
        if (handler.event, id(handler.call)) not in known:
            getattr(client.meta.events, _POSITIONS[handler.position])(handler.event, handler.call)


def _all_of(client: Any) -> Iterator[Handler]:
    events = client.meta.events
    root = getattr(events, "_emitter", events)._handlers._root
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, node = waiting.pop()
        if node["values"]:
            for position in _POSITIONS:
                for call in getattr(node["values"], position):
                    yield Handler(path, position, call)
        waiting += [(f"{path}.{name}" if path else name, child) for name, child in node["children"].items()]


def _is_a_users(handler: Handler) -> bool:
    phase = handler.event.partition(".")[0]
    if phase in _OTHER_PHASES:
        return False
    if _is_disable_signing(handler.call):
        # The SDK registers it for other services only.
        return handler.event.split(".")[1:2] in ([], ["s3"], ["*"])
    module = _module_of(handler.call)
    return module.partition(".")[0] not in _SDK or module == "botocore.stub"


def _module_of(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    return str(getattr(call if owner is None else type(owner), "__module__", ""))


def _is_disable_signing(call: Any) -> bool:
    return _module_of(call) == "botocore.handlers" and getattr(call, "__name__", "") == "disable_signing"


# -- Credentials of files and buckets ----------------------------------------------------------------------------------

CREDENTIALS_FILE_BYTES_MAX = 64 * 1024
ACCEPTED_FORMS = (
    "Accepted are two lines 'AWSAccessKeyId=…' and 'AWSSecretKey=…', or a CSV file with a header line that names "
    "'Access key ID' and 'Secret access key' (Amazon's credentials.csv, accessKeys.csv or rootkey.csv)."
)

# Column and key names are compared without case, blanks, punctuation and a leading "AWS".
_FIELDS = {
    "accesskeyid": "id",
    "accesskey": "id",
    "secretaccesskey": "secret",
    "secretkey": "secret",
    "sessiontoken": "token",
    "username": "user",
}
_AMAZON_ENDPOINT = re.compile(r"https://s3([.-][a-z0-9-]+)*\.amazonaws\.com(\.cn)?/?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """The keys that sign a request; the repr shows none of them.

    Attributes:
        access_key_id: names the key pair.
        secret_access_key: never shown.
        session_token: of temporary credentials, or None.
        user_name: the IAM user where the file names one, or "".
        expires_at: timezone-aware, or None where they do not expire or the time is unknown.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: Secret
    session_token: Secret | None = None
    user_name: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketSettings:
    """Settings taken over from a caller's bucket (Nipype rule 47).

    Attributes:
        name: the bucket's name.
        endpoint_url: of a server that is not Amazon's own, or "".
        region: or "".
        credentials: frozen at this moment, or None where the bucket is only a name or its client is anonymous.
        anonymous: the bucket's client sends unsigned requests.
        verify: path of a CA bundle, False where certificates are not checked, or None for the default.
        checksums: its checksum settings that are "when_required", by the SDKs' names.
        handlers: the event handlers that were registered on the bucket's client, or on its session before.
    """

    name: str
    endpoint_url: str = ""
    region: str = ""
    credentials: Credentials | None = None
    anonymous: bool = False
    verify: str | bool | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    handlers: tuple[Handler, ...] = ()


def read_credentials_file(path: str | os.PathLike[str]) -> Credentials:
    """Read a credentials file in any form Amazon has issued (Nipype rules 40 to 42). Blocking; a small file.

    Of a CSV file with several users the first is taken. Byte-order marks, CRLF, quotes, blanks, reordered columns and
    `=` inside a secret are understood.

    Raises:
        CredentialsError: the file is missing, unreadable or in no known form; its content is never shown.
    """
    name = os.fspath(path)
    text = _read_text(name)
    values = _from_table(text) or _from_pairs(text)
    if values is None:
        raise CredentialsError(f"creds_path={name!r} holds no credentials in a known form. {ACCEPTED_FORMS}")
    for wanted, what in (("id", "access key id"), ("secret", "secret access key")):
        value = values.get(wanted, "")
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            problem = "is missing or empty" if not value else "is malformed"
            raise CredentialsError(f"creds_path={name!r}: the {what} {problem}. {ACCEPTED_FORMS}")
    token = values.get("token", "")
    return Credentials(
        access_key_id=values["id"],
        secret_access_key=Secret(values["secret"].encode()),
        session_token=Secret(token.encode()) if token else None,
        user_name=values.get("user", ""),
    )


def endpoint_from_environment(environment: Mapping[str, str]) -> str:
    """The S3 endpoint that AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names, or "" (AWS SDKs Reference Guide). Pure."""
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


async def bucket_settings(bucket: Any) -> BucketSettings:
    """The settings of a bucket's name, a boto3 Bucket or an aioboto3 Bucket (Nipype rule 47).

    Credentials that renew themselves are renewed first where that is due, which may send a request to their provider
    (blocking, for a boto3 Bucket).

    Raises:
        ConfigError: `bucket` is none of these.
        CredentialsError: the bucket's own credentials cannot be had.
    """
    if isinstance(bucket, str) and bucket:
        return BucketSettings(name=bucket)
    if inspect.isawaitable(bucket):
        if inspect.iscoroutine(bucket):
            bucket.close()
        raise ConfigError("bucket= is an awaitable: give the Bucket itself, 'await resource.Bucket(name)'.")
    client = getattr(getattr(bucket, "meta", None), "client", None)
    name = getattr(bucket, "name", None)
    if client is None or not isinstance(name, str) or getattr(bucket.meta, "service_name", "") != "s3":
        raise ConfigError(
            f"bucket= is a {type(bucket).__name__}; expected a bucket's name, a boto3 Bucket or an aioboto3 Bucket."
        )
    if getattr(bucket.meta.resource_model, "name", "") != "Bucket":
        raise ConfigError("bucket= is another S3 resource; expected a Bucket.")
    return await _from_client(name, client)


async def _from_client(name: str, client: Any) -> BucketSettings:
    from botocore import UNSIGNED

    handlers = handlers_of(client)
    anonymous = client.meta.config.signature_version is UNSIGNED or is_unsigned(handlers)
    # boto3 and aioboto3 have no public access to a client's credentials and certificates; both keep them here.
    held = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    verify = getattr(getattr(getattr(client, "_endpoint", None), "http_session", None), "_verify", None)
    endpoint = client.meta.endpoint_url or ""
    region = client.meta.region_name or ""
    return BucketSettings(
        name=name,
        endpoint_url="" if _AMAZON_ENDPOINT.fullmatch(endpoint) else endpoint,
        region="" if region == "aws-global" else region,
        credentials=None if anonymous or held is None else await freeze(held),
        anonymous=anonymous,
        verify=verify if isinstance(verify, str) or verify is False else None,
        checksums={
            name: "when_required"
            for name in CHECKSUM_SETTINGS
            if getattr(client.meta.config, name, None) == "when_required"
        },
        handlers=tuple(handlers),
    )


async def freeze(held: Any) -> Credentials:
    """The current values of botocore's or aiobotocore's credentials, renewed first where that is due.

    Raises:
        CredentialsError: they cannot be renewed, or hold nothing.
        ExpiredCredentials: they were there before, and cannot be renewed now.
    """
    source = CredentialSource(method=str(getattr(held, "method", None) or ""))
    try:
        frozen = held.get_frozen_credentials()
        if inspect.isawaitable(frozen):
            frozen = await frozen
    except AsyncSinkError:
        raise
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        # The cause's text may quote the output of a credential process, so it is dropped.
        raise credentials_error(error, source) from None
    check_keys(frozen, source)
    return Credentials(
        access_key_id=frozen.access_key,
        secret_access_key=Secret(frozen.secret_key.encode()),
        session_token=Secret(frozen.token.encode()) if frozen.token else None,
    )


def check_keys(frozen: Any, source: CredentialSource) -> None:
    """Refuse keys that cannot sign a request. Pure.

    Raises:
        CredentialsError: names the source and the fault; no value is shown.
    """
    for what, value, needed in (
        ("access key id", frozen.access_key, True),
        ("secret access key", frozen.secret_key, True),
        ("session token", frozen.token, False),
    ):
        if not value and not needed:
            continue
        if not isinstance(value, str) or not value:
            raise CredentialsError(f"The credentials from {source.name} have no {what}. {source.advice}")
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise CredentialsError(
                f"The credentials from {source.name} are malformed: the {what} holds a blank, a line break or another "
                f"character that no key has. {source.advice}"
            )


def lost(error: ConfigError) -> ExpiredCredentials:
    """The error of a request whose credentials have expired; `error` is why there are no new ones."""
    return ExpiredCredentials(f"The credentials have expired, and there are no new ones: {error}")


def _read_text(name: str) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CredentialsError(f"creds_path={name!r} is no regular file. {ACCEPTED_FORMS}")
            data = file.read(CREDENTIALS_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the name is not valid"
        raise CredentialsError(f"creds_path={name!r} cannot be read: {reason}. {ACCEPTED_FORMS}") from error
    if len(data) > CREDENTIALS_FILE_BYTES_MAX:
        raise CredentialsError(f"creds_path={name!r} is too large for a credentials file. {ACCEPTED_FORMS}")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        # The cause would show the file's bytes.
        raise CredentialsError(f"creds_path={name!r} is no text in UTF-8. {ACCEPTED_FORMS}") from None


def _from_table(text: str) -> dict[str, str] | None:
    """The first user of a CSV file with a header line, or None where the text is no such table."""
    for delimiter in (",", ";", "\t"):
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
            rows = [row for row in lines if any(cell.strip() for cell in row)]
        except csv.Error:
            continue
        if not rows:
            return None
        header = [_FIELDS.get(_plain(cell), "") for cell in rows[0]]
        if "id" in header and "secret" in header:
            cells = [cell.strip() for cell in rows[1]] if len(rows) > 1 else []
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            # A row that does not fit its header leaves open which cell is the secret.
            fits = len(header) == len(cells)
            return {name: cell for name, cell in zip(header, cells, strict=True) if name} if fits else {}
    return None


def _from_pairs(text: str) -> dict[str, str] | None:
    """`name=value` lines, split at the first "=", or None where no name is known."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("[") and values:
            # A second profile of an INI file: a key id must not meet another profile's secret.
            break
        name, separator, value = line.partition("=")
        known = _FIELDS.get(_plain(name))
        if separator and known and known not in values:
            values[known] = value.strip().strip("\"'").strip()
    return values or None


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z]", "", name.lower())
    return letters.removeprefix("aws")


# -- Credentials shared by all keyrings of one target, looked up once when they expire ---------------------------------

LOOK_UP_AGAIN_SECONDS: Final = 1.0
"""Seconds for which a failed look-up is not repeated: each waiting request would repeat it."""


class SharedCredentials:
    """Gives each of its `provider`s the known credentials, and looks for others when a provider has had these.

    Args:
        first: `Credentials`, or botocore's own object; None looks them up.
        find: looks from the beginning, as after a new login: files and environment are read again, roles and SSO too.
        clock: seconds, never going back.
    """

    def __init__(
        self, first: Any, find: Callable[[], Awaitable[Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first = first
        self._find = find
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: Credentials | None = None
        self._failed: tuple[float, ConfigError] | None = None

    def __repr__(self) -> str:
        return f"<SharedCredentials {'known' if self._known else 'not asked yet'}>"

    def provider(self) -> Callable[[], Awaitable[Credentials]]:
        """A provider for one keyring, which calls it to replace the credentials that it got last.

        It raises CredentialsError where the first look-up finds none. Where a later one finds none, it raises
        ExpiredCredentials, which is retried: a login, or the service that issues credentials, may come back.
        """
        given: Credentials | None = None

        async def provide() -> Credentials:
            nonlocal given
            async with self._lock:
                if self._known is None or self._known is given:
                    self._known = await self._look_up()
                given = self._known
                return given

        return provide

    async def _look_up(self) -> Credentials:
        if self._failed is not None and self._clock() - self._failed[0] < LOOK_UP_AGAIN_SECONDS:
            raise lost(self._failed[1])
        first, self._first = self._first, None
        try:
            source = first if first is not None else await self._find()
            frozen = source if isinstance(source, Credentials) else await freeze(source)
        except ConfigError as error:
            if self._known is None:
                raise
            self._failed = (self._clock(), error)
            raise lost(error) from error
        self._failed = None
        return replace(frozen, expires_at=getattr(source, "_expiry_time", None))
