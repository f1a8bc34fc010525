"""Classes of values: completed when one of them is used, and then as `dataclasses` would have made them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import threading
from dataclasses import asdict, field, fields, is_dataclass, replace
from typing import ClassVar

import pytest

from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    kind: ClassVar[str] = "point"


@dataclass(slots=True, kw_only=True)
class Base:
    names: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Derived(Base):
    secret: str = field(repr=False)
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(slots=True, eq=False)
class Alone:
    value: int


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Point(1) == Point(1, 2) != Point(2)
    assert Point(1) != (1, 2)
    assert len({Point(1), Point(1, 2), Point(3)}) == 2
    assert len({Nothing(), Nothing()}) == 1
    assert Base() == Base() != Base(names=["b"])
    with pytest.raises(TypeError):
        hash(Base())
    one = Alone(1)
    assert len({one, one, Alone(1)}) == 2


def test_values_are_shown_without_what_is_not_to_be_shown() -> None:
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert repr(Derived(secret="hidden")) == "Derived(names=['a'])"


def test_fields_and_defaults_are_inherited_and_kept_apart() -> None:
    first, second = Derived(secret="s"), Derived(secret="s")
    first.names.append("b")
    assert second.names == ["a"]
    assert Base().names == []
    assert [each.name for each in fields(Derived)] == ["names", "secret"]
    with pytest.raises(TypeError, match="secret"):
        Derived()  # type: ignore[call-arg]


def test_there_is_no_room_for_anything_else() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]
    assert Point.kind == "point"


def test_what_is_asked_first_completes_the_class() -> None:
    """Each way to look at a class is the first use of a fresh one."""

    def fresh() -> type:
        @dataclass(frozen=True, slots=True)
        class Fresh:
            a: int
            b: str = "b"

        return Fresh

    assert is_dataclass(fresh())
    assert [each.name for each in fields(fresh())] == ["a", "b"]
    assert str(inspect.signature(fresh())) == "(a: 'int', b: 'str' = 'b') -> None"
    assert fresh().__match_args__ == ("a", "b")  # type: ignore[attr-defined]
    match fresh()(1):
        case object(a=1, b="b"):
            pass
        case _:
            pytest.fail("its fields have other values")


def test_values_are_copied_pickled_and_replaced() -> None:
    assert replace(Point(1), y=5) == Point(1, 5)
    assert asdict(Point(1)) == {"x": 1, "y": 2}
    assert copy.copy(Point(1)) == pickle.loads(pickle.dumps(Point(1))) == Point(1)  # noqa: S301 - our own


def test_a_class_has_all_that_dataclasses_would_give_it() -> None:
    """What a later Python adds is no exception: `__replace__` of 3.13, which `copy.replace` asks for."""

    class Plain:
        """The same fields."""

        x: int
        y: int = 2

    usual = dataclasses.dataclass(slots=True)(Plain)
    Point(1)
    assert set(vars(usual)) <= set(vars(Point)) | {"__weakref__", "__dict__"}


def test_threads_may_be_the_first_at_the_same_time() -> None:
    for _ in range(50):

        @dataclass(slots=True)
        class Fresh:
            a: int
            b: list[int] = field(default_factory=list)

        begin, made = threading.Barrier(4), list[object]()

        def make(kind: type = Fresh, begin: threading.Barrier = begin, made: list[object] = made) -> None:
            begin.wait()
            made.append(kind(1))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [Fresh(1)] * 4


def test_a_start_completes_no_class_that_it_does_not_use() -> None:
    code = (
        "import dataclasses; whole = dataclasses.dataclass; made = []; "
        "dataclasses.dataclass = lambda cls=None, **given: made.append(cls) or whole(cls, **given); "
        "import asyncsink.engine.open_run, asyncsink.model; "
        "print({each.__name__ for each in made if each is not None and each.__module__ == 'asyncsink.model'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
