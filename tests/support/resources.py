"""Resources of a run that opens nothing: for tests of the engine's parts."""

from __future__ import annotations

from typing import Any

from asyncsink.engine.limits.descriptors import ACCOUNT, Share
from asyncsink.engine.limits.pools import Pools
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.resources import Resources
from asyncsink.options.schema import LocalTarget, Settings


def resources(*, progress: Progress | None = None, dry_run: bool = False, **settings: Any) -> Resources:
    """Resources with these settings; on a running event loop. Their share takes nothing from others."""
    own = Settings(target=LocalTarget(directory="/nowhere"), **settings)
    pools = Pools(own.limits, None)
    return Resources(own, Share(ACCOUNT, own.limits), pools, progress=progress, dry_run=dry_run)
