"""What a bucket holds below prefixes: many of them listed at once, each page by page.

Source: Amazon S3 API Reference, ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import anyio

from asyncsink.errors import ServerFault
from asyncsink.s3.operations import ListedObject, ListObjects
from asyncsink.s3.transport import Transport

LISTINGS_MAX = 16
"""Prefixes that are listed at the same time; the pages of one prefix follow each other by a token."""

Deliver = Callable[[str, Sequence[ListedObject]], Awaitable[None]]


async def list_below(transport: Transport, prefixes: Sequence[str], deliver: Deliver) -> None:
    """List everything below each prefix, and hand over each page with its prefix as it comes.

    `deliver` is awaited by the listing that found the page: pages do not pile up before a slow one.

    Raises:
        ExceptionGroup: of what the transport or `deliver` raised; the other listings are cancelled.
    """
    waiting = iter(prefixes)
    async with anyio.create_task_group() as group:
        for _ in range(min(LISTINGS_MAX, len(prefixes))):
            group.start_soon(_list_each, transport, waiting, deliver)


async def _list_each(transport: Transport, prefixes: Iterator[str], deliver: Deliver) -> None:
    for prefix in prefixes:
        token = ""
        while True:
            page = await transport.send(ListObjects(prefix=prefix, token=token))
            if page.objects:
                await deliver(prefix, page.objects)
            if not page.next_token:
                break
            if page.next_token == token:
                raise ServerFault(
                    f"ListObjectsV2 below {prefix!r} does not go on: the same token came twice; check that "
                    "the endpoint is S3.",
                    operation="ListObjectsV2",
                )
            token = page.next_token
