"""DataSink's attribute notation: rules 8 to 12."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import RoutingError
from asyncsink.options.schema import Compat
from asyncsink.routing.attributes import RESERVED_ATTRIBUTES, check_attribute_name, parse_attribute

BOTH: list[Compat] = ["strict", "nipype"]


@pytest.mark.parametrize("compat", BOTH)
@pytest.mark.parametrize("attribute", sorted(RESERVED_ATTRIBUTES))
def test_rule_08_names_of_datasink_inputs_are_refused(attribute: str, compat: Compat) -> None:
    with pytest.raises(RoutingError, match="name of a DataSink input"):
        parse_attribute(attribute, compat)


def test_rule_08_lists_every_input_of_datasink() -> None:
    assert len(RESERVED_ATTRIBUTES) == 12
    check_attribute_name("container.@x")
    assert parse_attribute("container.@x") == ("container",)


@pytest.mark.parametrize("attribute", [None, 1, b"motion", ("motion",)])
def test_rule_08_an_attribute_is_a_str(attribute: Any) -> None:
    with pytest.raises(RoutingError, match="expected a str"):
        parse_attribute(attribute)


@pytest.mark.parametrize("compat", BOTH)
@pytest.mark.parametrize(
    ("attribute", "components"),
    [
        ("motion", ("motion",)),
        ("contrasts.@con", ("contrasts",)),
        ("contrasts.con", ("contrasts", "con")),
        ("con.@x.more", ("con", "more")),
        ("@con", ()),
        ("@", ()),
        ("con.@", ("con",)),
        ("a@b", ("a@b",)),
        ("a/b.c", ("a/b", "c")),
        ("sub-01 ä", ("sub-01 ä",)),
    ],
)
def test_rule_09_components(attribute: str, components: tuple[str, ...], compat: Compat) -> None:
    assert parse_attribute(attribute, compat) == components


@pytest.mark.parametrize("compat", BOTH)
@pytest.mark.parametrize("attribute", ["", "a..b", "a.", ".a", ".", "..", "a..@b", "a/../b"])
def test_rule_10_and_12_empty_components_and_dotdot_are_refused(attribute: str, compat: Compat) -> None:
    with pytest.raises(RoutingError, match="empty component"):
        parse_attribute(attribute, compat)


def test_rule_11_an_absolute_component_is_refused_in_strict_mode_only() -> None:
    with pytest.raises(RoutingError, match="discard the destination"):
        parse_attribute("con./abs.x")
    assert parse_attribute("con./abs.x", "nipype") == ("con", "/abs", "x")


@given(st.lists(st.text(alphabet="@ab/ ä", min_size=1, max_size=4), min_size=1, max_size=5))
def test_rule_09_any_notation(components: list[str]) -> None:
    assert list(parse_attribute(".".join(components), "nipype")) == [c for c in components if c[0] != "@"]
