"""Words of other tools, mistyped words, and words in the wrong place: what asyncsink has instead. Loaded for errors.

A hint that is not close is worse than none: it is given from a ratio of `CLOSE` on.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence

import click

from asyncsink.cli.flags import HelpPage, is_bucket
from asyncsink.options.values import CLOSE

_UP = "asyncsink export DIR s3://bucket/prefix"
_DOWN = "asyncsink grab s3://bucket/prefix DIR"
_NO_DELETE = "No object is deleted here; the AWS CLI does it: aws s3 rm s3://bucket/key"

COMMANDS_ELSEWHERE = {
    **dict.fromkeys(
        ("cp", "copy", "copyto", "sync", "upload", "put", "push", "send", "publish", "up", "rsync", "backup"), _UP
    ),
    **dict.fromkeys(("mv", "move", "moveto"), f"{_UP}, and remove the files when asyncsink verify has proved them"),
    **dict.fromkeys(("download", "get", "pull", "fetch", "down", "restore", "cat", "head", "copyurl", "clone"), _DOWN),
    **dict.fromkeys(("rm", "delete", "deletefile", "purge", "del", "remove", "rmdir"), _NO_DELETE),
    "rb": "No bucket is removed here; the AWS CLI does it: aws s3 rb s3://bucket",
    **dict.fromkeys(
        ("lsf", "lsl", "lsd", "lsjson", "list", "dir", "tree", "du", "size", "ncdu", "stat", "find"),
        "asyncsink ls s3://…",
    ),
    **dict.fromkeys(
        ("compare", "diff", "cryptcheck", "checksum", "md5sum", "sha1sum", "hashsum"),
        "asyncsink check DIR s3://bucket/prefix, or with a receipt: asyncsink verify FILE",
    ),
    **dict.fromkeys(("why", "which", "route", "trace"), "asyncsink explain PATH… s3://bucket/prefix --source DIR"),
    **dict.fromkeys(
        ("log", "logs", "history", "status", "journal", "journals", "receipts", "resume"), "asyncsink runs"
    ),
    **dict.fromkeys(("failures", "failed", "errors"), "asyncsink runs show FILE"),
    **dict.fromkeys(("validate", "audit", "prove"), "asyncsink verify FILE"),
    **dict.fromkeys(("dry-run", "dryrun", "preview", "simulate"), "asyncsink plan DIR s3://bucket/prefix"),
    **dict.fromkeys(
        ("mb", "mkdir", "make-bucket"), "No bucket is made here; the AWS CLI does it: aws s3 mb s3://bucket"
    ),
    **dict.fromkeys(
        ("pipe", "rcat", "stdin"), f"{_UP}; JSON lines of files come from stdin: asyncsink export - s3://…"
    ),
    **dict.fromkeys(("serve", "server", "minio", "dev-server"), "asyncsink devserver"),
    **dict.fromkeys(("configure", "settings", "options", "env"), "asyncsink config"),
    **dict.fromkeys(("benchmark", "test", "perf", "speedtest"), "asyncsink bench s3://bucket/prefix"),
    **dict.fromkeys(
        ("cleanup", "abort", "abort-multipart", "list-multipart"), "asyncsink abort-uploads s3://… --older-than 7d"
    ),
    **dict.fromkeys(
        ("submit", "slurm", "sbatch", "array"), "asyncsink split SOURCE s3://… DIR, then: asyncsink recipe slurm DIR"
    ),
    **dict.fromkeys(("man", "docs", "guide", "manual", "tutorial"), "asyncsink help"),
    **dict.fromkeys(("version", "about"), "asyncsink --version"),
    **dict.fromkeys(
        ("presign", "link", "select", "mount", "bisync", "dedupe"),
        "There is nothing like it here: files are published, and grabbed.",
    ),
    **dict.fromkeys(("s3", "s3api", "aws"), _UP),
}
"""Commands of rclone, s5cmd, the AWS CLI and others, and what does their work here."""

_THREADS = "--concurrency N, or -j N (default: as many as help)"
_FOLLOW = "--symlinks follow"
_KEYS = "--creds-path FILE, or --profile NAME: a command line shows keys to others"

OPTIONS_ELSEWHERE = {
    # rclone
    "--bwlimit": "--bandwidth 10MB",
    **dict.fromkeys(("--transfers", "--checkers", "--multi-thread-streams", "--s3-upload-concurrency"), _THREADS),
    **dict.fromkeys(
        ("--progress", "-P", "--stats", "--stats-one-line"),
        "It is not needed: progress is shown on a terminal by itself.",
    ),
    **dict.fromkeys(("--log-level", "--dump"), "-v, or -vv"),
    **dict.fromkeys(("--s3-chunk-size", "--multipart-chunksize", "--chunk-size"), "--part-size 16MiB"),
    "--s3-storage-class": "--storage-class CLASS",
    "--s3-endpoint": "--endpoint-url URL",
    "--s3-region": "--region NAME",
    "--s3-acl": "--acl ACL",
    "--s3-profile": "--profile NAME",
    "--s3-server-side-encryption": "--sse KIND",
    "--s3-sse-kms-key-id": "--sse-kms-key-id ID",
    **dict.fromkeys(("--s3-access-key-id", "--s3-secret-access-key", "--access-key", "--secret-key"), _KEYS),
    **dict.fromkeys(("--aws-access-key-id", "--aws-secret-access-key", "--key", "--secret"), _KEYS),
    **dict.fromkeys(("--fast-list", "--no-traverse", "--s3-no-check-bucket", "--s3-no-head"), "It is not needed."),
    **dict.fromkeys(("--ignore-existing", "--immutable", "--no-clobber", "--no-overwrite"), "--overwrite never"),
    **dict.fromkeys(("--update", "-u", "--if-source-newer", "--exact-timestamps"), "--overwrite size-mtime"),
    **dict.fromkeys(("--size-only", "--if-size-differ"), "--overwrite size"),
    **dict.fromkeys(("--ignore-times", "-I"), "--overwrite always"),
    "--max-age": "--newer-than 7d",
    "--min-age": "--older-than 7d",
    "--max-delete": "--delete-max N",
    **dict.fromkeys(
        ("--filter", "--filter-from", "-F"), "--exclude PATTERN, --include PATTERN, or --exclude-from FILE"
    ),
    "--config": "The variable ASYNCSINK_CONFIG=FILE names a file of settings; see: asyncsink help shell",
    **dict.fromkeys(
        ("--cache-control", "--content-disposition", "--content-encoding", "--content-language", "--expires"),
        "It is not supported: objects get --content-type, --metadata and --tag.",
    ),
    **dict.fromkeys(("--copy-links", "-L", "--follow-symlinks", "--follow"), _FOLLOW),
    **dict.fromkeys(("--skip-links", "--no-follow-symlinks", "--links", "-l"), "--symlinks skip"),
    **dict.fromkeys(("--delete", "--delete-after", "--delete-during", "--del"), "--delete-extraneous"),
    "--delete-excluded": _NO_DELETE,
    **dict.fromkeys(("--low-level-retries", "--retry-count", "--retries-sleep", "--max-retries"), "--retries N"),
    **dict.fromkeys(("--timeout", "--contimeout", "--cli-read-timeout", "--max-duration"), "--give-up-after 10m"),
    "--buffer-size": "--memory 512MiB",
    **dict.fromkeys(("--use-json-log", "--output-format", "--format"), "--json"),
    "--header-upload": "--metadata NAME=VALUE, or --content-type TYPE",
    **dict.fromkeys(("--ca-cert", "--no-check-certificate", "--no-verify-ssl", "--insecure"), "--ca-bundle FILE"),
    # s5cmd
    **dict.fromkeys(("--numworkers", "--workers", "--threads", "--jobs", "--parallel", "--num-threads"), _THREADS),
    **dict.fromkeys(("--no-sign-request", "--unsigned", "--no-sign"), "--anonymous"),
    "--credentials-file": "--creds-path FILE",
    "--stat": "It is not needed: the summary has it.",
    "--log": "-v, or -vv",
    # the AWS CLI, s3cmd
    **dict.fromkeys(("--dryrun", "--simulate", "--plan", "--check-only"), "--dry-run, or -n"),
    **dict.fromkeys(("--recursive", "-r", "-R", "-a", "--archive"), "It is not needed: a directory goes as a whole."),
    **dict.fromkeys(("--endpoint", "--host", "--endpoint_url"), "--endpoint-url URL"),
    **dict.fromkeys(("--only-show-errors", "--no-progress", "--silent", "-s"), "--quiet, or -q"),
    "--debug": "-v, or -vv",
    "--output": "--json",
    "--checksum-algorithm": "--checksum CRC64NVME",
    "--server-side-encryption": "--sse KIND",
    "--sse-c": "--sse file:KEY",
    "--sse-c-key": "--sse file:KEY",
    "--grants": "--acl ACL",
    "--requester-pays": "--request-payer",
    **dict.fromkeys(("--force", "-f", "--force-upload"), "--overwrite always"),
    **dict.fromkeys(("-y", "--no-confirm", "--interactive", "-i"), "It is not needed: no question is asked here."),
    **dict.fromkeys(
        ("--resume", "--partial", "--continue", "-c", "--append"),
        "It is not needed: the next run goes on where this one was stopped.",
    ),
    **dict.fromkeys(
        ("--compress", "-z", "--gzip"), "There is nothing like it here: files are published byte for byte."
    ),
    **dict.fromkeys(("--rename", "--sed", "--transform"), "--substitute OLD=NEW"),
    **dict.fromkeys(("--prefix", "--folder"), "s3://bucket/prefix as DESTINATION, or --container NAME"),
    **dict.fromkeys(("--tags", "--tagging"), "--tag NAME=VALUE"),
    **dict.fromkeys(("--limit-rate", "--rate-limit", "--limit-upload", "--max-bandwidth"), "--bandwidth 10MB"),
    "--receipt": "--manifest FILE",
    # of listings and comparisons
    **dict.fromkeys(("--summarize", "--human-readable", "-H"), "It is not needed: sizes and totals are shown."),
    **dict.fromkeys(
        ("--differ", "--match-on-dst", "--missing-on-dst", "--missing-on-src", "--differ-on-dst"), "--combined"
    ),
    "--download": "asyncsink verify FILE --read-back",
}
"""Options of rclone, s5cmd, the AWS CLI, s3cmd and rsync, and asyncsink's own."""

