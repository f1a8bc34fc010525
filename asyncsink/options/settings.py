"""The values of options: bounds, secrets, a shard, a retry policy, the choice of a journal. Frozen."""

from __future__ import annotations

import threading
from hashlib import blake2b
from typing import Literal

from asyncsink.value import dataclass

VERSION = "0.1.0"
"""Of this package: known without its metadata, whose reading takes as long as all of a short command."""

ChecksumAlgorithm = Literal["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5"]
"""S3's names of checksum algorithms; MD5 travels as Content-MD5 and comes back as the ETag."""

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BANDWIDTH_BYTES_PER_SECOND_MIN = 16 * KIB
"""Lowest bandwidth: with less, two requests at a time would pause for longer than the server waits."""

CONCURRENCY_MAX = 1024
"""Most requests in flight: 10,000 a second to a server 100 ms away."""

WORKERS_MAX = 128
"""Most tasks that work on files at a time by default: each may have several requests in flight, and holds a file
open."""

WRITE_METADATA_NAME = "asyncsink-write"
"""User metadata (x-amz-meta-…) that distinguishes a write whose answer was lost from that of another writer."""
WRITE_TOKEN_CHARACTERS = 32


SECRETS_MAX = 256
"""Most secrets that are kept, the newest ones: enough for credentials that are renewed every hour for ten days."""
_known: tuple[bytes, ...] = ()
_knowing = threading.Lock()


def known_secrets() -> tuple[bytes, ...]:
    """The values of every Secret of this process, also of expired credentials.

    Of the whole process, because no message or log may show a secret, also where the server of one sink repeats the
    secret of another.
    """
    return _known


def _remember(value: bytes) -> None:
    global _known  # noqa: PLW0603 - see known_secrets
    if value in _known:
        return
    with _knowing:
        _known = (*(each for each in _known if each != value), value)[-SECRETS_MAX:]


class Secret:
    """Bytes that are never shown: neither in a repr, nor in a log, nor in an error message."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value
        _remember(value)

    def __reduce__(self) -> tuple[type[Secret], tuple[bytes]]:
        return Secret, (self._value,)  # another process remembers it too

    def reveal(self) -> bytes:
        """The bytes themselves; only for the code that sends them."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a run's transfers: `index` is from 0 to count - 1. The default is the whole.

    It is a function of the key alone: the same on every machine, in every run and in every release. All shards together
    are the whole, and no key is in two of them.
    """

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, key: str) -> bool:
        """Whether `key` is in this shard. Pure."""
        return self.count == 1 or shard_of(key, self.count) == self.index


def shard_of(key: str, count: int) -> int:
    """The shard of `key`, from 0 to `count - 1`: BLAKE2b (RFC 7693) of its UTF-8, 8 bytes, big-endian, modulo `count`.

    A CRC would be cheaper, but it is linear: names that differ in one digit only may all fall into few shards.
    """
    # Names that are not UTF-8 hold surrogates (PEP 383).
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """One layer of retries around one S3 request.

    Attributes:
        attempts: how often a request is sent at most. Answers that ask to slow down (503 SlowDown, 429) do not count:
            the server works, and a later request will succeed. With full jitter, eight attempts are over after 13 s on
            average, and S3 may throttle for minutes while it partitions a prefix.
        throttled_seconds: how long a throttled request is sent again, from its first attempt on; it has `attempts` in
            any case. 0 makes those answers count as all others do.
        backoff_seconds_base, backoff_seconds_max: full jitter between 0 and min(max, base * 2**(attempt - 1)).
        retry_after_seconds_max: the longest `Retry-After` that is honoured.
        connect_seconds: for the TCP and TLS handshakes.
        stall_seconds: seconds without a byte in either direction after which a request is Stalled.
        complete_seconds: the same for CompleteMultipartUpload, whose answer S3 may prepare for minutes.
        abort_seconds: the longest that a cancelled run spends on aborting one multipart upload.
        credentials_seconds: the longest wait for one answer of a source of credentials (a credential process, STS, SSO,
            a metadata service).
    """

    attempts: int = 8
    throttled_seconds: float = 300.0
    backoff_seconds_base: float = 0.2
    backoff_seconds_max: float = 20.0
    retry_after_seconds_max: float = 120.0
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    complete_seconds: float = 600.0
    abort_seconds: float = 10.0
    credentials_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalChoice:
    """Whether a run keeps a journal, and where.

    Attributes:
        enabled: whether a journal is read and written.
        path: absolute path of the file, or "" for the destination's own below `state_directory`.
        required: whether the run is refused where the journal cannot be used: a file was named, or overwrite="journal"
            needs one. Else the run goes on without, with a notice.
        state_directory: the user's (XDG Base Directory Specification, XDG_STATE_HOME); "~" is expanded where it is
            used.
        runtime_directory: the user's on this machine (XDG_RUNTIME_DIR), or "".
        attempt: a name of this run, where several machines write beside `path`: then the journal has the open uploads
            alone, in a file of its own (`journal/open_uploads.py`).
    """

    enabled: bool = True
    path: str = ""
    required: bool = False
    state_directory: str = "~/.local/state"
    runtime_directory: str = ""
    attempt: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Together:
    """What makes the objects of one export one publication, after all of them are published.

    Attributes:
        index, complete_marker: names of objects below the prefix, or "".
        delete_extraneous: whether objects below the prefix that no source maps to are deleted.
        delete_max: most of these objects: a number, a share ("10%"), or "" for the default.
    """

    index: str = ""
    complete_marker: str = ""
    delete_extraneous: bool = False
    delete_max: str = ""
