"""Validating: what a checked attribute and a checked call cost, against the checks that people write by hand."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Room, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from ferrule._compare.harness import Run

    Function = Callable[..., Any]

TYPED = "hand-written typed property"
INLINE = "inline isinstance"
LOOP = "hand-written loop"
BY_HAND = "hand-written __init__"
ITEMS = 100


class TypedProperty:
    """Is the descriptor of every tutorial, with the values where they belong: in the instance."""

    def __init__(self, expected_type: type, default: Any = None) -> None:
        self.expected_type = expected_type
        self.default = default
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return instance.__dict__.get(self.name, self.default)

    def __set__(self, instance: Any, value: Any) -> None:
        if not isinstance(value, self.expected_type):
            raise TypeError(f"{self.name} must be {self.expected_type.__name__}")
        instance.__dict__[self.name] = value


class Plain:
    """Has an attribute that takes anything."""

    def __init__(self) -> None:
        self.v = 0


class Typed:
    """Has an attribute that is checked by hand."""

    v = TypedProperty(int, 0)


class Property:
    """Has an attribute that is checked in a property's setter."""

    def __init__(self) -> None:
        self._v = 0

    @property
    def v(self) -> int:
        """The value."""
        return self._v

    @v.setter
    def v(self, value: int) -> None:
        if not isinstance(value, int):
            raise TypeError("v must be int")
        self._v = value


class Person:
    """Looks at its three arguments by hand."""

    def __init__(self, *, name: str, rate: float, age: int = 0) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError("name must be a string that is not empty")
        if not isinstance(rate, (int, float)) or not 0 <= rate <= 500:  # noqa: PLR2004 - the reference's own bounds
            raise TypeError("rate must be between 0 and 500")
        if not isinstance(age, int) or not 0 <= age <= 150:  # noqa: PLR2004
            raise TypeError("age must be between 0 and 150")
        self.name = name
        self.rate = rate
        self.age = age


def setting(instance: Any) -> Run:
    """Makes a run that sets `v`."""
    instance.v = 1

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            instance.v = 2

    return run


def getting(instance: Any) -> Run:
    """Makes a run that reads `v`."""
    instance.v = 1

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            instance.v  # noqa: B018 - reading it is the point

    return run


def bare(a: int, b: str) -> str:
    """Returns its second argument."""
    del a
    return b


def inline(a: int, b: str) -> str:
    """Returns its second argument, and looks at what comes and goes."""
    if not isinstance(a, int):
        raise TypeError("a must be int")
    if not isinstance(b, str):
        raise TypeError("b must be str")
    result = b
    if not isinstance(result, str):
        raise TypeError("the result must be str")
    return result


def bare_items(xs: list[int]) -> None:
    """Does nothing with a list."""


def checked_items(xs: list[int]) -> None:
    """Looks at each item of a list by hand."""
    if not isinstance(xs, list) or not all(isinstance(x, int) for x in xs):
        raise TypeError("xs must be a list of int")


def calling(function: Function) -> Run:
    """Makes a run of calls by position."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(1, "a")

    return run


def calling_by_name(function: Function) -> Run:
    """Makes a run of calls by keyword."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(a=1, b="a")

    return run


def calling_with_items(function: Function) -> Run:
    """Makes a run of calls with a list."""
    items = list(range(ITEMS))

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            function(items)

    return run


def making(model: Function) -> Run:
    """Makes a run of constructions."""

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            model(name="Ada", rate=105, age=36)

    return run


def room() -> Room:
    """Describes the rows."""
    return Room(name="validating", rows=[*_attributes(), *_calls(), _model()])


def _attributes() -> list[Row]:
    return [
        Row(
            id="set",
            title="Field: set an int",
            baseline=TYPED,
            goal=0.4,
            candidates={
                "plain attribute": lambda: setting(Plain()),
                "property": lambda: setting(Property()),
                TYPED: lambda: setting(Typed()),
                "ferrule": lambda: setting(_with_field()),
                "ferrule, in a slot": lambda: setting(_with_slot()),
            },
        ),
        Row(
            id="get",
            title="Field: get",
            baseline=TYPED,
            goal=0.5,
            candidates={
                "plain attribute": lambda: getting(Plain()),
                "property": lambda: getting(Property()),
                TYPED: lambda: getting(Typed()),
                "ferrule": lambda: getting(_with_field()),
                "ferrule, in a slot": lambda: getting(_with_slot()),
            },
        ),
    ]


def _calls() -> list[Row]:
    return [
        Row(
            id="call",
            title="enforce_types: f(a: int, b: str) -> str, by position",
            baseline=INLINE,
            goal=1.3,
            candidates={
                "bare function": lambda: calling(bare),
                INLINE: lambda: calling(inline),
                "ferrule": lambda: calling(_enforced(bare)),
            },
        ),
        Row(
            id="call_keyword",
            title="enforce_types: f(a: int, b: str) -> str, by keyword",
            baseline=INLINE,
            goal=1.7,
            candidates={
                "bare function": lambda: calling_by_name(bare),
                INLINE: lambda: calling_by_name(inline),
                "ferrule": lambda: calling_by_name(_enforced(bare)),
            },
        ),
        Row(
            id="items",
            title=f"enforce_types: list[int] of {ITEMS}, every item",
            baseline=LOOP,
            candidates={
                "bare function": lambda: calling_with_items(bare_items),
                LOOP: lambda: calling_with_items(checked_items),
                "ferrule": lambda: calling_with_items(_enforced(bare_items)),
                "ferrule, a sample": lambda: calling_with_items(_enforced(bare_items, depth="sample")),
            },
        ),
    ]


def _model() -> Row:
    return Row(
        id="model",
        title="Model: made of three fields, with bounds",
        baseline=BY_HAND,
        candidates={BY_HAND: lambda: making(Person), "ferrule": lambda: making(_model_class())},
    )


def _with_field() -> Any:
    from ferrule import Field

    class Validated:
        v: int = Field(default=0)

    return Validated()


def _with_slot() -> Any:
    from ferrule import Field

    class Slotted:
        __slots__ = ("_v",)
        v: int = Field(default=0)

    return Slotted()


def _enforced(function: Function, **options: Any) -> Function:
    from ferrule import enforce_types

    decorated: Function = enforce_types(**options)(function)
    return decorated


def _model_class() -> Function:
    from ferrule import Field, Model, Range

    class Employee(Model):
        name: str = Field(min_length=1)
        rate: float = Field(min=0, max=500)
        age: int = Range(0, 150, default=0)

    return Employee
