"""Pure: the media type of an object, from its name.

A compressed file is what its outermost suffix says (`.nii.gz` is application/gzip), because Content-Encoding would
make browsers and HTTP libraries decompress what readers of these files expect compressed.
"""

from __future__ import annotations

import mimetypes
from functools import cache, lru_cache

DEFAULT = "application/octet-stream"

_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz",
               "compress": "application/x-compress", "br": DEFAULT}  # fmt: skip
_FIELD = {
    ".tsv": "text/tab-separated-values",
    ".csv": "text/csv",
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".md": "text/markdown",
    ".nii": DEFAULT,
    ".mgz": "application/gzip",
    ".gii": "application/xml",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".parquet": "application/vnd.apache.parquet",
    ".bval": "text/plain",
    ".bvec": "text/plain",
    ".zst": "application/zstd",
}


def infer_content_type(name: str) -> str:
    """The media type of a file or key (RFC 9110, 8.3); application/octet-stream where nothing is known."""
    base = name.rsplit("/", 1)[-1].lower()
    dot = base.rfind(".")
    return _of_suffix(base[dot:]) if dot >= 0 else DEFAULT


@cache
def _known() -> mimetypes.MimeTypes:
    # Only the table that ships with Python: the answer must not depend on the machine's mime.types. Made for the first
    # object that is sent: a run in which nothing has changed needs none.
    return mimetypes.MimeTypes(filenames=())


@lru_cache(maxsize=1024)
def _of_suffix(suffix: str) -> str:
    if known := _FIELD.get(suffix):
        return known
    # A name is no URL: "data:text/x" and "?" have no meaning in it.
    kind, encoding = _known().guess_type("x" + suffix)
    if encoding is not None:
        return _COMPRESSED.get(encoding, DEFAULT)
    return kind or DEFAULT
