"""The command line: run, quick, profile, kill, soak,
policy, list, table, readme, plot, plot-soak."""

from __future__ import annotations

import json
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos import cli as chaos
from benchmarks.contenders import CONTENDERS
from benchmarks.network_models import MODELS, simulate
from benchmarks.plot import needs_matplotlib
from benchmarks.plot import plot as draw
from benchmarks.policy_plot import draw as draw_policy
from benchmarks.policy_plot import summary
from benchmarks.profile import profile
from benchmarks.profile import render as render_profile
from benchmarks.readme import PROFILE_BEGIN, PROFILE_END, replace_table, short_table
from benchmarks.running import FORMAT, RESULTS, Order, run, save
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers.running import ServerKind
from benchmarks.table import render

QUICK_CONTENDERS = ("asyncsink", "asyncsink-api", "obstore-unsigned", "obstore", "s5cmd")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

_Results = Annotated[list[Path], typer.Argument(metavar="RESULT...", help="JSON files in benchmarks/results.")]


@app.command("run")
def run_command(
    *,
    scenario: Annotated[list[str], typer.Option(help="Repeatable; all: every one.")],
    contender: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all it is meant for.")] = None,
    server: Annotated[ServerKind, typer.Option(help="null, null-tls or seaweed.")] = "null",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller data sets.")] = False,
    delay_ms: Annotated[float, typer.Option(min=0, help="The null server answers so much later.")] = 0.0,
    limit_seconds: Annotated[float, typer.Option(min=1, help="A publication is killed then.")] = 600.0,
    minutes: Annotated[float, typer.Option(min=0.1, help="No round begins after so long.")] = 240.0,
    verify_all: Annotated[bool, typer.Option("--verify-all", help="Read back every object, not 2,000.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes (default: benchmarks/results).")] = None,
) -> None:
    """Measure. Everything is on loopback, and gone afterwards except for the JSON."""
    scenarios = _known(list(SCENARIOS) if scenario == ["all"] else scenario, SCENARIOS, "scenario")
    meant = [name for name, each in CONTENDERS.items() if any(each.takes_part(SCENARIOS[one]) for one in scenarios)]
    order = Order(
        scenarios=scenarios,
        contenders=_known(contender or meant, CONTENDERS, "contender"),
        server=server,
        rounds=rounds,
        quick=quick,
        delay_ms=delay_ms,
        limit_seconds=limit_seconds,
        minutes_max=minutes,
        verify_objects_max=None if verify_all else 2000,
    )
    _end_in_order()
    result = run(order, _tell)
    path = save(result, output)
    _tell(f"written: {path.name}")
    typer.echo(render([result]))
    if any(one["status"] == "failed" for one in result["measurements"]):
        raise typer.Exit(1)


@app.command()
def quick(
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path | None, typer.Option(help="Folder for the JSON files (default: none are kept).")] = None,
) -> None:
    """A look in about two minutes: small data sets, the nearest peers, null server and SeaweedFS."""
    _end_in_order()
    results = []
    plans: tuple[tuple[ServerKind, list[str]], ...] = (
        ("null", ["small", "large"]),
        ("seaweed", ["cohort", "cohort-rerun"]),
    )
    for server, scenarios in plans:
        order = Order(
            scenarios=scenarios,
            contenders=QUICK_CONTENDERS,
            server=server,
            rounds=rounds,
            quick=True,
            limit_seconds=30,
            minutes_max=1.5,
            verify_objects_max=200,
            command="python -m benchmarks quick",
        )
        results.append(run(order, _tell))
        if output is not None:
            save(results[-1], output / f"quick-{server}.json")
    typer.echo(render(results))


@app.command("profile")
def profile_command(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer files.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")] = None,
) -> None:
    """Where the CPU time of a small object goes, step by step."""
    _end_in_order()
    result = profile(rounds=rounds, quick=quick, tell=_tell)
    if output is not None:
        output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(render_profile(result))


@app.command("kill")
@wraps(chaos.kill)
def kill_command(**given: Any) -> None:
    """See `chaos.cli.kill`."""
    _end_in_order()
    chaos.kill(**given)


@app.command("soak")
@wraps(chaos.soak)
def soak_command(**given: Any) -> None:
    """See `chaos.cli.soak`."""
    _end_in_order()
    chaos.soak(**given)


app.command("plot-soak")(chaos.plot_soak)


@app.command("policy")
def policy_command(
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = RESULTS / "policy.png",
) -> None:
    """The concurrency policy against models of networks and servers, as a picture. Nothing is sent."""
    needs_matplotlib()
    courses = []
    for model in MODELS:
        courses.append(simulate(model))
        typer.echo(summary(courses[-1]))
    draw_policy(courses, output)
    _tell(f"written: {output.name}")


@app.command("list")
def list_command() -> None:
    """Scenarios and contenders, and whether they can run here."""
    for scenario in SCENARIOS.values():
        typer.echo(f"scenario   {scenario.name:20}{scenario.title}")
    for contender in CONTENDERS.values():
        typer.echo(f"contender  {contender.name:20}{contender.title}: {contender.missing() or 'ready'}")


@app.command()
def table(results: _Results) -> None:
    """Print results as Markdown."""
    loaded = [_load(path) for path in results]
    if runs := [result for result in loaded if not _is_profile(result)]:
        typer.echo(render(runs), nl=False)
    for result in filter(_is_profile, loaded):
        typer.echo(render_profile(result))


@app.command()
def readme(
    results: _Results, file: Annotated[Path, typer.Option(help="Where the table is.")] = Path("README.md")
) -> None:
    """Put a short table of results, and that of a profile, into the README."""
    loaded = [_load(path) for path in results]
    try:
        if runs := [result for result in loaded if not _is_profile(result)]:
            replace_table(file, short_table(runs))
        for result in filter(_is_profile, loaded):
            replace_table(file, render_profile(result), PROFILE_BEGIN, PROFILE_END)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def plot(
    results: _Results, output: Annotated[Path, typer.Option(help="The picture.")] = Path("benchmarks.png")
) -> None:
    """Draw results as a PNG (needs matplotlib, from the bench extra)."""
    needs_matplotlib()
    # A profile is a table, and no comparison.
    draw([result for path in results if not _is_profile(result := _load(path))], output)


def _load(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} is no result of this program ({error}).") from error
    if result.get("format") != FORMAT and not _is_profile(result):
        raise typer.BadParameter(f"{path} has another format; expected {FORMAT}.")
    return result


def _is_profile(result: dict[str, Any]) -> bool:
    return result.get("kind") == "profile"


def _known(names: list[str], known: dict[str, Any], what: str) -> list[str]:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is no {what}; expected one of {', '.join(known)}.")
    return names


def _end_in_order() -> None:
    """SIGTERM leaves through every `with`, so that servers stop and files go."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


def _tell(text: str) -> None:
    typer.echo(text, err=True)
