"""The options of the commands, declared once: each class is a panel (or two) of the help page.

An attribute is an option; its name is the name in `ExportOptions` wherever there is one.

Annotations are evaluated where they stand, without `from __future__ import annotations`: each start would compile a
hundred texts to know them.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

from typer import Option

F = TypeVar("F", bound=Callable[..., int])

_CONNECTION = "Connection and credentials"
_KEYS = "Names of the objects"
_OBJECTS = "What every object is given"
_TEMPLATES = "Which objects (all below SOURCE without a template)"
_POLICY = "What to do when"
_LOCAL = "Local copy and records"
_SPEED = "Speed and memory"
_OUTPUT = "Output"


def takes(*groups: type) -> Callable[[F], F]:
    """Add the options of `groups` to a command that is declared with `**given`; they arrive there by name."""

    def declare(command: F) -> F:
        own = inspect.signature(command)
        parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for group in groups:
            parameters += _options_of(group)
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
        return command

    return declare


def _options_of(group: type) -> list[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, kind, default=getattr(group, name), annotation=hint)
        for name, hint in get_type_hints(group, include_extras=True).items()
    ]


_NOTHING = " "
"""What the help page shows as the value of an option that has none."""


def _text(name: str, metavar: str, text: str, panel: str) -> Any:
    return Option(name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False)


def _flag(name: str, text: str, panel: str) -> Any:
    return Option(name, metavar=_NOTHING, help=text, rich_help_panel=panel, show_default=False)


Text = str | None
"""An option that was not given is None; its default is the library's."""


class ConnectionFlags:
    """How to reach the bucket."""

    endpoint_url: Annotated[Text, _text("--endpoint-url", "URL", "S3 server other than Amazon's.", _CONNECTION)] = None
    region: Annotated[Text, _text("--region", "NAME", "Region of the bucket.", _CONNECTION)] = None
    profile: Annotated[Text, _text("--profile", "NAME", "Profile of ~/.aws to use.", _CONNECTION)] = None
    creds_path: Annotated[
        Text, _text("--creds-path", "FILE", "Credentials file as Amazon hands it out (CSV or two lines).", _CONNECTION)
    ] = None
    anonymous: Annotated[bool, _flag("--anonymous", "Send unsigned requests.", _CONNECTION)] = False
    request_payer: Annotated[
        bool, _flag("--request-payer", "Accept the charges of a requester-pays bucket.", _CONNECTION)
    ] = False
    addressing_style: Annotated[
        Text, _text("--addressing-style", "STYLE", "auto (default), path or virtual.", _CONNECTION)
    ] = None
    sign_payload: Annotated[
        Text,
        _text("--sign-payload", "WHEN", "auto (default: plain HTTP to another machine), always or never.", _CONNECTION),
    ] = None
    ca_bundle: Annotated[
        Text, _text("--ca-bundle", "FILE", "Certificates to trust instead of the system's.", _CONNECTION)
    ] = None
    bucket: Annotated[Text, _text("--bucket", "NAME", "Bucket to use instead of the one in the URL.", _CONNECTION)] = (
        None
    )


class Keys:
    """DataSink's rules: how attributes and paths become keys."""

    container: Annotated[Text, _text("--container", "NAME", "Folder below the destination.", _KEYS)] = None
    no_parameterization: Annotated[
        bool, _flag("--no-parameterization", "Leave out the folders of a source's path that begin with _.", _KEYS)
    ] = False
    parameterization: Annotated[bool, Option("--parameterization", hidden=True)] = False
    strip_dir: Annotated[
        Text, _text("--strip-dir", "DIR", "Leave this directory out of the sources' paths.", _KEYS)
    ] = None
    substitute: Annotated[
        list[str] | None,
        _text("--substitute", "OLD=NEW", r"Replace OLD in names by NEW; repeatable. Write \= for a = in OLD.", _KEYS),
    ] = None
    regexp_substitute: Annotated[
        list[str] | None,
        _text("--regexp-substitute", "PATTERN=NEW", "The same with a regular expression; repeatable.", _KEYS),
    ] = None
    compat: Annotated[
        Text, _text("--compat", "MODE", "strict (default), or nipype: keep DataSink's oddities.", _KEYS)
    ] = None


