"""Values made for every file: immutable for the type checker, and cheap to define and to create.

`dataclasses` generates and compiles the source of four methods for each class: half a millisecond for a class, and a
run imports 150 classes of which it uses a third. Here a class is completed at its first use; only its `__init__` is
compiled, and all classes share the functions that compare, hash and show values.

`dataclasses` guards a frozen class by assigning each field through `object.__setattr__`, which makes creating a value
of eleven fields four times slower (1.24 instead of 0.28 µs). The type checker refuses the same assignments at no cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    import threading
    from operator import attrgetter
    from types import FunctionType

    # One lock for all classes: completing a class completes its bases, and lane threads create values too.
    _COMPLETING = threading.RLock()
    _COMPLETED = (
        "__init__", "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__replace__", "__signature__",
    )  # fmt: skip

    def dataclass(*, slots: bool, frozen: bool = False, eq: bool = True, **given: bool) -> Any:
        """As `dataclasses.dataclass(slots=True)`; values are compared and, where `frozen`, hashed by their fields."""
        assert slots

        def slotted(cls: type) -> type:
            shared = {"__repr__": _shown} if given.get("repr", True) else {}
            if eq:
                shared |= {"__eq__": _is_equal, "__hash__": _hash if frozen else None}
            return _slotted(cls, shared, kw_only=given.get("kw_only", False))

        return slotted

    def _slotted(plain: type, shared: dict[str, Any], *, kw_only: bool) -> type:
        """The class with slots for the fields of `plain`; the methods of `dataclasses` are added at its first use."""
        names = [name for name, kind in plain.__annotations__.items() if not kind.startswith("ClassVar")]
        inherited = {name for base in plain.__mro__[1:-1] for name in vars(base).get("__slots__", ())}
        left_out = {*names, "__dict__", "__weakref__"}
        own = {name: value for name, value in vars(plain).items() if name not in left_out}
        pending = [name for name in _COMPLETED if name not in own]

        def complete() -> type:
            with _COMPLETING:
                if not pending:
                    return made
                whole = dataclasses.dataclass(plain, kw_only=kw_only, eq=False, repr=False)
                made._fields = _getter([each.name for each in dataclasses.fields(whole)])
                for name in pending:
                    if name in vars(whole):
                        setattr(made, name, vars(whole)[name])
                    else:
                        delattr(made, name)
                pending.clear()
                return made

        own = {**shared, **{name: _Pending(name, complete) for name in (*pending, "_fields")}, **own}
        own["__slots__"] = tuple(name for name in names if name not in inherited)
        made = type(plain)(plain.__name__, plain.__bases__, own)
        made.__qualname__ = plain.__qualname__
        return made

    class _Pending:
        """An attribute of a class that is not completed yet; access to it completes the class."""

        __slots__ = ("_complete", "_name")

        def __init__(self, name: str, complete: Any) -> None:
            self._name = name
            self._complete = complete

        def __get__(self, instance: Any, owner: type) -> Any:
            # Of the completed class: a subclass that asks by super() has another under the name.
            found = getattr(self._complete(), self._name)
            return found.__get__(instance, owner) if instance is not None and isinstance(found, FunctionType) else found

    def _getter(names: list[str]) -> Any:
        """A function that returns the values of these attributes in one call."""
        return staticmethod(attrgetter(*names) if names else lambda _: ())

    def _is_equal(self: Any, other: object) -> bool:
        return self._fields(self) == self._fields(other) if other.__class__ is self.__class__ else NotImplemented

    def _hash(self: Any) -> int:
        return hash(self._fields(self))

    def _shown(self: Any) -> str:
        shown = [f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr]
        return f"{self.__class__.__qualname__}({', '.join(shown)})"


__all__ = ["dataclass"]
