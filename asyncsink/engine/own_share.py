"""What the parent of a run's processes publishes itself: as good a process as the others, and without a pipe."""

from __future__ import annotations

from collections.abc import Callable

from asyncsink.engine.load import Load
from asyncsink.engine.pipeline import Batch, Entry, Pipeline, Work
from asyncsink.model import Transfer


class OwnShare:
    """Work for the pipeline of this process; `engine.worker.Worker` is its like for another one.

    Args:
        pipeline: of the run.
        wake: called whenever some of the work has ended.

    Attributes:
        load: what is under way.
    """

    def __init__(self, pipeline: Pipeline, wake: Callable[[], None]) -> None:
        self.load = Load()
        self._pipeline = pipeline
        self._wake = wake
        pipeline.entry_done = self._settle

    def __repr__(self) -> str:
        return f"<OwnShare: {self.load.files} under way>"

    async def give(self, work: Work | Batch, transfers: list[Transfer]) -> None:
        """Queue `work`, which consists of `transfers`; `load.has_room` keeps it shorter than the queue."""
        self.load.add(work, transfers)
        await self._pipeline.submit(work)

    def _settle(self, entry: Entry) -> None:
        if isinstance(entry, Batch):
            self.load.remove(entry.transfers)
        elif isinstance(entry, Work) and isinstance(entry.found, Transfer):
            self.load.remove([entry.found])
        self._wake()
