"""What a journal is: the memory of one S3 destination, from one run to the next.

It knows two things: that a key holds the bytes of a source file as that file was, sent with these object options; and
which multipart uploads no run has ended. A journal also satisfies `destinations.base.UploadLog`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncsink.journal.rows import PublishedRow
from asyncsink.model import Known, Transfer, UploadStep


class Journal(Protocol):
    """One journal, opened for one run. Every method may raise JournalError or DestinationFull, and the run stops then:
    what a journal does not know any more would be sent, or left open, unknown to everybody."""

    @property
    def path(self) -> str:
        """Absolute path of the file."""
        ...

    @property
    def blank(self) -> bool:
        """Whether it knew nothing when it was opened: what a run submits once only need not be asked for."""
        ...

    def in_place(self) -> bool:
        """Whether the file that was opened still has its name, so that the next run will find it. Blocking."""
        ...

    def known(self, transfers: Sequence[Transfer]) -> list[Known | None]:
        """What is known of each transfer's key, in order; None where it is nothing.

        Blocking: for a reader thread, one call for some hundred transfers. `published` is True only for the same
        source file, unchanged, and the same object options. An upload that is open is told in any case, because it
        has to be continued or aborted.
        """
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """From here on nothing is known of these keys: they will be written to, or were, with an unknown end.

        Blocking: for a reader thread. On return it is committed, in one commit for all of them.
        """
        ...

    async def publish(self, published: Sequence[PublishedRow]) -> None:
        """Write down what is published; an upload of the same key is forgotten in the same commit.

        On return it is committed: it survives a kill -9 of this process. Cancelled, it stops waiting; what was handed
        over is committed all the same.
        """
        ...

    async def step(self, step: UploadStep) -> None:
        """Write down one step of a multipart upload; see `states` for those that may follow each other.

        UploadCreating, UploadOpened and UploadCompleting are committed on return, UploadOpened is also on the disk
        (fsync: it survives a power cut). The others are committed soon, and by `aclose` at the latest; where very many
        wait already they are committed on return too. Cancellation as in `publish`.
        """
        ...

    def stop_asking(self) -> None:
        """The run is being cancelled: whoever waits in `known` or `forget` waits no more, and gets a JournalError."""
        ...

    async def aclose(self, seconds: float | None = None) -> None:
        """Commit everything that was handed over, and release the file; wait at most `seconds` for that. Shielded from
        cancellation; twice is harmless.

        Raises:
            JournalError, DestinationFull: something could not be written, or not within `seconds`, and nobody was told
                yet.
        """
        ...
