"""What is left out of directories: patterns as in a .gitignore file, relative to each directory that is published."""

from __future__ import annotations

from collections.abc import Sequence

from asyncsink.errors import ConfigError, SourceUnreadable
from asyncsink.model import SourceProblem


class Exclusion:
    """Patterns in order; the last one that matches decides, and one that begins with "!" takes back. What lies in an
    excluded directory is not looked at."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile them.

        Raises:
            ConfigError: a pattern is malformed.
        """
        from pathspec import GitIgnoreSpec  # here, so that only those who exclude something wait for its import

        self._patterns = tuple(patterns)
        try:
            self._spec = GitIgnoreSpec.from_lines(self._patterns)
        except ValueError as error:
            raise ConfigError(
                f"exclude has a malformed pattern ({error}); expected patterns as in .gitignore."
            ) from error

    def pattern(self, relative: str) -> str:
        """The pattern that leaves out a path ("sub/" is a directory), or ""."""
        found = self._spec.check_file(relative)
        return self._patterns[found.index] if found.include and found.index is not None else ""


def exclusion_of(patterns: Sequence[str]) -> Exclusion | None:
    """As `Exclusion`; None for no patterns."""
    return Exclusion(patterns) if patterns else None


def excluded(path: str, pattern: str, *, entry: int = 0, attribute: str = "") -> SourceProblem:
    """What becomes of a path that a pattern leaves out: a reported Skip."""
    error = SourceUnreadable(f"Source {path!r} is left out by exclude={pattern!r}; take the pattern out to publish it.")
    return SourceProblem(path, error, entry, attribute, skipped=True, reason=f"excluded by {pattern!r}")
