"""remove_dest_dir: a directory source replaces its destination directory; nothing else is ever removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError
from tests.support.files import content_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "masks"
    folder.mkdir(parents=True)
    (folder / "new").write_bytes(b"new")
    return folder


@pytest.mark.parametrize(("remove", "left"), [(True, {"m/masks/new"}), (False, {"m/masks/new", "m/masks/old"})])
async def test_only_the_directory_that_is_filled_is_replaced(
    source: Path, tmp_path: Path, remove: bool, left: set[str]
) -> None:
    out = tmp_path / "out"
    for name in ("m/masks/old", "m/other", "top"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"old")
    await asyncsink.export({"m": source}, out, remove_dest_dir=remove)
    assert set(content_of(out)) == left | {"m/other", "top"}


async def test_the_destination_itself_is_never_removed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_bytes(b"!")
    await asyncsink.export({"@m": source}, out, remove_dest_dir=True, substitutions=[("masks", "")])
    assert set(content_of(out)) == {"precious", "new"}


async def test_a_source_inside_what_would_be_removed_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "out" / "m" / "m"
    inside.mkdir(parents=True)
    (inside / "f").write_bytes(b"f")
    with pytest.raises(ConfigError, match="remove_dest_dir would remove"):
        await asyncsink.export({"@x": inside}, tmp_path / "out", remove_dest_dir=True)
    assert (inside / "f").read_bytes() == b"f"


async def test_on_s3_it_does_nothing_but_the_local_copy_obeys(
    source: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    """Rule 31."""
    s3.put_object(Bucket=bucket, Key="m/masks/old", Body=b"old")
    (tmp_path / "copy/m/masks").mkdir(parents=True)
    (tmp_path / "copy/m/masks/old").write_bytes(b"old")
    await asyncsink.export(
        {"m": source}, f"s3://{bucket}", remove_dest_dir=True, local_copy=tmp_path / "copy", **options
    )
    listed = {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == {"m/masks/old", "m/masks/new"}
    assert set(content_of(tmp_path / "copy")) == {"m/masks/new"}
