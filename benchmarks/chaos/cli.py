"""The commands `kill` and `soak`, and the picture of a soak."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos.killing import kill_runs
from benchmarks.chaos.killing import render as render_kill

_Output = Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")]


def kill(
    *,
    runs: Annotated[int, typer.Option(min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the files, the options and the moments.")] = 1,
    only: Annotated[list[int] | None, typer.Option(help="Only this run (from 0) of them; repeatable.")] = None,
    output: _Output = None,
) -> None:
    """Kill exports with SIGKILL at random moments, let them go on, and compare every byte."""
    result = kill_runs(runs, seed, _tell, only=only or ())
    _keep(result, output)
    typer.echo(render_kill(result))
    if not result["summary"]["good"]:
        raise typer.Exit(1)


def _keep(result: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
