"""The server's clock and new credentials, with which a retry after RequestTimeTooSkewed or ExpiredToken succeeds.

botocore corrects neither. Both are applied where a request's signer is chosen, so that a retry signs anew.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.s3.credentials.file import Credentials, freeze, lost

_CORRECTED = {"s3v4": "S3SigV4Auth", "v4": "S3SigV4Auth", "v4-s3express": "S3ExpressAuth"}
"""Kinds of signature, and botocore's class for each. SigV4A has none but the CRT's.

Named here, because where awscrt is installed botocore's own table has the CRT's signers, which read the local clock.
"""


def utc_now() -> datetime.datetime:
    """The local clock, timezone-aware."""
    return datetime.datetime.now(datetime.UTC)


class Resigner:
    """Corrects a client's signatures by a clock offset, and by credentials that replace the client's own.

    Args:
        client: an aiobotocore S3 client.
        renew: looks the credentials up again (profile, file, environment, role), as botocore's credentials object; None
            where the client's owner renews them.
        now: the local clock.
    """

    def __init__(
        self,
        client: Any,
        renew: Callable[[], Awaitable[Any]] | None = None,
        *,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self._renew = renew
        self._now = now
        self._lock = asyncio.Lock()
        self._held: Any = None
        self._known: Credentials | None = None
        self._failed: ConfigError | None = None
        self.offset = datetime.timedelta(0)
        """The server's clock minus the local one."""
        self.renewals = 0
        """Times that the credentials were looked up again."""
        client.meta.events.register_first("choose-signer.s3", self._choose)

    def __repr__(self) -> str:
        return f"<Resigner {self.offset.total_seconds():+.0f} s, {self.renewals} renewals>"

    def learn_clock(self, date: str) -> None:
        """Take the clock from an answer's `Date` header (RFC 9110, 6.6.1); an unreadable one changes nothing."""
        try:
            told = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            return
        if told.tzinfo is not None:
            self.offset = told - self._now()

    async def renew(self, seen: int) -> None:
        """Look the credentials up again, unless that happened since `renewals` was `seen`.

        Raises:
            ExpiredCredentials: they cannot be had now; a login, or the service that issues them, may come back.
        """
        if self._renew is None:
            return
        async with self._lock:
            if self.renewals != seen:
                if self._failed is not None:
                    raise lost(self._failed) from None
                return
            try:
                held = await self._renew()
                found = await freeze(held) if held is not None else None
            except ConfigError as error:
                self._failed = error
                raise lost(error) from error
            else:
                self._failed = None
            finally:
                # Last: requests signed meanwhile have the old ones, and their failures must not repeat the look-up.
                self.renewals += 1
            if found is not None and found != self._known:
                self._held, self._known = held, found

    def _choose(self, signature_version: Any, context: dict[str, Any], **_: Any) -> str | None:
        from botocore import UNSIGNED

        if signature_version is UNSIGNED:
            return None
        if self._held is not None:
            context.setdefault("signing", {})["request_credentials"] = self._held
        if not self.offset or signature_version not in _CORRECTED:
            return None
        context["asyncsink_now"] = self._now() + self.offset
        return _corrected_signer(signature_version)


def _corrected_signer(signature_version: str) -> str:
    """The name under which botocore finds the signer that takes the time from the request's context."""
    from botocore import auth

    name = f"{signature_version}-asyncsink"
    if name not in auth.AUTH_TYPE_MAPS:
        signer: Any = getattr(auth, _CORRECTED[signature_version])

        class Corrected(signer):  # type: ignore[misc, unused-ignore]
            def _modify_request_before_signing(self, request: Any) -> None:
                # The timestamp was just set from the local clock, and nothing was derived from it yet.
                request.context["timestamp"] = request.context["asyncsink_now"].strftime(auth.SIGV4_TIMESTAMP)
                super()._modify_request_before_signing(request)

        auth.AUTH_TYPE_MAPS[name] = Corrected
    return name
