"""From the inputs of a Nipype DataSink to the arguments of an export with compat="nipype"; empty directories.

The rule numbers are those of DataSink's rules, as in routing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nipype import config
from nipype.interfaces.base import isdefined
from nipype.utils.misc import str2bool

from asyncsink.adapters.nipype_inputs import DATASINK_OPTIONS, OUR_OPTIONS, check_no_output
from asyncsink.destinations.local.files import make_directories
from asyncsink.destinations.local.places import PlacesBelow, translated
from asyncsink.errors import ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import LocalTarget
from asyncsink.paths import SEARCH, as_native, as_text, on_disk
from asyncsink.routing.router import Router
from asyncsink.sources.outputs import OutputsSource
from asyncsink.value import dataclass

log = logging.getLogger("nipype.interface")

_OF_S3 = ("creds_path", "encrypt_bucket_keys", "bucket", "local_copy")
_EVENTS = ("trait_added", "trait_modified")
"""Events of traits, which DataSink takes for outputs where a node with `infields` is copied: on S3 its export then
fails."""


@dataclass(frozen=True, slots=True)
class ExportArguments:
    """The arguments for `asyncsink.export_sync`."""

    outputs: dict[str, Any]
    base_directory: str
    options: dict[str, Any]


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
