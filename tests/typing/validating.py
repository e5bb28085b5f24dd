"""What mypy and basedpyright, both strict, must make of the validating room. Read by them, never run."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, assert_type

import ferrule
from ferrule import (
    Email,
    Field,
    FieldTypeError,
    FieldValueError,
    Model,
    OneOf,
    Pattern,
    Range,
    create_model,
    enforce_types,
    validating,
)


def is_even(value: int) -> bool:
    return value % 2 == 0


class Employee(Model, required_methods=("pay",)):
    name: str = Field(min_length=1, max_length=80)
    rate: float = Field(min=0, max=500)
    email: str = Email()
    age: int = Range(0, 150, default=0)
    grade: str = OneOf("a", "b", default="a")
    badge: str = Pattern(r"[A-Z]\d+", default="A1", message="must be a badge")
    tags: list[str] = Field(default_factory=list)
    boss: "Employee | None" = None
    count: ClassVar[int] = 0

    def pay(self) -> float:
        return self.rate * 40


ada = Employee(name="Ada", rate=105, email="a@b.org")
assert_type(ada.name, str)
assert_type(ada.rate, float)
assert_type(ada.age, int)
assert_type(ada.tags, list[str])
assert_type(ada.boss, Employee | None)
assert_type(ada.pay(), float)
assert_type(ada.to_dict(), dict[str, Any])
assert_type(Employee.fields(), Mapping[str, validating.FieldInfo])
assert_type(Employee.fields()["name"].required, bool)
ada.rate = 12
ada.name = 5  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
Employee(name="Ada", rate=105)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Employee(name="Ada", rate="105", email="")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Employee(nmae="Ada", name="", rate=1, email="")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Employee("Ada", 105, "a@b.org")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


class Manager(Employee):
    reports: list[Employee] = Field(default_factory=list)


assert_type(Manager(name="", rate=1, email="", reports=[ada]).reports, list[Employee])


class Point(Model, frozen=True):
    x: int
    y: int = 0


point = Point(x=1)
point.x = 2  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
numbers: dict[Point, int] = {point: 1}
assert_type(point.__replace__(y=2), Point)


class Slotted(Model):
    __slots__ = ()
    size: int = Field(default=1)


assert_type(Slotted(size=2).size, int)


class Plain:
    size: int = Field(default=0, check=is_even, message="must be even")
    either: int | str = Field(type=(int, str), default=0)
    day: dt.date = Field(min=dt.date(2026, 1, 1))
    raw: bytes = Pattern(re.compile(rb"\d+"))
    untyped = Field(type=int)


plain = Plain()
assert_type(plain.size, int)
assert_type(plain.either, int | str)
assert_type(plain.day, dt.date)
plain.size = "a"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
del plain.size


class PlainSlotted:
    __slots__ = ("_size",)
    size: int = Field(default=0)


assert_type(PlainSlotted().size, int)
Field(min_length="a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Field(1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Email(default="a@b.org", message="must be an address")

assert_type(create_model("Made", {"x": int, "y": (int, 0)}), type[Model])
assert_type(create_model("More", {"x": int}, base=Employee, frozen=False), type[Employee])


@enforce_types
def scale(xs: list[int], by: float = 1.0) -> list[float]:
    return [x * by for x in xs]


assert_type(scale([1], by=2), list[float])
scale(["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
taken: Callable[[list[int]], list[float]] = scale


@enforce_types(depth="sample")
async def fetch(x: int) -> str:
    return str(x)


async def asynchronous() -> None:
    assert_type(await fetch(1), str)


class Worker:
    @enforce_types
    def method(self, x: int) -> str:
        return str(x)

    @enforce_types(depth="shallow")
    def configured(self, x: int) -> "Worker":
        return self

    @classmethod
    @enforce_types
    def of_class(cls, x: int) -> int:
        return x

    @staticmethod
    @enforce_types
    def static(x: int) -> int:
        return x

    @property
    @enforce_types
    def value(self) -> int:
        return 1


worker = Worker()
assert_type(worker.method(1), str)
assert_type(worker.configured(1).configured(2), Worker)
assert_type(Worker.of_class(1), int)
assert_type(worker.static(1), int)
assert_type(worker.value, int)
worker.method("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
enforce_types(depth="deep")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
validating.disable()
validating.enable()


def refused(error: FieldTypeError | FieldValueError) -> str:
    wrong: ferrule.FerruleError = error
    del wrong
    return f"{error.owner}.{error.field} {error.rule}"
