"""Keys: S3's rules, in the fast look and in the thorough one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, InvalidKey, KeyCollision
from asyncsink.routing.keys import KEY_BYTES_MAX, check_key, collision_error, join_key, show


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "motion/realigned_file1.nii.gz",
        ".bidsignore",
        "a/.git/config",
        "...",
        "a/..b/c",
        "a/b..",
        "with space/und ä, 日本語/😀",
        "s3://looks-like-a-url".replace("//", "/"),
        "a" * KEY_BYTES_MAX,
        "ä" * (KEY_BYTES_MAX // 2),
        "e\u0301/\u00e9",
        "%2e%2e/a+b?c#d&e=f",
        "a\\b",
    ],
)
def test_legal_keys_pass(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize(
    ("key", "part_of_the_message"),
    [
        ("", "is empty"),
        ("/", "starts with"),
        ("/a", 'starts with "/"'),
        ("a/", 'ends with "/"'),
        ("a//b", "empty segment"),
        ("//a", 'starts with "/"'),
        (".", "'.'"),
        ("..", "'..'"),
        ("./a", "'.'"),
        ("a/..", "'..'"),
        ("a/../b", "'..'"),
        ("a/./b", "'.'"),
        ("ä/../b", "'..'"),
        ("a\x00b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\x7fb", "U+007F"),
        ("a\x85b", "U+0085"),
        ("a\udcffb", "not valid UTF-8"),
        ("a" * (KEY_BYTES_MAX + 1), "1025 bytes"),
        ("ä" * (KEY_BYTES_MAX // 2) + "a", "1025 bytes"),
    ],
)
def test_illegal_keys_are_refused_with_the_reason(key: str, part_of_the_message: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        check_key(key)
    message = str(caught.value)
    assert part_of_the_message in message
    assert message.isprintable(), "control characters and surrogates are escaped"
    assert len(message) < 400, "long names are cut"
    assert isinstance(caught.value, ConfigError)


def test_what_the_prefix_takes_counts() -> None:
    check_key("a" * 10, bytes_max=10)
    with pytest.raises(InvalidKey, match="at most 10 are allowed"):
        check_key("a" * 11, bytes_max=10)


def _is_legal(key: str) -> bool:
    """The rules once more, naively."""
    try:
        size_bytes = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    if not 1 <= size_bytes <= KEY_BYTES_MAX or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in key):
        return False
    return all(segment not in ("", ".", "..") for segment in key.split("/"))


@given(
    st.one_of(st.text(alphabet=st.characters(), max_size=30), st.text(alphabet="/.a ä\x00\x1f\x7f\udc80", max_size=8))
)
@example("a" * 1024)
@example("a" * 1025)
def test_check_key_agrees_with_the_naive_rules(key: str) -> None:
    if _is_legal(key):
        check_key(key)
    else:
        with pytest.raises(InvalidKey):
            check_key(key)


@given(st.lists(st.text(alphabet="/ab.", max_size=6), max_size=5))
def test_join_key_is_the_segments_in_order(parts: list[str]) -> None:
    joined = join_key(*parts)
    assert [s for s in joined.split("/") if s] == [s for part in parts for s in part.split("/") if s]
    assert "//" not in joined
    assert joined == joined.strip("/")
    assert join_key(joined) == joined


def test_show_is_short_and_printable() -> None:
    assert show("a\n\udcff\u202e") == "'a\\n\\udcff\\u202e'"
    assert len(show("x" * 5000)) < 130


def test_collision_error_names_both_sources_and_the_key() -> None:
    error = collision_error("p/T1.nii", "/w/a/T1.nii", "/w/b/T1.nii")
    assert isinstance(error, KeyCollision)
    for text in ("'p/T1.nii'", "'/w/a/T1.nii'", "'/w/b/T1.nii'", "on_collision='last'", "parameterization=True"):
        assert text in str(error)


def test_collision_error_for_one_source_named_twice() -> None:
    assert "named twice" in str(collision_error("k", "/w/a", "/w/a"))
