"""The types of options and paths as callers write them, for type checkers and `help`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from asyncsink.options.progress import ProgressSnapshot
from asyncsink.options.schema import (
    GRAB_OPTIONS,
    OPTIONS,
    PANELS,
    READER_OPTIONS,
    AddressingStyle,
    Command,
    Compat,
    LaneChoice,
    LocalCopyMode,
    Match,
    OnCollision,
    OnMissing,
    OnUnreachable,
    OnUnreadable,
    Option,
    Overwrite,
    Preset,
    SignPayload,
    Symlinks,
    TemplateSyntax,
)
from asyncsink.options.settings import RetryPolicy
from asyncsink.options.shared_limits import SharedLimits

if TYPE_CHECKING:
    from asyncsink.model import Event  # values carry options

StrPath = str | os.PathLike[str]
"""A path as callers give it."""

Paths = StrPath | Sequence["Paths | None"]
"""Paths as a node of a workflow has them: one, or nested lists."""


class ConnectionOptions(TypedDict, total=False):
    """The options that say how to reach a bucket, and how much at once."""

    endpoint_url: str | None
    region: str | None
    profile: str | None
    creds_path: StrPath | None
    anonymous: bool
    bucket: Any
    request_payer: bool | str | None
    addressing_style: AddressingStyle
    sign_payload: SignPayload
    ca_bundle: StrPath | None
    transport: LaneChoice | Callable[[Any], Any]
    concurrency: int | str | None
    part_size_bytes: int | str
    memory_bytes: int | str
    limits: SharedLimits | None
    retry: RetryPolicy
    give_up_after_seconds: float | str | timedelta


class ReaderOptions(ConnectionOptions, total=False):
    """The options of an S3Reader and a SyncReader."""

    observe: Callable[[Event], None] | None
    sse: bytes | None


class ExportOptions(ConnectionOptions, total=False):
    """The options of an export. DataSink's own names keep their meaning."""

    retries: int
    container: str | None
    parameterization: bool
    parameterization_root: StrPath | None
    strip_dir: StrPath | None
    substitutions: Iterable[tuple[str, str]]
    regexp_substitutions: Iterable[tuple[str, str]]
    compat: Compat
    encrypt_bucket_keys: bool
    sse: str | bytes | None
    sse_kms_key_id: str | None
    storage_class: str | None
    acl: str | None
    tags: Mapping[str, str] | None
    metadata: Mapping[str, str] | None
    content_type: str
    checksum: str | None
    overwrite: Overwrite
    on_missing: OnMissing
    on_unreadable: OnUnreadable
    include: Iterable[str]
    exclude: Iterable[str]
    exclude_from: StrPath | Iterable[StrPath]
    files_from: StrPath | Iterable[str] | None
    preset: Preset
    min_size_bytes: int | str | None
    max_size_bytes: int | str | None
    newer_than: datetime | timedelta | float | str | None
    older_than: datetime | timedelta | float | str | None
    object_options: Mapping[str, PutOptions] | None
    on_collision: OnCollision
    on_unreachable: OnUnreachable
    symlinks: Symlinks
    abort_on_interrupt: bool
    local_copy: StrPath | None
    local_copy_mode: LocalCopyMode
    related_files: bool
    remove_dest_dir: bool
    manifest: StrPath | None
    index: str | None
    complete_marker: str | None
    report: StrPath | None
    delete_extraneous: bool
    delete_max: int | str | None
    journal: StrPath | Literal[False] | None
    bandwidth_bytes_per_second: int | str | None
    shard: str | tuple[int, int] | None
    progress: Callable[[ProgressSnapshot], object] | bool
    observe: Callable[[Event], None] | None


class GrabOptions(ConnectionOptions, total=False):
    """The options of a grab. S3DataGrabber's own names keep their meaning."""

    retries: int
    template: str | None
    field_template: Mapping[str, str] | None
    template_args: Mapping[str, Sequence[Sequence[Any]]] | None
    infields: Mapping[str, Any] | None
    outfields: Sequence[str] | None
    template_syntax: TemplateSyntax
    match: Match
    raise_on_empty: bool
    sort_filelist: bool
    manifest: StrPath | None
    report: StrPath | None
    sse: bytes | None
    progress: Callable[[ProgressSnapshot], object] | bool
    observe: Callable[[Event], None] | None


