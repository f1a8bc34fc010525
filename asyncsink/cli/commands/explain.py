"""`asyncsink explain`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.commands.plan import paper_of_stdout
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import FLAGS, Output, in_flags, output_of
from asyncsink.cli.words.sources import DESTINATION, SourceWords, list_flags, words_of
from asyncsink.errors import AsyncSinkError, ConfigError

if TYPE_CHECKING:
    from asyncsink.options.schema import Settings
    from asyncsink.sources.base import Source


def explain_command(
    paths: Sequence[str],
    destination: str,
    given: Mapping[str, Any],
    *,
    source: SourceWords,
    attribute: str | None,
    output: Output,
) -> int:
    """Print how each file gets its key; the exit code is 1 where an export would not send one of them."""
    from asyncsink.maintenance.explaining import explained
    from asyncsink.options.parse import parse_options

    try:
        settings = parse_options(destination, options_of(given))
        found = explained(_source(paths, settings, source, attribute, output), settings, paths)
    except AsyncSinkError as error:
        output.error(error)
        return 2
    paper = paper_of_stdout()
    for number, each in enumerate(found):
        lines = each.lines(paper.width, ascii_only=paper.ascii_only, worded=_in_flags, sentence=in_flags)
        output.say("\n".join([*([""] if number else []), *lines]), exact=True)
    output.json_object({"explained": [each.as_dict() for each in found], "interrupted": False})
    return 1 if any(each.left_out for each in found) else 0


def _source(
    paths: Sequence[str], settings: Settings, source: SourceWords, attribute: str | None, output: Output
) -> Source:
    """What is exported: what is named, paths on an attribute, or the paths themselves."""
    from asyncsink.sources.opening import outputs_source

    if source.paths == ("-",):
        raise ConfigError("--source - is a stream, whose lines are read once; name the files with --attribute instead.")
    if attribute is not None:
        if source.outputs or source.source_manifest:
            raise ConfigError("--attribute is for files that are named here; a list of files has its own.")
        return outputs_source({attribute: list(source.paths or paths)}, settings)
    if str(source):
        source.check("")
        return source.open(settings)[0]
    if any(path.lower().startswith("s3:") for path in paths):
        raise ConfigError("What is exported is not named; add --source, the SOURCE of your export, to look there.")
    found = SourceWords(tuple(paths)).open(settings)[0]
    if len(paths) > 1 or not os.path.isdir(paths[0]):
        words = "PATH" if len(paths) == 1 else "PATH…"
        output.note(f"As asyncsink export {words} DESTINATION has it; --source names the SOURCE of another export.")
    return found


def _in_flags(option: str, pair: tuple[str, str] | None) -> str:
    if pair is None:
        return "--no-parameterization" if option == "parameterization" else FLAGS.get(option, option)
    old, new = (text.replace("=", r"\=") for text in pair)
    return f"{FLAGS[option]} {old}={new}"


@command(
    Argument(
        "PATH...",
        "Files of the source; a directory in it (its first files); or the s3:// URL of an object.",
        place=False,
    ),
    DESTINATION,
    Flag(
        "--source",
        "What is exported, as SOURCE of asyncsink export; repeatable. Without it, PATH itself is.",
        metavar="SOURCE",
        repeated=True,
        everyday="the SOURCE of the export",
    ),
    *list_flags(),
    Flag(
        "--attribute",
        "The files arrive on this DataSink attribute, such as contrasts.@con.",
        metavar="NAME",
        everyday="the DataSink attribute of the files",
    ),
    rows="export",
    aside=("--manifest", "--profile", "--endpoint-url", "--anonymous", "--concurrency", "--bandwidth"),
    examples=(
        "explain work/sub-01/T1w.nii s3://my-bucket/study --source work",
        "explain con_1.nii s3://my-bucket/study --attribute contrasts.@con",
        "explain work s3://my-bucket/study    # its first files",
    ),
)
def explain(
    path: tuple[str, ...],
    destination: str,
    *,
    source: Sequence[str],
    outputs: str | None,
    source_manifest: str | None,
    attribute: str | None,
    **given: Any,
) -> int:
    """Show how a file gets its key, step by step, or why it is left out. Nothing is sent, and no server is asked.

    The numbers of rules are those of `asyncsink help nipype`. Repeat the options of your export. Exit code 1: an export
    would not send one of the files.
    """
    words = words_of(source, outputs, source_manifest)
    return explain_command(path, destination, given, source=words, attribute=attribute, output=output_of(given))
