"""What mypy and basedpyright, both strict, must make of the patterns room. Read by them, never run."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, assert_type

from ferrule import CaseInsensitiveDict, Plugin, Registry, Singleton, lazy_property, singleton


class Config(metaclass=Singleton):
    def __init__(self, path: str = "config.toml") -> None:
        self.path = path


assert_type(Config("a"), Config)
assert_type(Config().path, str)
Config(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


class Strict(metaclass=Singleton, strict=True):
    pass


assert_type(Strict(), Strict)


@singleton
class Decorated:
    def __init__(self, level: int = 0) -> None:
        self.level = level


@singleton(strict=True)
class Configured:
    level = 1


class Child(Decorated):
    pass


assert_type(Decorated(1), Decorated)
assert_type(Decorated().level, int)
assert_type(Configured().level, int)
assert_type(Child().level, int)
isinstance(Decorated(), Decorated)
Decorated("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

exporters: Registry[Callable[[list[str]], str]] = Registry("exporters")


@exporters.register("csv")
def to_csv(rows: list[str]) -> str:
    return ",".join(rows)


@exporters.register
def to_lines(rows: list[str]) -> str:
    return "\n".join(rows)


assert_type(to_csv(["a"]), str)
assert_type(exporters["csv"](["a"]), str)
assert_type(exporters.get("csv"), Callable[[list[str]], str] | None)
assert_type(list(exporters), list[str])
assert_type(exporters.unregister("csv"), Callable[[list[str]], str])
exporters.register("plain", to_lines, replace=True)


class Exporter(Plugin):
    pass


class Csv(Exporter, name="csv"):
    pass


class Between(Exporter, register=False):
    pass


assert_type(Exporter.registry, Registry[type[Any]])


class Report:
    @lazy_property
    def total(self) -> int:
        return 1

    other = lazy_property(str)


report = Report()
assert_type(report.total, int)
assert_type(report.other, str)
assert_type(Report.total, lazy_property[int])

headers: CaseInsensitiveDict[str] = CaseInsensitiveDict({"A": "b"})
mapping: MutableMapping[str, str] = headers
assert_type(headers["a"], str)
assert_type(headers.get("a"), str | None)
assert_type(headers.get("a", 1), str | int)
assert_type(headers.pop("a"), str)
assert_type(headers.pop("a", None), str | None)
assert_type(headers.popitem(), tuple[str, str])
assert_type(headers.setdefault("a", "b"), str)
assert_type(headers.spelling("a"), str)
assert_type(headers.copy(), CaseInsensitiveDict[str])
assert_type(headers | {"b": "c"}, CaseInsensitiveDict[str])
assert_type(list(headers.items()), list[tuple[str, str]])
keys: Iterator[str] = iter(headers)
assert_type(CaseInsensitiveDict(a=1), CaseInsensitiveDict[int])
headers["a"] = 1  # type: ignore[assignment] # pyright: ignore[reportArgumentType]
headers[1] = "a"  # type: ignore[index] # pyright: ignore[reportArgumentType]
