"""What a null server is told of the objects of zeros that it is to have, for grabs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import unquote

from awscrt.checksums import crc64nvme

_ZEROS = bytes(8 * 1024 * 1024)


def reset_order(sizes: Mapping[str, int]) -> bytes:
    """The body of a reset, from {path: size}: "SIZE ETAG CRC64NVME PATH" lines. Objects have their MD5 as ETag and a
    CRC64NVME, as on S3 each object that came in one PutObject."""
    described = {size: _described(size) for size in set(sizes.values())}
    return "".join(f"{size} {described[size]} {unquote(path)}\n" for path, size in sizes.items()).encode()


def _described(size_bytes: int) -> str:
    md5, crc, left = hashlib.md5(usedforsecurity=False), 0, size_bytes
    while left:
        piece = _ZEROS[: min(left, len(_ZEROS))]
        md5.update(piece)
        crc = crc64nvme(piece, crc)
        left -= len(piece)
    return f"{md5.hexdigest()} {base64.b64encode(crc.to_bytes(8, 'big')).decode()}"
