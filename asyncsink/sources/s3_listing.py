"""The objects of a bucket below prefixes: several prefixes are listed at once, each page by page.

A HEAD completes an entry that has no valid size; where it fails, the entry is one failure.

Source: Amazon S3 API Reference, ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing

import anyio

from asyncsink.errors import AsyncSinkError, InvalidKey, ServerFault, TransferError
from asyncsink.options.settings import Secret
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import HeadObject, ListedObject, ListObjects
from asyncsink.s3.transport import Transport

LISTINGS_MAX = 16
"""Prefixes listed at the same time; the pages of one prefix are sequential, each named by a token of the one before."""

LOOKS_MAX = 16
"""HEAD requests at the same time, for the objects of a page whose entries are incomplete."""

Deliver = Callable[[str, Sequence[ListedObject]], Awaitable[None]]
Refuse = Callable[[str, AsyncSinkError], None]


async def list_below(
    transport: Transport, prefixes: Sequence[str], deliver: Deliver, refuse: Refuse, secret: Secret | None = None
) -> None:
    """List all objects below each prefix, and deliver each page with its prefix as it arrives.

    Args:
        deliver: awaited by the listing that received the page, so that pages do not accumulate before a slow receiver.
        refuse: called with the key of an unusable entry ("" where it has none) and the error.
        secret: the customer key of the objects (SSE-C), or None.

    Raises:
        ExceptionGroup: of the exceptions of the transport or `deliver`; the other listings are cancelled.
    """
    waiting = iter(prefixes)
    async with anyio.create_task_group() as group:
        for _ in range(min(LISTINGS_MAX, len(prefixes))):
            group.start_soon(_list_each, transport, waiting, deliver, refuse, secret)


async def _list_each(
    transport: Transport, prefixes: Iterator[str], deliver: Deliver, refuse: Refuse, secret: Secret | None
) -> None:
    for prefix in prefixes:
        async with aclosing(object_pages(transport, prefix)) as pages:
            async for page in pages:
                objects = page.objects
                if page.vague:
                    objects = (*objects, *await _looked_at(transport, page.vague, refuse, secret))
                if page.unnamed:
                    refuse("", _unnamed(prefix, page.unnamed))
                if objects:
                    await deliver(prefix, objects)


async def _looked_at(
    transport: Transport, keys: Sequence[str], refuse: Refuse, secret: Secret | None
) -> list[ListedObject]:
    found: list[ListedObject] = []
    waiting = iter(keys)

    async def look() -> None:
        for key in waiting:
            try:
                head = await transport.send(HeadObject(key=key, sse_customer_key=secret))
            except (TransferError, InvalidKey) as error:
                refuse(key, error)
            else:
                found.append(ListedObject(key, head.size_bytes, head.etag, head.last_modified))

    async with anyio.create_task_group() as group:
        for _ in range(min(LOOKS_MAX, len(keys))):
            group.start_soon(look)
    return found


def _unnamed(prefix: str, number: int) -> ServerFault:
    return ServerFault(
        f"The listing below {prefix!r} has {number} {'entry' if number == 1 else 'entries'} without a key; check that "
        "the endpoint is S3.",
        operation=ListObjects.name,
        status=200,
    )
