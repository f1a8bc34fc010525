"""DataSink and S3DataGrabber for code that cannot be edited: `install()` puts them in the place of Nipype's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from nipype.interfaces import io as nio

from asyncsink.adapters.nipype_arguments import OUR_OPTIONS, check_option
from asyncsink.adapters.nipype_datasink import Exporting, NipypeDataSink
from asyncsink.adapters.nipype_grabber import Grabbing, NipypeS3DataGrabber
from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names
from asyncsink.options.schema import GRAB_OPTIONS, ExportOptions


class DataSink(Exporting, NipypeDataSink):
    """Nipype's DataSink with Nipype's inputs only: code that does not know asyncsink's options may use their names
    (`metadata`, `region`, …) for outputs. The options that `install` was given stay with every sink made after it."""

    input_spec = nio.DataSinkInputSpec

    _options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **inputs: Any) -> None:
        # Of the instance, so that they come along where a sink is unpickled in another process.
        self._installed = dict(type(self)._options)
        super().__init__(*args, **inputs)


class S3DataGrabber(Grabbing, NipypeS3DataGrabber):
    """Nipype's S3DataGrabber with Nipype's inputs only; what `install` was given says how to reach the bucket."""

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

    Call it before workflows are built: interfaces that exist keep what they are, and so does code that is yet to take
    Nipype's own from elsewhere (a subclass, a name of its own). Called again, it replaces the options.

    Args:
        options: asyncsink's own, for every sink, such as `endpoint_url`, `overwrite` or `concurrency`; what DataSink
            has an input for is given there. Those that a grab has too are every grabber's as well.

    Raises:
        ConfigError: an option does not exist, is an input of DataSink, or may not stand in Nipype's files.
    """
    check_option_names(options)
    for name, value in options.items():
        if name not in OUR_OPTIONS:
            raise ConfigError(f"install takes no {name!r}: it is an input of DataSink; set it on each sink.")
        check_option(name, value)
    DataSink._options = dict(options)
    # The kinds of `sse` that may stand here need nothing for reading.
    S3DataGrabber._options = {n: value for n, value in options.items() if n in GRAB_OPTIONS and n != "sse"}
    for name, theirs, ours in _PLACES:
        _put_in_place(name, theirs, ours)


def uninstall() -> None:
    """Put Nipype's own back, in every module. Harmless where they are in place."""
    for name, theirs, ours in _PLACES:
        _put_in_place(name, ours, theirs)


def _put_in_place(name: str, old: type, new: type) -> None:
    setattr(nio, name, new)
    for module_name, module in list(sys.modules.items()):
        # Its own dictionary only: asking a module that imports lazily would import what is not wanted.
        names = getattr(module, "__dict__", {})
        if names.get(name) is old and module_name != __name__:
            names[name] = new
