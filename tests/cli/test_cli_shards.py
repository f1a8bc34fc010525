"""--shard on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/3"], "--shard 3/3 is no part of a whole"),
        (["--shard", "x"], "--shard x is no part of a whole"),
    ],
)
def test_wrong_values_are_refused(inside: Any, results: Path, arguments: list[str], message: str) -> None:
    ended = inside("export", results, "there", *arguments)
    assert ended.code == 2
    assert message in ended.stderr


def test_shards_on_the_command_line(inside: Any, results: Path, tmp_path: Path) -> None:
    uploaded = [
        inside("export", results, tmp_path / "there", "--shard", f"{index}/2", "--json").json for index in range(2)
    ]
    assert sum(told["objects_uploaded"] for told in uploaded) == 4
    assert all(told["objects_total"] == told["objects_uploaded"] for told in uploaded)
