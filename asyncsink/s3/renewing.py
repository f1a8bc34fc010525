"""Credentials of one target for all who sign: looked up once when they end, however many requests notice it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

from asyncsink.config import Secret
from asyncsink.errors import ConfigError
from asyncsink.s3.credentials import Credentials, freeze, lost
from asyncsink.s3.http.keyring import CredentialsLike, CredentialsProvider
from asyncsink.value import dataclass

FAILED_SECONDS: Final = 1.0
"""So long a look-up that failed is not repeated: each of many waiting requests would repeat it for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCredentials:
    """What the wire lane signs with, and until when."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None
    expires_at: datetime | None


class SharedCredentials:
    """Gives each of its `provider`s the credentials that are known, and looks for others when one has had them.

    Args:
        first: `Credentials`, or botocore's own object; None looks for them.
        find: looks from the beginning, as after a new login: files and environment are read again, roles and SSO asked.
        clock: seconds, never going back.
    """

    def __init__(
        self, first: Any, find: Callable[[], Awaitable[Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first = first
        self._find = find
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: HeldCredentials | None = None
        self._failed: tuple[float, ConfigError] | None = None

    def __repr__(self) -> str:
        return f"<SharedCredentials {'known' if self._known else 'not asked yet'}>"

    def provider(self) -> CredentialsProvider:
        """For one keyring, which asks when it needs others than those it was given last.

        It raises CredentialsError where the first look-up finds none. Where a later one finds none, it raises
        ExpiredCredentials, which is tried again: a login, or the service that hands credentials out, may come back.
        """
        given: HeldCredentials | None = None

        async def provide() -> CredentialsLike:
            nonlocal given
            async with self._lock:
                if self._known is None or self._known is given:
                    self._known = await self._look_up()
                given = self._known
                return given

        return provide

    async def _look_up(self) -> HeldCredentials:
        if self._failed is not None and self._clock() - self._failed[0] < FAILED_SECONDS:
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
        return HeldCredentials(
            access_key_id=frozen.access_key_id,
            secret_access_key=frozen.secret_access_key,
            session_token=frozen.session_token,
            expires_at=getattr(source, "_expiry_time", None),
        )
