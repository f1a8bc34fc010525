"""Substitutions: rules 19 to 21, validation included."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError
from asyncsink.routing.router import Substitutions


def test_rule_19_substitutions_cascade_in_order() -> None:
    assert Substitutions([("a", "b"), ("b", "c")]).apply("a-b") == "c-c"
    assert Substitutions([("b", "c"), ("a", "b")]).apply("a-b") == "b-c"


def test_rule_19_regexps_come_after_literals_and_may_use_groups() -> None:
    both = Substitutions([("_subject_id_", "sub-")], [(r"sub-(?P<id>\d+)", r"s\g<id>/\1"), (r"(\d)/\1", r"=\1=")])
    assert both.apply("_subject_id_7/f") == "s=7=/f"


def test_rule_19_every_occurrence_is_replaced() -> None:
    assert Substitutions([], [("a", "")]).apply("banana") == "bnn"
    assert Substitutions([("a", "")]).apply("banana") == "bnn"


def test_rule_19_an_optional_group_that_did_not_match_is_empty() -> None:
    assert Substitutions([], [(r"\.nii(\.gz)?$", r"_x.nii\1")]).apply("f.nii") == "f_x.nii"


def test_a_pair_that_changes_nothing_is_nothing() -> None:
    assert not Substitutions()
    assert not Substitutions([("", "")])
    assert Substitutions([("a", "a")])


@pytest.mark.parametrize(
    ("substitutions", "words"),
    [
        ("ab", "is no list"),
        (None, "is no list"),
        (("ab", "cd"), r"substitutions\[0\]='ab' is no pair"),
        ([("a",)], "is no pair"),
        ([("a", "b", "c")], "is no pair"),
        ([("a", 1)], "is no pair"),
        ([(b"a", "b")], "is no pair"),
        ([("a", "b"), None], r"substitutions\[1\]=None is no pair"),
        ([("", "x")], "empty text"),
    ],
)
def test_malformed_substitutions_are_refused(substitutions: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Substitutions(substitutions)


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{2,1}", "(?P<x>a)(?P<x>b)", "(?<=a+)b", "a{99999999999}"])
def test_a_bad_pattern_is_refused_before_anything_runs(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"regexp_substitutions\[1\]=.*no valid regular expression"):
        Substitutions([], [("a", "b"), (pattern, "x")])


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("a", r"\1"),
        ("(a)", r"\2"),
        ("(?P<x>a)", r"\g<y>"),
        ("a", r"\g<0"),
        ("a", r"\d"),
        ("a", "\\"),
        ("(?i)a", r"\1"),
        ("(?x) a # (comment)", r"\1"),
        ("a|b", r"\1"),
    ],
)
def test_a_bad_replacement_is_refused_before_anything_runs(pattern: str, replacement: str) -> None:
    with pytest.raises(ConfigError, match="the replacement does not fit the pattern"):
        Substitutions([], [(pattern, replacement)])


@pytest.mark.parametrize(
    ("pattern", "replacement", "text", "result"),
    [
        ("(?i)A", r"\g<0>x", "a", "ax"),
        ("(?x) (a) # first", r"\1\1", "a", "aa"),
        ("(a)|(b)", r"[\1\2]", "ab", "[a][b]"),
        ("$", "/x", "f", "f/x"),
        ("(a)(?(1)b|c)", r"\1", "ab", "a"),
    ],
)
def test_good_replacements_pass_the_check(pattern: str, replacement: str, text: str, result: str) -> None:
    assert Substitutions([], [(pattern, replacement)]).apply(text) == result


texts = st.text(alphabet="ab_/é0.-\\1", max_size=6)
pairs = st.lists(st.tuples(texts.filter(bool), texts), max_size=4)


@given(substitutions=pairs, text=st.text(alphabet="ab_/é0.-", max_size=20))
def test_literals_equal_the_naive_model(substitutions: list[tuple[str, str]], text: str) -> None:
    expected = text
    for old, new in substitutions:
        expected = new.join(expected.split(old))
    assert Substitutions(substitutions).apply(text) == expected


@given(
    pattern=st.sampled_from(["(a)(b)?", "_(\\w)", "^a", "[^/]+$", "(?P<n>b)", "x*"]),
    replacement=st.text(alphabet="\\12g<n>ab/", max_size=6),
    text=st.text(alphabet="ab_/é", max_size=12),
)
def test_regexps_are_refused_at_once_or_never_fail(pattern: str, replacement: str, text: str) -> None:
    try:
        substitutions = Substitutions([], [(pattern, replacement)])
    except ConfigError:
        with pytest.raises((re.error, IndexError)):
            re.sub(f"{pattern}|", replacement, "")
    else:
        assert substitutions.apply(text) == re.sub(pattern, replacement, text)


def test_breaker_names_the_last_break_only() -> None:
    substitutions = Substitutions([("s3:", "x:"), ("x:", "s3:"), ("b", "B"), ("k", "K")])
    assert substitutions.breaker("s3://b/k", lambda text: text.startswith("s3://b/")) == "substitutions[2]=('b', 'B')"
    assert substitutions.breaker("s3://b/k", lambda text: text.startswith("s3:")) == ""
