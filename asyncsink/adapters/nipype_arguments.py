"""From the inputs of a Nipype DataSink to the arguments of an export with compat="nipype"; empty directories.

The rule numbers are those of DataSink's rules, as in routing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, get_args

from nipype import config
from nipype.interfaces import io as nio
from nipype.interfaces.base import isdefined, traits
from nipype.utils.misc import str2bool

from asyncsink.destinations.local.files import make_directories
from asyncsink.destinations.local.places import PlacesBelow, translated
from asyncsink.errors import ConfigError
from asyncsink.options.parse import check_option_names, parse_options
from asyncsink.options.schema import GONE, OPTIONS, LaneChoice, LocalTarget, Option
from asyncsink.options.settings import RetryPolicy
from asyncsink.options.shared_limits import SharedLimits
from asyncsink.paths import SEARCH, as_native, as_text, on_disk
from asyncsink.routing.router import Router
from asyncsink.sources.outputs import OutputsSource
from asyncsink.value import dataclass

log = logging.getLogger("nipype.interface")

_THEIRS = nio.DataSinkInputSpec().copyable_trait_names()
DATASINK_OPTIONS = tuple(name for name in OPTIONS if name in _THEIRS)
"""Inputs of DataSink that are options of an export."""

OUR_OPTIONS = tuple(name for name in OPTIONS if name not in DATASINK_OPTIONS)
"""Options of an export that asyncsink adds."""

_UNHASHED = ("journal", "manifest", "observe", "limits")
"""Inputs that do not decide what is published."""
_OF_S3 = ("creds_path", "encrypt_bucket_keys", "bucket", "local_copy")
_PATHS = tuple(name for name in OUR_OPTIONS if OPTIONS[name].kind in ("path", "journal"))
_EVENTS = ("trait_added", "trait_modified")
"""Events of traits, which DataSink takes for outputs where a node with `infields` is copied: on S3 its export then
fails."""
_SSE_KINDS = ("", "AES256", "aws:kms", "aws:kms:dsse")


_TRAITS: dict[str, tuple[Any, ...]] = {
    "text": (traits.Str(),),
    "path": (traits.Str(), traits.Instance(os.PathLike)),
    "flag": (traits.Bool(),),
    "size": (traits.Int(), traits.Str()),
    "duration": (traits.Float(), traits.Str(), traits.Instance(timedelta)),
    "mapping": (traits.Dict(traits.Str(), traits.Str()),),
    "texts": (traits.List(traits.Str()), traits.Tuple()),
    "payer": (traits.Bool(), traits.Enum("requester")),
    "concurrency": (traits.Int(), traits.Str()),
    "count": (traits.Int(), traits.Str()),
    "retry": (traits.Instance(RetryPolicy),),
    "shard": (traits.Str(), traits.Tuple(traits.Int(), traits.Int())),
    "journal": (traits.Bool(), traits.Str(), traits.Instance(os.PathLike)),
    "sse": (traits.Enum("AES256", "aws:kms", "aws:kms:dsse", ""),),
    "checksum": (traits.Str(),),
    "observer": (traits.Callable(),),
    "limits": (traits.Instance(SharedLimits),),
    "transport": (traits.Enum(*get_args(LaneChoice)),),
}
"""The values that an input takes besides None, by the kind of its option."""


def trait_of(option: Option) -> Any:
    """The input (a trait) for an option."""
    kinds = (traits.Enum(*option.choices),) if option.kind == "choice" else _TRAITS[option.kind]
    if option.name in _UNHASHED:  # Nipype ignores `nohash` of an Either
        return traits.Union(None, *kinds, desc=option.sentence, nohash=True)
    return traits.Either(None, *kinds, desc=option.sentence)


@dataclass(frozen=True, slots=True)
class ExportArguments:
    """The arguments for `asyncsink.export_sync`."""

    outputs: dict[str, Any]
    base_directory: str
    options: dict[str, Any]


def check_option(name: str, value: object) -> None:
    """Refuse values that must not become an input: Nipype writes inputs to hash files, result files and crash files.

    Raises:
        ConfigError: `value` is a customer key, which the message does not repeat; or `name` was an option once, and
            would become an output.
    """
    if name in GONE:
        check_option_names([name])
    if name == "sse" and isdefined(value) and value is not None and value not in _SSE_KINDS:
        raise ConfigError(
            "sse takes 'AES256', 'aws:kms' or 'aws:kms:dsse' here; a customer key would be written to Nipype's hash "
            "and crash files; use asyncsink.export for that."
        )


def export_arguments(inputs: Any, installed: Mapping[str, Any]) -> ExportArguments:
    """The arguments for the export of a DataSink with these inputs. Reads from the file system which sources are
    directories.

    Args:
        inputs: DataSink's input spec, with or without asyncsink's options. A name in `inputs._outputs` is an output,
            also where it is the name of an option.
        installed: options for every sink; inputs go first.

    Raises:
        ConfigError: the value of an input cannot be used.
    """
    named = {
        name: value
        for name, value in inputs._outputs.items()
        if isdefined(value) and not (name in _EVENTS and _is_event(inputs, value))
    }
    outputs = {name: _as_list(value) for name, value in named.items()}
    there = set(inputs.copyable_trait_names()).difference(inputs._outputs)
    given = {name: getattr(inputs, name) for name in (*DATASINK_OPTIONS, *OUR_OPTIONS) if name in there}
    options = {name: value for name, value in given.items() if isdefined(value)}
    for name in OUR_OPTIONS:
        check_no_output(name, options.get(name))
    base = inputs.base_directory if isdefined(inputs.base_directory) else ""
    if _is_s3(base):
        _drop_what_is_not_there(options)
    else:
        base = _local_base(base or ".", options)
    verdicts = {
        "compat": "nipype",
        "on_collision": "last",  # rule 16
        "on_missing": "error" if _is_s3(base) else "skip",  # rule 7
        "on_unreadable": "error",  # DataSink's copy fails
        "related_files": True,  # rule 30
    }
    if not _is_s3(base) or "local_copy" in options:
        verdicts["local_copy_mode"] = _local_copy_mode(outputs)
    return ExportArguments(outputs, base, {**verdicts, **installed, **options})


def _is_event(inputs: Any, value: object) -> bool:
    """Whether the value comes from traits: the name of a trait, or no path at all. An output of the user holds
    paths."""
    if isinstance(value, str):
        return value in inputs._outputs or value in inputs.copyable_trait_names()
    return not isinstance(value, (os.PathLike, list, tuple))


def _is_s3(base: str) -> bool:
    return base.lower().startswith("s3://")


def _as_list(value: object) -> object:
    """Any other iterable as a list of paths, as by Nipype's ensure_list (rule 5)."""
    plain = isinstance(value, (str, bytes, bytearray, os.PathLike, list, tuple, Mapping))
    return list(value) if isinstance(value, Iterable) and not plain else value


