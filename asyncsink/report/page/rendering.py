"""Content as a file: HTML by jinja2, which escapes every text, or JSON.

The page loads nothing, and its policy (Content-Security-Policy) lets nothing run but its own script, by digest.
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from asyncsink.report.page.drawing import chart_of, size_columns, time_columns
from asyncsink.report.page.place import GENERATOR
from asyncsink.report.sentences import count, duration, size

if TYPE_CHECKING:
    from jinja2 import Environment

ROWS_WITHOUT_SCRIPT: Final = 100


def as_json(content: dict[str, Any]) -> bytes:
    """The content as a JSON object: pure ASCII, a line for each of its parts."""
    parts = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return f"{{{parts}}}\n".encode("ascii")


def as_html(content: dict[str, Any]) -> bytes:
    """The content as one HTML file in UTF-8."""
    script = _text("page.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    markup = (
        _environment()
        .get_template("page.html")
        .render(
            content,
            generator=GENERATOR,
            script=_markup(script),
            script_digest=digest,
            styles=_markup(_text("page.css") + _text("outcome.css")),
            data=_markup(_for_script({"files": content["files"], "chart": _readings(content)})),
            chart=chart_of(content["time"]),
            size_columns=size_columns(content["sizes"]),
            time_columns=time_columns(content["times"]),
            rows_shown=ROWS_WITHOUT_SCRIPT,
        )
    )
    return markup.encode("utf-8")


def outcome_html(outcome: dict[str, Any], target: str) -> str:
    """The first block of the page alone, for a notebook."""
    page = _environment().get_template("notebook.html")
    return page.render(outcome=outcome, target=target, styles=_markup(_text("outcome.css")))


def _readings(content: dict[str, Any]) -> Any:
    chart = chart_of(content["time"])
    return chart.readings if chart is not None else []


def _for_script(values: dict[str, Any]) -> str:
    """JSON inside of a script element: "<" could end it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@cache
def _text(name: str) -> str:
    return files("asyncsink.report.page").joinpath(name).read_text("utf-8")


def _markup(text: str) -> Any:
    """A text of our own, which is not escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - ours


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # loaded where a page is made

    environment = Environment(
        autoescape=True, loader=FunctionLoader(_text), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": size, "duration": _duration, "count": count, "svg": _markup}
    return environment


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else duration(seconds)