_EVERYTHING = "It is not needed: everything below SOURCE comes."
_CHOOSE = "--template EXPRESSION, or --template 'PATTERN' --glob: they choose objects"
_COMPARED = "It is not needed: checksums are compared wherever both sides have one."

OPTIONS_OF_ONE_COMMAND: dict[str, dict[str, str]] = {
    "export": dict.fromkeys(
        ("-y", "--no-confirm", "--interactive", "-i"),
        "--yes, with --delete-extraneous: nothing else is asked",
    ),
    "plan": dict.fromkeys(("--dry-run", "-n", "--dryrun"), "It is not needed: a plan sends nothing."),
    "grab": {
        **dict.fromkeys(("--recursive", "-r", "-R", "-a"), _EVERYTHING),
        **dict.fromkeys(("--exclude", "--include", "--filter", "--match"), _CHOOSE),
        **dict.fromkeys(("--dry-run", "-n", "--dryrun"), "asyncsink ls s3://… shows what would come"),
    },
    "ls": dict.fromkeys(("-R", "-a"), "-r"),
    "check": dict.fromkeys(("--checksum", "-c"), _COMPARED),
    "verify": dict.fromkeys(("--checksum", "-c"), _COMPARED),
}
"""By command, the options that mean another thing there than in `OPTIONS_ELSEWHERE`."""


