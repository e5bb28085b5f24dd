"""Attributes that look at what they are given, models made of them, and type hints that hold at run time.

`Field` and its kin go into the body of any class; `Model` makes a class of nothing but them; `enforce_types` checks a
function's arguments and result. Annotations are made into native checks once, so that looking costs next to nothing.
"""

from __future__ import annotations

import functools
import keyword
import math
import os
import re
import reprlib
import sys
from abc import ABCMeta
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from ferrule import _core
from ferrule._annotations import (
    Compiler,
    annotations_of,
    class_compiler,
    closure_of,
    field_check,
    is_class_variable,
    unpacked_keywords,
)
from ferrule._core import FieldInfo
from ferrule._errors import FieldError, FieldTypeError, FieldValueError
from ferrule._kinds import is_method_object, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from inspect import Signature
    from typing import Self, TypeAlias

    from typing_extensions import dataclass_transform

    Depth: TypeAlias = Literal["all", "sample", "shallow"]
    Named: TypeAlias = tuple[str, _core.Check]
    # Name, check, and whether it may come by keyword; how many may come by position; *args, **kwargs; the result.
    Plan: TypeAlias = tuple[
        list[tuple[str, _core.Check | None, bool]], int, Named | None, Named | None, _core.Check | None
    ]
else:

    def dataclass_transform(**_options: Any) -> Any:
        """Stand in for what only type checkers read, and 3.11 has in `typing`."""
        return lambda cls: cls


__all__ = [
    "Email",
    "Field",
    "FieldError",
    "FieldInfo",
    "FieldTypeError",
    "FieldValueError",
    "Model",
    "OneOf",
    "Pattern",
    "Range",
    "create_model",
    "disable",
    "enable",
    "enforce_types",
]

F = TypeVar("F", bound="Callable[..., Any]")


class _Missing:
    def __repr__(self) -> str:
        return "<not given>"


_MISSING: Any = _Missing()


