"""Values that are made for every file: immutable for the type checker, and cheap to make at run time.

`dataclasses` guards a frozen class by assigning each field through `object.__setattr__`, which makes a value of eleven
fields four times as dear (1.24 instead of 0.28 µs). The type checker refuses the same assignments at no cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool = False, **given: Any) -> Any:
        """As `dataclasses.dataclass`, with values that are equal and hashed by their fields as where it is `frozen`."""
        return dataclasses.dataclass(unsafe_hash=frozen, **given)


__all__ = ["dataclass"]
