"""Tests with several parameters: a few combinations that meet every value, and all of them in the long run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def crossed(names: str, *values: Iterable[Any], usual: Callable[..., bool]) -> pytest.MarkDecorator:
    """Parametrize by every combination of `values`; those for which `usual` is false are marked `long`.

    For parameters that act apart from each other: `usual` chooses each value at least once.
    """
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(*each, marks=() if usual(*each) else pytest.mark.long)
            for each in itertools.product(*map(list, values))
        ],
    )
