"""`asyncsink run`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from asyncsink.cli.arguments import options_of, split_pair
from asyncsink.cli.commands.export import Prepared, publish, tell_export
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.errors import AsyncSinkError


class _PartsOutput(Output):
    """An Output whose JSON object is a list of those of all parts."""

    def __init__(self, output: Output) -> None:
        super().__init__(**{each.name: getattr(output, each.name) for each in fields(output)})
        self.told: list[dict[str, Any]] = []

    def json_object(self, values: Mapping[str, Any], *, long: str = "", items: Iterable[Any] = ()) -> None:
        """Keep the values of one part."""
        del long, items
        self.told.append(dict(values))


def page_of_part(page: str, number: int) -> str:
    """The name of a part's own page: page-3.html. Pure."""
    stem, suffix = os.path.splitext(page)
    return f"{stem}-{number}{suffix}"


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

    def page_of(number: int) -> str | None:
        page = options.get("report")
        return page and (page_of_part(page, number) if len(numbers) > 1 else page)

    def prepare(number: int) -> Prepared:
        opened = open_part(place, plan, number, moved, {**options, "report": page_of(number)})
        run = partial(run_source, opened.settings, opened.source, keys=opened.keys)
        return Prepared(opened.settings.target.url, run)

    if not numbers:
        output.say("No part is missing: all have complete receipts, without failures.")
    each, code = _PartsOutput(output), 0
    for done, number in enumerate(numbers):
        if len(numbers) > 1:
            output.say(f"Part {number}:")
        title, tell = f"part {number} of {directory}", partial(tell_export, files={"page": page_of(number)})
        ended = publish(partial(prepare, number), title, f"reading part {number}…", output=each, tell=tell)
        if ended not in (0, 1):  # the next part would end so too
            code = 1 if ended == 2 and done else ended
            break
        code = max(code, ended)
    told = [{"part": number, **values} for number, values in zip(numbers, each.told, strict=False)]
    output.json_object({"directory": directory, "parts": told})
    return code


@command(
    Argument("DIR", "What asyncsink split has made."),
    Flag(
        "--part",
        "Its number; I-J; auto: the array task's; or missing: not complete.",
        metavar="I",
        everyday="its number, I-J, auto or missing",
        required=True,
    ),
    Flag("--root", "The source's directory OLD is NEW on this machine; repeatable.", metavar="OLD=NEW", repeated=True),
    rows="run",
    examples=(
        "run parts --part auto --root /lab=/mnt/lab    # in a job of an array",
        "run parts --part missing                      # what is not complete",
        "run parts --part 0-3 --report page.html       # page-0.html and on",
    ),
)
def run(dir: str, part: str, root: Sequence[str], **given: Any) -> int:  # noqa: A002 - as the help page has it
    """Publish parts of a split. Their receipts are in DIR afterwards."""
    return run_command(dir, part, list(root), given, output=output_of(given))
