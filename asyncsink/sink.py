"""AsyncSink and the export functions: the entry points for uploads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from asyncsink.destinations.base import Destination
from asyncsink.destinations.opening import settings_of
from asyncsink.engine.calls import OnCancel, patience_of
from asyncsink.engine.content.object_writer import ByteStream, ObjectWriter
from asyncsink.engine.export import run_source
from asyncsink.engine.recording.events import Subscription
from asyncsink.engine.session import Counts, Session
from asyncsink.errors import ConfigError, ExportFailed
from asyncsink.event_loops import run_to_end
from asyncsink.model import Checksum, Receipt, Skip
from asyncsink.options.typed import ExportOptions, Paths, PutOptions, StrPath, with_options
from asyncsink.os_errors import words_shortages
from asyncsink.report.report import Report, SinkStats
from asyncsink.sources.base import Source
from asyncsink.sources.opening import directory_source, given_source

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on


async def export(
    outputs: Mapping[str, Paths | None] | None = None,
    base_directory: StrPath = "",
    *,
    source: Source | None = None,
    destination: Destination | None = None,
    **options: Unpack[ExportOptions],
) -> Report:
    """Publish workflow outputs by DataSink's rules.

        outputs = {"motion": ["/work/rp_run1.txt", "/work/rp_run2.txt"], "contrasts.@con": "/work/con_0001.nii"}
        report = await asyncsink.export(outputs, "s3://my-bucket/study", container="sub-01", manifest="sub-01.jsonl")
        report.raise_for_failures()

    Args:
        outputs: {attribute: path | [paths] | nested lists}; a directory is published with everything inside it.
        base_directory: "s3://bucket/prefix" or a local directory.
        source: one of your own in the place of `outputs`, see guide/extending.md.
        destination: one of your own in the place of `base_directory`; it is closed at the end.
        options: help(asyncsink.ExportOptions) explains them.

    Returns:
        A Report, also where single files failed; its `raise_for_failures()` raises then.

    Raises:
        ConfigError, SourceError, TransferError: the run could not start; nothing was sent.

    On cancellation, its multipart uploads stay open for the next run, which resumes them by the journal; without a
    journal, or with abort_on_interrupt=True, they are aborted (shielded, bounded in time). No temporary file stays.
    """
    settings = settings_of(base_directory, destination, options)
    return await run_source(settings, given_source(outputs, source, settings))


async def export_directory(
    directory: StrPath,
    base_directory: StrPath = "",
    *,
    destination: Destination | None = None,
    **options: Unpack[ExportOptions],
) -> Report:
    """Publish a directory tree; keys keep the path relative to `directory`. Otherwise as `export`.

    report = await asyncsink.export_directory("derivatives", "s3://my-bucket/study", exclude=["*.tmp"])
    print(report.summary())
    """
    settings = settings_of(base_directory, destination, options)
    return await run_source(settings, directory_source(directory, settings))


def export_sync(
    outputs: Mapping[str, Paths | None] | None = None,
    base_directory: StrPath = "",
    *,
    source: Source | None = None,
    destination: Destination | None = None,
    **options: Unpack[ExportOptions],
) -> Report:
    """`export` for synchronous code; inside a running event loop (Jupyter) it uses a thread of its own.

        report = asyncsink.export_sync({"motion": "/work/rp_run1.txt"}, "s3://my-bucket/study")

    KeyboardInterrupt cancels the export, waits for its clean-up, and is raised.
    """
    return run_to_end(partial(export, outputs, base_directory, source=source, destination=destination, **options))


class AsyncSink:
    """A long-lived sink inside an asyncio program, for any number of concurrent producers.

        async with AsyncSink("s3://bucket/prefix") as sink:
            receipt = await sink.put("motion", path)
            await sink.submit("contrasts.@con", paths)

        sink = await AsyncSink("s3://bucket/prefix").start()     # the same without a block
        …
        report = await sink.close(deadline_seconds=20)           # in any task

    Entering checks destination and credentials. Leaving waits until all submitted files are published and recorded; an
    exception in the block, or cancellation, ends open transfers as in a cancelled `export`.

    It belongs to the process and the event loop in which it was entered: elsewhere (in a forked child, in another loop,
    in a thread without one) its methods raise ConfigError instead of waiting forever.

    It may stay open for months: memory does not grow with the number of files. In the temporary directory it keeps
    every outcome, some 400 bytes, for the report and, unless on_collision="last", every key with its source;
    `records_max` bounds both. A journal grows by some 1,600 bytes for each key.
    """

    def __init__(
        self,
        base_directory: StrPath = "",
        *,
        destination: Destination | None = None,
        records_max: int | None = None,
        **options: Unpack[ExportOptions],
    ) -> None:
        """See `export` for the other arguments. Nothing is opened before the block, or `start`.

        Args:
            records_max: for a sink that stays open for months: so many of the newest outcomes of each kind stay in the
                report's lists (twice as many at most, beside those that are written at once), and a key of two sources
                is noticed among so many of the newest keys. The counts are of all. None keeps everything.

        Raises:
            ConfigError: an option is wrong.
        """
        self._session = Session(settings_of(base_directory, destination, options), records_max)

    def __repr__(self) -> str:
        return f"<AsyncSink {self._session!r}>"

    @words_shortages
    async def __aenter__(self) -> Self:
        await self._session.enter()
        return self

    @words_shortages
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.leave(error)

    @words_shortages
    async def start(self) -> Self:
        """Open the sink, as entering its block does, and return it; `close` ends it, from any task of this event loop.

        Raises:
            ConfigError: it was started or closed before.
            ConfigError, TransferError, JournalError: it cannot be opened; nothing was sent.

        Cancellation ends the opening. A sink that stops by itself later (it can no longer record) cancels nobody: every
        call raises ExportFailed then, and `close` the error itself.
        """
        await self._session.start()
        return self

    @words_shortages
    async def close(self, *, deadline_seconds: float | None = None) -> Report:
        """Take nothing more, wait until everything that was accepted is published and recorded, and return the report.

        Args:
            deadline_seconds: seconds until the rest is given up. What is under way then ends as in a cancelled
                `export`; its clean-up takes at most `RetryPolicy.abort_seconds` for each of open uploads, records and
                journal. Of several calls the earliest deadline counts. None waits without a limit.

        Raises:
            ConfigError: `deadline_seconds` is no number of seconds, or this is another process or event loop.
            JournalError, DestinationFull: the sink has stopped, because it could not record.

        From any task; again, and at the same time as another call, it returns the same report. A sink that was never
        opened has a report of nothing. Cancelled, where no other task waits for its end too, it gives the rest up at
        once, waits for the clean-up, and raises.
        """
        return await self._session.close(patience_of(deadline_seconds).deadline_seconds)

    @property
    def report(self) -> Report:
        """The report, available when the sink is closed.

        Raises:
            ConfigError: the sink is still open.
        """
        return self._session.report

    @words_shortages
    async def put(
        self,
        attribute: str,
        path: StrPath,
        *,
        key: str | None = None,
        deadline_seconds: float | None = None,
        on_cancel: OnCancel = "withdraw",
        **options: Unpack[PutOptions],
    ) -> Receipt | Skip:
        """Publish one file, and return when it is published, or found to be there already.

        Without `key`, the key is made by DataSink's rules: each "." of the attribute begins a folder ("v1.2" and
        "user@example.org" too), and folders of the path that begin with "_" come back in the key.

        Args:
            attribute: DataSink's; with `key` it may be any name.
            path: of the file.
            key: the exact key below the destination. Container, substitutions, strip_dir and parameterization do not
                apply to it.
            deadline_seconds: seconds, from now on, after which the call ends as `on_cancel` says. None: no limit.
            on_cancel: "withdraw" gives the file up: nothing more is sent for it. "detach" ends the wait only: as with
                `submit`, a file that is queued is published, and read if it still exists; another one is never sent.
            options: see `PutOptions`; those that are given take the place of the sink's. Where the object is there
                with the same content, but with other options of those that HEAD shows, it is sent again.

        Raises:
            ConfigError, SourceError: the file cannot be routed or read, or the key or an option is wrong; nothing was
                sent.
            DeadlinePassed: a TimeoutError too: `deadline_seconds` were over.
            KeyCollision: another file was published under the key in this sink (see on_collision).
            PutFailed: the file was not published. `cause` (and `__cause__`) is the error itself, such as Throttled or
                AccessDenied, `failure` its outcome. An unavailable server is retried for at most
                give_up_after_seconds. The error concerns this caller only: the sink continues.
            ExportFailed: the sink was closed before, or has stopped, since it can no longer record.

        Simultaneous calls share all costs of a file but its request. A call waits while its key is being written: of
        two calls with one key, the first is recorded before the second begins.

        Cancelled, or at its deadline, a file that was not begun is never sent, and the next call with its key begins at
        once. One that is being sent ends first: its connection is closed, and a multipart upload is aborted (shielded;
        `RetryPolicy.abort_seconds` at most; one that cannot be aborted is a notice and stays in the journal). A server
        that had the whole body by then may have published it all the same, or may still do so: only another call
        with that key tells. Where the file was published before, the receipt is in the report.
        """
        patience = patience_of(deadline_seconds, on_cancel)
        calls = self._session.taking().calls
        call = calls.of(attribute, path, alone=repr(path), key=key, options=options)
        await self._session.carry_out(call, patience=patience)
        outcome = call.outcome()
        if outcome is None:
            self._session.check_working()
            raise ExportFailed(f"The sink was closed before {path!r} was published; export it again.", report=None)
        return outcome

    @words_shortages
    async def submit(self, attribute: str, paths: Paths | None, **options: Unpack[PutOptions]) -> int:
        """Queue a path, or nested lists of paths, and return their number when they are queued; waits while the queue
        is full, and while another file is being written to the same key. `options` are those of each file, as in `put`.

        Raises:
            ConfigError: an option is wrong; nothing is queued.
            ConfigError, SourceError: a path cannot be routed or read (with on_unreadable="skip" it is a Failure in the
                report, and the rest is queued); the paths before it are queued.

        Cancellation ends the wait: queued files are published, the others are not.
        """
        call = self._session.taking().calls.of(attribute, paths, options=options)
        await self._session.carry_out(call)
        if not call.over:
            self._session.check_working()
            raise ConfigError("The sink was closed while a file waited for its queue; export it again.")
        return call.count

    @words_shortages
    async def flush(self) -> Counts:
        """Wait until everything that was accepted so far is published and recorded (the files of every `submit` that
        has returned, and of every `put` that is queued); returns the counts of the sink at that moment.

        Raises:
            ConfigError: the sink is not open here.
            ExportFailed: it was stopped before; with the deadline of `close`, or because it can no longer record.

        Other tasks may go on: what they add meanwhile is not waited for. Single failures do not raise; they are in
        `objects_failed`. Cancellation ends the wait only.
        """
        return await self._session.flush()

    async def put_bytes(
        self, key: str, data: Buffer, *, deadline_seconds: float | None = None, **options: Unpack[PutOptions]
    ) -> Receipt | Skip:
        """Publish bytes under a key, and return when they are published, or found to be there already.

        Args:
            key: below the destination, exactly as it is given: no rule of DataSink changes it.
            data: bytes, bytearray, memoryview, or another buffer (of an array the bytes in C order). What can be
                changed must stay as it is until the call returns: below a part's size a copy is taken first; larger
                content that was changed meanwhile is not published.
            deadline_seconds: seconds, from now on, after which it is withdrawn. None: no limit.

        Raises:
            ConfigError: the key is not legal, or the data are no buffer; nothing was sent.
            DeadlinePassed: a TimeoutError too: `deadline_seconds` were over.
            PutFailed: it was not published; `cause` is the reason, SourceChanged where the buffer was changed.
            ExportFailed: the sink was closed, or has stopped.

        Simultaneous calls are sent together. Of two calls with one key, the first is recorded before the second begins.
        The journal is not asked: what is there already is compared by `overwrite`, and the source of the receipt is
        "bytes".

        Cancelled, or at its deadline, it is withdrawn as a `put` is.
        """
        patience = patience_of(deadline_seconds)
        contents = self._session.taking_contents()
        return await self._session.outcome_of(contents.put_bytes(key, data, options), key, patience)

    @words_shortages
    async def put_stream(
        self,
        key: str,
        stream: ByteStream,
        *,
        size_bytes: int | None = None,
        checksum: Checksum | None = None,
        deadline_seconds: float | None = None,
        **options: Unpack[PutOptions],
    ) -> Receipt | Skip:
        """Publish a stream under a key, and return when it is published.

        Args:
            key: as in `put_bytes`.
            stream: an async iterable of buffers; an object with an async `read(size)`; or a file opened in binary mode,
                which is read in threads. It is read in the calling task, to its end, and not closed; an async generator
                is.
            size_bytes: its length, where that is known.
            checksum: of the whole content, by any algorithm. Only with it a stream is compared with what is there.
            deadline_seconds, options: as in `put_bytes`.

        Raises:
            ConfigError: the key, or an argument, is wrong; nothing was read.
            SourceError: the stream raised an exception, which is the `__cause__`; or gave something else than bytes; or
                nothing for `stall_seconds` (see `RetryPolicy`) while other content waited for its memory.
            IntegrityError: the content has another length or checksum than was given.
            EntityTooLarge: it is longer than 10,000 parts, of half of `memory_bytes` at most, can carry.
            PutFailed: S3 did not take it; `cause` is the reason.
            DeadlinePassed: `deadline_seconds` were over.
            ExportFailed: the sink was closed, or has stopped.

        In none of these cases an object is published or an upload stays open. Below a part's size the stream is one
        PutObject, else parts: each is in memory until it is confirmed, and while memory_bytes are in use the stream is
        not read any further. The source of the receipt is "stream"; the parts of a stream that broke off cannot be
        resumed.

        Cancellation ends the requests, aborts the upload (shielded, bounded in time), and frees the key.
        """
        patience = patience_of(deadline_seconds)
        contents = self._session.taking_contents()
        publishing = contents.put_stream(key, stream, options, size_bytes=size_bytes, checksum=checksum)
        return await self._session.outcome_of(publishing, key, patience)

    def open(self, key: str, **options: Unpack[PutOptions]) -> ObjectWriter:
        """An object to write to; the key and `options` are as in `put_bytes`.

            async with sink.open("log.txt") as writer:
                await writer.write(b"…")
            writer.receipt

        The object is published at the end of the block, as by `put_stream`, and not at all where an exception ends it.
        Errors are raised by entering, `write` and the end of the block; see `ObjectWriter` and `put_stream`.
        """
        return ObjectWriter(lambda: self._session.taking_contents().open(key, options), self._session.check_here)

    def stats(self) -> SinkStats:
        """The figures of this moment, in any thread; after the end, the last ones. Takes some microseconds."""
        return self._session.stats()

    def events(self, *, requests: bool = False) -> Subscription:
        """Events from now on, until the sink is closed, or `aclose()` of the result is called. The first reader gets
        earlier notices too.

        Args:
            requests: with an event Requested for each request to S3. Of these, a reader that is behind misses some.

        Every reader gets every event. A slow reader slows the sink down, and loses nothing; one that takes nothing for
        30 seconds while 1,000 events wait gets an AsyncSinkError at the end, and the sink continues without it.

        Raises:
            ConfigError: the sink was opened in another process or event loop; reading raises it likewise.
        """
        self._session.check_here()
        return self._session.events.subscribe(requests=requests)


AsyncSink.__doc__ = with_options(AsyncSink.__doc__, ExportOptions, "export")
