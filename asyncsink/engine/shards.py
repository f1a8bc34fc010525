"""Pure: which shard of a run a key belongs to, so that several machines can publish one source between them.

The shard is a function of the key alone: it is the same on every machine, in every run and in every release. All
shards together are the whole, and no key is in two of them.
"""

from __future__ import annotations

from hashlib import blake2b

from asyncsink.config import Settings, Shard
from asyncsink.errors import ConfigError
from asyncsink.model import SourceProblem, Transfer

DIGEST_BYTES = 8


def check_shard(settings: Settings, *, walks: bool = True) -> None:
    """Refuse a shard where there is nothing to divide, or where the shards would undo each other's work.

    Args:
        walks: False where transfers come one by one, from a program.

    Raises:
        ConfigError: `shard` does not fit the run.
    """
    shard = settings.shard
    if shard.count == 1:
        return
    if not walks:
        raise ConfigError(f"shard={shard} divides a walk, and an AsyncSink walks nothing; submit less, or use export.")
    if settings.remove_dest_dir:
        raise ConfigError(
            f"shard={shard} and remove_dest_dir contradict each other: every shard would remove what the others have "
            "written; remove the directories yourself before the first one starts."
        )


def shard_of(key: str, count: int) -> int:
    """The shard of `key`, from 0 to `count - 1`: BLAKE2b (RFC 7693) of its UTF-8, 8 bytes, big-endian, modulo `count`.

    A CRC would be cheaper, but it is linear: names that differ in one digit only may all fall into few shards.
    """
    if count == 1:
        return 0
    # Names that are no UTF-8 hold surrogates (PEP 383).
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big") % count


def holds(shard: Shard, found: Transfer | SourceProblem) -> bool:
    """Whether `found` is the shard's to publish, or to report. What has no key goes by its path."""
    if shard.count == 1:
        return True
    key = found.key if isinstance(found, Transfer) else found.path
    return shard_of(key, shard.count) == shard.index
