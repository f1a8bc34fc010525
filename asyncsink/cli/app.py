"""The commands: their arguments, help pages and examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import click

from asyncsink.cli.flags import Argument, Flag, HelpPage, HelpPages
from asyncsink.cli.output import Output, set_up_logging, usage_error
from asyncsink.options.schema import Command

EXIT_CODES = (
    "Exit codes: 0 all published (or grabbed) or already there; 1 something was not; 2 wrong usage or configuration, "
    "nothing was sent; 130 interrupted (143 by SIGTERM)."
)
_SOURCE = (
    "A directory; an outputs file (.json, .yaml: {attribute: paths}); a manifest (.csv, .tsv, .jsonl: source, key); or "
    "- for JSON lines on stdin."
)
_DESTINATION = "s3://bucket/prefix, or a local directory."
_MANIFESTS = "What export --manifest wrote; or a directory with receipts-*.jsonl."


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"asyncsink {version('asyncsink')}")
        ctx.exit()


app = HelpPages(
    "asyncsink",
    help="Publish the outputs of workflows to S3 and bring them back, with proof for every object.",
    epilog=EXIT_CODES,
    params=[Flag("--version", "Show the version and leave.", callback=_version, is_eager=True, expose_value=False)],
)


def command(
    *parameters: click.Parameter, example: str, rows: Command | None = None, name: str = ""
) -> Callable[[Callable[..., int]], HelpPage]:
    """Make a command of a function, which gets the values of `parameters`, and of the options of `rows`, by name. Its
    docstring is the help."""

    def made(function: Callable[..., int]) -> HelpPage:
        page = HelpPage(
            name or function.__name__,
            rows=rows,
            callback=function,
            params=list(parameters),
            help=inspect.cleandoc(function.__doc__ or ""),
            epilog=f"Example: asyncsink {example}",
        )
        app.add_command(page)
        return page

    return made


@command(
    Argument("SOURCE", _SOURCE),
    Argument("DESTINATION", _DESTINATION),
    Flag("--dry-run", "Look and compare, but send nothing (as asyncsink plan)."),
    Flag(
        "--dask",
        "Have the workers of a Dask cluster send the files: its address, its scheduler file, or local:N for N "
        "processes of this machine.",
        metavar="CLUSTER",
    ),
    rows="export",
    example="export derivatives s3://my-bucket/study --manifest study.jsonl",
)
def export(source: str, destination: str, dry_run: bool, dask: str | None, **given: Any) -> int:
    """Publish SOURCE below DESTINATION. What is there already with the same checksum is not sent again."""
    if dask is not None:
        from asyncsink.cli.export import export_on_cluster

        return export_on_cluster(source, destination, given, cluster=dask, dry_run=dry_run, output=_output(given))
    return _export(source, destination, given, dry_run=dry_run)


@command(
    Argument("SOURCE", _SOURCE),
    Argument("DESTINATION", _DESTINATION),
    rows="export",
    example="plan outputs.yaml s3://my-bucket/study --substitute _subject_id_=sub-",
)
def plan(source: str, destination: str, **given: Any) -> int:
    """Show what export would do, and send nothing."""
    return _export(source, destination, given, dry_run=True)


@command(
    Argument("SOURCE", _SOURCE),
    Argument("DESTINATION", _DESTINATION),
    Argument("DIR", "Where the parts go: a new or empty directory."),
    Flag("--parts", "As many parts, of about equal bytes and files.", metavar="N"),
    Flag("--part-bytes", "Most bytes of a part (default 4GiB).", metavar="SIZE"),
    Flag("--part-objects", "Most files of a part (default 10,000).", metavar="N"),
    rows="split",
    example="split derivatives s3://my-bucket/study parts --parts 64",
)
def split(
    source: str,
    destination: str,
    dir: str,  # noqa: A002 - as the help page has it
    *,
    parts: str | None,
    part_bytes: str | None,
    part_objects: str | None,
    **given: Any,
) -> int:
    """Look at SOURCE once, and cut it into parts that many machines publish, each with `asyncsink run`.

    Nothing is sent.
    """
    from asyncsink.cli.split import split_command

    cutting = (parts, part_bytes, part_objects)
    return split_command(source, destination, dir, given, cutting=cutting, output=_output(given))


@command(
    Argument("DIR", "What asyncsink split has made."),
    Flag("--part", "Its number; I-J; auto: the array task's; or missing: not complete.", metavar="I", required=True),
    Flag("--root", "The source's directory OLD is NEW on this machine; repeatable.", metavar="OLD=NEW", repeated=True),
    rows="run",
    example="run parts --part auto --root /lab=/mnt/lab",
)
def run(dir: str, part: str, root: Sequence[str], **given: Any) -> int:  # noqa: A002 - as the help page has it
    """Publish parts of a split. Their receipts are in DIR afterwards."""
    from asyncsink.cli.split import run_command

    return run_command(dir, part, list(root), given, output=_output(given))


@command(
    Argument("KIND", "slurm, batch (AWS Batch) or dask-slurm."),
    Argument("DIR", "What asyncsink split has made; dask-slurm can do without, and splits itself.", required=False),
    example="recipe slurm parts > publish.sh && bash publish.sh",
)
def recipe(kind: str, dir: str | None) -> int:  # noqa: A002 - as the help page has it
    """Print a script or definition with which a scheduler publishes the parts of a split. It says how to use it."""
    from asyncsink.cli.split import recipe_command

    return recipe_command(kind, dir)


def _export(source: str, destination: str, given: dict[str, Any], *, dry_run: bool) -> int:
    from asyncsink.cli.export import export_command

    return export_command(source, destination, given, dry_run=dry_run, output=_output(given))


@command(
    Argument("SOURCE", "s3://bucket/prefix, or a single object."),
    Argument("DIRECTORY", "Where the files go, without the prefix."),
    rows="grab",
    example="grab s3://my-bucket/raw data --template 'sub-0[1-3]/func/.*'",
)
def grab(source: str, directory: str, **given: Any) -> int:
    """Bring objects from S3 into DIRECTORY. What is here already with the same content is not received again."""
    from asyncsink.cli.grab import grab_command

    return grab_command(source, directory, given, output=_output(given))


@command(
    Argument("MANIFEST...", _MANIFESTS),
    Flag("--read-back", "Download every object and compute its checksum again."),
    Flag(
        "--manifest-endpoint",
        "Ask the server that MANIFEST names, though nothing else names it: it is sent your credentials.",
    ),
    rows="verify",
    example="verify study.jsonl --read-back",
)
def verify(manifest: Sequence[str], read_back: bool, manifest_endpoint: bool, **given: Any) -> int:
    """Check that every object of the manifests is still there, with its recorded size and checksum."""
    from asyncsink.cli.maintenance import verify_command

    return verify_command(
        list(manifest), given, read_back=read_back, manifest_endpoint=manifest_endpoint, output=_output(given)
    )


@command(
    Argument("MANIFEST...", _MANIFESTS),
    Flag("--out", "The merged manifest.", metavar="FILE", short="-o", required=True),
    rows="merge",
    example="merge sent/sub-*.jsonl -o study.jsonl",
)
def merge(manifest: Sequence[str], out: str, **given: Any) -> int:
    """Merge manifests into one that lists every object once.

    Missing, failed and interrupted manifests, and keys with two different objects, are named: exit code 1.
    """
    from asyncsink.cli.maintenance import merge_command

    return merge_command(list(manifest), out, output=_output(given))


@command(
    Argument("DESTINATION", "s3://bucket/prefix: what lies below the prefix as a folder."),
    Flag("--older-than", "Such as 90s, 15m, 24h or 7d: longer than your longest run.", metavar="AGE", required=True),
    Flag("--dry-run", "Show them, and abort none."),
    rows="abort-uploads",
    name="abort-uploads",
    example="abort-uploads s3://my-bucket/study --older-than 7d --dry-run",
)
def abort_uploads(destination: str, older_than: str, dry_run: bool, **given: Any) -> int:
    """Abort multipart uploads that nobody will finish. Their parts are invisible, and cost money.

    Exit code 1 where one may still be open.
    """
    from asyncsink.cli.maintenance import abort_uploads_command

    return abort_uploads_command(destination, given, older_than=older_than, dry_run=dry_run, output=_output(given))


@command(
    Argument("DESTINATION", "s3://bucket/prefix, below which a folder for the objects is made."),
    Flag("--mix", "Weights of put, get and head (default put).", metavar="MIX", default="put"),
    Flag(
        "--sizes",
        "Of the objects: 16KiB; lognormal:16KiB:1.2; or a text file with one size a line (default 16KiB).",
        metavar="SIZES",
        default="16KiB",
    ),
    Flag(
        "--ramp", "Operations at the same time, step by step (default 1,4,16,64).", metavar="N,N", default="1,4,16,64"
    ),
    Flag("--seconds", "Of each step (default 30).", metavar="N", default="30"),
    Flag(
        "--rate",
        "Operations that begin in a second (open loop: times count from when one was due); else each begins when the "
        "one before it has ended.",
        metavar="N",
    ),
    Flag("--seed", "Of sizes, contents and order (default 1).", metavar="N", default="1"),
    Flag("--cleanup", "Delete the objects at the end."),
    Flag("--report", "Also write a page with plots.", metavar="FILE"),
    rows="bench",
    example="bench s3://my-bucket/tmp --mix put:80,get:15,head:5 --sizes lognormal:16KiB:1.2 --cleanup",
)
def bench(
    destination: str,
    *,
    mix: str,
    sizes: str,
    ramp: str,
    seconds: str,
    rate: str | None,
    seed: str,
    cleanup: bool,
    report: str | None,
    **given: Any,
) -> int:
    """Measure a server: operations a second, and the times of each kind of operation, with synthetic objects."""
    from asyncsink.cli.bench import bench_command

    order = {
        "mix": mix, "sizes": sizes, "ramp": ramp, "seconds": seconds, "rate": rate, "seed": seed, "cleanup": cleanup
    }  # fmt: skip
    return bench_command(destination, given, order=order, page=report, output=_output(given))


@command(
    Flag("--port", "Port on 127.0.0.1; 0, the default, is any free one.", metavar="N", type=int, default=0),
    Flag("--dir", "Keep the objects here; else they go with the server.", metavar="D"),
    Flag("--bucket", "Bucket to create; repeatable (default results).", metavar="B", repeated=True),
    example="devserver --port 8333 --dir ./s3-data --bucket results",
)
def devserver(port: int, dir: str | None, bucket: Sequence[str]) -> int:  # noqa: A002 - as the help page has it
    """Run a real S3 server on this machine, for trying things out, until Ctrl-C."""
    from asyncsink.cli.maintenance import DEFAULT_BUCKET, devserver_command

    return devserver_command(port, dir, list(bucket) or [DEFAULT_BUCKET])


@command(
    Flag("--nipype", "Workflows in Nipype instead, beside its DataSink."),
    Flag("--subjects", "How many.", metavar="N", type=click.IntRange(min=1), hidden=True),
    Flag("--large-file", "Its size.", metavar="SIZE", default="300MB", hidden=True),
    example="demo",
)
def demo(nipype: bool, subjects: int | None, large_file: str) -> int:
    """Show the whole story on a small cohort and a server of its own, in half a minute.

    Needs 1 GB of free space for temporary files, and leaves nothing behind.
    """
    if nipype:
        from asyncsink.cli.demos.nipype_study import demo_nipype_command

        return demo_nipype_command(subjects or 4)
    from asyncsink.cli.demos.cohort import demo_command

    return demo_command(subjects or 12, large_file)


def _output(given: dict[str, Any]) -> Output:
    set_up_logging(given["verbose"])
    return Output(json=given["json"], quiet=given["quiet"], verbose=given["verbose"])


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        # Not `main` of click, which makes another error of KeyboardInterrupt.
        with app.make_context("asyncsink", list(arguments) or ["--help"]) as ctx:
            code: int = app.invoke(ctx)
            return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "asyncsink"
        usage_error(_sentence(error.format_message()), f"Try: {path} --help", as_json="--json" in arguments)
        return 2


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", ")")) else f"{message}."
