"""The words of a command line: pairs, customer keys, and a standard input that can be given up."""

from __future__ import annotations

import base64
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.cli.arguments import InterruptibleStdin, options_of, read_customer_key, split_pair
from asyncsink.errors import ConfigError

NAMES = st.text(min_size=1).filter(lambda text: not text.endswith("\\") and r"\=" not in text)
VALUES = st.text().filter(lambda text: r"\=" not in text)


@given(NAMES, VALUES)
def test_every_pair_can_be_written(old: str, new: str) -> None:
    written = old.replace("=", r"\=")
    assert split_pair(f"{written}={new}", "--x", "A=B") == (old, new)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a=b", ("a", "b")),
        ("a=b=c", ("a", "b=c")),
        (r"a\=b=c", ("a=b", "c")),
        (r"a=b\=c", ("a", "b=c")),
        (r"\===", ("=", "=")),
        ("a=", ("a", "")),
        (r"\.nii\.gz$=.nii", (r"\.nii\.gz$", ".nii")),
    ],
)
def test_the_first_bare_equals_sign_splits(text: str, pair: tuple[str, str]) -> None:
    assert split_pair(text, "--substitute", "OLD=NEW") == pair


@pytest.mark.parametrize("text", ["", "a", "=", "=b", r"a\=b"])
def test_a_pair_without_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--substitute .* expected OLD=NEW"):
        split_pair(text, "--substitute", "OLD=NEW")


def test_what_was_not_given_is_left_to_the_library() -> None:
    nothing = {
        "container": None,
        "tag": None,
        "anonymous": False,
        "parameterization": False,
        "json": True,
        "quiet": False,
    }
    assert options_of(nothing) == {}
    assert options_of({"no_parameterization": True, "memory": "1GiB"}) == {
        "parameterization": False,
        "memory_bytes": "1GiB",
    }


@pytest.mark.parametrize("form", ["raw", "base64", "base64 line"])
def test_a_customer_key_is_read(tmp_path: Path, form: str) -> None:
    key = os.urandom(32)
    text = base64.b64encode(key)
    content = {"raw": key, "base64": text, "base64 line": text + b"\n"}[form]
    (tmp_path / "key").write_bytes(content)
    assert read_customer_key(str(tmp_path / "key")) == key


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 5000, base64.b64encode(b"short"), b"\xff" * 44])
def test_anything_else_is_no_key_and_is_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match="holds no key; expected 32 bytes") as refusal:
        read_customer_key(str(tmp_path / "key"))
    assert "xxx" not in str(refusal.value)


def test_a_reader_of_stdin_gets_its_lines_and_is_sent_home() -> None:
    ours, theirs = os.pipe()
    stdin = InterruptibleStdin(ours)
    reader = io.BufferedReader(stdin)
    os.write(theirs, b"one\ntw")
    assert reader.readline() == b"one\n"
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(reader.readline()))
    thread.start()
    stdin.give_up()
    thread.join(60)
    assert found == [b"tw"]
    assert reader.readline() == b""
    os.close(theirs)
    os.close(ours)


def test_a_file_as_stdin_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"1\n" * 100_000)
    with (tmp_path / "lines").open("rb", buffering=0) as file:
        assert len(io.BufferedReader(InterruptibleStdin(file.fileno())).readlines()) == 100_000