def check_no_output(name: str, value: object) -> None:
    """Refuse an absolute path for an option that takes none: it was meant as an output of that name.

    Raises:
        ConfigError: with the way to publish under that name.
    """
    if name not in _PATHS and isinstance(value, (str, os.PathLike)) and os.path.isabs(value):
        raise ConfigError(
            f"The input {name!r} is an option of asyncsink's, and holds the path {os.fspath(value)!r}; to publish "
            f"files under that name, make the sink with DataSink(infields=[{name!r}])."
        )


def _drop_what_is_not_there(options: dict[str, Any]) -> None:
    """Remove empty values, which DataSink ignores, and a missing credentials file, for which it uses the
    environment."""
    bucket = options.get("bucket")
    # A Bucket object has its own credentials.
    creds_path = options.get("creds_path") if not bucket or isinstance(bucket, str) else ""
    if creds_path and not os.path.exists(creds_path):
        log.warning("creds_path=%r does not exist; the usual chain of credentials is asked instead.", creds_path)
        creds_path = ""  # rule 42
    if not creds_path:
        options.pop("creds_path", None)
    if not bucket:
        options.pop("bucket", None)


def _local_base(base: str, options: dict[str, Any]) -> str:
    """The directory of a sink without S3: an absolute container, else local_copy, else base_directory."""
    local_copy = options.get("local_copy")
    for name in _OF_S3:
        options.pop(name, None)
    if local_copy == "":
        raise ConfigError("local_copy is empty; expected a directory (rule 35); leave it undefined instead.")
    container = options.get("container", "")
    if container.startswith("/"):
        del options["container"]  # rule 11
        return str(container)
    return str(local_copy or base)


def _local_copy_mode(outputs: Mapping[str, Any]) -> str:
    """Hard links where Nipype's configuration says so, but never for directories (rule 36).

    A program that edits a file in place inside a published directory would edit its copy too.
    """
    if not str2bool(config.get("execution", "try_hard_link_datasink")):
        return "copy"
    entries = OutputsSource(outputs, symlinks="follow").entries
    return "copy" if any(os.path.isdir(on_disk(entry.path)) for entry in entries) else "hardlink"


# -- Empty directories: a local sink of Nipype makes its own folder, and the empty directories of a tree (rule 27)
# ------ The engine publishes files; FreeSurfer's subject directories, for example, have empty folders that its programs
# need.


def make_empty_directories(outputs: Mapping[str, Any], base_directory: str, options: Mapping[str, Any]) -> None:
    """Make the empty directories of `outputs` in every local destination of a finished export. Blocking.

    Args:
        outputs, base_directory, options: those of the export.

    Raises:
        AccessDenied, DestinationFull, PermanentError: a directory cannot be made.
    """
    settings = parse_options(base_directory, options)
    copy = settings.local_copy.directory if settings.local_copy is not None else ""
    is_local = isinstance(settings.target, LocalTarget)
    if not is_local and not copy:
        return
    router = Router(settings.routing, base=settings.target.url, local_base=copy)
    base = settings.target.url if is_local else copy
    with translated(base, None):
        make_directories(base)
    places = PlacesBelow(base)
    _make(places, base, os.path.join(base, settings.routing.container))
    follow = is_local and settings.policies.symlinks == "follow"
    for entry in OutputsSource(outputs, symlinks=settings.policies.symlinks).entries:
        if os.path.isdir(on_disk(entry.path)):
            url, local = router.out_file(entry.attribute, entry.path)
            for folder in _empty_below(as_native(entry.path), follow=follow):
                _make(places, base, f"{url if is_local else local}/{as_text(folder)}")


def _make(places: PlacesBelow, base: str, path: str) -> None:
    """Make a directory below `base`; no link on the way leads out of it."""
    relative = os.path.normpath(path.removeprefix(base).lstrip("/") or ".")
    if relative != ".":
        with translated(path, None):
            places.open(f"{relative}/-", make=True, flags=SEARCH).close()


def _empty_below(source: str, *, follow: bool) -> Iterator[str]:
    """The empty directories below `source`, relative to it."""
    for folder, folders, files in os.walk(source, followlinks=follow):
        if not folders and not files:
            yield os.path.relpath(folder, source)
        folders[:] = [name for name in folders if not (follow and _leads_up(folder, name))]


def _leads_up(folder: str, name: str) -> bool:
    """Whether a link leads to a directory that holds it: the walk would not end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")
