"""Discovery: from a source to routed transfers, in one blocking iterator, batch by batch in a thread."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator
from dataclasses import replace

from asyncsink.engine.planning.object_rules import ObjectRules
from asyncsink.engine.transfer.destination_state import unreadable
from asyncsink.errors import ConfigError, InvalidKey, KeyCollision, RoutingError
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import ObjectOptions, Overwrite
from asyncsink.paths import real_path
from asyncsink.routing.keys import show
from asyncsink.routing.router import Router
from asyncsink.sources.base import Source
from asyncsink.sources.selection import FileBounds, left_out


class Discovery:
    """The routed files of a source. Iterating blocks; each iteration walks the source again.

    Attributes:
        source, router: what is walked, and what gives the keys.
        prefix: the destination's prefix inside its bucket, or "".
        records: absolute paths of the files that the run keeps its records in; they are not published.
        bounds: the sizes and ages of files that are published; None: all.
        rules: what objects are given by their keys; None: what the run gives.
        leaves_out_unreadable: whether files that may not be read are problems; else the survey refuses them.
        reserved: keys that no file may have.
        admits: whether an entry is one of the run's; None admits all.
        key, objects, overwrite: see `of`.
    """

    admits: Callable[[Transfer | SourceProblem], bool] | None = None
    reserved: frozenset[str] = frozenset()
    key: str | None = None
    objects: ObjectOptions | None = None
    overwrite: Overwrite | None = None

    def __init__(
        self,
        source: Source,
        router: Router,
        prefix: str,
        *,
        records: tuple[str, ...] = (),
        leaves_out_unreadable: bool = False,
        bounds: FileBounds | None = None,
        rules: ObjectRules | None = None,
    ) -> None:
        self.source = source
        self.router = router
        self.prefix = prefix
        self.records = records
        self.leaves_out_unreadable = leaves_out_unreadable
        self.bounds = bounds
        self.rules = rules
        # Many paths may lead to one file; only those that end with its name are resolved.
        self._record_names = tuple(f"/{os.path.basename(path)}" for path in records)

    def of(
        self,
        source: Source,
        *,
        key: str | None = None,
        objects: ObjectOptions | None = None,
        overwrite: Overwrite | None = None,
    ) -> Discovery:
        """The discovery of another source, otherwise the same.

        Args:
            key: of the source's only file, exactly; None where routing derives keys.
            objects, overwrite: of its transfers, as in Transfer.
        """
        other = object.__new__(type(self))
        vars(other).update(vars(self))  # `copy` takes five times as long
        other.source, other.key, other.objects, other.overwrite = source, key, objects, overwrite
        return other

    @property
    def may_collide(self) -> bool:
        """Whether two files can get one key."""
        return not (self.source.injective and self.router.plain)

    @property
    def known_prefix(self) -> str:
        """The beginning of every key, as far as it is known before the walk."""
        inside = self.router.folder if self.router.plain else ""
        return f"{self.prefix}/{inside}" if self.prefix else inside

    def route(self, file: SourceFile) -> Transfer | SourceProblem:
        """The transfer of one file, or the problem that forbids one."""
        if self.key is not None:
            file = replace(file, key=self.key)
        if self.bounds is not None and (reason := self.bounds.reason(file.size_bytes, file.mtime_ns)):
            return left_out(file.path, reason, entry=file.entry, attribute=file.attribute, unmatched=False)
        if self._record_names and file.path.endswith(self._record_names) and self._is_record(file.path):
            error: ConfigError = ConfigError(
                f"{file.path!r} is where this run keeps its own records, so it is not published; leave it out, or name "
                "another file for them."
            )
            return SourceProblem(file.path, error, entry=file.entry, attribute=file.attribute, skippable=False)
        try:
            route = self.router.route(file)
        except RoutingError as unroutable:
            return SourceProblem(
                file.path,
                unroutable,
                entry=file.entry,
                attribute=file.attribute,
                skippable=False,
                unreadable=isinstance(unroutable, InvalidKey),
            )
        if self.leaves_out_unreadable and (denied := unreadable(file)) is not None:
            return SourceProblem(
                file.path, denied, entry=file.entry, attribute=file.attribute, skippable=False, unreadable=True
            )
        key = f"{self.prefix}/{route.key}" if self.prefix else route.key
        if key in self.reserved:
            taken = KeyCollision(
                f"{file.path!r} would have the key {show(key)}, where the run publishes its index or its completion "
                "marker; give that another name, or leave the file out."
            )
            return SourceProblem(file.path, taken, entry=file.entry, attribute=file.attribute, skippable=False)
        objects = self.objects
        if objects is None and self.rules is not None:
            objects = self.rules.of(route.key)
        if objects is None and self.overwrite is None:
            return Transfer(file, key, route.local)
        return Transfer(file, key, route.local, objects=objects, overwrite=self.overwrite)

    def _is_record(self, path: str) -> bool:
        real = real_path(path)
        return any(real == real_path(record) for record in self.records)

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        admits = self.admits
        for scanned in self.source.scan():
            found = scanned if isinstance(scanned, SourceProblem) else self.route(scanned)
            if admits is None or admits(found):
                yield found


def shard_key(found: Transfer | SourceProblem) -> str:
    """What decides the shard: the key, or, where there is none, the path."""
    return found.key if isinstance(found, Transfer) else found.path
