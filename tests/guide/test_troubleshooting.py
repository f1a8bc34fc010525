"""The page of errors and messages against the tree of errors, and the sentences that the package has."""

from __future__ import annotations

import ast
import re

import asyncsink
from asyncsink.errors import AsyncSinkError
from tests.support.guide import GUIDE

PAGE = (GUIDE / "troubleshooting.md").read_text(encoding="utf-8")
ERRORS = {
    name: value
    for name in asyncsink.__all__
    if isinstance(value := getattr(asyncsink, name), type) and issubclass(value, AsyncSinkError)
}


def test_every_public_error_has_its_cause_and_its_cure_below_its_own_kind() -> None:
    entries = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert set(ERRORS) <= set(entries), "errors without an entry in troubleshooting.md"
    assert len(ERRORS) > 30
    for name, error in ERRORS.items():
        if error is not AsyncSinkError:
            assert entries[name].startswith(f"*A kind of {error.__bases__[0].__name__}.*"), name
            assert "**Cause:**" in entries[name], name
            assert "**Cure:**" in re.sub(r"\s+", " ", entries[name]), name


def test_every_message_of_the_page_is_one_of_the_package() -> None:
    texts = {
        node.value
        for path in GUIDE.parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    section = PAGE.partition("\n## By message\n")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \| \w", section, re.MULTILINE)
    assert len(messages) > 25
    assert [message for message in messages if not any(message in text for text in texts)] == []
