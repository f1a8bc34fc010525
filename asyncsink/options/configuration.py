"""Where the command's options come from beside its flags: variables ASYNCSINK_…, and files of a project and a user.

Precedence: flag, variable, project file, user file, default. A named destination's own options stand above the other
lines of their file. The Python API reads none of this.

A project file may have come with a stranger's data. Its values are taken where they cannot move credentials, keys or
files elsewhere (`PROJECT_MAY_SET`); the others are refused, unless the user names the file in ASYNCSINK_CONFIG.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, Literal

from asyncsink.errors import ConfigError
from asyncsink.options.schema import PANELS
from asyncsink.options.settings_files import SettingsFile, project_file, read_file, user_file, user_file_shown
from asyncsink.options.values import CLOSE, did_you_mean
from asyncsink.value import dataclass

PREFIX = "ASYNCSINK_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names a file that takes the place of the project's, with all rights; "none" reads no file at all."""

PROJECT_MAY_SET = frozenset(
    {
        # names
        "container", "parameterization", "no_parameterization", "strip_dir", "substitute", "regexp_substitute",
        "compat",
        # what is published, and what every object is given
        "include", "exclude", "exclude_from", "preset", "min_size", "max_size", "newer_than", "older_than", "shard",
        "parts", "part_bytes", "part_objects",
        "encrypt_bucket_keys", "storage_class", "content_type", "tag", "metadata", "checksum",
        # what is received
        "template", "field_template", "template_args", "infield", "glob", "match_start", "allow_empty",
        # what to do when
        "overwrite", "on_missing", "on_unreadable", "on_collision", "retries", "give_up_after", "abort_on_interrupt",
        # how
        "region", "addressing_style", "concurrency", "part_size", "memory", "bandwidth", "transport",
        "json", "quiet", "verbose", "dry_run", "read_back",
    }
)  # fmt: skip
"""Options that a project's file may set. All others can send credentials or data to another place (endpoint_url,
profile, acl), read or write files of the user anywhere (creds_path, manifest, symlinks), cost money, or remove
something."""
ALTERNATIVES = (
    frozenset({"profile", "creds_path", "anonymous"}),
    frozenset({"journal", "no_journal"}),
    frozenset({"parameterization", "no_parameterization"}),
    frozenset({"quiet", "verbose"}),
)
"""Options of which one excludes the others: what stands higher displaces all of them."""

HIDDEN = "(not shown)"
_SECRET = re.compile(r"(?i)secret|passw|access_?key|token|private_?key|sse_customer")
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TABLES = ("destinations",)

