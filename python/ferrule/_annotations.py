"""Annotations, made into native checks: once, when decorating, or when the names in them are known."""

from __future__ import annotations

import builtins
import collections
import collections.abc
import contextlib
import sys
import types
import typing
from typing import TYPE_CHECKING, Any, cast

from ferrule import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Check = _core.Check

ANYTHING = Check.anything()


class _Forms:
    """What `typing` and, where it has been imported, `typing_extensions` have under some names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __contains__(self, form: Any) -> bool:
        # By identity: annotations need not be hashable.
        modules = (typing, collections.abc, sys.modules.get("typing_extensions"))
        return any(form is getattr(module, name, self) for module in modules for name in self._names)


# What it takes to be one of these can't be seen from a value, or is a matter of the function's whole signature.
_UNCHECKED = _Forms("Any", "Self", "Concatenate", "Unpack")
_NEVER = _Forms("NoReturn", "Never")
# What only qualifies the type inside.
_QUALIFIERS = _Forms("Annotated", "ClassVar", "Final", "Required", "NotRequired", "ReadOnly")
_UNIONS = (typing.Union, types.UnionType)
_GUARDS = _Forms("TypeGuard", "TypeIs")
_LITERALS = _Forms("Literal")
_LITERAL_STRINGS = _Forms("LiteralString")
_UNPACK = _Forms("Unpack")
_CALLABLES = _Forms("Callable")
_ITEMS_VIEW = _Forms("ItemsView")

# Containers of which the one argument is the type of the items, and whether the items are looked at also where the
# container is not built in: looking at the items of an iterator would use them up, and an iterable may be anything.
_ITEMS: dict[Any, bool] = {
    list: True,
    set: True,
    frozenset: True,
    collections.deque: True,
    collections.abc.Sequence: True,
    collections.abc.MutableSequence: True,
    collections.abc.Set: True,
    collections.abc.MutableSet: True,
    collections.abc.Collection: True,
    collections.abc.KeysView: True,
    collections.abc.ValuesView: True,
    collections.abc.Iterable: False,
    collections.abc.Container: False,
    collections.abc.Reversible: False,
}
_PAIRS: frozenset[Any] = frozenset(
    {
        dict,
        collections.defaultdict,
        collections.OrderedDict,
        collections.ChainMap,
        types.MappingProxyType,
        collections.abc.Mapping,
        collections.abc.MutableMapping,
    }
)


def rendered(annotation: Any) -> str:  # noqa: PLR0911 - a table
    """Return an annotation as people write it."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " | ".join(rendered(argument) for argument in arguments)
    if origin in _LITERALS:
        return " or ".join(map(repr, arguments))
    if isinstance(origin, type) and arguments and origin not in _CALLABLES:
        inner = ", ".join("..." if argument is Ellipsis else rendered(argument) for argument in arguments)
        return f"{origin.__name__}[{inner}]"
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    name = getattr(annotation, "__name__", None)
    if isinstance(name, str) and not arguments:
        return name
    return repr(annotation).replace("typing.", "").replace("collections.abc.", "")


def _is_protocol(annotation: Any) -> bool:
    return bool(getattr(annotation, "_is_protocol", False))


