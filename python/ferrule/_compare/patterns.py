"""Patterns: what one instance, a lazy property and a forgiving dictionary cost, against those of the tutorials."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, MutableMapping
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from ferrule._compare.harness import Prepared, Room, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from ferrule._compare.harness import Run

METACLASS = "hand-written metaclass"
LOCKED = "hand-written metaclass with a lock"
CACHED = "functools.cached_property"
MAPPING = "hand-written MutableMapping"
KEYS = ("Content-Type", "Content-Length", "Accept", "User-Agent", "X-Request-ID", "Cache-Control", "Host", "ETag")
SPELLINGS = tuple(key.upper() for key in KEYS)


class SingletonMeta(type):
    """Is the metaclass of every tutorial."""

    instances: ClassVar[dict[type, Any]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Returns the instance."""
        if cls not in cls.instances:  # pyright: ignore[reportUnnecessaryContains]
            cls.instances[cls] = super().__call__(*args, **kwargs)
        return cls.instances[cls]


class LockedMeta(type):
    """Is the same, made safe in the simplest way."""

    instances: ClassVar[dict[type, Any]] = {}
    lock = Lock()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Returns the instance."""
        with cls.lock:
            if cls not in cls.instances:  # pyright: ignore[reportUnnecessaryContains]
                cls.instances[cls] = super().__call__(*args, **kwargs)
            return cls.instances[cls]


class ByMetaclass(metaclass=SingletonMeta):
    """Has one instance, or a few."""


class ByLockedMetaclass(metaclass=LockedMeta):
    """Has one instance."""


class FoldedMapping(MutableMapping[str, Any]):
    """Keeps the spelling and looks up by the case-folded key, as it is written by hand."""

    def __init__(self) -> None:
        self.store: dict[str, tuple[str, Any]] = {}

    def __getitem__(self, key: str) -> Any:
        return self.store[key.casefold()][1]

    def __setitem__(self, key: str, value: Any) -> None:
        folded = key.casefold()
        spelling = self.store[folded][0] if folded in self.store else key
        self.store[folded] = (spelling, value)

    def __delitem__(self, key: str) -> None:
        del self.store[key.casefold()]

    def __iter__(self) -> Iterator[str]:
        return (spelling for spelling, _ in self.store.values())

    def __len__(self) -> int:
        return len(self.store)


def calling(cls: Callable[[], Any]) -> Run:
    """Makes a run of calls of a class."""
    cls()

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            cls()

    return run


def reading(instance: Any) -> Run:
    """Makes a run that reads `value`, which has been computed."""
    instance.value  # noqa: B018 - it is computed here

    def run(n: int) -> None:
        for _ in itertools.repeat(None, n):
            instance.value  # noqa: B018

    return run


def computing(cls: Callable[[], Any]) -> Prepared:
    """Makes a run that reads `value` of instances that are new."""
    fresh: Iterator[Any] = iter(())

    def prepare() -> None:
        nonlocal fresh
        fresh = (cls() for _ in itertools.repeat(None))

    def run(n: int) -> None:
        for instance in itertools.islice(fresh, n):
            instance.value  # noqa: B018

    return Prepared(run=run, prepare=prepare)


def looking_up(mapping: Any, keys: tuple[str, ...] = SPELLINGS) -> Run:
    """Makes a run of look-ups, in another spelling than the first."""
    for key in keys:
        mapping[key.title()] = 1

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            mapping[key]

    return run


def storing(mapping: Any, keys: tuple[str, ...] = SPELLINGS) -> Run:
    """Makes a run that gives new values to keys that are there, in another spelling."""
    for key in keys:
        mapping[key.title()] = 1

    def run(n: int) -> None:
        for key in itertools.islice(itertools.cycle(keys), n):
            mapping[key] = 2

    return run


def room() -> Room:
    """Describes the rows."""
    return Room(name="patterns", rows=[_singleton(), *_lazy(), *_mappings()])


def _singleton() -> Row:
    return Row(
        id="singleton",
        title="Singleton: a call after the first",
        baseline=METACLASS,
        goal=0.5,
        candidates={
            METACLASS: lambda: calling(ByMetaclass),
            LOCKED: lambda: calling(ByLockedMetaclass),
            "ferrule": lambda: calling(_one()),
            "ferrule @singleton": lambda: calling(_decorated()),
        },
    )


class Eager:
    """Computes its value with functools."""

    @functools.cached_property
    def value(self) -> int:
        """The value."""
        return 1


def _lazy() -> list[Row]:
    return [
        Row(
            id="lazy_again",
            title="lazy_property: read again",
            baseline=CACHED,
            goal=1.0,
            candidates={CACHED: lambda: reading(Eager()), "ferrule": lambda: reading(_lazy_class()())},
        ),
        Row(
            id="lazy_first",
            title="lazy_property: an instance made, and read the first time",
            baseline=CACHED,
            candidates={CACHED: lambda: computing(Eager), "ferrule": lambda: computing(_lazy_class())},
        ),
    ]


def _mappings() -> list[Row]:
    umlauts = ("GRÜSSE", "ÄRGER", "STRASSE", "ÉTÉ")
    return [
        Row(
            id="dict_get",
            title="CaseInsensitiveDict: get, 8 keys by turns",
            baseline=MAPPING,
            goal=0.55,
            candidates={
                MAPPING: lambda: looking_up(FoldedMapping()),
                "ferrule": lambda: looking_up(_mapping()),
            },
        ),
        Row(
            id="dict_set",
            title="CaseInsensitiveDict: set, 8 keys by turns",
            baseline=MAPPING,
            goal=0.55,
            candidates={
                MAPPING: lambda: storing(FoldedMapping()),
                "ferrule": lambda: storing(_mapping()),
            },
        ),
        Row(
            id="dict_get_letters",
            title="CaseInsensitiveDict: get, keys that are not ASCII",
            baseline=MAPPING,
            candidates={
                MAPPING: lambda: looking_up(FoldedMapping(), umlauts),
                "ferrule": lambda: looking_up(_mapping(), umlauts),
            },
        ),
    ]


def _one() -> Callable[[], Any]:
    from ferrule import Singleton

    class One(metaclass=Singleton):
        pass

    return One


def _decorated() -> Callable[[], Any]:
    from ferrule import singleton

    @singleton
    class One:
        pass

    return One


def _lazy_class() -> Callable[[], Any]:
    from ferrule import lazy_property

    class Lazy:
        @lazy_property
        def value(self) -> int:
            return 1

    return Lazy


def _mapping() -> Any:
    from ferrule import CaseInsensitiveDict

    return CaseInsensitiveDict[Any]()