# -- fields -----------------------------------------------------------------------------------------------------------


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _checked_length(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer that is not negative, not {type(value).__name__}: {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be an integer that is not negative, got {value!r}")
    return value


def _check_order(low_name: str, low: Any, high_name: str, high: Any) -> None:
    for name, value in ((low_name, low), (high_name, high)):
        if _is_nan(value):
            raise ValueError(f"{name} must be a bound that values can be compared with, got nan")
    if low is None or high is None:
        return
    try:
        ordered = low <= high
    except TypeError:
        raise TypeError(f"{low_name} and {high_name} must be comparable, got {low!r} and {high!r}") from None
    if not ordered:
        raise ValueError(f"{low_name} must be at most {high_name}, got {low!r} and {high!r}")


def _field(
    *,
    type_: Any,
    default: Any,
    default_factory: Any,
    low: Any = None,
    high: Any = None,
    min_length: Any = None,
    max_length: Any = None,
    pattern: re.Pattern[Any] | None = None,
    choices: tuple[Any, ...] | None = None,
    address: bool = False,
    check: Any = None,
    message: Any,
) -> Any:
    if default is not _MISSING and default_factory is not None:
        raise TypeError("default and default_factory can't both be given")
    if type(default) in {list, dict, set, bytearray}:
        name = type(default).__name__
        raise ValueError(f"default must be no {name}, which all instances would share; use default_factory={name}")
    for argument, value in (("default_factory", default_factory), ("check", check)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument} must be callable, not {type(value).__name__}: {value!r}")
    if message is not None and not isinstance(message, str):
        raise TypeError(f"message must be a string, not {type(message).__name__}: {message!r}")
    low_length, high_length = _checked_length("min_length", min_length), _checked_length("max_length", max_length)
    _check_order("min", low, "max", high)
    _check_order("min_length", low_length, "max_length", high_length)
    rules = (low, high, low_length, high_length, pattern, choices, check)
    if message is not None and not address and all(rule is None for rule in rules):
        raise TypeError("message must come with a rule that it is for: min, max, min_length, max_length or check")
    native, resolver = _native_check(type_)
    parameters = {
        "type": None if type_ is _MISSING else type_,
        "default_factory": default_factory,
        "min": low,
        "max": high,
        "min_length": low_length,
        "max_length": high_length,
        "pattern": None if pattern is None else pattern.pattern,
        "choices": choices,
        "check": check,
        "message": message,
    }
    if default is not _MISSING:
        parameters["default"] = default
    return FieldInfo(
        native,
        resolver,
        parameters,
        default=None if default is _MISSING else (default,),
        factory=default_factory,
        low=low,
        high=high,
        min_length=low_length,
        max_length=high_length,
        pattern=None if pattern is None else (pattern.fullmatch, repr(pattern.pattern)),
        choices=choices,
        address=address,
        test=check,
        message=message,
    )


def _either(one: Any, other: Any) -> Any:
    return one | other


def _native_check(type_: Any) -> tuple[_core.Check | None, Callable[[type, str], _core.Check | None]]:
    """Return the check, where it can be made now, and what makes it later."""
    if type_ is _MISSING:
        return None, field_check
    given: Any = type_
    if isinstance(type_, tuple):
        if not given:
            raise TypeError("type must be a type, or a tuple of one or more, got ()")
        type_ = functools.reduce(_either, given)

    def later(owner: type, name: str) -> _core.Check:
        del name
        return class_compiler(owner).check(type_)

    try:
        return Compiler().check(type_), later
    except NameError:
        return None, later
    except TypeError as error:
        raise TypeError(f"type must be a type: {error}") from None


def Field(  # noqa: N802 - reads as a noun where it stands
    *,
    type: Any = _MISSING,  # noqa: A002 - the design's name
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    min: Any = None,  # noqa: A002
    max: Any = None,  # noqa: A002
    min_length: int | None = None,
    max_length: int | None = None,
    check: Callable[[Any], object] | None = None,
    message: str | None = None,
) -> Any:
    """Make an attribute that refuses what it may not be.

    >>> from ferrule import Field
    >>> class Box:
    ...     size: int = Field(min=0, default=1)
    >>> box = Box()
    >>> box.size
    1
    >>> box.size = -1
    Traceback (most recent call last):
        ...
    ferrule._errors.FieldValueError: Box.size must be at least 0, got -1

    It is a descriptor, for any class. The value lies in the instance's `__dict__` under the attribute's name; where the
    class has `__slots__` and no `__dict__`, a field `size` lies in the slot `_size`, which a `Model` makes by itself.
    Reading a field that is not set gives the default, or raises an `AttributeError`; `del` brings the default back.

    Args:
        type: What the value must be: a class, a tuple of them, or anything that may be an annotation. By default the
            attribute's annotation; without one, anything. A `bool` is no `int` and no `float` unless it says so
            (`int | bool`); an `int` may stand where a `float` is asked for.
        default: What an instance has that was given nothing. It must pass, too.
        default_factory: Called without arguments for the default of each instance.
        min: The least value, inclusive. A NaN is refused.
        max: The greatest value, inclusive.
        min_length: The least `len` of the value.
        max_length: The greatest `len`.
        check: Called with the value; must return something true. What it raises comes out, with a note of the field.
        message: What is said of a value that breaks a rule, in place of the rule's own words: "must be even".

    Raises:
        FieldTypeError: When setting a value of another type. Names class, field, rule and value.
        FieldValueError: When setting a value that breaks a rule.
        TypeError: For arguments that make no sense, at once.
        ValueError: For bounds that admit nothing, or a default that all instances would share.
    """
    return _field(
        type_=type,
        default=default,
        default_factory=default_factory,
        low=min,
        high=max,
        min_length=min_length,
        max_length=max_length,
        check=check,
        message=message,
    )


def Email(  # noqa: N802
    *, default: Any = _MISSING, default_factory: Callable[[], Any] | None = None, message: str | None = None
) -> Any:
    """Make an attribute that holds an e-mail address.

    >>> from ferrule import Email
    >>> class User:
    ...     email: str = Email()
    >>> user = User()
    >>> user.email = "ada@example.org"
    >>> user.email = "ada"
    Traceback (most recent call last):
        ...
    ferrule._errors.FieldValueError: User.email must be an e-mail address, got 'ada'

    That is the grammar of HTML's e-mail field with a domain of at least two labels, the lengths of RFC 5321, and
    letters of all scripts (RFC 6531). Whether somebody reads what is sent there, only sending shows.

    Args:
        default: As for `Field`.
        default_factory: As for `Field`.
        message: As for `Field`.
    """
    return _field(type_=str, default=default, default_factory=default_factory, address=True, message=message)


def Range(  # noqa: N802
    min: Any = None,  # noqa: A002
    max: Any = None,  # noqa: A002
    *,
    type: Any = _MISSING,  # noqa: A002
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    message: str | None = None,
) -> Any:
    """Make an attribute that lies between two bounds, both inclusive.

    >>> from ferrule import Range
    >>> class Person:
    ...     age: int = Range(0, 150)
    >>> person = Person()
    >>> person.age = 151
    Traceback (most recent call last):
        ...
    ferrule._errors.FieldValueError: Person.age must be between 0 and 150, got 151

    Args:
        min: The least value; `None` for no such bound.
        max: The greatest value; `None` for no such bound.
        type: As for `Field`.
        default: As for `Field`.
        default_factory: As for `Field`.
        message: As for `Field`.

    Raises:
        TypeError: If there is no bound at all, or the two can't be compared.
        ValueError: If nothing lies between them.
    """
    if min is None and max is None:
        raise TypeError("Range needs min, max or both")
    return _field(type_=type, default=default, default_factory=default_factory, low=min, high=max, message=message)


def OneOf(  # noqa: N802
    *choices: Any,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    message: str | None = None,
) -> Any:
    """Make an attribute that is one of some values.

    >>> from ferrule import OneOf
    >>> class Light:
    ...     colour: str = OneOf("red", "amber", "green", default="red")
    >>> Light().colour
    'red'

    Args:
        choices: The values, compared by `==`; `True` is not `1`.
        default: As for `Field`.
        default_factory: As for `Field`.
        message: As for `Field`.

    Raises:
        TypeError: If there are none.
    """
    if not choices:
        raise TypeError("OneOf needs the values that there are to choose from")
    return _field(type_=_MISSING, default=default, default_factory=default_factory, choices=choices, message=message)


def Pattern(  # noqa: N802
    pattern: str | bytes | re.Pattern[Any],
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    message: str | None = None,
) -> Any:
    """Make an attribute that matches a regular expression from its beginning to its end.

    >>> from ferrule import Pattern
    >>> class Part:
    ...     number: str = Pattern(r"[A-Z]{2}-[0-9]+")
    >>> part = Part()
    >>> part.number = "AB-12"

    Args:
        pattern: The expression, of text or of bytes, or one that is compiled already.
        default: As for `Field`.
        default_factory: As for `Field`.
        message: As for `Field`.

    Raises:
        TypeError: If it is no expression.
        re.error: If it can't be compiled.
    """
    if not isinstance(pattern, (str, bytes, re.Pattern)):
        raise TypeError(f"pattern must be a regular expression, not {type(pattern).__name__}: {pattern!r}")
    compiled: re.Pattern[Any] = re.compile(pattern)
    kind = bytes if isinstance(compiled.pattern, bytes) else str
    return _field(type_=kind, default=default, default_factory=default_factory, pattern=compiled, message=message)


# -- models -----------------------------------------------------------------------------------------------------------


def _names_annotated(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the annotations in a class body that is yet to become a class."""
    if sys.version_info >= (3, 14):
        import annotationlib

        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is not None:
            return dict(annotationlib.call_annotate_function(annotate, annotationlib.Format.FORWARDREF))
    return dict(namespace.get("__annotations__", {}))


def _own_fields(namespace: Mapping[str, Any]) -> dict[str, FieldInfo]:
    """Return the fields that a class body declares, in order."""
    module = sys.modules.get(namespace.get("__module__", ""))
    compiler = Compiler(namespace, vars(module) if module else {})
    fields: dict[str, FieldInfo] = {}
    for name, annotation in _names_annotated(namespace).items():
        if (name.startswith("__") and name.endswith("__")) or is_class_variable(annotation, compiler.evaluated):
            continue
        value = namespace.get(name, _MISSING)
        fields[name] = value if isinstance(value, FieldInfo) else Field(default=value)
    for name, value in namespace.items():
        if isinstance(value, FieldInfo):
            fields.setdefault(name, value)
    return fields


def _with_slots(slots: Any, fields: Iterable[str], bases: tuple[type, ...]) -> tuple[str, ...]:
    """Return a class's `__slots__` with those in which its fields keep their values."""
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    # A field that a base has in a slot keeps its value there, whichever class declares it anew.
    return (*names, *(slot for slot in (f"_{name}" for name in fields) if not _has_slot(slot, names, bases)))


def _has_slot(slot: str, names: tuple[str, ...], bases: tuple[type, ...]) -> bool:
    return slot in names or any(slot in vars(cls) for base in bases for cls in base.__mro__)


def _all_fields(cls: type) -> dict[str, FieldInfo]:
    """Return the fields of a class and its bases; those of the bases first."""
    fields: dict[str, FieldInfo] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, FieldInfo):
                fields[name] = value
            else:
                # Something else has taken its place.
                fields.pop(name, None)
    return fields


def _check_methods(cls: type, required: Iterable[str]) -> None:
    missing = [name for name in required if not callable(getattr(cls, name, None))]
    if missing:
        names = ", ".join(f"{name}()" for name in missing)
        raise TypeError(f"{cls.__name__} must have the method{'s' if len(missing) > 1 else ''} {names}")


def _checked_methods(required: Any) -> tuple[str, ...]:
    if isinstance(required, str) or not all(isinstance(name, str) for name in required):
        raise TypeError(f"required_methods must be names, as in ('pay',), not {type(required).__name__}: {required!r}")
    for name in required:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"required_methods must be names of methods, got {name!r}")
    return tuple(required)


# What a model can do, and no field may be called.
_TAKEN = frozenset({"fields", "to_dict"})


class ModelMeta(ABCMeta):
    """The metaclass of `Model`: finds the fields, makes their slots, looks for the methods."""

    __model_fields__: _core.Fields
    __model_frozen__: bool
    __required_methods__: tuple[str, ...]

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        frozen: bool = False,
        required_methods: Iterable[str] = (),
        **options: Any,
    ) -> ModelMeta:
        if not isinstance(frozen, bool):
            raise TypeError(f"frozen must be True or False, not {type(frozen).__name__}: {frozen!r}")
        methods = _checked_methods(required_methods)
        fields = _own_fields(namespace)
        for taken in (field for field in fields if field in _TAKEN):
            raise TypeError(f"{name}.{taken} can't be a field: models have {taken} of their own")
        parents = [base for base in bases if isinstance(base, ModelMeta) and base.__model_fields__.names]
        if any(base.__model_frozen__ != frozen for base in parents):
            other = next(base for base in parents if base.__model_frozen__ != frozen)
            was, now = ("frozen", "is not") if other.__model_frozen__ else ("not frozen", "is")
            raise TypeError(f"{name} {now} frozen, and its base {other.__name__} is {was}: say frozen={not frozen}")
        body = {**fields, **{key: value for key, value in namespace.items() if key not in fields}}
        if "__slots__" in body:
            body["__slots__"] = _with_slots(body["__slots__"], fields, bases)
        if frozen:
            body.setdefault("__setattr__", _refuse_setting)
            body.setdefault("__delattr__", _refuse_deleting)
            body.setdefault("__hash__", _hash)
        try:
            made = super().__new__(cls, name, bases, body, **options)
        except RuntimeError as error:
            # Python 3.11 wraps what a field's `__set_name__` raises.
            if isinstance(error.__cause__, (FieldError, TypeError, ValueError)):
                raise error.__cause__ from None
            raise
        made.__model_fields__ = _core.Fields(list(_all_fields(made).items()))
        made.__model_frozen__ = frozen
        inherited = [method for base in bases for method in getattr(base, "__required_methods__", ())]
        made.__required_methods__ = tuple(dict.fromkeys([*inherited, *methods]))
        _check_methods(made, made.__required_methods__)
        return made

    @property
    def __signature__(cls) -> Signature:
        """What `inspect.signature` shows of a model whose constructor is ours."""
        import inspect

        if getattr(cls, "__init__", None) is not getattr(Model, "__init__"):  # noqa: B009 - to type checkers it has none
            raise AttributeError("__signature__")
        parameters: list[inspect.Parameter] = []
        for name, field in _all_fields(cls).items():
            factory = field.parameters["default_factory"]
            default = field.parameters.get("default", inspect.Parameter.empty if factory is None else factory)
            note = annotations_of(cast("type", field.owner)).get(name, field.parameters["type"])
            annotation = inspect.Parameter.empty if note is None else note
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
        return inspect.Signature(parameters)


