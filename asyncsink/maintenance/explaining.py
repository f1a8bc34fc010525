"""Why a file gets its key, or is left out: what an export would do with single files, step by step. Nothing is sent."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asyncsink.destinations.object_options import OptionsOf
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.planning.walk import discovery_of, tops_of
from asyncsink.engine.transfer.outcomes import forbids_run, problem_reason
from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.options.values import split_bucket
from asyncsink.paths import as_text, on_disk
from asyncsink.report.sentences import inert
from asyncsink.routing.tracing import RouteStep, TracingRouter
from asyncsink.sources.base import Source, given_path
from asyncsink.value import dataclass

EXPLAINED_MAX = 3
"""Most files below one directory that are explained."""

Worded = Callable[[str, tuple[str, str] | None], str]
"""The words of a surface for an option, and for the pair that is one of its values."""


def in_library_words(option: str, pair: tuple[str, str] | None) -> str:
    """An option as Python writes it: "container", "substitutions ('old', 'new')"."""
    return option if pair is None else f"{option} {pair!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What an export would do with one file.

    Attributes:
        source: absolute path of the file.
        attribute: the DataSink attribute it arrives on, or "".
        key, url: of its object, as in Receipt; "" where there will be none.
        local_copy: absolute path of the copy, or "".
        steps: how the source became the key, in order.
        left_out: why it is not published, or "".
        refuses_run: whether the whole export is refused because of it.
        objects: what its object is given besides the bytes, as (name, value).
    """

    source: str
    attribute: str = ""
    key: str = ""
    url: str = ""
    local_copy: str = ""
    steps: tuple[RouteStep, ...] = ()
    left_out: str = ""
    refuses_run: bool = False
    objects: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON-ready values."""
        steps = [
            {
                "text": step.text,
                "option": step.option,
                "pair": step.pair,
                "rules": step.rules,
                "before": step.before,
                "after": step.after,
            }
            for step in self.steps
        ]
        names = ("source", "attribute", "key", "url", "local_copy", "left_out", "refuses_run")
        return {**{name: getattr(self, name) for name in names}, "steps": steps, "objects": dict(self.objects)}

    def lines(
        self,
        columns: int = 80,
        *,
        ascii_only: bool = False,
        worded: Worded = in_library_words,
        sentence: Callable[[str], str] = str,
    ) -> Iterator[str]:
        """The explanation for a person: the two ends, then the steps. Names are never cut, so that they can be copied.

        Args:
            columns: width of the sentences.
            worded: the words of the surface for an option. sentence: those for a sentence of the library.
        """
        arrow = "->" if ascii_only else "→"
        yield f" {inert(self.source)}"
        if self.url:
            yield f" {arrow} {inert(self.url)}"
        if self.steps:
            yield ""
        for number, step in enumerate(self.steps, 1):
            yield from _step_lines(number, step, columns, arrow, worded)
        if self.objects:
            given = ", ".join(f"{name} {value}" for name, value in self.objects)
            yield from _wrapped(f"its object is given: {given}", columns, "     ", "       ")
        if self.local_copy:
            yield f"     its local copy: {inert(self.local_copy)}"
        if self.left_out:
            what = "the export is refused" if self.refuses_run else "it is not sent"
            yield from _wrapped(f"{what}: {sentence(self.left_out)}", columns, "  ! ", "    ")

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _step_lines(number: int, step: RouteStep, columns: int, arrow: str, worded: Worded) -> Iterator[str]:
    by = worded(step.option, step.pair) if step.option else ""
    rules = f"{'rule' if len(step.rules) == 1 else 'rules'} {', '.join(map(str, step.rules))}" if step.rules else ""
    aside = "; ".join(filter(None, ["" if step.pair is not None else by, rules]))
    text = f"{by}: {step.text}" if step.pair is not None else step.text
    yield from _wrapped(f"{text}{f' ({aside})' if aside else ''}", columns, f" {number:>2}  ", "     ")
    if step.before != step.after:
        if step.pair is not None:
            yield f"     {inert(step.before)}"
        yield f"   {arrow:>2} {inert(step.after)}" if len(arrow) == 2 else f"   {arrow} {inert(step.after)}"


def _wrapped(text: str, columns: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        inert(text),
        max(columns, 40),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def explained(source: Source, settings: Settings, paths: Sequence[str]) -> list[Explanation]:
    """What an export of `source` would do with the files at `paths`. Blocking: walks the source until all are found.

    Args:
        paths: files or directories, relative to the current directory or to the source (of a directory the first
            `EXPLAINED_MAX` files are explained); or URLs of objects, whose files are looked for.

    Raises:
        ConfigError: the source has nothing at a path, or for a URL, or is a stream.
    """
    if not source.replayable:
        raise ConfigError("A stream cannot be explained: its lines are read once; write them into a manifest.")
    tops = tops_of(source)
    wanted = {path: _Wanted(path, tops, settings) for path in paths}
    explainer = _Explainer(discovery_of(settings, settings.target, source), settings)
    by_key = any(each.key for each in wanted.values())
    for scanned in source.scan():
        key = explainer.key_of(scanned) if by_key else ""
        for each in wanted.values():
            if each.concerns(scanned, key):
                each.found.append(explainer.of(scanned))
        if source.injective and all(each.is_whole for each in wanted.values()):
            break
    for each in wanted.values():
        each.check_found()
    return [explanation for path in paths for explanation in wanted[path].found]


class _Wanted:
    """A path or URL that is to be explained.

    Attributes:
        key: of a URL, the whole key; "" for a path.
        found: the explanations so far.
    """

    def __init__(self, path: str, tops: Sequence[str], settings: Settings) -> None:
        self._path = path
        self.key = _key_in(path, settings)
        self._places = () if self.key else _places(path, tops)
        self.found: list[Explanation] = []

    def concerns(self, scanned: SourceFile | SourceProblem, key: str) -> bool:
        """Whether an entry of the walk, with its key, has the key, is at the path, below it, or a directory above it
        that is left out."""
        if len(self.found) >= EXPLAINED_MAX:
            return False
        if self.key:
            return key == self.key
        path = scanned.path
        for place in self._places:
            if path == place or path.startswith(f"{place}/"):
                return True
            if isinstance(scanned, SourceProblem) and place.startswith(f"{path}/"):
                return True
        return False

    @property
    def is_whole(self) -> bool:
        """Whether no other entry of the walk of a directory can concern it."""
        if len(self.found) >= EXPLAINED_MAX or (self.key and self.found):
            return True
        ends = {each.source for each in self.found}
        return any(place in ends or any(place.startswith(f"{end}/") for end in ends) for place in self._places)

    def check_found(self) -> None:
        """Raise ConfigError where nothing was found."""
        if self.found:
            return
        if self.key:
            raise ConfigError(f"No file of the source gets the key {self.key!r}, with these options.")
        if any(os.path.lexists(on_disk(place)) for place in self._places):
            raise ConfigError(f"{self._path!r} is not among the files of the source, so that no export of it sends it.")
        raise ConfigError(f"{self._path!r} does not exist; name a file, or a directory, of the source.")


def _key_in(path: str, settings: Settings) -> str:
    """The key in the URL of an object; "" for a path.

    Raises:
        ConfigError: it has no key, or the destination is another bucket.
    """
    if not path.lower().startswith("s3://"):
        return ""
    bucket, key = split_bucket(path[len("s3://") :])
    target = settings.target
    if not isinstance(target, S3Target) or bucket != target.bucket or not key:
        raise ConfigError(
            f"{path!r} is no object below the destination {target.url}; name one, or a file of the source."
        )
    return key


class _Explainer:
    """Explains single files by the run's own discovery."""

    def __init__(self, discovery: Discovery, settings: Settings) -> None:
        local = settings.local_copy.directory if settings.local_copy is not None else ""
        self._discovery = discovery
        self._settings = settings
        self._router = TracingRouter(settings.routing, base=settings.target.url, local_base=local)
        self._local_base = local

    def key_of(self, scanned: SourceFile | SourceProblem) -> str:
        """The whole key of an entry of the walk, or ""."""
        found = self._discovery.route(scanned) if isinstance(scanned, SourceFile) else scanned
        return found.key if isinstance(found, Transfer) else ""

    def of(self, scanned: SourceFile | SourceProblem) -> Explanation:
        """The explanation of one entry of the walk."""
        if isinstance(scanned, SourceProblem):
            return self._problem(scanned, ())
        trace = self._router.trace(scanned)
        found = self._discovery.route(scanned)
        if isinstance(found, SourceProblem):
            return self._problem(found, trace.steps)
        steps, prefix = trace.steps, self._discovery.prefix
        if prefix:
            last = steps[-1].after
            steps = (*steps, RouteStep(text=f"the destination's prefix {prefix!r}", before=last, after=found.key))
        shard = self._settings.shard
        elsewhere = "" if shard.holds(found.key) else f"another shard than {shard} has it"
        return Explanation(
            source=scanned.path,
            attribute=scanned.attribute,
            key=found.key,
            url=self._url(found),
            local_copy=f"{self._local_base}/{found.local}" if self._local_base else "",
            steps=steps,
            left_out=elsewhere,
            objects=self._objects(found),
        )

    def _problem(self, problem: SourceProblem, steps: tuple[RouteStep, ...]) -> Explanation:
        refuses = forbids_run(problem, self._settings.policies)
        return Explanation(
            source=problem.path,
            attribute=problem.attribute,
            steps=steps,
            left_out=str(problem.error) if refuses or problem.unreadable else problem_reason(problem),
            refuses_run=refuses,
        )

    def _url(self, transfer: Transfer) -> str:
        target = self._settings.target
        if isinstance(target, S3Target):
            return f"s3://{target.bucket}/{transfer.key}"
        top = target.directory if isinstance(target, LocalTarget) else target.url
        return f"{top}/{transfer.key}"

    def _objects(self, transfer: Transfer) -> tuple[tuple[str, str], ...]:
        target = self._settings.target
        if not isinstance(target, S3Target):
            return ()
        given = OptionsOf(self._settings, target.bucket).attributes(transfer)
        pairs = [
            ("content type", given.content_type),
            ("storage class", given.storage_class),
            ("encryption", "a key of your own" if given.sse_customer_key is not None else given.sse),
            ("ACL", given.acl),
            ("tags", ", ".join(f"{name}={value}" for name, value in given.tags)),
            ("metadata", ", ".join(f"{name}={value}" for name, value in given.metadata)),
        ]
        return tuple((name, value) for name, value in pairs if value)


def _places(path: str, tops: Sequence[str]) -> tuple[str, ...]:
    """The absolute paths that `path` may mean: from the current directory, or else below each top of the source."""
    here = given_path(path, "The file") if path else ""
    if not here:
        raise ConfigError("A file to explain is ''; expected a path.")
    if any(here == top or here.startswith(f"{top}/") or top.startswith(f"{here}/") for top in tops):
        return (here,)
    relative = as_text(os.path.normpath(path))
    below = tuple(f"{top}/{relative}" for top in dict.fromkeys(tops))
    return tuple(place for place in below if os.path.lexists(on_disk(place))) or (here,)
