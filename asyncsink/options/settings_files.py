"""The files of settings, asyncsink.toml and pyproject.toml: where they are, what they hold, and on which line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import Any

from asyncsink.errors import ConfigError
from asyncsink.value import dataclass

FILE_NAME = "asyncsink.toml"
FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file of settings that was read.

    Attributes:
        trusted: whether it may set every option.
        table: its content; of pyproject.toml, the part [tool.asyncsink].
        lines: its text, to find the line of a key.
    """

    path: str
    trusted: bool
    table: Mapping[str, Any]
    lines: tuple[str, ...]

    def where(self, *keys: str) -> str:
        """The file, and the line of a key where it can be found."""
        number = _line_of(self.lines, keys, "tool.asyncsink" if self.path.endswith("pyproject.toml") else "")
        return f"{self.path}, line {number}" if number else self.path


def user_file(environ: Mapping[str, str] | None = None) -> str:
    """The user's own file, whether or not it is there (XDG Base Directory Specification)."""
    given = os.environ if environ is None else environ
    home = given.get("XDG_CONFIG_HOME", "")
    return os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.config"), FILE_NAME)


def user_file_shown() -> str:
    """The user's own file, as people write it."""
    path, home = user_file(), os.path.expanduser("~")
    return f"~{path.removeprefix(home)}" if path.startswith(f"{home}/") else path


def project_file(directory: str, user: str) -> tuple[str, bool]:
    """The nearest file with settings in the directory or one above, or ""; and whether this user, or root, owns it.

    Args:
        user: the user's own file, which is none of a project.
    """
    folder = os.path.abspath(directory)
    while True:
        for name in (FILE_NAME, "pyproject.toml"):
            path = os.path.join(folder, name)
            try:
                owner = os.stat(path).st_uid
            except OSError:
                continue
            if path != user and (name == FILE_NAME or _has_our_table(path)):
                return path, owner in (os.geteuid(), 0)
        parent = os.path.dirname(folder)
        if parent == folder:
            return "", True
        folder = parent


def _has_our_table(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"tool.asyncsink" in file.read(FILE_BYTES_MAX)
    except OSError:
        return False  # somebody's project that is none of asyncsink's


def read_file(path: str, *, trusted: bool) -> SettingsFile | None:
    """The settings in a file; None where there is no file, or a pyproject.toml without [tool.asyncsink].

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise ConfigError(f"The settings in {path} cannot be read ({error.strerror}).") from error
    import tomllib  # only where there is a file

    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX:,} bytes; settings are not.")
    try:
        text = content.decode()
        table: Any = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The error of TOML names line and column, and repeats one character at most.
        raise ConfigError(f"{path} is no TOML: {error}.") from error
    if path.endswith("pyproject.toml"):
        tool = table.get("tool")
        table = tool.get("asyncsink") if isinstance(tool, dict) else None
        if not isinstance(table, dict):
            return None
    return SettingsFile(path, trusted, table, tuple(text.splitlines()))


def _line_of(lines: tuple[str, ...], keys: tuple[str, ...], prefix: str) -> int:
    """The line of a key, or of the nearest table around it, or 0. TOML's parser has no positions."""
    wanted = ".".join([*([prefix] if prefix else []), *keys])
    table, nearest = "", 0
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            table = re.sub(r"[\"'\s]", "", header[1])
            name = table
        elif key := re.match(r"\s*([A-Za-z0-9_\"'.-]+)\s*=", line):
            bare = re.sub(r"[\"']", "", key[1])
            name = f"{table}.{bare}" if table else bare
        else:
            continue
        if name == wanted:
            return number
        if wanted.startswith(f"{name}."):
            nearest = number
    return nearest
