"""fast-s3's Uploader: python -m benchmarks.scripts.fast_s3_upload DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import os
import sys

from fast_s3 import Uploader

from benchmarks.scripts.clock import CONCURRENCY, Clock, files_below


def main(directory: str, bucket: str, prefix: str) -> None:
    """32 requests at once; every file is read whole and sent as one PUT."""
    uploader = Uploader(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=os.environ["AWS_REGION"],
        bucket_name=bucket,
        concurrency=CONCURRENCY,
        addressing_style="path",
    )
    with uploader, Clock() as clock:
        paths, keys = zip(*files_below(directory, prefix), strict=True)
        uploader.queue_upload(source=list(paths), destination=list(keys))
        failed = [result for result in uploader.await_upload() if result.exception is not None]
        if failed:
            raise failed[0].exception
        clock.objects = len(keys)


if __name__ == "__main__":
    main(*sys.argv[1:4])