def _refuse_setting(self: Any, name: str, value: Any) -> None:
    del value
    raise AttributeError(f"{type(self).__name__} is frozen: {name} can't be set")


def _refuse_deleting(self: Any, name: str) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} can't be deleted")


def _hash(self: Any) -> int:
    cls: Any = self.__class__
    return hash((cls, *(value for _, value in cls.__model_fields__.items(self))))


def _init(self: Any, /, **values: Any) -> None:
    """Make an instance of the fields' values, given by name."""


@dataclass_transform(kw_only_default=True, field_specifiers=(Field, Email, Range, OneOf, Pattern))
class Model(metaclass=ModelMeta):
    """A class of validated fields.

    >>> from ferrule import Email, Field, Model, Range
    >>> class Employee(Model, required_methods=("pay",)):
    ...     name: str = Field(min_length=1)
    ...     rate: float = Field(min=0, max=500)
    ...     email: str = Email()
    ...     age: int = Range(0, 150, default=0)
    ...     def pay(self):
    ...         return self.rate * 40
    >>> ada = Employee(name="Ada", rate=105, email="ada@example.org")
    >>> ada
    Employee(name='Ada', rate=105, email='ada@example.org', age=0)
    >>> ada.to_dict()
    {'name': 'Ada', 'rate': 105, 'email': 'ada@example.org', 'age': 0}
    >>> Employee(nmae="Ada")
    Traceback (most recent call last):
        ...
    TypeError: Employee has no field 'nmae'; it has name, rate, email, age

    Each annotated name in the body is a field (`ClassVar` aside), and so is each name that is given a `Field` or one of
    its kin. Instances are made by keyword, compared by value, shown, copied (`copy.replace`, too) and pickled; what a
    pickle or a copy brings back was looked at when it was first set. A subclass has the fields of its bases and may
    declare them anew. With `__slots__ = ()` in the body, the fields are kept in slots.

    Args:
        frozen: Whether instances can't be changed any more; they can then be hashed. A class and its bases agree on it.
        required_methods: Names of methods that the class and every subclass must have; looked for when it is made.

    Raises:
        TypeError: When making a class: a required method is missing, a default is of the wrong type, a field is called
            like a method of `Model`. When making an instance: a name is unknown or missing, a value of the wrong type.
        ValueError: When making an instance: a value breaks a rule.
    """

    __slots__ = ()

    if not TYPE_CHECKING:
        __init__ = _core.Initializer(_init)
        __init__.__qualname__ = "Model.__init__"
        __init__.__name__ = "__init__"

    @classmethod
    def fields(cls) -> Mapping[str, FieldInfo]:
        """Return the fields by name, those of the bases first.

        Each tells its `name`, its `owner`, its `type_` in words, whether it is `required`, and its `parameters`.
        """
        return MappingProxyType(_all_fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name; models among them, and in lists, tuples and dictionaries, become dictionaries."""
        return {name: _plain(value) for name, value in type(self).__model_fields__.items(self)}

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in type(self).__model_fields__.items(self))
        return f"{type(self).__qualname__.rsplit('<locals>.', 1)[-1]}({values})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        fields = type(self).__model_fields__
        return self is other or fields.items(self) == fields.items(other)

    __hash__: Any = None

    def __replace__(self, /, **changes: Any) -> Self:
        """Return a copy with some values changed, each looked at: what `copy.replace` calls."""
        return type(self)(**{**dict(type(self).__model_fields__.items(self)), **changes})

    def __setstate__(self, state: Any) -> None:
        # As the interpreter restores an object, but past a frozen model's `__setattr__`.
        parts: Any = state
        in_dict: Any = parts[0] if isinstance(state, tuple) else parts
        in_slots: Any = parts[1] if isinstance(state, tuple) else None
        if in_dict:
            vars(self).update(in_dict)
        for name, value in cast("dict[str, Any]", in_slots or {}).items():
            object.__setattr__(self, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_dict()
    kind: Any = value.__class__
    container: Any = value
    if kind in {list, tuple}:
        items: Any = map(_plain, container)
        return cast("Any", kind(items))
    if kind is dict:
        return {key: _plain(item) for key, item in container.items()}
    return value


M = TypeVar("M", bound=Model)


@overload
def create_model(
    name: str,
    fields: Mapping[str, Any],
    /,
    *,
    frozen: bool = False,
    required_methods: Iterable[str] = (),
    module: str | None = None,
    doc: str | None = None,
) -> type[Model]: ...
@overload
def create_model(
    name: str,
    fields: Mapping[str, Any],
    /,
    *,
    base: type[M],
    frozen: bool = False,
    required_methods: Iterable[str] = (),
    module: str | None = None,
    doc: str | None = None,
) -> type[M]: ...
def create_model(
    name: str,
    fields: Mapping[str, Any],
    /,
    *,
    base: type[Model] = Model,
    frozen: bool = False,
    required_methods: Iterable[str] = (),
    module: str | None = None,
    doc: str | None = None,
) -> type[Model]:
    """Make a `Model` of fields that are known only at run time.

    >>> from ferrule import create_model
    >>> Point = create_model("Point", {"x": int, "y": (int, 0)})
    >>> Point(x=1)
    Point(x=1, y=0)
    >>> Point(x="1")
    Traceback (most recent call last):
        ...
    ferrule._errors.FieldTypeError: Point.x must be int, not str: '1'

    Args:
        name: The class's name.
        fields: Name to type; to a type and a default; or to a `Field`.
        base: The model that it extends.
        frozen: As for `Model`.
        required_methods: As for `Model`.
        module: The module that the class says it is from, by which a pickle finds it; by default the caller's.
        doc: The class's docstring.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a name is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}: {name!r}")
    if not isinstance(base, ModelMeta):
        raise TypeError(f"base must be a Model, not {base!r}")
    for one in (name, *fields):
        if not isinstance(one, str) or not one.isidentifier() or keyword.iskeyword(one):
            raise ValueError(f"fields and models need names that Python can spell, got {one!r}")
    annotations: dict[str, Any] = {}
    namespace: dict[str, Any] = {"__module__": module or sys._getframe(1).f_globals.get("__name__", __name__)}  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if doc is not None:
        namespace["__doc__"] = doc
    for field, what in fields.items():
        pair: Any = what
        if isinstance(what, FieldInfo):
            namespace[field] = what
        elif isinstance(what, tuple):
            if len(pair) != 2:  # noqa: PLR2004
                raise TypeError(f"fields[{field!r}] must be a type, a type and a default, or a Field, got {pair!r}")
            namespace[field] = Field(type=pair[0], default=pair[1])
            annotations[field] = pair[0]
        else:
            namespace[field] = Field(type=what)
            annotations[field] = what
    namespace["__annotations__"] = annotations
    made: Any = ModelMeta(name, (base,), namespace, frozen=frozen, required_methods=required_methods)
    return cast("type[Model]", made)


# -- type hints at run time -------------------------------------------------------------------------------------------


class _Switch:
    on = os.environ.get("FERRULE_ENFORCE", "1").strip().lower() not in {"0", "false", "no", "off"}


def disable() -> None:
    """Have `enforce_types` give functions back untouched from now on.

    >>> from ferrule import validating
    >>> validating.disable()
    >>> @validating.enforce_types
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double("a")
    'aa'
    >>> validating.enable()

    For programs that want the checks while they are developed only. What has been decorated before stays decorated:
    call it first, or set `FERRULE_ENFORCE=0` in the environment, which does the same from the beginning.
    """
    _Switch.on = False


def enable() -> None:
    """Have `enforce_types` do its work again."""
    _Switch.on = True


@overload
def enforce_types(function: F, /, *, depth: Depth = "all") -> F: ...
@overload
def enforce_types(function: None = None, /, *, depth: Depth = "all") -> Callable[[F], F]: ...
def enforce_types(function: Any = None, /, *, depth: Depth = "all") -> Any:
    """Check a function's arguments and its result against its annotations, at every call.

    >>> from ferrule import enforce_types
    >>> @enforce_types
    ... def scale(xs: list[int], by: float = 1.0) -> list[float]:
    ...     return [x * by for x in xs]
    >>> scale([1, 2], by=0.5)
    [0.5, 1.0]
    >>> scale([1, "2"])
    Traceback (most recent call last):
        ...
    TypeError: scale(): xs[1] must be int, not str: '2'

    Nothing is copied and nothing converted. The annotations are made into native checks when decorating; what refers to
    a name that isn't there yet, at the first call. A coroutine function's result is what it returns, checked when it is
    awaited. A `bool` is no `int` and no `float` here (say `int | bool`), an `int` may stand for a `float`.

    Not checked, because a value doesn't show it: what iterators and generators give out, the parameters and results of
    callables, the type arguments of classes of your own, protocols that are not `runtime_checkable`, `Self`, defaults
    that the caller leaves out, and type variables beyond their bounds and constraints.

    Args:
        function: A function of any kind, or a static or class method.
        depth: How much of a container is looked at: `"all"` items, a `"sample"` of one item, another one each time, or
            nothing but the container itself, `"shallow"`.

    Returns:
        The function, checked; the very function that was given if there is nothing to check, or checks are off (see
        `disable`).

    Raises:
        TypeError: If it is no function, or an annotation is none. When called: an argument or the result is of another
            type; the message says which, and where in it.
        ValueError: If there is no such depth.
        NameError: At the first call, if an annotation refers to a name that isn't there.
    """
    if depth not in {"all", "sample", "shallow"}:
        raise ValueError(f"depth must be one of 'all', 'sample', 'shallow', got {depth!r}")
    if function is None:
        return functools.partial(_enforced, depth=depth)
    return _enforced(function, depth)


def _enforced(function: Any, depth: Depth) -> Any:
    if is_method_object(function):
        return type(function)(_enforced(function.__func__, depth))
    if isinstance(function, type) or not callable(function):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        hint = "; put @enforce_types below @property" if isinstance(function, property) else ""
        raise TypeError(f"enforce_types takes a function, not {kind}: {function!r}{hint}")
    if not _Switch.on:
        return function
    plan: Plan | None
    try:
        plan = _plan(function)
    except NameError:
        plan = _plan_of_local(function)
    if plan is not None and _is_empty(plan):
        return function
    planner = None if plan is not None else functools.partial(_plan, function)
    enforced = _core.EnforcedFunction(function, plan, planner, depth)
    if kind_of(function) == "coroutine function":
        return _core.Shell(function, _enforced_coroutine_function(function, plan, planner, depth))
    return enforced


def _plan_of_local(function: Any) -> Plan | None:
    """Make the plan of a function whose annotations mention names of those around it; `None` if it must wait."""
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return None
    frame = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    # The body of a class, and the function around it.
    scopes = [frame.f_locals, *([frame.f_back.f_locals] if frame.f_back is not None else [])]
    try:
        return _plan(function, *scopes)
    except NameError:
        return None


def _is_empty(plan: Plan) -> bool:
    parameters, _, rest, others, result = plan
    return rest is None and others is None and result is None and all(check is None for _, check, _ in parameters)


def _plan(function: Any, *scopes: Mapping[str, Any]) -> Plan:
    """Find out what is to be checked of a call."""
    import inspect

    unwrapped: Any = inspect.unwrap(function)
    while isinstance(unwrapped, functools.partial):
        unwrapped = inspect.unwrap(unwrapped.func)
    if not isinstance(unwrapped, FunctionType) and not hasattr(unwrapped, "__annotations__"):
        cls: Any = unwrapped.__class__
        unwrapped = getattr(cls, "__call__", unwrapped)  # noqa: B004
    notes = annotations_of(getattr(unwrapped, "__func__", unwrapped))
    type_parameters = {parameter.__name__: parameter for parameter in getattr(unwrapped, "__type_params__", ())}
    compiler = Compiler(closure_of(unwrapped), type_parameters, *scopes, getattr(unwrapped, "__globals__", {}))

    def named(name: str) -> _core.Check | None:
        if name not in notes:
            return None
        check = compiler.check(notes[name])
        return None if check.trivial else check

    parameters: list[tuple[str, _core.Check | None, bool]] = []
    positional = 0
    rest = others = None
    for parameter in _signature(function).parameters.values():
        name, kind = parameter.name, parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            check = named(name)
            rest = None if check is None else (name, check)
        elif kind is parameter.VAR_KEYWORD:
            keywords = unpacked_keywords(notes.get(name))
            if keywords is not None:
                hints = annotations_of(keywords)
                checks = {key: compiler.check(hint) for key, hint in hints.items()}
                parameters += [(key, None if check.trivial else check, True) for key, check in checks.items()]
            else:
                check = named(name)
                others = None if check is None else (name, check)
        else:
            parameters.append((name, named(name), kind is not parameter.POSITIONAL_ONLY))
            positional += kind is not parameter.KEYWORD_ONLY
    return parameters, positional, rest, others, named("return")


def _signature(function: Any) -> Signature:
    import inspect

    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _enforced_coroutine_function(
    function: Any, plan: Plan | None, planner: Callable[[], Plan] | None, depth: Depth
) -> Callable[..., Any]:
    # The call makes a coroutine, which is not the result.
    if plan is None:
        made = cast("Callable[[], Plan]", planner)
        called = _core.EnforcedFunction(function, None, lambda: (*made()[:4], None), depth)
    else:
        called = _core.EnforcedFunction(function, (*plan[:4], None), None, depth)
    verified = _core.EnforcedFunction(function, plan, planner, depth)._enforce_result  # noqa: SLF001 - made for this

    @functools.wraps(function)
    async def shell(*args: Any, **kwargs: Any) -> Any:
        return verified(await called(*args, **kwargs))

    return shell
