"""Patterns as in a .gitignore file: lists of them, the files that they come from, and the presets.

pathspec translates a pattern. What it is compared with is git's way: a path itself, since whoever walks has compared
the directories above it before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from asyncsink.errors import ConfigError
from asyncsink.value import dataclass

PATTERNS_BYTES_MAX: Final = 1 << 20
"""Largest file of patterns."""
IGNORE_FILE: Final = ".asyncsinkignore"
_ENDING_SPACES = re.compile(r"(?<!\\)((?:\\\\)*) +$")

_DATALAD = (".git", ".datalad/")
PRESETS: Final[dict[str, tuple[str, ...]]] = {
    "datalad": _DATALAD,
    "bids": (
        *_DATALAD,
        # What systems and editors leave behind.
        ".DS_Store", "._*", ".AppleDouble/", ".Spotlight-V100/", ".Trashes", ".fseventsd/", "Thumbs.db", "desktop.ini",
        "*~", "*.swp", ".nfs*", ".ipynb_checkpoints/", "__pycache__/",
        # Working folders of the converters and pipelines that make BIDS datasets and derivatives.
        ".heudiconv/", "tmp_dcm2bids/", "work/", "workdir/", "*_wf/", ".snakemake/", ".nextflow/", ".nextflow.log*",
    ),
}  # fmt: skip
"""What each preset leaves out of a directory; the guide's page choosing.md has the same lists."""


@dataclass(frozen=True, slots=True)
class IgnorePattern:
    """One pattern.

    Attributes:
        text: as it was written.
        includes_again: whether it begins with "!".
        directories_only: whether it ends with "/".
        slashes: how many a path has that it can match; None: any number ("**"); -1: the name alone is compared.
        search: pathspec's regular expression for it.
        origin: what it came from, for reasons: "" for an option, else "the preset bids" or ".asyncsinkignore".
    """

    text: str
    includes_again: bool
    directories_only: bool
    slashes: int | None
    search: Callable[[str], re.Match[str] | None]
    origin: str = ""

    def matches(self, path: str, *, is_directory: bool) -> bool:
        """Whether it matches the path itself; a match of a directory above it is none."""
        if self.directories_only and not is_directory:
            return False
        # Counted here, because pathspec lets a set such as [!a] match a "/".
        if self.slashes == -1:
            path = path[path.rfind("/") + 1 :]
        elif self.slashes is not None and path.count("/") != self.slashes:
            return False
        found = self.search(path)
        return found is not None and not found.groupdict().get("ps_d")

    def covers(self, path: str) -> bool:
        """Whether it matches a file, or a directory above it."""
        if self.matches(path, is_directory=False):
            return True
        while path := path.rpartition("/")[0]:
            if self.matches(path, is_directory=True):
                return True
        return False

    @property
    def reason(self) -> str:
        """Why a path is left out, as one phrase."""
        return f"excluded by {self.text!r}{f' of {self.origin}' if self.origin else ''}"


class Patterns:
    """Patterns in order; of those that match a path, the last one decides."""

    def __init__(self, lines: Iterable[str], *, where: str, origin: str = "") -> None:
        """Compile the lines; blank ones, and those that begin with "#", are no patterns.

        Args:
            where: what the lines are, for messages: an option, as "exclude", or their file.
            origin: as in IgnorePattern.

        Raises:
            ConfigError: a pattern is malformed.
        """
        made = (_pattern(line, where, origin) for line in lines)
        self.items: tuple[IgnorePattern, ...] = tuple(pattern for pattern in made if pattern is not None)

    def __bool__(self) -> bool:
        return bool(self.items)

    def deciding(self, path: str, *, is_directory: bool) -> IgnorePattern | None:
        """The last pattern that matches a path relative to the directory of the patterns, or None. Pure."""
        name = path[path.rfind("/") + 1 :]
        for pattern in reversed(self.items):
            if pattern.directories_only and not is_directory:
                continue
            if pattern.slashes == -1:  # most are: a call less for each
                if pattern.search(name) is not None:
                    return pattern
            elif pattern.matches(path, is_directory=is_directory):
                return pattern
        return None


def joined(lists: Sequence[Patterns]) -> Patterns:
    """One list of several, in their order."""
    made = Patterns((), where="")
    made.items = tuple(pattern for each in lists for pattern in each.items)
    return made


def _pattern(line: str, where: str, origin: str) -> IgnorePattern | None:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern  # imported only by runs that have patterns

    text = body = _ENDING_SPACES.sub(r"\1", line)
    if not text or text.startswith("#"):
        return None
    if includes_again := body.startswith("!"):
        body = body[1:]
    if directories_only := body.endswith("/"):
        body = body[:-1]
    if body.startswith(("!", "#")):
        body = f"\\{body}"
    if not body:
        # git takes "/" for a pattern that matches nothing; nobody means it.
        raise _malformed(where, text, "it names nothing")
    try:
        translated = GitIgnoreSpecPattern(body)
    except (ValueError, re.error) as error:
        raise _malformed(where, text, str(error)) from error
    if translated.regex is None:
        raise _malformed(where, text, "a set of characters in it has no end or no order")
    segments = body.split("/")
    slashes = None if "**" in segments else -1 if len(segments) == 1 else len(segments) - 1 - (not segments[0])
    return IgnorePattern(text, includes_again, directories_only, slashes, translated.regex.search, origin)


def _malformed(where: str, text: str, why: str) -> ConfigError:
    named = f"{where}={text!r} is" if where.isidentifier() else f"{where} has {text!r}, which is"
    return ConfigError(f"{named} a malformed pattern ({why}); expected patterns as in .gitignore.")


def pattern_lines(content: bytes, where: str) -> list[str]:
    """The lines of a file of patterns, in UTF-8.

    Raises:
        ConfigError: it is larger than PATTERNS_BYTES_MAX, or not UTF-8.
    """
    if len(content) > PATTERNS_BYTES_MAX:
        raise ConfigError(f"{where} has more than {PATTERNS_BYTES_MAX:,} bytes; expected lines of patterns.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{where} line {line} is not UTF-8; expected lines of patterns.") from error
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_pattern_file(path: str, what: str) -> Patterns:
    """The patterns of a file that an option names. Blocking.

    Raises:
        ConfigError: it cannot be read, or holds no patterns.
    """
    from asyncsink.sources.base import given_path, open_description

    name = given_path(path, what)
    where = f"{what} {name!r}"
    with open_description(name, what) as file:
        try:
            content = file.read(PATTERNS_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"{where} cannot be read ({error.strerror or error}).") from error
    return Patterns(pattern_lines(content, where), where=where, origin=os.path.basename(name))
