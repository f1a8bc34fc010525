"""The outcomes of a run as a table of pandas, which asyncsink itself does not need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from asyncsink.errors import ConfigError
from asyncsink.model import Failure, Planned, Receipt, Skip
from asyncsink.report.outcomes import OutcomeLog

if TYPE_CHECKING:
    import pandas as pd

COLUMNS_OF_FRAME: Final = (
    "record", "key", "source", "url", "size_bytes", "seconds", "attempts", "checksum", "etag", "version_id",
    "confirmed_by", "already_there", "reason", "error", "message", "stage", "local_copy", "attribute",
)  # fmt: skip
_NUMBERS: Final = {"size_bytes": "Int64", "attempts": "Int64", "already_there": "boolean"}


def frame_of(log: OutcomeLog) -> pd.DataFrame:
    """A row for each outcome: receipts, skips, failures, then what a dry run planned. All of them are in memory.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as missing:
        raise ConfigError(
            "to_pandas needs pandas, which is not installed; install it (pip install pandas), or iterate over "
            "report.receipts, report.skips and report.failures, which need nothing."
        ) from missing
    table = pd.DataFrame.from_records(list(_records(log)), columns=list(COLUMNS_OF_FRAME))
    return table.astype(_NUMBERS)


def _records(log: OutcomeLog) -> Iterator[dict[str, Any]]:
    for kind in (Receipt, Skip, Failure, Planned):
        number, total = log.first(kind), log.count(kind)
        while number < total:
            start, lines = log.read(kind, number)
            yield from json.loads(b"[%b]" % b",".join(lines))[number - start :]
            number = start + len(lines)
