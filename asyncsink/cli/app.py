"""The commands: their arguments, help pages and examples.

No `from __future__ import annotations`: each start would compile the texts of all annotations to evaluate them.
"""

from collections.abc import Sequence
from copy import copy
from typing import Annotated, Any

import typer

from asyncsink.cli.flags import takes
from asyncsink.cli.output import Output, set_up_logging, usage_error

EXIT_CODES = (
    "Exit codes: 0 all published (or grabbed) or already there; 1 something was not; 2 wrong usage or configuration, "
    "nothing was sent; 130 interrupted (143 by SIGTERM)."
)

app = typer.Typer(
    name="asyncsink",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)

_SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A directory; an outputs file (.json, .yaml: {attribute: paths}); a manifest (.csv, .tsv, .jsonl: source, "
        "key); or - for JSON lines on stdin.",
    ),
]
_DestinationArgument = Annotated[
    str, typer.Argument(metavar="DESTINATION", help="s3://bucket/prefix, or a local directory.")
]
_MANIFESTS = "What export --manifest wrote; or a directory with receipts-*.jsonl."


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"asyncsink {version('asyncsink')}")
        raise typer.Exit


@app.callback()
def _tool(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Publish the outputs of workflows to S3 and bring them back, with proof for every object."""


@app.command(epilog="Example: asyncsink export derivatives s3://my-bucket/study --manifest study.jsonl")
@takes("export")
def export(
    source: _SourceArgument,
    destination: _DestinationArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look and compare, but send nothing (as asyncsink plan).")
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            metavar="CLUSTER",
            help="Have the workers of a Dask cluster send the files: its address, its scheduler file, or local:N for N "
            "processes of this machine.",
        ),
    ] = None,
    **given: Any,
) -> int:
    """Publish SOURCE below DESTINATION. What is there already with the same checksum is not sent again."""
    if dask is not None:
        from asyncsink.cli.export import export_on_cluster

        return export_on_cluster(source, destination, given, cluster=dask, dry_run=dry_run, output=_output(given))
    return _export(source, destination, given, dry_run=dry_run)


@app.command(epilog="Example: asyncsink plan outputs.yaml s3://my-bucket/study --substitute _subject_id_=sub-")
@takes("export")
def plan(source: _SourceArgument, destination: _DestinationArgument, **given: Any) -> int:
    """Show what export would do, and send nothing."""
    return _export(source, destination, given, dry_run=True)


@app.command(epilog="Example: asyncsink split derivatives s3://my-bucket/study parts --parts 64")
@takes("split")
def split(
    source: _SourceArgument,
    destination: _DestinationArgument,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where the parts go: a new or empty directory.")],
    *,
    parts: Annotated[
        str | None, typer.Option("--parts", metavar="N", help="As many parts, of about equal bytes and files.")
    ] = None,
    part_bytes: Annotated[
        str | None, typer.Option("--part-bytes", metavar="SIZE", help="Most bytes of a part (default 4GiB).")
    ] = None,
    part_objects: Annotated[
        str | None, typer.Option("--part-objects", metavar="N", help="Most files of a part (default 10,000).")
    ] = None,
    **given: Any,
) -> int:
    """Look at SOURCE once, and cut it into parts that many machines publish, each with `asyncsink run`.

    Nothing is sent.
    """
    from asyncsink.cli.split import split_command

    cutting = (parts, part_bytes, part_objects)
    return split_command(source, destination, directory, given, cutting=cutting, output=_output(given))


@app.command(epilog="Example: asyncsink run parts --part auto --root /lab=/mnt/lab")
@takes("run")
def run(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="What asyncsink split has made.")],
    part: Annotated[
        str,
        typer.Option("--part", metavar="I", help="Its number; I-J; auto: the array task's; or missing: not complete."),
    ],
    root: Annotated[
        list[str] | None,
        typer.Option(
            "--root", metavar="OLD=NEW", help="The source's directory OLD is NEW on this machine; repeatable."
        ),
    ] = None,
    **given: Any,
) -> int:
    """Publish parts of a split. Their receipts are in DIR afterwards."""
    from asyncsink.cli.split import run_command

    return run_command(directory, part, root or [], given, output=_output(given))


@app.command(epilog="Example: asyncsink recipe slurm parts > publish.sh && bash publish.sh")
def recipe(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="slurm, batch (AWS Batch) or dask-slurm.")],
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR", help="What asyncsink split has made; dask-slurm can do without, and splits itself."
        ),
    ] = None,
) -> int:
    """Print a script or definition with which a scheduler publishes the parts of a split. It says how to use it."""
    from asyncsink.cli.split import recipe_command

    return recipe_command(kind, directory)


def _export(source: str, destination: str, given: dict[str, Any], *, dry_run: bool) -> int:
    from asyncsink.cli.export import export_command

    return export_command(source, destination, given, dry_run=dry_run, output=_output(given))


@app.command(epilog="Example: asyncsink grab s3://my-bucket/raw data --template 'sub-0[1-3]/func/.*'")
@takes("grab")
def grab(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="s3://bucket/prefix, or a single object.")],
    directory: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Where the files go, without the prefix.")],
    **given: Any,
) -> int:
    """Bring objects from S3 into DIRECTORY. What is here already with the same content is not received again."""
    from asyncsink.cli.grab import grab_command

    return grab_command(source, directory, given, output=_output(given))


@app.command(epilog="Example: asyncsink verify study.jsonl --read-back")
@takes("verify")
def verify(
    manifest: Annotated[list[str], typer.Argument(metavar="MANIFEST...", help=_MANIFESTS)],
    read_back: Annotated[
        bool, typer.Option("--read-back", help="Download every object and compute its checksum again.")
    ] = False,
    manifest_endpoint: Annotated[
        bool,
        typer.Option(
            "--manifest-endpoint",
            help="Ask the server that MANIFEST names, though nothing else names it: it is sent your credentials.",
        ),
    ] = False,
    **given: Any,
) -> int:
    """Check that every object of the manifests is still there, with its recorded size and checksum."""
    from asyncsink.cli.maintenance import verify_command

    return verify_command(
        manifest, given, read_back=read_back, manifest_endpoint=manifest_endpoint, output=_output(given)
    )


@app.command(epilog="Example: asyncsink merge sent/sub-*.jsonl -o study.jsonl")
@takes("merge")
def merge(
    manifest: Annotated[list[str], typer.Argument(metavar="MANIFEST...", help=_MANIFESTS)],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The merged manifest.", show_default=False)],
    **given: Any,
) -> int:
    """Merge manifests into one that lists every object once.

    Missing, failed and interrupted manifests, and keys with two different objects, are named: exit code 1.
    """
    from asyncsink.cli.maintenance import merge_command

    return merge_command(manifest, out, output=_output(given))


@app.command(
    name="abort-uploads", epilog="Example: asyncsink abort-uploads s3://my-bucket/study --older-than 7d --dry-run"
)
@takes("abort-uploads")
def abort_uploads(
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="s3://bucket/prefix: what lies below the prefix as a folder.")
    ],
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="AGE", help="Such as 90s, 15m, 24h or 7d: longer than your longest run."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them, and abort none.")] = False,
    **given: Any,
) -> int:
    """Abort multipart uploads that nobody will finish. Their parts are invisible, and cost money.

    Exit code 1 where one may still be open.
    """
    from asyncsink.cli.maintenance import abort_uploads_command

    return abort_uploads_command(destination, given, older_than=older_than, dry_run=dry_run, output=_output(given))


@app.command(epilog="Example: asyncsink devserver --port 8333 --dir ./s3-data --bucket results")
def devserver(
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port on 127.0.0.1; 0 is any free one.")] = 0,
    directory: Annotated[
        str | None, typer.Option("--dir", metavar="D", help="Keep the objects here; else they go with the server.")
    ] = None,
    bucket: Annotated[
        list[str] | None, typer.Option("--bucket", metavar="B", help="Bucket to create; repeatable (default: results).")
    ] = None,
) -> int:
    """Run a real S3 server on this machine, for trying things out, until Ctrl-C."""
    from asyncsink.cli.maintenance import DEFAULT_BUCKET, devserver_command

    return devserver_command(port, directory, bucket or [DEFAULT_BUCKET])


@app.command(epilog="Example: asyncsink demo")
def demo(
    nipype: Annotated[bool, typer.Option("--nipype", help="Workflows in Nipype instead, beside its DataSink.")] = False,
    subjects: Annotated[int | None, typer.Option("--subjects", hidden=True, min=1)] = None,
    large_file: Annotated[str, typer.Option("--large-file", hidden=True)] = "300MB",
) -> int:
    """Show the whole story on a small cohort and a server of its own, in half a minute.

    Needs 1 GB of free space for temporary files, and leaves nothing behind.
    """
    if nipype:
        from asyncsink.cli.demo_nipype import demo_nipype_command

        return demo_nipype_command(subjects or 4)
    from asyncsink.cli.demo import demo_command

    return demo_command(subjects or 12, large_file)


def _output(given: dict[str, Any]) -> Output:
    set_up_logging(given["verbose"])
    return Output(json=given["json"], quiet=given["quiet"], verbose=given["verbose"])


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments:
        arguments = ["--help"]
    try:
        code = _only(arguments[0])(list(arguments), prog_name="asyncsink", standalone_mode=False)
    except Exception as error:
        # The classes of typer's usage errors have moved between its releases; this method has not.
        worded = getattr(error, "format_message", None)
        if worded is None:
            raise
        path = getattr(getattr(error, "ctx", None), "command_path", "asyncsink")
        usage_error(_sentence(worded()), f"Try: {path} --help", as_json="--json" in arguments)
        return 2
    return int(code or 0)


def _only(name: str) -> typer.Typer:
    """The app with only the command `name`, since typer builds every command it has; the whole app for another name."""
    own = [
        command
        for command in app.registered_commands
        if name in (command.name, getattr(command.callback, "__name__", ""))
    ]
    if not own:
        return app
    alone = copy(app)
    alone.registered_commands = own
    return alone


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", ")")) else f"{message}."
