"""What there is to be one of, made once; registries; and a dictionary whose keys are the same in all spellings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ferrule import _core

if TYPE_CHECKING:
    from typing import ClassVar, Self

__all__ = ["CaseInsensitiveDict", "Plugin", "Registry", "Singleton", "lazy_property", "singleton"]

C = TypeVar("C", bound=type[Any])
D = TypeVar("D")
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")


# -- one instance -----------------------------------------------------------------------------------------------------


def _the_same(self: Any) -> Any:
    return self


def _the_same_deeply(self: Any, memo: dict[int, Any]) -> Any:
    del memo
    return self


def _to_its_class(self: Any) -> tuple[Any, tuple[type]]:
    return _the_one, (self.__class__,)


def _the_one(cls: Any) -> Any:
    """Return a class's instance when a pickle asks for it; in a process that has none yet, it is made."""
    instance: Any = cls.__dict__["__singleton__"].instance
    return cls() if instance is None else instance


_METHODS: dict[str, Any] = {"__copy__": _the_same, "__deepcopy__": _the_same_deeply, "__reduce__": _to_its_class}


def _shelve(cls: type, strict: bool) -> None:  # noqa: FBT001
    type.__setattr__(cls, "__singleton__", _core.Shelved(cls, strict))
    for name, method in _METHODS.items():
        # Whoever has thought of a copy himself is left alone.
        if getattr(cls, name, None) is getattr(object, name, None):
            type.__setattr__(cls, name, method)


def _checked_strict(strict: Any) -> bool:
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be True or False, not {type(strict).__name__}: {strict!r}")
    return strict


class Singleton(type):
    """The metaclass of classes that have one instance.

    >>> from ferrule import Singleton
    >>> class Config(metaclass=Singleton):
    ...     def __init__(self, path="config.toml"):
    ...         self.path = path
    >>> Config("other.toml") is Config()
    True
    >>> Config("third.toml").path
    'other.toml'

    The first call makes the instance, whatever number of threads call; the others wait for it, and get it. If making it
    raises, the next call tries again. A subclass has an instance of its own. Copies and pickles of the instance are the
    instance.

    Args:
        strict: Whether a call with arguments is refused once the instance is there; without it, they are ignored.
            Inherited by subclasses that don't say.

    Raises:
        RuntimeError: When calling: the instance is needed to make itself.
        TypeError: When calling with `strict`: arguments came too late.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        __singleton__: _core.Shelved

    def __init__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        strict: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, bases, namespace, **options)
        if strict is None:
            inherited = [base.__singleton__.strict for base in bases if isinstance(base, Singleton)]
            strict = any(inherited)
        _shelve(cls, _checked_strict(strict))

    def __new__(  # noqa: D102
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        strict: bool | None = None,
        **options: Any,
    ) -> Singleton:
        del strict
        return super().__new__(cls, name, bases, namespace, **options)

    if not TYPE_CHECKING:
        # A native callable: from the second call on, it looks at the class and is done.
        __call__ = _core.SingletonCall(type.__call__)


_combined: dict[type, type] = {}


def _singleton_of(metaclass: type) -> type:
    """Return the metaclass of a class's one instance, for classes that have a metaclass of their own."""
    if metaclass is type:
        return Singleton
    if metaclass not in _combined:
        combined = type(f"Singleton{metaclass.__name__}", (Singleton, metaclass), {"__module__": __name__})
        return _combined.setdefault(metaclass, combined)
    return _combined[metaclass]


@overload
def singleton(cls: C, /, *, strict: bool = False) -> C: ...
@overload
def singleton(cls: None = None, /, *, strict: bool = False) -> Callable[[C], C]: ...
def singleton(cls: Any = None, /, *, strict: bool = False) -> Any:
    """Have a class one instance; it stays a class.

    >>> from ferrule import singleton
    >>> @singleton
    ... class Config:
    ...     pass
    >>> Config() is Config(), isinstance(Config(), Config)
    (True, True)

    The same as `metaclass=Singleton`, for a class that is there already.

    Args:
        cls: The class.
        strict: As for `Singleton`.

    Raises:
        TypeError: If it is no class, or one that can't be changed.
    """
    _checked_strict(strict)
    if cls is None:
        return functools.partial(singleton, strict=strict)
    if not isinstance(cls, type):
        raise TypeError(f"singleton takes a class, not {type(cls).__name__}: {cls!r}")
    if not isinstance(cls, Singleton) and not _core._change_metaclass(cls, Singleton):  # noqa: SLF001 - made for this
        try:
            cls.__class__ = _singleton_of(type(cls))
        except TypeError:
            raise TypeError(f"{cls!r} can't be made a singleton: the interpreter lets nobody change it") from None
    _shelve(cls, strict)
    return cls


