"""What the job looks for in a source: lines, marks left in comments, functions, slips, and what is called."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

AnyFunction: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

MARK = re.compile(r"\b(TODO|FIXME|XXX)\b")
BARE_EXCEPT = "bare except"
MUTABLE_DEFAULT = "mutable default"

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
STRINGS: tuple[type[ast.expr], ...] = (ast.Constant, ast.JoinedStr, *filter(None, [getattr(ast, "TemplateStr", None)]))
MUTABLE_TYPES = frozenset({"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"})


class Finding(NamedTuple):
    """Something worth a look: the line it is on, what kind of thing it is, and the words that go with it."""

    line: int
    kind: str
    text: str


class Function(NamedTuple):
    """One function or method, as it is kept."""

    line: int
    name: str
    """Qualified, as `__qualname__` would have it."""
    lines: int
    """From `def` to its last line."""
    depth: int
    """How many blocks (`if`, `for`, `with`, `try`, `match` and so on) are inside each other at its deepest point."""
    coroutine: bool
    public: bool
    """Neither its name nor that of a class around it starts with an underscore, and it is in no other function."""
    documented: bool


class Source(NamedTuple):
    """The text of one file and what its lines show before they are parsed."""

    text: str
    lines: int
    blank: int
    marks: list[Finding]


class Facts(NamedTuple):
    """All that is kept of one file."""

    lines: int
    blank: int
    classes: int
    functions: list[Function]
    findings: list[Finding]
    called: Counter[str]


def look_over(lines: Iterable[str]) -> Source:
    """Collect the lines of one file and note comment lines that hold a mark such as TODO."""
    kept: list[str] = []
    marks: list[Finding] = []
    blank = 0
    for number, line in enumerate(lines, 1):
        kept.append(line)
        words = line.strip()
        if not words:
            blank += 1
        elif words[0] == "#" and (mark := MARK.search(words)):
            marks.append(Finding(number, mark[1], words))
    return Source("".join(kept), len(kept), blank, marks)


def examine(
    source: Source,
    tree: ast.Module,
    *,
    function: Callable[[AnyFunction, str], Function],
    called: Callable[[ast.Call], str | None],
    branches: Callable[[type[ast.AST]], tuple[str, ...]],
) -> Facts:
    """Gather everything that is kept of one file.

    Args:
        source: The file's text and marks.
        tree: The same file, parsed.
        function: `function_of`, or the same with a wrapper around it; it is called for each function of the file.
        called: `called_name`, or the same with a wrapper around it; it is called for each call in the file.
        branches: `branches_of`, or the same with a wrapper around it; it is called for each node of the tree, and says
            the same of a hundred kinds of nodes again and again.

    Returns:
        The facts, with functions and findings in the order of their lines.
    """
    functions: list[Function] = []
    findings: list[Finding] = []
    names: Counter[str] = Counter()
    quoted: set[int] = set()
    classes = 0
    scopes: list[tuple[str, ast.AST]] = [("", tree)]
    while scopes:  # a list of what is still to be seen, not recursion: generated sources nest deeper than Python calls
        scope, node = scopes.pop()
        inside = Inside.of(node, branches)
        for definition in inside.definitions:
            name = scope + definition.name
            if isinstance(definition, ast.ClassDef):
                classes += 1
                scopes.append((f"{name}.", definition))
            else:
                functions.append(function(definition, name))
                findings.extend(mutable_defaults(definition, name))
                scopes.append((f"{name}.<locals>.", definition))
        names.update(named for call in inside.calls if (named := called(call)) is not None)
        where = scope.removesuffix(".").removesuffix(".<locals>")
        findings.extend(Finding(bare.lineno, BARE_EXCEPT, where) for bare in inside.handlers if bare.type is None)
        if source.marks:
            for string in inside.strings:
                quoted.update(range(string.lineno + 1, (string.end_lineno or string.lineno) + 1))
    findings.extend(real_marks(source, quoted))
    return Facts(source.lines, source.blank, classes, sorted(functions), sorted(findings), names)


class Inside(NamedTuple):
    """What is looked at in a module, a class or a function, without what is in the definitions inside of it."""

    definitions: list[AnyFunction | ast.ClassDef]
    calls: list[ast.Call]
    handlers: list[ast.ExceptHandler]
    strings: list[ast.expr]

    @classmethod
    def of(cls, node: ast.AST, branches: Callable[[type[ast.AST]], tuple[str, ...]]) -> Inside:
        """Gather it."""
        inside = cls([], [], [], [])
        pending = [node]
        while pending:
            for child in children(pending.pop(), branches):
                if isinstance(child, DEFINITIONS):
                    inside.definitions.append(child)
                    continue
                pending.append(child)
                if isinstance(child, ast.Call):
                    inside.calls.append(child)
                elif isinstance(child, STRINGS):
                    inside.strings.append(child)
                elif isinstance(child, ast.ExceptHandler):
                    inside.handlers.append(child)
        return inside


def function_of(node: AnyFunction, name: str) -> Function:
    """Say what is kept of one function: its size, how deep its blocks nest, and whether it has a docstring.

    Args:
        node: The definition.
        name: Its qualified name.
    """
    return Function(
        line=node.lineno,
        name=name,
        lines=(node.end_lineno or node.lineno) - node.lineno + 1,
        depth=deepest(node),
        coroutine=isinstance(node, ast.AsyncFunctionDef),
        public=not any(part.startswith(("_", "<")) for part in name.split(".")),
        documented=ast.get_docstring(node, clean=False) is not None,
    )


def called_name(call: ast.Call) -> str | None:
    """Return the name that is called, a method's with a dot before it; `None` for what has no name."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        return f".{function.attr}"
    return None