class Hinted(click.UsageError):
    """A wrong word, with lines that lead on."""

    def __init__(self, message: str, ctx: click.Context | None, hints: Iterable[str] = ()) -> None:
        super().__init__(message, ctx)
        self.hints = [f"try: {hint}" if hint.startswith(("-", "asyncsink ")) else hint for hint in hints]


def unknown_command(word: str, words: Sequence[str], ctx: click.Context, commands: Iterable[str]) -> Hinted:
    """The error for a first word that is no command.

    Args:
        words: those behind it.
    """
    message = f"There is no command {word!r}."
    if ctx.command.name == "runs" and word.lower() in ("list", "ls"):
        return Hinted(f"asyncsink runs has no command {word!r}.", ctx, ["asyncsink runs"])
    found = COMMANDS_ELSEWHERE.get(word.lower()) if ctx.parent is None else None
    if found is not None:
        return Hinted(message, ctx, [_with_own_words(found, words)])
    near = _near(word.lower(), [*commands])
    places = [each for each in (word, *words) if not each.startswith("-")]
    if not near and len(places) == 2 and _is_path(word) and any(map(_is_place, places)):  # the command was left out
        return Hinted(message, ctx, [_line_of(places)])
    return Hinted(message, ctx, [f"{ctx.command_path} {each}" for each in near])