class Compiler:
    """Makes checks of annotations whose names mean what they mean in one place.

    Args:
        names: Where names are looked up, in turn.
    """

    def __init__(self, *names: Mapping[str, Any]) -> None:
        self._names = names
        self._aliases: dict[Any, _core.Check] = {}

    def check(self, annotation: Any) -> _core.Check:  # noqa: PLR0911 - a table
        """Make the check.

        Raises:
            NameError: A name is not known, yet.
            TypeError: It is no annotation.
        """
        if annotation is None:
            return Check.instance(type(None), "None")
        if isinstance(annotation, str):
            return self._forward(annotation)
        if isinstance(annotation, typing.ForwardRef):
            return self._forward(annotation.__forward_arg__, annotation)
        if annotation in _NEVER:
            return Check.nothing("anything but a value")
        if annotation in _LITERAL_STRINGS:
            return Check.instance(str, "str")
        if annotation in _UNCHECKED:
            return ANYTHING
        origin = typing.get_origin(annotation)
        if origin is None:
            return self._plain(annotation)
        return self._generic(annotation, origin, typing.get_args(annotation))

    def _forward(self, text: str, reference: Any = None) -> _core.Check:
        if text in self._aliases:
            return self._aliases[text]
        # A class of this very name may refer to itself.
        late = self._aliases[text] = Check.late(text)
        try:
            check = self.check(self.evaluated(text, reference))
        except BaseException:
            del self._aliases[text]
            raise
        late.settle(check)
        self._aliases[text] = check
        return check

    def evaluated(self, text: str, reference: Any = None) -> Any:
        """Return what an annotation in quotes means."""
        names = self._scope()
        module = getattr(reference, "__forward_module__", None)
        if module is not None:
            names = names.new_child(vars(sys.modules[module] if isinstance(module, str) else module))
        try:
            return eval(text, {"__builtins__": {}}, names)  # noqa: S307 - the program's own text
        except NameError:
            # Python 3.14 remembers the scope that an annotation stands in.
            if not hasattr(reference, "evaluate"):
                raise
            return reference.evaluate()
        except SyntaxError as error:
            raise TypeError(f"{text!r} is no annotation: {error.msg}") from None

    def _scope(self) -> collections.ChainMap[str, Any]:
        return collections.ChainMap(*cast("Any", (*self._names, vars(builtins))))

    def _plain(self, annotation: Any) -> _core.Check:  # noqa: PLR0911 - a table
        if isinstance(annotation, typing.TypeVar) or type(annotation).__name__ == "TypeVar":
            return self._type_variable(annotation)
        if hasattr(annotation, "__supertype__"):
            return self.check(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType":
            return self._alias(annotation)
        if isinstance(annotation, type):
            return self._class(annotation)
        if annotation in _CALLABLES:
            return Check.callable("callable")
        if type(annotation).__name__ in {"ParamSpec", "ParamSpecArgs", "ParamSpecKwargs", "TypeVarTuple"}:
            return ANYTHING
        if annotation in _QUALIFIERS:
            return ANYTHING
        raise TypeError(f"{annotation!r} is no annotation that can be checked: it is {type(annotation).__name__}")

    def _type_variable(self, variable: Any) -> _core.Check:
        if variable.__constraints__:
            members = [self.check(constraint) for constraint in variable.__constraints__]
            return Check.union(members, " or ".join(map(rendered, variable.__constraints__)))
        return ANYTHING if variable.__bound__ is None else self.check(variable.__bound__)

    def _alias(self, alias: Any) -> _core.Check:
        # `type X = ...`: its value is looked at now, and may well mention X.
        if alias not in self._aliases:
            late = self._aliases[alias] = Check.late(alias.__name__)
            try:
                check = self.check(alias.__value__)
                late.settle(check)
            except BaseException:
                del self._aliases[alias]
                raise
            self._aliases[alias] = check
        return self._aliases[alias]

    def _class(self, cls: type) -> _core.Check:
        if typing.is_typeddict(cls):
            return self._typed_dict(cls)
        if cls is tuple:
            return Check.instance(tuple, "tuple")
        if _is_protocol(cls) and not getattr(cls, "_is_runtime_protocol", False):
            # isinstance refuses to look at it.
            return ANYTHING
        if cls.__module__ == "typing" and cls.__name__ in {"IO", "TextIO", "BinaryIO", "Generic", "Protocol"}:
            # No file says that it is one of these.
            return ANYTHING
        return Check.instance(cls, rendered(cls))

    def _typed_dict(self, cls: Any) -> _core.Check:
        if cls in self._aliases:
            return self._aliases[cls]
        late = self._aliases[cls] = Check.late(cls.__name__)
        try:
            hints = typing.get_type_hints(cls, localns=dict(self._scope()), include_extras=True)
            keys = [(name, self.check(hint), name in cls.__required_keys__) for name, hint in hints.items()]
            check = Check.keys(keys, cls.__name__)
            late.settle(check)
        except BaseException:
            del self._aliases[cls]
            raise
        self._aliases[cls] = check
        return check

    def _generic(self, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> _core.Check:  # noqa: C901, PLR0911, PLR0912 - a table
        text = rendered(annotation)
        if origin in _QUALIFIERS:
            return self.check(arguments[0])
        if origin in _UNIONS:
            return Check.union([self.check(argument) for argument in arguments], text)
        if origin in _LITERALS:
            return Check.literal(list(arguments), text)
        if origin in _GUARDS:
            return Check.instance(bool, "bool")
        if origin in _UNPACK or origin in _UNCHECKED:
            return ANYTHING
        if origin is type:
            return self._subclass(arguments[0], text)
        if origin is tuple:
            return self._tuple(arguments, text)
        if origin in _CALLABLES:
            return Check.callable(text)
        if origin in _ITEMS and len(arguments) == 1:
            return Check.items(self._class(origin), self.check(arguments[0]), _ITEMS[origin], text)
        if origin in _PAIRS and len(arguments) == 2:  # noqa: PLR2004
            return Check.pairs(self._class(origin), self.check(arguments[0]), self.check(arguments[1]), text)
        if origin is collections.Counter:
            return Check.pairs(self._class(origin), self.check(arguments[0]), self.check(int), text)
        if origin in _ITEMS_VIEW and len(arguments) == 2:  # noqa: PLR2004
            pair = self._tuple(arguments, text)
            return Check.items(self._class(origin), pair, True, text)
        if type(origin).__name__ == "TypeAliasType":
            return self._generic_alias(annotation, origin, arguments)
        if isinstance(origin, type):
            # A generic class of anybody's: what its parameters are can't be seen.
            return self._class(origin)
        raise TypeError(f"{annotation!r} is no annotation that can be checked")

    def _generic_alias(self, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> _core.Check:
        if annotation in self._aliases:
            return self._aliases[annotation]
        late = self._aliases[annotation] = Check.late(rendered(annotation))
        try:
            value = origin.__value__
            parameters = getattr(value, "__parameters__", ())
            if parameters:
                given = dict(zip(origin.__type_params__, arguments, strict=False))
                value = value[tuple(given.get(parameter, Any) for parameter in parameters)]
            elif value in origin.__type_params__:
                value = arguments[origin.__type_params__.index(value)]
            late.settle(self.check(value))
        except BaseException:
            del self._aliases[annotation]
            raise
        return late

    def _subclass(self, argument: Any, text: str) -> _core.Check:
        if isinstance(argument, (str, typing.ForwardRef)):
            argument = self.evaluated(argument if isinstance(argument, str) else argument.__forward_arg__, argument)
        if isinstance(argument, typing.TypeVar):
            argument = typing.Union[argument.__constraints__] if argument.__constraints__ else argument.__bound__ or Any  # noqa: UP007 - of a tuple
        members = typing.get_args(argument) if typing.get_origin(argument) in _UNIONS else (argument,)
        classes = [typing.get_origin(member) or member for member in members]
        unknown = any(member in _UNCHECKED or member is object or _is_protocol(member) for member in classes)
        if unknown or not all(isinstance(member, type) for member in classes):
            return Check.instance(type, "a class")
        return Check.subclass(classes, text)

    def _tuple(self, arguments: tuple[Any, ...], text: str) -> _core.Check:
        if arguments == ((),):
            arguments = ()
        front: list[_core.Check] = []
        back: list[_core.Check] = []
        middle: _core.Check | None = None
        if len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004
            return Check.tuple([], self.check(arguments[0]), [], text)
        for argument in _flat(arguments):
            if _is_unpacked(argument):
                inside = typing.get_args(_unpacked(argument))
                # Of a TypeVarTuple it can't be known what it stands for.
                middle = self.check(inside[0]) if len(inside) == 2 and inside[1] is Ellipsis else ANYTHING  # noqa: PLR2004
            else:
                (front if middle is None else back).append(self.check(argument))
        return Check.tuple(front, middle, back, text)


def _is_unpacked(argument: Any) -> bool:
    return typing.get_origin(argument) in _UNPACK or bool(getattr(argument, "__unpacked__", False))


def _unpacked(argument: Any) -> Any:
    """Return the tuple inside `*tuple[...]` and `Unpack[tuple[...]]`; the argument itself if there is none."""
    if typing.get_origin(argument) in _UNPACK:
        return typing.get_args(argument)[0]
    return argument


def _flat(arguments: tuple[Any, ...]) -> list[Any]:
    """Put the items of unpacked tuples of known length in their place."""
    flat: list[Any] = []
    for argument in arguments:
        inside = typing.get_args(_unpacked(argument)) if _is_unpacked(argument) else ()
        if _is_unpacked(argument) and typing.get_origin(_unpacked(argument)) is tuple and Ellipsis not in inside:
            flat += _flat(inside)
        else:
            flat.append(argument)
    return flat


def unpacked_keywords(annotation: Any) -> Any:
    """Return the TypedDict of `**kwargs: Unpack[...]`; `None` if it is none."""
    if typing.get_origin(annotation) in _UNPACK:
        inside = typing.get_args(annotation)[0]
        return inside if typing.is_typeddict(inside) else None
    return None


def annotations_of(thing: Any) -> dict[str, Any]:
    """Return the annotations that a function or class has itself; where names are missing, what refers to them."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF))
    if isinstance(thing, type):
        # Its own, and not those of a base that it has none beside.
        return dict(vars(thing).get("__annotations__", {}))
    return dict(getattr(thing, "__annotations__", None) or {})


def closure_of(function: Any) -> dict[str, Any]:
    """Return the variables of the functions around a function that it uses itself."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    found: dict[str, Any] = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), cells or (), strict=False):
        # Not filled yet: the function is decorated before the variable is set.
        with contextlib.suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def class_compiler(owner: type) -> Compiler:
    """Make a compiler for the annotations in the body of a class."""
    module = sys.modules.get(owner.__module__)
    parameters = {parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())}
    # A field may be called like its type.
    body = {name: value for name, value in vars(owner).items() if not isinstance(value, _core.FieldInfo)}
    return Compiler({owner.__name__: owner}, parameters, body, vars(module) if module else {})


def field_check(owner: type, name: str) -> _core.Check | None:
    """Make the check of what the class says of the type of an attribute; `None` where it says nothing."""
    annotations = annotations_of(owner)
    return class_compiler(owner).check(annotations[name]) if name in annotations else None


def is_class_variable(annotation: Any, evaluate: Callable[[str], Any]) -> bool:
    """Tell whether an annotation says that the attribute belongs to the class."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        if "ClassVar" not in annotation:
            return False
        try:
            annotation = evaluate(annotation)
        except NameError:
            # What is in the brackets isn't known yet; what is before them is the word.
            return str(annotation).split("[", 1)[0].rsplit(".", 1)[-1] == "ClassVar"
    return bool(annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar)