Takes = Literal["nothing", "count", "text", "texts", "file", "files"]
"""What follows a flag: nothing (-vv counts), one text, or one each time; a file counts from the folder of the settings'
file."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value from a variable or a file.

    Attributes:
        value: as a command line would have it: a text, a list of texts, True, or a number of times.
        origin: the variable, or the file with the line.
    """

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class NamedDestination:
    """A destination that a file gives a name.

    Attributes:
        options: the other keys of its table.
        file: where it stands.
    """

    name: str
    url: str
    options: Mapping[str, Any]
    file: SettingsFile

    @property
    def origin(self) -> str:
        """The file and the line of its url."""
        return self.file.where("destinations", self.name, "url")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The variables and files of this process.

    Attributes:
        variables: those whose names begin with ASYNCSINK_.
        files: the project's before the user's.
        notices: sentences about files that were left alone.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    files: tuple[SettingsFile, ...] = ()
    notices: tuple[str, ...] = ()

    def settings(
        self, command: str, takes: Mapping[str, Takes], shared: Iterable[str], destination: str = ""
    ) -> dict[str, Setting]:
        """The values for the options of a command, by option.

        Args:
            takes: the options of the command, and what each takes.
            shared: those that mean the same in every command: they may stand outside of the command's own table, and
                have a variable without the command's name.
            destination: the named destination that the command line has, or "".

        Raises:
            ConfigError: a key is unknown, a value is of a wrong type, or a file may not set it.
        """
        found: dict[str, Setting] = {}
        common = frozenset(shared)
        for file in reversed(self.files):
            general = {key: value for key, value in file.table.items() if not isinstance(value, dict)}
            own = file.table.get(command, {})
            named = self._named_options(file, destination)
            for table, keys in ((general, ()), (own, (command,)), (named, ("destinations", destination))):
                _displace(found, self._from_table(file, keys, table, takes, common if not keys else None))
        return _displace(found, self._from_variables(command, takes, common))

    def destination(self, name: str) -> NamedDestination | None:
        """The destination of this name, or None. The project's stands before the user's."""
        found = None
        for each in self.destinations():
            found = each if each.name == name else found
        return found

    def destinations(self) -> Iterator[NamedDestination]:
        """All named destinations.

        Raises:
            ConfigError: one is malformed, or a project's file gives a name of the user's another meaning.
        """
        urls: dict[str, str] = {}
        for file in reversed(self.files):
            tables = file.table.get("destinations", {})
            if not isinstance(tables, dict):
                raise ConfigError(
                    f"destinations ({file.where('destinations')}) is no table; write [destinations.NAME]."
                )
            for name, table in tables.items():
                where = file.where("destinations", name)
                if not _NAME.fullmatch(name) or name.lower() == "s3":
                    raise ConfigError(
                        f"The destination {name!r} ({where}) has no legal name; expected letters, digits, '-' and '_', "
                        "and not s3."
                    )
                if not isinstance(table, dict) or not isinstance(table.get("url"), str):
                    raise ConfigError(f'The destination {name!r} ({where}) has no url; expected url = "s3://…".')
                if not file.trusted and not table["url"].lower().startswith("s3://"):
                    raise ConfigError(
                        f"The destination {name!r} ({where}) is no s3:// URL; a project's file names buckets only. "
                        f"{_cure(file)}"
                    )
                if urls.setdefault(name, table["url"]) != table["url"] and not file.trusted:
                    raise ConfigError(
                        f"The destination {name!r} ({where}) is another one in your own file, {self.files[-1].path}; "
                        "give one of them another name."
                    )
                yield NamedDestination(name, table["url"], {k: v for k, v in table.items() if k != "url"}, file)

    def check(self, commands: Iterable[str], shared: Iterable[str]) -> None:
        """Raise ConfigError for a key that is neither an option of every command nor a command's table."""
        known = {*(_key(name) for name in shared), *commands, *_TABLES}
        for file in self.files:
            for key in file.table:
                if key not in known and _key(key) not in known:
                    _refuse_unknown(file, (key,), known)
                if key in commands and not isinstance(file.table[key], dict):
                    raise ConfigError(f"{key!r} ({file.where(key)}) is a command; write a table: [{key}].")

    def unknown_variables(self, commands: Iterable[str], shared: Iterable[str]) -> Iterator[str]:
        """A sentence for each variable that begins with ASYNCSINK_ and belongs to no option.

        Raises:
            ConfigError: one is close to an option's: what it should do (send nothing, say) would not be done.
        """
        known = {variable_of(name) for name in shared} | {CONFIG_VARIABLE}
        prefixes = tuple(variable_of(f"{command}_") for command in commands)
        for name in self.variables:
            if name not in known and not name.startswith(prefixes):
                near = did_you_mean(name, known, prefix=PREFIX, cutoff=CLOSE)
                sentence = f"{name} is no variable of asyncsink.{near}"
                if near:
                    raise ConfigError(f"{sentence} Correct it, or unset it.")
                yield sentence

    def _from_variables(self, command: str, takes: Mapping[str, Takes], common: frozenset[str]) -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        for name, kind in takes.items():
            for variable in (variable_of(name, command), *([variable_of(name)] if name in common else [])):
                if text := self.variables.get(variable, ""):
                    value = _read_variable(variable, text, kind)
                    if value is not None:
                        found[name] = Setting(value, variable)
                    break
        return found

    def _named_options(self, file: SettingsFile, destination: str) -> Mapping[str, Any]:
        named = self.destination(destination) if destination else None
        return named.options if named is not None and named.file is file else {}

    def _from_table(
        self,
        file: SettingsFile,
        keys: tuple[str, ...],
        table: Mapping[str, Any],
        takes: Mapping[str, Takes],
        common: frozenset[str] | None,
    ) -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        if not isinstance(table, dict):
            raise ConfigError(f"{keys[-1]} ({file.where(*keys)}) is no table; write [{'.'.join(keys)}].")
        for written, value in table.items():
            name = _key(written)
            if name not in takes:
                if common is None and keys[0] != "destinations":
                    _refuse_unknown(file, (*keys, written), takes)
                continue  # of another command
            if common is not None and name not in common:
                continue
            where = file.where(*keys, written)
            if not file.trusted and not _may_set(name, value, keys):
                raise ConfigError(
                    f"{written!r} ({where}) is not taken from a project's file, which may have come with somebody's "
                    f"data: {_WHY}. {_cure(file)}",
                    option=name,
                )
            read = _read_value(written, value, takes[name], where, os.path.dirname(file.path))
            if read is not None:
                found[name] = Setting(read, where)
        return found


