"""What a receipt manifest says of its objects, by key, on disk: a grab compares what it receives with that."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

from asyncsink.errors import ConfigError
from asyncsink.integrity.promises import existing_by_receipt
from asyncsink.integrity.sameness import Existing
from asyncsink.model import Receipt, Skip, promise_of
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.report.manifest import ReceiptManifest, read_manifest
from asyncsink.report.outcomes import decode, encode
from asyncsink.report.sentences import NOT_IN_MANIFEST
from asyncsink.temporary import TemporaryDatabase

_TABLE = "CREATE TABLE promise (key BLOB PRIMARY KEY, line TEXT, taken INTEGER DEFAULT 0) WITHOUT ROWID;"
KEYS_AT_ONCE = 1000


def unlisted(url: str, key: str) -> Skip:
    """The Skip of an object that the manifest does not list; its bytes count nowhere."""
    return Skip(url, key, "", 0, NOT_IN_MANIFEST, already_there=False)


class PromisedObjects:
    """The objects of one manifest; the last record of a key counts. Methods block, and may be called in any thread.

    They raise a JournalError where the directory for temporary files cannot hold them.
    """

    def __init__(self, manifest: ReceiptManifest) -> None:
        self.manifest = manifest
        self._lock = threading.Lock()
        self._disk = TemporaryDatabase("The receipts of the manifest", _TABLE)

    def __repr__(self) -> str:
        return f"<PromisedObjects of {self.manifest!r}>"

    @classmethod
    def of(cls, path: str, bucket: str, prefix: str) -> Self:
        """Those of a manifest that the source s3://bucket/prefix has: the object itself, or those below it.

        Of a merged manifest only objects in the bucket count. That of another bucket is taken: this may be a copy.

        Raises:
            ConfigError: the manifest cannot be read, or has no such object.
        """
        found = cls(read_manifest(path))
        base = f"{prefix}/" if prefix else ""
        merged = found.manifest.header.destination == "s3://"
        with found._disk.at_once():
            for record in found.manifest:
                promise = promise_of(record)
                if promise is None or not (promise.key.startswith(base) or promise.key == prefix):
                    continue
                if not merged or promise.url.startswith(f"s3://{bucket}/"):
                    found._add(promise)
        if not found.left(""):
            raise ConfigError(
                f"The manifest {path!r} lists no object of s3://{bucket}/{prefix}: it is of "
                f"{found.manifest.header.destination}; give the receipt manifest with which this source was published."
            )
        return found

    def _add(self, promise: Receipt | Skip) -> None:
        self._disk.change(
            "INSERT OR REPLACE INTO promise (key, line) VALUES (?, ?)", encoded_name(promise.key), encode(promise)
        )

    def take(self, keys: Sequence[str]) -> list[Existing | None]:
        """What each of the keys has to be, or None where the manifest does not list it; they count as found."""
        found: list[Existing | None] = []
        with self._lock, self._disk.at_once():
            for key in keys:
                row = self._disk.row("SELECT line FROM promise WHERE key = ?", encoded_name(key))
                found.append(None if row is None else _described(row[0]))
                if row is not None:
                    self._disk.change("UPDATE promise SET taken = 1 WHERE key = ?", encoded_name(key))
        return found

    def left(self, after: str) -> list[str]:
        """Some of the keys that were not taken, in order, those behind `after`; [] where there is none."""
        query = "SELECT key FROM promise WHERE taken = 0 AND key > ? ORDER BY key LIMIT ?"
        with self._lock:
            return [decoded_name(key) for (key,) in self._disk.rows(query, encoded_name(after), KEYS_AT_ONCE)]

    def close(self) -> None:
        """Remove them from the disk."""
        with self._lock:
            self._disk.close()


def _described(line: str) -> Existing:
    promise = promise_of(decode(line))
    assert promise is not None  # others are not added
    return existing_by_receipt(promise)
