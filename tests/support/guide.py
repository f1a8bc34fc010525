"""The examples of the guide, as modules."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import asyncsink

GUIDE = Path(asyncsink.__file__).parent / "guide"


def example(page: str, section: str) -> ModuleType:
    """The Python of one section of a page, its blocks one after another, as a module.

    Raises:
        LookupError: there is no such section, or no Python in it.
    """
    text = (GUIDE / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```python\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL) if found else []
    if not blocks:
        raise LookupError(f"{page} has no Python in a section {section!r}.")
    name = re.sub(r"\W+", "_", f"guide {page} {section}")
    module = sys.modules[name] = ModuleType(name, f"{page}, {section}")
    exec(compile("\n\n".join(blocks), str(GUIDE / page), "exec"), module.__dict__)
    return module
