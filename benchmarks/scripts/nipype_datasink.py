"""A DataSink: python -m benchmarks.scripts.nipype_datasink DIRECTORY BUCKET PREFIX nipype|asyncsink

The directory is one output, which DataSink publishes under its basename: PREFIX is that.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.scripts.clock import CONCURRENCY, Clock

os.environ |= {"NO_ET": "1", "NIPYPE_NO_ET": "1"}  # Nipype asks its own server for its newest version


def sink_of(kind: str, **inputs: Any) -> Any:
    """Nipype's own, which sends one file after the other, or ours, with what it imports at its first use."""
    if kind == "nipype":
        from nipype.interfaces.io import DataSink as NipypeDataSink

        return NipypeDataSink(**inputs)
    import anyio._backends._asyncio  # noqa: F401
    import awscrt.checksums  # noqa: F401

    import asyncsink.s3.stack  # noqa: F401
    from asyncsink.adapters.nipype import DataSink

    return DataSink(concurrency=CONCURRENCY, **inputs)


def main(directory: str, bucket: str, prefix: str, kind: str) -> None:
    """Publish once."""
    assert os.path.basename(directory) == prefix
    sink = sink_of(kind, base_directory=f"s3://{bucket}")
    setattr(sink.inputs, "@all", directory)
    with Clock():  # DataSink counts nothing; what arrived is counted at the server
        sink.run()


if __name__ == "__main__":
    main(*sys.argv[1:5])
