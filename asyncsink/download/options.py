"""The options of a grab, S3DataGrabber's and asyncsink's, checked before any request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from asyncsink.engine.run_page import RunPage, page_of_run
from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names, parse_options, value_of
from asyncsink.options.schema import GRAB_OPTIONS, OPTIONS, S3Target, Settings
from asyncsink.options.typed import GrabOptions
from asyncsink.paths import as_text
from asyncsink.routing.keys import show
from asyncsink.routing.templates import Field, covering, plan_fields
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GrabSettings:
    """A checked grab.

    Attributes:
        settings: bucket, prefix, connection, limits.
        directory: absolute path.
        fields: the outputs; () grabs everything below the prefix.
        with_arguments: fields whose output lists one entry for each argument list.
        raise_on_empty, sort_filelist: as in GrabOptions.
        manifest: the receipt manifest that proves the bytes, or "".
        names_folder: whether the source ends with "/", so that it stands for the objects below it and for no object.
    """

    settings: Settings
    directory: str
    fields: tuple[Field, ...]
    with_arguments: frozenset[str]
    raise_on_empty: bool
    sort_filelist: bool
    names_folder: bool = False
    manifest: str = ""

    @property
    def target(self) -> S3Target:
        """The bucket and the prefix."""
        assert isinstance(self.settings.target, S3Target)
        return self.settings.target

    @property
    def base(self) -> str:
        """The beginning that a key loses to become a path: the prefix with its "/", or ""."""
        return f"{self.target.prefix}/" if self.target.prefix else ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes to list: at least one, also without any field."""
        return covering(pattern.prefix for field in self.fields for pattern in field.patterns) or (self.base,)


def parse_grab(source: Any, directory: Any, options: GrabOptions | Mapping[str, Any]) -> GrabSettings:
    """Check every option. Nothing is read or sent.

    Raises:
        ConfigError: an option is wrong; one sentence, about the first one.
    """
    given: dict[str, Any] = dict(options)
    check_option_names(given, GRAB_OPTIONS, what="a grab")
    if given.get("sse") is not None and not isinstance(given["sse"], (bytes, bytearray)):
        raise ConfigError(
            "sse is no key; a grab takes a customer key of 32 bytes, and needs nothing for other kinds.", option="sse"
        )
    # An export writes the manifest that a grab reads.
    exported = {name: value for name, value in given.items() if name in OPTIONS and name != "manifest"}
    settings = parse_options(parse_source(source, "a grab"), exported)
    if not isinstance(settings.target, S3Target):
        raise ConfigError(f"The source {settings.target.url!r} is a local directory; expected s3://bucket/prefix.")
    fields, with_arguments = _fields(given, settings.target.prefix)
    return GrabSettings(
        settings=settings,
        directory=_directory(directory),
        fields=fields,
        with_arguments=with_arguments,
        raise_on_empty=value_of(given, "raise_on_empty", GRAB_OPTIONS),
        sort_filelist=value_of(given, "sort_filelist", GRAB_OPTIONS),
        names_folder=os.fspath(source).endswith("/"),
        manifest=value_of(given, "manifest", GRAB_OPTIONS),
    )


def page_of_grab(settings: GrabSettings) -> RunPage | None:
    """The page of a grab, or None where none was asked for."""
    return page_of_run(settings.settings, verb="grab", sources=(settings.target.url,), prefix=settings.base)


def parse_source(source: Any, what: str) -> str:
    """The text of a source: "s3://bucket/prefix". `what` has it, as in "a grab".

    Raises:
        ConfigError: it is no text, or has "//" in its prefix.
    """
    try:
        text = os.fspath(source)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"The source of {what} is no text; expected s3://bucket/prefix.")
    if "//" in text.partition("://")[2]:
        raise ConfigError(
            f'The source {show(text)} has an empty name between slashes ("//"), which S3 keeps apart from a single '
            "slash; write a single one, or copy the objects under another prefix first."
        )
    return text


def _directory(directory: Any) -> str:
    try:
        text = os.fsdecode(os.fspath(directory))
    except TypeError:
        raise ConfigError(f"The directory is of type {type(directory).__name__}; expected a path.") from None
    if not text.strip() or "\0" in text:
        raise ConfigError("The directory is empty or no path; expected one on this machine.")
    if re.match(r"(?i)s3:", text):
        raise ConfigError("The directory is a URL; expected a directory on this machine, after the source.")
    try:
        return as_text(os.path.abspath(os.path.expanduser(text)))
    except UnicodeEncodeError as error:
        raise ConfigError(f"The directory {show(text)} can be no path ({error}); correct it.") from error


def _fields(given: Mapping[str, Any], prefix: str) -> tuple[tuple[Field, ...], frozenset[str]]:
    template = value_of(given, "template", GRAB_OPTIONS)
    field_template = _mapping(given, "field_template")
    arguments = _mapping(given, "template_args")
    infields = _mapping(given, "infields")
    outfields = given.get("outfields") or ()
    if not _is_list(outfields) or not all(isinstance(name, str) for name in outfields):
        raise ConfigError("outfields is no list of names; expected ['func', 'anat'].", option="outfields")
    if given.get("template") is not None and not template and not field_template:
        raise ConfigError(
            "template is empty; leave it out to grab everything below the source, or give a pattern.", option="template"
        )
    if not template and not field_template:
        for name in ("template_args", "infields", "outfields"):
            if given.get(name):
                raise ConfigError(
                    f"{name}= is given without a pattern for it; give template= or field_template=.",
                    option=name,
                )
        return (), frozenset()
    for field, lists in arguments.items():
        if not _is_list(lists) or not all(_is_list(each) for each in lists):
            raise ConfigError(
                f"template_args[{field!r}] is no list of lists; expected [['sub-01', 'run-1'], …].",
                option="template_args",
            )
    if not all(isinstance(text, str) for text in field_template.values()):
        raise ConfigError(
            "field_template holds something that is no text; expected {'func': 'sub-%s/func/.*'}.",
            option="field_template",
        )
    fields = plan_fields(
        prefix,
        template=template,
        field_template=field_template,
        template_args=arguments,
        infields=infields,
        outfields=list(outfields),
        syntax=value_of(given, "template_syntax", GRAB_OPTIONS),
        match=value_of(given, "match", GRAB_OPTIONS),
    )
    filled = {f.name for f in fields if arguments.get(f.name, infields)}
    return fields, frozenset(filled)


def _mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is no mapping of names; expected {{'name': …}}.", option=name)
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))
