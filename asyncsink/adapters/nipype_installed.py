"""DataSink and S3DataGrabber for code that cannot be edited: `install()` replaces Nipype's own by them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Unpack

from nipype.interfaces import io as nio

from asyncsink.adapters.nipype_datasink import Exporting, NipypeDataSink
from asyncsink.adapters.nipype_grabber import Grabbing, NipypeS3DataGrabber
from asyncsink.adapters.nipype_inputs import OUR_OPTIONS, check_option, check_value
from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import GRAB_OPTIONS
from asyncsink.options.typed import ExportOptions


class DataSink(Exporting, NipypeDataSink):
    """Nipype's DataSink with Nipype's inputs only: code written without asyncsink may use the names of its options
    (`metadata`, `region`, …) for outputs. Every sink made after `install` keeps the options given there."""

    input_spec = nio.DataSinkInputSpec

    _options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **inputs: Any) -> None:
        # In the instance, so that a sink which is unpickled in another process has them.
        self._installed = dict(type(self)._options)
        super().__init__(*args, **inputs)


class S3DataGrabber(Grabbing, NipypeS3DataGrabber):
    """Nipype's S3DataGrabber with Nipype's inputs only; the options given to `install` say how to reach the bucket."""

    input_spec = nio.S3DataGrabberInputSpec

    _options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **inputs: Any) -> None:
        self._installed = dict(type(self)._options)
        super().__init__(*args, **inputs)


_PLACES: tuple[tuple[str, type, type], ...] = (
    ("DataSink", NipypeDataSink, DataSink),
    ("S3DataGrabber", NipypeS3DataGrabber, S3DataGrabber),
)


def install(**options: Unpack[ExportOptions]) -> None:
    """Make `nipype.interfaces.io.DataSink` and `.S3DataGrabber` use asyncsink, in every module that has them by name.

    Call it before workflows are built: existing interfaces do not change, nor does code that gets Nipype's own class in
    another way (a subclass, a name of its own). Called again, it replaces the options.

    Args:
        options: asyncsink's own, for every sink, such as `endpoint_url`, `overwrite` or `concurrency`; options that are
            inputs of DataSink are given there. Those that a grab has too are for every grabber as well.

    Raises:
        ConfigError: an option does not exist, is an input of DataSink, or may not stand in Nipype's files.
    """
    check_option_names(options)
    for name, value in options.items():
        if name not in OUR_OPTIONS:
            raise ConfigError(f"install takes no {name!r}: it is an input of DataSink; set it on each sink.")
        check_option(name, value)
        check_value(name, value, partial(parse_options, "s3://bucket/prefix"))
    DataSink._options = dict(options)
    # The kinds of `sse` that are allowed here need nothing for reading.
    S3DataGrabber._options = {n: value for n, value in options.items() if n in GRAB_OPTIONS and n != "sse"}
    for name, theirs, ours in _PLACES:
        _put_in_place(name, theirs, ours)


def uninstall() -> None:
    """Put Nipype's own classes back, in every module. Harmless where they are in place."""
    for name, theirs, ours in _PLACES:
        _put_in_place(name, ours, theirs)


def _put_in_place(name: str, old: type, new: type) -> None:
    setattr(nio, name, new)
    for module_name, module in list(sys.modules.items()):
        # The dictionary only: getattr on a module with lazy imports would import more modules.
        names = getattr(module, "__dict__", {})
        if names.get(name) is old and module_name != __name__:
            names[name] = new
