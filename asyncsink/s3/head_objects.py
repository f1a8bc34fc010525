"""Many HEADs as one operation, for keys that no listing tells of.

An operation for each of them would cost more than sending it. Whatever is neither an object nor the plain answer that
there is none is for the ordinary way, with its retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from asyncsink.errors import AsyncSinkError, ObjectMissing
from asyncsink.s3.operations import ObjectHead, Operation, Response
from asyncsink.value import dataclass

HeadResult = ObjectHead | AsyncSinkError | None
"""What the object is; or how the request failed, ObjectMissing among others; or None: it was not answered."""

ABSENT: Final = ObjectMissing("Nothing is under the key.")
"""The result of a plain 404, of which there are many; it is not raised."""


@dataclass(slots=True, kw_only=True)
class HeadsDone(Response):
    """Answer to HeadObjects, beside its `results`: how many objects were found."""

    found: int = 0

    @property
    def successes(self) -> int:
        """As many as objects were found."""
        return self.found


@dataclass(slots=True, frozen=True, kw_only=True)
class HeadObjects(Operation[HeadsDone]):
    """HeadObject of many keys; sending raises for all of them only where nothing was begun.

    Attributes:
        keys: at least one.
        sse_customer_key, ask_checksum: as in HeadObject.
        results: filled as answers come, one for each key.
    """

    name: ClassVar[str] = "HeadObject"
    keys: Sequence[str]
    results: list[HeadResult]
    sse_customer_key: Any = None
    ask_checksum: bool = True
