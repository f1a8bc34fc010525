"""One outcome, one line of JSON: what the run's log keeps and the manifest holds.

Lines are pure ASCII: control characters, line separators and the surrogates of names that are no UTF-8 (PEP 383) are
escaped, so that a line is always one line, is inert on a terminal, and reads back exactly. (RFC 8259; jsonlines.org.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, cast, get_args

from asyncsink.model import Checksum, ChecksumAlgorithm, Failure, Outcome, Planned, Receipt, Skip

# A line is put together by hand: json.dumps of a dictionary takes three times as long, and a run has one per object.


def _checksum(checksum: Checksum | None) -> str:
    return "null" if checksum is None else _quote(f"{checksum.algorithm}:{checksum.value}")


def receipt_line(
    source: str,
    key: str,
    url: str,
    size_bytes: int,
    *,
    checksum: Checksum | None,
    etag: str,
    version_id: str,
    attempts: int,
    seconds: float,
    local_copy: str,
    confirmed_by: str,
    entry: int,
) -> str:
    """The line of a Receipt with these fields, for those who make many and need no Receipt."""
    return (
        f'{{"record":"receipt","source":{_quote(source)},"key":{_quote(key)},"url":{_quote(url)},'
        f'"size_bytes":{size_bytes},"checksum":{_checksum(checksum)},"etag":{_quote(etag)},'
        f'"version_id":{_quote(version_id)},"attempts":{attempts},"seconds":{seconds!r},'
        f'"local_copy":{_quote(local_copy)},"confirmed_by":{_quote(confirmed_by)},"entry":{entry}}}'
    )


def _receipt(o: Receipt) -> str:
    return receipt_line(
        o.source,
        o.key,
        o.url,
        o.size_bytes,
        checksum=o.checksum,
        etag=o.etag,
        version_id=o.version_id,
        attempts=o.attempts,
        seconds=o.seconds,
        local_copy=o.local_copy,
        confirmed_by=o.confirmed_by,
        entry=o.entry,
    )


def _skip(o: Skip) -> str:
    return (
        f'{{"record":"skip","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"already_there":{_bool(o.already_there)},'
        f'"checksum":{_checksum(o.checksum)},"etag":{_quote(o.etag)},"local_copy":{_quote(o.local_copy)},'
        f'"entry":{o.entry},"version_id":{_quote(o.version_id)},"attempts":{o.attempts},'
        f'"confirmed_by":{_quote(o.confirmed_by)}}}'
    )


def _failure(o: Failure) -> str:
    return (
        f'{{"record":"failure","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"error":{_quote(o.error)},"message":{_quote(o.message)},"stage":{_quote(o.stage)},'
        f'"attempts":{o.attempts},"entry":{o.entry}}}'
    )


def _planned(o: Planned) -> str:
    return (
        f'{{"record":"planned","source":{_quote(o.source)},"key":{_quote(o.key)},"url":{_quote(o.url)},'
        f'"size_bytes":{o.size_bytes},"reason":{_quote(o.reason)},"entry":{o.entry}}}'
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


_ENCODERS: dict[type, Callable[[Any], str]] = {
    Receipt: _receipt,
    Skip: _skip,
    Failure: _failure,
    Planned: _planned,
}
_TYPES: dict[str, type[Receipt | Skip | Failure | Planned]] = {
    "receipt": Receipt,
    "skip": Skip,
    "failure": Failure,
    "planned": Planned,
}

_ALGORITHMS: tuple[str, ...] = get_args(ChecksumAlgorithm)
_KINDS: dict[str, tuple[type, ...]] = {
    "size_bytes": (int,),
    "attempts": (int,),
    "entry": (int,),
    "seconds": (float, int),
    "already_there": (bool,),
    "checksum": (str, type(None)),
}


@cache
def _fields_of(name: str) -> dict[str, tuple[tuple[type, ...], bool]]:
    """For each field of a record, the types that its value may have, and whether it may be missing."""
    return {each.name: (_KINDS.get(each.name, (str,)), each.default is not MISSING) for each in fields(_TYPES[name])}


def encode(outcome: Outcome) -> str:
    """The outcome as a JSON object on one ASCII line, without its newline.

    Every field of the model is there under its own name; a checksum is "ALGORITHM:base64" or null.
    """
    return _ENCODERS[type(outcome)](outcome)


def decode(line: str | bytes) -> Outcome:
    """The outcome that `encode` wrote.

    Raises:
        ValueError: the line is no JSON, or no outcome.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a record is a JSON object")  # noqa: TRY004 - it is the line that is wrong
    return outcome_of(record)


def outcome_of(record: dict[str, Any]) -> Outcome:
    """The outcome in a decoded record; fields that the model does not have are ignored.

    Raises:
        ValueError: a field is missing or of the wrong kind, or the record is of no known type.
    """
    name = record.get("record")
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        raise ValueError(f"record {name!r} is not one of {', '.join(_TYPES)}")
    values = {}
    for field, (expected, optional) in _fields_of(name).items():
        if field in record:
            values[field] = value = record[field]
            if type(value) not in expected:
                raise ValueError(f"{field} has the value {value!r}")
        elif not optional:
            raise ValueError(f"{field} is missing")
    if values.get("checksum") is not None:
        values["checksum"] = parse_checksum(values["checksum"])
    return kind(**values)


def parse_checksum(text: str) -> Checksum:
    """The inverse of str(Checksum), "ALGORITHM:base64".

    Raises:
        ValueError: the text is not of that form, or the algorithm is none of S3's.
    """
    algorithm, colon, value = text.partition(":")
    if not colon or algorithm not in _ALGORITHMS:
        raise ValueError(f"checksum {text!r} is not of the form ALGORITHM:base64 with one of {', '.join(_ALGORITHMS)}")
    return Checksum(cast("ChecksumAlgorithm", algorithm), value)
