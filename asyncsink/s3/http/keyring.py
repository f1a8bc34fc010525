"""Credentials and clock that sign requests: credentials renewed in time; the server's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from asyncsink.errors import AsyncSinkError, CredentialsError
from asyncsink.s3.credentials.file import Credentials
from asyncsink.s3.http.requests import RequestWriter
from asyncsink.s3.http.signing import Endpoint, Signer

RENEW_BEFORE_SECONDS: Final = 300.0
"""Seconds before the expiry at which credentials are renewed."""
ASK_AGAIN_SECONDS: Final = 10.0
"""Seconds between two attempts to renew credentials that are about to expire."""


CredentialsProvider = Callable[[], Awaitable[Credentials]]
"""Gives the current credentials, renewed where that is due. Raises CredentialsError where there are none."""


class Keyring:
    """Holds the writer of signed requests, and renews it.

    Args:
        endpoint: of the requests.
        region: of the bucket.
        provider: called before the first request, shortly before credentials expire, and after `expire`; None sends
            everything unsigned.
        request_payer: accept the charges of a requester-pays bucket.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        region: str,
        provider: CredentialsProvider | None,
        *,
        request_payer: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self.region = region
        """Of the bucket."""
        self._provider = provider
        self._request_payer = request_payer
        self._clock = clock
        self._lock = asyncio.Lock()
        self._writer: RequestWriter | None = None
        self._ask_at = float("inf")
        self._expires_at = float("inf")
        self._second = -1
        self._timestamp = ""
        self.offset_seconds = 0.0
        """Seconds that the server's clock is ahead of ours, as far as it had to be corrected."""
        if provider is None:
            self._writer = RequestWriter(endpoint, None, request_payer=request_payer)

    def __repr__(self) -> str:
        return f"<Keyring {self._writer!r}>"

    def ready(self) -> RequestWriter | None:
        """The writer, or None where `renewed` must be awaited first."""
        return self._writer if self._clock() < self._ask_at else None

    async def renewed(self) -> RequestWriter:
        """The writer, with renewed credentials unless another task has just renewed them.

        Credentials that have not ended yet are used to their end where there are no newer ones.

        Raises:
            CredentialsError, ConfigError: the provider's own, or a CredentialsError that names its exception.
        """
        async with self._lock:
            writer = self.ready()
            if writer is None:
                try:
                    writer = self._writer = await self._ask()
                except AsyncSinkError:
                    writer = self._writer
                    if writer is None or self._clock() >= self._expires_at:
                        raise
                    self._ask_at = self._clock() + ASK_AGAIN_SECONDS
            return writer

    def expire(self, writer: RequestWriter) -> None:
        """Have `writer`'s credentials, which the server refused as expired, renewed, unless that happened meanwhile."""
        if writer is self._writer and self._provider is not None:
            self._writer = None

    def now(self) -> float:
        """The server's time, as far as it is known, in seconds since the epoch."""
        return self._clock() + self.offset_seconds

    def timestamp(self) -> str:
        """The server's time for x-amz-date, "20260131T235959Z"."""
        second = int(self.now())
        if second != self._second:
            self._second = second
            self._timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._timestamp

    def correct_clock(self, server_time: float) -> None:
        """Sign with the server's time (seconds since the epoch) from now on."""
        self.offset_seconds = server_time - self._clock()

    async def _ask(self) -> RequestWriter:
        if self._provider is None:
            raise AssertionError("unsigned requests need no credentials")
        try:
            found = await self._provider()
        except AsyncSinkError:
            raise
        except Exception as error:  # noqa: BLE001 - a provider may raise anything
            # Its text may quote the output of a credential process.
            raise CredentialsError(f"The credentials cannot be had ({type(error).__name__}); log in again.") from None
        if not found.access_key_id.isascii() or not found.access_key_id.isprintable():
            raise CredentialsError("The access key id is malformed; check the profile or file that it comes from.")
        expires_at = found.expires_at
        if expires_at is None:
            self._ask_at = self._expires_at = float("inf")
        else:
            self._expires_at = expires_at.timestamp()
            self._ask_at = max(self._expires_at - RENEW_BEFORE_SECONDS, self._clock() + ASK_AGAIN_SECONDS)
        signer = Signer(found.access_key_id, found.secret_access_key, self.region, found.session_token)
        return RequestWriter(self._endpoint, signer, request_payer=self._request_payer)