_WHY = "it can send your credentials or your files to another place, or write files of yours"


def _cure(file: SettingsFile) -> str:
    return f"Give it as a flag, put it into {user_file_shown()}, or trust the file: {CONFIG_VARIABLE}={file.path}"


def _may_set(name: str, value: Any, keys: tuple[str, ...]) -> bool:
    if keys == ("abort-uploads",) and name == "older_than":
        return False  # a short age aborts what somebody is still sending
    return name in PROJECT_MAY_SET or (name == "sse" and value in ("AES256", "aws:kms", "aws:kms:dsse"))


def _displace(lower: dict[str, Setting], higher: Mapping[str, Setting]) -> dict[str, Setting]:
    for name, setting in higher.items():
        for other in alternatives_of(name):
            if other not in higher:
                lower.pop(other, None)
        lower[name] = setting
    return lower


def value_shown(name: str, value: Any) -> Any:
    """The value of an option for people to see; what may be a secret is not shown."""
    if name == "sse" and value not in ("AES256", "aws:kms", "aws:kms:dsse") and not str(value).startswith("file:"):
        return HIDDEN
    return HIDDEN if _SECRET.search(name) or (isinstance(value, str) and "@" in value and "://" in value) else value


def amazon_variables(environ: Mapping[str, str] | None = None) -> Iterator[tuple[str, Any, str]]:
    """Amazon's own variables that set an option where nothing else does: option, value, variable."""
    given = os.environ if environ is None else environ
    for option in (each for rows in PANELS.values() for each in rows if "AWS_" in each.variables):
        for variable in option.variables.split(", "):
            if value := given.get(variable, ""):
                yield option.name, HIDDEN if option.name == "creds_path" else value_shown(option.name, value), variable
                break


def alternatives_of(name: str) -> frozenset[str]:
    """The options that this one excludes."""
    return frozenset().union(*(group - {name} for group in ALTERNATIVES if name in group))


def variable_of(name: str, command: str = "") -> str:
    """The variable of an option, or of the option of one command: ASYNCSINK_GRAB_TEMPLATE."""
    return PREFIX + "_".join([*([command] if command else []), name]).replace("-", "_").upper()


def _key(name: str) -> str:
    return name.replace("-", "_")


def _refuse_unknown(file: SettingsFile, keys: tuple[str, ...], known: Iterable[str]) -> None:
    name, where = keys[-1], file.where(*keys)
    if _SECRET.search(name):
        raise ConfigError(
            f"{name!r} ({where}) is a secret by its name, and none belongs in this file, which others may read; use a "
            "profile of ~/.aws, or creds_path."
        )
    names = {_key(each) for each in known}
    longer = {"part_size_bytes": "part_size", "memory_bytes": "memory", "tags": "tag", "substitutions": "substitute"}
    longer |= {"bandwidth_bytes_per_second": "bandwidth", "regexp_substitutions": "regexp_substitute"}
    other = longer.get(_key(name), "")
    hint = f" Did you mean {other!r}?" if other in names and other else did_you_mean(_key(name), names, cutoff=CLOSE)
    in_table = f" of [{'.'.join(keys[:-1])}]" if keys[:-1] else ""
    raise ConfigError(f"{name!r} ({where}) is no option{in_table}; names are those of flags, as part_size.{hint}")


