"""The commands of `scale`: the model, its checks, the balance of parts, and the memory of a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.scale import dask_cost, sweep
from benchmarks.scale.balance import balance
from benchmarks.scale.page import PAGE, fill
from benchmarks.scale.picture import draw
from benchmarks.scale.splitting import splits
from benchmarks.scale.throttling import beside_the_model
from benchmarks.showing.plot import needs_matplotlib
from benchmarks.showing.saving import RESULTS

FOLDER = RESULTS / "scale"
PICTURE = Path("asyncsink/guide/images/scale.png")
TIMED_MACHINES = 64

app = typer.Typer(invoke_without_command=True, help="Many machines: a model of them and S3's partitions, and checks.")

Output = Annotated[Path, typer.Option(help="The JSON; what other commands have put into it stays.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller data sets, which are no result.")]


@app.callback()
def scale(
    context: typer.Context,
    *,
    output: Output = FOLDER / "scale.json",
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = PICTURE,
    quick: Quick = False,
) -> None:
    """The fluid model under every assumption, and how evenly parts are dealt. Nothing is sent."""
    if context.invoked_subcommand is not None:
        return
    needs_matplotlib()
    _refuse_quick(output, quick=quick)
    even = balance()
    for row in even:
        typer.echo(f"{row['machines']} machines, {row['way']:42} largest ÷ mean of bytes {row['largest_by_mean']:.3f}")
    result = sweep.sweep(_tell, quick=quick)
    keep(output, "balance", even)
    keep(output, "model", result)
    draw(result, sweep.courses(TIMED_MACHINES, quick=quick), TIMED_MACHINES, picture)
    typer.echo(json.dumps(result["cpu_seconds"]))


@app.command("plot")
def plot_command(
    result: Annotated[Path, typer.Argument(metavar="[RESULT]")] = FOLDER / "scale.json",
    *,
    output: Annotated[Path, typer.Option(help="The picture.")] = PICTURE,
) -> None:
    """Draw the model of a result again; only its fourth plot is computed anew."""
    needs_matplotlib()
    try:
        model = json.loads(result.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError) as error:
        raise typer.BadParameter(f"{result.name} holds no model: {error}.") from error
    draw(model, sweep.courses(TIMED_MACHINES), TIMED_MACHINES, output)


@app.command("check")
def check_command(*, output: Output = FOLDER / "scale.json", quick: Quick = False) -> None:
    """The fluid model beside requests one by one, and starts at once beside starts one after another."""
    _refuse_quick(output, quick=quick)
    keep(output, "check", sweep.checked(_tell, quick=quick))
    if not quick:
        keep(output, "starts", sweep.starts(_tell))


@app.command("throttled")
def throttled_command(*, output: Output = FOLDER / "scale.json") -> None:
    """The real engine, in 1 to 4 processes, behind a proxy that refuses what comes too fast, beside both models."""
    rows = beside_the_model()
    keep(output, "throttled", rows)
    for row in rows:
        typer.echo(json.dumps(row))


@app.command("split")
def split_command(*, output: Output = FOLDER / "scale.json") -> None:
    """What a split of 10,000, 100,000 and 1,000,000 empty files costs: memory, seconds, bytes (Linux only)."""
    rows = splits()
    keep(output, "split", rows)
    for row in rows:
        typer.echo(json.dumps(row))


@app.command("dask-cost")
def dask_cost_command(
    *,
    files: Annotated[int, typer.Option(min=100, help="In the source, 16 KiB each.")] = dask_cost.FILES,
    rounds: Annotated[int, typer.Option(min=1)] = dask_cost.ROUNDS,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")] = None,
) -> None:
    """CPU of an object through Dask's workers, beside one process, on the null server."""
    result = dask_cost.measure_dask_cost(files=files, rounds=rounds, tell=_tell)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(dask_cost.render_dask_cost(result))


@app.command("page")
def page_command(
    result: Annotated[Path, typer.Argument(metavar="[RESULT]")] = FOLDER / "scale.json",
    *,
    page: Annotated[Path, typer.Option(help="Where the tables are.")] = PAGE,
) -> None:
    """Put the tables of a result into the guide."""
    try:
        fill(page, json.loads(result.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def keep(path: Path, name: str, rows: Any) -> None:
    """Put one section into the result file, with the machine and the versions of now. Blocking."""
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"kind": "scale"}
    result[name] = rows
    result["machine"], result["versions"] = describe_machine(), describe_versions()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_compact(result) + "\n", encoding="utf-8")


def _compact(value: Any, depth: int = 0) -> str:
    """JSON with one row of a list a line."""
    if isinstance(value, dict) and depth < 2:
        rows = [f"{json.dumps(name)}: {_compact(each, depth + 1)}" for name, each in value.items()]
        return "{\n" + ",\n".join(rows) + "\n}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _refuse_quick(output: Path, *, quick: bool) -> None:
    if quick and output == FOLDER / "scale.json":
        raise typer.BadParameter("what --quick gives is no result; name another --output for it.")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
