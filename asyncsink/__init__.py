"""Publish the outputs of workflows to S3: asynchronous, in bounded memory, with proof for every object.

report = await asyncsink.export({"motion": paths}, "s3://bucket/prefix", container="sub001")
report = asyncsink.export_sync(…)                       # the same without an event loop, or inside Jupyter's
report = await asyncsink.export_directory("outputs/", "s3://bucket/prefix", local_copy="backup/")

async with asyncsink.AsyncSink("s3://bucket/prefix") as sink:
    receipt = await sink.put("motion", path)            # returns when it is published
    await sink.submit("contrasts.@con", paths)          # returns when it is queued

report.raise_for_failures()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncsink.download.object_stream import ObjectStream
    from asyncsink.download.objects import ObjectContent, ObjectEntry, ObjectInfo
    from asyncsink.download.report import GrabReport
    from asyncsink.engine.content.object_writer import AsyncReader, ObjectWriter
    from asyncsink.errors import (
        AccessDenied,
        AlreadyThere,
        AsyncSinkError,
        BucketMissing,
        ClockSkew,
        ConfigError,
        ConnectionLost,
        CredentialsError,
        DeadlinePassed,
        DestinationFull,
        EntityTooLarge,
        ExpiredCredentials,
        ExportFailed,
        GrabFailed,
        IntegrityError,
        InvalidKey,
        JournalError,
        KeyCollision,
        ObjectMissing,
        PartsRefused,
        PermanentError,
        PreconditionFailed,
        PutFailed,
        RequestTimeout,
        RetryableError,
        RoutingError,
        ServerFault,
        SourceChanged,
        SourceError,
        SourceMissing,
        SourceUnreadable,
        Stalled,
        Throttled,
        TransferError,
        UploadConflict,
        UploadMissing,
        WrongRegion,
    )
    from asyncsink.grabber import S3Grabber, grab, grab_sync
    from asyncsink.maintenance.abort_uploads import AbandonedUpload, AbortReport, abort_uploads
    from asyncsink.maintenance.explaining import Explanation
    from asyncsink.maintenance.merge import MergeReport, merge_manifests
    from asyncsink.maintenance.planner import explain, plan, plan_sync
    from asyncsink.maintenance.verify import verify_manifest
    from asyncsink.maintenance.verify_report import VerifyReport
    from asyncsink.model import (
        Checksum,
        Event,
        Failure,
        Finished,
        GaveUp,
        LimitChanged,
        Notice,
        Outcome,
        Paused,
        Planned,
        Receipt,
        Requested,
        Resumable,
        Resumed,
        Retried,
        Skip,
        Started,
        Unfinished,
    )
    from asyncsink.options.progress import FileInProgress, ProgressSnapshot
    from asyncsink.options.settings import RetryPolicy
    from asyncsink.options.shared_limits import SharedLimits
    from asyncsink.options.typed import ExportOptions, GrabOptions, PutOptions, ReaderOptions
    from asyncsink.reader import S3Reader
    from asyncsink.report.closing import Closing, Deletion, Extraneous
    from asyncsink.report.manifest import ManifestEnd, ManifestHeader, ReceiptManifest, read_manifest
    from asyncsink.report.outcomes import Counts
    from asyncsink.report.plan import PlanFigures
    from asyncsink.report.report import Report, SinkStats
    from asyncsink.routing.tracing import RouteStep
    from asyncsink.sink import AsyncSink, export, export_directory, export_sync
    from asyncsink.splitting.publish import run_part
    from asyncsink.splitting.split import split
    from asyncsink.splitting.split_report import SplitReport
    from asyncsink.sync.reader import SyncObjectStream, SyncReader
    from asyncsink.sync.sink import SyncSink

# Written out, since type checkers take no name from an expression. A test compares the three lists.
__all__ = [
    "AbandonedUpload",
    "AbortReport",
    "AccessDenied",
    "AlreadyThere",
    "AsyncReader",
    "AsyncSink",
    "AsyncSinkError",
    "BucketMissing",
    "Checksum",
    "ClockSkew",
    "Closing",
    "ConfigError",
    "ConnectionLost",
    "Counts",
    "CredentialsError",
    "DeadlinePassed",
    "Deletion",
    "DestinationFull",
    "EntityTooLarge",
    "Event",
    "ExpiredCredentials",
    "Explanation",
    "ExportFailed",
    "ExportOptions",
    "Extraneous",
    "Failure",
    "FileInProgress",
    "Finished",
    "GaveUp",
    "GrabFailed",
    "GrabOptions",
    "GrabReport",
    "IntegrityError",
    "InvalidKey",
    "JournalError",
    "KeyCollision",
    "LimitChanged",
    "ManifestEnd",
    "ManifestHeader",
    "MergeReport",
    "Notice",
    "ObjectContent",
    "ObjectEntry",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStream",
    "ObjectWriter",
    "Outcome",
    "PartsRefused",
    "Paused",
    "PermanentError",
    "PlanFigures",
    "Planned",
    "PreconditionFailed",
    "ProgressSnapshot",
    "PutFailed",
    "PutOptions",
    "ReaderOptions",
    "Receipt",
    "ReceiptManifest",
    "Report",
    "RequestTimeout",
    "Requested",
    "Resumable",
    "Resumed",
    "Retried",
    "RetryPolicy",
    "RetryableError",
    "RouteStep",
    "RoutingError",
    "S3Grabber",
    "S3Reader",
    "ServerFault",
    "SharedLimits",
    "SinkStats",
    "Skip",
    "SourceChanged",
    "SourceError",
    "SourceMissing",
    "SourceUnreadable",
    "SplitReport",
    "Stalled",
    "Started",
    "SyncObjectStream",
    "SyncReader",
    "SyncSink",
    "Throttled",
    "TransferError",
    "Unfinished",
    "UploadConflict",
    "UploadMissing",
    "VerifyReport",
    "WrongRegion",
    "abort_uploads",
    "explain",
    "export",
    "export_directory",
    "export_sync",
    "grab",
    "grab_sync",
    "merge_manifests",
    "plan",
    "plan_sync",
    "read_manifest",
    "run_part",
    "split",
    "verify_manifest",
]

_HOMES = {
    "asyncsink.download.object_stream": ("ObjectStream",),
    "asyncsink.download.objects": ("ObjectContent", "ObjectEntry", "ObjectInfo"),
    "asyncsink.download.report": ("GrabReport",),
    "asyncsink.engine.content.object_writer": ("AsyncReader", "ObjectWriter"),
    "asyncsink.options.progress": ("FileInProgress", "ProgressSnapshot"),
    "asyncsink.maintenance.explaining": ("Explanation",),
    "asyncsink.errors": (
        "AccessDenied",
        "AlreadyThere",
        "AsyncSinkError",
        "BucketMissing",
        "ClockSkew",
        "ConfigError",
        "ConnectionLost",
        "CredentialsError",
        "DeadlinePassed",
        "DestinationFull",
        "EntityTooLarge",
        "ExpiredCredentials",
        "ExportFailed",
        "GrabFailed",
        "IntegrityError",
        "InvalidKey",
        "JournalError",
        "KeyCollision",
        "ObjectMissing",
        "PartsRefused",
        "PermanentError",
        "PreconditionFailed",
        "PutFailed",
        "RequestTimeout",
        "RetryableError",
        "RoutingError",
        "ServerFault",
        "SourceChanged",
        "SourceError",
        "SourceMissing",
        "SourceUnreadable",
        "Stalled",
        "Throttled",
        "TransferError",
        "UploadConflict",
        "UploadMissing",
        "WrongRegion",
    ),
    "asyncsink.grabber": ("S3Grabber", "grab", "grab_sync"),
    "asyncsink.maintenance.abort_uploads": ("AbandonedUpload", "AbortReport", "abort_uploads"),
    "asyncsink.maintenance.merge": ("MergeReport", "merge_manifests"),
    "asyncsink.maintenance.verify": ("verify_manifest",),
    "asyncsink.maintenance.verify_report": ("VerifyReport",),
    "asyncsink.model": (
        "Checksum",
        "Event",
        "Failure",
        "Finished",
        "GaveUp",
        "LimitChanged",
        "Notice",
        "Outcome",
        "Paused",
        "Planned",
        "Receipt",
        "Requested",
        "Resumable",
        "Resumed",
        "Retried",
        "Skip",
        "Started",
        "Unfinished",
    ),
    "asyncsink.options.settings": ("RetryPolicy",),
    "asyncsink.options.typed": ("ExportOptions", "GrabOptions", "PutOptions", "ReaderOptions"),
    "asyncsink.maintenance.planner": ("explain", "plan", "plan_sync"),
    "asyncsink.reader": ("S3Reader",),
    "asyncsink.options.shared_limits": ("SharedLimits",),
    "asyncsink.report.closing": ("Closing", "Deletion", "Extraneous"),
    "asyncsink.report.manifest": ("ManifestEnd", "ManifestHeader", "ReceiptManifest", "read_manifest"),
    "asyncsink.report.outcomes": ("Counts",),
    "asyncsink.report.plan": ("PlanFigures",),
    "asyncsink.report.report": ("Report", "SinkStats"),
    "asyncsink.routing.tracing": ("RouteStep",),
    "asyncsink.sink": ("AsyncSink", "export", "export_directory", "export_sync"),
    "asyncsink.splitting.publish": ("run_part",),
    "asyncsink.splitting.split": ("split",),
    "asyncsink.splitting.split_report": ("SplitReport",),
    "asyncsink.sync.reader": ("SyncObjectStream", "SyncReader"),
    "asyncsink.sync.sink": ("SyncSink",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # with it, a type checker would take every misspelt name for an object of any type

    def __getattr__(name: str) -> Any:
        """Import a public name where it is first used: `import asyncsink` alone costs next to nothing."""
        if name not in _HOME_OF:
            raise AttributeError(f"module 'asyncsink' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
