"""DataSink for code that cannot be edited: `install()` puts it in the place of Nipype's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from nipype.interfaces import io as nio

from asyncsink.adapters.nipype_arguments import OUR_OPTIONS, check_option
from asyncsink.adapters.nipype_datasink import Exporting, NipypeDataSink
from asyncsink.errors import ConfigError
from asyncsink.option_names import ExportOptions, check_option_names


class DataSink(Exporting, NipypeDataSink):
    """Nipype's DataSink with Nipype's inputs only: code that does not know asyncsink's options may use their names
    (`metadata`, `region`, …) for outputs. The options that `install` was given stay with every sink made after it."""

    input_spec = nio.DataSinkInputSpec

    _options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *args: Any, **inputs: Any) -> None:
        # Of the instance, so that they come along where a sink is unpickled in another process.
        self._installed = dict(type(self)._options)
        super().__init__(*args, **inputs)


def install(**options: Unpack[ExportOptions]) -> None:
    """Make `nipype.interfaces.io.DataSink` publish with asyncsink, in every module that has it by that name.

    Call it before workflows are built: sinks that exist keep what they are, and so does code that is yet to take
    Nipype's own from elsewhere (a subclass, a name of its own). Called again, it replaces the options.

    Args:
        options: asyncsink's own, for every sink, such as `endpoint_url`, `overwrite` or `concurrency`; what DataSink
            has an input for is given there.

    Raises:
        ConfigError: an option does not exist, is an input of DataSink, or may not stand in Nipype's files.
    """
    check_option_names(options)
    for name, value in options.items():
        if name not in OUR_OPTIONS:
            raise ConfigError(f"install takes no {name!r}: it is an input of DataSink; set it on each sink.")
        check_option(name, value)
    DataSink._options = dict(options)
    _put_in_place(NipypeDataSink, DataSink)


def uninstall() -> None:
    """Put Nipype's own DataSink back, in every module. Harmless where it is in place."""
    _put_in_place(DataSink, NipypeDataSink)


def _put_in_place(old: type, new: type) -> None:
    nio.DataSink = new
    for module_name, module in list(sys.modules.items()):
        # Its own dictionary only: asking a module that imports lazily would import what is not wanted.
        names = getattr(module, "__dict__", {})
        if names.get("DataSink") is old and module_name != __name__:
            names["DataSink"] = new
