"""What griffe, which reads the sources for the documentation, has to be told about ours; mkdocs.yml names this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from griffe import Extension, Function, Parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from griffe import Class, Object

PROMPT = ">>> "


def fenced(lines: list[str]) -> Iterator[str]:
    """Yield the lines with a fence around each doctest: from a prompt to the next empty line."""
    indent: str | None = None
    for line in lines:
        if indent is None and line.lstrip().startswith(PROMPT):
            indent = line[: len(line) - len(line.lstrip())]
            yield f"{indent}```pycon"
        elif indent is not None and not line.strip():
            yield f"{indent}```"
            indent = None
        yield line
    if indent is not None:
        yield f"{indent}```"


class Ours(Extension):
    """Shows doctests as code, and the arguments of classes that are made by `__new__`."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Put a fence around doctests: Markdown takes their prompt for a quotation in a quotation in a quotation."""
        del kwargs
        if obj.docstring is not None and PROMPT in obj.docstring.value:
            obj.docstring.value = "\n".join(fenced(obj.docstring.value.split("\n")))

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Give a class that has `__new__` alone an `__init__` of the same arguments, where griffe looks for them."""
        del kwargs
        new = cls.members.get("__new__")
        if isinstance(new, Function) and "__init__" not in cls.members:
            given = Parameters(*new.parameters)
            given["cls"].name = "self"
            init = Function("__init__", parameters=given, lineno=new.lineno, endlineno=new.endlineno)
            cls.set_member(init.name, init)
