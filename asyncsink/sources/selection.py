"""Which files of a directory are published: include, exclude, presets, and the .asyncsinkignore files in it.

A file is published where `include` is empty or chooses it, and nothing excludes it. Of the patterns that exclude, the
last one that matches decides, in this order: the preset, .asyncsinkignore files from the top down, exclude_from,
exclude. What lies in an excluded directory is not looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import accumulate

from asyncsink.errors import ConfigError, SourceUnreadable
from asyncsink.model import SourceProblem
from asyncsink.options.schema import Policies
from asyncsink.sources.patterns import (
    IGNORE_FILE,
    PATTERNS_BYTES_MAX,
    PRESETS,
    IgnorePattern,
    Patterns,
    joined,
    pattern_lines,
    read_pattern_file,
)
from asyncsink.value import dataclass


class Selection:
    """The choice of a run, for any directory.

    Attributes:
        annexed: whether links into a git-annex are followed wherever it lies: its files are what was asked for.
    """

    def __init__(self, policies: Policies) -> None:
        """Compile the patterns, and read the files of `exclude_from`. Blocking.

        Raises:
            ConfigError: a pattern is malformed, or a file cannot be read.
        """
        preset = "" if policies.preset == "none" else policies.preset
        self._preset = Patterns(PRESETS[preset], where="preset", origin=f"the preset {preset}") if preset else None
        files = [read_pattern_file(path, "exclude_from") for path in policies.exclude_from]
        given = Patterns(policies.exclude, where="exclude") if policies.exclude else None
        self._given = joined([*files, *([given] if given else [])]) if files or given else None
        self._include = Patterns(policies.include, where="include") if policies.include else None
        if self._include is not None and not self._include:
            raise ConfigError("include holds no pattern, so that nothing would be published; leave it out.")
        self.annexed = bool(preset)
        self._is_empty = self._preset is None and self._given is None and self._include is None

    def top(self, own: Patterns | None) -> FolderRules | None:
        """The rules of a published directory itself; None where there are none.

        Args:
            own: the patterns of its .asyncsinkignore, or None.
        """
        rules = FolderRules(self._preset, (("", own),) if own else (), self._given, self._include)
        return None if self._is_empty and not own else rules

    def leaves_out(self, relative: str) -> bool:
        """Whether these options leave out a file at a path below a directory, as far as its path tells."""
        rules = self.top(None)
        if rules is None:
            return False
        *above, _ = accumulate(relative.split("/"), lambda directory, name: f"{directory}/{name}")
        for directory in above:
            if rules.excluding(directory, is_directory=True) is not None:
                return True
            rules = rules.below(directory, None)
        return rules.excluding(relative, is_directory=False) is not None or not rules.includes(relative)


@dataclass(frozen=True, slots=True, eq=False)
class FolderRules:
    """The rules for the entries of one directory.

    Attributes:
        preset, given, include: as in Selection, relative to the top; None: no such patterns.
        ignores: the patterns of .asyncsinkignore files from the top down, each with the length of its directory's
            path and "/".
        included: what `include` says of the directory itself; None where no pattern matches it or one above it.
    """

    preset: Patterns | None
    ignores: tuple[tuple[str, Patterns], ...]
    given: Patterns | None
    include: Patterns | None
    included: bool | None = None

    def excluding(self, relative: str, *, is_directory: bool) -> IgnorePattern | None:
        """The pattern that excludes an entry, or None.

        Args:
            relative: path below the top.
        """
        decided = self.given and self.given.deciding(relative, is_directory=is_directory)
        if not decided:
            for lead, patterns in reversed(self.ignores):
                if decided := patterns.deciding(relative[len(lead) :], is_directory=is_directory):
                    break
            else:
                decided = self.preset and self.preset.deciding(relative, is_directory=is_directory)
        return decided if decided and not decided.includes_again else None

    def includes(self, relative: str) -> bool:
        """Whether `include` chooses a file."""
        if self.include is None:
            return True
        decided = self.include.deciding(relative, is_directory=False)
        return not decided.includes_again if decided is not None else self.included is True

    def below(self, relative: str, own: Patterns | None) -> FolderRules:
        """The rules of a directory in this one, with the patterns of its own .asyncsinkignore."""
        included = self.included
        if self.include is not None and (decided := self.include.deciding(relative, is_directory=True)) is not None:
            included = not decided.includes_again
        if own is None and included is self.included:
            return self
        ignores = self.ignores if own is None else (*self.ignores, (f"{relative}/", own))
        return FolderRules(self.preset, ignores, self.given, self.include, included)


def rules_below(
    selection: Selection, above: FolderRules | None, relative: str, own: Patterns | None
) -> FolderRules | None:
    """The rules of a directory at `relative`, from those of the directory above it; None where there are none."""
    if not relative:
        return selection.top(own)
    if above is not None:
        return above.below(relative, own)
    return FolderRules(None, ((f"{relative}/", own),), None, None) if own else None


def read_ignore_file(directory: str, descriptor: int) -> Patterns | None:
    """The patterns of a directory's .asyncsinkignore; None where it has none. Blocking.

    Args:
        directory: its path, for messages.
        descriptor: an open one of it.

    Raises:
        ConfigError: the file cannot be read, is a link or no file, or has a malformed pattern.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    where = repr(os.path.join(directory, IGNORE_FILE))
    try:
        file = os.open(IGNORE_FILE, flags, dir_fd=descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise _unusable(where, why) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _unusable(where, "it is no regular file")
        with open(file, "rb", closefd=False) as stream:
            content = stream.read(PATTERNS_BYTES_MAX + 1)
    except OSError as error:
        raise _unusable(where, error.strerror or str(error)) from error
    finally:
        os.close(file)
    return Patterns(pattern_lines(content, where), where=where, origin=IGNORE_FILE)


def _unusable(where: str, why: str) -> ConfigError:
    return ConfigError(
        f"{where} cannot be read ({why}), so that what it leaves out is unknown; expected a readable file of patterns."
    )


# -- Problems ----------------------------------------------------------------------------------------------------------


def left_out(path: str, reason: str, *, entry: int = 0, attribute: str = "", unmatched: bool = True) -> SourceProblem:
    """The problem that reports a path that was not chosen as a Skip; `unmatched` as in SourceProblem."""
    error = SourceUnreadable(f"Source {path!r} is left out: {reason}.")
    return SourceProblem(path, error, entry, attribute, skipped=True, reason=reason, unmatched=unmatched)


def size_and_age(policies: Policies) -> FileBounds | None:
    """The bounds of sizes and ages, or None where there are none."""
    bounds = (policies.min_size_bytes, policies.max_size_bytes, policies.newer_than, policies.older_than)
    return None if bounds == (None, None, None, None) else FileBounds(*bounds)


@dataclass(frozen=True, slots=True)
class FileBounds:
    """Bounds of sizes and ages; None is no bound.

    Attributes:
        least_bytes, most_bytes: of a file's size.
        since, until: of its modification time, seconds since the epoch.
    """

    least_bytes: int | None
    most_bytes: int | None
    since: float | None
    until: float | None

    def reason(self, size_bytes: int, mtime_ns: int) -> str:
        """Why a file of this size and modification time is left out, as one phrase, or ""."""
        if self.least_bytes is not None and size_bytes < self.least_bytes:
            return f"smaller than {self.least_bytes:,} bytes"
        if self.most_bytes is not None and size_bytes > self.most_bytes:
            return f"larger than {self.most_bytes:,} bytes"
        if self.since is not None and mtime_ns < self.since * 1e9:
            return f"older than {_date(self.since)}"
        if self.until is not None and mtime_ns >= self.until * 1e9:
            return f"newer than {_date(self.until)}"
        return ""


def _date(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
