"""A sink to memory, for the unit tests of programs that publish by an AsyncSink."""

from __future__ import annotations

from typing import Unpack

from asyncsink.destinations.memory import MemoryDestination
from asyncsink.options.typed import ExportOptions
from asyncsink.sink import AsyncSink


class MemorySink(AsyncSink):
    """An AsyncSink whose objects stay in memory. Like any other it is opened once, and belongs to its event loop."""

    def __init__(self, **options: Unpack[ExportOptions]) -> None:
        """See `memory_sink`."""
        self._memory = MemoryDestination()
        super().__init__(destination=self._memory, **options)

    @property
    def objects(self) -> dict[str, bytes]:
        """The content of every object that is published by now, by key, in order of publishing: a copy, which can be
        asked for while the sink is open and after it was closed."""
        return self._memory.objects


def memory_sink(**options: Unpack[ExportOptions]) -> MemorySink:
    """A sink for unit tests: no server, no credentials, no journal.

        async with asyncsink.testing.memory_sink() as sink:
            await my_program(sink)
        assert sink.objects["report/summary.json"] == b"{}"

    Keys, options, errors, skips, receipts and events are those of any AsyncSink; keys begin at the top, as they would
    below a prefix. Options of the connection do nothing, and `journal` and `bucket` are refused.

    Raises:
        ConfigError: an option is wrong.
    """
    return MemorySink(**options)