class Objects:
    """What is stored with every object."""

    encrypt_bucket_keys: Annotated[
        bool, _flag("--encrypt-bucket-keys", "Encrypt on the server (the same as --sse AES256).", _OBJECTS)
    ] = False
    sse: Annotated[
        Text,
        _text("--sse", "KIND", "AES256, aws:kms, aws:kms:dsse, or file:PATH of your own 32-byte key.", _OBJECTS),
    ] = None
    sse_kms_key_id: Annotated[Text, _text("--sse-kms-key-id", "ID", "Key for the two kms kinds.", _OBJECTS)] = None
    storage_class: Annotated[
        Text, _text("--storage-class", "CLASS", "Such as STANDARD_IA or GLACIER_IR.", _OBJECTS)
    ] = None
    acl: Annotated[Text, _text("--acl", "ACL", "Canned ACL, such as bucket-owner-full-control.", _OBJECTS)] = None
    tag: Annotated[list[str] | None, _text("--tag", "NAME=VALUE", "Object tag; up to 10.", _OBJECTS)] = None
    metadata: Annotated[list[str] | None, _text("--metadata", "NAME=VALUE", "User metadata; repeatable.", _OBJECTS)] = (
        None
    )
    content_type: Annotated[
        Text, _text("--content-type", "TYPE", "infer (default: from the name), or one type for all.", _OBJECTS)
    ] = None
    checksum: Annotated[
        Text,
        _text("--checksum", "NAME", "CRC64NVME (default), CRC32C, CRC32, SHA256, MD5 or none.", _OBJECTS),
    ] = None


class Templates:
    """Which objects: S3DataGrabber's templates."""

    template: Annotated[
        Text, _text("--template", "PATTERN", "Regular expression of the keys below SOURCE, with %s.", _TEMPLATES)
    ] = None
    field_template: Annotated[
        list[str] | None,
        _text("--field-template", "FIELD=PATTERN", "The template of one output; repeatable.", _TEMPLATES),
    ] = None
    template_args: Annotated[
        Text,
        _text("--template-args", "JSON", """What fills the %s: {"func": [["subject", "run-1"]]}.""", _TEMPLATES),
    ] = None
    infield: Annotated[
        list[str] | None,
        _text("--infield", "NAME=VALUE", "Value for an argument NAME; one name given again makes a list.", _TEMPLATES),
    ] = None
    glob: Annotated[
        bool, _flag("--glob", "Templates are globs: *, ?, sets in brackets, and ** for any folders.", _TEMPLATES)
    ] = False
    match_start: Annotated[
        bool, _flag("--match-start", "A template need only match the key's beginning.", _TEMPLATES)
    ] = False
    allow_empty: Annotated[bool, _flag("--allow-empty", "A template without objects is no error.", _TEMPLATES)] = False


class GiveUp:
    """How long a server that is gone is waited for."""

    give_up_after: Annotated[
        Text, _text("--give-up-after", "TIME", "The server is gone: wait so long, and stop (default 10m).", _POLICY)
    ] = None


class Patience(GiveUp):
    """This, and what is tried once more."""

    retries: Annotated[
        Text,
        _text("--retries", "N", "Further rounds over files that failed for a passing cause (default 1).", _POLICY),
    ] = None


