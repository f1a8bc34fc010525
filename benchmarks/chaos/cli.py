"""The commands kill, dask-kill, soak and plot-soak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos import soak as soaks
from benchmarks.chaos.killing import kill_runs
from benchmarks.chaos.killing import render as render_kill
from benchmarks.chaos.picture import draw_soak
from benchmarks.showing.plot import needs_matplotlib

Output = Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")]


def kill(
    *,
    runs: Annotated[int, typer.Option(min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the files, the options and the moments.")] = 1,
    only: Annotated[list[int] | None, typer.Option(help="Only this run (from 1) of them; repeatable.")] = None,
    output: Output = None,
) -> None:
    """Kill exports with SIGKILL, SIGINT and SIGTERM at random moments, let them go on, and compare every byte."""
    result = kill_runs(runs, seed, _tell, only=only or ())
    _keep(result, output)
    typer.echo(render_kill(result))
    if not result["summary"]["good"]:
        raise typer.Exit(1)


def dask_kill(
    *,
    runs: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the files and the moments.")] = 1,
    output: Output = None,
) -> None:
    """Export by four Dask workers, kill two of them, one inside of a multipart upload, and add one."""
    from benchmarks.chaos import dask_kills  # needs the extra [dask]

    result = dask_kills.dask_kill_runs(runs, seed, _tell)
    _keep(result, output)
    typer.echo(dask_kills.render(result))
    if not result["summary"]["good"]:
        raise typer.Exit(1)


def soak(
    *,
    minutes: Annotated[float, typer.Option(min=1)] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the changes and the faults.")] = 1,
    output: Output = None,
    plot: Annotated[
        Path | None, typer.Option(help="The picture (needs matplotlib, from the contenders extra).")
    ] = None,
) -> None:
    """Export a tree that changes, again and again in one process, with faults and credentials that end."""
    if plot is not None:
        needs_matplotlib()
    result = asyncio.run(soaks.run_soak(minutes, seed, _tell))
    _keep(result, output)
    typer.echo(soaks.render(result))
    if plot is not None:
        draw_soak(result, plot)
    if not result["summary"]["good"]:
        raise typer.Exit(1)


def plot_soak(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What soak --output has written.")],
    output: Annotated[Path, typer.Option(help="The picture.")] = Path("soak.png"),
) -> None:
    """Draw a soak as a PNG (needs matplotlib, from the contenders extra)."""
    try:
        loaded = json.loads(result.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{result} cannot be read as JSON ({error}).") from error
    if not isinstance(loaded, dict) or loaded.get("kind") != soaks.KIND:
        raise typer.BadParameter(f"{result} is no soak; expected what soak --output has written.")
    needs_matplotlib()
    draw_soak(loaded, output)


def _keep(result: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
