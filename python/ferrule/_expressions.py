"""What is done to an item, recorded, to be done later and natively."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from ferrule import _core
from ferrule.iterating import shown


class Expression:
    """Is what is done to an item, recorded, to be done later and natively; begin with `it`.

    >>> from ferrule import it
    >>> long = (it["latency"] > 0.5) & ~it["path"].method("startswith", "/health")
    >>> long({"latency": 0.7, "path": "/"})
    True
    >>> long
    ((it['latency'] > 0.5) & (~it['path'].method('startswith', '/health')))

    Arithmetic, comparisons, attributes (`it.name`), items (`it["k"]`), methods (`it.method("strip")`) and membership
    (`it.in_({1, 2})`) are recorded. `&` and `|` between truth values stop where the left side decides, as `and` and
    `or` do; `~` of a truth value is `not`. An expression can be called, pickled, printed, and used wherever a function
    is.
    """

    __slots__ = ("__program", "__tree")

    def __init__(self, tree: tuple[Any, ...]) -> None:
        self.__tree = tree
        self.__program = _core.Program(tree)

    def _ferrule_program(self) -> _core.Program:
        return self.__program

    def __call__(self, item: Any, /) -> Any:
        """Evaluate the expression for an item."""
        return self.__program(item)

    def __getattr__(self, name: str) -> Expression:
        if name.startswith(("__", "_Expression__")):
            raise AttributeError(name)
        return Expression(("attribute", self.__tree, name))

    def __getitem__(self, key: object) -> Expression:
        return Expression(("item", self.__tree, key))

    def method(self, name: str, /, *args: object) -> Expression:
        """Record the call of a method, as `operator.methodcaller` does."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        return Expression(("method", self.__tree, name, args))

    def in_(self, container: object, /) -> Expression:
        """Record the question whether it is in a container."""
        if not hasattr(type(container), "__contains__") and not hasattr(type(container), "__iter__"):
            raise TypeError(f"container must be a container, not {shown(container)}")
        return Expression(("in", self.__tree, container))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Expression, (self.__tree,))

    def __repr__(self) -> str:
        return _written(self.__tree)

    def __hash__(self) -> NoReturn:
        raise TypeError("an expression can't be hashed: == records a comparison; use it.in_(...) for membership")

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "an expression is neither true nor false yet: use & for and, | for or, ~ for not, in parentheses"
        )

    def __len__(self) -> NoReturn:
        raise TypeError('an expression has no length: use it.method("__len__")')

    def __iter__(self) -> NoReturn:
        raise TypeError("an expression can't be iterated: use it[0], it[1] and so on")

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError('an expression contains nothing yet: use it.method("__contains__", item), or it.in_(container)')

    def __binary(self, name: str, other: object) -> Expression:
        return Expression((name, self.__tree, _tree_of(other)))

    def __reflected(self, name: str, other: object) -> Expression:
        return Expression((name, _tree_of(other), self.__tree))

    def _ferrule_tree(self) -> tuple[Any, ...]:
        return self.__tree

    def __add__(self, other: object) -> Expression:
        return self.__binary("+", other)

    def __radd__(self, other: object) -> Expression:
        return self.__reflected("+", other)

    def __sub__(self, other: object) -> Expression:
        return self.__binary("-", other)

    def __rsub__(self, other: object) -> Expression:
        return self.__reflected("-", other)

    def __mul__(self, other: object) -> Expression:
        return self.__binary("*", other)

    def __rmul__(self, other: object) -> Expression:
        return self.__reflected("*", other)

    def __truediv__(self, other: object) -> Expression:
        return self.__binary("/", other)

    def __rtruediv__(self, other: object) -> Expression:
        return self.__reflected("/", other)

    def __floordiv__(self, other: object) -> Expression:
        return self.__binary("//", other)

    def __rfloordiv__(self, other: object) -> Expression:
        return self.__reflected("//", other)

    def __mod__(self, other: object) -> Expression:
        return self.__binary("%", other)

    def __rmod__(self, other: object) -> Expression:
        return self.__reflected("%", other)

    def __pow__(self, other: object) -> Expression:
        return self.__binary("**", other)

    def __rpow__(self, other: object) -> Expression:
        return self.__reflected("**", other)

    def __and__(self, other: object) -> Expression:
        return self.__binary("&", other)

    def __rand__(self, other: object) -> Expression:
        return self.__reflected("&", other)

    def __or__(self, other: object) -> Expression:
        return self.__binary("|", other)

    def __ror__(self, other: object) -> Expression:
        return self.__reflected("|", other)

    def __xor__(self, other: object) -> Expression:
        return self.__binary("^", other)

    def __rxor__(self, other: object) -> Expression:
        return self.__reflected("^", other)

    def __lshift__(self, other: object) -> Expression:
        return self.__binary("<<", other)

    def __rlshift__(self, other: object) -> Expression:
        return self.__reflected("<<", other)

    def __rshift__(self, other: object) -> Expression:
        return self.__binary(">>", other)

    def __rrshift__(self, other: object) -> Expression:
        return self.__reflected(">>", other)

    def __lt__(self, other: object) -> Expression:
        return self.__binary("<", other)

    def __le__(self, other: object) -> Expression:
        return self.__binary("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self.__binary(">", other)

    def __ge__(self, other: object) -> Expression:
        return self.__binary(">=", other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self.__binary("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self.__binary("!=", other)

    def __neg__(self) -> Expression:
        return Expression(("neg", self.__tree))

    def __pos__(self) -> Expression:
        return Expression(("pos", self.__tree))

    def __abs__(self) -> Expression:
        return Expression(("abs", self.__tree))

    def __invert__(self) -> Expression:
        return Expression(("not", self.__tree))


def _tree_of(value: object) -> tuple[Any, ...]:
    return value._ferrule_tree() if isinstance(value, Expression) else ("constant", value)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _written(tree: tuple[Any, ...]) -> str:  # noqa: PLR0911 - a table
    match tree:
        case ("it",):
            return "it"
        case ("constant", value):
            return repr(value)
        case ("attribute", of, name):
            return f"{_written(of)}.{name}"
        case ("item", of, key):
            return f"{_written(of)}[{key!r}]"
        case ("method", of, name, args):
            return f"{_written(of)}.method({', '.join(map(repr, (name, *args)))})"
        case ("in", of, container):
            return f"{_written(of)}.in_({container!r})"
        case ("abs", of):
            return f"abs({_written(of)})"
        case (("neg" | "pos" | "not") as name, of):
            return f"({ {'neg': '-', 'pos': '+', 'not': '~'}[name] }{_written(of)})"
        case (name, one, other):
            return f"({_written(one)} {name} {_written(other)})"
        case _:
            return repr(tree)


it: Final = Expression(("it",))
"""Stands for the item in an expression."""
