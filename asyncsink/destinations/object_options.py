"""What a transfer's object is given besides its bytes: by the transfer's own options, or by those of the run."""

from __future__ import annotations

import mimetypes
from functools import cache, lru_cache

from asyncsink.model import Transfer
from asyncsink.options.schema import ObjectOptions, Overwrite, Settings
from asyncsink.options.settings import WRITE_METADATA_NAME, Secret
from asyncsink.s3.endpoint import is_directory_bucket
from asyncsink.s3.operations import MD5_ETAG_SSE, ObjectAttributes, ObjectHead

# -- Media types, from the names of objects. Pure ----------------------------------------------------------------------
# The outermost suffix of a compressed file decides (`.nii.gz` is application/gzip), because Content-Encoding would make
# browsers and HTTP libraries decompress files whose readers expect them compressed.

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
    """The media type of a file or key (RFC 9110, 8.3); application/octet-stream where it is unknown."""
    base = name.rsplit("/", 1)[-1].lower()
    dot = base.rfind(".")
    return _of_suffix(base[dot:]) if dot >= 0 else DEFAULT


@cache
def _known() -> mimetypes.MimeTypes:
    # Only the table that ships with Python: the type must not depend on the machine's mime.types. Made for the first
    # object that is sent: a run without changes needs none.
    return mimetypes.MimeTypes(filenames=())


@lru_cache(maxsize=1024)
def _of_suffix(suffix: str) -> str:
    if known := _FIELD.get(suffix):
        return known
    # Only the suffix: a name is not a URL, and "data:text/x" and "?" have no meaning in it.
    kind, encoding = _known().guess_type("x" + suffix)
    if encoding is not None:
        return _COMPRESSED.get(encoding, DEFAULT)
    return kind or DEFAULT


# -- The options of each transfer --------------------------------------------------------------------------------------

OWN_KEPT_MAX = 256
"""Most sets of attributes of transfers with options of their own that are kept; one more clears all of them."""


class OptionsOf:
    """The object options and the overwrite policy of each transfer of one run.

    Attributes:
        overwrite_of_run, customer_key_of_run, encryption_of_run: those of transfers without options of their own.
    """

    def __init__(self, settings: Settings, bucket: str) -> None:
        self._objects = objects = settings.objects
        self._in_directory_bucket = is_directory_bucket(bucket)
        self._attributes_of: dict[str, ObjectAttributes] = {}
        self._own_attributes: dict[tuple[ObjectOptions, str], ObjectAttributes] = {}
        self.overwrite_of_run: Overwrite = settings.policies.overwrite
        self.customer_key_of_run: Secret | None = objects.sse_customer_key
        self.encryption_of_run = _encryption(objects)

    def overwrite(self, transfer: Transfer) -> Overwrite:
        """The policy towards an existing object."""
        return transfer.overwrite or self.overwrite_of_run

    def only_new(self, transfer: Transfer) -> bool:
        """Whether the transfer must not replace anything."""
        return (transfer.overwrite or self.overwrite_of_run) == "never"

    def customer_key(self, transfer: Transfer) -> Secret | None:
        """The customer key (SSE-C), or None."""
        return (transfer.objects or self._objects).sse_customer_key

    def encryption(self, transfer: Transfer) -> str:
        """The encryption in the words of `ObjectHead.sse`, or ""."""
        return self.encryption_of_run if transfer.objects is None else _encryption(transfer.objects)

    def etag_is_md5(self, transfer: Transfer) -> bool:
        """Whether the ETag of the object is its MD5, where it is not stored in parts."""
        objects = transfer.objects or self._objects
        plain = objects.sse in MD5_ETAG_SSE and objects.sse_customer_key is None
        return plain and not self._in_directory_bucket

    def attributes(self, transfer: Transfer) -> ObjectAttributes:
        """The attributes as they are sent. There is one instance for equal options and each media type, so that its
        headers are laid out only once."""
        wanted = transfer.objects or self._objects
        content_type = wanted.content_type
        if content_type == "infer":
            content_type = infer_content_type(transfer.key)
        if transfer.objects is None:
            attributes = self._attributes_of.get(content_type)
            if attributes is None:
                attributes = self._attributes_of[content_type] = _laid_out(wanted, content_type)
            return attributes
        place = wanted, content_type
        attributes = self._own_attributes.get(place)
        if attributes is None:
            if len(self._own_attributes) >= OWN_KEPT_MAX:
                self._own_attributes.clear()
            attributes = self._own_attributes[place] = _laid_out(wanted, content_type)
        return attributes

    def other_than(self, transfer: Transfer, head: ObjectHead) -> str:
        """Why an object with the same content is sent all the same, as one phrase, or "".

        Its encryption counts; of a transfer with object options of its own, also what else HEAD shows. HEAD shows
        neither tags nor ACL nor the KMS key: unless the journal has the very object as published with these options, an
        object that should have any is sent again.
        """
        encryption, own, known = self.encryption(transfer), transfer.objects, transfer.known
        if encryption and head.sse != encryption:
            return "encryption differs"
        if own is None:
            return ""
        if own.content_type != "infer" and head.content_type.lower() != own.content_type.lower():
            return "content type differs"
        metadata = {name: value for name, value in head.metadata.items() if name != WRITE_METADATA_NAME}
        if metadata != {name.lower(): value.strip() for name, value in own.metadata}:
            return "metadata differ"
        if own.storage_class and own.storage_class != (head.storage_class or "STANDARD"):
            return "storage class differs"
        recorded = known is not None and known.published and known.etag == head.etag
        hidden = own.tags or own.acl or own.sse_kms_key_id
        return "tags, ACL or KMS key may differ" if hidden and not recorded else ""


def _encryption(objects: ObjectOptions) -> str:
    return "customer" if objects.sse_customer_key is not None else objects.sse


def _laid_out(wanted: ObjectOptions, content_type: str) -> ObjectAttributes:
    return ObjectAttributes(
        content_type=content_type,
        sse=wanted.sse,
        sse_kms_key_id=wanted.sse_kms_key_id,
        sse_customer_key=wanted.sse_customer_key,
        storage_class=wanted.storage_class,
        acl=wanted.acl,
        tags=wanted.tags,
        metadata=wanted.metadata,
    )
