"""`asyncsink split` and `asyncsink recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.screen.display import progress_display
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.cli.words.sources import DESTINATION, SOURCE, SourceWords, list_flags, words_of
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.options.values import did_you_mean


def split_command(
    source: SourceWords,
    destination: str,
    directory: str,
    given: Mapping[str, Any],
    *,
    cutting: tuple[str | None, str | None, str | None],
    output: Output,
) -> int:
    """Cut a source into parts, print the result, and return the exit code."""
    from asyncsink.engine.recording.events import Progress
    from asyncsink.splitting.cutting import Cutting
    from asyncsink.splitting.split import split_settings, split_source
    from asyncsink.splitting.split_report import SplitReport

    progress = Progress()
    known = {"source": str(source), "directory": directory, "ok": False}
    try:
        if not (source.paths or source.outputs or source.source_manifest):
            raise ConfigError(
                f"DIR is missing, in which the parts go; for example: asyncsink split {destination} {directory} parts."
            )
        source.check(destination)
        settings = split_settings(destination, options_of(given))
        how = Cutting.of(*cutting)
        if source.paths == ("-",):
            raise ConfigError("SOURCE is -, which can be read only once, by one machine; give a file of its lines.")

        walked, _ = source.open(settings)
        if hint := source.hint():
            output.note(hint)

        async def main() -> SplitReport:
            title, opening = f"{source} → {directory}", f"looking at {source}…"
            with progress_display(title, opening, progress, output=output):
                return await split_source(settings, walked, directory, how, progress)

        report = run_until_signalled(main)
    except Interrupted as stop:
        output.note("interrupted: nothing was split")
        output.json_object({**known, "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, known)
        return 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": False})
    output.failures(report.failures, report.objects_failed, more="--json lists the first 1,000")
    return 0 if report.ok else 1


# -- `asyncsink recipe` ------------------------------------------------------------------------------------------------


def recipe_command(kind: str, directory: str | None) -> int:
    """Print the recipe of a split, and return the exit code."""
    from asyncsink.splitting.files import directory_of_split, read_plan
    from asyncsink.splitting.recipes import RECIPES, recipe_of

    output = Output()
    try:
        if kind not in RECIPES:
            raise ConfigError(
                f"There is no recipe {kind!r}; expected one of {', '.join(RECIPES)}.{did_you_mean(kind, RECIPES)}"
            )
        if directory is None:
            recipe = recipe_of(kind, "", None)
        else:
            place = directory_of_split(directory)
            recipe = recipe_of(kind, place, read_plan(place))
    except AsyncSinkError as error:
        output.error(error)
        return 2
    output.say(recipe, exact=True)
    return 0


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    SOURCE,
    DESTINATION,
    Argument("DIR", "Where the parts go: a new or empty directory."),
    *list_flags(),
    Flag("--parts", "As many parts, of about equal bytes and files.", metavar="N", everyday="how many parts"),
    Flag("--part-bytes", "Most bytes of a part (default 4GiB).", metavar="SIZE", everyday="most bytes of a part"),
    Flag("--part-objects", "Most files of a part (default 10,000).", metavar="N"),
    rows="split",
    examples=(
        "split derivatives s3://my-bucket/study parts",
        "split derivatives s3://my-bucket/study parts --parts 64",
        "recipe slurm parts > publish.sh    # a job array that publishes them",
    ),
)
def split(
    source: Sequence[str],
    destination: str,
    dir: str,  # noqa: A002 - as the help page has it
    *,
    outputs: str | None,
    source_manifest: str | None,
    parts: str | None,
    part_bytes: str | None,
    part_objects: str | None,
    **given: Any,
) -> int:
    """Look at SOURCE once, and cut it into parts that many machines publish, each with `asyncsink run`.

    Nothing is sent.
    """
    cutting = (parts, part_bytes, part_objects)
    words = words_of(source, outputs, source_manifest)
    return split_command(words, destination, dir, given, cutting=cutting, output=output_of(given))


@command(
    Argument("KIND", "slurm, batch (AWS Batch) or dask-slurm."),
    Argument("DIR", "What asyncsink split has made; dask-slurm can do without, and splits itself.", required=False),
    examples=(
        "recipe slurm parts > publish.sh && bash publish.sh",
        "recipe batch parts",
        "recipe dask-slurm > publish.py",
    ),
)
def recipe(kind: str, dir: str | None) -> int:  # noqa: A002 - as the help page has it
    """Print a script or definition with which a scheduler publishes the parts of a split. It says how to use it."""
    return recipe_command(kind, dir)