# -- Values ------------------------------------------------------------------------------------------------------------


def _read_variable(variable: str, text: str, takes: Takes) -> Any:
    if takes in ("text", "file"):
        return text
    if takes in ("texts", "files"):
        return _words(text)
    lower = text.strip().lower()
    if takes == "count" and lower.isdecimal():
        return int(lower) or None
    if lower in _TRUE:
        return 1 if takes == "count" else True
    if lower in _FALSE:
        return None
    raise ConfigError(f"{variable}={text!r:.60} is neither true nor false; expected 1 or 0.")


def _words(text: str) -> list[str]:
    """The words of a text, in which quotes keep blanks. A backslash is itself: regular expressions have many."""
    import shlex

    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    return list(lexer)


def _read_value(name: str, value: Any, takes: Takes, where: str, folder: str) -> Any:
    if takes in ("nothing", "count"):
        if isinstance(value, bool):
            return (1 if takes == "count" else True) if value else None
        if takes == "count" and isinstance(value, int) and value >= 0:
            return value or None
        raise ConfigError(f"{name!r} ({where}) is of type {type(value).__name__}; expected true or false.")
    if takes in ("text", "file"):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConfigError(f"{name!r} ({where}) is of type {type(value).__name__}; expected a text or a number.")
        return _in_folder(str(value), folder) if takes == "file" else str(value)
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return [f"{old.replace('=', chr(92) + '=')}={new}" for old, new in value.items()]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(
            f'{name!r} ({where}) is of type {type(value).__name__}; expected a list of texts, as ["…", "…"].'
        )
    return [_in_folder(text, folder) for text in texts] if takes == "files" else list(texts)


def _in_folder(path: str, folder: str) -> str:
    return os.path.join(folder, os.path.expanduser(path))


# -- Reading -----------------------------------------------------------------------------------------------------------


def read_configuration(environ: Mapping[str, str] | None = None, directory: str | None = None) -> Configuration:
    """The variables and the files of this process. Blocking; a few system calls where there is no file.

    Args:
        environ, directory: those of the process unless given.

    Raises:
        ConfigError: a file cannot be read, or is no TOML.
    """
    given = os.environ if environ is None else environ
    variables = {name: value for name, value in given.items() if name.startswith(PREFIX)}
    files: list[SettingsFile] = []
    notices: list[str] = []
    named = variables.get(CONFIG_VARIABLE, "")
    if named == "none":
        return Configuration(variables)
    if named:
        path = os.path.abspath(os.path.expanduser(named))
        if (file := read_file(path, trusted=True)) is None:
            raise ConfigError(f"{CONFIG_VARIABLE}={named!r} names no file with settings; correct it, or unset it.")
        files.append(file)
    else:
        path, owned = project_file(os.getcwd() if directory is None else directory, user_file(given))
        if not owned:
            notices.append(
                f"{path} belongs to another user, and is not read; {CONFIG_VARIABLE}={path} reads it, "
                f"{CONFIG_VARIABLE}=none ends this note."
            )
        elif path and (file := read_file(path, trusted=False)) is not None:
            files.append(file)
    user = user_file(given)
    try:
        if user not in {file.path for file in files} and (file := read_file(user, trusted=True)) is not None:
            files.append(file)
    except ConfigError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        # Somebody else's home, as a service often has it.
        notices.append(f"{error} The run goes on without them; {CONFIG_VARIABLE}=none ends this note.")
    return Configuration(variables, tuple(files), tuple(notices))
