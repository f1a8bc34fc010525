"""What a grab wants: everything below a prefix, page by page, or what templates match, known as a whole first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from asyncsink.config import Secret
from asyncsink.errors import AccessDenied, AsyncSinkError, ObjectMissing, ServerFault, SourceMissing
from asyncsink.grabbing.options import GrabSettings
from asyncsink.grabbing.wanted import check_asked_for
from asyncsink.routing.keys import show
from asyncsink.routing.templates import Pattern, natural_order, shaped
from asyncsink.s3.operations import HeadObject, ListedObject
from asyncsink.s3.transport import Transport
from asyncsink.sources.s3_listing import list_below

LOOKS_AT_ONCE = 16
"""Objects that are looked at, at the same time, where they may not be listed."""


@dataclass(slots=True)
class Matches:
    """What the templates found.

    Attributes:
        objects: each once, by key.
        keys: for each field, the keys of each of its patterns.
    """

    objects: dict[str, ListedObject] = field(default_factory=dict)
    keys: dict[str, list[list[str]]] = field(default_factory=dict)

    def outputs(self, settings: GrabSettings, path_of: Callable[[str], str | None]) -> dict[str, Any]:
        """The outputs of the fields, each key replaced by its path, or by None where it has none."""
        return {
            name: shaped(
                [[path_of(key) for key in keys] for keys in patterns],
                with_arguments=name in settings.with_arguments,
            )
            for name, patterns in self.keys.items()
        }


async def find_matches(
    transport: Transport, settings: GrabSettings, outside: Callable[[str, ServerFault], None]
) -> Matches:
    """List below the templates' prefixes, and keep what they match; folder markers ("a/") never do.

    Args:
        outside: called with each key that a listing holds although it was not asked for, and the error that this is.

    Raises:
        SourceMissing: a template matches nothing, and that is an error; the others are among its `problems`.
        TransferError: a listing failed.
    """
    patterns = [pattern for each in settings.fields for pattern in each.patterns]
    by_prefix: Mapping[str, list[Pattern]] = _grouped(patterns, settings.prefixes)
    found: dict[int, list[str]] = {id(pattern): [] for pattern in patterns}
    matches = Matches()

    async def match(prefix: str, page: Sequence[ListedObject]) -> None:
        for listed in page:
            try:
                check_asked_for(listed.key, prefix)
            except ServerFault as error:
                outside(listed.key, error)
                continue
            if listed.key.endswith("/"):
                continue
            for pattern in by_prefix[prefix]:
                if pattern.matches(listed.key):
                    found[id(pattern)].append(listed.key)
                    matches.objects[listed.key] = listed

    if patterns:
        await list_below(transport, settings.prefixes, match)
    _fill(matches, settings, found, f"no key below s3://{settings.target.bucket}/{settings.base} matches")
    return matches


def _fill(matches: Matches, settings: GrabSettings, found: Mapping[int, list[str]], nothing: str) -> None:
    """Give every field the keys that its patterns found, by the patterns' ids.

    Args:
        nothing: why a pattern found nothing, before its text.

    Raises:
        SourceMissing: as `find_matches`.
    """
    missing = []
    for each in settings.fields:
        matches.keys[each.name] = [found[id(pattern)] for pattern in each.patterns]
        for keys in matches.keys[each.name]:
            if settings.sort_filelist:
                keys.sort(key=natural_order)
        if not each.patterns:
            missing.append(
                SourceMissing(
                    f"The output field {show(each.name)} finds nothing: one of its arguments is an empty list; give it "
                    "values, or give raise_on_empty=False."
                )
            )
        missing += [
            SourceMissing(
                f"The output field {show(each.name)} finds nothing: {nothing} {show(pattern.text)}; correct the "
                "template, or give raise_on_empty=False."
            )
            for pattern in each.patterns
            if not found[id(pattern)]
        ]
    if missing and settings.raise_on_empty:
        missing[0].problems = missing[1:]
        raise missing[0]


def _grouped(patterns: Iterable[Pattern], prefixes: Sequence[str]) -> Mapping[str, list[Pattern]]:
    grouped = defaultdict(list)
    for pattern in patterns:
        (prefix,) = (each for each in prefixes if pattern.prefix.startswith(each))
        grouped[prefix].append(pattern)
    return grouped


async def find_single(transport: Transport, settings: GrabSettings, secret: Secret | None) -> ListedObject | None:
    """The object that the source itself names ("s3://bucket/scan.nii"), or None."""
    key = settings.target.prefix
    if settings.fields or not key:
        return None
    try:
        return await _by_key(transport, key, secret)
    except (ObjectMissing, AccessDenied):
        return None  # the listing says what there is, and what is denied


async def _by_key(transport: Transport, key: str, secret: Secret | None) -> ListedObject | None:
    head = await transport.send(HeadObject(key=key, sse_customer_key=secret))
    if head.last_modified is None:
        return None
    return ListedObject(key, head.size_bytes, head.etag, head.last_modified)


async def find_unlisted(
    transport: Transport, settings: GrabSettings, secret: Secret | None, denied: AccessDenied
) -> tuple[Matches | None, ListedObject | None]:
    """Without the right to list: the object that the source names, or those that templates name by their whole keys.

    S3 has rights for a bucket's list and rights for its objects; who may read a public or shared object may often not
    list its neighbours.

    Args:
        denied: what the listing was answered with.

    Raises:
        AccessDenied: nothing names a whole key, or no object can be had under one; it says what either was answered.
        SourceMissing: as `find_matches`.
        TransferError: an object could not be asked for.
    """
    patterns = [pattern for each in settings.fields for pattern in each.patterns]
    keys = dict.fromkeys(pattern.key for pattern in patterns) if settings.fields else {settings.target.prefix: None}
    if "" in keys or settings.names_folder:
        raise _unlisted(denied, "Only an object whose whole key is given can be grabbed without the right to list.")
    objects: dict[str, ListedObject] = {}
    errors: list[tuple[str, AsyncSinkError]] = []
    waiting = iter(keys)

    async def ask() -> None:
        for key in waiting:
            try:
                found = await _by_key(transport, key, secret)
            except (ObjectMissing, AccessDenied) as error:
                errors.append((key, error))
            else:
                if found is not None:
                    objects[key] = found
                else:
                    errors.append((key, AccessDenied("The server does not say when it was modified.")))

    async with anyio.create_task_group() as group:
        for _ in range(LOOKS_AT_ONCE):
            group.start_soon(ask)
    for key, error in errors:
        if not settings.fields or isinstance(error, AccessDenied):
            raise _unlisted(denied, f"The object {show(key)} itself cannot be had either: {error}") from error
    if not settings.fields:
        return None, objects.get(settings.target.prefix)
    matches = Matches(objects)
    found = {id(pattern): [pattern.key] if pattern.key in objects else [] for pattern in patterns}
    _fill(matches, settings, found, f"s3://{settings.target.bucket} may not be listed, and has no object")
    return matches, None


def _unlisted(denied: AccessDenied, why: str) -> AccessDenied:
    return AccessDenied(f"{denied} {why}", operation=denied.operation, code=denied.code, status=denied.status)
