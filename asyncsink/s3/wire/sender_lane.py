"""The pool of sender threads of one bucket, opened with the first large body: a run of small files never starts it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncsink.config import Limits, RetryPolicy, S3Target
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.get_object import GetObjectTo, ObjectReceived
from asyncsink.s3.operations import PutObjectFrom, StoredFrom, UploadPartFrom
from asyncsink.s3.wire.endpoint import endpoint_of
from asyncsink.s3.wire.keyring import CredentialsProvider, Keyring
from asyncsink.s3.wire.transport import tls_context

if TYPE_CHECKING:
    from asyncsink.s3.wire.sender import SenderPool


class SenderLane:
    """Sends UploadPartFrom, PutObjectFrom and GetObjectTo, and nothing else. Belongs to the event loop it is used in.

    Args:
        target: bucket, endpoint_url, addressing_style, anonymous, request_payer and ca_bundle count here.
        retry: connect_seconds and stall_seconds count here.
        limits: concurrency, memory_bytes and part_size_bytes bound the threads.
        region: of the bucket.
        credentials: the lane's own provider; may be None only for an anonymous target.
        verify: False accepts any certificate.
        bandwidth: the limit on what is sent in a second, or None.
    """

    def __init__(
        self,
        target: S3Target,
        retry: RetryPolicy,
        limits: Limits,
        *,
        region: str,
        credentials: CredentialsProvider | None,
        verify: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._target = target
        self._retry = retry
        self._region = region
        self._credentials = None if target.anonymous else credentials
        self._verify = verify
        self._bandwidth = bandwidth
        self._opening = asyncio.Lock()
        self._pool: SenderPool | None = None
        self._bound: int | None = None
        self.threads = threads_for(limits)
        """Parts and whole files that are sent at once, at most."""

    def __repr__(self) -> str:
        return f"<SenderLane s3://{self._target.bucket}: {self.threads} threads at most, {self._pool!r}>"

    async def send(self, operation: UploadPartFrom | PutObjectFrom | GetObjectTo) -> StoredFrom | ObjectReceived:
        """Send one part or file, or receive a range; see `SenderPool.send` and `receive` for what is raised, and for
        cancellation.

        Raises:
            ConfigError: besides, where the ca_bundle cannot be used.
        """
        pool = self._pool or await self._open()
        return await (pool.receive(operation) if isinstance(operation, GetObjectTo) else pool.send(operation))

    def bound(self, threads: int) -> None:
        """As `SenderPool.bound`."""
        self._bound = threads
        if self._pool is not None:
            self._pool.bound(threads)

    async def aclose(self) -> None:
        """End the threads; what is under way fails. Calling it twice is harmless."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _open(self) -> SenderPool:
        async with self._opening:
            if self._pool is None:
                # A run of small files, or of nothing new, does without all of it.
                from asyncsink.s3.wire.sender import SenderPool

                target = self._target
                endpoint = endpoint_of(target, self._region)
                tls = None
                if endpoint.tls:
                    tls = await asyncio.to_thread(tls_context, target.ca_bundle, self._verify)
                # Neither keyrings nor their signers may be used by several threads: this one is the pool's own.
                keyring = Keyring(endpoint, self._region, self._credentials, request_payer=target.request_payer)
                self._pool = SenderPool(
                    target.bucket, endpoint, keyring, self._retry, tls, threads=self.threads, bandwidth=self._bandwidth
                )
                if self._bound is not None:
                    self._pool.bound(self._bound)
            return self._pool


def threads_for(limits: Limits) -> int:
    """As many as the run may have requests in flight, and as its memory has room for parts."""
    return limits.parts_held