def deepest(node: AnyFunction) -> int:
    """Return how many blocks of a function are inside each other; functions and classes in it count for themselves."""
    result = 0
    pending: list[tuple[int, ast.stmt]] = [(1, statement) for statement in node.body if isinstance(statement, BLOCKS)]
    while pending:
        depth, block = pending.pop()
        result = max(result, depth)
        for inner in statements(block):
            if isinstance(inner, BLOCKS):
                # An `elif` is an `if` in the tree's `orelse`; on the page it stands under its `if`, no deeper.
                both = isinstance(block, ast.If) and isinstance(inner, ast.If)
                pending.append((depth if both and inner.col_offset == block.col_offset else depth + 1, inner))
    return result


def statements(block: ast.stmt) -> Iterator[ast.stmt]:
    """Yield the statements directly inside a block, those of its `else`, `except`, `finally` and `case` among them."""
    match block:
        case ast.Try() | ast.TryStar():
            yield from chain(block.body, *(handler.body for handler in block.handlers), block.orelse, block.finalbody)
        case ast.Match():
            yield from chain.from_iterable(case.body for case in block.cases)
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While():
            yield from chain(block.body, block.orelse)
        case ast.With() | ast.AsyncWith():
            yield from block.body
        case _:
            return


def mutable_defaults(node: AnyFunction, name: str) -> Iterator[Finding]:
    """Yield a finding for each default that all calls of a function share and can change."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = chain(
        zip(reversed(positional), reversed(arguments.defaults), strict=False),
        zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    )
    for argument, default in pairs:
        if isinstance(default, MUTABLE_DISPLAYS) or (
            isinstance(default, ast.Call) and (called_name(default) or "").removeprefix(".") in MUTABLE_TYPES
        ):
            yield Finding(default.lineno, MUTABLE_DEFAULT, f"{name}({argument.arg}={ast.unparse(default)})")


def real_marks(source: Source, quoted: set[int]) -> list[Finding]:
    """Return the marks that stand in comments, and leave out lines of a string that only look like one.

    Args:
        source: The file, with the lines that start with `#`.
        quoted: The lines inside or at the end of a string. A comment can stand there, too, between two strings that
            are joined, so such lines are looked up in the tokens: that is slow, and seldom needed.
    """
    if not any(mark.line in quoted for mark in source.marks):
        return source.marks
    comments: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
    except (SyntaxError, tokenize.TokenError):  # the parser took the file, so this is the tokenizer's own limit
        return [mark for mark in source.marks if mark.line not in quoted]
    return [mark for mark in source.marks if mark.line in comments]


LEAVES = frozenset({"attr", "conversion", "ctx", "id", "kind", "op", "ops", "type_comment", "type_ignores"})
"""Fields that lead to no statement, no call and no string."""


def branches_of(kind: type[ast.AST]) -> tuple[str, ...]:
    """Return the fields of a kind of node that nodes can be in, without those that only decorate it, such as `Load`."""
    return tuple(field for field in kind._fields if field not in LEAVES)


def children(node: ast.AST, branches: Callable[[type[ast.AST]], tuple[str, ...]]) -> list[ast.AST]:
    """Return the nodes directly under a node.

    Args:
        node: The node.
        branches: `branches_of`, or the same with a wrapper around it.
    """
    found: list[ast.AST] = []
    for field in branches(type(node)):
        value: ast.AST | list[object] | str | None = getattr(node, field, None)
        if isinstance(value, ast.AST):
            found.append(value)
        elif isinstance(value, list):
            found.extend([item for item in value if isinstance(item, ast.AST)])
    return found
