"""What a grab wants: everything below a prefix, page by page, or what templates match, known as a whole first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncsink.config import Secret
from asyncsink.errors import AccessDenied, ObjectMissing, SourceMissing
from asyncsink.grabbing.options import GrabSettings
from asyncsink.routing.keys import show
from asyncsink.routing.templates import Pattern, natural_order, shaped
from asyncsink.s3.operations import HeadObject, ListedObject
from asyncsink.s3.transport import Transport
from asyncsink.sources.s3_listing import list_below


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


async def find_matches(transport: Transport, settings: GrabSettings) -> Matches:
    """List below the templates' prefixes, and keep what they match; folder markers ("a/") never do.

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
            if listed.key.endswith("/"):
                continue
            for pattern in by_prefix[prefix]:
                if pattern.matches(listed.key):
                    found[id(pattern)].append(listed.key)
                    matches.objects[listed.key] = listed

    if patterns:
        await list_below(transport, settings.prefixes, match)
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
                f"The output field {show(each.name)} finds nothing: no key below s3://{settings.target.bucket}/"
                f"{settings.base} matches {show(pattern.text)}; correct the template, or give raise_on_empty=False."
            )
            for pattern in each.patterns
            if not found[id(pattern)]
        ]
    if missing and settings.raise_on_empty:
        missing[0].problems = missing[1:]
        raise missing[0]
    return matches


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
        head = await transport.send(HeadObject(key=key, sse_customer_key=secret))
    except (ObjectMissing, AccessDenied):
        return None  # the listing says what there is, and what is denied
    if head.last_modified is None:
        return None
    return ListedObject(key, head.size_bytes, head.etag, head.last_modified)
