"""What a command publishes: its SOURCE words, an outputs file, a source manifest, or JSON lines on standard input."""

from __future__ import annotations

import io
import os
import selectors
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag
from asyncsink.cli.output import Output
from asyncsink.errors import ConfigError
from asyncsink.integrity.choice import was_chosen
from asyncsink.options.schema import Settings
from asyncsink.report.outcomes import Counts
from asyncsink.sources.base import Source
from asyncsink.sources.selection import Selection
from asyncsink.value import dataclass

SOURCE = Argument(
    "SOURCE...",
    "A directory, whose files keep their paths below it; files, or several of both, each under its own name; or - for "
    "JSON lines on stdin.",
    required=False,
)
DESTINATION = Argument("DESTINATION", "s3://bucket/prefix, or a local directory.")


def list_flags() -> list[Flag]:
    """The flags that stand in the place of SOURCE."""
    return [
        Flag("--outputs", "Publish a workflow's outputs: .json or .yaml, {attribute: paths}.", metavar="FILE"),
        Flag(
            "--source-manifest",
            "Publish what a table lists: .csv, .tsv or .jsonl, with source and key.",
            metavar="FILE",
        ),
    ]


@dataclass(frozen=True, slots=True)
class SourceWords:
    """What a command line names as its source.

    Attributes:
        paths: the SOURCE words.
        outputs, source_manifest: the files of the flags, or None.
    """

    paths: tuple[str, ...]
    outputs: str | None = None
    source_manifest: str | None = None

    def __str__(self) -> str:
        named = self.outputs or self.source_manifest or (self.paths[0] if self.paths else "")
        return named if len(self.paths) < 2 else f"{named} and {len(self.paths) - 1:,} more"

    def check(self, destination: str, command: str = "export") -> None:
        """Refuse what names no source, or more than one kind of it.

        Args:
            command: the one whose example is shown.

        Raises:
            ConfigError: one sentence.
        """
        lists = {"--outputs": self.outputs, "--source-manifest": self.source_manifest}
        given = [flag for flag, file in lists.items() if file]
        if len(given) == 2 or (given and self.paths):
            other = "SOURCE" if self.paths else given[1]
            raise ConfigError(f"{given[0]} and {other} both say what is published; give one of them.")
        if not given and not self.paths:
            raise ConfigError(
                f"Only one of SOURCE and DESTINATION is given, {destination!r}; expected both, for example: asyncsink "
                f"{command} derivatives s3://my-bucket/study."
            )
        if "-" in self.paths and len(self.paths) > 1:
            raise ConfigError("SOURCE - is JSON lines on standard input, and stands alone; give it, or paths.")

    def open(self, settings: Settings) -> tuple[Source, Callable[[], None]]:
        """The source, and a function that ends a wait for its next line. An outputs file is read here, other sources in
        the run. Blocking.

        Raises:
            ConfigError: a source does not exist, or cannot be one.
        """
        from asyncsink.sources.opening import manifest_source, outputs_file_source, source_at

        if self.outputs:
            return outputs_file_source(self.outputs, settings), _nothing
        if self.source_manifest:
            return manifest_source(self.source_manifest, settings), _nothing
        if self.paths == ("-",):
            from asyncsink.sources.records import StreamSource

            if settings.policies.files_from:
                raise ConfigError("--files-from lists files below one directory; SOURCE is -, whose lines name them.")
            stdin, policies = InterruptibleStdin.open(), settings.policies
            lines = io.BufferedReader(stdin)
            source = StreamSource(lines, symlinks=policies.symlinks, selection=Selection(policies))
            return source, stdin.give_up
        return source_at(self.paths, settings), _nothing

    def hint(self) -> str:
        """A sentence where the only SOURCE is a file that seems to list what was meant, or "". Blocking."""
        from asyncsink.sources.opening import meant_as_list

        kind = meant_as_list(self.paths)
        flag = "--outputs" if kind == "outputs file" else "--source-manifest"
        return kind and (
            f"{self.paths[0]} is published as a file; it looks like {'an' if kind[0] == 'o' else 'a'} {kind}: to "
            f"publish what it names, write {flag} {self.paths[0]} in its place."
        )


def unwanted(counts: Counts) -> tuple[list[tuple[str, str]], int]:
    """What was left out, but not by an option that chooses: the first sources with their reasons, and their number."""
    first = [(source, reason) for source, reason in counts.not_published if not was_chosen(reason)]
    chosen = sum(number for reason, number in counts.left_out_reasons.items() if was_chosen(reason))
    return first, counts.not_published_total - chosen if first else 0


def words_of(source: Sequence[str], outputs: str | None, source_manifest: str | None) -> SourceWords:
    """What click has read."""
    return SourceWords(tuple(source), outputs, source_manifest)


def open_words(
    source: SourceWords, destination: str, given: Mapping[str, Any], output: Output, command: str = "export"
) -> tuple[Settings, Source, Callable[[], None]]:
    """The settings and the source of a command line, and a function that ends a wait for the source.

    Raises:
        ConfigError: an option or the source is wrong.
    """
    from asyncsink.options.parse import parse_options

    source.check(destination, command)
    settings = parse_options(destination, options_of(given))
    found, give_up = source.open(settings)
    if hint := source.hint():
        output.note(hint)
    return settings, found, give_up


def _nothing() -> None:
    """There is no wait to end."""


# -- Standard input that can be given up, so that a thread which waits for the next line does not delay Ctrl-C ---------


class InterruptibleStdin(io.RawIOBase):
    """A descriptor whose readers get an end of file from `give_up` on. It is never closed here."""

    def __init__(self, descriptor: int) -> None:
        """Read from `descriptor`, which must be open for reading."""
        super().__init__()
        self._descriptor = descriptor
        self._wake, self._waker = os.pipe()

    @classmethod
    def open(cls) -> Self:
        """The process's standard input.

        Raises:
            ConfigError: the process has none.
        """
        try:
            return cls(sys.stdin.fileno())
        except (AttributeError, ValueError, OSError) as error:
            raise ConfigError("SOURCE is -, but standard input is closed; pipe JSON lines into the command.") from error

    def give_up(self) -> None:
        """Let every present and later read return an end of file."""
        os.write(self._waker, b"x")

    def fileno(self) -> int:
        """The descriptor that is read."""
        return self._descriptor

    def readable(self) -> bool:
        """True: the descriptor is open for reading."""
        return True

    def readinto(self, buffer: object) -> int:
        """Wait for bytes; 0 at the end, and after `give_up`. A regular file is always ready."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        with selectors.SelectSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select()}
        if self._wake in ready:
            return 0
        return os.readv(self._descriptor, [target])
