"""The files of a split: DIR/split.json, and DIR/part-00000.jsonl to the last part. All functions block.

split.json is written last, so that a directory that has one has all parts. A line of a part is one file, and its key is
the whole key inside the bucket. No file holds a secret.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256
from typing import Any

from asyncsink.errors import AsyncSinkError, ConfigError, DestinationFull
from asyncsink.model import SourceFile, Transfer
from asyncsink.options.schema import SPLIT_OPTIONS, ObjectOptions, Policies, RoutingOptions, Settings
from asyncsink.options.values import read_path
from asyncsink.routing.keys import fingerprint
from asyncsink.splitting.cutting import Cutter, spread
from asyncsink.value import dataclass

FORMAT = "asyncsink split"
VERSION = 1
SPLIT_FILE = "split.json"
NUMBER_MAX = 99_999
"""Of a part: its name has five digits, and split.json is read whole."""
_UNNUMBERED = "range-"
_SPLIT_BYTES_MAX = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPart:
    """A part, as split.json has it.

    Attributes:
        file, receipts: names of the part's file, and of the manifest that publishing it writes.
        first_key, last_key: its range, in the order of UTF-8.
        objects, bytes: their number, and the sum of their sizes.
        digest: "sha256:" and the hexadecimal digest of the part's file.
    """

    file: str
    receipts: str
    first_key: str
    last_key: str
    objects: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """What split.json says.

    Attributes:
        asyncsink: version of the writer.
        created: ISO 8601, UTC.
        source: as it was given; "" for outputs of a Python program.
        destination: "s3://bucket/prefix", or a directory.
        options: those that name the keys, and what every object is given; defaults are omitted.
        objects, bytes: the totals of all parts.
        left_out: what was not split, by reason: number of files.
        parts: by their numbers, from 0.
    """

    asyncsink: str
    created: str
    source: str
    destination: str
    options: dict[str, Any]
    objects: int
    bytes: int
    left_out: dict[str, int]
    parts: tuple[SplitPart, ...]


def recorded_options(settings: Settings) -> dict[str, Any]:
    """The options of a split that are no defaults, as JSON has them. Pure."""
    homes = {RoutingOptions: settings.routing, ObjectOptions: settings.objects, Policies: settings.policies}
    said = {
        name: getattr(homes[option.part], name)
        for name, option in SPLIT_OPTIONS.items()
        if option.part in homes and getattr(homes[option.part], name) != option.default
    }
    as_json: dict[str, Callable[[Any], Any]] = {
        "mapping": dict,
        "object_options": lambda rules: {pattern: _as_given(dict(fields)) for pattern, fields in rules},
    }
    return {name: as_json.get(SPLIT_OPTIONS[name].kind, lambda same: same)(value) for name, value in said.items()}


def _as_given(fields: dict[str, Any]) -> dict[str, Any]:
    """The options of a pattern as a caller writes them."""
    said = {name: dict(value) if name in ("tags", "metadata") else value for name, value in fields.items()}
    return {name: value for name, value in said.items() if name != "sse_customer_key" and value != ""}


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_parts(
    directory: str, transfers: Iterable[Transfer], cutter: Cutter, alike: Mapping[int, Sequence[str]]
) -> Iterator[SplitPart]:
    """Write the files of all parts, and yield the parts in the order of their numbers, which is that of `spread`.

    Args:
        transfers: in the order of their keys.
        alike: by fingerprint, keys that some server takes for one; their lines name each other.

    Raises:
        ConfigError: there would be too many parts. DestinationFull, ConfigError: the directory cannot take them.
    """
    writer: _PartWriter | None = None
    made: list[SplitPart] = []
    try:
        for transfer in transfers:
            if cutter.begins(transfer.source.size_bytes):
                if writer is not None:
                    made.append(writer.close())
                if len(made) > NUMBER_MAX:
                    raise ConfigError(
                        f"The source would be split into more than {NUMBER_MAX + 1:,} parts; give larger limits with "
                        "part_bytes and part_objects, or the number of parts with parts."
                    )
                writer = _PartWriter(directory, len(made))
            assert writer is not None
            same = alike.get(fingerprint(transfer.key), ()) if alike else ()
            writer.add(transfer, [key for key in same if key != transfer.key])
        if writer is not None:
            made.append(writer.close())
        for number, place in enumerate(spread(len(made))):
            part = replace(made[place], file=f"part-{number:05}.jsonl", receipts=f"receipts-{number:05}.jsonl")
            os.rename(os.path.join(directory, made[place].file), os.path.join(directory, part.file))
            yield part
    except OSError as error:
        raise _not_written(directory, error) from error
    finally:
        if writer is not None:
            writer.release()


class _PartWriter:
    """The file of one part, which has a name for its place among the keys until the number of all parts is known."""

    def __init__(self, directory: str, place: int) -> None:
        self._name = f"{_UNNUMBERED}{place:05}.jsonl"
        self._file = open(os.path.join(directory, self._name), "xb")  # noqa: SIM115 - see release
        self._digest = sha256()
        self._first = self._last = ""
        self._objects = self._bytes = 0

    def add(self, transfer: Transfer, alike: list[str]) -> None:
        """Write one line."""
        line = line_of(transfer, alike)
        self._file.write(line)
        self._digest.update(line)
        self._first = self._first if self._objects else transfer.key
        self._last = transfer.key
        self._objects += 1
        self._bytes += transfer.source.size_bytes

    def close(self) -> SplitPart:
        """End the file, which is on the disk then."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return SplitPart(
            file=self._name,
            receipts="",
            first_key=self._first,
            last_key=self._last,
            objects=self._objects,
            bytes=self._bytes,
            digest=f"sha256:{self._digest.hexdigest()}",
        )

    def release(self) -> None:
        """Close the file. Harmless when repeated."""
        self._file.close()


