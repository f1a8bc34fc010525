"""What a grab is told: S3DataGrabber's names and ours, checked before anything is asked for."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from asyncsink.errors import ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import (
    AddressingStyle,
    LaneChoice,
    LocalTarget,
    RetryPolicy,
    S3Target,
    Settings,
    SignPayload,
)
from asyncsink.options.values import choice_of, flag_of, text_of
from asyncsink.paths import as_text
from asyncsink.routing.keys import show
from asyncsink.routing.templates import Field, Match, TemplateSyntax, covering, plan_fields
from asyncsink.value import dataclass


class GrabOptions(TypedDict, total=False):
    """The public options of a grab, with their defaults. S3DataGrabber's own names keep their meaning.

    Which objects (none of these: everything below the source)
        template: pattern of the keys below the source, the same for every field; None.
        field_template: {field: template}, for fields with one of their own; None.
        template_args: {field: [[argument, …], …]}: each list fills the template's %s once; an argument that is the
            name of an infield stands for its value; None is all infields, in order.
        infields: {name: value or list of values}; lists are gone through together; None.
        outfields: names of the outputs; None is those of template_args and field_template, else "outfiles".
        template_syntax: "regex", or "glob" (*, ?, [abc], and ** for any folders).
        match: "full", or "start": a regular expression need only match the key's beginning, as S3DataGrabber has it.
        raise_on_empty: a template (or the source) without objects is an error; True.
        sort_filelist: sort what a template found, run-2 before run-10; True.
    Connection and credentials, limits
        endpoint_url, region, profile, creds_path, anonymous, bucket, request_payer, addressing_style, sign_payload,
        ca_bundle, transport, concurrency, part_size_bytes, memory_bytes, retry, retries,
        give_up_after_seconds: as in ExportOptions; larger objects are received in ranges of part_size_bytes.
        sse: your own key of 32 bytes, where the objects are encrypted with it; None.
    """

    template: str | None
    field_template: Mapping[str, str] | None
    template_args: Mapping[str, Sequence[Sequence[Any]]] | None
    infields: Mapping[str, Any] | None
    outfields: Sequence[str] | None
    template_syntax: TemplateSyntax
    match: Match
    raise_on_empty: bool
    sort_filelist: bool
    endpoint_url: str | None
    region: str | None
    profile: str | None
    creds_path: Any
    anonymous: bool
    bucket: Any
    request_payer: bool | str | None
    addressing_style: AddressingStyle
    sign_payload: SignPayload
    ca_bundle: Any
    transport: LaneChoice
    concurrency: int | str | None
    part_size_bytes: int | str
    memory_bytes: int | str
    retry: RetryPolicy
    retries: int
    give_up_after_seconds: float | str | timedelta
    sse: bytes | None


GRAB_OPTION_NAMES: tuple[str, ...] = tuple(GrabOptions.__annotations__)
_OWN = GRAB_OPTION_NAMES[: GRAB_OPTION_NAMES.index("endpoint_url")]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrabSettings:
    """A checked grab.

    Attributes:
        settings: bucket, prefix, connection, limits.
        directory: absolute path.
        fields: the outputs; () grabs everything below the prefix.
        with_arguments: fields whose output lists one entry for each argument list.
        raise_on_empty, sort_filelist: as in GrabOptions.
        names_folder: the source ends with "/", so that it stands for what is below it and for no object.
    """

    settings: Settings
    directory: str
    fields: tuple[Field, ...]
    with_arguments: frozenset[str]
    raise_on_empty: bool
    sort_filelist: bool
    names_folder: bool = False

    @property
    def target(self) -> S3Target:
        """The bucket and the prefix."""
        assert isinstance(self.settings.target, S3Target)
        return self.settings.target

    @property
    def base(self) -> str:
        """What is left out of a key to give its path: the prefix with its "/", or ""."""
        return f"{self.target.prefix}/" if self.target.prefix else ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What has to be listed: at least one prefix, also where no field asks for anything."""
        return covering(pattern.prefix for field in self.fields for pattern in field.patterns) or (self.base,)


def parse_grab(source: Any, directory: Any, options: GrabOptions | Mapping[str, Any]) -> GrabSettings:
    """Check every option. Nothing is read or sent.

    Raises:
        ConfigError: the first thing that is wrong, in one sentence.
    """
    given: dict[str, Any] = dict(options)
    for name in given:
        if name not in GRAB_OPTION_NAMES:
            near = difflib.get_close_matches(name, GRAB_OPTION_NAMES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{name!r} is no option of a grab.{hint}")
    if given.get("sse") is not None and not isinstance(given["sse"], (bytes, bytearray)):
        raise ConfigError("sse is no key; a grab takes a customer key of 32 bytes, and needs nothing for other kinds.")
    settings = parse_options(_source(source), {name: value for name, value in given.items() if name not in _OWN})
    if isinstance(settings.target, LocalTarget):
        raise ConfigError(f"The source {settings.target.url!r} is a local directory; expected s3://bucket/prefix.")
    fields, with_arguments = _fields(given, settings.target.prefix)
    return GrabSettings(
        settings=settings,
        directory=_directory(directory),
        fields=fields,
        with_arguments=with_arguments,
        raise_on_empty=flag_of(given, "raise_on_empty", True),
        sort_filelist=flag_of(given, "sort_filelist", True),
        names_folder=os.fspath(source).endswith("/"),
    )


def _source(source: Any) -> Any:
    try:
        text = os.fspath(source)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("The source of a grab is no text; expected s3://bucket/prefix.")
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
    template = text_of(given, "template")
    field_template = _mapping(given, "field_template")
    arguments = _mapping(given, "template_args")
    infields = _mapping(given, "infields")
    outfields = given.get("outfields") or ()
    if not _is_list(outfields) or not all(isinstance(name, str) for name in outfields):
        raise ConfigError("outfields is no list of names; expected ['func', 'anat'].")
    if given.get("template") is not None and not template and not field_template:
        raise ConfigError("template is empty; leave it out to grab everything below the source, or give a pattern.")
    if not template and not field_template:
        if arguments or infields or outfields:
            raise ConfigError("template_args, infields and outfields need a template; give template or field_template.")
        return (), frozenset()
    for field, lists in arguments.items():
        if not _is_list(lists) or not all(_is_list(each) for each in lists):
            raise ConfigError(f"template_args[{field!r}] is no list of lists; expected [['sub-01', 'run-1'], …].")
    if not all(isinstance(text, str) for text in field_template.values()):
        raise ConfigError("field_template holds something that is no text; expected {'func': 'sub-%s/func/.*'}.")
    fields = plan_fields(
        prefix,
        template=template,
        field_template=field_template,
        template_args=arguments,
        infields=infields,
        outfields=list(outfields),
        syntax=choice_of(given, "template_syntax", "regex", TemplateSyntax),
        match=choice_of(given, "match", "full", Match),
    )
    filled = {f.name for f in fields if arguments.get(f.name, infields)}
    return fields, frozenset(filled)


def _mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is no mapping of names; expected {{'name': …}}.")
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))
