"""Limits of what a server may answer, on both lanes: more of it is a fault of the server, and is not waited for."""

from __future__ import annotations

from typing import Final

HEAD_BYTES_MAX: Final = 64 * 1024
"""Status line and headers of an answer, interim answers before it included."""
ANSWER_BYTES_MAX: Final = HEAD_BYTES_MAX + 1024 * 1024
"""A whole answer, with its transfer coding: nothing but a listing, or an object's bytes, is answered with more."""
LISTING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of an answer: 1,000 keys of 1,024 bytes, three bytes for each once encoded, and 2 KiB of markup around each."""
ENTRIES_MAX: Final = 10_000
"""Entries of one page of a listing: S3 has 1,000, and a server that knows no max-keys sends as many as it likes."""
