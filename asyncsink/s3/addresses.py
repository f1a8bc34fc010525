"""Pure: which buckets are no ordinary ones, so that only the AWS SDK knows their hosts and their kind of signature.

Access points, multi-region access points, Outposts and Object Lambda by their ARN; directory buckets (S3 Express) and
their access points; Outposts by their alias. Other aliases are ordinary names. Source: S3 User Guide, "Using a
bucket-style alias for your access point", "Directory bucket naming rules".
"""

from __future__ import annotations

from typing import Final

_DIRECTORY_BUCKETS: Final = ("--x-s3", "--xa-s3")
_OUTPOSTS: Final = "--op-s3"


def is_special(bucket: str) -> bool:
    """Whether only the SDK can address it. Pure."""
    return is_arn(bucket) or is_directory_bucket(bucket) or bucket.endswith(_OUTPOSTS)


def is_arn(bucket: str) -> bool:
    """Whether it is an ARN. Pure."""
    return bucket.startswith("arn:")


def is_directory_bucket(bucket: str) -> bool:
    """Whether it is a directory bucket of S3 Express, or an access point of one. Pure."""
    return bucket.endswith(_DIRECTORY_BUCKETS)
