"""Nipype's S3DataGrabber on asyncsink: the same inputs and outputs, without boto."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from nipype.interfaces import io as nio
from nipype.interfaces.base import Directory, Str, isdefined

from asyncsink.adapters.nipype_inputs import check_value, help_page, shown_help, trait_of
from asyncsink.download.options import parse_grab
from asyncsink.download.report import GrabReport
from asyncsink.engine.progress.logged import ProgressLog
from asyncsink.errors import ConfigError
from asyncsink.event_loops import run_to_end
from asyncsink.grabber import S3Grabber
from asyncsink.options.schema import GRAB_OPTIONS

NipypeS3DataGrabber = nio.S3DataGrabber
"""Nipype's own class, also after `install()` has replaced it."""

_SAID_OTHERWISE = ("anonymous", "bucket", "infields", "outfields", "sse")
OUR_GRAB_OPTIONS = tuple(
    name
    for name in GRAB_OPTIONS
    if name not in (*nio.S3DataGrabberInputSpec().copyable_trait_names(), "field_template", *_SAID_OTHERWISE)
)
"""Options that asyncsink adds, without a customer key (`sse`): Nipype would write it to hash and crash files."""

log = logging.getLogger("nipype.interface")


class Grabbing:
    """Mixin that makes a subclass of Nipype's S3DataGrabber grab with asyncsink.

    Attributes:
        report: the GrabReport of the latest run in this process, or None. Copies and pickles of the interface leave it
            out.
    """

    inputs: Any
    report: GrabReport | None = None
    _pkg = "asyncsink"
    _infields: list[str] | None
    _installed: Mapping[str, Any] = {}

    def _list_outputs(self) -> dict[str, Any]:
        """Grab, and list the local files of every output field. Works in any thread and beside a running event loop.

        Raises:
            ConfigError: an input is missing, or its value cannot be used; nothing was sent.
            SourceMissing: a template finds nothing, and raise_on_empty is True; nothing was received.
            TransferError: the bucket cannot be listed.
            GrabFailed: an object was not grabbed; the message names the first.
        """
        source, directory, options = grab_arguments(self.inputs, self._infields or [], self._installed)
        report = self.report = _logged_grab(S3Grabber(source, directory, **options))
        for line in report.brief().splitlines():
            log.info("%s", line)
        report.raise_for_failures()
        return dict(report.outputs)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy or pickle of the interface, without the report, which reads from a file of this
        process."""
        return {name: value for name, value in self.__dict__.items() if name != "report"}


def _logged_grab(grabber: S3Grabber) -> GrabReport:
    """`grab_sync`, with its notices and its progress in Nipype's log."""

    async def run() -> GrabReport:
        with ProgressLog(log) as logged:
            return await grabber.run(observe=logged.observe, progress=logged.progress)

    return run_to_end(run)


