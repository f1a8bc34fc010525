"""Commands: targets, run, table, readme, plot, list, profile, calls, policy, scale, service, kill, soak and others."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos import cli as chaos
from benchmarks.lineup.contenders import CONTENDERS
from benchmarks.lineup.pythons import Python, second_python
from benchmarks.lineup.scenarios import SCENARIOS
from benchmarks.measuring.calls import FILES, measure_calls, render_calls
from benchmarks.measuring.running import Order, run
from benchmarks.policy.models import MODELS, simulate
from benchmarks.policy.plot import draw as draw_policy
from benchmarks.policy.plot import summary
from benchmarks.profile import profile
from benchmarks.profile import render as render_profile
from benchmarks.scale.cli import app as scale_app
from benchmarks.servers.running import ServerKind
from benchmarks.service.app import LIBRARIES
from benchmarks.service.picture import draw_streams
from benchmarks.service.running import CLIENTS, PHASE_SECONDS, measure_streams, render_streams
from benchmarks.showing.plot import needs_matplotlib
from benchmarks.showing.plot import plot as draw
from benchmarks.showing.readme import PROFILE_BEGIN, PROFILE_END, brief_table, replace_table, short_table
from benchmarks.showing.saving import RESULTS, is_profile, load, save
from benchmarks.showing.table import render
from benchmarks.showing.targets import LINES, Line, render_targets

GUIDE = Path("asyncsink/guide/speed.md")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

app.add_typer(scale_app, name="scale")

_Results = Annotated[
    list[Path] | None, typer.Argument(metavar="[RESULT]...", help="JSON files (default: those of benchmarks/results).")
]
_Second = Annotated[
    Path | None,
    typer.Option("--python", metavar="PATH", help="A second Python, in the same rounds; its environment is made."),
]
_Rounds = Annotated[int, typer.Option(min=1)]
_Quick = Annotated[bool, typer.Option("--quick", help="Smaller data sets, which are no result.")]
_Limit = Annotated[float, typer.Option(min=1, help="A publication is killed then.")]


@app.command()
def targets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[LINE]...", help="Default: every line.")] = None,
    *,
    rounds: _Rounds = 5,
    python: _Second = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="No round begins after so long.")] = None,
    quick: _Quick = False,
    again: Annotated[bool, typer.Option("--again", help="Measure also what is complete.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Measure nothing: print the table.")] = False,
    limit_seconds: _Limit = 300.0,
    folder: Annotated[Path, typer.Option(help="Where results are, and go.")] = RESULTS,
) -> None:
    """Measure what is to be shown, line by line, and print it beside its bounds.

    A line that is complete is not measured again; one whose time was over is gone on with after its last whole round.
    """
    chosen = [LINES[name] for name in _known(names or list(LINES), LINES, "line")]
    if quick and folder == RESULTS:
        raise typer.BadParameter("what --quick measures is no result; name another --folder for it.")
    if not show:
        ends = time.monotonic() + minutes * 60 if minutes else None
        second = _second(python)
        _end_in_order()
        waiting = [each for each in chosen if again or not _is_complete(each, folder, rounds, second)]
        _tell(f"{len(waiting)} lines, {rounds} rounds: about {_minutes(waiting, rounds)} minutes")
        for number, each in enumerate(waiting):
            if ends is not None and time.monotonic() > ends:
                break
            left = _minutes(waiting[number:], rounds)
            _tell(f"{each.name}: line {number + 1} of {len(waiting)}; about {left} minutes to go")
            order = Order(
                scenario=SCENARIOS[each.scenario],
                contenders=[CONTENDERS[name] for name in each.contenders],
                server=each.server,
                rounds=rounds,
                quick=quick,
                second=second if each.every_python else None,
                limit_seconds=limit_seconds,
                ends=ends,
                verify_objects_max=200,
            )
            before, path = None if again else _result_of(each, folder), folder / f"{each.name}.json"
            run(order, _tell, before=before, keep=lambda result, path=path: save(result, path))
    found = {each.name: result for each in LINES.values() if (result := _result_of(each, folder))}
    typer.echo(render_targets(chosen, found), nl=False)


@app.command("run")
def run_command(
    scenario: Annotated[str, typer.Argument(help="See `list`.")],
    *,
    contender: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all it is meant for.")] = None,
    server: Annotated[ServerKind, typer.Option(help="null, null-tls or seaweed.")] = "null",
    rounds: _Rounds = 5,
    python: _Second = None,
    quick: _Quick = False,
    limit_seconds: _Limit = 600.0,
    verify_all: Annotated[bool, typer.Option("--verify-all", help="Read back every object, not 2,000.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")] = None,
) -> None:
    """Measure one scenario. Everything is on loopback, and gone afterwards except for the JSON."""
    _known([scenario], SCENARIOS, "scenario")
    meant = [name for name, each in CONTENDERS.items() if each.takes_part(SCENARIOS[scenario])]
    order = Order(
        scenario=SCENARIOS[scenario],
        contenders=[CONTENDERS[name] for name in _known(contender or meant, CONTENDERS, "contender")],
        server=server,
        rounds=rounds,
        quick=quick,
        second=_second(python),
        limit_seconds=limit_seconds,
        verify_objects_max=None if verify_all else 2000,
    )
    _end_in_order()
    result = run(order, _tell, keep=lambda result: save(result, output) if output else None)
    typer.echo(render([result]))
    if any(one["status"] == "failed" for one in result["measurements"]):
        raise typer.Exit(1)


@app.command("profile")
def profile_command(
    rounds: _Rounds = 5,
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


@app.command("dask-kill")
@wraps(chaos.dask_kill)
def dask_kill_command(**given: Any) -> None:
    """See `chaos.cli.dask_kill`."""
    _end_in_order()
    chaos.dask_kill(**given)


app.command("plot-soak")(chaos.plot_soak)


@app.command("calls")
def calls_command(
    files: Annotated[int, typer.Option(min=100, help="In the source.")] = FILES,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes (default: it is not kept).")] = None,
) -> None:
    """Metadata calls and S3 requests of the parts of a split, beside those of one run. Needs strace."""
    _end_in_order()
    result = measure_calls(files=files, tell=_tell)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(render_calls(result), nl=False)


@app.command("service")
def service_command(
    libraries: Annotated[list[str] | None, typer.Argument(metavar="[LIBRARY]...", help="Default: all.")] = None,
    *,
    clients: Annotated[int, typer.Option(min=1)] = CLIENTS,
    seconds: Annotated[float, typer.Option(min=1, help="Of each phase.")] = PHASE_SECONDS,
    seed: int = 1,
    output: Annotated[Path | None, typer.Option(help="The JSON, and a picture beside it (default: neither).")] = None,
) -> None:
    """A service that streams uploads to S3, in bad weather and at its end, by asyncsink, obstore and aioboto3."""
    _end_in_order()
    chosen = _known(libraries or list(LIBRARIES), LIBRARIES, "library")
    result = measure_streams(chosen, clients=clients, seconds=seconds, seed=seed, tell=_tell)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
        needs_matplotlib()
        draw_streams(result, output.with_suffix(".png"))
    typer.echo(render_streams(result), nl=False)


@app.command("policy")
def policy_command(
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = GUIDE.parent / "images/policy.png",
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
    """Lines, scenarios and contenders, and whether these can run here."""
    for line in LINES.values():
        bounds = "; ".join(target.words for target in line.targets) or "no bound"
        typer.echo(f"line       {line.name:20}{line.scenario}, {line.server}: {bounds}")
    for scenario in SCENARIOS.values():
        typer.echo(f"scenario   {scenario.name:20}{scenario.title}")
    for contender in CONTENDERS.values():
        typer.echo(f"contender  {contender.name:20}{contender.title}: {contender.missing() or 'ready'}")


@app.command()
def table(results: _Results = None) -> None:
    """Print results as Markdown."""
    loaded = _loaded(results)
    if runs := [result for result in loaded if not is_profile(result)]:
        typer.echo(render(runs), nl=False)
    for result in filter(is_profile, loaded):
        typer.echo(render_profile(result))


@app.command()
def readme(
    results: _Results = None,
    *,
    guide: Annotated[Path, typer.Option(help="The page of the whole table, and of a profile's.")] = GUIDE,
    readme: Annotated[Path, typer.Option(help="Where the brief table is.")] = Path("README.md"),
) -> None:
    """Put a table of results, and that of a profile, into the guide, and a brief one into the README."""
    loaded = _loaded(results)
    try:
        if runs := [result for result in loaded if not is_profile(result)]:
            replace_table(guide, short_table(runs))
            replace_table(readme, brief_table(runs))
        for result in filter(is_profile, loaded):
            replace_table(guide, render_profile(result), PROFILE_BEGIN, PROFILE_END)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def plot(
    results: _Results = None,
    output: Annotated[Path, typer.Option(help="The picture.")] = GUIDE.parent / "images/benchmarks.png",
) -> None:
    """Draw small files, large files, a cohort and late answers as a PNG (needs matplotlib)."""
    needs_matplotlib()
    draw([result for result in _loaded(results) if not is_profile(result)], output)


def _loaded(paths: list[Path] | None) -> list[dict[str, Any]]:
    try:
        return [load(path) for path in paths or sorted(RESULTS.glob("*.json"))]
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _result_of(line: Line, folder: Path) -> dict[str, Any] | None:
    path = folder / f"{line.name}.json"
    try:
        return load(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _is_complete(line: Line, folder: Path, rounds: int, second: Python | None) -> bool:
    result = _result_of(line, folder)
    if result is None or result["quick"] or not result["complete"] or result["rounds"] < rounds:
        return False
    return (
        second is None
        or second.tag in result["pythons"]
        or not any(each["every_python"] for each in result["contenders"])
    )


def _minutes(lines: list[Line], rounds: int) -> str:
    return f"{sum(each.seconds * (rounds + 1) for each in lines) / 60:.0f}"


def _second(python: Path | None) -> Python | None:
    try:
        return second_python(python) if python else None
    except RuntimeError as error:
        raise typer.BadParameter(str(error)) from error


def _known(names: list[str], known: Mapping[str, Any], what: str) -> list[str]:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is no {what}; expected one of {', '.join(known)}.")
    return names


def _end_in_order() -> None:
    """SIGTERM leaves through every `with`, so that servers stop and files go.

    Commands that are started obey SIGINT: in the background of a shell without job control it would be ignored.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell(text: str) -> None:
    typer.echo(text, err=True)
