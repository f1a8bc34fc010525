"""What a destination, a transport or a source of your own is written against (guide/extending.md).

`asyncsink.testing` has a conformance suite for each.
"""

from __future__ import annotations

from asyncsink.destinations.base import ByteBody, Destination, Existing, PartWriter, RunForecast, Stored, Unknown
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum, SourceFile, SourceProblem, Transfer
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.multipart.parts import Part, PartPlan
from asyncsink.s3.operations import Operation, Response
from asyncsink.s3.transport import Transport
from asyncsink.sources.base import Source, SourceEntry

__all__ = [
    "ByteBody",
    "Checksum",
    "ChecksumAlgorithm",
    "Destination",
    "Existing",
    "Operation",
    "Part",
    "PartPlan",
    "PartWriter",
    "Response",
    "RunForecast",
    "Source",
    "SourceEntry",
    "SourceFile",
    "SourceProblem",
    "Stored",
    "Transfer",
    "Transport",
    "Unknown",
    "checksum_of",
]
