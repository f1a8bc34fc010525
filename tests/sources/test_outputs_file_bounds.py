"""Outputs files that stand for far more than they hold are refused in a sentence, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from asyncsink.errors import ConfigError
from asyncsink.sources import outputs as outputs_file
from asyncsink.sources.outputs import load_outputs_file

MIB = 1 << 20


def test_aliases_that_expand_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_file, "VALUES_MAX", 100_000)  # a tenth, and so less beside the room for the file
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    file = tmp_path / "outputs.yaml"
    file.write_text("\n".join(lines))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"outputs.yaml.*line \d+.*aliases"):
            load_outputs_file(file)
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()


def test_a_few_aliases_are_what_they_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "outputs.yaml"
    file.write_text("a: &a [x, y]\nb: *a\n")
    assert load_outputs_file(file) == {name: [f"{tmp_path}/x", f"{tmp_path}/y"] for name in "ab"}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(outputs_file, "FILE_BYTES_MAX", 1000)
    file = tmp_path / f"outputs.{suffix}"
    file.write_text('{"a": "' + "x" * 1000 + '"}')
    with pytest.raises(ConfigError, match="more than 1,000 bytes"):
        load_outputs_file(file)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("text", ['{"a": ' + "[" * 50_000 + "]" * 50_000 + "}", '{"a": ' + "9" * 100_000 + "}"])
def test_nests_and_numbers_without_a_bound(tmp_path: Path, suffix: str, text: str) -> None:
    file = tmp_path / f"outputs.{suffix}"
    file.write_text(text)
    with pytest.raises(ConfigError, match="outputs"):
        load_outputs_file(file)
