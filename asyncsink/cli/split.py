"""`asyncsink split`, `asyncsink run` and `asyncsink recipe`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from asyncsink.cli.arguments import options_of, split_pair
from asyncsink.cli.export import Prepared, publish
from asyncsink.cli.output import Interrupted, Output, progress_display, run_until_signalled
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.options.values import check_choice


def split_command(
    source: str,
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
    known = {"source": source, "directory": directory, "ok": False}
    try:
        settings = split_settings(destination, options_of(given))
        how = Cutting.of(*cutting)
        if source == "-":
            raise ConfigError("SOURCE is -, which can be read only once, by one machine; give a file of its lines.")

        async def main() -> SplitReport:
            with progress_display(f"looking at {source}…", progress, quiet=output.quiet):
                return await split_source(settings, source, directory, how, progress)

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


# -- `asyncsink run` ---------------------------------------------------------------------------------------------------


class _PartsOutput(Output):
    """An Output whose JSON object is a list of those of all parts."""

    def __init__(self, output: Output) -> None:
        super().__init__(json=output.json, quiet=output.quiet, verbose=output.verbose)
        self.told: list[dict[str, Any]] = []

    def json_object(self, values: Mapping[str, Any], *, long: str = "", items: Iterable[Any] = ()) -> None:
        """Keep the values of one part."""
        del long, items
        self.told.append(dict(values))


def run_command(directory: str, part: str, roots: list[str], given: Mapping[str, Any], *, output: Output) -> int:
    """Publish parts one after the other, print the result of each, and return the exit code."""
    from asyncsink.engine.export import run_source
    from asyncsink.splitting.files import directory_of_split, read_plan
    from asyncsink.splitting.numbers import numbers_of
    from asyncsink.splitting.publish import open_part

    try:
        options = options_of(given)
        moved = dict(split_pair(text, "--root", "OLD=NEW") for text in roots)
        place = directory_of_split(directory)
        plan = read_plan(place)
        numbers = numbers_of(place, plan, part)
    except AsyncSinkError as error:
        output.error(error, {"directory": directory, "parts": []})
        return 2

    def prepare(number: int) -> Prepared:
        opened = open_part(place, plan, number, moved, options)
        run = partial(run_source, opened.settings, opened.source, keys=opened.keys)
        return Prepared(opened.settings.target.url, run)

    if not numbers:
        output.say("No part is missing: all have complete receipts, without failures.")
    each, code = _PartsOutput(output), 0
    for done, number in enumerate(numbers):
        if len(numbers) > 1:
            output.say(f"Part {number}:")
        ended = publish(partial(prepare, number), f"reading part {number}…", output=each)
        if ended not in (0, 1):  # the next part would end so too
            code = 1 if ended == 2 and done else ended
            break
        code = max(code, ended)
    told = [{"part": number, **values} for number, values in zip(numbers, each.told, strict=False)]
    output.json_object({"directory": directory, "parts": told})
    return code


# -- `asyncsink recipe` ------------------------------------------------------------------------------------------------


def recipe_command(kind: str, directory: str | None) -> int:
    """Print the recipe of a split, and return the exit code."""
    from asyncsink.splitting.files import directory_of_split, read_plan
    from asyncsink.splitting.recipes import RECIPES, recipe_of

    output = Output()
    try:
        check_choice("recipe", kind, RECIPES)
        if directory is None:
            recipe = recipe_of(kind, "", None)
        else:
            place = directory_of_split(directory)
            recipe = recipe_of(kind, place, read_plan(place))
    except AsyncSinkError as error:
        output.error(error)
        return 2
    output.say(recipe)
    return 0
