"""The upload log of one of a run's processes: its parent writes, and says when it is written."""

from __future__ import annotations

import anyio

from asyncsink.model import UploadCompleting, UploadCreating, UploadOpened, UploadStep

AWAITED = (UploadCreating, UploadOpened, UploadCompleting)
"""Steps that are in the journal before anything else happens to their uploads."""


class ParentLog:
    """An UploadLog. What waits in it is bounded: each upload waits for its own step."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._steps: list[UploadStep] = []
        self._told = 0
        self._noted = 0
        self._news = anyio.Event()
        self.hurry = anyio.Event()
        """Set where the parent should hear of a step at once: somebody waits for its answer, or a part that is not in
        the journal would be sent again after a kill."""

    def __repr__(self) -> str:
        return f"<ParentLog {self._noted} of {self._told} steps noted>"

    async def step(self, step: UploadStep) -> None:
        """As `UploadLog.step`. Where the parent cannot write, it ends this process.

        Cancelled, it stops waiting; the parent hears of the step all the same.
        """
        self._steps.append(step)
        self._told += 1
        told = self._told
        self.hurry.set()
        if isinstance(step, AWAITED):
            while self._noted < told:
                await self._news.wait()

    def taken(self) -> list[UploadStep]:
        """What the parent was not told yet."""
        self.hurry = anyio.Event()
        steps, self._steps = self._steps, []
        return steps

    def noted(self, steps: int) -> None:
        """The parent has written the first `steps` of all that it was told."""
        self._noted = steps
        self._news.set()
        self._news = anyio.Event()