class Policies(Patience):
    """What to do where more than one thing would be reasonable."""

    overwrite: Annotated[
        Text,
        _text(
            "--overwrite",
            "POLICY",
            "The object exists: send it if its checksum differs (checksum, default), size, size-mtime, never, "
            "always; or ask the journal first (journal, default with --journal).",
            _POLICY,
        ),
    ] = None
    on_missing: Annotated[
        Text, _text("--on-missing", "POLICY", "A source is missing: error (default) or skip.", _POLICY)
    ] = None
    exclude: Annotated[
        list[str] | None,
        _text("--exclude", "PATTERN", "Leave out what matches in a directory, as in .gitignore; repeatable.", _POLICY),
    ] = None
    on_unreadable: Annotated[
        Text,
        _text(
            "--on-unreadable",
            "POLICY",
            "A file or folder cannot be read, or its name makes no legal key: error (default), or skip: report it "
            "(exit code 1) and send the rest (default with --on-missing skip).",
            _POLICY,
        ),
    ] = None
    on_collision: Annotated[
        Text,
        _text("--on-collision", "POLICY", "Two sources go to one key: error (default), or the last one.", _POLICY),
    ] = None
    on_unreachable: Annotated[
        Text,
        _text(
            "--on-unreachable",
            "POLICY",
            "The bucket cannot be used: error (default), or local: keep all in ~/s3_datasink_BUCKET.",
            _POLICY,
        ),
    ] = None
    symlinks: Annotated[
        Text,
        _text(
            "--symlinks",
            "POLICY",
            "Links: inside (default: none that leads out of its directory), follow, skip or error.",
            _POLICY,
        ),
    ] = None
    abort_on_interrupt: Annotated[
        bool,
        _flag(
            "--abort-on-interrupt",
            "Ctrl-C aborts open multipart uploads; without, the next run goes on with what the journal has of them.",
            _POLICY,
        ),
    ] = False


class RecordFlags:
    """What is kept on this machine."""

    local_copy: Annotated[
        Text, _text("--local-copy", "DIR", "Also write everything here, from the same bytes.", _LOCAL)
    ] = None
    local_copy_mode: Annotated[
        Text, _text("--local-copy-mode", "MODE", "copy (default), hardlink or reflink.", _LOCAL)
    ] = None
    related_files: Annotated[
        bool, _flag("--related-files", "Local copies bring .hdr/.img/.mat and .BRIK/.HEAD partners along.", _LOCAL)
    ] = False
    manifest: Annotated[
        Text, _text("--manifest", "FILE", "Write a record of every object, for `asyncsink verify`.", _LOCAL)
    ] = None
    journal: Annotated[
        Text,
        _text(
            "--journal",
            "FILE",
            "Remember what is published here, so that a re-run skips it unread and goes on where it was stopped "
            "(default: a file per destination in ~/.local/state/asyncsink).",
            _LOCAL,
        ),
    ] = None
    no_journal: Annotated[
        bool, _flag("--no-journal", "Remember nothing: each run compares everything with the server.", _LOCAL)
    ] = False


class Transfers:
    """Limits of requests and memory. The defaults adapt."""

    concurrency: Annotated[
        Text, _text("--concurrency", "N", "Requests at the same time: a number, or auto (default).", _SPEED)
    ] = None
    part_size: Annotated[
        Text, _text("--part-size", "SIZE", "Size of the parts of large files (default 8MiB).", _SPEED)
    ] = None
    transport: Annotated[
        Text,
        _text("--transport", "LANE", "How objects travel: auto (default), wire (own HTTP), or aioboto3.", _SPEED),
    ] = None
    memory: Annotated[Text, _text("--memory", "SIZE", "Most file content held at once (default 256MiB).", _SPEED)] = (
        None
    )


class Speed(Transfers):
    """These, and what only sending has: a rate, and a part of the work."""

    bandwidth: Annotated[
        Text, _text("--bandwidth", "SIZE", "Most bytes sent in a second, such as 50MB (default no limit).", _SPEED)
    ] = None
    shard: Annotated[
        Text,
        _text("--shard", "I/N", "Publish part I of N only, I from 0 to N-1: for N machines on one source.", _SPEED),
    ] = None


class Output:
    """What is told, and where."""

    json: Annotated[bool, _flag("--json", "Write one JSON object to stdout, and nothing else.", _OUTPUT)] = False
    quiet: Annotated[bool, _flag("--quiet", "No progress and no summary; errors and notes only.", _OUTPUT)] = False
    verbose: Annotated[bool, _flag("--verbose", "Log what happens to stderr.", _OUTPUT)] = False


class CustomerKey:
    """The key of objects that were encrypted with the customer's own."""

    sse: Annotated[
        Text, _text("--sse", "file:PATH", "Your own 32-byte key, where the objects are encrypted with it.", _CONNECTION)
    ] = None
