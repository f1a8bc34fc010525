"""S3DataGrabber's rules for templates, each by its name in the spec, and properties of prefixes and globs."""

from __future__ import annotations

import functools
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import RoutingError
from asyncsink.routing.templates import (
    Field,
    covering,
    glob_prefix,
    natural_order,
    plan_fields,
    regex_prefix,
    shaped,
    translate_glob,
)


def plan(bucket_path: str = "", **given: Any) -> tuple[Field, ...]:
    usual: dict[str, Any] = {
        "template": "",
        "field_template": {},
        "template_args": {},
        "infields": {},
        "outfields": (),
        "syntax": "regex",
        "match": "full",
    }
    return plan_fields(bucket_path, **usual | given)


def texts(field: Field) -> list[str]:
    return [pattern.text for pattern in field.patterns]


def test_arguments_that_name_an_input_stand_for_its_value() -> None:
    (func,) = plan(
        template="%s/func/%s_%s.nii",
        template_args={"func": [["subject", "subject", "bold"]]},
        infields={"subject": "sub-01"},
    )
    assert (func.name, texts(func)) == ("func", ["sub-01/func/sub-01_bold.nii"])


@pytest.mark.parametrize("arguments", [{}, {"func": []}, {"func": [[]]}])
@pytest.mark.parametrize("template", ["%s/anat/.*", "sub-%02d/.*", "a/%(subject)s", "50%%%d"])
def test_a_template_that_nothing_fills_is_refused(template: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(RoutingError, match=r"of field 'func' has %\S+, and nothing fills it; give infields"):
        plan(template=template, template_args=arguments, outfields=["func"])


@pytest.mark.parametrize("template", ["my%20data/.*", "50%/.*", "a[%]s", "%2Fdata", "50%%s"])
def test_percent_signs_of_keys_need_no_arguments(template: str) -> None:
    (field,) = plan(template=template)
    assert texts(field) == [template]


def test_lists_zip_and_scalars_broadcast() -> None:
    (func,) = plan(
        template="%s/%s/%d", template_args={"f": [["s", "r", 7]]}, infields={"s": ["a", "b"], "r": ("x", "y")}
    )
    assert texts(func) == ["a/x/7", "b/y/7"]


def test_several_argument_lists_follow_one_another() -> None:
    (func,) = plan(template="%s", template_args={"f": [["a"], [["b", "c"]]]})
    assert texts(func) == ["a", "b", "c"]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(RoutingError, match="lists of 2 and 3 items"):
        plan(template="%s%s", template_args={"f": [[["a", "b"], ["c", "d", "e"]]]})


def test_a_field_template_comes_before_the_template() -> None:
    anat, func = plan(template="general", outfields=["anat", "func"], field_template={"func": "own"})
    assert (texts(anat), texts(func)) == (["general"], ["own"])


def test_without_template_args_the_infields_are_the_arguments_in_their_order() -> None:
    (files,) = plan(template="%s/%s", infields={"b": "1", "a": "2"})
    assert (files.name, texts(files)) == ("outfiles", ["1/2"])


def test_no_infields_with_one_match() -> None:
    (files,) = plan(template=r"a\.nii")
    assert files.patterns[0].matches("a.nii")
    assert shaped([["a.nii"]], with_arguments=False) == "a.nii"


def test_an_empty_bucket_path() -> None:
    (files,) = plan("", template="a")
    assert files.patterns[0].prefix == "a"


@pytest.mark.parametrize("bucket_path", ["50%", "a+b", "100%s"])
def test_percent_signs_and_patterns_in_bucket_path_are_literal(bucket_path: str) -> None:
    (files,) = plan(bucket_path, template="%s.nii", template_args={"f": [["x"]]})
    assert files.patterns[0].matches(f"{bucket_path}/x.nii")


def test_bucket_path_ds_does_not_reach_ds2() -> None:
    (files,) = plan("ds", template=".*")
    assert files.patterns[0].prefix == "ds/"
    assert not files.patterns[0].matches("ds2/x")


@pytest.mark.parametrize("expression", ["^a.*", r"\Aa.*", r"(?<!x)a.*"])
def test_an_anchor_means_the_beginning_below_the_bucket_path(expression: str) -> None:
    (files,) = plan("ds/raw", template=expression)
    assert files.patterns[0].matches("ds/raw/abc")
    assert not files.patterns[0].matches("ds/raw/xabc")


def test_matching_is_anchored_at_both_ends_unless_the_start_is_asked_for() -> None:
    for match, expected in (("full", False), ("start", True)):
        (files,) = plan(template=r"a\.nii\.gz", match=match)
        assert files.patterns[0].matches("a.nii.gz")
        assert files.patterns[0].matches("a.nii.gz.bak") is expected


def test_a_star_alone_is_no_regular_expression_and_the_remedy_is_told() -> None:
    with pytest.raises(RoutingError, match="template_syntax='glob'"):
        plan(template="*")
    (files,) = plan(template="*", syntax="glob")
    assert files.patterns[0].matches("a.nii")
    assert not files.patterns[0].matches("sub/a.nii")


@pytest.mark.parametrize(("template", "values"), [("%s", ["a", "b"]), ("%s%s", ["a"]), ("%d", ["a"]), ("50%", ["a"])])
def test_templates_that_cannot_be_filled(template: str, values: list[str]) -> None:
    with pytest.raises(RoutingError, match="cannot be filled"):
        plan(template=template, template_args={"f": [values]})


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("%c", 10**12),
        ("%d", float("inf")),
        ("%999999999999s", "a"),
        ("%-0999999999999d", 1),
        ("%.999999999f", 1.5),
        ("%(x)999999999s", {"x": 1}),
        ("%s", functools.reduce(lambda inner, _: [inner], range(100_000), [0])),
    ],
)
def test_values_that_are_too_much_for_a_template(template: str, value: Any) -> None:
    with pytest.raises(RoutingError, match="of field 'f' cannot be filled"):
        plan(template=template, template_args={"f": [[[value]]]})


