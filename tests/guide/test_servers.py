"""The table of servers on the guide's page is what asyncsink finds when it runs against them."""

from __future__ import annotations

import re

import pytest

from tests.support.servers_page import kept, matrix


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the servers' libraries
def test_the_table_of_servers_is_what_is_found() -> None:
    """Their versions may be others here."""
    found = matrix()
    without = re.compile(r"(SeaweedFS|moto) [\d.]+")
    assert without.sub(r"\1", kept()) == without.sub(r"\1", found), "run `make servers`"
