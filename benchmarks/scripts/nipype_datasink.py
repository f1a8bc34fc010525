"""Nipype's DataSink: python -m benchmarks.scripts.nipype_datasink DIRECTORY BUCKET PREFIX

The directory is one output, which DataSink publishes under its basename: PREFIX is that.
"""

from __future__ import annotations

import os
import sys

from nipype.interfaces.io import DataSink

from benchmarks.scripts.clock import Clock


def main(directory: str, bucket: str, prefix: str) -> None:
    """One file after the other, which is DataSink's only way."""
    assert os.path.basename(directory) == prefix
    sink = DataSink(base_directory=f"s3://{bucket}")
    setattr(sink.inputs, "@all", directory)
    with Clock():  # DataSink counts nothing; what arrived is counted at the server
        sink.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