def test_percent_signs_before_numbers_are_no_widths() -> None:
    (field,) = plan(template="a%%123456%s-%04d", template_args={"f": [["x", 7]]})
    assert texts(field) == ["a%123456x-0007"]


def test_a_field_without_a_template() -> None:
    with pytest.raises(RoutingError, match="'anat' has no template"):
        plan(outfields=["anat"])


def test_a_leading_slash_does_not_leave_the_bucket_path() -> None:
    (files,) = plan("ds", template="/a")
    assert files.patterns[0].matches("ds/a")


def test_one_missing_entry_keeps_its_place() -> None:
    assert shaped([["a"], [], ["b"]], with_arguments=True) == ["a", None, "b"]


def test_an_entry_with_two_matches_is_a_list_in_the_list() -> None:
    assert shaped([["a", "b"], ["c"]], with_arguments=True) == [["a", "b"], "c"]


def test_a_single_entry_is_not_wrapped() -> None:
    assert shaped([["a", "b"]], with_arguments=True) == ["a", "b"]
    assert shaped([["a"]], with_arguments=True) == "a"
    assert shaped([[]], with_arguments=True) is None
    assert shaped([], with_arguments=True) is None


def test_natural_sort() -> None:
    keys = ["run-10", "run-2", "a/1b", "run-1", "x²", "run-02"]
    assert sorted(keys, key=natural_order) == ["a/1b", "run-1", "run-02", "run-2", "run-10", "x²"]


@given(keys=st.lists(st.text(alphabet="a0", max_size=5), max_size=6))
def test_any_keys_can_be_sorted(keys: list[str]) -> None:
    assert sorted([*keys, "run", "run1"], key=natural_order).index("run") < len(keys) + 1


@pytest.mark.parametrize(
    ("expression", "prefix"),
    [
        ("sub-01/func/.*", "sub-01/func/"),
        (r"sub-01/a\.nii", "sub-01/a.nii"),
        ("^abc", "abc"),
        ("ab*", "a"),
        ("ab+", "ab"),
        ("ab?c", "a"),
        ("ab{0,2}c", "a"),
        ("ab|ac", ""),
        ("a(b|c)", "a"),
        ("a[|]b", "a"),
        ("a[]|]b", "a"),
        (r"abc[\](]|xyz", ""),
        (r"abc[^\](]|xyz", ""),
        (r"abc[\\]|xyz", ""),
        (r"abc[\]|(]x", "abc"),
        (r"a\|b", "a|b"),
        (r"a\d", "a"),
        ("(?i)abc", ""),
        ("", ""),
    ],
)
def test_the_longest_literal_prefix(expression: str, prefix: str) -> None:
    assert regex_prefix(expression) == prefix


fragments = st.sampled_from(
    [
        "a",
        "b/",
        r"\.",
        ".",
        "a*",
        "b+",
        "c?",
        "[ab]",
        "[^]]",
        "(a|b)",
        "(?:x|y)z",
        "|",
        r"\d",
        "a{0,2}",
        r"\|",
        "^",
        "é",
        "[a(]",
    ]
)


@given(st.lists(fragments, max_size=6).map("".join), st.data())
def test_every_match_begins_with_the_prefix(expression: str, data: st.DataObject) -> None:
    matched = data.draw(st.from_regex(re.compile(expression), fullmatch=True))
    assert matched.startswith(regex_prefix(expression))


names = st.text("ab.[]-é^\\&", min_size=1, max_size=6)


@given(st.text("ab*?[]!-.^\\&~|é", max_size=8), names)
def test_globs_within_a_name_mean_what_fnmatch_means(glob: str, name: str) -> None:
    if "**" in glob:
        return
    try:
        expected = fnmatchcase(name, glob)
    except re.error:
        return
    assert (re.compile(translate_glob(glob)).fullmatch(name) is not None) == expected
    if expected:
        assert name.startswith(glob_prefix(glob))


@pytest.mark.parametrize(
    ("glob", "key", "expected"),
    [
        ("**/a.nii", "a.nii", True),
        ("**/a.nii", "x/y/a.nii", True),
        ("sub-*/**", "sub-01/x/y", True),
        ("sub-*/**", "sub-01", False),
        ("*.nii", "x/a.nii", False),
        ("a?b", "a/b", False),
        ("a[!x]b", "a/b", False),
    ],
)
def test_globs_over_folders(glob: str, key: str, expected: bool) -> None:
    assert (re.compile(translate_glob(glob)).fullmatch(key) is not None) is expected


@given(st.lists(st.text("ab/", max_size=4)))
def test_covering_prefixes(prefixes: list[str]) -> None:
    kept = covering(prefixes)
    assert all(sum(prefix.startswith(each) for each in kept) == 1 for prefix in prefixes)
    assert set(kept) <= set(prefixes)