# -- registries -------------------------------------------------------------------------------------------------------


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}: {name!r}")
    if not name:
        raise ValueError("name must be a string that is not empty, got ''")
    return name


class Registry(Mapping[str, T]):
    r"""Things by name, which register themselves.

    >>> from ferrule import Registry
    >>> exporters = Registry("exporters")
    >>> @exporters.register("csv")
    ... def to_csv(rows):
    ...     return "\n".join(map(",".join, rows))
    >>> exporters["csv"]([["a", "b"]])
    'a,b'
    >>> exporters["xml"]
    Traceback (most recent call last):
        ...
    KeyError: "exporters has no 'xml'; it has 'csv'"

    It is a mapping, in the order of registration, and safe in threads: of two that come with one name, one is refused.

    Args:
        name: What messages call it.
    """

    def __init__(self, name: str = "the registry") -> None:
        self.name = _checked_name(name)
        self._things: dict[str, T] = {}
        self._lock = Lock()

    @overload
    def register(self, name: str | None = None, /, *, replace: bool = False) -> Callable[[D], D]: ...
    @overload
    def register(self, name: str, thing: D, /, *, replace: bool = False) -> D: ...
    @overload
    def register(self, thing: Callable[..., Any], /, *, replace: bool = False) -> Any: ...
    def register(self, name: Any = None, thing: Any = None, /, *, replace: bool = False) -> Any:
        """Register a thing: as a decorator, with a name or without, or by a plain call.

        Args:
            name: The name; by default the thing's `__name__`.
            thing: The thing; left out where this decorates.
            replace: Whether to take the place of another of this name.

        Returns:
            The thing; or what registers it and gives it back.

        Raises:
            ValueError: If the name is taken.
            TypeError: If the name is no string, or the thing has none.
        """
        if thing is not None:
            return self._add(_checked_name(name), thing, replace=replace)
        if name is None or isinstance(name, str):
            if name is not None:
                _checked_name(name)
            return functools.partial(self._decorate, name, replace)
        return self._add(_name_of(name), name, replace=replace)

    def _decorate(self, name: str | None, replace: bool, thing: Any) -> Any:  # noqa: FBT001 - a partial's arguments
        return self._add(_name_of(thing) if name is None else name, thing, replace=replace)

    def _add(self, name: str, thing: Any, *, replace: bool) -> Any:
        with self._lock:
            if not replace and name in self._things:
                there = self._things[name]
                raise ValueError(f"{self.name} has {name!r} already: {there!r}; replace=True takes its place")
            self._things[name] = thing
        return thing

    def unregister(self, name: str) -> T:
        """Take a thing out and return it.

        Raises:
            KeyError: If there is none of this name.
        """
        with self._lock:
            if name in self._things:
                return self._things.pop(name)
        return self[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._things[name]
        except KeyError:
            known = ", ".join(map(repr, self._things)) or "nothing"
            raise KeyError(f"{self.name} has no {name!r}; it has {known}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)

    def __repr__(self) -> str:
        return f"<Registry {self.name}: {', '.join(self._things) or 'empty'}>"


def _name_of(thing: Any) -> str:
    name = getattr(thing, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"name must be given: {thing!r} has none of its own")
    return name


class Plugin:
    """A base whose direct subclasses each keep a registry of *their* subclasses.

    >>> from ferrule import Plugin
    >>> class Exporter(Plugin):
    ...     pass
    >>> class Csv(Exporter, name="csv"):
    ...     pass
    >>> class Xml(Exporter):
    ...     pass
    >>> dict(Exporter.registry) == {"csv": Csv, "Xml": Xml}
    True
    """

    registry: ClassVar[Registry[type[Any]]]

    def __init_subclass__(
        cls, *, name: str | None = None, replace: bool = False, register: bool = True, **options: Any
    ) -> None:
        """Register a subclass.

        Args:
            name: What the subclass is registered as; by default its name. Of a direct subclass of `Plugin`, the name of
                its registry.
            replace: Whether to take the place of another of this name.
            register: Whether it is registered at all; `False` for a base in between.
            options: What goes on to other bases.

        Raises:
            ValueError: When making a class: the name is taken.
        """
        super().__init_subclass__(**options)
        called = cls.__name__ if name is None else _checked_name(name)
        if Plugin in cls.__bases__:
            if replace or not register:
                raise TypeError(f"{cls.__name__} is a base and registered nowhere: replace and register are not for it")
            cls.registry = Registry(called)
            return
        if not register:
            if name is not None or replace:
                raise TypeError(f"{cls.__name__} is not to be registered: name and replace are not for it")
            return
        for base in cls.__mro__[1:]:
            if Plugin in base.__bases__ and "registry" in vars(base):
                base.registry.register(called, cls, replace=replace)  # type: ignore[attr-defined]


# -- computed once ----------------------------------------------------------------------------------------------------


class lazy_property(_core.LazyProperty[T_co], Generic[T_co]):  # noqa: N801 - it stands where `property` does
    """A property that is computed when it is first asked for, once for each instance, under threads too.

    >>> from ferrule import lazy_property
    >>> class Report:
    ...     @lazy_property
    ...     def total(self):
    ...         print("adding up")
    ...         return 42
    >>> report = Report()
    >>> report.total, report.total
    adding up
    (42, 42)

    The value lies in the instance's `__dict__` under the property's name, so that the next look costs what any
    attribute costs; where the class has `__slots__` and no `__dict__`, in the slot `_total` that it must
    have. Setting it by hand replaces it, and `del` has it computed anew. If computing raises, nothing is kept.

    Args:
        function: Called with the instance. Also without decorating: `data = lazy_property(load)`.

    Raises:
        RuntimeError: When computing: the value is needed to compute itself, in this thread or through others.
    """

    def __init__(self, function: Callable[[Any], T_co], /) -> None:
        super().__init__()
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None, /) -> T_co: ...
        def __get__(self, instance: object, owner: type | None = None, /) -> Any: ...


# -- keys in any spelling ---------------------------------------------------------------------------------------------


class CaseInsensitiveDict(  # pyright: ignore[reportIncompatibleMethodOverride]
    _core.CaseInsensitiveDict[V], MutableMapping[str, V]
):
    """A dictionary of strings whose keys are the same in upper and lower case.

    >>> from ferrule import CaseInsensitiveDict
    >>> headers = CaseInsensitiveDict({"Content-Type": "text/plain"})
    >>> headers["CONTENT-TYPE"]
    'text/plain'
    >>> headers["content-type"] = "text/html"
    >>> headers
    CaseInsensitiveDict({'Content-Type': 'text/html'})
    >>> CaseInsensitiveDict({"Straße": 1})["STRASSE"]
    1

    Keys are compared by `str.casefold`, shown as they were spelled first, and kept in the order in which they came. It
    equals any mapping with the same keys, in whatever case, and the same values. Each method by itself is safe in
    threads. Iteration raises a `RuntimeError` when keys come or go meanwhile.

    Args:
        items: A mapping, or pairs.
        values: More of them, by keyword.

    Raises:
        TypeError: If a key is no string.
    """

    __slots__ = ()

    @overload
    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = (), /) -> None: ...
    @overload
    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = (), /, **values: V) -> None: ...
    def __init__(self, items: Any = (), /, **values: V) -> None:
        super().__init__()
        self.update(items, **values)

    @classmethod
    def fromkeys(cls, keys: Iterable[str], value: Any = None) -> CaseInsensitiveDict[Any]:
        """Return a dictionary in which each key has this value."""
        return cls((key, value) for key in keys)

    def copy(self) -> Self:
        """Return a dictionary with the same keys and values."""
        return type(self)(self._entries())

    __copy__ = copy

    def __eq__(self, other: object) -> bool:
        others: Any = other
        if not isinstance(other, Mapping):
            return NotImplemented
        if len(self) != len(others):
            return False
        nothing = object()
        seen = 0
        for key, value in others.items():
            mine = self.get(key, nothing)
            if mine is nothing or not (mine is value or mine == value):
                return False
            seen += 1
        # Of two keys of the other's that are one here, both were found.
        return seen == len({key.casefold() for key in others})

    __hash__: Any = None

    def __or__(self, other: Mapping[str, V]) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        merged = self.copy()
        merged.update(other)
        return merged

    def __ror__(self, other: Mapping[str, V]) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        merged = type(self)(other)
        merged.update(self)
        return merged

    def __ior__(self, other: Mapping[str, V] | Iterable[tuple[str, V]]) -> Self:
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._entries())!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._entries(),)
