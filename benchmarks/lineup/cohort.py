"""The shape of a published cohort: paths and sizes of ds000114's fMRIPrep derivatives on OpenNeuro, no content.

`data/ds000114-fmriprep.tsv.gz` has one line per file (path below the data set's root, size in bytes): 8,649 files of
55 GB together.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

SHAPE = Path(__file__).parents[1] / "data" / "ds000114-fmriprep.tsv.gz"
SCALE = 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a data set: its path below the root ("/"-separated), and its size."""

    path: str
    size_bytes: int


def load_cohort(*, scale: int = SCALE, every: int = 1) -> list[Member]:
    """The cohort with sizes divided by `scale` (empty files stay empty, others keep at least one byte).

    Args:
        every: take each so-manieth file of the list only, which keeps the mixture of sizes.

    Raises:
        ValueError: the shape holds a path that could leave the root; nothing is written from such a list.
    """
    with gzip.open(SHAPE, "rt", encoding="utf-8") as lines:
        next(lines)
        rows = [line.rstrip("\n").split("\t") for line in lines]
    members = [Member(path, max(1, int(size) // scale) if int(size) else 0) for path, size in rows[::every]]
    for member in members:
        if member.path.startswith("/") or ".." in member.path.split("/"):
            raise ValueError(f"{SHAPE.name} holds the path {member.path!r}; expected paths below the data set's root.")
    return members
