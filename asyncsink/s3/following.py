"""A bucket in another region than requests are signed for: the lanes are opened once more, for the region it is in.

S3 names the region in the answer (`x-amz-bucket-region`, `<Region>`). No redirect is followed and no host of an
answer is used: requests go on to the same endpoint, or at Amazon to the regional endpoint that the named region has in
the same partition. Sources: S3 API Reference, "Error responses"; S3 User Guide, "Making requests using the REST API".
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

from asyncsink.config import LaneChoice, S3Target
from asyncsink.errors import AccessDenied, AsyncSinkError, WrongRegion
from asyncsink.s3.addresses import is_arn
from asyncsink.s3.environment import named_endpoint
from asyncsink.s3.lanes import Lanes
from asyncsink.s3.operations import ListObjects, ObjectPage, Operation, PutObject, Response
from asyncsink.value import dataclass

R = TypeVar("R", bound=Response)
_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_AMAZON_REGION: Final = re.compile(r"[a-z]{2}[a-z-]*-[a-z]+-[0-9]{1,2}")
_REGIONAL: Final = r"(?i)(https?://s3\.)[a-z0-9-]+(\.amazonaws\.com(?:\.cn)?)"
AHEAD_SECONDS_MAX: Final = 60.0
"""So old an answer may be that was asked for ahead of its time."""
_PARTITIONS: Final = ("cn-", "us-gov-", "us-isob-", "us-isof-", "us-iso-", "eu-isoe-", "eusc-")


@dataclass(slots=True, frozen=True)
class _Ahead:
    """An operation that was sent before somebody asked for it, by the clock `time.monotonic`, and how it ended."""

    operation: ListObjects
    sent_at: float
    ended: ObjectPage | AsyncSinkError

    def tells_of(self, operation: Operation[Any]) -> bool:
        """Whether `operation` ends so too: it is the same, and not much later; or the failure was of no prefix."""
        if isinstance(self.ended, AsyncSinkError) and not isinstance(self.ended, AccessDenied):
            return isinstance(operation, ListObjects)
        return operation == self.operation and self.sent_at + AHEAD_SECONDS_MAX > time.monotonic()

    async def end(self) -> Any:
        """End so once more."""
        if isinstance(self.ended, AsyncSinkError):
            raise self.ended
        return self.ended


class FollowingLanes:
    """A Transport over lanes that move to the bucket's region, at most once. Belongs to one event loop.

    Args:
        lanes: as they were opened for `target`.
        target: what they were opened for.
        opener: opens others for a target, in the lane that is named.
        notice: called with one sentence when they move.
    """

    def __init__(
        self,
        lanes: Lanes,
        target: S3Target,
        opener: Callable[[S3Target, LaneChoice], Awaitable[Lanes]],
        notice: Callable[[str], None],
    ) -> None:
        self.lanes = lanes
        """Those in use."""
        self._target = target
        self._opener = opener
        self._notice = notice
        self._moving = asyncio.Lock()
        self._left: Lanes | None = None
        self._ahead: _Ahead | None = None
        self._bound: int | None = None

    def __repr__(self) -> str:
        return f"FollowingLanes({self.lanes.transport!r})"

    # No coroutine of its own: every object passes here.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` through the lanes in use; an attempt that was made already ends as it did."""
        if isinstance(operation, PutObject) and operation.first is not None:
            operation.first.end()
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.tells_of(operation):
            return ahead.end()
        return self.lanes.transport.send(operation)

    async def send_ahead(self, operation: ListObjects) -> None:
        """Send some time before it what the first operation will be, as far as that is known: it ends as this one did,
        whether it was answered or failed. Another one finds a connection that is open."""
        sent_at = time.monotonic()
        try:
            ended: ObjectPage | AsyncSinkError = await self.lanes.transport.send(operation)
        except AsyncSinkError as error:
            ended = error
        self._ahead = _Ahead(operation, sent_at, ended)

    def bound(self, requests: int) -> None:
        """As `Lanes.bound`, for the lanes in use and those that may follow."""
        self._bound = requests
        self.lanes.bound(requests)

    async def follow(self, error: WrongRegion) -> None:
        """Return when a request that ended with `error` can be sent again, for the region that it names.

        Raises:
            WrongRegion: `error`: the lanes have moved before, or the region is none to sign for here.
            ConfigError, CredentialsError: lanes for that region cannot be opened.
        """
        async with self._moving:
            # An ARN names its region itself.
            if error.region == error.signed_for or is_arn(self._target.bucket):
                raise error
            if self.lanes.region == error.region:
                return  # moved since that request was signed
            if self._left is not None or not self._may_sign_for(error.region):
                raise error
            region = self.lanes.region
            target = replace(self._target, region=error.region, endpoint_url=self._endpoint(error.region))
            choice: LaneChoice = "aioboto3" if self.lanes.name == "aioboto3" else "wire"
            lanes = await self._opener(target, choice)
            if self._bound is not None:
                lanes.bound(self._bound)
            # What is under way in the lanes that are left ends there, and comes here by itself.
            self._left, self.lanes = self.lanes, lanes
        self._notice(
            f"The bucket {self._target.bucket} is in region {error.region}, not in {region or 'the one assumed'}: "
            f"requests are signed for that one; region={error.region!r} spares the detour."
        )

    async def aclose(self) -> None:
        """Close all lanes."""
        try:
            if self._left is not None:
                await self._left.transport.aclose()
        finally:
            await self.lanes.transport.aclose()

    def _may_sign_for(self, region: str) -> bool:
        if self.lanes.endpoint_url:
            return _REGION.fullmatch(region) is not None
        # At Amazon the region names the host: no answer moves a run to another partition's.
        return _AMAZON_REGION.fullmatch(region) is not None and _partition(region) == _partition(self.lanes.region)

    def _endpoint(self, region: str) -> str:
        """The endpoint to name: none where none was, and the other region's where Amazon's own regional one was."""
        regional = re.fullmatch(_REGIONAL, named_endpoint(self._target))
        return f"{regional[1]}{region}{regional[2]}" if regional else self._target.endpoint_url


def _partition(region: str) -> str:
    return next((prefix for prefix in _PARTITIONS if region.startswith(prefix)), "")