def unknown_option(option: str, ctx: click.Context | None) -> Hinted:
    """The error for an option that the command has not."""
    command = ctx.command if ctx is not None else None
    message = f"There is no option {option}."
    if ctx is None or not isinstance(command, HelpPage):
        return Hinted(message, ctx)
    if isinstance(command, click.Group) and any(option in flags for _, flags in _flags_of_others(ctx)):
        return Hinted(f"The option {option} stands behind the command.", ctx, [f"asyncsink COMMAND {option}"])
    own = _flags(command, ctx)
    meant = OPTIONS_OF_ONE_COMMAND.get(str(command.name), {}).get(option) or OPTIONS_ELSEWHERE.get(option)
    if meant is not None and _exists(meant, own):
        return Hinted(message, ctx, [meant])
    others = [name for name, flags in _flags_of_others(ctx) if option in flags]
    if others:
        if command.name in ("merge", "split"):
            others.sort(key=lambda name: name != "run")  # the command of parts
        where = f"asyncsink {' or '.join(others[:3])} {'has' if len(others) == 1 else 'have'} it"
        return Hinted(f"asyncsink {command.name} has no option {option}; {where}.", ctx, _near(option, own))
    return Hinted(message, ctx, _near(option, own))


def wrong_direction(ctx: click.Context, places: Sequence[str]) -> Hinted:
    """The error for an export from a bucket, or a grab from this machine."""
    command = str(ctx.command.name)
    if all(map(is_bucket, (places[0], places[-1]))):
        return Hinted(f"asyncsink {command} copies nothing between buckets.", ctx, [_line_of(places)])
    what = "brings objects from S3" if command == "grab" else "publishes files of this machine"
    return Hinted(f"asyncsink {command} {what}, and SOURCE is {places[0]!r}.", ctx, [_line_of(places)])


def pattern_hint(command: str, source: str) -> str:
    """What finds objects by a pattern, for a SOURCE that seems to be one; else ""."""
    folder, _, pattern = source.rpartition("/")
    if not set(pattern) & set("*?"):
        return ""
    if command == "ls":
        return f"SOURCE is no pattern; try: asyncsink ls {folder} --match {shlex.quote(pattern)}"
    return f"SOURCE is no pattern; try: asyncsink grab {folder} DIRECTORY --template {shlex.quote(pattern)} --glob"


def _line_of(places: Sequence[str]) -> str:
    """The command line that moves from the first place to the last."""
    *sources, last = places
    if is_bucket(sources[0]) and is_bucket(last):
        return f"The AWS CLI copies between buckets: aws s3 sync {shlex.join(places)}"
    if is_bucket(sources[0]):
        return f"asyncsink grab {shlex.join(places)}"
    folder, slash, name = last.rpartition("/")
    if is_bucket(last) and len(sources) == 1 and name == os.path.basename(sources[0]) and os.path.isfile(sources[0]):
        last = folder + slash  # a destination is a folder: the file keeps its name there
    return f"asyncsink export {shlex.join([*sources, last])}"


def _is_path(word: str) -> bool:
    return _is_place(word) or os.path.lexists(word)


def _is_place(word: str) -> bool:
    return "://" in word or "/" in word or word.lower().startswith("s3:") or word in (".", "..")


def _with_own_words(found: str, words: Sequence[str]) -> str:
    """The command line with the user's own words, where these are its two places and nothing else."""
    places = [word for word in words if not word.startswith("-")]
    if found not in (_UP, _DOWN) or len(places) != 2 or not any(place.lower().startswith("s3://") for place in places):
        return found
    return _line_of(places)


def _exists(meant: str, flags: Iterable[str]) -> bool:
    word = meant.replace(",", " ").split(maxsplit=1)[0]
    return not word.startswith("-") or word in set(flags)


def _near(word: str, known: Sequence[str]) -> list[str]:
    begun = [each for each in known if each.startswith(word) and len(word) > 3]
    return begun[:3] or difflib.get_close_matches(word, known, 2, CLOSE)


def _flags(command: click.Command, ctx: click.Context) -> list[str]:
    found = [each for each in command.get_params(ctx) if isinstance(each, click.Option) and not each.hidden]
    return [name for each in found for name in each.opts]


def _flags_of_others(ctx: click.Context) -> Iterator[tuple[str, list[str]]]:
    app = ctx.find_root().command
    if isinstance(app, click.Group):
        for name in app.list_commands(ctx):
            other = app.get_command(ctx, name)
            if other is not None and other is not ctx.command:
                yield name, _flags(other, click.Context(other, info_name=name))
