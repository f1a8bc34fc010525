"""Nipype's DataSink on asyncsink: the same inputs, the same `out_file`, the same failures as Nipype sees them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from nipype.interfaces import io as nio
from nipype.interfaces.base import isdefined

from asyncsink.adapters.nipype_arguments import ExportArguments, export_arguments, make_empty_directories
from asyncsink.adapters.nipype_inputs import (
    OF_WHOLE_EXPORTS,
    OUR_OPTIONS,
    check_no_output,
    check_option,
    check_value,
    help_page,
    shown_help,
    trait_of,
)
from asyncsink.destinations.opening import settings_of
from asyncsink.engine.export import run_source
from asyncsink.engine.progress.logged import ProgressLog
from asyncsink.errors import AsyncSinkError, ConfigError, CredentialsError
from asyncsink.event_loops import run_to_end
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import OPTIONS
from asyncsink.report.report import Report
from asyncsink.report.sentences import inert
from asyncsink.sources.opening import given_source

if TYPE_CHECKING:
    from asyncsink.options.typed import ExportOptions

SKIPS_SHOWN = 5
_MORE_HELP = """What happens is in Nipype's log (nipype.interface): notices, a line every 30 seconds while it runs, and
the result. After a run in this process, sink.interface.report is the Report, with a receipt of every object.

Often used: manifest="…/sub-01.jsonl" writes the receipts to a file, for `asyncsink verify`; exclude=["*.tmp"] leaves
files out; endpoint_url="https://…" is for servers other than Amazon's."""
NipypeDataSink = nio.DataSink
"""Nipype's own class, also after `install()` has replaced it."""

log = logging.getLogger("nipype.interface")


class Exporting:
    """Mixin that makes a subclass of Nipype's DataSink publish with asyncsink.

    Attributes:
        report: the Report of the latest run in this process, or None. Copies and pickles of the interface leave it out.
    """

    inputs: Any
    report: Report | None = None
    _installed: Mapping[str, Any] = {}

    def _list_outputs(self) -> dict[str, list[str]]:
        """Publish, and list what DataSink lists (rule 34). Works in any thread and beside a running event loop.

        Raises:
            ConfigError, SourceError, TransferError: the run could not start; nothing was sent.
            ExportFailed: something was not published, or not copied; the message names the first.
        """
        arguments = export_arguments(self.inputs, self._installed)
        report = self.report = _export(arguments)
        _tell(report)
        report.raise_for_failures()
        make_empty_directories(arguments.outputs, arguments.base_directory, arguments.options)
        return {"out_file": report.out_file}

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy or pickle of the interface: every node of a workflow is copied, and written to its
        folder.

        Raises:
            ConfigError: `bucket` is a boto3 Bucket, which can be neither copied nor pickled (Nipype's own recurses).
        """
        bucket = self.inputs.bucket
        if isdefined(bucket) and bucket is not None and not isinstance(bucket, str):
            raise ConfigError(
                f"bucket is a {type(bucket).__name__} object, which cannot be copied into a workflow; give the "
                "bucket's name, and what it needs besides: endpoint_url, region, profile or creds_path."
            )
        # Without the report, which reads from a file of this process.
        return {name: value for name, value in self.__dict__.items() if name != "report"}


class DataSinkInputSpec(nio.DataSinkInputSpec):
    """DataSink's inputs, and asyncsink's options as further ones (see `asyncsink.ExportOptions`).

    A name that `infields` lists is an output, also where it is the name of an option of asyncsink. A relative
    `manifest` or `journal` is written to the folder of each node, so that sinks made by iterables do not share one.
    """

    def __setattr__(self, key: str, value: Any) -> None:
        """As Nipype's: a name that is no input becomes an output.

        Raises:
            ConfigError: a customer key is given for `sse`, or a path to an option that takes none.
            InputRefused: the option does not take this value; a ConfigError and a TraitError.
        """
        if key not in self._outputs:
            check_option(key, value)
            if key in OUR_OPTIONS:
                check_no_output(key, value)
                check_value(key, value, partial(parse_options, "s3://bucket/prefix"))
        super().__setattr__(key, value)


for _name in OUR_OPTIONS:
    DataSinkInputSpec.add_class_trait(_name, trait_of(OPTIONS[_name]))


class DataSink(Exporting, nio.DataSink):
    """Publishes workflow outputs to S3 or to a directory; to be used like `nipype.interfaces.io.DataSink`.

        sink = Node(DataSink(base_directory="s3://bucket/prefix", encrypt_bucket_keys=True), name="sink")
        workflow.connect(realigner, "realigned_files", sink, "motion")
        workflow.connect(contrasts, "con_images", sink, "contrasts.@con")

    On every input with which Nipype's DataSink succeeds without losing or misplacing data, keys, bytes, local files and
    `out_file` are the same. What differs: several files travel at once; an unchanged file of any size is not sent
    again; every object is confirmed by its checksum; what cannot be published raises before anything is sent, or fails
    the node with a sentence.
    """

    input_spec = DataSinkInputSpec

    @classmethod
    def help(cls, returnhelp: bool = False) -> str | None:
        """Print, or return, what the interface does, its inputs by subject, and an example."""
        page = help_page(
            f"{inspect.cleandoc(DataSink.__doc__ or '')}\n\n{_MORE_HELP}",
            {
                "base_directory": (
                    "text",
                    "Where to: s3://bucket/prefix, or a local directory (default the current one).",
                ),
                "any other name": (
                    "path, or a list of paths",
                    'An output: sink.inputs.motion = files, or a connection to "motion". In "a.b.@c", dots are '
                    "folders, and a part that begins with @ is left out.",
                ),
            },
            {name: option for name, option in OPTIONS.items() if name not in OF_WHOLE_EXPORTS},
            "out_file: list of texts. For each source its URL on S3, then the path of its local copy.",
        )
        return shown_help(page, returnhelp=returnhelp)


def _export(arguments: ExportArguments) -> Report:
    options = arguments.options
    try:
        return _logged_export(arguments, options)
    except CredentialsError as error:
        if any(options.get(name) for name in ("anonymous", "creds_path", "profile", "bucket")):
            raise
        log.warning("%s The bucket is tried without, as DataSink does (rule 45).", error)
        try:
            return _logged_export(arguments, {**options, "anonymous": True})
        except AsyncSinkError:
            raise error from None


def _logged_export(arguments: ExportArguments, options: Mapping[str, Any]) -> Report:
    """`export_sync`, with its notices and its progress in Nipype's log."""
    settings = settings_of(arguments.base_directory, None, cast("ExportOptions", options))
    source = given_source(arguments.outputs, None, settings)

    async def run() -> Report:
        with ProgressLog(log) as logged:
            return await run_source(
                settings, source, observe=logged.observe, failures_only=True, progress=logged.progress
            )

    return run_to_end(run)


def _tell(report: Report) -> None:
    log.info("%s", report.headline())
    left_out = list(islice((skip for skip in report.skips if not skip.already_there), SKIPS_SHOWN + 1))
    for skip in left_out[:SKIPS_SHOWN]:
        log.warning("Not published: %r (%s).", skip.source, inert(skip.reason))
    if len(left_out) > SKIPS_SHOWN:
        log.warning("Not published: and more; the report of the interface, or a manifest, has them all.")
