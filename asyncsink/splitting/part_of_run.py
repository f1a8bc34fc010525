"""A part of a run that is handed to another process: the files with their keys, in a form that travels cheaply."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator, Mapping, Sequence

from asyncsink.destinations.base import RunForecast
from asyncsink.engine.planning.object_rules import ObjectRules
from asyncsink.model import SourceFile, Transfer
from asyncsink.options.schema import S3Target, Settings
from asyncsink.routing.key_range import RangeFinder
from asyncsink.routing.keys import fingerprint
from asyncsink.s3.endpoint import is_directory_bucket
from asyncsink.splitting.cutting import Cutter
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class PartOfRun:
    """A contiguous range of the keys of a run, and the file of each.

    Attributes:
        number: from 0, in the order of the keys.
        objects, size_bytes: of all files.
        rows: key, path, size, mtime, ctime, inode, real path and entry of each file (marshal, so that receiving it
            runs no code).
        alike: for keys that some server takes for another key of the source, those.
        twins: the fingerprints of all keys of the source that some server takes for one.
    """

    number: int
    objects: int
    size_bytes: int
    rows: bytes
    alike: Mapping[str, tuple[str, ...]]
    twins: frozenset[int]

    def transfers(self, rules: ObjectRules | None = None, prefix: str = "") -> list[Transfer]:
        """The files, published as they were found or not at all; `rules` say what each object is given, by its key
        below `prefix`."""
        found: list[Transfer] = []
        for key, path, size, mtime, ctime, inode, real, entry in marshal.loads(self.rows):  # noqa: S302 - plain values
            source = SourceFile(
                path, size, mtime, entry=entry, root=path, ctime_ns=ctime, inode=inode, real_path=real, readable=True,
                pinned=True,
            )  # fmt: skip
            transfer = Transfer(source, key, key)
            found.append(transfer if rules is None else rules.applied(transfer, prefix))
        return found

    def forecast(self, transfers: Sequence[Transfer], settings: Settings) -> RunForecast:
        """What a destination has to know of the part before it begins: the range of the keys to list, above all."""
        finder = RangeFinder()
        for transfer in transfers:
            finder.add(transfer.key)
        keys, target = finder.found(self.alike), settings.target
        listed = isinstance(target, S3Target) and not is_directory_bucket(target.bucket)
        return RunForecast(
            objects_total=self.objects,
            common_prefix=keys.prefix,
            sample_key=transfers[0].key,
            alike=self.twins,
            keys=keys if listed else None,
        )


def rules_of(settings: Settings) -> ObjectRules | None:
    """What objects are given by their keys, or None."""
    return ObjectRules(settings) if settings.policies.object_options else None


def parts_of_run(
    transfers: Iterable[Transfer], cutter: Cutter, alike: Mapping[int, Sequence[str]]
) -> Iterator[PartOfRun]:
    """The parts of transfers that come in the order of their keys; `alike` as in files.py."""
    some: list[Transfer] = []
    number = 0
    for transfer in transfers:
        if cutter.begins(transfer.source.size_bytes) and some:
            yield _part(number, some, alike)
            number, some = number + 1, []
        some.append(transfer)
    if some:
        yield _part(number, some, alike)


def _part(number: int, transfers: list[Transfer], alike: Mapping[int, Sequence[str]]) -> PartOfRun:
    rows = [
        (each.key, s.path, s.size_bytes, s.mtime_ns, s.ctime_ns, s.inode, s.real_path, s.entry)
        for each in transfers
        for s in (each.source,)
    ]
    others: dict[str, tuple[str, ...]] = {}
    for each in transfers if alike else ():
        same = tuple(key for key in alike.get(fingerprint(each.key), ()) if key != each.key)
        if same:
            others[each.key] = same
    size_bytes = sum(each.source.size_bytes for each in transfers)
    return PartOfRun(number, len(transfers), size_bytes, marshal.dumps(rows), others, frozenset(alike))
