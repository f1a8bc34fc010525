"""The guide as a whole: its index, its links, its generated pages, its site."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncsink
from asyncsink.cli.commands.help import for_a_terminal, topics_of_the_guide, with_docstrings
from tests.support.commands_page import reference
from tests.support.guide import GUIDE

ROOT = GUIDE.parents[1]
PAGES = sorted(GUIDE.glob("*.md"))
_CODE = re.compile(r"^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```[^\S\n]*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page to what is not there. Links to elsewhere are not followed."""
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        other = page.parent / target if target else page
        if not other.exists() or (anchor and anchor not in anchors_of(other)):
            yield f"{page.name}: {link}"


def test_the_index_lists_every_page_once() -> None:
    names = [topic.name for topic in topics_of_the_guide()]
    assert sorted(names) == [page.stem for page in PAGES if page.stem != "index"]


def test_every_topic_has_a_line_for_the_list() -> None:
    wrong = [topic.name for topic in topics_of_the_guide() if not topic.section or not 10 < len(topic.text) < 120]
    assert wrong == []


def test_every_link_leads_somewhere() -> None:
    assert [link for page in [*PAGES, ROOT / "README.md"] for link in broken_links(page)] == []


def test_no_page_of_the_guide_leads_out_of_it() -> None:
    """The guide is shipped without the rest of the repository."""
    outside = [f"{page.name}: {link}" for page in PAGES for link in _LINK.findall(page.read_text()) if "../" in link]
    assert outside == []


def test_the_page_of_the_commands_is_current() -> None:
    assert (GUIDE / "commands.md").read_text(encoding="utf-8") == reference(), "run `make options`"


def test_the_page_of_the_public_names_has_all_of_them_once() -> None:
    names = re.findall(r"^::: asyncsink\.(\w+)$", (GUIDE / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(asyncsink.__all__)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra [docs]")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    words = ["-m", "mkdocs", "build", "--quiet", "--strict", "-f", ".ci/mkdocs.yml", "-d", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert built >= {page.stem for page in PAGES}
    assert "deadline_seconds" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")


def test_a_page_for_a_terminal_has_no_links_and_keeps_its_code() -> None:
    page = (
        "See [names.md](names.md) and [the rules](nipype.md#rules).\n\n![a plot](images/x.png)\n<!-- mark -->\n"
        "```python\nx = '[a](b.md)'  # <!-- -->\n```\n| a<br>b |\n"
    )
    assert for_a_terminal(page) == (
        "See `asyncsink help names` and the rules (`asyncsink help nipype`).\n\n(Picture: a plot)\n"
        "```python\nx = '[a](b.md)'  # <!-- -->\n```\n| a, b |\n"
    )


def test_a_wide_table_is_a_list_in_a_terminal() -> None:
    table = "| name | b | c | d | e |\n| --- | --- | --- | --- | --- |\n| one | 1 \\| 2 |  | 4 | 5 |\n"
    assert for_a_terminal(f"{table}\nend\n") == "- one · *b* 1 \\| 2 · *d* 4 · *e* 5\n\nend\n"
    narrow = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert for_a_terminal(narrow) == narrow


def test_a_public_name_has_its_docstring_in_a_terminal() -> None:
    assert "Base of every error" in for_a_terminal(with_docstrings("::: asyncsink.AsyncSinkError\n"))