def grab_arguments(inputs: Any, infields: list[str], installed: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Source, directory and options for the grab of an S3DataGrabber with these inputs.

    Args:
        inputs: S3DataGrabber's input spec, with or without asyncsink's options.
        infields: names that are inputs of the templates, also where they are names of options.
        installed: options for every grabber; inputs go first.

    Raises:
        ConfigError: an input is missing, or names no output.
    """
    for name in infields:
        if not isdefined(getattr(inputs, name)):
            raise ConfigError(f"S3DataGrabber requires a value for input {name!r} because it was listed in 'infields'.")
    if not isdefined(inputs.local_directory):
        raise ConfigError("local_directory is not given; expected the directory that the files are to be grabbed into.")
    if not inputs.template_args:
        raise ConfigError("template_args names no output; expected {'outfiles': [['subject_id']]}, or leave it alone.")
    there = set(inputs.copyable_trait_names()).difference(infields)
    options = {name: getattr(inputs, name) for name in OUR_GRAB_OPTIONS if name in there}
    options = {**installed, **{name: value for name, value in options.items() if isdefined(value)}}
    # Nipype's own default was not set by the user, and was never used: the environment or the profile goes first.
    if isdefined(inputs.region) and inputs.region != inputs.trait("region").default:
        options["region"] = inputs.region
    if inputs.anon:
        options["anonymous"] = True
    arguments = {field: [list(each) for each in lists] for field, lists in inputs.template_args.items()}
    templates = inputs.field_template if isdefined(inputs.field_template) else {}
    options |= {
        "template": inputs.template,
        # A field that template_args does not name is no output, in Nipype too.
        "field_template": {field: text for field, text in templates.items() if field in arguments},
        "template_args": arguments,
        "infields": _values(inputs, infields, arguments),
        "raise_on_empty": inputs.raise_on_empty,
        "sort_filelist": inputs.sort_filelist,
    }
    options.setdefault("match", "start")
    return f"s3://{inputs.bucket}/{inputs.bucket_path}", inputs.local_directory, options


def _values(inputs: Any, infields: list[str], arguments: Mapping[str, list[list[Any]]]) -> dict[str, Any]:
    """The values of the inputs that arguments name: infields, and others of S3DataGrabber, but none of asyncsink.

    Raises:
        ConfigError: an argument names an input that has no value.
    """
    names = {each for lists in arguments.values() for one in lists for each in one if isinstance(each, str)}
    known = set(inputs.copyable_trait_names()).difference(OUR_GRAB_OPTIONS).union(infields)
    values = {name: getattr(inputs, name) for name in names & known}
    for name, value in values.items():
        if not isdefined(value):
            raise ConfigError(f"template_args names the input {name!r}, which has no value; give it one.")
    return values


class S3DataGrabberInputSpec(nio.S3DataGrabberInputSpec):
    """S3DataGrabber's inputs, and asyncsink's options as further ones (see `asyncsink.GrabOptions`).

    A name that `infields` lists is an input of the templates, also where it is the name of an option of asyncsink.
    """

    def __setattr__(self, key: str, value: Any) -> None:
        """As Nipype's.

        Raises:
            InputRefused: an option does not take this value; a ConfigError and a TraitError.
        """
        if key in OUR_GRAB_OPTIONS and key not in (getattr(self, "_infields", None) or ()):
            check_value(key, value, partial(parse_grab, "s3://bucket/prefix", "/grabbed"))
        super().__setattr__(key, value)

    region = Str(desc="Region of the bucket; where it is not given, what the environment or the profile says")
    local_directory = Directory(desc="Directory that the files are grabbed into; made where it is missing")


for _name in OUR_GRAB_OPTIONS:
    S3DataGrabberInputSpec.add_class_trait(_name, trait_of(GRAB_OPTIONS[_name]))


class S3DataGrabber(Grabbing, nio.S3DataGrabber):
    """Brings objects from S3 into a directory; to be used like `nipype.interfaces.io.S3DataGrabber`.

        grabber = Node(S3DataGrabber(infields=["subject"], outfields=["func", "anat"]), name="grabber")
        grabber.inputs.bucket, grabber.inputs.bucket_path = "openneuro", "ds000101"
        grabber.inputs.template = "*"
        grabber.inputs.field_template = {"func": "%s/func/.*_bold.nii.gz", "anat": "%s/anat/%s_T1w.nii.gz"}
        grabber.inputs.template_args = {"func": [["subject"]], "anat": [["subject", "subject"]]}
        grabber.inputs.local_directory, grabber.inputs.sort_filelist = "/data", True

    Templates are regular expressions that a key begins with, as in Nipype; `match="full"` asks for the whole key, and
    `template_syntax="glob"` for globs. What differs: only keys below the templates' prefixes are listed; objects are
    received at once, in ranges where they are large, and proven by their checksums; what is here and identical is not
    received again; a subject for which nothing is found leaves None in its place, not an empty output.
    """

    input_spec = S3DataGrabberInputSpec

    @classmethod
    def help(cls, returnhelp: bool = False) -> str | None:
        """Print, or return, what the interface does, its inputs by subject, and an example."""
        theirs = {
            "bucket": ("text", "Name of the bucket."),
            "bucket_path": ("text", "Prefix in the bucket, to which templates are relative (default none)."),
            "local_directory": ("path of a directory", "Where the files go; made where it is missing."),
            "anon": ("True or False", "Send unsigned requests: for public buckets (default False)."),
            "any name of infields": ("text, or a list of texts", "What fills the %s of templates, by template_args."),
        }
        result = (
            "One for each name of outfields: a path, a list of paths, or a list of these for each subject; None where "
            "nothing was found and raise_on_empty is False."
        )
        names = [*OUR_GRAB_OPTIONS, "template", "field_template", "template_args", "raise_on_empty", "sort_filelist"]
        options = {name: option for name, option in GRAB_OPTIONS.items() if name in (*names, "region")}
        return shown_help(help_page(S3DataGrabber.__doc__ or "", theirs, options, result), returnhelp=returnhelp)