class PutOptions(TypedDict, total=False):
    """The options of one put. A given value takes the place of the sink's value of that option: metadata and tags are
    replaced as a whole, not merged. None, and an option that is left out, is the sink's; "" or {} is nothing."""

    content_type: str | None
    metadata: Mapping[str, str] | None
    tags: Mapping[str, str] | None
    storage_class: str | None
    sse: str | bytes | None
    sse_kms_key_id: str | None
    encrypt_bucket_keys: bool | None
    acl: str | None
    overwrite: Overwrite | None


PUT_OPTIONS = {name: OPTIONS[name] for name in PutOptions.__annotations__}

# -- The options in words, for `help` ----------------------------------------------------------------------------------

DIRECTORIES = ("parameterization_root", "strip_dir", "local_copy")
"""Options of the kind "path" that name a directory."""

_WORDS = {
    "text": "text",
    "path": "path of a file",
    "flag": "True or False",
    "size": "number of bytes, or a text such as '64MiB'",
    "duration": "seconds, a text such as '10m', or a timedelta",
    "sse": "'AES256', 'aws:kms', 'aws:kms:dsse', or a key of 32 bytes",
    "pairs": "list of pairs of texts: [(old, new), …]",
    "mapping": "dictionary of texts: {name: value}",
    "texts": "list of texts",
    "moment": "age such as '7d', a timedelta, or a time",
    "paths": "path of a file, or a list of them",
    "listing": "path of a file, or a list of paths",
    "object_options": "dictionary: {pattern: {option: value}}",
    "bucket": "name, or a boto3 or aioboto3 Bucket",
    "payer": "True, or 'requester'",
    "concurrency": "number, or 'auto'",
    "count": "number",
    "retry": "asyncsink.RetryPolicy",
    "observer": "function of one event",
    "progress": "True, False or function of one ProgressSnapshot",
    "limits": "asyncsink.SharedLimits",
    "shard": "'I/N', or the tuple (I, N)",
    "journal": "path of a file, or False",
    "templates": "dictionary of texts: {output: template}",
    "infields": "dictionary: {name: value, or list of values}",
    "arguments": "dictionary: {output: [[names or values]]}",
    "names": "list of texts",
}
"""The types of values, by the kind of their option."""


def type_in_words(option: Option) -> str:
    """The values that an option takes."""
    if option.kind in ("choice", "transport", "checksum"):
        return one_of(option.choices)
    return "path of a directory" if option.name in DIRECTORIES else _WORDS[option.kind]


def one_of(choices: Iterable[str]) -> str:
    """The choices as Python writes them: "'a', 'b' or 'c'"."""
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _explained(options: Mapping[str, Option]) -> str:
    """The options by subject, each with its type and its sentence."""
    lines = []
    for heading, rows in PANELS.items():
        own = [option for option in rows if options.get(option.name) is option]
        if own:
            lines += ["", f"    {heading.partition(' (')[0]}:"]
        lines += [f"        {option.name} ({type_in_words(option)}): {option.sentence}" for option in own]
    return "\n".join(lines)


for _typed, _options in (
    (ExportOptions, OPTIONS),
    (GrabOptions, GRAB_OPTIONS),
    (ReaderOptions, READER_OPTIONS),
    (PutOptions, PUT_OPTIONS),
):
    _typed.__doc__ = f"{_typed.__doc__}\n{_explained(_options)}\n"


def with_options(documentation: str | None, typed: type, command: Command) -> str:
    """The documentation of a class with the names of the options that it takes, which `help` does not show else."""
    explained = f"    Options, each with a default; help(asyncsink.{typed.__name__}) explains them:"
    lines = [(documentation or "").rstrip(), "", explained]
    for heading, rows in PANELS.items():
        names = ", ".join(option.name for option in rows if command in option.commands)
        if names:
            text = f"{heading.partition(' (')[0]}: {names}"
            lines += textwrap.wrap(text, 110, initial_indent=" " * 8, subsequent_indent=" " * 12)
    return "\n".join([*lines, "    "])