def line_of(transfer: Transfer, alike: list[str]) -> bytes:
    """A line of a part; `alike` are keys that some server takes for this one. Pure."""
    source = transfer.source
    said: dict[str, object] = {
        "key": transfer.key,
        "path": source.path,
        "size_bytes": source.size_bytes,
        "mtime_ns": source.mtime_ns,
        "ctime_ns": source.ctime_ns,
        "inode": source.inode,
    }
    if source.real_path:
        said["real_path"] = source.real_path
    if alike:
        said["alike"] = alike
    return json.dumps(said).encode("ascii") + b"\n"


def write_plan(directory: str, plan: SplitPlan) -> None:
    """Write split.json.

    Raises:
        DestinationFull, ConfigError: the directory cannot take it.
    """
    place = os.path.join(directory, SPLIT_FILE)
    head = {"format": FORMAT, "version": VERSION, **asdict(plan)}
    parts = ",\n".join(json.dumps(part) for part in head.pop("parts"))
    text = f'{json.dumps(head, indent=1)[:-2]},\n "parts": [\n{parts}\n]}}\n'
    try:
        with open(f"{place}.new", "x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{place}.new", place)
    except OSError as error:
        raise _not_written(directory, error) from error


def directory_of_split(directory: Any) -> str:
    """The absolute path of a split's directory, as the interpreter has paths.

    Raises:
        ConfigError: it is no path.
    """
    text = read_path(directory, "directory")
    if not text:
        raise ConfigError("The directory of the split is ''; expected a path.")
    return os.path.abspath(text)


def make_empty(directory: str) -> bool:
    """Make the directory of a split; whether it was made, and not there already.

    Raises:
        ConfigError: it is there and not empty, or cannot be made.
    """
    try:
        if not os.path.lexists(directory):
            os.makedirs(directory)
            return True
        with os.scandir(directory) as entries:
            if next(entries, None) is None:
                return False
    except OSError as error:
        raise _not_written(directory, error) from error
    raise ConfigError(f"The directory {directory!r} is not empty; name a new one: parts of two splits must not mix.")


def remove_all(directory: str, *, made: bool) -> None:
    """Remove the files of a split that failed, and the directory where it was `made` for it."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.startswith(("part-", _UNNUMBERED, SPLIT_FILE)):
            os.unlink(os.path.join(directory, name))
    if made:
        os.rmdir(directory)


def _not_written(directory: str, error: OSError) -> AsyncSinkError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DestinationFull(
            f"The directory {directory!r} cannot take the split: {error.strerror}; free some space, or name another.",
            operation="split",
        )
    return ConfigError(
        f"The directory {directory!r} cannot take the split: {error.strerror or error}; name one that you may write to."
    )


# -- Reading -----------------------------------------------------------------------------------------------------------


def read_plan(directory: str) -> SplitPlan:
    """What split.json says.

    Raises:
        ConfigError: there is none, it cannot be read, or it is of another version.
    """
    place = os.path.join(directory, SPLIT_FILE)
    try:
        with open(place, "rb") as file:
            told = json.loads(file.read(_SPLIT_BYTES_MAX))
    except FileNotFoundError:
        raise ConfigError(
            f"{directory!r} holds no {SPLIT_FILE}; expected a directory that asyncsink split has written."
        ) from None
    except OSError as error:
        raise ConfigError(f"{place!r} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place!r} is no JSON ({error}); split the source again.") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ConfigError(f"{place!r} is of no split; expected what asyncsink split has written.")
    if told.get("version") != VERSION:
        raise ConfigError(
            f"{place!r} is of version {told.get('version')!r}, and this asyncsink reads version {VERSION}; publish it "
            "with the version that split it, or split the source again."
        )
    try:
        parts = tuple(_checked(SplitPart, part) for part in told["parts"])
        plan: SplitPlan = _checked(SplitPlan, {**told, "parts": parts})
        return plan
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{place!r} is damaged ({error}); split the source again.") from error


def _checked(kind: type[Any], told: dict[str, Any]) -> Any:
    types = {"int": int, "str": str}
    for field in fields(kind):
        expected = types.get(str(field.type), object)
        if not isinstance(told[field.name], expected):
            raise ValueError(f"{field.name} is no {field.type}")  # noqa: TRY004 - it is the file that is wrong
    return kind(**{field.name: told[field.name] for field in fields(kind)})


def file_of(line: bytes) -> tuple[str, SourceFile, tuple[str, ...]]:
    """Key, file, and the keys that are alike, of a part's line. Pure.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    said = json.loads(line)
    source = SourceFile(
        said["path"],
        said["size_bytes"],
        said["mtime_ns"],
        root=said["path"],
        ctime_ns=said["ctime_ns"],
        inode=said["inode"],
        real_path=said.get("real_path", ""),
        # Whether this machine may read it, opening it tells.
        readable=True,
        pinned=True,
    )
    return said["key"], source, tuple(said.get("alike", ()))
