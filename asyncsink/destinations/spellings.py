"""Detection of servers that treat two keys of a run as one.

Such a server replaces the first object by the second, and confirms both writes. Keys that could be equal to some server
are therefore written one at a time, each after a look: an object found under the new key that is the very object under
the other key, and is not listed under the new one, proves that the server treats the two as one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio

from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.errors import AccessDenied, KeyCollision, ObjectMissing
from asyncsink.options.settings import Secret
from asyncsink.routing.keys import fingerprint, show
from asyncsink.s3.operations import HeadObject, ListObjects, ObjectHead
from asyncsink.s3.transport import Transport


class Spellings:
    """The keys of one destination.

    Args:
        existing: the listed objects, and the objects written by this run.
    """

    def __init__(self, transport: Transport, existing: ExistingObjects) -> None:
        self._transport = transport
        self._existing = existing
        self._one_at_a_time = anyio.Lock()
        self._written: dict[int, str] = {}
        self._keeps_backslashes = False
        self.alike: frozenset[int] = frozenset()
        """Fingerprints of the keys of the run that some server treats as equal; set before the first write."""
        self.elsewhere: Mapping[str, tuple[str, ...]] = {}
        """Keys of this run, and for each those of other machines that some server treats as equal; set likewise."""

    def plain(self, key: str) -> bool:
        """Whether the key can be written without a look."""
        if "\\" in key and not self._keeps_backslashes:
            return False
        if (self.alike and fingerprint(key) in self.alike) or key in self.elsewhere:
            return False
        return self._existing.other_spelling(key) is None

    @asynccontextmanager
    async def writing(self, key: str, secret: Secret | None) -> AsyncIterator[None]:
        """Surrounds a write to the key, with its customer key (SSE-C) or None.

        Raises:
            KeyCollision: the server treats it as equal to another key.
            TransferError: the look failed.
        """
        if self.plain(key):
            yield
            return
        async with self._one_at_a_time:
            others = self._others(key)
            if (other := await self._same_as(key, others, secret)) is not None:
                raise KeyCollision(
                    f"This server takes the keys {show(key)} and {show(other)} for one, and would replace the one "
                    "object by the other; nothing was written. Rename one of the files, or substitute the characters."
                )
            yield
            if "\\" in key and not self._keeps_backslashes:
                if (other := await self._same_as(key, others, secret)) is not None:
                    raise KeyCollision(
                        f"This server has stored {show(key)} as {show(other)}: another file could replace it there. "
                        "Rename the file, or substitute the backslash."
                    )
                self._keeps_backslashes = True
            self._written[fingerprint(key)] = key

    def _others(self, key: str) -> list[str]:
        """Keys that may be equal to this one."""
        own = (key.replace("\\", "/"), self._existing.other_spelling(key), self._written.get(fingerprint(key)))
        known = (*own, *self.elsewhere.get(key, ()))
        return list(dict.fromkeys(other for other in known if other is not None and other != key))

    async def _same_as(self, key: str, others: list[str], secret: Secret | None) -> str | None:
        """The key among `others` that is the same object as `key` now, or None."""
        there = await self._head(key, secret) if others else None
        if there is None:
            return None
        for other in others:
            found = await self._head(other, secret)
            if found is not None and _identity(found) == _identity(there):
                return None if await self._is_listed(key) else other
        return None

    async def _head(self, key: str, secret: Secret | None) -> ObjectHead | None:
        try:
            return await self._transport.send(HeadObject(key=key, sse_customer_key=secret))
        except (ObjectMissing, AccessDenied):
            return None

    async def _is_listed(self, key: str) -> bool:
        try:
            page = await self._transport.send(ListObjects(prefix=key))
        except AccessDenied:
            return False
        return any(listed.key == key for listed in page.objects)


def _identity(head: ObjectHead) -> tuple[object, ...]:
    return head.etag, head.size_bytes, head.last_modified, head.version_id
