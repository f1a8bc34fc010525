"""Reading the options of what every object is given: encryption, storage class, ACL, tags, metadata, media type.

Limits: S3 API, PutObject; S3 User Guide, "Object tagging" and "Working with object metadata".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncsink.config import WRITE_METADATA_NAME, WRITE_TOKEN_CHARACTERS, ObjectOptions, Secret
from asyncsink.errors import ConfigError
from asyncsink.values import check_choice, flag_of, mapping_of, text_of

TAGS_MAX = 10
METADATA_BYTES_MAX = 2048


def object_options(given: Mapping[str, Any]) -> ObjectOptions:
    """The checked ObjectOptions of the public options `given`.

    Raises:
        ConfigError: a value is wrong, or two contradict each other; a customer key is never repeated.
    """
    sse: Any = "" if given.get("sse") is None else given["sse"]
    customer_key = None
    if isinstance(sse, (bytes, bytearray)):
        if len(sse) != 32:
            raise ConfigError(f"A customer key for sse has 32 bytes (256 bits); this one has {len(sse)}.")
        sse, customer_key = "", Secret(bytes(sse))
    elif sse not in ("", "AES256", "aws:kms", "aws:kms:dsse"):
        # It may be a customer key that was given as text: it is not repeated.
        raise ConfigError(
            "sse is of no known kind; expected 'AES256', 'aws:kms', 'aws:kms:dsse', or a customer key of 32 bytes."
        )
    if flag_of(given, "encrypt_bucket_keys", False):
        if customer_key is not None or sse not in ("", "AES256"):
            raise ConfigError("encrypt_bucket_keys asks for AES256, and sse for something else; give one of them.")
        sse = "AES256"
    kms_key = text_of(given, "sse_kms_key_id")
    if kms_key and sse not in ("aws:kms", "aws:kms:dsse"):
        raise ConfigError("sse_kms_key_id is given but sse is not 'aws:kms' or 'aws:kms:dsse'; set sse too.")
    content_type = text_of(given, "content_type") or "infer"
    if content_type != "infer" and "/" not in content_type:
        raise ConfigError(f"content_type={content_type!r} is no media type; expected 'infer', or one as 'text/plain'.")
    storage_class = text_of(given, "storage_class")
    if storage_class and not re.fullmatch(r"[A-Z][A-Z0-9_-]*", storage_class):
        raise ConfigError(f"storage_class={storage_class!r} is none; expected a name such as 'STANDARD_IA'.")
    acl = text_of(given, "acl")
    if acl:
        check_choice(
            "acl",
            acl,
            ("private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
             "bucket-owner-read", "bucket-owner-full-control"),
        )  # fmt: skip
    return ObjectOptions(
        sse=sse,
        sse_kms_key_id=kms_key,
        sse_customer_key=customer_key,
        storage_class=storage_class,
        acl=acl,
        tags=_tags(given),
        metadata=_metadata(given),
        content_type=content_type,
    )


def _tags(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    tags = mapping_of(given, "tags")
    if len(tags) > TAGS_MAX:
        raise ConfigError(f"{len(tags)} tags are given; S3 takes at most {TAGS_MAX} per object.")
    for name, value in tags:
        if not 1 <= len(name) <= 128 or len(value) > 256:
            raise ConfigError(
                f"The tag {name!r} is too long; S3 takes names of 1 to 128, values of up to 256 characters."
            )
    return tags


def _metadata(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    metadata = mapping_of(given, "metadata")
    for name, value in metadata:
        if name.lower() == WRITE_METADATA_NAME:
            raise ConfigError(f"The metadata name {name!r} is asyncsink's own (its write token); choose another name.")
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ConfigError(
                f"The metadata name {name!r} is not legal; expected letters, digits and '-' (an HTTP header name)."
            )
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"The value of metadata {name!r} must be printable ASCII; S3 sends it as an HTTP header.")
    own_bytes = len(WRITE_METADATA_NAME) + WRITE_TOKEN_CHARACTERS
    if sum(len(name) + len(value) for name, value in metadata) > METADATA_BYTES_MAX - own_bytes:
        raise ConfigError(
            f"The metadata is too large: S3 takes {METADATA_BYTES_MAX} bytes of names and values per object, of which "
            f"asyncsink needs {own_bytes}; shorten it."
        )
    return metadata
