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
    from asyncsink.download.report import GrabReport
    from asyncsink.errors import (
        AsyncSinkError,
        ConfigError,
        CredentialsError,
        ExportFailed,
        GrabFailed,
        IntegrityError,
        InvalidKey,
        JournalError,
        KeyCollision,
        PermanentError,
        RetryableError,
        RoutingError,
        SourceChanged,
        SourceError,
        SourceMissing,
        SourceUnreadable,
        TransferError,
    )
    from asyncsink.grabber import S3Grabber, grab, grab_sync
    from asyncsink.maintenance.abort_uploads import AbandonedUpload, AbortReport, abort_uploads
    from asyncsink.maintenance.merge import MergeReport, merge_manifests
    from asyncsink.maintenance.verify import VerifyReport, verify_manifest
    from asyncsink.model import (
        Checksum,
        Failure,
        Finished,
        GaveUp,
        LimitChanged,
        Notice,
        Paused,
        Planned,
        Receipt,
        Resumable,
        Resumed,
        Skip,
        Started,
    )
    from asyncsink.options.schema import ExportOptions, GrabOptions
    from asyncsink.options.settings import RetryPolicy
    from asyncsink.report.report import Report
    from asyncsink.sink import AsyncSink, export, export_directory, export_sync
    from asyncsink.splitting.publish import run_part
    from asyncsink.splitting.split import split
    from asyncsink.splitting.split_report import SplitReport

_HOMES = {
    "asyncsink.options.settings": ("RetryPolicy",),
    "asyncsink.maintenance.abort_uploads": ("AbandonedUpload", "AbortReport", "abort_uploads"),
    "asyncsink.maintenance.merge": ("MergeReport", "merge_manifests"),
    "asyncsink.maintenance.verify": ("VerifyReport", "verify_manifest"),
    "asyncsink.errors": (
        "AsyncSinkError",
        "ConfigError",
        "CredentialsError",
        "ExportFailed",
        "GrabFailed",
        "IntegrityError",
        "InvalidKey",
        "JournalError",
        "KeyCollision",
        "PermanentError",
        "RetryableError",
        "RoutingError",
        "SourceChanged",
        "SourceError",
        "SourceMissing",
        "SourceUnreadable",
        "TransferError",
    ),
    "asyncsink.grabber": ("S3Grabber", "grab", "grab_sync"),
    "asyncsink.download.report": ("GrabReport",),
    "asyncsink.model": (
        "Checksum",
        "Failure",
        "Finished",
        "GaveUp",
        "LimitChanged",
        "Notice",
        "Paused",
        "Planned",
        "Receipt",
        "Resumable",
        "Resumed",
        "Skip",
        "Started",
    ),
    "asyncsink.options.schema": ("ExportOptions", "GrabOptions"),
    "asyncsink.report.report": ("Report",),
    "asyncsink.sink": ("AsyncSink", "export", "export_directory", "export_sync"),
    "asyncsink.splitting.publish": ("run_part",),
    "asyncsink.splitting.split": ("split",),
    "asyncsink.splitting.split_report": ("SplitReport",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 - the names are the table's, so that they cannot drift apart
    *sorted(_HOME_OF)
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: `import asyncsink` alone costs next to nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'asyncsink' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
